"""Linear systems known only by their products with vectors."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax


class _Lanczos(NamedTuple):
    step: Array
    x: Array
    old_v: Array
    v: Array
    beta: Array
    old_w: Array
    w: Array
    cosine: Array
    sine: Array
    bar: Array
    epsilon: Array
    residual: Array  # |b - A x|
    gradient: Array  # |A r| / |r|, r = b - A x one step before
    size: Array  # the largest entry of the tridiagonal matrix so far


def minres(matvec: Callable[[Array], Array], b: Array, tolerance: float, max_steps: int) -> tuple[Array, Array]:
    """`x` that makes `|b - A x|` smallest, A symmetric, definite or not, singular or not; one product a step.

    Where b lies in the range of A the answer is the shortest solution; where it does not, the second value, the relative
    residual, says so.

    Args:
        matvec: multiplies by A.
        b: (n,).
        tolerance: relative residual at which to stop.
        max_steps: largest number of products.

    Returns:
        x (n,) and `|b - A x| / |b|`.

    Source: Paige and Saunders (1975), SIAM J. Numer. Anal. 12.
    """
    norm = jnp.sqrt(jnp.sum(b * b))
    safe = jnp.where(norm > 0, norm, 1)
    zero, nothing = jnp.zeros_like(b), jnp.zeros_like(norm)

    def body(s: _Lanczos) -> _Lanczos:
        u = matvec(s.v) - s.beta * s.old_v
        alpha = jnp.sum(u * s.v)
        u = u - alpha * s.v
        beta = jnp.sqrt(jnp.sum(u * u))
        delta = s.cosine * s.bar + s.sine * alpha
        gamma_bar = s.sine * s.bar - s.cosine * alpha
        epsilon, bar = s.sine * beta, -s.cosine * beta
        size = jnp.maximum(s.size, jnp.maximum(jnp.abs(alpha), beta))
        gamma = jnp.maximum(jnp.sqrt(gamma_bar**2 + beta**2), jnp.finfo(b.dtype).eps * jnp.where(size > 0, size, 1))
        cosine, sine = gamma_bar / gamma, beta / gamma
        w = (s.v - s.epsilon * s.old_w - delta * s.w) / gamma
        gradient = jnp.sqrt(gamma_bar**2 + bar**2)
        # What is left lies outside of the range of A: a further step would go along directions that A does not see.
        last = gradient <= tolerance * size
        x = jnp.where(last, s.x, s.x + cosine * s.residual * w)
        residual = jnp.where(last, s.residual, sine * s.residual)
        v = u / jnp.where(beta > 0, beta, 1)
        return _Lanczos(s.step + 1, x, s.v, v, beta, s.w, w, cosine, sine, bar, epsilon, residual, gradient, size)

    def going(s: _Lanczos) -> Array:
        solved = (s.residual <= tolerance * norm) | ((s.step > 0) & (s.beta <= jnp.finfo(b.dtype).eps * s.size))
        smallest = (s.step > 0) & (s.gradient <= tolerance * s.size)
        return ~(solved | smallest) & (s.residual < jnp.inf) & (s.step < max_steps)  # a NaN ends it

    start = _Lanczos(
        jnp.array(0), zero, zero, b / safe, nothing, zero, zero, nothing - 1, nothing, nothing, nothing, norm, nothing, nothing
    )
    final = lax.while_loop(going, body, start)
    return final.x, final.residual / safe


def solve_symmetric(matvec: Callable[[Array], Array], b: Array, tolerance: float, max_steps: int) -> tuple[Array, Array]:
    """`A^+ b`, of all least-squares solutions the shortest, and the part of b outside of the range of A, relative to b."""
    first, outside = minres(matvec, b, tolerance, max_steps)

    def again() -> Array:
        return minres(matvec, matvec(first), tolerance, max_steps)[0]

    return lax.cond(outside > 100 * tolerance, again, lambda: first), outside

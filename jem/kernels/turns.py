"""Turns of pairs of axes: eigenvectors of one matrix, and common axes of several, in plain operations that batch.

A sweep turns each pair of the D axes once, D / 2 disjoint pairs at a time. Near the end a sweep squares what is left beside the
diagonals of one matrix, and started from matrices that are nearly diagonal it has little to do.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# From K matrices and their entries `t_ii, t_ij, t_jj` (K, P) at P pairs to the tangents of the turns (K or 1, P).
Choice = Callable[[Array, Array, Array, Array], Array]


def rounds(dim: int) -> np.ndarray:
    """The pairs of D axes in rounds of disjoint ones, (R, 2, P): the circle of a tournament."""
    size = dim + dim % 2
    ring, found = list(range(1, size)), []
    for _ in range(size - 1):
        order = [0, *ring]
        pairs = [sorted((order[p], order[size - 1 - p])) for p in range(size // 2)]
        found.append([pair for pair in pairs if pair[1] < dim])
        ring = ring[-1:] + ring[:-1]
    return np.swapaxes(np.array(found, int).reshape(len(found), -1, 2), 1, 2)


def tangent(beside: Array, apart: Array) -> Array:
    """Of the turn by at most 45 degrees that takes `beside` off a matrix whose diagonal entries are `apart`, `t_jj - t_ii`.

    It minimises `-beside sin(2 angle) - apart/2 cos(2 angle)` where apart >= 0.

    Source: Golub and Van Loan (2013), Matrix Computations, section 8.5.2.
    """
    size = jnp.abs(beside) + jnp.abs(apart)
    unit = jnp.where(size > 0, size, 1)  # squares are taken of what is near one
    b, d = 2 * beside / unit, apart / unit
    square = b * b + d * d
    root = jnp.sqrt(jnp.where(size > 0, square, 1))
    return jnp.where(d < 0, -b, b) / (jnp.abs(d) + root)


def after(t_ii: Array, t_ij: Array, t_jj: Array, tan: Array) -> tuple[Array, Array]:
    """Both diagonal entries after a turn."""
    square = tan * tan
    moved = 2 * tan * t_ij
    return (t_ii - moved + square * t_jj) / (1 + square), (t_jj + moved + square * t_ii) / (1 + square)


def sweep(t: Array, turned: Array, choose: Choice) -> tuple[Array, Array]:
    """One sweep over symmetric matrices t (K, D, D), whose axes so far are `turned` (K or 1, D, D), one for all or one each.

    Args:
        t: the matrices in coordinates of the axes.
        turned: axes in columns.
        choose: says the tangents of the turns, as many as there are axes, from the matrices and their entries at the pairs.

    Returns:
        t and the axes after it.
    """
    dim = t.shape[-1]
    if dim == 1:
        return t, turned
    table = jnp.asarray(rounds(dim))
    eye = jnp.eye(dim, dtype=t.dtype)[None]

    def turn(r: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        t, turned = carry
        i, j = lax.dynamic_index_in_dim(table, r, keepdims=False)
        tan = choose(t, t[:, i, i], t[:, i, j], t[:, j, j])
        cos = 1 / jnp.sqrt(1 + tan * tan)
        sin = tan * cos
        move = jnp.broadcast_to(eye, turned.shape)
        move = move.at[:, i, i].set(cos).at[:, j, j].set(cos).at[:, i, j].set(sin).at[:, j, i].set(-sin)
        t = jnp.swapaxes(move, -1, -2) @ t @ move
        return 0.5 * (t + jnp.swapaxes(t, -1, -2)), turned @ move

    return lax.fori_loop(0, len(table), turn, (t, turned))


def each(t: Array, t_ii: Array, t_ij: Array, t_jj: Array) -> Array:
    """Every matrix has axes of its own: its eigenvectors (Jacobi)."""
    return tangent(t_ij, t_jj - t_ii)


def pooled(weights: Array) -> Choice:
    """The axes of all are the eigenvectors of `sum_k weights_k t_k`."""
    total = lambda a: jnp.sum(weights[:, None] * a, 0, keepdims=True)  # noqa: E731
    return lambda t, t_ii, t_ij, t_jj: tangent(total(t_ij), total(t_jj - t_ii))


def common(weights: Callable[[Array], Array], growth: Callable[[Array], Array]) -> Choice:
    """The axes of all make `sum_k f_k(log prod_i t_kii)` small, f rising: those of matrices that share nothing but them.

    Tried for each pair are the turn that minimises the majoriser `sum_k v_k (t_kii / old t_kii + t_kjj / old t_kjj)`, those
    that make one of the matrices diagonal there, which leads away from a saddle, and none; the best for the objective is taken.

    Args:
        weights: `v (K,)`, the slopes f_k, from the diagonals (K, D).
        growth: of each term `v_k growth(log(t_kii t_kjj / old))`, a bound of how the objective changes.

    Source: Flury and Gautschi (1986), SIAM J. Sci. Stat. Comput. 7; Browne and McNicholas (2014), Adv. Data Anal. Classif. 8.
    """

    def choose(t: Array, t_ii: Array, t_ij: Array, t_jj: Array) -> Array:
        least = jnp.sqrt(jnp.finfo(t.dtype).tiny)
        v = weights(jnp.diagonal(t, axis1=1, axis2=2))[:, None]
        t_ii, t_jj = (jnp.where(v > 0, jnp.maximum(a, least), 1) for a in (t_ii, t_jj))
        q = v * (1 / t_ii - 1 / t_jj)
        total = lambda a: jnp.sum(a, 0, keepdims=True)  # noqa: E731
        best = tangent(total(q * t_ij), total(q * (t_jj - t_ii)))
        tried = jnp.concatenate([jnp.zeros_like(best), best, tangent(t_ij, t_jj - t_ii)])  # (2 + K, P)
        new_ii, new_jj = (jnp.maximum(a, least) for a in after(t_ii[None], t_ij[None], t_jj[None], tried[:, None]))
        value = jnp.sum(v[None] * growth(jnp.log(new_ii / t_ii[None]) + jnp.log(new_jj / t_jj[None])), 1)
        return jnp.take_along_axis(tried, jnp.argmin(value, 0)[None], 0)

    return choose

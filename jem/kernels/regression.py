"""Linear regression from expected moments, `y = coef x + chol e`, `e ~ N(0, I)`: the M-step of every linear-Gaussian part.

Moments are those of the residual at the old parameters in the coordinates of the old noise, `e = chol^{-1} (y - coef x)`:
they are of order one at any offset and scale of y. M outputs, q regressors; the noise is full, chol (M, M) lower triangular, or
diagonal, chol (M, 1). An output without noise (a zero on the diagonal) is an identity and stays as it is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem.kernels.covariance import Diagonal, Full
from jem.kernels.gaussian import LOG_2PI
from jem.kernels.linalg import cholesky_semidefinite, safe_sqrt, solve_lower, solve_psd

Noise = Full | Diagonal
Mask = Array | np.ndarray | None  # which may move, bool; None for all


class Moments(NamedTuple):
    """Weighted sums over units: of outputs together, r = 1, or of each where each is seen at its own units, r = M.

    Attributes:
        count: (r,) of weights.
        ee: of e e^T, (M, M) if the noise is full and its diagonal (M, 1) if diagonal.
        ex: (M, q) of e x^T.
        xx: (r, q, q) of x x^T.
    """

    count: Array
    ee: Array
    ex: Array
    xx: Array


def of_means(noise: Noise, e: Array, x: Array, weights: Array) -> Moments:
    """Moments of e (T, M, S) and x (T, q, S) themselves, with weights (T, r, S); e is zero where its weight is."""
    # Units side by side make one matrix product; as a contraction over both axes of units it takes thrice as long.
    flat = lambda a: jnp.moveaxis(a, 1, 0).reshape(a.shape[1], -1)  # noqa: E731
    num, count = e.shape[1], jnp.sum(weights, (0, 2))
    if weights.shape[1] == 1:
        both = flat(jnp.concatenate([e, x], 1))
        gram = (both * flat(weights)) @ both.T
        return Moments(count, noise.restrict(gram[:num, :num]), gram[:num, num:], gram[num:, num:][None])
    we = e * weights
    xx = jnp.einsum("tms,tabs->mab", weights, x[:, :, None] * x[:, None])
    return Moments(count, jnp.sum(we * e, (0, 2))[:, None], flat(we) @ flat(x).T, xx)


def diagonal_of(noise: Noise, chol: Array) -> Array:
    """The diagonal of the factor, (M,)."""
    return noise.diagonal(chol, chol.shape[0])


def matrix_of(noise: Noise, chol: Array) -> Array:
    """The factor as a matrix, (M, M)."""
    return chol if isinstance(noise, Full) else jnp.diag(chol[:, 0])


def invertible(noise: Noise, chol: Array) -> Array:
    """The factor with outputs that have no noise cut out and given noise of their own, of size one."""
    alive = diagonal_of(noise, chol) > 0
    if isinstance(noise, Diagonal):
        return jnp.where(alive[:, None], chol, 1)
    eye = jnp.eye(chol.shape[0], dtype=chol.dtype)
    return jnp.where(alive[:, None] & alive[None, :], chol, eye)


def maximize(
    noise: Noise, coef: Array, chol: Array, m: Moments, free: Mask, free_noise: Mask, floor: Array
) -> tuple[Array, Array]:
    """The coefficients and the noise factor that maximise the expected log-density.

    Without constraints, or with diagonal noise, the coefficients do not depend on the noise and this is the joint maximum.
    Constrained coefficients of outputs that share a full noise solve the generalised least-squares system of all free cells
    at the old noise, and the noise follows: two conditional maximisations.

    Args:
        noise: `Full()` or `Diagonal()`.
        coef: (M, q) old coefficients.
        chol: old noise factor.
        m: moments gathered at these.
        free: (M, q) bool, cells that may move; None for all.
        free_noise: (M,) bool, deviations that may move, if the noise is diagonal; None for all.
        floor: (M,) deviations (given the outputs before) stay at or above it.
    """
    if isinstance(noise, Full) and free is not None:
        change = noise.solve(invertible(noise, chol), solve_joint(chol, m, free))
    else:
        change = solve_rows(m, free)
    new = coef + noise.times(chol, change)
    scatter = rest(noise, m, change)
    count = m.count if isinstance(noise, Diagonal) else m.count[0]
    share = jnp.where(count > 0, count, 1)
    if isinstance(noise, Full):
        diagonal = jnp.diagonal(chol)
        least = jnp.where(diagonal > 0, floor / jnp.where(diagonal > 0, diagonal, 1), 0)
        return new, jnp.where(count > 0, chol @ cholesky_semidefinite(scatter / share, least), chol)
    deviation = jnp.maximum(chol * safe_sqrt(scatter / share[:, None]), floor[:, None])
    move = count > 0 if free_noise is None else (count > 0) & free_noise
    return new, jnp.where(move[:, None], deviation, chol)


def rest(noise: Noise, m: Moments, change: Array) -> Array:
    """Sum of `(e - change x)(e - change x)^T`, or its diagonal (M, 1)."""
    if isinstance(noise, Full):
        cross = change @ m.ex.T
        scatter = m.ee - cross - cross.T + change @ m.xx[0] @ change.T
        return 0.5 * (scatter + scatter.T)
    square = jnp.sum(change * jnp.sum(jnp.broadcast_to(m.xx, (len(change), *m.xx.shape[1:])) * change[:, None], -1), 1)
    return (m.ee[:, 0] - 2 * jnp.sum(change * m.ex, 1) + square)[:, None]


def solve_rows(m: Moments, free: Mask) -> Array:
    """The change of the coefficients in whitened coordinates, (M, q), each output by itself."""
    if free is None and len(m.xx) == 1:
        return solve_psd(m.xx[0], m.ex.T).T
    free = jnp.ones(m.ex.shape, bool) if free is None else jnp.asarray(free)

    def row(xx: Array, ex: Array, free: Array) -> Array:
        return solve_psd(jnp.where(free[:, None] & free[None, :], xx, 0), jnp.where(free, ex, 0)[:, None])[:, 0]

    return jax.vmap(row)(jnp.broadcast_to(m.xx, (len(m.ex), *m.xx.shape[1:])), m.ex, free)


def solve_joint(chol: Array, m: Moments, free: Array | np.ndarray) -> Array:
    """The change of the coefficients (M, q): generalised least squares over all free cells at once."""
    alive = jnp.diagonal(chol) > 0
    inverse = solve_lower(invertible(Full(), chol), jnp.eye(len(chol), dtype=chol.dtype))
    free = (free & alive[:, None]).reshape(-1)
    a = jnp.kron(inverse.T @ inverse, m.xx[0])
    b = (inverse.T @ m.ex).reshape(-1)
    a = jnp.where(free[:, None] & free[None, :], a, 0)
    return solve_psd(a, jnp.where(free, b, 0)[:, None]).reshape(m.ex.shape)


def expected_log_prob(
    noise: Noise, coef: Array, chol: Array, m: Moments, old_coef: Array, old_chol: Array
) -> Array:
    """`sum E[log N(y; coef x, chol chol^T)]` from moments gathered at the old parameters, over the outputs with noise."""
    alive, was = diagonal_of(noise, chol) > 0, diagonal_of(noise, old_chol) > 0
    safe = invertible(noise, chol)
    change = noise.solve(safe, coef - old_coef)
    if isinstance(noise, Full):
        turn = noise.solve(safe, old_chol)
        ee = jnp.diagonal(turn @ m.ee @ turn.T)
        ex = turn @ m.ex
    else:
        turn = old_chol / safe
        ee, ex = (turn**2 * m.ee)[:, 0], turn * m.ex
    xx = jnp.broadcast_to(m.xx, (len(coef), *m.xx.shape[1:]))
    square = ee - 2 * jnp.sum(change * ex, 1) + jnp.sum(change * jnp.sum(xx * change[:, None], -1), 1)
    each = -m.count * (jnp.log(diagonal_of(noise, safe)) + 0.5 * LOG_2PI) - 0.5 * square
    return jnp.sum(jnp.where(alive, each, jnp.where(was, -jnp.inf, 0)))


def hold(m: Moments, cells: slice | None) -> Moments:
    """Moments from which these coefficients come out unchanged, and the others as is best given them; None for all."""
    cells = slice(None) if cells is None else cells
    held = jnp.zeros(m.ex.shape[1], bool).at[cells].set(True)
    return m._replace(ex=jnp.where(held[None], 0, m.ex), xx=jnp.where(held[:, None] ^ held[None, :], 0, m.xx))

"""Linear-Gaussian observations with missing cells: whitened, no more of them than states, and their M-step's moments.

`y_t = C x_t + r_t`, `r_t ~ N(0, chol chol^T)`; of y_t (M,) some cells are seen. Rows of which all or none are seen share one
whitening. Of a row seen in part, the seen cells are whitened by themselves: with diagonal noise that is again one whitening,
with full noise it is the factor of the seen rows of chol, `chol_seen = L Q`, and given them the residual in the coordinates
of the whole noise is `e = Q^T L^{-1} r_seen + (I - Q^T Q) N(0, I)`. T steps, S sequences: arrays end in (T, S) or begin with T.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jem.kernels import regression
from jem.kernels.branch import anywhere
from jem.kernels.covariance import Diagonal
from jem.kernels.kalman import Gather
from jem.kernels.lanes import lower_factor, times, transpose
from jem.kernels.regression import Noise


class Emission(NamedTuple):
    """What observations are made with, and which are seen.

    Attributes:
        noise: the structure of the noise.
        loading: C, (M, n).
        chol: factor of the noise, (M, M) or (M, 1), its diagonal positive.
        seen: (T, M, S) bool.
        partial: bool, whether some row is seen in part.
    """

    noise: Noise
    loading: Array
    chol: Array
    seen: Array
    partial: Array


class Covered(NamedTuple):
    """Sums over time of what the states' covariances add to an emission's moments, lanes last.

    With diagonal noise xx is (M, n, n, S) and the others follow from it, and are empty; with full noise xx is (1, n, n, S),
    ex (M, n, S) and ee (M, M, S).
    """

    xx: Array
    ex: Array
    ee: Array


class Parts(NamedTuple):
    """Rows seen in part: chol_seen = L Q, lower triangular and with orthonormal rows or zeros, (M, M, T, S) each."""

    lower: Array
    turn: Array


def parts_of(e: Emission) -> Parts:
    """The factors of the seen rows of chol at every step."""
    seen = jnp.moveaxis(e.seen, 1, 0)
    return Parts(*lower_factor(jnp.where(seen[:, None], e.chol[:, :, None, None], 0), unroll=False))


def solve_seen(lower: Array, b: Array) -> Array:
    """`L^{-1} b` over lanes (M, q, T, S), zero in the rows where L is."""
    m = lower.shape[0]
    index = jnp.arange(m).reshape(m, 1, 1, 1)

    def step(j: Array, b: Array) -> Array:
        pivot = lower[j, j][None]
        row = jnp.where(pivot > 0, b[j] / jnp.where(pivot > 0, pivot, 1), 0)
        return jnp.where(index == j, row[None], b - jnp.where(index > j, lower[:, j][:, None], 0) * row[None])

    return lax.fori_loop(0, m, step, b)


def any_row(seen: Array) -> Array:
    """(T, S) bool: whether anything is seen."""
    return jnp.any(seen, 1)


def observe(e: Emission, r: Array) -> tuple[Array, Array]:
    """Whitened observations of the states, at most n of them a step.

    Args:
        e: the emission.
        r: (T, M, S) observations less what inputs explain, zero where unseen.

    Returns:
        H (T, k, n, S) and z (T, k, S) with k = min(M, n), `z = H x + N(0, I)`; what is left out knows nothing of x.
    """
    num_outputs, n = e.loading.shape

    def shorten(h: Array) -> tuple[Array, Array]:
        """From h (M, n, ...): H (k, n, ...), and the rows (k, M, ...) that make z."""
        if num_outputs <= n:
            eye = jnp.eye(num_outputs, dtype=h.dtype).reshape(num_outputs, num_outputs, *(1,) * (h.ndim - 2))
            return h, eye
        lower, rows = lower_factor(transpose(h), unroll=False)
        return transpose(lower), rows

    def whole() -> tuple[Array, Array]:
        h, rows = shorten(e.noise.solve(e.chol, e.loading)[:, :, None])
        row = any_row(e.seen)
        rows = rows[:, :, 0] @ e.noise.solve(e.chol, jnp.eye(num_outputs, dtype=h.dtype))
        z = jnp.einsum("km,tms->tks", rows, r)
        return jnp.where(row[:, None, None], h[None], 0), jnp.where(row[:, None], z, 0)

    def cells() -> tuple[Array, Array]:
        seen = jnp.moveaxis(e.seen, 1, 0)[:, None]
        y = jnp.where(seen, jnp.moveaxis(r, 1, 0)[:, None], 0)
        both = jnp.concatenate([jnp.where(seen, e.loading[:, :, None, None], 0), y], 1)
        if isinstance(e.noise, Diagonal):
            both = both / e.chol[:, :, None, None]
        else:
            both = solve_seen(parts_of(e).lower, both)
        h, rows = shorten(both[:, :n])
        z = both[:, n] if num_outputs <= n else times(rows, both[:, n:])[:, 0]
        return jnp.moveaxis(h, 2, 0), jnp.moveaxis(z, 1, 0)

    return lax.cond(anywhere(e.partial), cells, whole)


def residuals(e: Emission, r: Array) -> tuple[Array, Array]:
    """Whitened residuals and the noise's log-determinant.

    Args:
        e: the emission.
        r: (T, M, S) residuals, zero where unseen.

    Returns:
        (T, M, S) E[chol^{-1} r | seen], whose squares sum to the squared distance of what is seen, and (S,)
        `sum_t log|chol_seen|`.
    """
    diagonal = jnp.log(regression.diagonal_of(e.noise, e.chol))
    if isinstance(e.noise, Diagonal):
        return r / e.chol[None], jnp.sum(jnp.where(e.seen, diagonal[None, :, None], 0), (0, 1))

    def whole() -> tuple[Array, Array]:
        inverse = e.noise.solve(e.chol, jnp.eye(len(e.chol), dtype=r.dtype))
        row = any_row(e.seen)
        v = jnp.einsum("ij,tjs->tis", inverse, r)
        return jnp.where(row[:, None], v, 0), jnp.sum(row, 0) * jnp.sum(diagonal)

    def cells() -> tuple[Array, Array]:
        lower, turn = parts_of(e)
        v = times(transpose(turn), solve_seen(lower, jnp.moveaxis(r, 1, 0)[:, None]))[:, 0]
        pivots = jnp.moveaxis(jnp.diagonal(lower), -1, 0)
        return jnp.moveaxis(v, 1, 0), jnp.sum(jnp.where(pivots > 0, jnp.log(jnp.where(pivots > 0, pivots, 1)), 0), (0, 1))

    return lax.cond(anywhere(e.partial), cells, whole)


def gather(e: Emission) -> Gather:
    """How the states' covariances add to the moments."""
    lanes = e.seen.shape[-1]
    num_outputs, n = e.loading.shape
    diagonal = isinstance(e.noise, Diagonal)

    def wide(a: Array) -> Array:
        return jnp.broadcast_to(a, (*a.shape[:-1], lanes))

    def of_sum(total: Array) -> Covered:
        """From the sum (n, n, 1 or S) over the rows seen."""
        if diagonal:
            return Covered(jnp.broadcast_to(total[None], (num_outputs, n, n, lanes)), *nothing(total))
        b = e.noise.solve(e.chol, e.loading)[:, :, None]
        bp = times(b, total)
        return Covered(wide(total)[None], wide(-bp), wide(times(bp, transpose(b))))

    def each(p: Array) -> Covered:
        # One lane of covariances stands for all where all see the same.
        seen = e.seen[..., : p.shape[-1]]
        if diagonal:
            xx = jnp.einsum("tms,tijs->mijs", seen.astype(p.dtype), p)
            return Covered(wide(xx), *nothing(p))
        row = any_row(seen)
        return lax.cond(
            anywhere(e.partial),
            lambda: cells(p, e._replace(seen=seen), row),
            lambda: of_sum(jnp.einsum("ts,tijs->ijs", row.astype(p.dtype), p)),
        )

    def cells(p: Array, e: Emission, row: Array) -> Covered:
        lower, turn = parts_of(e)
        seen = jnp.moveaxis(e.seen, 1, 0)[:, None]
        b = solve_seen(lower, jnp.where(seen, e.loading[:, :, None, None], 0))
        b = times(transpose(turn), b)
        p = jnp.where(row[None, None], jnp.moveaxis(p, 0, 2), 0)
        bp = times(b, p)
        known = times(transpose(turn), turn)
        eye = jnp.eye(num_outputs, dtype=p.dtype)[:, :, None, None]
        ee = times(bp, transpose(b)) + jnp.where(row[None, None], eye - known, 0)
        return Covered(wide(jnp.sum(p, 2))[None], wide(-jnp.sum(bp, 2)), wide(jnp.sum(ee, 2)))

    def nothing(like: Array) -> tuple[Array, Array]:
        none = jnp.zeros((0, 0, lanes), like.dtype)
        return none, none

    return Gather(each, of_sum)


def moments(e: Emission, residual: Array, x: Array, covered: Covered, weights: Array) -> regression.Moments:
    """The M-step's moments.

    Args:
        e: the emission.
        residual: (T, M, S) from `residuals`.
        x: (T, q, S) means of the regressors, the n states first; zero beyond a sequence's end.
        covered: what `gather` made.
        weights: (S,) of the sequences.
    """
    num_outputs, n = e.loading.shape
    extra = x.shape[1] - n
    row = jnp.where(any_row(e.seen), weights[None], 0)[:, None]
    xx = jnp.pad(covered.xx @ weights, ((0, 0), (0, extra), (0, extra)))
    if not isinstance(e.noise, Diagonal):
        m = regression.of_means(e.noise, residual, x, row)
        ex = jnp.pad(covered.ex @ weights, ((0, 0), (0, extra)))
        return regression.Moments(m.count, m.ee + covered.ee @ weights, m.ex + ex, m.xx + xx)

    def whole() -> regression.Moments:
        m = regression.of_means(e.noise, residual, x, row)
        return m._replace(
            count=jnp.broadcast_to(m.count, (num_outputs,)), xx=jnp.broadcast_to(m.xx, (num_outputs, *m.xx.shape[1:]))
        )

    def cells() -> regression.Moments:
        return regression.of_means(e.noise, residual, x, jnp.where(e.seen, weights[None, None], 0))

    m = lax.cond(anywhere(e.partial), cells, whole)
    b = e.loading / e.chol
    bp = jnp.einsum("mi,mij->mj", b, xx[:, :n, :n])
    ee = jnp.sum(bp * b, 1)[:, None]
    return regression.Moments(m.count, m.ee + ee, m.ex - jnp.pad(bp, ((0, 0), (0, extra))), m.xx + xx)

"""Small triangular factorisations in plain operations: no LAPACK, so they batch under vmap and cannot deadlock."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.backend import precise

_UNROLL = 4  # below: straight-line code
_BLOCK = 16  # above: blocks of columns, with matrix products between them


def safe_sqrt(a: Array) -> Array:
    """`sqrt max(a, 0)`, with derivative zero where that is 0: a column without variance has no say in a gradient."""
    return jnp.where(a <= 0, 0, jnp.sqrt(jnp.where(a <= 0, 1, a)))


def diagonal(a: Array) -> Array:
    """The diagonal (..., n) of matrices (..., n, n), as a slice: a smaller program than `jnp.diagonal`."""
    n = a.shape[-1]
    return lax.slice_in_dim(a.reshape(*a.shape[:-2], n * n), 0, n * n, n + 1, axis=-1)


def _eliminate_column(j: int | Array, a: Array, b: Array, floor: Array) -> tuple[Array, Array]:
    """One step of Cholesky elimination on the augmented matrix [a | b], pivot j."""
    rows = jnp.arange(a.shape[0])
    row_a, row_b = _row(a, j), _row(b, j)
    pivot = jnp.maximum(jnp.sqrt(jnp.maximum(_row(row_a, j), 0)), _row(floor, j))
    row_a, row_b = row_a / pivot, row_b / pivot
    below = jnp.where(rows > j, row_a, 0)
    a = jnp.where((rows == j)[:, None], row_a[None, :], a - below[:, None] * row_a[None, :])
    b = jnp.where((rows == j)[:, None], row_b[None, :], b - below[:, None] * row_b[None, :])
    return a, b


def _row(a: Array, j: int | Array) -> Array:
    """`a[j]`, j not negative."""
    return lax.dynamic_index_in_dim(a, j, keepdims=False, allow_negative_indices=False) if isinstance(j, jax.Array) else a[j]


def _eliminate_block(a: Array, b: Array, floor: Array) -> tuple[Array, Array]:
    n = a.shape[0]
    return _each(n, lambda j, ab: _eliminate_column(j, ab[0], ab[1], floor), (a, b))


@precise
def cholesky_solve_lower(a: Array, b: Array, floor: Array) -> Array:
    """`C^{-1} b` where `a = C C^T`, C lower triangular, its diagonal kept at or above `floor`.

    Elimination with the right-hand side alongside, in blocks of columns. A pivot that is negative by rounding, or smaller
    than its floor, is replaced by the floor: the result is finite for any symmetric finite `a` and positive floor.

    Args:
        a: (D, D) symmetric.
        b: (D, M).
        floor: (D,) lower bounds of the diagonal of C, >= 0.

    Returns:
        (D, M) array. A NaN in `a` gives NaN.
    """
    n = a.shape[0]
    solved = []
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        m = stop - start
        right = jnp.concatenate([a[:m, m:], b[:m]], axis=1) if stop < n else b
        _, right = _eliminate_block(a[:m, :m], right, floor[start:stop])
        if stop < n:
            panel, done = right[:, : n - stop], right[:, n - stop :]
            a = a[m:, m:] - panel.T @ panel
            b = b[m:] - panel.T @ done
            solved.append(done)
        else:
            solved.append(right)
    return jnp.concatenate(solved, axis=0) if len(solved) > 1 else solved[0]


class Solved(NamedTuple):
    """What Gauss-Jordan elimination of `a x = b` finds.

    Attributes:
        x: (n,) the solution.
        pivots: (n,) what is left of the diagonal as each row has its turn: positive where `a` is positive definite.
        forward: (n,) what is left of `b` then; `sum forward^2 / pivots` is `b^T a^{-1} b`.
    """

    x: Array
    pivots: Array
    forward: Array


def solve_symmetric(a: Array, b: Array, floor: Array) -> Solved:
    """Solves `a x = b` for a symmetric a (n, n), row by row in their order; a pivot below `floor` counts as `floor` > 0.

    Source: Golub and Van Loan (2013), Matrix Computations, section 3.2.
    """
    n = b.shape[0]
    rows = jnp.arange(n)

    def step(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix, seen = state
        row, here = _row(matrix, j), (rows == j)[:, None]
        unit = (row / jnp.maximum(_row(row, j), floor))[None]
        column = lax.dynamic_slice_in_dim(matrix, j, 1, 1)
        return jnp.where(here, unit, matrix - column * unit), jnp.where(here, jnp.stack([_row(row, j), row[n]])[None], seen)

    matrix, seen = lax.fori_loop(0, n, step, (jnp.concatenate([a, b[:, None]], 1), jnp.zeros((n, 2), b.dtype)))
    return Solved(matrix[:, n], seen[:, 0], seen[:, 1])


def cholesky(a: Array) -> Array:
    """Lower triangular C with `C C^T = a`, in plain operations: `vmap` of it makes no batched LAPACK call.

    Args:
        a: (..., D, D) symmetric positive definite, D small; what lies above the diagonal is not looked at.

    Returns:
        (..., D, D); all NaN where a matrix is not positive definite.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.author.cholesky(jnp.array([[4.0, 2.0], [2.0, 5.0]])).tolist()
        [[2.0, 0.0], [1.0, 2.0]]

    Source: Golub and Van Loan (2013), Matrix Computations, algorithm 4.2.2.
    """
    return jax.vmap(cholesky)(a) if a.ndim > 2 else _cholesky(jnp.tril(a) + jnp.tril(a, -1).T)


@jax.custom_jvp
def _cholesky(a: Array) -> Array:
    c = jnp.tril(cholesky_solve_lower(a, a, jnp.zeros(a.shape[0], a.dtype)).T)
    return jnp.where(jnp.all(jnp.isfinite(c)), c, jnp.nan)


@_cholesky.defjvp
@precise
def _cholesky_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    c = _cholesky(*primals)
    inverse = inverse_lower(c)
    change = inverse @ tangents[0] @ inverse.T
    return c, c @ (jnp.tril(change) - 0.5 * jnp.diag(jnp.diagonal(change)))


def cholesky_semidefinite(a: Array, floor: Array) -> Array:
    """C lower triangular with `C C^T = a` (n, n), its diagonal kept at or above `floor` (n,); a may be singular."""
    dim = a.shape[0]
    rows = jnp.arange(dim)
    resolution = 4 * dim * jnp.finfo(a.dtype).eps * jnp.diagonal(a)

    def column(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        a, c = carry
        square = a[j, j]
        alive = square > resolution[j]
        pivot = jnp.where(alive, jnp.sqrt(jnp.where(alive, square, 1)), 0)
        pivot = jnp.maximum(pivot, floor[j])
        new = jnp.where(alive & (rows > j), a[:, j] / jnp.where(alive, pivot, 1), 0)
        new = jnp.where(rows == j, pivot, new)
        return a - new[:, None] * new[None, :], c.at[:, j].set(new)

    return lax.fori_loop(0, dim, column, (a, jnp.zeros_like(a)))[1]


def semidefinite_root(s: Array) -> Array:
    """R (n, n) with `R^T R = S` for a covariance S that may be singular, or be so to rounding; R is not triangular.

    Cholesky elimination of the largest variance that is left, until none is left above rounding: no entry grows.
    """
    smallest = 4 * jnp.finfo(s.dtype).eps * jnp.max(jnp.diagonal(s))

    def step(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        a, root, left = carry
        variances = jnp.where(left, jnp.diagonal(a), 0)
        j = jnp.argmax(variances)
        ok = variances[j] > smallest
        row = jnp.where(left & ok, a[j] / jnp.sqrt(jnp.where(ok, variances[j], 1)), 0)
        root = lax.dynamic_update_index_in_dim(root, row, i, 0)
        return a - row[:, None] * row[None, :], root, left & (jnp.arange(left.shape[0]) != j)

    start = (s, jnp.zeros_like(s), jnp.ones(s.shape[0], bool))
    return lax.fori_loop(0, s.shape[0], step, start)[1]


def solve_psd(a: Array, b: Array) -> Array:
    """`a^{-1} b` for a (n, n) positive semi-definite; what a leaves open stays near zero, so that a step never overshoots."""
    if len(a) == 0:
        return b
    size = safe_sqrt(jnp.diagonal(a))
    scale = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
    dim = a.shape[0]
    eye = jnp.eye(dim, dtype=a.dtype)
    unit = a * scale[:, None] * scale[None, :] + jnp.diag(jnp.where(size > 0, 0, 1).astype(a.dtype))
    floor = jnp.full(dim, (8 * dim * jnp.finfo(a.dtype).eps) ** 0.5, a.dtype)
    inverse = cholesky_solve_lower(unit, eye, floor)
    return scale[:, None] * (inverse.T @ (inverse @ (scale[:, None] * b)))


@jax.custom_jvp
def inverse_lower(lower: Array) -> Array:
    """`L^{-1}` for a lower triangular L (D, D); differentiated it takes matrix products only."""
    return solve_lower(lower, jnp.eye(lower.shape[0], dtype=lower.dtype))


@inverse_lower.defjvp
@precise
def _inverse_lower_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inverse = inverse_lower(*primals)
    return inverse, -inverse @ jnp.tril(tangents[0]) @ inverse


def solve_lower(lower: Array, b: Array) -> Array:
    """`L^{-1} b` for a lower triangular L, by forward substitution in plain operations.

    Args:
        lower: (D, D), D small; what lies above the diagonal is not looked at.
        b: (D,) or (D, M).

    Returns:
        (D,) or (D, M), as b.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.author.solve_lower(jnp.array([[2.0, 0.0], [1.0, 2.0]]), jnp.array([4.0, 6.0])).tolist()
        [2.0, 2.0]

    Source: Golub and Van Loan (2013), Matrix Computations, algorithm 3.1.3.
    """
    if b.ndim == 1:
        return solve_lower(lower, b[:, None])[:, 0]
    rows = jnp.arange(lower.shape[0])

    def step(j: int | Array, b: Array) -> Array:
        column = _row(transposed, j)
        row = _row(b, j) / _row(column, j)
        below = jnp.where(rows > j, column, 0)
        return jnp.where((rows == j)[:, None], row[None, :], b - below[:, None] * row[None, :])

    transposed = lower.T
    return _each(lower.shape[0], step, b)


def _each(n: int, step: Callable[[Any, Any], Any], carry: Any) -> Any:
    """`step(j, carry)` for j = 0 .. n - 1, as straight-line code where that is short."""
    if n > _UNROLL:
        return lax.fori_loop(0, n, step, carry)
    for j in range(n):
        carry = step(j, carry)
    return carry

"""Small triangular factorisations in plain operations: no LAPACK, so they batch under vmap and cannot deadlock."""

import jax.numpy as jnp
from jax import Array, lax

_UNROLL = 4  # below: straight-line code
_BLOCK = 16  # above: blocks of columns, with matrix products between them


def _eliminate_column(j: int | Array, a: Array, b: Array, floor: Array) -> tuple[Array, Array]:
    """One step of Cholesky elimination on the augmented matrix [a | b], pivot j."""
    rows = jnp.arange(a.shape[0])
    pivot = jnp.maximum(jnp.sqrt(jnp.maximum(a[j, j], 0)), floor[j])
    row_a, row_b = a[j] / pivot, b[j] / pivot
    below = jnp.where(rows > j, row_a, 0)
    a = jnp.where((rows == j)[:, None], row_a[None, :], a - below[:, None] * row_a[None, :])
    b = jnp.where((rows == j)[:, None], row_b[None, :], b - below[:, None] * row_b[None, :])
    return a, b


def _eliminate_block(a: Array, b: Array, floor: Array) -> tuple[Array, Array]:
    n = a.shape[0]
    if n <= _UNROLL:
        for j in range(n):
            a, b = _eliminate_column(j, a, b, floor)
        return a, b
    return lax.fori_loop(0, n, lambda j, ab: _eliminate_column(j, ab[0], ab[1], floor), (a, b))


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


def solve_lower(lower: Array, b: Array) -> Array:
    """`L^{-1} b` for a lower triangular L (D, D) and b (D, M), by forward substitution."""
    rows = jnp.arange(lower.shape[0])

    def step(j: Array, b: Array) -> Array:
        row = b[j] / lower[j, j]
        column = jnp.where(rows > j, lower[:, j], 0)
        return jnp.where((rows == j)[:, None], row[None, :], b - column[:, None] * row[None, :])

    return lax.fori_loop(0, lower.shape[0], step, b)

"""Small matrices over many lanes: products, orthogonal factors and linear recursions, in plain operations.

Matrices lead and lanes come last, (n, n, S), so that every operation runs over contiguous lanes; no LAPACK, so nothing
can deadlock. Lanes may have any number of axes. Up to eight rows loops are unrolled: XLA compiles a scan over such a body, for
one lane, into one native loop.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

T = TypeVar("T")
_UNROLL = 8


def transpose(a: Array) -> Array:
    """Of the matrices in the two leading axes."""
    return jnp.swapaxes(a, 0, 1)


def times(a: Array, b: Array) -> Array:
    """Matrix products over lanes: (i, j, ...) by (j, k, ...)."""
    if a.shape[1] > _UNROLL:
        return jnp.einsum("ij...,jk...->ik...", a, b)
    return sum((a[:, j, None] * b[None, j] for j in range(1, a.shape[1])), start=a[:, 0, None] * b[None, 0])


def apply(a: Array, x: Array) -> Array:
    """Matrices (i, j, ...) by vectors (j, ...)."""
    return times(a, x[:, None])[:, 0]


def eye_like(a: Array, dim: int) -> Array:
    """Identities (dim, dim, ...) with the lanes of a."""
    eye = jnp.eye(dim, dtype=a.dtype).reshape(dim, dim, *(1,) * (a.ndim - 2))
    return jnp.broadcast_to(eye, (dim, dim, *a.shape[2:]))


def lower_factor(x: Array, unroll: bool = True) -> tuple[Array, Array]:
    """`x = L Q` with L (n, n, ...) lower triangular and Q (n, r, ...) with orthonormal rows, for x (n, r, ...).

    A row that depends on those before it has a zero on the diagonal of L and a row of zeros in Q.
    """
    return orthogonalise(x, 8 * float(jnp.finfo(x.dtype).eps), unroll)


def shrink_factor(x: Array, unroll: bool = True) -> tuple[Array, Array, Array]:
    """For x (k, n, ...): U (n, n, ...) upper triangular with `U U^T = (I + x^T x)^{-1}`, `x U`, and `log|U^{-1}|`.

    The rows of `[I, x^T] = U^{-T} [U^T, (x U)^T]` are made orthonormal: nothing is inverted, and no row is shorter than one.
    """
    n = x.shape[1]
    lower, q = orthogonalise(jnp.concatenate([eye_like(x, n), transpose(x)], 1), 0.0, unroll)
    pivots = jnp.stack([lower[j, j] for j in range(n)])
    return transpose(q[:, :n]), transpose(q[:, n:]), jnp.sum(jnp.log(pivots), 0)


def orthogonalise(x: Array, tolerance: float, unroll: bool) -> tuple[Array, Array]:
    """`x = L Q` by Gram-Schmidt; a row of which less than `tolerance` is new counts as dependent on those before it.

    Every row is projected twice, which keeps Q orthonormal to rounding. Unrolled code suits the body of a scan, a loop
    over rows whatever is compiled for all steps at once.

    Source: Giraud, Langou and Rozloznik (2005), Numer. Math. 101, "twice is enough".
    """
    n = x.shape[0]

    def new_row(q: Array, v: Array) -> tuple[Array, Array, Array]:
        size = jnp.sum(v * v, 0)
        first = jnp.sum(q * v[None], 1)
        v = v - jnp.sum(q * first[:, None], 0)
        second = jnp.sum(q * v[None], 1)
        v = v - jnp.sum(q * second[:, None], 0)
        square = jnp.sum(v * v, 0)
        independent = square > tolerance**2 * size
        norm = jnp.where(independent, jnp.sqrt(jnp.where(independent, square, 1)), 0)
        return first + second, norm, v * jnp.where(independent, 1 / jnp.where(independent, norm, 1), 0)[None]

    if n > _UNROLL or not unroll:

        def body(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            lower, q = carry
            row, norm, new = new_row(q, lax.dynamic_index_in_dim(x, j, 0, keepdims=False))
            at_j = (jnp.arange(n) == j).reshape(n, *(1,) * (row.ndim - 1))
            return lower.at[j].set(jnp.where(at_j, norm[None], row)), q.at[j].set(new)

        return lax.fori_loop(0, n, body, (jnp.zeros_like(x, shape=(n, n, *x.shape[2:])), jnp.zeros_like(x)))
    lower, q = [], x[:0]
    for j in range(n):
        row, norm, new = new_row(q, x[j])
        zeros = jnp.zeros_like(norm, shape=(n - 1 - j, *norm.shape))
        lower.append(jnp.concatenate([row, norm[None], zeros]))
        q = jnp.concatenate([q, new[None]])
    return jnp.stack(lower), q


def apply_all(a: Array, x: Array) -> Array:
    """Matrices (T, i, j, S), or (i, j, S) for all steps, by vectors (T, j, S)."""
    if a.ndim == 3:
        a = a[None]
    if a.shape[2] > _UNROLL:
        return jnp.einsum("tij...,tj...->ti...", jnp.broadcast_to(a, (x.shape[0], *a.shape[1:])), x)
    return sum((a[:, :, j] * x[:, None, j] for j in range(1, a.shape[2])), start=a[:, :, 0] * x[:, None, 0])


def recur(a: Array, b: Array, go: Array | None, reverse: bool = False) -> Array:
    """All `y_t = a_t y_{t-1} + b_t` (T, n, S), from zero.

    Args:
        a: (T, n, n, 1 or S), or (n, n, 1 or S) for all steps.
        b: (T, n, S).
        go: (T, S) bool, False where y_{t-1} is dropped; None where it never is.
        reverse: run from the last step to the first.
    """

    def move(y: Array, inputs: tuple[Array | None, Array, Array | None]) -> tuple[Array, Array]:
        a_t, b_t, go_t = inputs
        y = apply(a if a_t is None else a_t, y)
        y = b_t + (y if go_t is None else jnp.where(go_t[None], y, 0))
        return y, y

    return lax.scan(move, jnp.zeros_like(b[0]), (None if a.ndim == 3 else a, b, go), reverse=reverse)[1]


def recur_associative(a: Array, b: Array, go: Array | None, reverse: bool = False) -> Array:
    """`recur` in about log2(T) rounds; a is (T, n, n, 1 or S)."""

    def join(one: tuple[Array, Array], two: tuple[Array, Array]) -> tuple[Array, Array]:
        return times(two[0], one[0]), times(two[0], one[1]) + two[1]

    a = a if go is None else jnp.where(go[:, None, None], a, 0)
    a, b = jnp.moveaxis(a, 0, 2), jnp.moveaxis(b[:, :, None], 0, 2)
    unit = eye_like(a[:, :, :1], a.shape[0]), jnp.zeros_like(b[:, :, :1])
    return jnp.moveaxis(scan_associative(join, unit, (a, b), reverse)[1][:, 0], 1, 0)


def scan_associative(combine: Callable[[T, T], T], unit: T, x: T, reverse: bool = False) -> T:
    """All products `x_1 x_2 .. x_t` of an associative operation over the third axis, in ceil(log2 T) rounds.

    Every round does all T of them (Kogge and Stone, 1973), twice to seven times the work of `lax.associative_scan`: but
    `combine` is compiled once, where that takes minutes for the Kalman filter's.

    Args:
        combine: of an earlier and a later stretch.
        unit: its neutral element, with an axis of length one.
        x: tree of arrays (n, m, T, ...).
        reverse: products from the last element to the first.
    """
    if reverse:
        x = jax.tree.map(lambda a: jnp.flip(a, 2), x)
    length = jax.tree.leaves(x)[0].shape[2]
    before = jax.tree.map(lambda u, a: jnp.broadcast_to(u, a.shape), unit, x)

    def double(level: Array, x: T) -> T:
        def earlier(u: Array, a: Array) -> Array:
            return lax.dynamic_slice_in_dim(jnp.concatenate([u, a], 2), length - 2**level, length, 2)

        return combine(jax.tree.map(earlier, before, x), x)

    x = lax.fori_loop(0, (length - 1).bit_length(), double, x)
    return jax.tree.map(lambda a: jnp.flip(a, 2), x) if reverse else x

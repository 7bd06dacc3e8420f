"""Gaussian units some cells of which nobody saw, in whitened coordinates.

With `z = W (x - mean)` and the columns `W_u` of the unseen cells, `P = W_u (W_u^T W_u)^{-1} W_u^T` is the projection onto them.
Given what is seen, z has the mean `(I - P) W d`, d being x - mean with zeros for unseen cells, and the covariance P; what is
seen has the squared distance `|(I - P) W d|^2` and `log|Sigma_ss|^{-1/2} = log|W| - 1/2 log|W_u^T W_u|`. W is any square root.

Units are walked pattern by pattern, a product for each, few where units were sorted by these (`order`). Where patterns are too
many, and in derivatives, which such a loop has not, each unit is looked at by itself. D features, N units, units last.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.backend import precise

_BLOCK = 512  # units that are looked at one by one at a time
_WORD = 31  # features in a key to sort by


@jax.custom_jvp
def conditional(w: Array, d: Array, seen: Array) -> tuple[Array, Array]:
    """The mean (D, N) of z given the seen cells, and `1/2 log|W_u^T W_u|` (N,).

    Args:
        w: (D, D).
        d: (D, N), `x - mean`, 0 in unseen cells.
        seen: (D, N) bool.
    """

    def pattern(p: Array, mine: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        q, log_size = _basis(w, p)
        z = (w - q @ (q.T @ w)) @ d
        return jnp.where(mine[None, :], z, found[0]), jnp.where(mine, log_size, found[1])

    def block(start: Array, fresh: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        new = _unit_by_unit(w, _slice(d, start), _slice(seen, start))
        return jax.tree.map(lambda f, n: lax.dynamic_update_slice_in_dim(f, n, start, -1), found, new)

    return _each(seen, pattern, block, (jnp.zeros_like(d), jnp.zeros(d.shape[1], d.dtype)))


@conditional.defjvp
@precise
def _conditional_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    w, d, seen = primals
    return conditional(w, d, seen), jax.jvp(lambda w, d: _unit_by_unit(w, d, seen), (w, d), tangents[:2])[1]


def _unit_by_unit(w: Array, d: Array, seen: Array) -> tuple[Array, Array]:
    q, log_size = _bases(w, seen)
    z = w @ d
    return z - jnp.einsum("nij,nj->in", q, jnp.einsum("nij,in->nj", q, z)), log_size


@jax.custom_jvp
def spread(w: Array, seen: Array, weights: Array) -> Array:
    """`sum_n w_n cov(z_n | seen cells)`, (D, D), for weights (N,)."""

    def pattern(p: Array, mine: Array, total: Array) -> Array:
        q, _ = _basis(w, p)
        return total + jnp.sum(jnp.where(mine, weights, 0)) * (q @ q.T)

    def block(start: Array, fresh: Array, total: Array) -> Array:
        return total + _spread(w, _slice(seen, start), jnp.where(fresh, _slice(weights, start), 0))

    return _each(seen, pattern, block, jnp.zeros_like(w))


@spread.defjvp
@precise
def _spread_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    w, seen, weights = primals
    tangent = jax.jvp(lambda w, v: _spread(w, seen, v), (w, weights), (tangents[0], tangents[2]))[1]
    return spread(w, seen, weights), tangent


def _spread(w: Array, seen: Array, weights: Array) -> Array:
    q, _ = _bases(w, seen)
    return jnp.einsum("nij,nkj->ik", weights[:, None, None] * q, q)


def order(seen: Array) -> Array:
    """The units (N,) sorted by what is seen of them, (D, N) bool."""
    bit = 1 << jnp.arange(_WORD)[:, None]
    words = [jnp.sum(jnp.where(seen[i : i + _WORD], bit[: len(seen) - i], 0), 0) for i in range(0, len(seen), _WORD)]
    return jnp.lexsort(words)


def _slice(a: Array, start: Array) -> Array:
    return lax.dynamic_slice_in_dim(a, start, min(_BLOCK, a.shape[-1]), -1)


def _each(
    seen: Array, pattern: Callable[[Array, Array, Any], Any], block: Callable[[Array, Array, Any], Any], start: Any
) -> Any:
    """`pattern(what is seen (D,), whose it is (N,), carry)` for every pattern there is; where these are too many, instead of it
    `block(start, fresh, carry)` for blocks of units, of which the last lies back over some that are not fresh."""
    dim, num = seen.shape
    most, size = min(64 * dim, 16 + num // 8), min(_BLOCK, num)

    def next_pattern(state: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
        left, count, carry = state
        p = seen[:, jnp.argmax(left)]
        mine = jnp.all(seen == p[:, None], 0)
        return left & ~mine, count + 1, pattern(p, mine, carry)

    def next_block(i: Array, carry: Any) -> Any:
        at = jnp.minimum(i * size, num - size)
        return block(at, at + jnp.arange(size) >= i * size, carry)

    some = lambda state: jnp.any(state[0]) & (state[1] < most)  # noqa: E731
    left, _, found = lax.while_loop(some, next_pattern, (jnp.ones(num, bool), jnp.array(0), start))
    return lax.cond(jnp.any(left), lambda: lax.fori_loop(0, -(-num // size) if num else 0, next_block, start), lambda: found)


def _basis(w: Array, seen: Array) -> tuple[Array, Array]:
    """An orthonormal basis (D, D) of the columns of W of the cells that are not seen (D,), zero for the others, and
    `1/2 log|W_u^T W_u|`. By Gram-Schmidt, twice, which is as good as orthogonal to rounding.

    Source: Giraud, Langou and Rozloznik (2005), Computers and Mathematics with Applications 50.
    """
    size = lax.stop_gradient(jnp.max(jnp.abs(w), 0))  # a unit, which cancels

    def column(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        q, log_size = carry
        v = jnp.where(seen[j], 0, w[:, j] / size[j])
        for _ in range(2):
            v = v - q @ (v @ q)
        length = jnp.sqrt(jnp.where(seen[j], 1, jnp.sum(v * v)))
        return q.at[:, j].set(v / length), log_size + jnp.where(seen[j], 0, jnp.log(length) + jnp.log(size[j]))

    return lax.fori_loop(0, len(w), column, (jnp.zeros_like(w), jnp.zeros((), w.dtype)))


_bases = jax.vmap(_basis, (None, 1))

"""Walks over units in parts of one size, so that what is made on the way stays in cache; and sums over them.

The number of units need not be a multiple of the size: the last part begins early enough to be full, and what it repeats
weighs nothing.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import backend, tree

T = TypeVar("T")


def _in_one_part() -> int:
    """Units of which what is made fits in cache; on an accelerator, where each part is kernels to launch, many times that."""
    return 2**18 if backend.accelerated() else 2**12


def part(units: T, weights: Array, index: Array | int, size: int, axis: int = -1) -> tuple[T, Array]:
    """Part number `index` of the units and their weights, 0 where an earlier part has the unit.

    Args:
        units: tree of arrays with the units along `axis`.
        weights: (..., N).
        index: which part.
        size: units in a part, at most N.
        axis: that of the units.

    Example:
        >>> import jax.numpy as jnp
        >>> [w.tolist() for w in part(jnp.arange(5), jnp.ones(5), 1, 3)]
        [[2, 3, 4], [0.0, 1.0, 1.0]]
    """
    start = jnp.minimum(index * size, weights.shape[-1] - size)
    fresh = start + jnp.arange(size) >= index * size
    some = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size, axis), units)
    w = lax.dynamic_slice_in_dim(weights, start, size, -1)
    return some, jnp.where(jnp.broadcast_to(fresh, w.shape), w, 0)


def compensated(fn: Callable[[Any], T], xs: Any) -> tuple[T, T]:
    """`sum_i fn(x_i)` along the leading axis of a tree, and what the additions rounded off: their sum is the sum."""
    zero = tree.zeros_like(jax.eval_shape(lambda xs: fn(jax.tree.map(lambda leaf: leaf[0], xs)), xs))
    return lax.scan(lambda sums, x: (tree.two_sum(*sums, fn(x)), None), (zero, zero), xs)[0]


def sum_in_parts(fn: Callable[..., Any], units: Any, weights: Array, size: int | None = None) -> Any:
    """The sum of `fn(units, weights)` over parts of `size` units.

    Args:
        fn: gives a tree of sums over units, linear in the weights.
        units: tree of arrays, units last.
        weights: (..., N).
        size: units in a part; None chooses by backend.
    """
    size = size or _in_one_part()
    num = weights.shape[-1]
    if num < 2 * size:
        return fn(units, weights)
    return tree.add(*compensated(lambda index: fn(*part(units, weights, index, size)), jnp.arange(-(-num // size))))


def in_batches(fn: Callable[[Any], T], xs: Any, at_most: int) -> T:
    """`fn` of each entry along the leading axis of a tree, at most so many at once, in batches of one size: one program.

    What fills the last batch up is dropped.
    """
    num = jax.tree.leaves(xs)[0].shape[0]
    rounds = -(-num // at_most)
    size = -(-num // rounds)
    if rounds == 1:
        return jax.vmap(fn)(xs)
    index = jnp.minimum(jnp.arange(rounds * size), num - 1).reshape(rounds, size)
    out = lax.map(lambda some: jax.vmap(fn)(jax.tree.map(lambda leaf: leaf[some], xs)), index)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num], out)


def over_rows(fn: Callable[[Array, Array], Array], combine: Callable[[Array, Array], Array], x: Array, weights: Array) -> Array:
    """`fn(rows (P, C, D), weights (P, C))` over all units of x (D, N), C of each of P stretches at a time; (P, D).

    x is the transpose of rows that lie as they were given: a few at a time are read fast, and nothing of the size of x is made.
    Rows spread over devices stay where they are, as stretches are theirs. Rows of weight 0 are zeros.
    """
    stretches = math.gcd(weights.shape[0], 48)
    rows, w = x.T.reshape(stretches, -1, x.shape[0]), weights.reshape(stretches, -1)
    num = w.shape[1]
    size = min(num, max(1, _in_one_part() // 2 // stretches))

    def block(index: Array | int) -> Array:
        some, v = part(rows, w, index, size, 1)
        return fn(jnp.where((v > 0)[:, :, None], some, 0), v)

    if num <= size:
        return block(0)
    return lax.scan(lambda value, i: (combine(value, block(i)), None), block(0), jnp.arange(1, -(-num // size)))[0]

"""Pytree arithmetic: the few operations on records that the engine needs."""

import functools
import math
from collections.abc import Iterable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

T = TypeVar("T")


def add(a: T, b: T) -> T:
    """Leafwise `a + b`."""
    return jax.tree.map(jnp.add, a, b)


def total(terms: Iterable[Array]) -> Array:
    """Sum of one or more arrays."""
    return functools.reduce(jnp.add, terms)


def where(mask: Array, a: T, b: T) -> T:
    """Leafwise `where(mask, a, b)`, `mask` aligned to the leading axes of every leaf; a and b agree in shapes."""

    def leaf(p: Array, q: Array) -> Array:
        which = lax.broadcast_in_dim(mask, p.shape, range(mask.ndim)) if mask.ndim else mask
        return lax.select(which, p, q) if p.dtype == q.dtype else jnp.where(which, p, q)  # the former is a smaller program

    return jax.tree.map(leaf, a, b)


def two_sum(total: T, error: T, term: T) -> tuple[T, T]:
    """Adds `term` to a compensated sum: returns the new `(total, error)`; the sum is `total + error`.

    The error of each rounded addition is recovered exactly (Knuth, 1969) and goes into the next one (Kahan, 1965), so
    that a sum over any number of chunks in float32 is as good as its terms.
    """

    def leaf(t: Array, e: Array, x: Array) -> tuple[Array, Array]:
        x = x + e
        s = t + x
        back = s - t
        return s, (t - (s - back)) + (x - back)

    leaves, treedef = jax.tree.flatten(total)
    pairs = [leaf(*z) for z in zip(leaves, jax.tree.leaves(error), jax.tree.leaves(term), strict=True)]
    return treedef.unflatten([p[0] for p in pairs]), treedef.unflatten([p[1] for p in pairs])


def all_finite(tree: object) -> Array:
    """Whether every entry of every inexact leaf is finite: a scalar bool."""
    ok = jnp.array(True)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            ok = ok & jnp.all(jnp.isfinite(leaf))
    return ok


def zeros_like(shapes: T) -> T:
    """Zeros of the shapes and dtypes of a tree of arrays or `ShapeDtypeStruct`s."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def num_entries(tree: object) -> int:
    """Number of entries over all leaves; arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def unstack_shape(tree: T) -> T:
    """Shapes of one entry along the leading axis of every leaf."""
    return jax.eval_shape(lambda t: jax.tree.map(lambda leaf: leaf[0], t), tree)

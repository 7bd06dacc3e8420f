"""Laying data out once in chunks, and folding over them with compensated sums."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import backend, tree
from jem.data import to_units
from jem.kernels.sums import compensated, part

T = TypeVar("T")

_PROBE = 1009  # a length no other axis has


class Chunks(NamedTuple):
    """Units in chunks: leaves of x are (chunks, ..., C), weights (chunks, C) with 0 on the padding."""

    x: Any
    weights: Array


def unit_bytes(fn: Callable[..., Any], x: Any, weights: Array) -> int:
    """Bytes per unit of the largest intermediate of `fn(x, weights)`, units last, read off its trace; x has rows first."""
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct((*a.shape[1:], _PROBE), a.dtype), (x, weights))
    largest = 1

    def visit(jaxpr: Any) -> None:
        nonlocal largest
        for eqn in jaxpr.eqns:
            for var in eqn.outvars:
                if _PROBE in getattr(var.aval, "shape", ()):
                    largest = max(largest, var.aval.size * var.aval.dtype.itemsize // _PROBE)
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(fn)(*shapes).jaxpr)
    return largest


def chunk_size(bytes_per_unit: int, num: int) -> int:
    """Units per chunk: as many as leave a chunk's intermediates room (in cache, in memory), evenly over the chunks needed."""
    size = max(backend.room() // bytes_per_unit, 128)
    if num <= size:
        return num
    even = -(-num // -(-num // size))
    return -(-even // 32) * 32


def lay_out(x: Any, weights: Array, size: int) -> Chunks:
    """Copies **rows** (N, ...) into chunks of `size` <= N units, units last; one pass over the data, one copy of it.

    Rows of weight 0 become copies of the heaviest row: whatever they held, NaN included, nothing computed from them can be
    anything but finite and nothing is counted. The last chunk begins early enough to be full; what it repeats has weight 0.
    """
    num = weights.shape[0]
    fill = jax.tree.map(lambda leaf: leaf[jnp.argmax(weights)], x)

    def chunk(index: Array) -> Chunks:
        rows, w = part(x, weights, index, size, 0)
        return Chunks(jax.tree.map(lambda u, f: jnp.where(w > 0, u, f[..., None]), to_units(rows), fill), w)

    return lax.map(chunk, jnp.arange(-(-num // size)))


def fold(fn: Callable[[Any, Array], T], data: Chunks, reduce: Callable[[T], T] = lambda t: t) -> T:
    """The sum of `fn(x, weights)` over chunks, rounding errors of the additions carried along.

    Args:
        fn: maps one chunk (units last) to a tree of sums.
        data: the chunks.
        reduce: sums a tree over devices.
    """
    if data.weights.shape[0] == 1:
        return reduce(fn(*jax.tree.map(lambda leaf: leaf[0], data)))
    total, error = compensated(lambda chunk: fn(*chunk), data)
    return tree.add(reduce(total), reduce(error))


class Total(NamedTuple):
    """A pass over the data: `total(fn)` is the sum of `fn(x, weights)` over all units, chunk by chunk, units last.

    Attributes:
        data: the chunks of this device.
        reduce: sums a tree over devices.
        place: number of this device among those that share the rows, ().
    """

    data: Chunks
    reduce: Callable[[Any], Any]
    place: Array | int = 0

    def __call__(self, fn: Callable[[Any, Array], Any]) -> Any:
        return fold(fn, self.data, self.reduce)

    def drawn(self, fn: Callable[[Any, Array, Array], Any], key: Array) -> Any:
        """The sum of `fn(x, weights, key)`, with a key of its own for every chunk on every device."""
        key = jax.random.fold_in(key, self.place)
        numbered = Chunks((self.data.x, jnp.arange(self.data.weights.shape[0])), self.data.weights)
        return fold(lambda x, weights: fn(x[0], weights, jax.random.fold_in(key, x[1])), numbered, self.reduce)

    def num_batches(self, at_least: int) -> int:
        """How many equal batches the chunks fall into: a multiple of their number, one unit a batch at most."""
        chunks, size = self.data.weights.shape
        return chunks * min(-(-at_least // chunks), size)

    def batch(self, index: Array, num_batches: int, fn: Callable[[Any, Array], Any]) -> Any:
        """`fn(x, weights)` of one of `num_batches` batches of consecutive units, summed over devices."""
        chunks, size = self.data.weights.shape
        parts = num_batches // chunks
        length = -(-size // parts)
        chunk = jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, index // parts, 0, keepdims=False), self.data)
        return self.reduce(fn(*part(chunk.x, chunk.weights, index % parts, length)))


def of_one_chunk(x: Any, weights: Array) -> Total:
    """A pass over data that are one chunk, units last."""
    return Total(jax.tree.map(lambda leaf: leaf[None], Chunks(x, weights)), lambda total: total)


def map_units(fn: Callable[[Any], T], x: Any, weights: Array) -> T:
    """`fn` of every unit, chunk by chunk: maps rows x (N, ...) to a tree with leaves (..., N)."""
    num = weights.shape[0]
    size = chunk_size(unit_bytes(lambda x, w: fn(x), x, weights), num)
    chunks = -(-num // size)
    out = lax.map(lambda index: fn(to_units(part(x, weights, index, size, 0)[0])), jnp.arange(chunks))
    fresh = num - (chunks - 1) * size  # the last chunk begins early enough to be full

    def join(leaf: Array) -> Array:
        full = jnp.moveaxis(leaf[:-1], 0, -2)
        return jnp.concatenate([full.reshape(*full.shape[:-2], -1), leaf[-1][..., size - fresh :]], axis=-1)

    return jax.tree.map(join, out)

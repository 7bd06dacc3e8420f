"""Data that is more than an array: known labels, sequences, missing values. Rows in, units last inside."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding


class Labelled(NamedTuple):
    """Observations some of whose components are known (semi-supervised data).

    Attributes:
        values: the observations, any data the node takes, N rows.
        labels: (N,) int, the known component or -1 where it is unknown; or (N, K) bool, the components each row may
            come from.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> x = jem.Labelled(jnp.array([[0.0], [1.0], [9.0]]), jnp.array([0, -1, 1]))
        >>> x.labels.shape
        (3,)
    """

    values: Any
    labels: Array


class Sequences(NamedTuple):
    """Sequences of unequal lengths, padded to one: the units of a chain.

    What lies beyond a sequence's length is never looked at. `jem.sequences` makes one from a list.

    Attributes:
        values: observations, leaves (S, T, ...).
        lengths: (S,) int, 1 .. T.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.Sequences(jnp.zeros((2, 5, 1)), jnp.array([5, 3])).values.shape
        (2, 5, 1)
    """

    values: Any
    lengths: Array


def sequences(items: Any) -> Sequences:
    """Pads a list of sequences to the longest.

    Args:
        items: a list of arrays (T_s, ...), or of trees of such arrays, all alike but for T_s.

    Returns:
        A `Sequences` with leaves (S, max T_s, ...).

    Raises:
        ValueError: an empty list, or a sequence without steps.

    Example:
        >>> import jem
        >>> jem.sequences([[[1.0], [2.0]], [[3.0]]]).lengths.tolist()
        [2, 1]
    """
    items = [np.asarray(item) if isinstance(item, (list, tuple)) else jax.tree.map(np.asarray, item) for item in items]
    if not items:
        raise ValueError("sequences: the list is empty; give at least one sequence")
    lengths = [int(jax.tree.leaves(item)[0].shape[0]) for item in items]
    if min(lengths) == 0:
        raise ValueError(f"sequences: sequence {lengths.index(0)} has no steps; leave it out")
    longest = max(lengths)

    def pad(*leaves: np.ndarray) -> Array:
        return jnp.asarray(np.stack([np.concatenate([a, np.repeat(a[-1:], longest - len(a), 0)]) for a in leaves]))

    return Sequences(jax.tree.map(pad, *items), jnp.asarray(lengths, jnp.int32))


def allowed(labels: Array, num_components: int) -> Array:
    """(K, N) bool: the components a unit may come from, from labels (N,) int or (K, N) bool, units last."""
    if labels.dtype == jnp.bool_:
        return labels
    return (labels[None, :] == jnp.arange(num_components)[:, None]) | (labels[None, :] < 0)


def to_units(x: Any) -> Any:
    """Rows to units: moves the leading axis of every leaf to the end; integers and bools keep their dtype."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(jnp.asarray(leaf), 0, -1), x)


def to_rows(x: Any) -> Any:
    """Units to rows: moves the last axis of every leaf to the front."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), x)


def num_units(x: Any) -> int:
    """Length of the unit axis (last) of data."""
    return int(jax.tree.leaves(x)[0].shape[-1])


def float_dtype(x: Any) -> Any:
    """The floating dtype of the data: that of its first inexact leaf, or JAX's default."""
    for leaf in jax.tree.leaves(x):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf.dtype
    return jnp.zeros(()).dtype


def as_arrays(x: Any) -> Any:
    """Data as JAX arrays: a list of rows becomes one array, records and dicts keep their shape."""
    if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
        return jnp.asarray(x)
    return jax.tree.map(lambda leaf: _automatic(jnp.asarray(leaf)), x)


def _automatic(leaf: Array) -> Array:
    """The array on a mesh whose axes the compiler partitions, where it came on one with explicit axes."""
    sharding = None if isinstance(leaf, Tracer) else leaf.sharding
    if not isinstance(sharding, NamedSharding) or all(t == AxisType.Auto for t in sharding.mesh.axis_types):
        return leaf
    names = sharding.mesh.axis_names
    mesh = Mesh(np.asarray(sharding.mesh.devices), names, axis_types=(AxisType.Auto,) * len(names))
    return jax.device_put(leaf, NamedSharding(mesh, sharding.spec))


def used_rows(x: Any, weights: Array | None) -> Any:
    """Rows with those of weight 0 replaced by copies of the heaviest, so that nothing sees what they held."""
    if weights is None:
        return x

    def leaf(a: Array) -> Array:
        used = jnp.reshape(weights > 0, (-1,) + (1,) * (a.ndim - 1))
        return jnp.where(used, a, a[jnp.argmax(weights)][None])

    return jax.tree.map(leaf, x)


def row_weights(x: Any, weights: Array | None) -> Array:
    """Weights (N,) in the data's floating dtype, one where none are given; x has rows first."""
    num, dtype = jax.tree.leaves(x)[0].shape[0], float_dtype(x)
    return jnp.ones(num, dtype) if weights is None else weights.astype(dtype)


def observed(x: Any) -> Array:
    """(N,) bool: the units without a NaN, units last."""
    ok = jnp.ones(num_units(x), bool)
    for leaf in jax.tree.leaves(x):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            ok = ok & ~jnp.any(jnp.isnan(leaf), tuple(range(leaf.ndim - 1)))
    return ok


def fill(x: Any, keep: Array) -> Any:
    """Units last: those outside `keep` (N,) replaced by the first inside, so that nothing computed from them is NaN."""
    first = jnp.argmax(keep)

    def replace(leaf: Array) -> Array:
        value = jnp.take(leaf, first, axis=-1)[..., None]
        return jnp.where(keep, leaf, jnp.nan_to_num(value))

    return jax.tree.map(replace, x)

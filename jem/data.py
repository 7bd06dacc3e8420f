"""Data that is more than an array: rows with known labels. Rows in, units last inside."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
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
    sharding = None if isinstance(leaf, jax.core.Tracer) else leaf.sharding
    if not isinstance(sharding, NamedSharding) or all(t == AxisType.Auto for t in sharding.mesh.axis_types):
        return leaf
    names = sharding.mesh.axis_names
    mesh = Mesh(sharding.mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))
    return jax.device_put(leaf, NamedSharding(mesh, sharding.spec))


def row_weights(x: Any, weights: Array | None) -> Array:
    """Weights (N,) in the data's floating dtype, one where none are given; x has rows first."""
    num, dtype = jax.tree.leaves(x)[0].shape[0], float_dtype(x)
    return jnp.ones(num, dtype) if weights is None else weights.astype(dtype)

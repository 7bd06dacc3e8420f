"""A model's parameters in free coordinates: a tree of arrays in which every point is a valid model, and back."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jem import tree
from jem.checks import is_apart
from jem.node import Node, Params


def unconstrain(node: Node, params: Params) -> Any:
    """Free coordinates of parameters: logarithms of what is positive, contrasts of log-probabilities, and so on.

    Args:
        node: the model; its `supports` says where each field may lie.
        params: its parameters.

    Returns:
        The record of `params` with, in place of each leaf, its free coordinates; those of a field that is held are empty.

    Raises:
        TypeError: a node that does not define `supports`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.unconstrain(jem.Poisson(), jem.Poisson.Params(jnp.array([1.0, 1.0]))).rate.tolist()
        [0.0, 0.0]
    """
    return jax.tree.map(lambda support, value: support.unconstrain(value), node.supports(params), params)


def constrain(node: Node, free: Any, like: Params) -> Params:
    """Parameters at free coordinates; undoes `unconstrain`.

    Args:
        node: the model.
        free: free coordinates, as `unconstrain` makes them.
        like: valid parameters of the same shapes, which give the values of what is held (and zeros of a simplex).

    Returns:
        Parameters.

    Raises:
        TypeError: a node that does not define `supports`.

    Example:
        >>> import jem, jax, jax.numpy as jnp
        >>> start = jem.Poisson.Params(jnp.array([1.0, 2.0]))
        >>> free = jem.unconstrain(jem.Poisson(), start)
        >>> jem.constrain(jem.Poisson(), jax.tree.map(lambda f: f * 0, free), start).rate.tolist()
        [1.0, 1.0]
    """
    return jax.tree.map(lambda support, f, value: support.constrain(f, value), node.supports(like), free, like)


def num_free(node: Node, params: Params) -> int:
    """Number of free coordinates that move something; of a node that does not say where its parameters lie, of entries."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    try:
        supports = node.supports(shapes)
    except TypeError:
        return tree.num_entries(shapes)

    def size(support: Any, leaf: jax.ShapeDtypeStruct) -> int:
        return math.prod(jax.eval_shape(support.unconstrain, leaf).shape) - support.idle(leaf.shape)

    return sum(jax.tree.leaves(jax.tree.map(size, supports, shapes)))


def check_values(node: Node, params: Params, name: str = "params") -> None:
    """Raises ValueError, naming the field and the place, where values of `params` do not lie where they may.

    Inside a transformation there are no values to look at; a node that does not define `supports` says nothing of its own.
    """
    try:
        supports = node.supports(params)
    except (TypeError, AttributeError, ValueError, LookupError):  # parameters of another form are named by their shapes
        return
    if jax.tree.structure(supports) != jax.tree.structure(params):
        return
    for (path, value), support in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(supports), strict=True
    ):
        wrong = None if isinstance(value, Tracer) else _fault(support, value)
        if wrong is not None:
            raise ValueError(f"{name}{jax.tree_util.keystr(path)}: {wrong}")


def _fault(support: Any, value: Array) -> str | None:
    """What is wrong with a value whose numbers are finite; one that spans processes is looked at where it lies."""
    if is_apart(value):
        with jax.ensure_compile_time_eval():
            wrong = bool(jnp.any(support.outside(value)) & jnp.all(jnp.isfinite(value)))
        return "such values do not lie where they may, in rows that another process may hold" if wrong else None
    host = np.asarray(value)
    return support.fault(host) if np.all(np.isfinite(host)) else None


def marked(node: Node, params: Params) -> Params:
    """The parameters, NaN where they do not lie where they may: inside a transformation there is nothing else to say."""
    try:
        supports = node.supports(params)
    except TypeError:  # a node that does not say where its parameters lie
        return params

    def mark(support: Any, value: Array) -> Array:
        return jnp.where(support.outside(value), jnp.nan, value) if isinstance(value, Tracer) else value

    return jax.tree.map(mark, supports, params)


def as_start(node: Node, params: Params) -> Params:
    """The parameters as a climb takes them: those that `jem.Frozen` was given in their places, probabilities with sum one.

    Those of a fit in float32 have it to float32's rounding, which a climb in float64 would count as likelihood and lose. What
    is further off is NaN, and the climb NONFINITE.
    """
    try:
        supports = node.supports(params)
    except TypeError:  # a node that does not say where its parameters lie holds none
        return params

    def start(support: Any, value: Array) -> Array:
        held = getattr(support, "value", None)
        value = jnp.where(support.outside(value), jnp.nan, value)
        return support.exact(value) if held is None else jnp.broadcast_to(jnp.asarray(held, value.dtype), value.shape)

    return jax.tree.map(start, supports, params)


def ravel(node: Node, params: Params) -> Array:
    """Free coordinates as one vector (n,)."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(unconstrain(node, params))]
    return jnp.concatenate(leaves)


def unravel(node: Node, vector: Array, like: Params) -> Params:
    """Parameters at a vector of free coordinates; undoes `ravel`. `like` is as in `constrain`, and gives the dtypes."""
    leaves, treedef = jax.tree.flatten(jax.eval_shape(lambda p: unconstrain(node, p), like))
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
    parts = jnp.split(vector, ends[:-1])
    free = [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    return constrain(node, treedef.unflatten(free), like)

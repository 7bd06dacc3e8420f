"""Fields that stay as they are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem.composite import Wrapper
from jem.kernels.support import Held
from jem.node import (
    Data,
    Node,
    Params,
    Posterior,
    Stats,
    field_names,
    get_fields,
    node,
    set_fields,
    set_once,
    setting,
    static,
)
from jem.reading import as_numbers
from jem.settings import check_node, describe


@node
class Frozen(Wrapper):
    """A node some fields of which stay as they are: given, or as they are at the start of a fit; without names, all of them.

    A value that is given holds wherever the node stands, for each of its copies; `jem.fit_restarts` needs it, as every restart
    has a start of its own. A hyper-parameter of the field's name, `df` of `StudentT`, is such a value.

    Args:
        child: the node.
        *fields: names of the fields that stay as they are at the start.
        **values: fields that stay, and their values: arrays of the field's shape, or records.

    Raises:
        ValueError: no field of that name, or a value of another shape, when parameters are made.

    Example:
        >>> import jem
        >>> jem.Frozen(jem.StudentT(df=4.0), "df").fields
        ('df',)
        >>> even = jem.Frozen(jem.Mixture(jem.Gaussian(), 2), weights=[0.5, 0.5])
        >>> jem.init(even, jax.random.key(0), [[0.0], [1.0], [7.0]]).weights.tolist()
        [0.5, 0.5]
    """

    child: Node = setting(must=check_node)
    values: dict[str, Any]
    fields: tuple[str, ...] = static()

    def __init__(self, child: Node, *fields: str, **values: Any):
        for f in fields:
            if not isinstance(f, str):
                raise TypeError(f"Frozen: expected names of fields, or values by name, weights=[0.5, 0.5]; got {describe(f)}")
        given = {name: as_numbers_or_record(value, f"Frozen: {name}") for name, value in values.items()}
        set_once(self, child=child, values=given, fields=(*fields, *(name for name in values if name not in fields)))

    def not_given(self) -> tuple[str, ...]:
        """Names of the fields that stay as a start has them, whatever that is; "all fields" where none is named."""
        known = lambda f: f in self.values or isinstance(getattr(self.child, f, None), (float, int, Array))  # noqa: E731
        return tuple(f for f in self.fields or ("all fields",) if not known(f))

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        params = self.child.init(key, x, weights)
        put = lambda held, now: jnp.broadcast_to(jnp.asarray(held.value, now.dtype), now.shape)  # noqa: E731
        self._check_names(params)
        given = {f: (value, get_fields(params, (f,))[f]) for f, value in self.values.items()}
        if not given:
            return params
        return set_fields(params, {f: jax.tree.map(put, self._given(f, *pair), pair[1]) for f, pair in given.items()})

    def infer_each(self, params: Params, x: Data, axes: Any, size: int) -> tuple[Posterior, Array]:
        return self.child.infer_each(params, x, axes, size)

    def expect_each(self, params: Params, posterior: Posterior, x: Data, weights: Array, axes: Any) -> Stats:
        return self.child.expect_each(params, posterior, x, weights, axes)

    def maximize(self, params: Params, stats: Stats) -> Params:
        if not self.fields:
            return params
        self._check_names(params)
        free = self.child.maximize(params, self.child.hold(params, stats, self.fields))
        return set_fields(free, get_fields(params, self.fields))

    def _check_names(self, params: Params) -> None:
        names = field_names(params)
        for f in self.fields:
            if f not in names:
                raise ValueError(f"Frozen: {type(self.child).__name__} has no field {f!r}; its fields are {names}")

    def degenerate(self, params: Params, stats: Stats) -> Array:
        return self.child.degenerate(params, stats) if self.fields else jnp.zeros((), jnp.int32)

    def enter(self, params: Params) -> Params:
        return set_fields(self.child.enter(params), get_fields(params, self.fields)) if self.fields else params

    def gauge(self, params: Params) -> dict[str, int]:
        return {name: size for name, size in self.child.gauge(params).items() if self.fields and name not in self.fields}

    def supports(self, params: Params) -> Any:
        if not self.fields:
            return jax.tree.map(lambda _: Held(), params)
        self._check_names(params)
        held = {}
        for f, now in get_fields(params, self.fields).items():
            given = self.values.get(f)
            held[f] = jax.tree.map(lambda _: Held(), now) if given is None else self._given(f, given, now)
        return set_fields(self.child.supports(params), held)

    def _given(self, field: str, given: Any, now: Any) -> Any:
        """Where a field lies that is given: its values, over the copies there are in `now`."""
        if jax.tree.structure(given) != jax.tree.structure(now):
            raise ValueError(f"Frozen: {field} has the structure {jax.tree.structure(now)}; got {jax.tree.structure(given)}")

        def leaf(value: Any, at: Any) -> Held:
            if np.shape(value) != at.shape[len(at.shape) - np.ndim(value) :]:
                raise ValueError(f"Frozen: {field} has shape {at.shape}; the value given has {np.shape(value)}")
            return Held(value)

        return jax.tree.map(leaf, given, now)

    def tie(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Params:
        if not self.fields:
            return params
        held = jax.vmap(lambda s: self.child.hold(params, s, self.fields))(stats)
        return set_fields(self.child.tie(params, held, fields), get_fields(params, self.fields))


def as_numbers_or_record(value: Any, name: str) -> Any:
    """A value that is given: numbers, or a record of them; as they are where they are arrays already."""
    if isinstance(value, (list, tuple, int, float)) and not hasattr(value, "_fields"):
        return as_numbers(value, name)
    one = lambda leaf: leaf if isinstance(leaf, Array) else as_numbers(leaf, name)  # noqa: E731
    return jax.tree.map(one, value, is_leaf=lambda part: part is None)


def not_given(model: Node) -> list[tuple[str, str]]:
    """What `jem.Frozen` holds in a model, at any depth, without having been given its value: the parts and the fields."""
    found: list[tuple[str, str]] = []

    def look(part: Any) -> Any:
        if isinstance(part, Frozen):
            names = part.not_given()
            if names:
                found.append((f"Frozen({type(part.child).__name__}, ...)", ", ".join(names)))
            jax.tree.map(look, part.child, is_leaf=lambda inner: isinstance(inner, Frozen))
        return part

    jax.tree.map(look, model, is_leaf=lambda part: isinstance(part, Frozen))
    return found

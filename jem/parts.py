"""Nodes around nodes: independent parts (Product), fields that stay (Frozen), units that may be missing (Missing)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem import checks, tree
from jem.composite import WHOLE, Composite, Wrapper, split_key
from jem.data import fill, num_units, observed, with_gaps, with_holes, without_holes
from jem.kernels.support import Held
from jem.node import (
    CELLS,
    MISSING,
    Data,
    Node,
    Params,
    Posterior,
    Stats,
    field_names,
    get_fields,
    node,
    replaced,
    set_fields,
    set_once,
    setting,
    static,
)
from jem.reading import as_numbers
from jem.settings import check_child, check_node, describe


@node
class Product(Composite):
    """Independent parts, each with a node of its own: `p(x) = prod_i p_i(x[i])`. Mixed types in one unit.

    x, params, posterior and statistics are dicts with the parts' names.

    Example:
        >>> import jem
        >>> mixed = jem.Mixture(jem.Product(size=jem.Gaussian(), colour=jem.Categorical(3)), 2)
        >>> sorted(mixed.components.child.children)
        ['colour', 'size']
    """

    children: dict[str, Node]

    def __init__(self, **parts: Node):
        if not parts:
            raise ValueError("Product: give at least one part by name, as Product(size=jem.Gaussian())")
        for name, part in parts.items():
            check_child(part, f"Product: {name}")
        set_once(self, children=parts)

    def parts(self) -> dict[Any, Node]:
        return dict(self.children)

    def with_parts(self, parts: dict[Any, Node]) -> "Product":
        return replaced(self, children=parts)

    def share(self, name: Any, x: Data) -> Data:
        return x[name]

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        pairs = {n: c.infer(params[n], x[n]) for n, c in self.children.items()}
        return {n: q for n, (q, _) in pairs.items()}, tree.total(lp for _, lp in pairs.values())

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        return {n: c.expect(params[n], posterior[n], x[n], weights) for n, c in self.children.items()}

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        keys = split_key(key, self.children)
        return {n: c.init(keys[n], x[n], weights) for n, c in self.children.items()}

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        keys = split_key(key, self.children)
        draws = {n: c.sample(keys[n], params[n], num) for n, c in self.children.items()}
        return {n: z for n, (z, _) in draws.items()}, {n: x for n, (_, x) in draws.items()}

    def sample_like(self, key: Array, params: Params, x: Data) -> tuple[Any, Data]:
        keys = split_key(key, self.children)
        draws = {n: c.sample_like(keys[n], params[n], x[n]) for n, c in self.children.items()}
        return {n: z for n, (z, _) in draws.items()}, {n: new for n, (_, new) in draws.items()}

    def validate(self, x: Data) -> None:
        checks.check_parts(x, tuple(self.children))
        super().validate(x)

    def must_be_finite(self, x: Data) -> Data:
        return {n: c.must_be_finite(x[n]) for n, c in self.children.items()}

    def tie(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Params:
        def one(name: str, part: Node) -> Params:
            p, s = params[name], stats[name]
            return part.tie(p, s, field_names(p)) if name in fields else jax.vmap(part.maximize)(p, s)

        return {name: one(name, part) for name, part in self.children.items()}


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


@node
class Missing(Wrapper):
    """A node of which units, or cells, may be missing: NaN. What is missing contributes nothing, `log p = 0` and weight 0.

    Around a family of independent cells (`jem.Poisson`, `jem.Bernoulli`, any on `Factorising`) single cells are left out,
    exactly. Around another node a unit with a NaN is dropped whole: around a Gaussian of several columns that loses the cells
    that are there, and is biased where cells are missing because of what is in others. Around each part of a `Product` it
    handles single missing cells there too, exactly, as the parts are independent.

    Args:
        child: the node.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> even = jem.Bernoulli.Params(jnp.array([0.5, 0.5]))
        >>> jem.log_prob(jem.Missing(jem.Bernoulli()), even, [[1.0, jnp.nan], [jnp.nan, jnp.nan]]).tolist()
        [-0.693..., 0.0]

    Source: Little and Rubin (2019), Statistical Analysis with Missing Data, section 3.2 for units, available-case analysis,
    and section 6.2 for cells.
    """

    child: Node = setting(must=check_node)

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({MISSING})

    def see(self, name: Any, x: Data, weights: Array) -> tuple[Data, Array]:
        if CELLS in self.child.traits:
            return with_holes(x), weights
        ok = observed(x)
        return fill(x, ok), jnp.where(ok, weights, 0)

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        seen, ok = self.see(WHOLE, x, jnp.ones(num_units(x)))
        posterior, log_prob = self.child.infer(params, seen)
        return posterior, jnp.where(ok > 0, log_prob, 0)

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        return self.child.expect(params, posterior, *self.see(WHOLE, x, weights))

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        return self.child.init(key, *self.see(WHOLE, x, weights))

    def sample_like(self, key: Array, params: Params, x: Data) -> tuple[Any, Data]:
        latents, new = self.child.sample_like(key, params, fill(x, observed(x)))
        return latents, with_gaps(new, x)

    def num_observations(self, x: Data) -> Array:
        ok = ~jnp.all(jnp.isnan(x), 0) if CELLS in self.child.traits else observed(x)
        return jnp.where(ok, self.child.num_observations(fill(x, ok)), 0)

    def features(self, x: Data) -> Array:
        return self.child.features(without_holes(self.see(WHOLE, x, jnp.ones(num_units(x)))[0])[0])

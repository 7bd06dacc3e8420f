"""Nodes around nodes: independent parts (Product), fields that stay (Frozen), units that may be missing (Missing)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks, tree
from jem.data import fill, observed
from jem.kernels.support import Held
from jem.node import (
    Data,
    Node,
    Params,
    Posterior,
    Stats,
    Wrapper,
    field_names,
    get_fields,
    node,
    set_fields,
    set_once,
    static,
)


@node
class Product(Node):
    """Independent parts, each with a node of its own: `p(x) = prod_i p_i(x[i])`. Mixed types in one unit.

    x, params, posterior and statistics are dicts with the parts' names.

    Example:
        >>> import jem
        >>> mixed = jem.Mixture(jem.Product(size=jem.Gaussian(), colour=jem.Categorical(3)), 2)
        >>> sorted(mixed.components.child.parts)
        ['colour', 'size']
    """

    parts: dict[str, Node]

    def __init__(self, **parts: Node):
        set_once(self, parts=parts)

    @property
    def missing_ok(self) -> bool:
        return all(c.missing_ok for c in self.parts.values())

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        pairs = {n: c.infer(params[n], x[n]) for n, c in self.parts.items()}
        return {n: q for n, (q, _) in pairs.items()}, tree.total(lp for _, lp in pairs.values())

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        return {n: c.expect(params[n], posterior[n], x[n], weights) for n, c in self.parts.items()}

    def maximize(self, params: Params, stats: Stats) -> Params:
        return {n: c.maximize(params[n], stats[n]) for n, c in self.parts.items()}

    def expected_log_prob(self, params: Params, stats: Stats, old: Params) -> Array:
        return tree.total(c.expected_log_prob(params[n], stats[n], old[n]) for n, c in self.parts.items())

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        keys = dict(zip(self.parts, jax.random.split(key, len(self.parts)), strict=True))
        return {n: c.init(keys[n], x[n], weights) for n, c in self.parts.items()}

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        keys = dict(zip(self.parts, jax.random.split(key, len(self.parts)), strict=True))
        draws = {n: c.sample(keys[n], params[n], num) for n, c in self.parts.items()}
        return {n: z for n, (z, _) in draws.items()}, {n: x for n, (_, x) in draws.items()}

    def bind(self, x: Data, weights: Array) -> "Product":
        return Product(**{n: c.bind(x[n], weights) for n, c in self.parts.items()})

    def log_prior(self, params: Params) -> Array:
        return tree.total(c.log_prior(params[n]) for n, c in self.parts.items())

    def degenerate(self, params: Params, stats: Stats) -> Array:
        return jnp.any(jnp.stack([c.degenerate(params[n], stats[n]) for n, c in self.parts.items()]))

    def num_parameters(self, params: Params, fields: tuple[str, ...] | None = None) -> int:
        return sum(c.num_parameters(params[n]) for n, c in self.parts.items() if fields is None or n in fields)

    def supports(self, params: Params) -> Any:
        return {n: c.supports(params[n]) for n, c in self.parts.items()}

    def recentre(self, stats: Stats, old: Params, new: Params) -> Stats:
        return {n: c.recentre(stats[n], old[n], new[n]) for n, c in self.parts.items()}

    def features(self, x: Data) -> Array:
        return jnp.concatenate([c.features(x[n]) for n, c in self.parts.items()])

    def validate(self, x: Data) -> None:
        checks.check_parts(x, tuple(self.parts))
        for n, child in self.parts.items():
            child.validate(x[n])

    def tie(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Params:
        shared = {n: c.tie(params[n], stats[n], field_names(params[n])) for n, c in self.parts.items() if n in fields}
        own = {n: jax.vmap(c.maximize)(params[n], stats[n]) for n, c in self.parts.items() if n not in fields}
        return {n: shared[n] if n in shared else own[n] for n in self.parts}


@node
class Frozen(Wrapper):
    """A node some fields of which keep their starting values; without names, all of them.

    Args:
        child: the node.
        *fields: names of the fields that stay.

    Example:
        >>> import jem
        >>> jem.Frozen(jem.StudentT(df=4.0), "df").fields
        ('df',)
    """

    child: Node
    fields: tuple[str, ...] = static()

    def __init__(self, child: Node, *fields: str):
        set_once(self, child=child, fields=fields)

    def maximize(self, params: Params, stats: Stats) -> Params:
        if not self.fields:
            return params
        names = field_names(params)
        for f in self.fields:
            if f not in names:
                raise ValueError(f"Frozen: {type(self.child).__name__} has no field {f!r}; its fields are {names}")
        free = self.child.maximize(params, self.child.hold(params, stats, self.fields))
        return set_fields(free, get_fields(params, self.fields))

    def bind(self, x: Data, weights: Array) -> "Frozen":
        return Frozen(self.child.bind(x, weights), *self.fields)

    def degenerate(self, params: Params, stats: Stats) -> Array:
        return self.child.degenerate(params, stats) if self.fields else jnp.array(False)

    def num_parameters(self, params: Params, fields: tuple[str, ...] | None = None) -> int:
        names = field_names(params) if fields is None else fields
        return self.child.num_parameters(params, tuple(n for n in names if self.fields and n not in self.fields))

    def supports(self, params: Params) -> Any:
        fields = self.fields or field_names(params)
        held = jax.tree.map(lambda _: Held(), get_fields(params, fields))
        return set_fields(self.child.supports(params), held)

    def tie(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Params:
        if not self.fields:
            return params
        held = jax.vmap(lambda s: self.child.hold(params, s, self.fields))(stats)
        return set_fields(self.child.tie(params, held, fields), get_fields(params, self.fields))


@node
class Missing(Wrapper):
    """A node that may be missing: a unit with a NaN contributes nothing, `log p = 0` and weight 0.

    Around each part of a `Product` it handles single missing cells, exactly, as the parts are independent.

    Args:
        child: the node.

    Example:
        >>> import jem
        >>> part = jem.Missing(jem.Gaussian())
        >>> jem.Product(height=part, weight=part).missing_ok
        True

    Source: Little and Rubin (2019), chapter 11: values missing at random are integrated out.
    """

    child: Node

    @property
    def missing_ok(self) -> bool:
        return True

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        ok = observed(x)
        posterior, log_prob = self.child.infer(params, fill(x, ok))
        return posterior, jnp.where(ok, log_prob, 0)

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        ok = observed(x)
        return self.child.expect(params, posterior, fill(x, ok), jnp.where(ok, weights, 0))

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        ok = observed(x)
        return self.child.init(key, fill(x, ok), jnp.where(ok, weights, 0))

    def bind(self, x: Data, weights: Array) -> "Missing":
        ok = observed(x)
        return Missing(self.child.bind(fill(x, ok), jnp.where(ok, weights, 0)))

    def features(self, x: Data) -> Array:
        return self.child.features(fill(x, observed(x)))

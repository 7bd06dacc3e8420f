"""Nodes made of nodes. What they say by saying it of their parts is written here, once.

A `Composite` names its parts, how each of them sees the data, and what it says of itself beside them; a `Wrapper` is one around
a single node whose parameters and statistics are its own.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import Array

from jem import tree
from jem.kernels.intervals import Edges, Within
from jem.node import CELLS, INPUTS, LEVELS, MISSING, Data, Node, Params, Posterior, Stats, any_of, replaced, set_fields

WHOLE = ""  # the name of a part whose records are the node's own


class Composite(Node):
    """A node made of others.

    Write `parts`, and `share` or `see` where a part does not see the data as they are. The records of parameters and statistics
    have a field, or a place, for each part, with the part's own record in it; what the node says of its other fields is
    `own_supports`, `own_log_prior` and `own_degenerate`. The rest of the contract that is no mathematics follows, and M-step
    and Q where the parts do not meet in them: the parts' answers put together.
    """

    def parts(self) -> dict[Any, Node]:
        """The parts by name: a field of the records, a place in them, or `WHOLE`."""
        raise TypeError(f"{type(self).__name__} does not define parts")

    def with_parts(self, parts: dict[Any, Node]) -> Self:
        """The same node with other parts; they are fields of their names, unless it says where they are."""
        return replaced(self, **parts)

    def share(self, name: Any, x: Data) -> Data:
        """What a part sees of the data, rows first or units last."""
        return x

    def see(self, name: Any, x: Data, weights: Array) -> tuple[Data, Array]:
        """What a part sees of the data, units last, and what they weigh there."""
        return self.share(name, x), weights

    def each(self, question: Callable[..., Any], params: tuple[Params, ...], stats: tuple[Stats, ...] = ()) -> dict[Any, Any]:
        """`question(part, *its params, *its stats)` of every part; copies of a part add an axis in front."""
        return {name: question(part, *(part_of(r, name) for r in (*params, *stats))) for name, part in self.parts().items()}

    def own_log_prior(self, params: Params) -> Array | None:
        """Log-density of the prior of the fields that are no part's."""
        return None

    def own_supports(self, params: Params) -> Params:
        """The record with the supports of the fields that are no part's; those of the parts are put in."""
        return params

    def own_degenerate(self, params: Params, stats: Stats) -> Array | None:
        """What is degenerate beside the parts."""
        return None

    def maximize(self, params: Params, stats: Stats) -> Params:
        return with_each(params, self.each(lambda part, p, s: part.maximize(p, s), (params,), (stats,)))

    def expected_log_prob(self, params: Params, stats: Stats, old: Params) -> Array:
        each = self.each(lambda part, p, o, s: part.expected_log_prob(p, s, o), (params, old), (stats,))
        return tree.total(each.values())

    @property
    def traits(self) -> frozenset[str]:
        passed = {MISSING, CELLS, LEVELS, INPUTS} if WHOLE in self.parts() else {MISSING}  # of what sees the data as they are
        return functools.reduce(frozenset.intersection, [part.traits & passed for part in self.parts().values()])

    def bind(self, x: Data, weights: Array) -> Self:
        return self.with_parts({name: part.bind(*self.see(name, x, weights)) for name, part in self.parts().items()})

    def log_prior(self, params: Params) -> Array:
        own, each = self.own_log_prior(params), self.each(lambda part, p: part.log_prior(p), (params,))
        return tree.total([*([] if own is None else [own]), *(jnp.sum(p) if p.ndim else p for p in each.values())])

    def degenerate(self, params: Params, stats: Stats) -> Array:
        own, each = self.own_degenerate(params, stats), self.each(lambda part, p, s: part.degenerate(p, s), (params,), (stats,))
        return any_of([*([] if own is None else [own]), *(any_of(c) if c.ndim else c for c in each.values())])

    def conditioning(self, params: Params) -> Array:
        each = self.each(lambda part, p: part.conditioning(p), (params,))
        return functools.reduce(jnp.maximum, [jnp.max(c) if c.ndim else c for c in each.values()])

    def supports(self, params: Params) -> Any:
        each = {name: part.supports(part_of(params, name)) for name, part in self.parts().items()}
        return with_each(self.own_supports(params), each)

    def gauge(self, params: Params) -> dict[str, int]:
        if WHOLE in self.parts():
            return self.parts()[WHOLE].gauge(params)
        return {str(name): sum(part.gauge(part_of(params, name)).values()) for name, part in self.parts().items()}

    def recentre(self, stats: Stats, old: Params, new: Params) -> Stats:
        return with_each(stats, self.each(lambda part, o, n, s: part.recentre(s, o, n), (old, new), (stats,)))

    def permute(self, params: Params, order: Array) -> Params:
        return with_each(params, {name: part.permute(part_of(params, name), order) for name, part in self.parts().items()})

    def enter(self, params: Params) -> Params:
        return with_each(params, self.each(lambda part, p: part.enter(p), (params,)))

    def sorting(self, x: Data) -> Array | None:
        return self.parts()[WHOLE].sorting(x) if WHOLE in self.parts() else None

    def features(self, x: Data) -> Array:
        return jnp.concatenate([part.features(self.share(name, x)) for name, part in self.parts().items()])

    def num_observations(self, x: Data) -> Array:
        each = [part.num_observations(self.share(name, x)) for name, part in self.parts().items()]
        return functools.reduce(jnp.maximum, each)

    def validate(self, x: Data) -> None:
        for name, part in self.parts().items():
            part.validate(self.share(name, x))

    def must_be_finite(self, x: Data) -> Data:
        return self.parts()[WHOLE].must_be_finite(x) if WHOLE in self.parts() else super().must_be_finite(x)


class Wrapper(Composite):
    """A node around one child: what it does not write itself is the child's. Subclasses have a field `child`."""

    child: Any

    # Only some children have these: a plate its size, a chain its questions. Asking another one is an AttributeError.
    size = property(lambda self: self.child.size, doc="Number of components of a plate.")
    decode = property(lambda self: self.child.decode, doc="The most probable states, of a chain.")
    predict = property(lambda self: self.child.predict, doc="What comes next, of a chain.")

    def parts(self) -> dict[Any, Node]:
        return {WHOLE: self.child}

    def with_parts(self, parts: dict[Any, Node]) -> Self:
        return replaced(self, child=parts[WHOLE])

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        return self.child.infer(params, x)

    def complete(self, params: Params, posterior: Posterior, x: Data, key: Array | None = None) -> Data:
        return self.child.complete(params, posterior, x, key)

    def hidden(self, key: Array, params: Params, posterior: Posterior, x: Data) -> Any:
        return self.child.hidden(key, params, posterior, x)

    def of_columns(self, columns: tuple[int, ...]) -> Node:
        return self.child.of_columns(columns)

    def marginal(self, params: Params, columns: tuple[int, ...]) -> Params:
        return self.child.marginal(params, columns)

    def conditional(self, params: Params, given: tuple[int, ...], rest: tuple[int, ...], values: Array) -> tuple[Params, Array]:
        return self.child.conditional(params, given, rest, values)

    @property
    def edges(self) -> Edges:
        return self.child.edges

    def within(self, params: Params, x: Data) -> Within:
        return self.child.within(params, x)

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        return self.child.expect(params, posterior, x, weights)

    def maximize(self, params: Params, stats: Stats) -> Params:
        return self.child.maximize(params, stats)

    def expected_log_prob(self, params: Params, stats: Stats, old: Params) -> Array:
        return self.child.expected_log_prob(params, stats, old)

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        return self.child.init(key, x, weights)

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        return self.child.sample(key, params, num)

    def sample_like(self, key: Array, params: Params, x: Data) -> tuple[Any, Data]:
        return self.child.sample_like(key, params, x)

    def hold(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Stats:
        return self.child.hold(params, stats, fields)

    def sharing(self, params: Params, fields: tuple[str, ...]) -> Params:
        return self.child.sharing(params, fields)

    def tie(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Params:
        return self.child.tie(params, stats, fields)


def inputs_of(parts: Iterable[Node]) -> frozenset[str]:
    """That some of the parts take inputs, as a trait."""
    return frozenset({INPUTS} if any(INPUTS in part.traits for part in parts) else ())


def part_of(record: Any, name: Any) -> Any:
    """The record of a part in that of the whole."""
    if name is WHOLE:
        return record
    return getattr(record, name) if hasattr(record, "_fields") else record[name]


def with_each(record: Any, each: dict[Any, Any]) -> Any:
    """The record of the whole with those of the parts put in."""
    if WHOLE in each:
        return each[WHOLE]
    if isinstance(record, dict) or hasattr(record, "_fields"):
        return set_fields(record, each)
    return tuple(each.values())


def split_key(key: Array, names: Iterable[Any]) -> dict[Any, Array]:
    """A key for each name."""
    names = tuple(names)
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))

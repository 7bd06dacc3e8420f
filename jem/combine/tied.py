"""K copies of one node that share fields."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem import tree
from jem.combine.stack import Stack
from jem.composite import WHOLE, Composite
from jem.node import (
    ORDERLESS,
    Data,
    Node,
    Params,
    Posterior,
    Stats,
    field_names,
    node,
    replaced,
    set_once,
    setting,
    static,
)
from jem.settings import check_child, describe, whole


@node
class Tied(Composite):
    """K copies of one node that share some fields of their parameters, which then have no axis K.

    `p_k(x) = p(x | own[k], shared)`. Without field names everything is shared. A shared covariance is found in closed form
    from the pooled scatter; a shared part of a `Product`, and any node shared whole, from its summed statistics. Each copy
    brings its prior, but a node shared whole has it once. Of covariances with parts, `jem.covariance.Eigen()` and
    `ScaledDiagonal()`, "volume", "shape" and "orientation" may be shared one by one.

    Args:
        child: the node.
        size: K.
        *fields: names of the shared fields.

    Raises:
        TypeError: a child that is no node, or a plate; a shared field that is not named by a string.
        ValueError: no field of that name, when parameters are made.

    Example:
        >>> import jem
        >>> jem.Tied(jem.Gaussian(), 3, "whitening").fields
        ('whitening',)

    Source: Celeux and Govaert (1995), Pattern Recognition 28.
    """

    child: Node = setting(must=check_child)
    size: int = static(must=whole(1))
    fields: tuple[str, ...] = static()

    def __init__(self, child: Node, size: int, *fields: str):
        for f in fields:
            if not isinstance(f, str):
                raise TypeError(f"Tied: expected names of fields; got {describe(f)}")
        set_once(self, child=child, size=size, fields=fields)

    def axes(self, params: Params) -> Params:
        """vmap axes of the parameters: None for shared fields, 0 for the others."""
        return self.child.sharing(params, self.fields) if self.fields else None

    def parts(self) -> dict[Any, Node]:
        return {WHOLE: self.child}

    @property
    def traits(self) -> frozenset[str]:
        return super().traits | {ORDERLESS}

    def permute(self, params: Params, order: Array) -> Params:
        if not self.fields:
            return params
        return self._split(params, lambda shared: shared, lambda own: own[order], params)

    def with_parts(self, parts: dict[Any, Node]) -> "Tied":
        return replaced(self, child=parts[WHOLE])

    def each(self, question: Callable[..., Any], params: tuple[Params, ...], stats: tuple[Stats, ...] = ()) -> dict[Any, Any]:
        axes = (*(self.axes(p) for p in params), *(0 for _ in stats))
        return {WHOLE: jax.vmap(functools.partial(question, self.child), axes, axis_size=self.size)(*params, *stats)}

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        return self.child.infer_each(params, x, self.axes(params), self.size)

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        return self.child.expect_each(params, posterior, x, weights, self.axes(params))

    def complete(self, params: Params, posterior: Posterior, x: Data, key: Array | None = None) -> Data:
        keys = None if key is None else jax.random.split(key, self.size)
        return jax.vmap(self.child.complete, (self.axes(params), 0, None, 0))(params, posterior, x, keys)

    def hidden(self, key: Array, params: Params, posterior: Posterior, x: Data) -> Any:
        keys = jax.random.split(key, self.size)
        return jax.vmap(self.child.hidden, (0, self.axes(params), 0, None))(keys, params, posterior, x)

    def of_columns(self, columns: tuple[int, ...]) -> Stack:
        return Stack(self.child.of_columns(columns), self.size)  # what copies share they need not share in part

    def marginal(self, params: Params, columns: tuple[int, ...]) -> Params:
        of = lambda p: self.child.marginal(p, columns)  # noqa: E731
        return jax.vmap(of, (self.axes(params),), axis_size=self.size)(params)

    def conditional(self, params: Params, given: tuple[int, ...], rest: tuple[int, ...], values: Array) -> tuple[Params, Array]:
        of = lambda p: self.child.conditional(p, given, rest, values)  # noqa: E731
        return jax.vmap(of, (self.axes(params),), axis_size=self.size)(params)

    def maximize(self, params: Params, stats: Stats) -> Params:
        return self.child.tie(params, stats, self.fields or field_names(params))

    def expected_log_prob(self, params: Params, stats: Stats, old: Params) -> Array:
        axes = self.axes(params)
        return jnp.sum(jax.vmap(self.child.expected_log_prob, (axes, 0, axes))(params, stats, old))

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        own_key, shared_key = jax.random.split(key)
        own = jax.vmap(self.child.init, (0, None, 0))(jax.random.split(own_key, self.size), x, weights)
        shared = self.child.init(shared_key, x, jnp.sum(weights, 0))
        if not self.fields:
            return shared
        return self._split(own, lambda own, shared: shared, lambda own, shared: own, own, shared)

    def _split(self, params: Params, shared: Callable[..., Any], own: Callable[..., Any], *records: Params) -> Params:
        """A record of what the one function says of the leaves that are shared, and the other of those that are not."""
        part = lambda axis, *leaves: jax.tree.map(shared if axis is None else own, *leaves)  # noqa: E731
        return jax.tree.map(part, self.axes(params), *records, is_leaf=lambda axis: axis is None)

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        draw = jax.vmap(lambda k, p: self.child.sample(k, p, num), (0, self.axes(params)))
        return draw(jax.random.split(key, self.size), params)

    def sample_like(self, key: Array, params: Params, x: Data) -> tuple[Any, Data]:
        draw = jax.vmap(lambda k, p: self.child.sample_like(k, p, x), (0, self.axes(params)))
        return draw(jax.random.split(key, self.size), params)

    def enter(self, params: Params) -> Params:
        return params  # what is shared is moved by nobody alone

    def log_prior(self, params: Params) -> Array:
        return super().log_prior(params) if self.fields else self.child.log_prior(params)

    def degenerate(self, params: Params, stats: Stats) -> Array:
        mean = jax.tree.map(lambda s: jnp.broadcast_to(jnp.mean(s, 0), s.shape), stats)
        return super().degenerate(params, mean)

    def gauge(self, params: Params) -> dict[str, int]:
        if not self.fields:
            return self.child.gauge(params)
        one = self._split(params, lambda shared: shared, tree.unstack_shape, params)
        return {name: num * (1 if name in self.fields else self.size) for name, num in self.child.gauge(one).items()}

    def hold(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Stats:
        return jax.vmap(lambda s: self.child.hold(params, s, fields))(stats)

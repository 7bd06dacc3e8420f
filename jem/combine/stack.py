"""K copies of one node: a plate, whose `infer` gives log-probabilities (K, N) and whose `expect` takes weights (K, N)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem import tree
from jem.composite import WHOLE, Composite
from jem.node import (
    ORDERLESS,
    Data,
    Node,
    Params,
    Posterior,
    Stats,
    node,
    replaced,
    setting,
    static,
)
from jem.settings import check_child, whole


@node
class Stack(Composite):
    """K independent copies of one node: its parameters with a leading axis K, under one vmap.

    `p_k(x) = p(x | params[k])`: log-probabilities (K, N), of which a mixture or a chain makes one law.

    Attributes:
        child: the node.
        size: K.

    Raises:
        TypeError: a child that is no node, or a plate.

    Example:
        >>> import jem
        >>> jem.Stack(jem.Gaussian(), 3).size
        3
    """

    child: Node = setting(must=check_child)
    size: int = static(must=whole(1))

    def parts(self) -> dict[Any, Node]:
        return {WHOLE: self.child}

    @property
    def traits(self) -> frozenset[str]:
        return super().traits | {ORDERLESS}

    def permute(self, params: Params, order: Array) -> Params:
        return jax.tree.map(lambda leaf: leaf[order], params)

    def with_parts(self, parts: dict[Any, Node]) -> "Stack":
        return replaced(self, child=parts[WHOLE])

    def each(self, question: Callable[..., Any], params: tuple[Params, ...], stats: tuple[Stats, ...] = ()) -> dict[Any, Any]:
        return {WHOLE: jax.vmap(functools.partial(question, self.child))(*params, *stats)}

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        return self.child.infer_each(params, x, 0, self.size)

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        return self.child.expect_each(params, posterior, x, weights, 0)

    def complete(self, params: Params, posterior: Posterior, x: Data, key: Array | None = None) -> Data:
        keys = None if key is None else jax.random.split(key, self.size)
        return jax.vmap(self.child.complete, (0, 0, None, 0))(params, posterior, x, keys)

    def hidden(self, key: Array, params: Params, posterior: Posterior, x: Data) -> Any:
        return jax.vmap(self.child.hidden, (0, 0, 0, None))(jax.random.split(key, self.size), params, posterior, x)

    def of_columns(self, columns: tuple[int, ...]) -> "Stack":
        return Stack(self.child.of_columns(columns), self.size)

    def marginal(self, params: Params, columns: tuple[int, ...]) -> Params:
        return jax.vmap(lambda p: self.child.marginal(p, columns))(params)

    def conditional(self, params: Params, given: tuple[int, ...], rest: tuple[int, ...], values: Array) -> tuple[Params, Array]:
        return jax.vmap(lambda p: self.child.conditional(p, given, rest, values))(params)

    def maximize(self, params: Params, stats: Stats) -> Params:
        return jax.vmap(self.child.maximize)(params, stats)

    def expected_log_prob(self, params: Params, stats: Stats, old: Params) -> Array:
        return jnp.sum(jax.vmap(self.child.expected_log_prob)(params, stats, old))

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        return jax.vmap(self.child.init, (0, None, 0))(jax.random.split(key, self.size), x, weights)

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        return jax.vmap(lambda k, p: self.child.sample(k, p, num))(jax.random.split(key, self.size), params)

    def sample_like(self, key: Array, params: Params, x: Data) -> tuple[Any, Data]:
        return jax.vmap(lambda k, p: self.child.sample_like(k, p, x))(jax.random.split(key, self.size), params)

    def gauge(self, params: Params) -> dict[str, int]:
        return {name: self.size * num for name, num in self.child.gauge(tree.unstack_shape(params)).items()}

    def hold(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Stats:
        return jax.vmap(lambda p, s: self.child.hold(p, s, fields))(params, stats)

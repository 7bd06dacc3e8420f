"""Different nodes as the components of one plate."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem.composite import Composite, inputs_of
from jem.data import with_inputs, without_inputs
from jem.node import (
    INPUTS,
    Data,
    Node,
    Params,
    Posterior,
    Stats,
    node,
    replaced,
    set_once,
)
from jem.settings import check_node


def members(plate: Node) -> int:
    """Number of components of a node: the size of a plate, 1 for anything else."""
    return getattr(plate, "size", 1)


@node
class OneOf(Composite):
    """Different nodes as the components of one mixture; a plate among them contributes all its components.

    `p_k(x) = p(x | params[k])`, with the law of child k. Params, posterior and statistics are tuples, one entry per child.
    Where x is `jem.Given(outputs, inputs)`, a regression sees both, and a child that takes no inputs the outputs.

    Args:
        *children: the nodes.

    Raises:
        ValueError: no component.
        TypeError: a component that is no node.

    Example:
        >>> import jem
        >>> clusters_and_tail = jem.Mixture(jem.OneOf(jem.Stack(jem.Gaussian(), 2), jem.StudentT()))
        >>> clusters_and_tail.components.size
        3
    """

    children: tuple[Node, ...]

    def __init__(self, *children: Node):
        if not children:
            raise ValueError("OneOf: give at least one node, as OneOf(jem.Gaussian(), jem.StudentT())")
        for i, child in enumerate(children):
            check_node(child, f"OneOf: component {i}")
        set_once(self, children=children)

    @property
    def size(self) -> int:
        """Number of components."""
        return sum(members(c) for c in self.children)

    def _rows(self, weights: Array) -> list[Array]:
        """The rows of (K, N) weights that belong to each child: (N,) for a node, (k, N) for a plate."""
        rows, start = [], 0
        for child in self.children:
            stop = start + members(child)
            rows.append(weights[start:stop] if hasattr(child, "size") else weights[start])
            start = stop
        return rows

    def parts(self) -> dict[Any, Node]:
        return dict(enumerate(self.children))

    def with_parts(self, parts: dict[Any, Node]) -> "OneOf":
        return replaced(self, children=tuple(parts.values()))

    @property
    def traits(self) -> frozenset[str]:
        return super().traits | inputs_of(self.children)

    def share(self, name: Any, x: Data) -> Data:
        outputs_alone = INPUTS in self.traits and INPUTS not in self.children[name].traits
        return without_inputs(x)[0] if outputs_alone else x

    def _shares(self, x: Data) -> list[Data]:
        return [self.share(i, x) for i in range(len(self.children))]

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        pairs = [c.infer(p, s) for c, p, s in zip(self.children, params, self._shares(x), strict=True)]
        return tuple(q for q, _ in pairs), jnp.concatenate([jnp.reshape(lp, (-1, lp.shape[-1])) for _, lp in pairs])

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        args = zip(self.children, params, posterior, self._shares(x), self._rows(weights), strict=True)
        return tuple(c.expect(p, q, s, w) for c, p, q, s, w in args)

    def complete(self, params: Params, posterior: Posterior, x: Data, key: Array | None = None) -> Data:
        keys = [None] * len(self.children) if key is None else jax.random.split(key, len(self.children))
        args = zip(self.children, params, posterior, self._shares(x), keys, strict=True)
        return self._together([((), c.complete(p, q, s, k)) for c, p, q, s, k in args], x)[1]

    def hidden(self, key: Array, params: Params, posterior: Posterior, x: Data) -> Any:
        args = zip(self.children, jax.random.split(key, len(self.children)), params, posterior, self._shares(x), strict=True)
        each = tuple(c.hidden(k, p, q, s) for c, k, p, q, s in args)
        return each if jax.tree.leaves(each) else ()

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        keys = jax.random.split(key, len(self.children))
        args = zip(self.children, keys, self._shares(x), self._rows(weights), strict=True)
        return tuple(c.init(k, s, w) for c, k, s, w in args)

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        keys = jax.random.split(key, len(self.children))
        return self._together([c.sample(k, p, num) for c, k, p in zip(self.children, keys, params, strict=True)])

    def sample_like(self, key: Array, params: Params, x: Data) -> tuple[Any, Data]:
        keys = jax.random.split(key, len(self.children))
        args = zip(self.children, keys, params, self._shares(x), strict=True)
        return self._together([c.sample_like(k, p, s) for c, k, p, s in args], x)

    def _together(self, draws: list[tuple[Any, Data]], like: Data = None) -> tuple[Any, Data]:
        """What the children drew, as rows of one plate, with the inputs of the data it is like."""

        def row(child: Node, x: Data) -> Data:
            outputs = without_inputs(x)[0]
            return outputs if hasattr(child, "size") else jax.tree.map(lambda a: a[None], outputs)

        rows = [row(c, x) for c, (_, x) in zip(self.children, draws, strict=True)]
        new = jax.tree.map(lambda *parts: jnp.concatenate(parts), *rows)
        lift = lambda a: jnp.broadcast_to(a, (self.size, *a.shape))  # noqa: E731
        inputs = without_inputs(like)[1]
        return tuple(z for z, _ in draws), new if inputs is None else with_inputs(new, jax.tree.map(lift, inputs))

    def features(self, x: Data) -> Array:
        return self.children[0].features(self.share(0, x))

    def must_be_finite(self, x: Data) -> Data:
        left = [child.must_be_finite(s) for child, s in zip(self.children, self._shares(x), strict=True)]
        return super().must_be_finite(x) if any(map(jax.tree.leaves, left)) else ()

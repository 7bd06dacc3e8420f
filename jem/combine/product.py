"""Independent parts side by side."""

from typing import Any

import jax
from jax import Array

from jem import checks, tree
from jem.composite import Composite, inputs_of, split_key
from jem.data import with_inputs, without_inputs
from jem.node import (
    INPUTS,
    Data,
    Node,
    Params,
    Posterior,
    Stats,
    field_names,
    node,
    replaced,
    set_once,
)
from jem.settings import check_child


@node
class Product(Composite):
    """Independent parts, each with a node of its own: `p(x) = prod_i p_i(x[i])`. Mixed types in one unit.

    x, params, posterior and statistics are dicts with the parts' names. Where x is `jem.Given(outputs, inputs)`, the dict is
    the outputs: parts that are regressions see the inputs beside their own.

    Args:
        **parts: the nodes, by name.

    Raises:
        ValueError: no part; at the door, x that is no dict with their names.
        TypeError: a part that is no node, or a plate.

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

    @property
    def traits(self) -> frozenset[str]:
        return super().traits | inputs_of(self.children.values())

    def share(self, name: Any, x: Data) -> Data:
        if INPUTS not in self.traits:
            return x[name]
        outputs, inputs = without_inputs(x)
        return with_inputs(outputs[name], inputs) if INPUTS in self.children[name].traits else outputs[name]

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        pairs = {n: c.infer(params[n], self.share(n, x)) for n, c in self.children.items()}
        return {n: q for n, (q, _) in pairs.items()}, tree.total(lp for _, lp in pairs.values())

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        return {n: c.expect(params[n], posterior[n], self.share(n, x), weights) for n, c in self.children.items()}

    def complete(self, params: Params, posterior: Posterior, x: Data, key: Array | None = None) -> Data:
        keys = dict.fromkeys(self.children) if key is None else split_key(key, self.children)
        each = {n: c.complete(params[n], posterior[n], self.share(n, x), keys[n]) for n, c in self.children.items()}
        return self._together(each, x)

    def _together(self, parts: dict[str, Data], like: Data) -> Data:
        """What the parts say of their shares, as data like those."""
        return with_inputs({n: without_inputs(part)[0] for n, part in parts.items()}, without_inputs(like)[1])

    def hidden(self, key: Array, params: Params, posterior: Posterior, x: Data) -> Any:
        keys = split_key(key, self.children)
        each = {n: c.hidden(keys[n], params[n], posterior[n], self.share(n, x)) for n, c in self.children.items()}
        return each if jax.tree.leaves(each) else ()

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        keys = split_key(key, self.children)
        return {n: c.init(keys[n], self.share(n, x), weights) for n, c in self.children.items()}

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        keys = split_key(key, self.children)
        draws = {n: c.sample(keys[n], params[n], num) for n, c in self.children.items()}
        return {n: z for n, (z, _) in draws.items()}, {n: x for n, (_, x) in draws.items()}

    def sample_like(self, key: Array, params: Params, x: Data) -> tuple[Any, Data]:
        keys = split_key(key, self.children)
        draws = {n: c.sample_like(keys[n], params[n], self.share(n, x)) for n, c in self.children.items()}
        return {n: z for n, (z, _) in draws.items()}, self._together({n: new for n, (_, new) in draws.items()}, x)

    def validate(self, x: Data) -> None:
        checks.check_parts(without_inputs(x)[0] if INPUTS in self.traits else x, tuple(self.children))
        super().validate(x)

    def must_be_finite(self, x: Data) -> Data:
        return {n: c.must_be_finite(self.share(n, x)) for n, c in self.children.items()}

    def tie(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Params:
        def one(name: str, part: Node) -> Params:
            p, s = params[name], stats[name]
            return part.tie(p, s, field_names(p)) if name in fields else jax.vmap(part.maximize)(p, s)

        return {name: one(name, part) for name, part in self.children.items()}

"""Families of which values outside of a window are never seen."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.composite import Wrapper
from jem.data import Given, Interval, single_steps
from jem.kernels.intervals import Within
from jem.node import INPUTS, Data, Node, Params, Posterior, Stats, node, setting
from jem.settings import check_child, number, optional

_ROUNDS = 10_000  # of draws until all lie in the window


@node
class Truncated(Wrapper):
    """A family of which only values from `lower` to `upper` are seen, `p(x) = f(x) / P(lower < X < upper)` of each cell.

    Each value that is seen hides `(1 - P) / P` others outside, on average: that is EM, and the M-step is the family's own. Of
    counts both ends belong to the window, so that `jem.Truncated(jem.Poisson(), lower=1)` is the zero-truncated law and
    `jem.Mixture(jem.OneOf(jem.Point(0.0), jem.Truncated(jem.Poisson(), lower=1)))` a hurdle model. Families are those of
    `jem.Censored`, of one column; `jem.GLM` with inputs is one. Rows outside of the window have `log p = -inf`.

    Args:
        child: the family.
        lower: the least value that is seen, a number; None for no such end.
        upper: the largest, likewise.

    Raises:
        TypeError: a child that is no node, a plate, or a family that takes no intervals.
        ValueError: at the door, x of more than one column, or that the family refuses.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Poisson.Params(jnp.array([1.0]))
        >>> some = jem.Truncated(jem.Poisson(), lower=1)
        >>> [round(float(v), 3) for v in jnp.exp(jem.log_prob(some, p, jnp.array([[0], [1], [2]])))]
        [0.0, 0.582, 0.291]

    Source: Dempster, Laird and Rubin (1977), section 4.2.
    """

    child: Node = setting(must=check_child)
    lower: Any = setting(default=None, must=optional(number()))
    upper: Any = setting(default=None, must=optional(number()))

    @property
    def traits(self) -> frozenset[str]:
        return self.child.traits & {INPUTS}

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        posterior, log_prob = self.child.infer(params, x)
        window = self._within(params, x, self.lower, self.upper).log_prob[0]
        return posterior, jnp.where(self._inside(x), log_prob - window, -jnp.inf)

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        stats = self.child.expect(params, posterior, x, weights)
        window = self._within(params, x, self.lower, self.upper).log_prob
        weights = weights if isinstance(x, Given) else jnp.sum(weights, keepdims=True)
        for side in self._outside():
            points, shares, log_prob = self._within(params, x, *side)
            hidden = shares.reshape(len(shares), -1) * (weights * jnp.exp(log_prob[0] - window[0]))[None]
            units = single_steps(points)
            if isinstance(x, Given):
                units = Given(units, jax.tree.map(lambda u: jnp.tile(u, len(shares)), x.inputs))  # noqa: B023
            more = self.child.expect(params, self.child.infer(params, units)[0], units, hidden.reshape(-1))
            stats = jax.tree.map(jnp.add, stats, more)
        return stats

    def _outside(self) -> list[tuple[Any, Any]]:
        """The intervals on either side of the window."""
        step = 1 if self.child.edges.whole else 0
        below = [] if self.lower is None else [(None, self.lower - step)]
        return below + ([] if self.upper is None else [(self.upper + step, None)])

    def _within(self, params: Params, x: Data, lower: Any, upper: Any) -> Within:
        """What the family says of an interval: once for all units, or for each where it has inputs."""
        size = x.inputs.shape[-1] if isinstance(x, Given) else 1
        dtype = jnp.result_type(*jax.tree.leaves(params))
        ends = (jnp.full((1, size), at if end is None else end, dtype) for end, at in ((lower, -jnp.inf), (upper, jnp.inf)))
        interval = Interval(*ends)
        return self.child.within(params, Given(interval, x.inputs) if isinstance(x, Given) else interval)

    def _inside(self, x: Data) -> Array:
        """(N,) bool: the units in the window."""
        rows = x.outputs if isinstance(x, Given) else x
        least, most = (jnp.inf if end is None else end for end in (self.lower, self.upper))
        above = rows[0] >= (-least if self.lower is None else least)
        return above & (rows[0] <= most)

    def complete(self, params: Params, posterior: Posterior, x: Data, key: Array | None = None) -> Data:
        return Node.complete(self, params, posterior, x, key)

    def of_columns(self, columns: tuple[int, ...]) -> Node:
        return Node.of_columns(self, columns)

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        return self._until_inside(key, lambda key: self.child.sample(key, params, num))

    def sample_like(self, key: Array, params: Params, x: Data) -> tuple[Any, Data]:
        return self._until_inside(key, lambda key: self.child.sample_like(key, params, x))

    def _until_inside(self, key: Array, draw: Callable[[Array], Any]) -> Any:
        """Draws until each unit has one in the window."""

        def again(state: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
            count, key, kept = state
            key, use = jax.random.split(key)
            fits = self._inside(kept[1])
            return count + 1, key, jax.tree.map(lambda old, new: jnp.where(fits, old, new), kept, draw(use))

        key, use = jax.random.split(key)
        outside = lambda state: ~jnp.all(self._inside(state[2][1])) & (state[0] < _ROUNDS)  # noqa: E731
        return lax.while_loop(outside, again, (jnp.array(0), key, draw(use)))[2]

    def validate(self, x: Data) -> None:
        self.child.validate(x)
        rows = x.outputs if isinstance(x, Given) else x
        if rows.ndim != 2 or rows.shape[1] != 1:
            raise ValueError(
                f"Truncated: x must have one column, (N, 1); got shape {rows.shape}; give each a part of a jem.Product"
            )

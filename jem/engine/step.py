"""One E-step over laid-out data, what a solver sees of it, and plain EM as a solver."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jem.engine.stream import Chunks, fold
from jem.node import Node, Params, Stats, node

Total = Callable[[Callable[[Any, Array], Any]], Any]


def e_step(
    model: Node, params: Params, data: Chunks, reduce: Callable[[Any], Any] = lambda t: t
) -> tuple[Stats, Array]:
    """Expected sufficient statistics and weighted log-likelihood `sum_n w_n log p(x_n | params)`, chunk by chunk.

    Args:
        model: the node.
        params: its parameters.
        data: laid-out units.
        reduce: sums a tree over devices.
    """
    return fold(lambda x, weights: e_step_chunk(model, params, x, weights), data, reduce)


def e_step_chunk(model: Node, params: Params, x: Any, weights: Array) -> tuple[Stats, Array]:
    """The E-step of one chunk, units last."""
    posterior, log_prob = model.infer(params, x)
    return model.expect(params, posterior, x, weights), jnp.sum(weights * log_prob)


class EStep(NamedTuple):
    """Statistics, weighted log-likelihood, and the lower bound of it that the statistics belong to (itself if exact)."""

    stats: Stats
    log_likelihood: Array
    bound: Array


class Evaluated(NamedTuple):
    """What a solver sees when its candidate has been evaluated.

    Attributes:
        params: the candidate.
        stats: statistics gathered at it.
        objective: bound + log prior there.
        accepted: whether it is finite and no worse than the parameters accepted before; if not, these were kept.
        total: `total(fn)` is the sum of `fn(x, weights)` over all data, in chunks with the units last: a pass over the data.
    """

    params: Params
    stats: Stats
    objective: Array
    accepted: Array
    total: Total


class Solver:
    """What makes the next parameters. Write `step`; the rest has defaults. The state is a tree of fixed shapes, one a lane."""

    def init(self, model: Node, params: Params) -> Any:
        """The state before the first E-step."""
        return ()

    def e_step(self, model: Node, params: Params, total: Total, state: Any) -> EStep:
        """The E-step at the candidate; exact by default."""
        stats, log_likelihood = total(lambda x, weights: e_step_chunk(model, params, x, weights))
        return EStep(stats, log_likelihood, log_likelihood)

    def step(self, model: Node, seen: Evaluated, state: Any) -> tuple[Params, Any]:
        """The next candidate, and the next state."""
        raise TypeError(f"{type(self).__name__} does not define step")

    def retries(self, state: Any) -> Array:
        """Whether a candidate that is refused is followed by another one; if not, the lane ends there. A scalar bool."""
        return jnp.array(False)

    def refusals(self, state: Any) -> Array:
        """Steps refused so far. A scalar int."""
        return jnp.array(0, jnp.int32)


@node
class EM(Solver):
    """Plain EM: the next parameters are the M-step's.

    Example:
        >>> import jem
        >>> jem.EM()
        EM()
    """

    def step(self, model: Node, seen: Evaluated, state: Any) -> tuple[Params, Any]:
        """The M-step."""
        return model.maximize(seen.params, seen.stats), state

"""One E-step and one M-step over laid-out data, and plain EM as a solver."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from jem.engine.stream import Chunks, fold
from jem.node import Node, Params, Stats, node


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


@node
class EM:
    """Plain EM: the next parameters are the M-step's.

    A solver has `init(model, params) -> state` and `step(model, params, stats, state) -> (params, state)`.
    """

    def init(self, model: Node, params: Params) -> Any:
        """No state."""
        return ()

    def step(self, model: Node, params: Params, stats: Stats, state: Any) -> tuple[Params, Any]:
        """The M-step."""
        return model.maximize(params, stats), state

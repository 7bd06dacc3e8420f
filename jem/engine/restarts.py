"""Schedules: which starts are finished. By default all of them; every other choice can lose the best optimum, and says so."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem.engine.result import Status
from jem.node import node, static


@node
class FinishAll:
    """Every start runs until its own end. The default: it loses nothing."""

    def rungs(self, num: int, max_steps: int) -> list[tuple[int, int]]:
        """(steps, lanes) of each rung."""
        return [(max_steps, num)]

    def signature(self, model: Any, params: Any, data: Any) -> Array:
        """What lanes are recognised by: nothing."""
        return jnp.zeros(0, data.weights.dtype)

    def screen(self, lanes: Any, table: Any, slots: Array) -> Array:
        """Lanes to give up now: none."""
        return jnp.zeros(slots.shape, bool)


@node
class Halving:
    """Successive halving: after `first` steps the better half go on for twice as many steps, down to `keep` lanes.

    Fast, and often wrong: early rank does not predict final rank. Use it to find a good optimum, not the best.

    Attributes:
        first: steps of the first rung.
        keep: lanes that are finished.

    Source: Jamieson and Talwalkar (2016), AISTATS.
    """

    first: int = static(default=20)
    keep: int = static(default=8)

    def rungs(self, num: int, max_steps: int) -> list[tuple[int, int]]:
        """(steps, lanes) of each rung."""
        rungs, steps, lanes = [], self.first, num
        while lanes > self.keep and steps < max_steps:
            rungs.append((steps, lanes))
            steps, lanes = 2 * steps, max(lanes // 2, self.keep)
        return [*rungs, (max_steps, lanes)]

    def signature(self, model: Any, params: Any, data: Any) -> Array:
        """What lanes are recognised by: nothing."""
        return jnp.zeros(0, data.weights.dtype)

    def screen(self, lanes: Any, table: Any, slots: Array) -> Array:
        """Lanes to give up now: none, between the rungs."""
        return jnp.zeros(slots.shape, bool)


@node
class PruneByLimit:
    """Gives up a lane whose predicted limit lies below the best lane already converged.

    The limit is Aitken's, `l + gain * r / (1 - r)` with r the ratio of the last two gains. A lane goes where even
    `safety` times its predicted remaining gain does not reach the best; before `first` steps none goes. An accelerated path
    predicts nothing, so with an accelerated solver hardly a lane goes.

    Attributes:
        safety: factor on the predicted remaining gain, >= 1.
        first: steps before which no lane is given up.

    Source: Boehning et al. (1994), Ann. Inst. Statist. Math. 46.
    """

    safety: Any = 10.0
    first: Any = 20

    def rungs(self, num: int, max_steps: int) -> list[tuple[int, int]]:
        """(steps, lanes) of each rung."""
        return [(max_steps, num)]

    def signature(self, model: Any, params: Any, data: Any) -> Array:
        """What lanes are recognised by: nothing."""
        return jnp.zeros(0, data.weights.dtype)

    def screen(self, lanes: Any, table: Any, slots: Array) -> Array:
        """Lanes to give up now."""
        best = jnp.max(jnp.where(table.status == Status.CONVERGED, table.objective, -jnp.inf))
        reach = lanes.objective + self.safety * (lanes.limit - lanes.objective)
        return (lanes.num_steps > self.first) & (reach < best)


@node
class MergeDuplicates:
    """Gives up a lane that has come to an optimum which another lane already reached.

    Lanes are recognised by their log-densities at `probes` units, whatever the order of the components: a lane goes where
    these differ from a converged lane's by no more than `tolerance` on average and its objective is not above it.

    Attributes:
        tolerance: mean absolute difference of log-densities, in nats.
        probes: number of units looked at.
    """

    tolerance: Any = 1e-2
    probes: int = static(default=64)

    def rungs(self, num: int, max_steps: int) -> list[tuple[int, int]]:
        """(steps, lanes) of each rung."""
        return [(max_steps, num)]

    def signature(self, model: Any, params: Any, data: Any) -> Array:
        """Log-densities at the first units of the data."""
        probes = jax.tree.map(lambda leaf: leaf[0, ..., : self.probes], data.x)
        return model.infer(params, probes)[1].astype(data.weights.dtype)

    def screen(self, lanes: Any, table: Any, slots: Array) -> Array:
        """Lanes to give up now."""
        distance = jnp.mean(jnp.abs(lanes.signature[:, None, :] - table.signature[None, :, :]), -1)
        known = (table.status == Status.CONVERGED)[None, :] & (table.objective[None, :] >= lanes.objective[:, None])
        return jnp.any(known & (distance <= self.tolerance), 1)

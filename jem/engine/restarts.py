"""Schedules: which starts are finished. By default all of them; every other choice can lose the best optimum, and says so."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem.documented import Documented
from jem.engine.result import Status
from jem.node import node, setting, static
from jem.settings import number, whole


class Schedule(Documented):
    """Which starts are finished: all of them in one rung, by default, and none given up on the way.

    Write `rungs`, or `signature` and `screen`.
    """

    def rungs(self, num: int, max_steps: int) -> list[tuple[int, int]]:
        """(steps, lanes) of each rung: so many of the best lanes go on until they have taken so many steps."""
        return [(max_steps, num)]

    def signature(self, model: Any, params: Any, data: Any) -> Array:
        """What a lane is recognised by, an array; empty by default."""
        return jnp.zeros(0, data.weights.dtype)

    def screen(self, lanes: Any, table: Any, slots: Array) -> Array:
        """(G,) bool: which of the lanes in the slots to give up now; `table` has all lanes."""
        return jnp.zeros(slots.shape, bool)


@node
class FinishAll(Schedule):
    """Every start runs until its own end. The default: it loses nothing.

    Example:
        >>> import jax, jem
        >>> model, x, schedule = jem.Mixture(jem.Poisson(), 2), [[1], [2], [9], [8]], jem.schedules.FinishAll()
        >>> fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8, schedule=schedule)
        >>> bool(fits.best().converged)
        True
    """


@node
class Halving(Schedule):
    """Successive halving: after `first` steps the better half go on for twice as many steps, down to `keep` lanes.

    Fast, and often wrong: early rank does not predict final rank. Use it to find a good optimum, not the best.

    Attributes:
        first: steps of the first rung.
        keep: lanes that are finished.

    Example:
        >>> import jax, jem
        >>> model, x, schedule = jem.Mixture(jem.Poisson(), 2), [[1], [2], [9], [8]], jem.schedules.Halving(first=5, keep=2)
        >>> fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8, schedule=schedule)
        >>> bool(fits.best().converged)
        True

    Source: Jamieson and Talwalkar (2016), AISTATS.
    """

    first: int = static(default=20, must=whole(1))
    keep: int = static(default=8, must=whole(1))

    def rungs(self, num: int, max_steps: int) -> list[tuple[int, int]]:
        rungs, steps, lanes = [], self.first, num
        while lanes > self.keep and steps < max_steps:
            rungs.append((steps, lanes))
            steps, lanes = 2 * steps, max(lanes // 2, self.keep)
        return [*rungs, (max_steps, lanes)]


@node
class PruneByLimit(Schedule):
    """Gives up a lane whose predicted limit lies below the best lane already converged.

    The limit is the objective and what `Fit.remaining` says is left; where the path does not show that yet it is Aitken's, for
    which it takes plain steps. A lane goes where even `safety` times what is left does not reach the best; none goes before
    `first` steps.

    Attributes:
        safety: factor on the predicted remaining gain, >= 1.
        first: steps before which no lane is given up.

    Example:
        >>> import jax, jem
        >>> model, x, schedule = jem.Mixture(jem.Poisson(), 2), [[1], [2], [9], [8]], jem.schedules.PruneByLimit()
        >>> fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8, schedule=schedule)
        >>> bool(fits.best().converged)
        True

    Source: Boehning et al. (1994), Ann. Inst. Statist. Math. 46.
    """

    safety: Any = setting(default=10.0, must=number(least=1.0))
    first: Any = setting(default=20, must=number(least=0.0))

    def screen(self, lanes: Any, table: Any, slots: Array) -> Array:
        best = jnp.max(jnp.where(table.status == Status.CONVERGED, table.objective, -jnp.inf))
        left = lanes.limit - lanes.objective
        if lanes.path is not None:
            known = jnp.isfinite(lanes.path.forecast[:, 0, 1])
            left = jnp.where(known, lanes.path.forecast[:, 0, 1], left)
        reach = lanes.objective + self.safety * left
        return (lanes.num_steps > self.first) & (reach < best)


@node
class MergeDuplicates(Schedule):
    """Gives up a lane that has come to an optimum which another lane already reached.

    Lanes are recognised by their log-densities at `probes` units, whatever the order of the components: a lane goes where
    these differ from a converged lane's by no more than `tolerance` on average and its objective is not above it.

    Attributes:
        tolerance: mean absolute difference of log-densities, in nats.
        probes: number of units looked at.

    Example:
        >>> import jax, jem
        >>> model, x, schedule = jem.Mixture(jem.Poisson(), 2), [[1], [2], [9], [8]], jem.schedules.MergeDuplicates()
        >>> fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8, schedule=schedule)
        >>> bool(fits.best().converged)
        True
    """

    tolerance: Any = setting(default=1e-2, must=number(least=0.0))
    probes: int = static(default=64, must=whole(1))

    def signature(self, model: Any, params: Any, data: Any) -> Array:
        probes = jax.tree.map(lambda leaf: leaf[0, ..., : self.probes], data.x)
        return model.infer(params, probes)[1].astype(data.weights.dtype)

    def screen(self, lanes: Any, table: Any, slots: Array) -> Array:
        distance = jnp.mean(jnp.abs(lanes.signature[:, None, :] - table.signature[None, :, :]), -1)
        known = (table.status == Status.CONVERGED)[None, :] & (table.objective[None, :] >= lanes.objective[:, None])
        return jnp.any(known & (distance <= self.tolerance), 1)

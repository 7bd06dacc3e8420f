"""One E-step over laid-out data, what a solver sees of it, and plain EM as a solver."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.documented import Documented
from jem.engine.path import Path, Point
from jem.engine.stream import Chunks, Total, fold
from jem.kernels.support import ByGradient
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
    # What does not count may be impossible.
    return model.expect(params, posterior, x, weights), jnp.sum(jnp.where(weights != 0, weights * log_prob, 0))


def gradient_fields(model: Node, params: Params) -> list[str]:
    """Places in `params` that have no closed-form M-step; none in a node that does not say where its parameters lie."""
    try:
        supports = jax.tree_util.tree_leaves_with_path(model.supports(params))
    except TypeError:
        return []
    return [jax.tree_util.keystr(path) for path, support in supports if isinstance(support, ByGradient)]


class EStep(NamedTuple):
    """Statistics, weighted log-likelihood, and the lower bound of it that the statistics belong to (itself if exact).

    `carry` is what else the solver's `step` is to find in `Evaluated.carry`.
    """

    stats: Stats
    log_likelihood: Array
    bound: Array
    carry: Any = ()


class Evaluated(NamedTuple):
    """What a solver sees when its candidate has been evaluated.

    Attributes:
        params: the candidate.
        stats: statistics gathered at it.
        objective: bound + log prior there.
        accepted: whether it is finite and no worse than the parameters accepted before; if not, these were kept.
        total: `total(fn)` is the sum of `fn(x, weights)` over all data, in chunks with the units last: a pass over the data.
        close: whether the stopping rule would end the lane, were this a plain step: the next one should be.
        near: whether the stopping rule may be about to end it, whatever the step.
        point: free coordinates and score at the candidate; None where the model does not say where its parameters lie.
        path: the points accepted so far, with the candidate if it is one of them; None as for `point`.
        carry: what the solver's `e_step` put beside the statistics.
    """

    params: Params
    stats: Stats
    objective: Array
    accepted: Array
    total: Total
    close: Array
    near: Array
    point: Point | None
    path: Path | None
    carry: Any = ()


class Standing(NamedTuple):
    """What a candidate is compared with, and what may follow from it.

    Attributes:
        previous: objective from which the gain is counted; minus infinity where there is none to compare with.
        floor: objective below which the candidate is a fall; minus infinity where it may fall.
        plain: plain steps in a row that led to the candidate: 0 after an extrapolated one. A gain says how far the climb has
            come where it is a plain step's, and how fast it goes where two follow each other.
        settled: whether the lane may end here for any other reason than a failure or `max_steps`.
    """

    previous: Array
    floor: Array
    plain: Array | int
    settled: Array | bool


class Solver(Documented):
    """What makes the next parameters. Write `step`; the rest has defaults. The state is a tree of fixed shapes, one a lane."""

    @property
    def shows_rate(self) -> bool:
        """Whether the gains of its steps shrink as EM's do, so that they tell EM's rate of convergence."""
        return True

    @property
    def stationary(self) -> bool:
        """Whether it ends where the objective is stationary, so that the fit has the derivatives of a fixed point of EM."""
        return True

    @property
    def maximizes(self) -> bool:
        """Whether `image` maximises Q, so that half of what the slope promises there is EM's decrement."""
        return True

    @property
    def memory(self) -> int:
        """Steps of the path that it looks back at."""
        return 0

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

    def standing(self, state: Any, objective: Array) -> Standing:
        """What the candidate just made is compared with; `objective` is that of the parameters accepted last."""
        return Standing(objective, objective, 2, True)

    def image(self, candidate: Params, state: Any) -> Params:
        """Where the plain step goes from the parameters evaluated last; `step` has just made the candidate and the state."""
        return candidate

    def prepare(self, model: Node, params: Params, total: Total, state: Any, lane: Array) -> Any:
        """The state from `init`, with what depends on the data, and on the lane's number: different random numbers in each."""
        return state

    def chunk(self, model: Node, params: Params, x: Any, weights: Array) -> Any:
        """What the E-step computes of one chunk, units last: its size in memory decides how large chunks are."""
        return e_step_chunk(model, params, x, weights)

    def retries(self, state: Any) -> Array:
        """Whether a candidate that is refused is followed by another one; if not, the lane ends there. A scalar bool."""
        return jnp.array(False)

    def refusals(self, state: Any) -> Array:
        """Steps refused so far. A scalar int."""
        return jnp.array(0, jnp.int32)


class Inner(NamedTuple):
    """The state of a solver around a solver that has none of its own."""

    inner: Any


class Around(Solver):
    """A solver around a solver: what it does not write itself is the inner one's.

    Subclasses have a field `solver`, and a record with a field `inner` as state.
    """

    solver: Any

    @property
    def shows_rate(self) -> bool:
        return self.solver.shows_rate

    @property
    def stationary(self) -> bool:
        return self.solver.stationary

    @property
    def maximizes(self) -> bool:
        return self.solver.maximizes

    @property
    def memory(self) -> int:
        return self.solver.memory

    def init(self, model: Node, params: Params) -> Any:
        return Inner(self.solver.init(model, params))

    def e_step(self, model: Node, params: Params, total: Total, state: Any) -> EStep:
        return self.solver.e_step(model, params, total, state.inner)

    def step(self, model: Node, seen: Evaluated, state: Any) -> tuple[Params, Any]:
        candidate, inner = self.solver.step(model, seen, state.inner)
        return candidate, state._replace(inner=inner)

    def standing(self, state: Any, objective: Array) -> Standing:
        return self.solver.standing(state.inner, objective)

    def image(self, candidate: Params, state: Any) -> Params:
        return self.solver.image(candidate, state.inner)

    def prepare(self, model: Node, params: Params, total: Total, state: Any, lane: Array) -> Any:
        return state._replace(inner=self.solver.prepare(model, params, total, state.inner, lane))

    def chunk(self, model: Node, params: Params, x: Any, weights: Array) -> Any:
        return self.solver.chunk(model, params, x, weights)

    def retries(self, state: Any) -> Array:
        return self.solver.retries(state.inner)

    def refusals(self, state: Any) -> Array:
        return self.solver.refusals(state.inner)


class Counted(NamedTuple):
    """The inner solver's state, and the number of candidates evaluated."""

    inner: Any
    count: Array


class Unsettled(Around):
    """A solver around a solver whose first `steps` steps may lower the objective.

    The lane takes them all, finite ones, and asks neither whether it fell nor whether it has converged until they are made.
    The state has a field `count`, the number of candidates evaluated.
    """

    steps: Any

    def init(self, model: Node, params: Params) -> Any:
        return Counted(self.solver.init(model, params), jnp.array(0, jnp.int32))

    def standing(self, state: Any, objective: Array) -> Standing:
        """Nothing to compare with while the steps last, and for the candidate that the last of them made."""
        inner = self.solver.standing(state.inner, objective)
        loose, low = state.count <= self.steps, -jnp.inf
        return Standing(
            jnp.where(loose, low, inner.previous), jnp.where(loose, low, inner.floor), inner.plain, inner.settled & ~loose
        )

    def step(self, model: Node, seen: Evaluated, state: Any) -> tuple[Params, Any]:
        candidate, state = super().step(model, seen, state)
        return candidate, state._replace(count=state.count + 1)


@node
class EM(Solver):
    """Plain EM: the next parameters are the M-step's.

    Example:
        >>> import jem
        >>> jem.solvers.EM()
        EM()
    """

    def init(self, model: Node, params: Params) -> Any:
        """No state; raises where the model has parameters that no M-step moves."""
        names = gradient_fields(model, params)
        if names:
            raise ValueError(
                f"EM: params{names[0]} has no closed-form M-step ({len(names)} such fields in all); fit with "
                "solver=jem.solvers.GEM(optax.adam, learning_rate=0.01), or hold it with jem.Frozen"
            )
        return ()

    def step(self, model: Node, seen: Evaluated, state: Any) -> tuple[Params, Any]:
        """The M-step."""
        return model.maximize(seen.params, seen.stats), state

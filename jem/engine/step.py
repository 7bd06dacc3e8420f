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

# What may be said of a solver at once: `Solver.traits`.
GAINS = "gains"  # the gains of its steps shrink as EM's do, so that they tell EM's rate of convergence
STATIONARY = "stationary"  # it ends where the objective is stationary: the fit has the derivatives of a fixed point of EM
SUMS = "sums"  # all it knows of the data are sums over all units: how the rows are laid out changes nothing
MAXIMIZES = "maximizes"  # `Proposal.image` maximises Q: half of what the slope promises there is EM's decrement


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
    """What an E-step gives.

    Attributes:
        stats: statistics, summed over all units.
        log_likelihood: () weighted.
        bound: () the lower bound of it that the statistics belong to; itself if they are exact.
        carry: what else the solver's `step` is to find in `Evaluated.carry`.
    """

    stats: Stats
    log_likelihood: Array
    bound: Array
    carry: Any = ()


class Proposal(NamedTuple):
    """What a solver proposes: the parameters to evaluate next, what they are compared with, and what may follow.

    `Evaluated.propose` makes the usual one, and says of the fields what is usual.

    Attributes:
        candidate: parameters to evaluate next.
        image: where the plain step goes from the parameters evaluated last; the candidate, unless it is an extrapolated one.
        previous: objective from which the gain is counted; minus infinity where there is none to compare with.
        floor: objective below which the candidate is a fall; minus infinity where it may fall.
        plain: plain steps in a row that led to the candidate: 0 after an extrapolated one. A gain says how far the climb has
            come where it is a plain step's, and how fast it goes where two follow each other.
        settled: whether the lane may end here for any other reason than a failure or `max_steps`.
        retries: whether another candidate follows if this one is refused; if not, the lane ends there.
        refused: steps refused on the way to it, for `Fit.num_refusals`; candidates refused are counted besides.
    """

    candidate: Params
    image: Params
    previous: Any = -jnp.inf
    floor: Any = -jnp.inf
    plain: Any = 2
    settled: Any = True
    retries: Any = False
    refused: Any = 0


def carried(proposal: Proposal, dtype: Any) -> Proposal:
    """The proposal with arrays in place of numbers, objectives of this dtype: what a loop carries, or a choice is made of."""
    return proposal._replace(
        previous=jnp.asarray(proposal.previous, dtype),
        floor=jnp.asarray(proposal.floor, dtype),
        plain=jnp.asarray(proposal.plain, jnp.int32),
        settled=jnp.asarray(proposal.settled, bool),
        retries=jnp.asarray(proposal.retries, bool),
        refused=jnp.asarray(proposal.refused, jnp.int32),
    )


class Evaluated(NamedTuple):
    """What a solver sees when its candidate has been evaluated; objectives and flags are scalars ().

    Attributes:
        params: the candidate.
        stats: statistics gathered at it.
        objective: bound + log prior there.
        accepted: whether it is finite and no worse than the parameters accepted before; if not, these were kept.
        kept: objective of the parameters accepted last, these if they were.
        total: `total(fn)` is the sum of `fn(x, weights)` over all data, in chunks with the units last: a pass over the data.
        close: whether the stopping rule would end the lane, were this a plain step: the next one should be.
        near: whether the stopping rule may be about to end it, whatever the step.
        point: free coordinates and score at the candidate; None where the model does not say where its parameters lie.
        path: the points accepted so far, with the candidate if it is one of them; None as for `point`.
        proposal: the lane's proposal that led here.
        carry: what the solver's `e_step` put beside the statistics.
    """

    params: Params
    stats: Stats
    objective: Array
    accepted: Array
    kept: Array
    total: Total
    close: Array
    near: Array
    point: Point | None
    path: Path | None
    proposal: Proposal
    carry: Any = ()

    def propose(self, candidate: Params) -> Proposal:
        """A plain step to `candidate`, which is to be no worse than the parameters accepted last."""
        return Proposal(candidate, candidate, self.kept, self.kept)


class Solver(Documented):
    """What makes the next parameters. Write `step`; the rest has defaults. The state is a tree of fixed shapes, one a lane."""

    @property
    def traits(self) -> frozenset[str]:
        """What holds of it: some of GAINS, STATIONARY, SUMS and MAXIMIZES; all of them by default."""
        return frozenset({GAINS, STATIONARY, SUMS, MAXIMIZES})

    @property
    def memory(self) -> int:
        """Steps of the path that it looks back at."""
        return 0

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, Any]:
        """The start, and the state before the first E-step; lanes have numbers, so that each can draw for itself."""
        return Proposal(params, params), ()

    def e_step(self, model: Node, params: Params, total: Total, state: Any) -> EStep:
        """The E-step at the candidate; exact by default. What it computes of a chunk decides how large chunks are."""
        stats, log_likelihood = total(lambda x, weights: e_step_chunk(model, params, x, weights))
        return EStep(stats, log_likelihood, log_likelihood)

    def step(self, model: Node, seen: Evaluated, state: Any) -> tuple[Proposal, Any]:
        """What to evaluate next, and the next state."""
        raise TypeError(f"{type(self).__name__} does not define step")


class Inner(NamedTuple):
    """The state of a solver around a solver that has none of its own."""

    inner: Any


class Around(Solver):
    """A solver around a solver: what it does not write itself is the inner one's.

    Subclasses have a field `solver`, and a record with a field `inner` as state.
    """

    solver: Any

    @property
    def traits(self) -> frozenset[str]:
        return self.solver.traits

    @property
    def memory(self) -> int:
        return self.solver.memory

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, Any]:
        proposal, inner = self.solver.init(model, params, total, lane)
        return proposal, Inner(inner)

    def e_step(self, model: Node, params: Params, total: Total, state: Any) -> EStep:
        return self.solver.e_step(model, params, total, state.inner)

    def step(self, model: Node, seen: Evaluated, state: Any) -> tuple[Proposal, Any]:
        proposal, inner = self.solver.step(model, seen, state.inner)
        return proposal, state._replace(inner=inner)


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

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, Any]:
        proposal, inner = self.solver.init(model, params, total, lane)
        return proposal._replace(settled=False), Counted(inner, jnp.array(0, jnp.int32))

    def step(self, model: Node, seen: Evaluated, state: Any) -> tuple[Proposal, Any]:
        """The inner solver's, with nothing to compare with while the steps last, nor for the candidate that the last makes."""
        proposal, state = super().step(model, seen, state)
        count = state.count + 1
        loose, low = count <= self.steps, -jnp.inf
        return proposal._replace(
            previous=jnp.where(loose, low, proposal.previous),
            floor=jnp.where(loose, low, proposal.floor),
            settled=proposal.settled & ~loose,
        ), state._replace(count=count)


@node
class EM(Solver):
    """Plain EM: the next parameters are the M-step's, `argmax Q(. | params) + log p(.)`.

    The objective never falls; where a wrong M-step makes it fall, the lane ends as DECREASED.

    Example:
        >>> import jem
        >>> jem.solvers.EM()
        EM()

    Source: Dempster, Laird and Rubin (1977), JRSS B 39.
    """

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, Any]:
        """The start; raises where the model has parameters that no M-step moves."""
        names = gradient_fields(model, params)
        if names:
            raise ValueError(
                f"EM: params{names[0]} has no closed-form M-step ({len(names)} such fields in all); fit with "
                "solver=jem.solvers.GEM(optax.adam, learning_rate=0.01), or hold it with jem.Frozen"
            )
        return super().init(model, params, total, lane)

    def step(self, model: Node, seen: Evaluated, state: Any) -> tuple[Proposal, Any]:
        """The M-step."""
        return seen.propose(model.maximize(seen.params, seen.stats)), state

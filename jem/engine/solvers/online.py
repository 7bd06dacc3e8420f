"""EM that moves before it has seen all data: online (stochastic approximation) and incremental. Statistics are recentred."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import tree
from jem.engine.step import EM, GAINS, SUMS, Counted, EStep, Evaluated, Proposal, Solver, Unsettled, carried, e_step_chunk
from jem.engine.stream import Total
from jem.node import Node, Params, Stats, node, setting, static
from jem.settings import number, whole


class Running(NamedTuple):
    """Online EM on its way.

    Attributes:
        params: where it is.
        stats: running statistics, about `params` and scaled to all the data.
        count: batches seen.
        log_score: sum of each batch's log-likelihood at the parameters before it was seen.
    """

    params: Params
    stats: Stats
    count: Array
    log_score: Array


def absorb(model: Node, state: Running, batch: tuple[Stats, Array, Array], total_weight: Array, exponent: Any) -> Running:
    """One step of stochastic approximation, `s <- (1 - c) s + c s_batch` and the M-step, with `c = (count + 2)^-exponent`.

    The statistics are scaled to the weight of all data, so that priors count as they should, and put about the new parameters.

    Args:
        model: the node, bound to data.
        state: where it is; its statistics may be all zero before the first batch, whose step is then whole.
        batch: statistics, log-likelihood and weight of a batch at `state.params`.
        total_weight: weight of all data.
        exponent: in (1/2, 1].

    Source: Cappe and Moulines (2009), JRSS B 71, eqs. 12 to 14.
    """
    stats, log_likelihood, weight = batch
    step = jnp.where(state.count > 0, (state.count + 2.0) ** -jnp.asarray(exponent, float), 1).astype(weight.dtype)
    share = total_weight / jnp.where(weight > 0, weight, 1)
    step = jnp.where(weight > 0, step, 0)
    mixed = jax.tree.map(lambda old, new: (1 - step) * old + step * share * new, state.stats, stats)
    params = model.maximize(state.params, mixed)
    return Running(params, model.recentre(mixed, state.params, params), state.count + 1, state.log_score + log_likelihood)


def batch_statistics(model: Node, params: Params, x: Any, weights: Array) -> tuple[Stats, Array, Array]:
    """What `absorb` takes of a batch, units last."""
    return (*e_step_chunk(model, params, x, weights), jnp.sum(weights))


@node
class Online(Unsettled):
    """Online EM on minibatches for the first `passes` steps, then EM (or the solver given).

    A step is a pass over the data in batches of consecutive rows: shuffle rows that come in an order. Each batch moves the
    running statistics towards its own by `(t + 2)^-exponent`, and the parameters with them. As long as it lasts the objective
    may fall. For data that come from a stream, or do not fit into memory, see `jem.fit_stream`.

    Attributes:
        num_batches: batches a pass, at least: every chunk of the data layout is split evenly.
        passes: number of steps that are such passes.
        exponent: how fast the step sizes shrink, in (1/2, 1].
        solver: what follows.

    Raises:
        TypeError: a node without `recentre`, named.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.Mixture(jem.Gaussian(), 2)
        >>> start = jem.init(model, jax.random.key(0), x)
        >>> bool(jem.fit(model, start, x, solver=jem.solvers.Online(num_batches=4)).converged)
        True

    Source: Cappe and Moulines (2009), JRSS B 71; Sato and Ishii (2000), Neural Computation 12.
    """

    num_batches: int = static(default=20, must=whole(1))
    passes: Any = setting(default=2, must=number(least=0.0, finite=False))
    exponent: Any = setting(default=0.6, must=number(above=0.5, most=1.0))
    solver: Any = EM()

    @property
    def traits(self) -> frozenset[str]:
        """The inner solver's, but for SUMS: a batch is of some units."""
        return self.solver.traits - {SUMS}

    @property
    def steps(self) -> Any:
        """The steps that are passes."""
        return self.passes

    def step(self, model: Node, seen: Evaluated, state: Counted) -> tuple[Proposal, Counted]:
        """A pass, or the inner solver's step."""
        active = state.count < self.passes
        num = seen.total.num_batches(self.num_batches)
        weight = seen.total(lambda x, w: jnp.sum(w))

        def one(index: Array, running: Running) -> Running:
            fn = lambda x, w: batch_statistics(model, running.params, x, w)  # noqa: E731
            return absorb(model, running, seen.total.batch(index, num, fn), weight, self.exponent)

        # The statistics of all data at the start are at hand: the first batch moves them by less than all.
        begun = Running(seen.params, seen.stats, 1 + state.count * num, jnp.zeros_like(weight))
        moved = lax.fori_loop(0, jnp.where(active, num, 0), one, begun).params
        proposal, new = super().step(model, seen, state)
        dtype = seen.kept.dtype
        passed = seen.propose(moved)._replace(previous=-jnp.inf, floor=-jnp.inf, settled=False)
        proposal = tree.where(active, carried(passed, dtype), carried(proposal, dtype))
        return proposal, new._replace(inner=tree.where(active, state.inner, new.inner))


class Blocks(NamedTuple):
    """Statistics of all blocks about the candidate (leaves (B, ...)), and what each adds to the free energy besides Q (B,)."""

    stats: Stats
    rest: Array


class IncrementalState(NamedTuple):
    """The blocks; the next to visit; the objective where the sweep began; whether all are to be visited, as EM does."""

    blocks: Blocks
    centre: Params  # what the blocks' statistics are about
    index: Array
    begun: Array
    full: Array


@node
class Incremental(Solver):
    """Incremental EM: an E-step for one block of rows and an M-step from all, in turn.

    A step is one block, a `1 / num_blocks` of a pass. What never falls is the free energy `F(q, params)`, `Fit.bound`, where q
    is each block's posterior at the parameters when it was last visited; it costs no pass, as Q is known from the statistics.
    The stopping rule looks at the gain of a whole sweep, and is asked again after an E-step for all blocks: a lane that has
    converged has its exact log-likelihood, one that ends otherwise has NaN there.

    Attributes:
        num_blocks: B, at least: every chunk of the data layout is split evenly. `max_steps` counts blocks.

    Raises:
        TypeError: a node without `recentre`, named.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.Mixture(jem.Gaussian(), 2)
        >>> start = jem.init(model, jax.random.key(0), x)
        >>> bool(jem.fit(model, start, x, solver=jem.solvers.Incremental(4)).converged)
        True

    Source: Neal and Hinton (1998), Learning in Graphical Models, section 4.
    """

    num_blocks: int = static(default=10, must=whole(1))

    @property
    def traits(self) -> frozenset[str]:
        """All but GAINS: a step is a part of EM's; and SUMS: of some units."""
        return super().traits - {GAINS, SUMS}

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, IncrementalState]:
        """The start, and room for the statistics of the blocks."""
        num = total.num_batches(self.num_blocks)
        one = jax.eval_shape(lambda: self._visit(model, params, total, jnp.array(0), num))
        empty = jax.tree.map(lambda s: jnp.zeros((num, *s.shape), s.dtype), one)
        low = jnp.array(-jnp.inf, empty.rest.dtype)
        state = IncrementalState(empty, params, jnp.array(0, jnp.int32), low, jnp.array(True))
        return Proposal(params, params, plain=1), state

    def e_step(self, model: Node, params: Params, total: Total, state: IncrementalState) -> EStep:
        """One block's E-step, or all of them; the bound is the free energy."""
        num = state.blocks.rest.shape[0]
        # What was gathered about the parameters before is put about the candidate.
        moved = jax.vmap(lambda s: model.recentre(s, state.centre, params))(state.blocks.stats)
        blocks = tree.where(state.full, state.blocks, state.blocks._replace(stats=moved))

        def visit(index: Array, blocks: Blocks) -> Blocks:
            new = self._visit(model, params, total, index, num)
            return jax.tree.map(lambda all_of, one: all_of.at[index].set(one), blocks, new)

        low, high = jnp.where(state.full, 0, state.index), jnp.where(state.full, num, state.index + 1)
        blocks = lax.fori_loop(low, high, visit, blocks)
        gathered = jax.tree.map(lambda leaf: jnp.sum(leaf, 0), blocks.stats)
        bound = model.expected_log_prob(params, gathered, params) + jnp.sum(blocks.rest)
        return EStep(gathered, jnp.where(state.full, bound, jnp.nan), bound, blocks)

    def step(self, model: Node, seen: Evaluated, state: IncrementalState) -> tuple[Proposal, IncrementalState]:
        """The M-step from all blocks.

        A fall is a fall at every block, but the gain is that of the sweep, and counts when all blocks are fresh.
        """
        num = seen.carry.rest.shape[0]
        index = jnp.where(state.full, 0, (state.index + 1) % num)
        # Where a sweep gains nothing that can be told from rounding, rules that do not look at gains are asked too.
        spent = seen.objective - state.begun <= 8 * jnp.finfo(seen.objective.dtype).eps * jnp.abs(seen.objective)
        state = IncrementalState(
            blocks=seen.carry,
            centre=seen.params,
            index=index,
            begun=jnp.where(index == 0, seen.objective, state.begun),
            full=(seen.near | spent) & (state.index == num - 1) & ~state.full,
        )
        proposal = seen.propose(model.maximize(seen.params, seen.stats))
        return proposal._replace(previous=state.begun, plain=jnp.where(state.full, 1, 0), settled=state.full), state

    def _visit(self, model: Node, params: Params, total: Total, index: Array, num: int) -> Blocks:
        """Statistics of one block, and its log-likelihood less its Q."""

        def fn(x: Any, weights: Array) -> tuple[Stats, Array]:
            return e_step_chunk(model, params, x, weights)

        stats, log_likelihood = total.batch(index, num, fn)
        return Blocks(stats, log_likelihood - model.expected_log_prob(params, stats, params))

"""The whole fit as one `while_loop`: R lanes, G of them at work at a time, each slot taking the next lane when its own is done.

A single fit is R = G = 1 of it. Nothing waits for the slowest lane, and no lane touches another.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import tree
from jem.coordinates import ravel
from jem.engine import path as paths
from jem.engine import rising
from jem.engine.path import Path
from jem.engine.rate import rate_of_gains, steps_left
from jem.engine.result import Fit, Status
from jem.engine.step import GAINS, MAXIMIZES, Evaluated, Proposal, carried
from jem.engine.stop import RATIOS, Progress, rounding
from jem.engine.stream import Chunks, Total
from jem.node import HELD, Node, Params


class Lane(NamedTuple):
    """One start on its way.

    Attributes:
        proposal: the parameters to evaluate next, `candidate`, and what they are compared with.
        solver: the solver's state.
        params: the last parameters accepted, with `log_likelihood` and `objective`.
        status: int code.
        cause: what is degenerate of the last parameters accepted, bits of `Node.degenerate`.
        num_steps: steps taken to the candidate.
        num_refusals: steps and candidates refused so far.
        gain: last change of the objective.
        limit: the objective's predicted limit (Aitken), infinite where the gains do not shrink.
        ratios: of each gain to the one before, the last ten, infinite where a step was not plain or did not gain.
        signature: log-densities at the schedule's probe units.
        path: the points accepted last; None where the model does not say where its parameters lie.
        lift: whether probabilities that come back from next to nothing were lifted to get to the candidate (1), or may
            not be any more (2).
    """

    proposal: Proposal
    solver: Any
    params: Params
    status: Array
    cause: Array
    num_steps: Array
    log_likelihood: Array
    objective: Array
    num_refusals: Array
    gain: Array
    limit: Array
    ratios: Array
    signature: Array
    path: Path | None
    lift: Array

    @property
    def candidate(self) -> Params:
        """Parameters to evaluate next."""
        return self.proposal.candidate


class Problem(NamedTuple):
    """What all lanes share; `reduce` sums over the devices that share the rows, of which this is number `place`."""

    model: Node
    solver: Any
    stop: Any
    schedule: Any
    data: Chunks
    total_weight: Array
    reduce: Callable[[Any], Any]
    max_steps: int
    place: Any = 0


def start_lane(problem: Problem, params: Params, number: Array) -> Lane:
    """A lane before its first E-step, and its number among all lanes."""
    solver, total = problem.solver, Total(problem.data, problem.reduce, problem.place)
    low = jnp.array(-jnp.inf, problem.total_weight.dtype)
    proposal, state = solver.init(problem.model, params, total, number)
    return Lane(
        proposal=carried(proposal, low.dtype),
        solver=state,
        params=params,
        status=jnp.array(Status.RUNNING, jnp.int32),
        cause=jnp.array(0, jnp.int32),
        num_steps=jnp.array(0, jnp.int32),
        log_likelihood=low,
        objective=low,
        num_refusals=jnp.array(0, jnp.int32),
        gain=-low,
        limit=-low,
        ratios=jnp.full(RATIOS, -low),
        signature=jnp.zeros_like(_signature(problem, params)),
        path=paths.begin(problem.model, params, solver.memory),
        lift=jnp.array(rising.NONE, jnp.int32),
    )


def advance(problem: Problem, lane: Lane) -> tuple[Lane, Array]:
    """Evaluates the candidate, decides, and proposes the next one. Returns the lane and the objective for its trace."""
    model, solver, weight = problem.model, problem.solver, problem.total_weight
    total = Total(problem.data, problem.reduce, problem.place)
    stats, log_likelihood, bound, carry = solver.e_step(model, lane.candidate, total, lane.solver)
    objective = bound + model.log_prior(lane.candidate).astype(bound.dtype)

    standing = lane.proposal
    lifted, retries = lane.lift == rising.LIFTED, standing.retries
    point = None if lane.path is None else paths.look(model, lane.candidate, stats)
    finite = jnp.isfinite(objective) & tree.all_finite((lane.candidate, stats))
    fell, path = _fell(problem, lane, objective, point), lane.path
    accepted = finite & ~fell
    if path is not None and point is not None:
        path = paths.go_on(path, point, accepted, lifted | (standing.floor == -jnp.inf))
    progress = _progress(problem, lane, standing, objective, path)
    close, near = finite & problem.stop.close(progress), finite & problem.stop.near(progress)
    kept = jnp.where(accepted, objective, lane.objective)
    seen = Evaluated(lane.candidate, stats, objective, accepted, kept, total, close, near, point, path, standing, carry)
    proposal, state = solver.step(model, seen, lane.solver)
    proposal = carried(proposal, objective.dtype)
    candidate, image = proposal.candidate, proposal.image
    stuck = jnp.array(False)
    if path is not None and point is not None:
        residual = ravel(model, image) - point.place if MAXIMIZES in solver.traits else jnp.full_like(point.place, jnp.nan)
        path, stuck = paths.forecast(path, residual, accepted), paths.stuck(path, residual, weight)
    progress = progress._replace(image=image, path=path)

    ends = problem.stop.converged(progress) & standing.settled
    status, cause, lift, back = _verdict(problem, lane, seen, proposal, ends, stuck)
    # A step that its solver can take back ends nothing.
    refused = ~accepted & (retries | lifted)
    status = jnp.where(fell, Status.DECREASED, status)
    status = jnp.where(finite, status, Status.NONFINITE)
    status = jnp.where(refused, _going(problem, lane), status).astype(jnp.int32)

    params = tree.where(accepted, lane.candidate, lane.params)
    raised = candidate if back is None else rising.lifted(model, lane.candidate, image, back, weight)
    candidate = tree.where(lifted & refused, lane.params, tree.where(lift, raised, candidate))
    return Lane(
        proposal=proposal._replace(candidate=candidate),
        solver=state,
        params=params,
        status=status,
        cause=jnp.where(accepted | (status == Status.DEGENERATE), cause, lane.cause),
        num_steps=lane.num_steps + (status == Status.RUNNING),
        log_likelihood=jnp.where(accepted, log_likelihood, lane.log_likelihood),
        objective=kept,
        num_refusals=lane.num_refusals + (~accepted & retries) + proposal.refused,
        gain=jnp.where(refused, lane.gain, progress.gain),
        limit=jnp.where(refused, lane.limit, progress.limit),
        ratios=jnp.where(refused, lane.ratios, progress.ratios),
        signature=_signature(problem, params),
        path=path,
        lift=rising.after(lane.lift, lift, refused),
    ), jnp.where(refused, lane.objective, objective)


def _going(problem: Problem, lane: Lane) -> Array:
    """RUNNING, while steps are left."""
    return jnp.where(lane.num_steps >= problem.max_steps, Status.MAX_STEPS, Status.RUNNING)


def _verdict(
    problem: Problem, lane: Lane, seen: Evaluated, proposal: Proposal, ends: Array, stuck: Array
) -> tuple[Array, Array, Array, Any]:
    """What becomes of a candidate that is finite and did not fall, where the stopping rule `ends` the climb or it is `stuck`.

    Status, cause, whether probabilities are to be lifted before the climb may end, and which.
    """
    model, weight = problem.model, problem.total_weight
    # A candidate that is not finite is not what a climb ends with: it is looked at first.
    ends = ends & tree.all_finite(proposal.candidate)
    back = None if seen.path is None else rising.cells(model, lane.candidate, proposal.image, weight)
    lift = ends & (lane.lift == rising.NONE) & rising.some(back)
    ends = ends & ~lift
    status = jnp.where(ends, jnp.where(stuck, Status.STUCK, Status.CONVERGED), _going(problem, lane))
    # Where a floor holds the parameters up, it is also what ends the climb; and at a floor they stay.
    cause = model.degenerate(lane.candidate, seen.stats)
    stays = seen.accepted & ((cause & lane.cause & HELD) != 0)
    return jnp.where((cause != 0) & ((status != Status.RUNNING) | stays), Status.DEGENERATE, status), cause, lift, back


def _fell(problem: Problem, lane: Lane, objective: Array, point: Any) -> Array:
    """Whether the candidate lies below its floor by more than rounding explains."""
    floor, retries = lane.proposal.floor, lane.proposal.retries
    # What rounding may do: of the parameters accepted, as a wild candidate would excuse itself.
    slack = rounding(lane.objective, problem.total_weight)
    slack = slack * problem.model.conditioning(lane.params).astype(slack.dtype)
    fell = objective < floor - slack
    if lane.path is None or point is None:
        return fell
    # What rounding hides the scores at both ends see: a fall, and that a plain step made none.
    slid = paths.slid(lane.path, point)
    fell = fell & (slid | retries | (objective < floor - 8 * slack))
    return fell | (retries & slid & (objective < floor + slack))


def _progress(problem: Problem, lane: Lane, standing: Proposal, objective: Array, path: Path | None) -> Progress:
    """What the stopping rule sees, but for the image."""
    gain = objective - standing.previous
    ratio = gain / lane.gain
    rises = (gain > 0) & (lane.gain > 0)
    shrinks = (ratio > 0) & (ratio < 1) & (standing.plain > 1)
    rate = jnp.where(shrinks, ratio, 0)
    limit = jnp.where(shrinks, objective + gain * rate / (1 - rate), jnp.inf)
    return Progress(
        model=problem.model,
        params=lane.candidate,
        previous=lane.params,
        image=lane.candidate,
        objective=objective,
        gain=gain,
        limit=limit,
        ratios=jnp.append(lane.ratios[1:], jnp.where(rises & (standing.plain > 1), ratio, jnp.inf)),
        plain=standing.plain,
        total_weight=problem.total_weight,
        num_steps=lane.num_steps,
        path=path,
    )


class State(NamedTuple):
    """Where a run stands between two turns: all that the next turn needs.

    Attributes:
        table: all lanes, leading axis R.
        trace: (R, max_steps + 1) objectives, NaN where no step was.
        queue: (Q,) lanes in their turn, followed by R where there are no more.
        slots: (G,) lane of each slot, R where idle.
        waiting: () next place in the queue.
    """

    table: Lane
    trace: Array
    queue: Array
    slots: Array
    waiting: Array


def begin(problem: Problem, starts: Params, numbers: Array, num_slots: int) -> State:
    """All lanes before their first E-step.

    Args:
        problem: model, data and rules.
        starts: parameters with a leading axis R.
        numbers: (R,) numbers of the lanes among all lanes, those on other devices included.
        num_slots: G, lanes advanced together; the others wait in the queue.
    """
    table = jax.vmap(lambda p, i: start_lane(problem, p, i))(starts, numbers)
    num = table.status.shape[0]
    trace = jnp.full((num, problem.max_steps + 1), jnp.nan, table.objective.dtype)
    return _queued(table, trace, jnp.arange(num), num_slots)


def _queued(table: Lane, trace: Array, order: Array, num_slots: int) -> State:
    """The lanes in `order` in the queue, the first of them in the slots."""
    num = table.status.shape[0]
    if num_slots == num:  # slots keep their lanes; idle ones are masked
        return State(table, trace, jnp.full(2 * num, num), jnp.arange(num), jnp.array(num))
    queue = jnp.concatenate([order, jnp.full(num_slots, num, order.dtype)])
    return State(table, trace, queue, order[:num_slots], jnp.array(num_slots))


def run(problem: Problem, starts: Params, numbers: Array, num_slots: int) -> tuple[Lane, Array]:
    """Runs all lanes to their ends, as the schedule says; arguments as in `begin`.

    Returns:
        The lanes, leading axis R, and their traces (R, max_steps + 1).
    """
    state = begin(problem, starts, numbers, num_slots)
    for limit, count in problem.schedule.rungs(numbers.shape[0], problem.max_steps):
        state = go_on(problem, next_rung(state, count, num_slots), limit)
    return state.table, state.trace


def next_rung(state: State, count: int, num_slots: int) -> State:
    """The `count` best lanes in the queue, the others given up."""
    table, num = state.table, state.table.status.shape[0]
    order = jnp.arange(num)
    if count < num:
        alive = (table.status == Status.RUNNING) | (table.status == Status.CONVERGED)
        order = jnp.argsort(jnp.where(alive, -table.objective, jnp.inf))
        cut = jnp.zeros(num, bool).at[order[count:]].set(True) & (table.status == Status.RUNNING)
        table = table._replace(status=jnp.where(cut, Status.SCREENED, table.status))
    return _queued(table, state.trace, order[:count], min(num_slots, count))


def go_on(problem: Problem, state: State, limit: int, num_turns: Any = None) -> State:
    """Advances the queued lanes until each has ended or stands at `limit` steps, or for so many turns.

    A turn takes every slot a step on. Two runs of 5 turns are one of 10, bit for bit: a run may be left and taken up again.

    Args:
        problem: model, data and rules, the same for all turns.
        state: from `begin`, or from here.
        limit: steps at which a lane stands; `problem.max_steps` for none.
        num_turns: turns at most; None for as many as it takes.
    """
    num, num_slots = state.table.status.shape[0], state.slots.shape[0]
    everyone = num_slots == num

    def waits(lanes: Lane) -> Array:
        """Lanes with work left in this rung; a lane stands at its limit once that many steps are evaluated."""
        return (lanes.status == Status.RUNNING) & (lanes.num_steps <= limit)

    def body(state: State) -> State:
        table, trace, queue, slots, waiting = state
        idle = slots == num
        old = table if everyone else _take(table, slots)
        new, objective = _lift(lambda lane: advance(problem, lane), num_slots)(old)
        dropped = problem.schedule.screen(new, table, slots) & (new.status == Status.RUNNING)
        new = new._replace(status=jnp.where(dropped, Status.SCREENED, new.status))
        idle = idle | ~waits(old)
        new = tree.where(idle, old, new)
        index = jnp.where(idle, num, slots)
        trace = _put_trace(trace, index, jnp.where(idle, problem.max_steps + 1, old.num_steps), objective)
        table = new if everyone else _put(table, index, new)
        done = ~waits(new) & (slots != num)
        turn = waiting + jnp.cumsum(done) - 1
        slots = jnp.where(done, queue[jnp.minimum(turn, queue.shape[0] - 1)], slots)
        return State(table, trace, queue, slots, waiting + jnp.sum(done))

    busy = lambda state: jnp.any(state.slots != num)
    if num_turns is None:
        return lax.while_loop(busy, body, state)
    going = lambda at: busy(at[1]) & (at[0] < num_turns)
    return lax.while_loop(going, lambda at: (at[0] + 1, body(at[1])), (jnp.array(0), state))[1]


def summary(model: Node, solver: Any, stop: Any, total_weight: Array, lane: Lane, trace: Array) -> Fit:
    """What is said of a lane that has ended."""
    prior = model.log_prior(lane.params).astype(lane.objective.dtype)
    image = lane.proposal.image
    progress = Progress(
        model=model,
        params=lane.params,
        previous=image,  # the next change stands for the last one
        image=image,
        objective=lane.objective,
        gain=lane.gain,
        limit=lane.limit,
        ratios=lane.ratios,
        plain=lane.proposal.plain,
        total_weight=total_weight,
        num_steps=lane.num_steps,
        path=lane.path,
    )
    unknown = jnp.full((), jnp.nan, trace.dtype)
    ended = lane.status != Status.MAX_STEPS
    return Fit(
        params=lane.params,
        status=lane.status,
        cause=jnp.where(lane.status == Status.DEGENERATE, lane.cause, 0),
        num_steps=lane.num_steps,
        log_likelihood=lane.log_likelihood,
        objective=lane.objective,
        trace=trace,
        num_refusals=lane.num_refusals,
        bound=lane.objective - prior,
        rate=rate_of_gains(trace, total_weight) if GAINS in solver.traits else unknown,
        steps_left=jnp.where(ended, 0, steps_left(trace, *stop.measure(progress))),
        probes=jnp.zeros(0, trace.dtype),
        remaining=unknown if lane.path is None else _remaining(lane.path, lane.status).astype(trace.dtype),
    )


def _remaining(path: Path, status: Array) -> Array:
    """What is left; E alone where the lane ended before its steps could show more."""
    e, ahead = path.forecast[0]
    return jnp.where((status == Status.CONVERGED) & jnp.isinf(ahead), jnp.abs(e), ahead)


def _signature(problem: Problem, params: Params) -> Array:
    return problem.reduce(problem.schedule.signature(problem.model, params, problem.data))


def _lift(fn: Callable[[Lane], Any], num_slots: int) -> Callable[[Lane], Any]:
    """vmap over slots, without the axis where there is one slot."""
    if num_slots > 1:
        return jax.vmap(fn)
    return lambda lanes: jax.tree.map(lambda leaf: leaf[None], fn(jax.tree.map(lambda leaf: leaf[0], lanes)))


def _take(table: Lane, index: Array) -> Lane:
    if index.shape[0] == 1:
        return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, index[0], 0), table)
    return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0, mode="clip"), table)


def _put(table: Lane, index: Array, lanes: Lane) -> Lane:
    return jax.tree.map(lambda leaf, new: leaf.at[index].set(new, mode="drop"), table, lanes)


def _put_trace(trace: Array, index: Array, step: Array, value: Array) -> Array:
    return trace.at[index, step].set(value, mode="drop")

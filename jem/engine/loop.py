"""The whole fit as one `while_loop`: R lanes, G of them at work at a time, each slot taking the next lane when its own is done.

A single fit is R = G = 1 of it. Nothing waits for the slowest lane, and no lane touches another.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import tree
from jem.engine.rate import rate_of_gains, steps_left
from jem.engine.result import Fit, Status
from jem.engine.step import Evaluated, Standing
from jem.engine.stop import Progress, rounding
from jem.engine.stream import Chunks, Total
from jem.node import Node, Params


class Lane(NamedTuple):
    """One start on its way.

    Attributes:
        candidate: parameters to evaluate next.
        solver: the solver's state.
        params: the last parameters accepted, with `log_likelihood` and `objective`.
        status: int code.
        num_steps: steps taken to the candidate.
        gain: last change of the objective.
        limit: the objective's predicted limit (Aitken), infinite where the gains do not shrink.
        signature: log-densities at the schedule's probe units.
    """

    candidate: Params
    solver: Any
    params: Params
    status: Array
    num_steps: Array
    log_likelihood: Array
    objective: Array
    gain: Array
    limit: Array
    signature: Array


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
    return Lane(
        candidate=params,
        solver=solver.prepare(problem.model, params, total, solver.init(problem.model, params), number),
        params=params,
        status=jnp.array(Status.RUNNING, jnp.int32),
        num_steps=jnp.array(0, jnp.int32),
        log_likelihood=low,
        objective=low,
        gain=-low,
        limit=-low,
        signature=jnp.zeros_like(_signature(problem, params)),
    )


def advance(problem: Problem, lane: Lane) -> tuple[Lane, Array]:
    """Evaluates the candidate, decides, and proposes the next one. Returns the lane and the objective for its trace."""
    model, solver, weight = problem.model, problem.solver, problem.total_weight
    total = Total(problem.data, problem.reduce, problem.place)
    stats, log_likelihood, bound, carry = solver.e_step(model, lane.candidate, total, lane.solver)
    objective = bound + model.log_prior(lane.candidate).astype(bound.dtype)

    standing = solver.standing(lane.solver, lane.objective)
    finite = jnp.isfinite(objective) & tree.all_finite(lane.candidate)
    fell = objective < standing.floor - rounding(lane.objective, weight)
    accepted = finite & ~fell
    progress = _progress(problem, lane, standing, objective)
    close = finite & problem.stop.close(progress)
    seen = Evaluated(lane.candidate, stats, objective, accepted, total, close, carry)
    candidate, state = solver.step(model, seen, lane.solver)
    progress = progress._replace(image=solver.image(candidate, state))

    steps_left = jnp.where(lane.num_steps >= problem.max_steps, Status.MAX_STEPS, Status.RUNNING)
    ended = problem.stop.converged(progress) & standing.settled
    status = jnp.where(ended, Status.CONVERGED, steps_left)
    status = jnp.where(fell, Status.DECREASED, status)
    # Where a floor holds the parameters up, it is also what ends the climb, or bends it.
    held_up = (status != Status.RUNNING) & model.degenerate(lane.candidate, stats)
    status = jnp.where(held_up, Status.DEGENERATE, status)
    status = jnp.where(finite, status, Status.NONFINITE)
    # A step that its solver can take back ends nothing.
    refused = ~accepted & solver.retries(lane.solver)
    status = jnp.where(refused, steps_left, status).astype(jnp.int32)

    kept = tree.where(accepted, lane.candidate, lane.params)
    return Lane(
        candidate=candidate,
        solver=state,
        params=kept,
        status=status,
        num_steps=lane.num_steps + (status == Status.RUNNING),
        log_likelihood=jnp.where(accepted, log_likelihood, lane.log_likelihood),
        objective=jnp.where(accepted, objective, lane.objective),
        gain=jnp.where(refused, lane.gain, progress.gain),
        limit=jnp.where(refused, lane.limit, progress.limit),
        signature=_signature(problem, kept),
    ), jnp.where(refused, lane.objective, objective)


def _progress(problem: Problem, lane: Lane, standing: Standing, objective: Array) -> Progress:
    """What the stopping rule sees, but for the image."""
    gain = objective - standing.previous
    rate = gain / lane.gain
    shrinks = (rate > 0) & (rate < 1) & (standing.plain > 1)
    rate = jnp.where(shrinks, rate, 0)
    limit = jnp.where(shrinks, objective + gain * rate / (1 - rate), jnp.inf)
    return Progress(
        model=problem.model,
        params=lane.candidate,
        previous=lane.params,
        image=lane.candidate,
        objective=objective,
        gain=gain,
        limit=limit,
        plain=standing.plain,
        total_weight=problem.total_weight,
        num_steps=lane.num_steps,
    )


class _State(NamedTuple):
    table: Lane  # (R, ...)
    trace: Array  # (R, max_steps + 1)
    slots: Array  # (G,) lane of each slot, R where idle
    waiting: Array  # next place in the queue


def run(problem: Problem, starts: Params, numbers: Array, num_slots: int) -> tuple[Lane, Array]:
    """Runs all lanes.

    Args:
        problem: model, data and rules.
        starts: parameters with a leading axis R.
        numbers: (R,) numbers of the lanes among all lanes, those on other devices included.
        num_slots: G, lanes advanced together; the others wait in a queue.

    Returns:
        The lanes, leading axis R, and their traces (R, max_steps + 1).
    """
    table = jax.vmap(lambda p, i: start_lane(problem, p, i))(starts, numbers)
    num = table.status.shape[0]
    trace = jnp.full((num, problem.max_steps + 1), jnp.nan, table.objective.dtype)
    order = jnp.arange(num)
    for limit, count in problem.schedule.rungs(num, problem.max_steps):
        if count < num:
            alive = (table.status == Status.RUNNING) | (table.status == Status.CONVERGED)
            order = jnp.argsort(jnp.where(alive, -table.objective, jnp.inf))
            cut = jnp.zeros(num, bool).at[order[count:]].set(True) & (table.status == Status.RUNNING)
            table = table._replace(status=jnp.where(cut, Status.SCREENED, table.status))
        table, trace = _run_rung(problem, table, trace, order[:count], limit, min(num_slots, count))
    return table, trace


def _run_rung(
    problem: Problem, table: Lane, trace: Array, queue: Array, limit: int, num_slots: int
) -> tuple[Lane, Array]:
    """Advances the queued lanes until each has ended or stands at `limit` steps."""
    num, places = table.status.shape[0], jnp.arange(num_slots)
    everyone = num_slots == num
    padded = jnp.concatenate([queue, jnp.full(num_slots, num, queue.dtype)])

    def waits(lanes: Lane) -> Array:
        """Lanes with work left in this rung; a lane stands at its limit once that many steps are evaluated."""
        return (lanes.status == Status.RUNNING) & (lanes.num_steps <= limit)

    def body(state: _State) -> _State:
        table, trace, slots, waiting = state
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
        slots = jnp.where(done, padded[jnp.minimum(turn, padded.shape[0] - 1)], slots)
        return _State(table, trace, slots, waiting + jnp.sum(done))

    start = _State(table, trace, queue[:num_slots], jnp.array(num_slots))
    if everyone:  # slots keep their lanes; idle ones are masked
        padded = jnp.full(2 * num, num)
        start = start._replace(slots=places)
    final = lax.while_loop(lambda state: jnp.any(state.slots != num), body, start)
    return final.table, final.trace


def summary(model: Node, solver: Any, stop: Any, total_weight: Array, lane: Lane, trace: Array) -> Fit:
    """What is said of a lane that has ended."""
    prior = model.log_prior(lane.params).astype(lane.objective.dtype)
    standing, image = solver.standing(lane.solver, lane.objective), solver.image(lane.candidate, lane.solver)
    progress = Progress(
        model=model,
        params=lane.params,
        previous=image,  # the next change stands for the last one
        image=image,
        objective=lane.objective,
        gain=lane.gain,
        limit=lane.limit,
        plain=standing.plain,
        total_weight=total_weight,
        num_steps=lane.num_steps,
    )
    unknown = jnp.full((), jnp.nan, trace.dtype)
    ended = lane.status != Status.MAX_STEPS
    return Fit(
        params=lane.params,
        status=lane.status,
        num_steps=lane.num_steps,
        log_likelihood=lane.log_likelihood,
        objective=lane.objective,
        trace=trace,
        num_refusals=solver.refusals(lane.solver),
        bound=lane.objective - prior,
        rate=rate_of_gains(trace, total_weight) if solver.shows_rate else unknown,
        steps_left=jnp.where(ended, 0, steps_left(trace, *stop.measure(progress))),
    )


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

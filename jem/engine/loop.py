"""The whole fit as one `while_loop`: R lanes, G of them at work at a time, each slot taking the next lane when its own is done.

A single fit is R = G = 1 of it. Nothing waits for the slowest lane, and no lane touches another.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import tree
from jem.engine.result import Status
from jem.engine.step import Evaluated
from jem.engine.stop import rounding
from jem.engine.stream import Chunks, fold
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
    """What all lanes share."""

    model: Node
    solver: Any
    stop: Any
    schedule: Any
    data: Chunks
    total_weight: Array
    reduce: Callable[[Any], Any]
    max_steps: int


def start_lane(problem: Problem, params: Params) -> Lane:
    """A lane before its first E-step."""
    low = jnp.array(-jnp.inf, problem.total_weight.dtype)
    return Lane(
        candidate=params,
        solver=problem.solver.init(problem.model, params),
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
    """Evaluates the candidate, decides, and proposes the next one. Returns the lane and the objective at the candidate."""
    model, stop, weight = problem.model, problem.stop, problem.total_weight
    total = lambda fn: fold(fn, problem.data, problem.reduce)  # noqa: E731
    stats, log_likelihood, bound = problem.solver.e_step(model, lane.candidate, total, lane.solver)
    objective = bound + model.log_prior(lane.candidate).astype(bound.dtype)

    finite = jnp.isfinite(objective) & tree.all_finite(lane.candidate)
    fell = objective < lane.objective - rounding(lane.objective, weight)
    steps_left = jnp.where(lane.num_steps >= problem.max_steps, Status.MAX_STEPS, Status.RUNNING)
    status = jnp.where(stop.converged(objective, lane.objective, weight), Status.CONVERGED, steps_left)
    status = jnp.where(fell, Status.DECREASED, status)
    accepted = finite & ~fell
    # Where a floor holds the parameters up, it is also what ends the climb, or bends it.
    held_up = (status != Status.RUNNING) & model.degenerate(lane.candidate, stats)
    status = jnp.where(held_up, Status.DEGENERATE, status)
    status = jnp.where(finite, status, Status.NONFINITE)
    # A step that its solver can take back ends nothing.
    refused = ~accepted & problem.solver.retries(lane.solver)
    status = jnp.where(refused, steps_left, status).astype(jnp.int32)

    gain = jnp.where(refused, lane.gain, objective - lane.objective)
    rate = gain / lane.gain
    shrinks = (rate > 0) & (rate < 1)
    rate = jnp.where(shrinks, rate, 0)
    limit = jnp.where(shrinks, objective + gain * rate / (1 - rate), jnp.inf)
    limit = jnp.where(refused, lane.limit, limit)
    seen = Evaluated(lane.candidate, stats, objective, accepted, total)
    candidate, state = problem.solver.step(model, seen, lane.solver)
    kept = tree.where(accepted, lane.candidate, lane.params)
    return Lane(
        candidate=candidate,
        solver=state,
        params=kept,
        status=status,
        num_steps=lane.num_steps + (status == Status.RUNNING),
        log_likelihood=jnp.where(accepted, log_likelihood, lane.log_likelihood),
        objective=jnp.where(accepted, objective, lane.objective),
        gain=gain,
        limit=limit,
        signature=_signature(problem, kept),
    ), objective


class _State(NamedTuple):
    table: Lane  # (R, ...)
    trace: Array  # (R, max_steps + 1)
    slots: Array  # (G,) lane of each slot, R where idle
    waiting: Array  # next place in the queue


def run(problem: Problem, starts: Params, num_slots: int) -> tuple[Lane, Array]:
    """Runs all lanes.

    Args:
        problem: model, data and rules.
        starts: parameters with a leading axis R.
        num_slots: G, lanes advanced together; the others wait in a queue.

    Returns:
        The lanes, leading axis R, and their traces (R, max_steps + 1).
    """
    table = jax.vmap(lambda p: start_lane(problem, p))(starts)
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

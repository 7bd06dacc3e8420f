"""A fit in pieces: its loop is left now and then, for the host to say where it stands, and taken up again.

Between two pieces nothing is lost or added: the answer is that of the loop in one piece. One program is compiled for all pieces
of a rung, of which the number of turns is a value; a piece takes about half a second.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.backend import precise
from jem.engine import loop, runaway
from jem.engine.devices import evenly, num_shards, on_mesh
from jem.engine.joining import fresh
from jem.engine.loop import Lane, State
from jem.engine.program import concluded, laid_out, prepared
from jem.engine.result import Fit, Status
from jem.engine.task import Task
from jem.node import Params

_SECONDS = 0.5  # of a piece, about: a bar moves, and what a piece costs beside its turns is not seen
_GROWTH = 4  # of the number of turns from one piece to the next, at most


class Standing(NamedTuple):
    """Where the lanes of a fit stand, as scalars.

    Attributes:
        num_steps: of the lane that has taken most.
        objective: of the best lane so far.
        num_running: lanes that have not ended.
    """

    num_steps: Array
    objective: Array
    num_running: Array


class Begun(NamedTuple):
    """A fit that was begun: the task as it is worked on, its total weight, and where its loop stands."""

    task: Task
    total_weight: Array
    state: State


def solve_in_pieces(
    task: Task, starts: Params, keys: Array | None, probing: bool, say: Callable[[Standing], None]
) -> tuple[Fit, bool]:
    """The fits of all starts, as `program.solve` has them, and whether they were interrupted.

    Args:
        task: what to fit, and how.
        starts: parameters with a leading axis R, or None: then they are made from keys.
        keys: (R,) typed keys.
        probing: whether log-densities at a few units are kept.
        say: is told after each piece where the lanes stand. A `KeyboardInterrupt` in it, or between two pieces, ends the fit:
            lanes that have steps left end as MAX_STEPS.
    """
    num_shards_of = num_shards(task)
    begun = _begin(task, starts, keys)
    num, num_slots = begun.state.table.status.shape[0], begun.state.slots.shape[0]
    state, anything, interrupted = begun.state, False, False
    num_turns, each = 1, num // num_shards_of
    try:
        for limit, count in task.schedule.rungs(each, task.max_steps):
            state = _rung(begun._replace(state=state), count=count, num_slots=num_slots // num_shards_of)
            busy = True
            while busy:
                start = time.perf_counter()
                new, standing, busy = _piece(begun._replace(state=state), jnp.asarray(num_turns), limit=limit)
                busy = bool(busy)  # waits
                state, anything = new, True
                seconds = max(time.perf_counter() - start, 1e-6)
                num_turns = max(1, min(int(num_turns * _SECONDS / seconds), _GROWTH * num_turns))
                say(standing)
    except KeyboardInterrupt:
        if not anything:
            raise
        interrupted = True
    return _end(task, begun._replace(state=state), probing=probing, num=_num_lanes(starts, keys)), interrupted


def _num_lanes(starts: Params, keys: Array | None) -> int:
    return jax.tree.leaves(starts if keys is None else keys)[0].shape[0]


def _over_lanes(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` of a `State` as devices hold it, each a share of the lanes: every leaf has an axis."""

    def run(task: Task, state: State, values: Any) -> Any:
        new = fn(task, state._replace(waiting=state.waiting[0]), values)
        return new._replace(waiting=new.waiting[None]) if isinstance(new, State) else new

    return run


@jax.jit
@precise
def _begin(task: Task, starts: Params, keys: Array | None) -> Begun:
    task, lanes, total_weight = prepared(jax.tree.map(fresh, task), starts, keys)

    def begin(task: Task, lanes: tuple[Params, Array], total_weight: Array) -> State:
        problem, num_slots = laid_out(task, lanes[0], total_weight)
        state = loop.begin(problem, *lanes, num_slots)
        return state._replace(waiting=state.waiting[None])

    return Begun(task, total_weight, on_mesh(begin, task, evenly(task, lanes), total_weight))


@functools.partial(jax.jit, static_argnames=("count", "num_slots"))
@precise
def _rung(begun: Begun, *, count: int, num_slots: int) -> State:
    next_rung = _over_lanes(lambda task, state, _: loop.next_rung(state, count, num_slots))
    return on_mesh(next_rung, begun.task, begun.state, begun.total_weight)


@functools.partial(jax.jit, static_argnames="limit")
@precise
def _piece(begun: Begun, num_turns: Array, *, limit: int) -> tuple[State, Standing, Array]:
    task = jax.tree.map(fresh, begun.task)

    def go_on(task: Task, state: State, values: tuple[Array, Array]) -> State:
        problem, _ = laid_out(task, state.table.params, values[0])
        return loop.go_on(problem, state, limit, values[1])

    state = on_mesh(_over_lanes(go_on), task, begun.state, (begun.total_weight, num_turns))
    table, each = state.table, state.table.status.shape[0] // num_shards(task)
    running = table.status == Status.RUNNING
    standing = Standing(jnp.max(table.num_steps), jnp.max(table.objective), jnp.sum(running))
    return state, standing, jnp.any(state.slots != each)


@functools.partial(jax.jit, static_argnames=("probing", "num"))
@precise
def _end(given: Task, begun: Begun, *, probing: bool, num: int) -> Fit:
    def end(task: Task, state: State, total_weight: Array) -> tuple[Lane, Array]:
        problem, _ = laid_out(task, state.table.params, total_weight)
        return runaway.mark(problem, state.table), state.trace

    given, task = jax.tree.map(fresh, (given, begun.task))
    table, trace = on_mesh(_over_lanes(end), task, begun.state, begun.total_weight)
    table, trace = jax.tree.map(lambda leaf: leaf[:num], (table, trace))
    status = jnp.where(table.status == Status.RUNNING, Status.MAX_STEPS, table.status).astype(table.status.dtype)
    return concluded(given, task, begun.total_weight, table._replace(status=status), trace, probing)

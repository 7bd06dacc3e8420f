"""The program of a fit, from the task and its starts: bind, compress, start, lay out, loop; derivatives go on at the end."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem import backend, checks, tree
from jem.coordinates import as_start
from jem.data import row_weights, to_units, used_rows
from jem.engine import runaway
from jem.engine.devices import compressed, on_mesh
from jem.engine.loop import Lane, Problem, summary
from jem.engine.result import Fit
from jem.engine.step import SUMS
from jem.engine.stream import chunk_size, lay_out, of_one_chunk, unit_bytes
from jem.engine.task import Task
from jem.node import Data, Node, Params

_PROBES = 16  # units by whose log-densities restarts are told apart


def solve(task: Task, starts: Params, keys: Array | None = None, probing: bool = False) -> Fit:
    """The fits of all starts.

    Args:
        task: what to fit, and how.
        starts: parameters with a leading axis R, or None: then they are made from keys.
        keys: (R,) typed keys.
        probing: whether log-densities at a few units are kept, by which optima are told apart.

    Returns:
        A `Fit` with a leading axis R.
    """
    given = task
    task, lanes, total_weight = prepared(task, starts, keys)
    program = task.adjoint.batched(functools.partial(on_mesh, _lanes))
    table, trace = program(task, lanes, total_weight)
    return concluded(given, task, total_weight, table, trace, probing)


def prepared(task: Task, starts: Params, keys: Array | None) -> tuple[Task, tuple[Params, Array], Array]:
    """The task with its model bound and its data as they are worked on, the starts and their numbers, the total weight."""
    starts, task = task.adjoint.inputs((starts, task))
    task = dataclasses.replace(task, x=used_rows(task.x, task.weights), weights=row_weights(task.x, task.weights))
    units = to_units(task.x)
    model = task.model.bind(units, task.weights)
    x, weights = compressed(model, task.x, task.weights, task.mesh) or _sorted(model, task, units)
    task = dataclasses.replace(task, model=model, x=x, weights=weights)
    units = to_units(x)
    expected = jax.eval_shape(model.init, jax.random.key(0), units, weights)
    if starts is None:
        starts = lax.map(lambda key: model.init(key, units, weights), keys)
    else:
        checks.check_params(jax.tree.map(lambda p: p[0], starts), expected)
        starts = as_start(model, jax.tree.map(lambda p, s: p.astype(s.dtype), starts, expected))
        starts = jax.vmap(model.enter)(starts)
    numbers = jnp.arange(jax.tree.leaves(starts)[0].shape[0])
    return task, (starts, numbers), jnp.sum(weights)


def concluded(given: Task, task: Task, total_weight: Array, table: Lane, trace: Array, probing: bool) -> Fit:
    """What is said of lanes that have ended, of the task as it was given and as it was prepared."""
    model = task.model
    fits = jax.vmap(lambda lane, values: summary(model, task.solver, task.stop, total_weight, lane, values))(table, trace)
    if probing:
        probes = _probes(task.x, task.weights)
        fits = fits._replace(probes=lax.map(lambda params: model.infer(params, probes)[1], fits.params))
    return given.adjoint.attach(fits, given)


def _sorted(model: Node, task: Task, units: Data) -> tuple[Data, Array]:
    """Rows and weights in the order in which an E-step is less work, where a sum over them is all that matters."""
    apart = task.mesh is not None and task.mesh[1] is not None
    order = None if apart or SUMS not in task.solver.traits else model.sorting(units)
    return jax.tree.map(lambda leaf: leaf if order is None else leaf[order], (task.x, task.weights))


def _lanes(task: Task, start: tuple[Params, Array], total_weight: Array) -> tuple[Lane, Array]:
    """Runs all lanes, on one device or on one shard; `start` has their parameters and numbers."""
    starts, numbers = start
    problem, num_slots = laid_out(task, starts, total_weight)
    table, trace = task.adjoint.run(problem, starts, numbers, num_slots)
    return runaway.mark(problem, table), trace


def laid_out(task: Task, starts: Params, total_weight: Array) -> tuple[Problem, int]:
    """What the lanes share, the data in chunks, and how many lanes are advanced together; the task's model is bound."""
    num = jax.tree.leaves(starts)[0].shape[0]
    one = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape[1:], p.dtype), starts)

    def e_step(x: Data, weights: Array) -> Any:
        params, total = tree.zeros_like(one), of_one_chunk(x, weights)
        state = task.solver.init(task.model, params, total, jnp.array(0))[1]
        return task.solver.e_step(task.model, params, total, state)

    per_unit = unit_bytes(e_step, task.x, task.weights)
    together = min(num, task.slots or default_slots(per_unit * task.weights.shape[0], num))
    data = lay_out(task.x, task.weights, chunk_size(per_unit * together, task.weights.shape[0]))
    axis = None if task.mesh is None else task.mesh[1]
    reduce: Callable[[Any], Any] = (lambda t: t) if axis is None else (lambda t: lax.psum(t, axis))
    place = 0 if axis is None else lax.axis_index(axis)
    shared = task.model, task.solver, task.stop, task.schedule, data, total_weight, reduce, task.max_steps, place
    return Problem(*shared), together


def default_slots(lane_bytes: int, num_lanes: int) -> int:
    """Lanes advanced together: all on an accelerator; on a CPU as many as share a cache, where lanes are small."""
    if backend.accelerated():
        return num_lanes
    return max(1, min(num_lanes, 2**18 // max(lane_bytes, 1)))


def _probes(x: Data, weights: Array) -> Data:
    """A few units, and as many with noise on what is real: where optima of equal height have different densities."""
    num = weights.shape[0]
    index = np.unique(np.linspace(0, num - 1, min(num, _PROBES)).astype(int))
    heaviest = jnp.argmax(weights)

    def leaf(key: Array, rows: Array) -> Array:
        seen = weights[index].reshape(-1, *(1,) * (rows.ndim - 1)) > 0
        rows = jnp.where(seen, rows[index], rows[heaviest][None])
        noisy = rows
        if jnp.issubdtype(rows.dtype, jnp.floating):
            deviation = jnp.nanstd(rows, axis=tuple(range(max(rows.ndim - 1, 1))), keepdims=True)
            noisy = rows + 0.5 * deviation * jax.random.normal(key, rows.shape, rows.dtype)
        return jnp.concatenate([rows, noisy])

    leaves, treedef = jax.tree.flatten(x)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return to_units(treedef.unflatten([leaf(key, rows) for key, rows in zip(keys, leaves, strict=True)]))

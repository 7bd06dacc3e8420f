"""Several devices: where the data lie decides whether rows are split over them, or lanes, or neither."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jem.engine.stream import chunk_size, fold, lay_out, unit_bytes
from jem.engine.task import Task
from jem.node import Data, Node

T = TypeVar("T")


def mesh_of(x: Data, num_lanes: int) -> tuple[Any, str | None] | None:
    """The mesh the data lies on, and its axis over the rows: None where the data is replicated and lanes are split."""
    leaf = jax.tree.leaves(x)[0]
    sharding = None if isinstance(leaf, Tracer) else getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.num_devices == 1:
        return None
    axis = sharding.spec[0] if len(sharding.spec) else None
    if axis is not None and not isinstance(axis, str):
        raise ValueError(f"x: rows must be sharded over one mesh axis; got the spec {sharding.spec}")
    if axis is None and num_lanes < sharding.num_devices:
        return None
    return sharding.mesh, axis


def compressed(
    model: Node, x: Data, weights: Array, mesh: tuple[Any, str | None] | None
) -> tuple[Data, Array] | None:
    """Fewer rows that the model cannot tell from the data, where it knows how to make them: of each shard its own."""

    def shard(model: Node, x: Data, weights: Array) -> tuple[Data, Array] | None:
        def total(fn: Callable[..., Any]) -> Any:
            return fold(fn, lay_out(x, weights, chunk_size(unit_bytes(fn, x, weights), weights.shape[0])))

        return model.compress(total, x, weights)

    if mesh is None or mesh[1] is None:
        return shard(model, x, weights)
    rows = P(mesh[1])
    return jax.shard_map(shard, mesh=mesh[0], in_specs=(P(), rows, rows), out_specs=rows, check_vma=False)(model, x, weights)


def num_shards(task: Task) -> int:
    """Over how many devices the lanes are split."""
    return 1 if task.mesh is None or task.mesh[1] is not None else task.mesh[0].devices.size


def evenly(task: Task, lanes: T) -> T:
    """The lanes, with the last of them again as often as it takes for every device to have as many."""
    extra = -jax.tree.leaves(lanes)[0].shape[0] % num_shards(task)
    return jax.tree.map(lambda p: jnp.concatenate([p, jnp.repeat(p[-1:], extra, 0)]) if extra else p, lanes)


def on_mesh(program: Callable[..., Any], task: Task, starts: Any, total_weight: Any) -> Any:
    """`program(task, starts, total_weight)` on the task's mesh: rows split, statistics summed over them; or lanes split."""
    if task.mesh is None:
        return program(task, starts, total_weight)
    mesh, axis = task.mesh
    if axis is not None:
        specs = dataclasses.replace(jax.tree.map(lambda _: P(), task), x=P(axis), weights=P(axis))
        spread = jax.shard_map(program, mesh=mesh, in_specs=(specs, P(), P()), out_specs=P(), check_vma=False)
        return spread(task, starts, total_weight)
    # The last lane is run again to fill the devices evenly, and dropped.
    lanes, num = P(tuple(mesh.axis_names)), jax.tree.leaves(starts)[0].shape[0]
    spread = jax.shard_map(program, mesh=mesh, in_specs=(P(), lanes, P()), out_specs=lanes, check_vma=False)
    out = spread(task, evenly(task, starts), total_weight)
    return out if num % mesh.devices.size == 0 else jax.tree.map(lambda leaf: leaf[:num], out)

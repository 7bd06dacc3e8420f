"""All cores of a machine: each a CPU device, over which the doors spread the rows of the data, or the lanes."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jem import checks
from jem.backend import precise
from jem.data import float_dtype, row_weights
from jem.engine.restarts import FinishAll
from jem.engine.step import SUMS
from jem.engine.task import Task

T = TypeVar("T")
U = TypeVar("U")

_LARGE = 100_000  # cells of data from which a pass takes longer than it takes devices to meet
CORES = "cores"

_in_use = [1]  # by all fits from here on


def use_cores(num: int | None = None) -> int:
    """Number of cores that `fit`, `fit_restarts`, `sweep` and `bootstrap` use from now on: so many CPU devices of JAX's.

    A CPU is one device to JAX, and one core does most of a fit. Call this once, before anything else of JAX: from then on
    restarts, replicates and the rows of large data are spread over the cores, rows of weight 0 padding them. The answer is
    that of one core to rounding. Data that you placed on devices yourself stay there, inside `jit` nothing is spread, nor are
    the rows where a solver takes them a few at a time.

    Args:
        num: number of cores, >= 1; None for all that this process may run on. 1 spreads nothing.

    Returns:
        The number of cores in use.

    Raises:
        RuntimeError: too late: JAX has started with fewer devices.
        ValueError: a number that is none.

    Example:
        >>> import jem
        >>> jem.use_cores(1)
        1
    """
    if num is None:
        num = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    checks.check_positive_int(num, "num")
    if num > 1:
        _start(num)
    _in_use[0] = num
    return num


def _start(num: int) -> None:
    """JAX's CPU backend with as many devices at least."""
    try:
        jax.config.update("jax_num_cpu_devices", num)
    except RuntimeError as error:
        if (found := jax.local_device_count("cpu")) < num:
            raise RuntimeError(
                f"use_cores: JAX has started, with {found} CPU device{'s' * (found > 1)}, and cannot be given {num} any more; "
                "call jem.use_cores() at the start of the program, before the first array is made"
            ) from error


def spread(task: Task, starts: T, num_lanes: int) -> tuple[Task, T, Callable[[U], U]]:
    """The task and its starts over the cores in use, where that pays, and what brings the answer back to one device."""
    devices = cores_in_use((task, starts))
    leaves = jax.tree.leaves(task.x)
    rows, cells = leaves[0].shape[0], sum(leaf.size for leaf in leaves)
    # Lanes never wait for each other, but for a schedule that compares them.
    by_lanes = num_lanes >= 2 * len(devices) and isinstance(task.schedule, FinishAll)
    by_rows = cells >= _LARGE and rows >= 2 * len(devices) and SUMS in task.solver.traits
    if len(devices) < 2 or task.mesh is not None or not (by_lanes or by_rows):
        return task, starts, lambda answer: answer
    mesh = Mesh(np.array(devices), (CORES,))
    if by_lanes:
        return *everywhere(mesh, (dataclasses.replace(task, mesh=(mesh, None)), starts)), at_home
    x, weights = task.x, task.weights
    if extra := -rows % mesh.size:
        weights = np.append(row_weights(x, weights), np.zeros(extra, float_dtype(x)))
        x = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[:extra]]), x)
    x, weights = jax.device_put((x, weights), NamedSharding(mesh, P(CORES)))
    bare, starts = everywhere(mesh, (dataclasses.replace(task, x=None, weights=None, mesh=(mesh, CORES)), starts))
    return dataclasses.replace(bare, x=x, weights=weights), starts, at_home


def cores_in_use(arguments: Any) -> list[Any]:
    """The devices over which work on these values may be spread: none where they are traced, or placed by the user."""
    if _in_use[0] < 2 or isinstance(jnp.zeros(()), Tracer):  # inside jit
        return []
    devices = jax.local_devices()
    elsewhere = lambda leaf: isinstance(leaf, Tracer) or leaf.devices() != {devices[0]}  # noqa: E731
    arrays = [leaf for leaf in jax.tree.leaves(arguments) if isinstance(leaf, Array)]
    return [] if devices[0].platform != "cpu" or any(map(elsewhere, arrays)) else devices[: _in_use[0]]


def by_keys(program: Callable[..., T], keys: Array, arguments: tuple[Any, ...], **static: Any) -> T:
    """`program(keys, *arguments, **static)`, of an answer a key, the keys spread over the cores in use."""
    devices = cores_in_use((keys, arguments))
    if len(devices) < 2 or len(keys) < 2 * len(devices):
        return program(keys, *arguments, **static)
    mesh = Mesh(np.array(devices), (CORES,))
    num, extra = len(keys), -len(keys) % mesh.size
    keys, arguments = everywhere(mesh, (keys[np.arange(num + extra) % num], arguments))
    return jax.tree.map(lambda leaf: leaf[:num], at_home(_by_keys(program, mesh, tuple(static.items()), keys, arguments)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
@precise
def _by_keys(
    program: Callable[..., T], mesh: Mesh, static: tuple[tuple[str, Any], ...], keys: Array, arguments: tuple[Any, ...]
) -> T:
    specs = P(CORES), *(P(),) * len(arguments)
    some = functools.partial(program, **dict(static))
    return jax.shard_map(some, mesh=mesh, in_specs=specs, out_specs=P(CORES), check_vma=False)(keys, *arguments)


def everywhere(mesh: Mesh, arguments: T) -> T:
    """The values on every device of the mesh."""
    copies = NamedSharding(mesh, P())
    return jax.tree.map(lambda leaf: jax.device_put(leaf, copies) if isinstance(leaf, Array) else leaf, arguments)


def at_home(answer: T) -> T:
    """The values as if they had been computed on one device."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), answer)

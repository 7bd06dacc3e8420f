"""`vmap` of a fit over its starts is one fit of more lanes, none of which waits for the slowest."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap

from jem.engine.restarts import FinishAll
from jem.engine.task import Task
from jem.node import Params

Starts = tuple[Params, Array]


def joined(program: Callable[[Task, Starts, Array], Any]) -> Callable[[Task, Starts, Array], Any]:
    """`program(task, starts, total_weight)` of R lanes, as it is; under `vmap` over B starts the program of B R lanes.

    Where more is mapped than starts, as data or hyper-parameters, the loops themselves are, and so they are where a schedule
    compares the lanes of one fit with each other. Derivatives do not pass through what this returns in reverse.
    """
    whole = custom_vmap(program)

    @whole.def_vmap
    def rule(size: int, mapped: Any, task: Task, starts: Starts, total_weight: Array) -> tuple[Any, Any]:
        if any(jax.tree.leaves((mapped[0], mapped[2]))) or not isinstance(task.schedule, FinishAll):
            leaves, treedef = jax.tree.flatten((task, starts, total_weight))
            axes = [0 if m else None for m in jax.tree.leaves(mapped)]
            out = jax.vmap(lambda *leaves: program(*treedef.unflatten(leaves)), in_axes=axes)(*leaves)
        else:
            spread = lambda leaf, m: leaf if m else jnp.broadcast_to(leaf, (size, *leaf.shape))
            starts = jax.tree.map(spread, starts, mapped[1])
            num = starts[1].shape[1]
            lanes = jax.tree.map(lambda leaf: leaf.reshape(size * num, *leaf.shape[2:]), starts)
            out = whole(task, lanes, total_weight)
            out = jax.tree.map(lambda leaf: leaf.reshape(size, num, *leaf.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return lambda task, starts, total_weight: whole(jax.tree.map(fresh, task), starts, total_weight)


def fresh(leaf: Any) -> Any:
    """A solver's key by another name: what JAX counts as its use is that of the call, of which there may be several."""
    return jax.random.clone(leaf) if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key) else leaf

"""Probabilities on their way back from next to nothing: where the climb only seems to have ended.

EM multiplies a probability by a ratio in every step. Early steps may drive one to 1e-50 that later ones multiply by 1.6:
until it is back nothing is gained, and score and decrement are as small as at a maximum. At a maximum no cell near 0 has a
ratio above one (Karush, Kuhn and Tucker). So a lane does not end where one has: the cell is lifted to a size where it counts,
and the climb goes on from there.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem.node import Node, Params

NONE, LIFTED, SPENT = 0, 1, 2  # nothing lifted; the candidate was made by lifting; a lift was refused, and no more are tried

_COUNT = 0.1  # expected count to which a cell that doubles is lifted, were all the weight in its row
_SMALL = 1e-3  # nats in all below which a ratio above one promises nothing


def cells(model: Node, params: Params, image: Params, total_weight: Array) -> Any:
    """Which cells of `params` are next to nothing and rise in the plain step to `image`: a tree of bools, False elsewhere."""

    def leaf(support: Any, old: Array, new: Array) -> Array | bool:
        before, after = support.mass(old), support.mass(new)
        if before is None or after is None:
            return False
        weight = total_weight.astype(old.dtype)
        least = jnp.maximum(_SMALL / weight, jnp.sqrt(jnp.finfo(old.dtype).eps))
        tiny = (before > 0) & (before * weight < 0.5 * _COUNT)
        return tiny & (after > before * (1 + least))

    return jax.tree.map(leaf, model.supports(params), params, image)


def some(cells: Any) -> Array:
    """Whether there is one."""
    found = jnp.array(False)
    for leaf in jax.tree.leaves(cells):
        found = found | jnp.any(jnp.asarray(leaf))
    return found


def after(before: Array, lift: Array, refused: Array) -> Array:
    """The lane's code, after its candidate has been looked at."""
    done = jnp.where(before == LIFTED, jnp.where(refused, SPENT, NONE), before)
    return jnp.where(lift, LIFTED, done)


def lifted(model: Node, params: Params, image: Params, cells: Any, total_weight: Array) -> Params:
    """The image of the parameters with these cells at a size where they count: less, the less they rise."""

    def leaf(support: Any, rises: Array | bool, old: Array, new: Array) -> Array:
        before, after = support.mass(old), support.mass(new)
        if isinstance(rises, bool) or before is None or after is None:
            return new
        steep = jnp.clip(after / jnp.where(before > 0, before, 1) - 1, 0, 1)
        count = _COUNT * steep / jnp.maximum(total_weight, 1).astype(new.dtype)
        return support.raised(new, rises, jnp.maximum(after, count))

    return jax.tree.map(leaf, model.supports(params), cells, params, image)

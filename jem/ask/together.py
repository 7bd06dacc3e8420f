"""Several numbers of components in one program: all lanes of all of them a single batch."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jem.backend import precise
from jem.checks import check_positive_int
from jem.combine.frozen import not_given
from jem.combine.stack import Stack
from jem.data import Labelled, row_weights, series_of, to_units, used_rows
from jem.doors.fit import checked, fit_restarts
from jem.engine.result import Fit
from jem.latents import switched
from jem.latents.chain.hmm import HMM
from jem.latents.chain.transition import Cells
from jem.latents.mixture.mixture import Mixture
from jem.latents.mixture.weights import Free
from jem.node import LEAF, Data, Node, replaced


def alike(models: Mapping[str, Node], x: Data) -> list[list[str]]:
    """Names of models that differ in their number of components alone, in lists; one alone is such a list too."""
    groups: dict[Any, list[tuple[str, Any]]] = {}
    for name, model in models.items():
        one = None if _labelled(x) else _of_one(model)
        groups.setdefault(name if one is None else jax.tree.structure(one), []).append((name, one))
    lists: list[list[str]] = []
    for members in groups.values():
        kinds: list[tuple[Any, list[str]]] = []
        for name, one in members:
            mine = next((names for other, names in kinds if _same(one, other)), None)
            if mine is None:
                kinds.append((one, [name]))
            else:
                mine.append(name)
        lists += [names for _, names in kinds]
    return lists


def _labelled(x: Data) -> bool:
    return isinstance(x, Labelled) or series_of(x).labels is not None


def _same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def _of_one(model: Node) -> Node | None:
    """The model with one component, where how many it has can be a value: no prior tells them apart."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(model)) or not_given(model):
        return None  # a door refuses what would be held at random
    if isinstance(model, Mixture) and type(model.components) is Stack and _flat(model.weights):
        return replaced(model, components=replaced(model.components, size=1))
    if isinstance(model, HMM) and type(model.emission) is Stack and _flat(model.initial):
        if type(model.transition) is Cells and model.transition.fixed is None and _even(model.transition.concentration):
            return replaced(model, emission=replaced(model.emission, size=1))
    return None


def _flat(law: Any) -> bool:
    return type(law) is Free and _even(law.concentration)


def _even(concentration: Any) -> bool:
    return np.ndim(concentration) == 0 and float(concentration) == 1


def fit_together(
    models: Mapping[str, Any], key: Array, x: Data, *, num_restarts: int, weights: Array | None, **options: Any
) -> dict[str, Fit]:
    """The fits of models that differ in their number of components alone: one batch of lanes, compiled once."""
    check_positive_int(num_restarts, "num_restarts")
    sizes = {name: _plate(model).size for name, model in models.items()}
    largest = max(models, key=lambda name: sizes[name])
    x, weights = checked(models[largest], x, weights)
    model = switched.up_to(models[largest])
    used = jnp.repeat(jnp.array(list(sizes.values())), num_restarts)
    starts = _starts(model, jax.random.split(key, len(used)), used, x, weights)
    fits = fit_restarts(model, None, x, starts=starts, weights=weights, **options)
    return {name: _lanes(fits, i * num_restarts, num_restarts, size) for i, (name, size) in enumerate(sizes.items())}


def _plate(model: Any) -> Any:
    return model.emission if isinstance(model, HMM) else model.components


@jax.jit
@precise
def _starts(model: switched.UpTo, keys: Array, used: Array, x: Data, weights: Array | None) -> Any:
    units, w = to_units(used_rows(x, weights)), row_weights(x, weights)
    bound = model.bind(units, w)
    return jax.lax.map(lambda lane: switched.start(bound, lane[0], lane[1], units, w), (keys, used))


def _lanes(fits: Fit, begin: int, num: int, size: int) -> Fit:
    """The lanes of one model, as of a fit of its own."""
    lanes = jax.tree.map(lambda leaf: leaf[begin : begin + num], fits)
    before = [str(path[-1]) == ".used" for path, _ in jax.tree_util.tree_leaves_with_path(fits.params)].index(True)
    leaf = lanes.cause >> LEAF  # a cause names the leaf that it is about, and `used` is one that goes
    cause = jnp.where(leaf > before, lanes.cause - (1 << LEAF), lanes.cause)
    return lanes._replace(params=switched.first(lanes.params, size), cause=cause)

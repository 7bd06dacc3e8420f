"""Labels of one fit in the order of another's."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem.kernels.matching import match
from jem.latents.hmm import HMM, HMMParams
from jem.latents.mixture import Mixture, MixtureParams
from jem.latents.transition import Cells, TransitionParams
from jem.node import INPUTS, Data, Node, Params, field_names, set_fields
from jem.parts import Missing
from jem.plates import Stack, Tied


def labelled_part(model: Node) -> Mixture | HMM | None:
    """The mixture or chain at the top of a model, where its components are interchangeable.

    They are not where something tells them apart: fields that are held, fixed transitions, a gate or inputs.
    """
    while isinstance(model, Missing):
        model = model.child
    if isinstance(model, Mixture) and isinstance(model.components, (Stack, Tied)) and INPUTS not in model.weights.traits:
        return model
    if isinstance(model, HMM) and isinstance(model.emission, (Stack, Tied)) and _is_free(model.transition):
        return model
    return None


def _is_free(law: Any) -> bool:
    return isinstance(law, Cells) and law.fixed is None


def memberships(model: Node, params: Params, x: Data, weights: Array) -> Array:
    """Posterior probabilities (K, M) of the components or states of all units or steps, by weight; x has units last."""
    posterior, _ = model.infer(params, x)
    if isinstance(labelled_part(model), HMM):
        smoothed = posterior.smoothed * weights[None, None, :]
        return jnp.moveaxis(smoothed, 1, 0).reshape(smoothed.shape[1], -1)
    return posterior.responsibilities * weights[None, :]


def align(model: Node, params: Params, reference: Array, x: Data, weights: Array) -> Params:
    """`params` with components in the order in which they share most members with the reference (K, M)."""
    part = labelled_part(model)
    if part is None:
        return params
    mine = memberships(model, params, x, weights)
    share = reference @ mine.T  # (K, K): members of mine that the reference gives to its own
    return permute(part, params, match(-share / jnp.max(share)))


def permute(part: Mixture | HMM, params: Any, order: Array) -> Any:
    """Parameters with components or states taken in the given order (K,)."""
    if isinstance(part, HMM):
        transition = TransitionParams(params.transition.probs[order][:, order])
        initial = jax.tree.map(lambda p: p[order], params.initial)  # () where it follows from the transitions
        return HMMParams(initial, transition, _take(part.emission, params.emission, order))
    return MixtureParams(params.weights[order], _take(part.components, params.components, order))


def _take(plate: Stack | Tied, params: Params, order: Array) -> Params:
    own = lambda leaves: jax.tree.map(lambda leaf: leaf[order], leaves)
    if isinstance(plate, Stack):
        return own(params)
    if not plate.fields:
        return params
    names = [f for f in field_names(params) if f not in plate.fields]
    values = params if isinstance(params, dict) else params._asdict()
    return set_fields(params, {f: own(values[f]) for f in names})

"""Labels of one fit in the order of another's."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jem.combine.missing import Missing
from jem.kernels.matching import match
from jem.node import ORDERLESS, Data, Node, Params


def labelled_part(model: Node) -> Any:
    """The mixture or chain at the top of a model, where its components are interchangeable; None where they are not.

    They are not where something tells them apart: fields that are held, fixed transitions, a gate or inputs.
    """
    while isinstance(model, Missing):
        model = model.child
    return model if ORDERLESS in model.traits and hasattr(model, "memberships") else None


def memberships(model: Node, params: Params, x: Data, weights: Array) -> Array:
    """Posterior probabilities (K, M) of the components or states of all units or steps, by weight; x has units last."""
    return labelled_part(model).memberships(model.infer(params, x)[0], weights)


def align(model: Node, params: Params, reference: Array, x: Data, weights: Array) -> Params:
    """`params` with components in the order in which they share most members with the reference (K, M)."""
    part = labelled_part(model)
    if part is None:
        return params
    mine = memberships(model, params, x, weights)
    share = reference @ mine.T  # (K, K): members of mine that the reference gives to its own
    return part.permute(params, match(-share / jnp.max(share)))

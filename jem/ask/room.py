"""How far parameters are from the edge of their domain."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem.engine.score import Target, params_at
from jem.kernels.matrix_support import CholeskyFactor, PositiveDefinite
from jem.kernels.support import ByGradient, Held, HeldCells, Interval, Positive, Simplex


def room_of(t: Target, z: Array) -> tuple[Array, Array]:
    """(p,) distance of every parameter to the edge of its domain, infinite where it has none; and which ones are held."""
    params = params_at(t, z)
    room, held = [], []
    for support, value in zip(jax.tree.leaves(t.model.supports(params)), jax.tree.leaves(params), strict=True):
        a, b = room_of_support(support, value)
        room.append(jnp.ravel(a))
        held.append(jnp.ravel(b))
    return jnp.concatenate(room), jnp.concatenate(held)


def room_of_support(support: Any, value: Array) -> tuple[Array, Array]:
    """As `room_of`, of one leaf."""
    nothing, everywhere = jnp.zeros(value.shape, bool), jnp.full_like(value, jnp.inf)
    match support:
        case ByGradient():
            return room_of_support(support.support, value)
        case Held():
            return everywhere, ~nothing
        case Positive():
            return value, nothing
        case Interval():
            return jnp.minimum(value - support.low, support.high - value), nothing
        case Simplex() if value.shape[-1] == 1:
            return everywhere, ~nothing
        case Simplex():
            held = nothing if support.held is None else jnp.broadcast_to(jnp.asarray(support.held), value.shape)
            alone = jnp.sum(~held, -1, keepdims=True) <= 1  # a free cell that is what the others leave
            return jnp.minimum(value, 1 - value), held | alone
        case CholeskyFactor() | PositiveDefinite():
            eye = jnp.eye(value.shape[-1], dtype=bool)
            upper = jnp.triu(jnp.ones(value.shape[-2:], bool), 1) if isinstance(support, CholeskyFactor) else nothing
            return jnp.where(eye, value, jnp.inf), jnp.broadcast_to(upper, value.shape)
        case HeldCells():
            held = jnp.broadcast_to(jnp.asarray(support.held), value.shape)
            return jnp.where(held, jnp.inf, room_of_support(support.inner, value)[0]), held
    return everywhere, nothing

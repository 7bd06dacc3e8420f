"""Branches that `vmap` leaves branches."""

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_batching.custom_vmap
def anywhere(flag: Array) -> Array:
    """The flag, and under `vmap` one for all lanes: a `lax.cond` on it stays a branch, of which one side runs.

    Nor can it be differentiated in reverse otherwise, where `vmap` meets it inside of a derivative's own rule: a branch on
    several flags is a choice of values, which JAX guards by `stop_gradient`, and that has no transpose.
    """
    return flag


@anywhere.def_vmap
def _(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return anywhere(jnp.any(flag)), False

"""How many units there are that are independent of each other: what resampling and outer products of scores rest on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem.checks import is_concrete
from jem.node import Data


def num_counted(weights: Array) -> Array:
    """Units that count, a scalar."""
    return jnp.sum(weights > 0)


def check_units(who: str, x: Data, weights: Any, instead: str) -> None:
    """Raises where there is but one unit, as one sequence is: nothing can be learnt from how units differ.

    Inside a transformation weights cannot be looked at.
    """
    num = jax.tree.leaves(x)[0].shape[0]
    if weights is not None and is_concrete(weights):
        num = int((np.asarray(weights) > 0).sum())
    if num < 2:
        raise ValueError(
            f"{who}: needs units (rows, or whole sequences) that are independent of each other, at least two; x has {num}; "
            f"use {instead}"
        )

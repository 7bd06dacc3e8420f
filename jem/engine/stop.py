"""Stopping rules. Objectives are compared per unit of weight, so that a tolerance means the same at any N."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jem.node import node


def scale(objective: Array, total_weight: Array) -> Array:
    """The size against which a change of the objective is small: `max(|objective|, total weight)`."""
    return jnp.maximum(jnp.abs(objective), total_weight)


def rounding(objective: Array, total_weight: Array) -> Array:
    """How far rounding alone may move the objective: 8 units in the last place of its scale."""
    return 8 * jnp.finfo(objective.dtype).eps * scale(objective, total_weight)


@node
class RelativeGain:
    """Stops where a step gains no more than `tol` of the objective: `gain <= tol max(|objective|, total weight)`.

    The tolerance is never below the rounding level of the dtype (8 units in the last place), so that float32 neither
    stops early nor runs for ever.

    Attributes:
        tol: relative gain, >= 0.

    Example:
        >>> import jem
        >>> jem.RelativeGain(1e-8).tol
        1e-08
    """

    tol: Any = 1e-6

    def converged(self, objective: Array, previous: Array, total_weight: Array) -> Array:
        """Whether to stop, given the objective after and before the last step."""
        tol = jnp.maximum(jnp.asarray(self.tol, objective.dtype), 8 * jnp.finfo(objective.dtype).eps)
        return objective - previous <= tol * scale(objective, total_weight)


@node
class NeverStop:
    """Runs all `max_steps` steps."""

    def converged(self, objective: Array, previous: Array, total_weight: Array) -> Array:
        """False."""
        return jnp.zeros_like(objective, dtype=bool)

"""What is said of a derivative."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jem.engine.coded import Coded


class AdjointStatus(Coded):
    """What became of the derivatives of a fit."""

    NOT_TAKEN = -1, "no derivative was taken of this fit"
    SOLVED = 0, "the fixed point was reached and its linear system solved"
    SINGULAR = (
        1,
        "there are directions in which the objective is flat (equal or empty components, rotations, parameters that the "
        "data do not identify); the shortest derivative was given: only functions that do not move along them have one",
    )
    UNPOLISHED = (
        2,
        "no fixed point was reached (a component held up by a floor, a likelihood without a maximum, or a start too far "
        "away); the derivative is that of a Newton step from where the fit ended",
    )
    FAILED = 3, "the score or the information is not finite; the derivative was set to zero"


class Adjoint(NamedTuple):
    """How far the derivatives of a fit are to be trusted; filled in where the fit is differentiated. Scalars ().

    Attributes:
        status: int code of `jem.adjoints.AdjointStatus`.
        residual: largest entry of the score per unit weight, where derivatives were taken.
        error: distance to the fixed point that the residual implies, `sqrt(F^T I^{-1} F / sum of weights)`: in units of what
            a single row tells. With M the EM map, `F^T I^{-1} F = r^T I_c (I - J)^{-1} r` to first order, r = M(z) - z.
        num_flat: number of flat directions; -1 where they were not counted (large systems).
    """

    status: Array
    residual: Array
    error: Array
    num_flat: Array

    def check(self) -> "Adjoint":
        """Returns itself where derivatives were solved for, and raises `FitError` otherwise. Not for use inside jit."""
        AdjointStatus.check(self.status, AdjointStatus.SOLVED)
        return self


def not_taken(objective: Array) -> Adjoint:
    """Of a fit that is not differentiated."""
    nan = jnp.full_like(objective, jnp.nan)
    return Adjoint(jnp.array(AdjointStatus.NOT_TAKEN, jnp.int32), nan, nan, jnp.array(-1, jnp.int32))

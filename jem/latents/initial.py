"""Where a chain begins: free probabilities (`jem.Free`), or those of the law that it would stay in."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jem.kernels.stationary import stationary
from jem.node import node


@node
class Stationary:
    """A chain begins where it would stay: `z_1 ~ pi` with `pi A = pi`, A the transition matrix.

    `Q = sum_i first_i log pi_i(A) + sum_ij counts_ij log A_ij + ...` has no closed-form maximum over A: fit with `jem.GEM`,
    which finds A from these counts without another look at the data, while the emissions take their own M-step. Every state
    must lead, in the end, to every other one.

    Params: (); the chain's are `HMMParams((), TransitionParams(probs (K, K)), emission)`.

    Example:
        >>> import jem
        >>> jem.HMM(jem.Poisson(), 3, initial=jem.Stationary()).initial
        Stationary()

    Source: Zucchini and MacDonald (2009), Hidden Markov Models for Time Series, section 4.2.3.
    """

    @property
    def by_gradient(self) -> bool:
        """True: the transitions have no closed-form M-step."""
        return True

    def first(self, params: tuple[()], matrix: Array) -> Array:
        """The probabilities (K,) of the first state."""
        return stationary(matrix)

    def maximize_first(self, params: tuple[()], counts: Array) -> tuple[()]:
        """Nothing to find."""
        return ()

    def begin(self, counts: Array) -> tuple[()]:
        """Nothing to start."""
        return ()

    def log_prior(self, params: tuple[()]) -> Array:
        """Zero."""
        return jnp.zeros(())

    def supports(self, params: Any) -> tuple[()]:
        """Nothing to place."""
        return ()

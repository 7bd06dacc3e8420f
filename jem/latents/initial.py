"""Where a chain begins: free probabilities (`jem.laws.Free`), or those of the law that it would stay in."""

import jax.numpy as jnp
from jax import Array

from jem.kernels.moves import Move
from jem.kernels.stationary import stationary
from jem.node import ORDERLESS, Node, node


@node
class Stationary(Node):
    """A chain begins where it would stay: `z_1 ~ pi` with `pi A = pi`, A the transition matrix.

    `Q = sum_i first_i log pi_i(A) + sum_ij counts_ij log A_ij + ...` has no closed-form maximum over A: fit with
    `jem.solvers.GEM`, which finds A from these counts without another look at the data, while the emissions take their own
    M-step. Every state must lead, in the end, to every other one.

    Params: (); the chain's are `HMMParams((), TransitionParams(probs (K, K)), emission)`.

    Example:
        >>> import jem
        >>> jem.HMM(jem.Poisson(), 3, initial=jem.laws.Stationary()).initial
        Stationary()

    Source: Zucchini and MacDonald (2009), Hidden Markov Models for Time Series, section 4.2.3.
    """

    @property
    def by_gradient(self) -> bool:
        """True: the transitions have no closed-form M-step."""
        return True

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({ORDERLESS})

    def permute(self, params: tuple[()], order: Array) -> tuple[()]:
        return ()

    def first(self, params: tuple[()], move: Move) -> Array:
        """The probabilities (K,) of the first state."""
        return stationary(move.matrix())

    def of_chain(self) -> "Stationary":
        """The law of a chain's first state."""
        return self

    def start(self, counts: Array) -> tuple[()]:
        """Nothing to start."""
        return ()

    def maximize(self, params: tuple[()], stats: Array) -> tuple[()]:
        return ()

    def expected_log_prob(self, params: tuple[()], stats: Array, old: tuple[()]) -> Array:
        return jnp.zeros(())  # the chain knows the transitions, and with them what this is

    def recentre(self, stats: Array, old: tuple[()], new: tuple[()]) -> Array:
        return stats

    def supports(self, params: tuple[()]) -> tuple[()]:
        return ()

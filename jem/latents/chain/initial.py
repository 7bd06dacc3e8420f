"""Where a chain begins: free probabilities, a product over several chains, or the law that it would stay in."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jem import tree
from jem.kernels.moves import Move
from jem.kernels.simplex import margins
from jem.kernels.stationary import stationary
from jem.latents.mixture.weights import Free
from jem.node import ORDERLESS, Node, node, set_once, static
from jem.settings import a, whole

FREE = a("returns", "a jem.laws.Free()")


@node
class Stationary(Node):
    """A chain begins where it would stay: `z_1 ~ pi` with `pi A = pi`, A the transition matrix.

    `Q = sum_i first_i log pi_i(A) + sum_ij counts_ij log A_ij + ...` has no closed-form maximum over A: fit with
    `jem.solvers.GEM`, which finds A from these counts without another look at the data, while the emissions take their own
    M-step. Every state must lead, in the end, to every other one.

    Params: (); the chain's are `HMMParams((), TransitionParams(probs (K, K)), emission)`.

    Raises:
        ValueError: in a chain whose transitions have no such law, `Driven` or `Durations`.

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

    def of_chain(self, size: int) -> "Stationary":
        """The law of the first of K states."""
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


@node
class Outer(Node):
    """Several chains side by side begin each on its own: `p(z_1 = (k_1, k_2, ..)) = p_1(k_1) p_2(k_2) ..`.

    What `jem.laws.Kronecker` is for transitions: states are all combinations, the last chain's running fastest. The M-step is
    `probs_f = counts_f / sum counts_f`, counts those of each chain's first states.

    Params: a tuple of probabilities (K_f,).

    Args:
        *sizes: numbers of states K_f of the chains.
        laws: a `jem.laws.Free` for each; None is maximum likelihood.

    Raises:
        ValueError: no size, not one law for each, or sizes whose product is not the number of states.

    Example:
        >>> import jem
        >>> jem.HMM(jem.Poisson(), 6, initial=jem.laws.Outer(3, 2), transition=jem.laws.Kronecker(3, 2)).initial.sizes
        (3, 2)

    Source: Ghahramani and Jordan (1997), Machine Learning 29.
    """

    laws: tuple[Free, ...]
    sizes: tuple[int, ...] = static()

    def __init__(self, *sizes: int, laws: Any = None):
        for size in sizes:
            whole(1)(size, "Outer: sizes")
        laws = (Free(),) * len(sizes) if laws is None else tuple(laws)
        if not sizes or len(laws) != len(sizes):
            raise ValueError(
                f"Outer: give the number of states of each chain, and a law for each or none; got {len(sizes)} sizes and "
                f"{len(laws)} laws; two chains of 3 and 2 states are Outer(3, 2)"
            )
        for i, law in enumerate(laws):
            FREE(law, f"Outer: law {i}")
        set_once(self, laws=tuple(law.of_chain(size) for law, size in zip(laws, sizes, strict=True)), sizes=sizes)

    @property
    def by_gradient(self) -> bool:
        """False: a chain that begins so has transitions in closed form."""
        return False

    @property
    def traits(self) -> frozenset[str]:
        return frozenset()  # states of one chain may change places, not any two combinations

    def of_chain(self, size: int) -> "Outer":
        """The law of the first of K states."""
        if size != np.prod(self.sizes):
            raise ValueError(
                f"HMM: initial: chains of {self.sizes} states have {np.prod(self.sizes)} combinations; the emission has {size} "
                "states"
            )
        return self

    def _each(self, counts: Array, *params: tuple[Array, ...]) -> Any:
        """Of each chain its law, the counts (K_f,) of its first states, from those of all combinations (K,), and parameters."""
        return zip(self.laws, margins(counts, self.sizes), *params, strict=True)

    def start(self, counts: Array) -> tuple[Array, ...]:
        """A start, from counts (K,)."""
        return tuple(law.start(c) for law, c in self._each(counts))

    def first(self, params: tuple[Array, ...], move: Any) -> Array:
        """The probabilities (K,) of the first state."""
        first = params[0]
        for probs in params[1:]:
            first = (first[:, None] * probs[None]).reshape(-1)
        return first

    def maximize(self, params: tuple[Array, ...], stats: Array) -> tuple[Array, ...]:
        return tuple(law.maximize(p, c) for law, c, p in self._each(stats, params))

    def expected_log_prob(self, params: tuple[Array, ...], stats: Array, old: tuple[Array, ...]) -> Array:
        return tree.total(law.expected_log_prob(p, c, o) for law, c, p, o in self._each(stats, params, old))

    def log_prior(self, params: tuple[Array, ...]) -> Array:
        return tree.total(law.log_prior(p) for law, p in zip(self.laws, params, strict=True))

    def recentre(self, stats: Array, old: tuple[Array, ...], new: tuple[Array, ...]) -> Array:
        return stats

    def supports(self, params: tuple[Array, ...]) -> Any:
        return tuple(law.supports(p) for law, p in zip(self.laws, params, strict=True))

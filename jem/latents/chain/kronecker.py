"""Several chains side by side, seen through one emission: factorial hidden Markov models over a small product space."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jem.composite import Composite
from jem.kernels.moves import Factors
from jem.kernels.simplex import margins
from jem.latents.chain.transition import Cells, Law, TransitionParams
from jem.node import Node, node, set_once, static
from jem.settings import a, whole

CELLS = a("fixed", "a jem.laws.Cells() for each chain")


@node
class Kronecker(Law, Composite):
    """Transitions of several chains that move on their own: `A = A_1 (x) A_2 (x) ..`, over states (k_1, k_2, ..).

    The states of the `HMM` are all combinations, `K = K_1 K_2 ..`, the last chain's running fastest: `jnp.unravel_index(k,
    sizes)` takes one apart. Emissions are those of any `HMM`, one to a combination, or `jem.Additive`, whose means are sums
    over the chains. The E-step is exact; a step costs `K (K_1 + K_2 + ..)`.

    Params: a tuple of `TransitionParams(probs (K_f, K_f))`.

    Args:
        *sizes: numbers of states K_f of the chains.
        laws: a `jem.laws.Cells` for each; None leaves all free.

    Raises:
        ValueError: no size, not one law for each, or sizes whose product is not the number of states.

    Example:
        >>> import jem
        >>> jem.HMM(jem.Poisson(), 6, transition=jem.laws.Kronecker(3, 2)).transition.sizes
        (3, 2)

    Source: Ghahramani and Jordan (1997), Machine Learning 29.
    """

    laws: tuple[Cells, ...]
    sizes: tuple[int, ...] = static()

    def __init__(self, *sizes: int, laws: Any = None):
        for size in sizes:
            whole(1)(size, "Kronecker: sizes")
        laws = (Cells(),) * len(sizes) if laws is None else tuple(laws)
        if not sizes or len(laws) != len(sizes):
            raise ValueError(
                f"Kronecker: give the number of states of each chain, and a law for each or none; got {len(sizes)} sizes and "
                f"{len(laws)} laws; two chains of 3 and 2 states are Kronecker(3, 2)"
            )
        for i, law in enumerate(laws):
            CELLS(law, f"Kronecker: law {i}")
        set_once(self, laws=laws, sizes=sizes)

    @property
    def settles(self) -> bool:
        return True

    def sized(self, size: int) -> "Kronecker":
        product = 1
        for k in self.sizes:
            product *= k
        if size != product:
            raise ValueError(
                f"HMM: transition: chains of {self.sizes} states have {product} combinations; the emission has {size} states, "
                f"write HMM(node, {product}, ...)"
            )
        for law, k in zip(self.laws, self.sizes, strict=True):
            law.sized(k)
        return self

    @property
    def traits(self) -> frozenset[str]:
        return frozenset()  # states of one chain may change places, not any two combinations

    def parts(self) -> dict[int, Node]:
        return dict(enumerate(self.laws))

    def with_parts(self, parts: dict[Any, Node]) -> "Kronecker":
        return Kronecker(*self.sizes, laws=tuple(parts.values()))

    def move(self, params: tuple[TransitionParams, ...], inputs: None, steps: int) -> Factors:
        return Factors(tuple(p.probs for p in params))

    def gather(self, params: Any, counts: tuple[Array, ...], first: Array, inputs: None) -> tuple[Array, ...]:
        return counts

    def margins(self, visits: Array) -> Array:
        return jnp.concatenate(margins(visits, self.sizes))

    def guess(self, key: Array, pairs: Array, inputs: None, weights: Array) -> tuple[TransitionParams, ...]:
        moves = Factors(tuple(jnp.ones((k, k)) for k in self.sizes)).of_each(pairs)
        return tuple(law.guess(key, p, None, weights) for law, p in zip(self.laws, moves, strict=True))

"""Laws of a mixture's weights, a part of it: free numbers, or a gate that is driven by inputs.

A law is a node over units with a row for each component: `infer` gives `log p(z = k | u)`, (K, N) or (K, 1), and `expect`
takes weights (K, N).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import series_checks
from jem.composite import Wrapper
from jem.families import user
from jem.families.autodiff import Density
from jem.kernels.simplex import log_dirichlet, maximize_simplex, safe_log, xlogy
from jem.kernels.support import Simplex
from jem.node import INPUTS, ORDERLESS, Data, Node, Params, node, replaced, set_once, setting, static
from jem.settings import Must, number

PRIOR = number(above=0.0)


@node
class Free(Node):
    """Weights that are parameters, `p(z = k) = weights_k`; the M-step is `weights_k = sum_n r_nk / N`.

    The weights of a mixture, or the probabilities of a chain's first state.

    Params: weights (K,), summing to one.

    Attributes:
        concentration: Dirichlet prior, scalar or (K,); 1 is maximum likelihood.
        returns: whether a weight whose count underflows may come back. In a chain it does, which sets it: a first state that is
            all but ruled out now is no state that is empty. A component of weight 0 stays out.

    Raises:
        ValueError: a concentration that is not above 0.

    Example:
        >>> import jem
        >>> jem.Mixture(jem.Gaussian(), 3, weights=jem.laws.Free(concentration=2.0)).weights.concentration
        2.0

    Source: Dempster, Laird and Rubin (1977), JRSS B 39, section 4.3.
    """

    concentration: Any = setting(default=1.0, must=PRIOR)
    returns: bool = static(default=False)

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({ORDERLESS})

    def permute(self, params: Array, order: Array) -> Array:
        return params[order]

    def sized(self, size: int) -> "Free":
        """The law of K weights."""
        return self

    def counts(self, stats: Array) -> Array:
        """Expected counts (K,)."""
        return stats

    @property
    def by_gradient(self) -> bool:
        """False: a chain that begins so has transitions in closed form."""
        return False

    def of_chain(self, size: int) -> "Free":
        """The law of the first of K states."""
        return replaced(self, returns=True)

    def start(self, counts: Array) -> Array:
        """A start, from counts (K,)."""
        return (counts + 1) / jnp.sum(counts + 1)

    def first(self, params: Array, move: Any) -> Array:
        """The probabilities (K,) of a chain's first state."""
        return params

    def infer(self, params: Array, x: Data) -> tuple[tuple[()], Array]:
        return (), safe_log(params)[:, None]

    def expect(self, params: Array, posterior: tuple[()], x: Data, weights: Array) -> Array:
        return jnp.sum(weights, 1)

    def maximize(self, params: Array, stats: Array) -> Array:
        return maximize_simplex(stats, params, self.concentration, self.returns)

    def expected_log_prob(self, params: Array, stats: Array, old: Array) -> Array:
        return jnp.sum(xlogy(stats, params))

    def init(self, key: Array, x: Data, weights: Array) -> Array:
        return self.start(jnp.sum(weights, 1))

    def log_prior(self, params: Array) -> Array:
        return log_dirichlet(params, self.concentration)

    def recentre(self, stats: Array, old: Array, new: Array) -> Array:
        return stats

    def supports(self, params: Array) -> Simplex:
        return Simplex()


def free_unless(law: Any, concentration: Any, name: str, must: Must) -> Any:
    """The law that was given, or free weights under a Dirichlet prior where there is none."""
    if law is None:
        PRIOR(1.0 if concentration is None else concentration, f"{name.split(':')[0]}: concentration")
        return Free(1.0 if concentration is None else concentration)
    must(law, name)
    if concentration is not None:
        raise ValueError(
            f"{name}: a law that is given has its prior itself; write jem.laws.Free(concentration={concentration})"
        )
    return law


class GateStats(NamedTuple):
    """Expected counts (K,), and what is known of the gate about its parameters."""

    counts: Array
    gate: Any


@node
class Gate(Wrapper):
    """Weights that are a function of inputs u, `p(z = k | u) = softmax_k(logits(params, u))`: a mixture of experts.

    There is no closed-form M-step: fit with `jem.solvers.GEM`, which moves the gate by gradient while components that have a
    closed form keep it. A linear gate is softmax regression; with networks for the gate and for the components it is a neural
    mixture of experts.

    The mixture's x is then `jem.Given(outputs, inputs)` with N rows each: the gate sees the inputs, the components the outputs.
    Components that look at inputs too have them among the outputs, a dict for example.

    Params: those of `start`.

    Args:
        logits: `logits(params, u)`, a vector (K,) of real numbers for one row u of inputs.
        start: parameters, or `start(key, u, weights)`, which makes them from rows u.
        supports: where they may lie; None is the real line.
        log_prior: `log_prior(params)`, a scalar, added to the objective.
        spread: standard deviation of the noise that `init` adds to `start`.

    Raises:
        ValueError: at the door, a mixture's x without inputs, or with one that is missing.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> start = {"constant": jnp.zeros(2), "slope": jnp.zeros((2, 1))}
        >>> gate = jem.laws.Gate(lambda p, u: p["constant"] + p["slope"] @ u, start)
        >>> jem.Mixture(jem.Gaussian(), 2, weights=gate).weights.child.shape
        (2,)

    Source: Jacobs, Jordan, Nowlan and Hinton (1991), Neural Computation 3; Jordan and Jacobs (1994), Neural Computation 6.
    """

    child: Density

    def __init__(
        self,
        logits: Callable[..., Array],
        start: Any,
        *,
        supports: Any = None,
        log_prior: Callable[..., Array] | None = None,
        spread: Any = 0.1,
    ):
        law = Density(LogSoftmax(logits), start, supports=supports, log_prior=log_prior, size=1, spread=spread)
        set_once(self, child=law)

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({INPUTS})

    def sized(self, size: int) -> "Gate":
        """The law of K weights."""
        return replaced(self, child=replaced(self.child, shape=(size,)))

    def counts(self, stats: GateStats) -> Array:
        """Expected counts (K,)."""
        return stats.counts

    def expect(self, params: Params, posterior: Any, x: Data, weights: Array) -> GateStats:
        return GateStats(jnp.sum(weights, 1), self.child.expect(params, posterior, x, weights))

    def maximize(self, params: Params, stats: GateStats) -> Params:
        return params

    def expected_log_prob(self, params: Params, stats: GateStats, old: Params) -> Array:
        return self.child.expected_log_prob(params, stats.gate, old)

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        return self.child.init(key, x, jnp.sum(weights, 0))

    def recentre(self, stats: GateStats, old: Params, new: Params) -> GateStats:
        # What is known of the gate holds about the old parameters only.
        return Node.recentre(self, stats, old, new)

    def validate(self, x: Data) -> None:
        series_checks.check_inputs(x, None, "Gate")
        user.check_columns("Gate", self.child, x)
        self.child.validate(x)


class LogSoftmax:
    """`log softmax(logits(params, u))` over the last axis; equal to another one of the same function."""

    def __init__(self, logits: Callable[..., Array]):
        self.logits = logits
        self.__qualname__ = user.name_of(logits)

    def __call__(self, params: Params, u: Array) -> Array:
        return jax.nn.log_softmax(user.traced_once(self.logits)(params, u), axis=-1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogSoftmax) and other.logits == self.logits

    def __hash__(self) -> int:
        return hash((LogSoftmax, self.logits))

"""A chain without a closed-form M-step: its transitions are driven by inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.composite import Composite
from jem.data import series_of, with_inputs, without_inputs
from jem.families.autodiff import Density
from jem.kernels import driven_chain
from jem.kernels.simplex import xlogy
from jem.kernels.support import Simplex
from jem.latents.hmm import HMM, HMMParams
from jem.latents.mixture import nobody
from jem.latents.weights import LogSoftmax
from jem.node import DISCRETE, MISSING, Data, Node, node, replaced, set_once
from jem.settings import a

CHAIN = a("transition", "a chain, jem.HMM(emission, K)")


class DrivenStats(NamedTuple):
    """Expected first states (K,), steps of each state (K,), and statistics of the transition's law and of the emissions."""

    initial: Array
    visits: Array
    transition: Any
    emission: Any


class DrivenPosterior(NamedTuple):
    """Posterior of the states: `smoothed` (T, K, S), `filtered` (T, K, S), neighbours `pairs` (T - 1, K, K, S), emissions'."""

    smoothed: Array
    filtered: Array
    pairs: Array
    emission: Any


@node
class DrivenHMM(Composite):
    """A hidden Markov model whose transitions are driven by inputs u.

    `p(z_t = j | z_{t-1} = i, u_t) = softmax_j(logits(params, u_t)[i, j])`; the rest is the chain's. Softmax regression
    where the logits are linear in u, a network where they are one. There is no closed-form M-step for them: fit with
    `jem.GEM`; emissions that have one, and the first state, keep it.

    x is `jem.Given(outputs (S, T, ...), inputs (S, T, p))`, or `jem.Sequences` or `jem.Labelled` of one: the input of a step
    drives the transition into it. Outputs are what the chain takes; an emission that looks at inputs too has them among
    its outputs, a dict for example.

    Params: `HMMParams(initial (K,), transition, emission)`, with the parameters of `start` as the transition's.

    Args:
        child: the chain, `jem.HMM(emission, K)`; its own transition law is not used.
        logits: `logits(params, u)`, a matrix (K, K) of real numbers for one input u (p,): row i for the state before.
        start: parameters, or `start(key, u, weights)`, which makes them from inputs u (N, p).
        supports: where the parameters may lie; None is the real line.
        log_prior: `log_prior(params)`, a scalar, added to the objective.
        spread: standard deviation of the noise that `init` adds to `start`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> start = {"constant": 2.0 * jnp.eye(2), "slope": jnp.zeros((2, 2, 1))}
        >>> model = jem.DrivenHMM(jem.HMM(jem.Poisson(), 2), lambda p, u: p["constant"] + p["slope"] @ u, start)
        >>> model.transition.shape
        (2, 2)

    Source: Bengio and Frasconi (1995), NIPS 7 (input-output hidden Markov models).
    """

    child: HMM
    transition: Density

    def __init__(
        self,
        child: HMM,
        logits: Callable[..., Array],
        start: Any,
        *,
        supports: Any = None,
        log_prior: Callable[..., Array] | None = None,
        spread: Any = 0.1,
    ):
        CHAIN(child, "DrivenHMM: child")
        if child.initial.by_gradient:
            raise ValueError("DrivenHMM: child: driven transitions stay nowhere; give a chain with initial=jem.Free()")
        size = (child.emission.size,) * 2
        law = Density(LogSoftmax(logits), start, supports=supports, log_prior=log_prior, size=size, spread=spread)
        set_once(self, child=child, transition=law)

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({MISSING, DISCRETE})

    def parts(self) -> dict[str, Node]:
        return {"transition": self.transition, "emission": self.child.emission}

    def with_parts(self, parts: dict[str, Node]) -> "DrivenHMM":
        return replaced(self, transition=parts["transition"], child=replaced(self.child, emission=parts["emission"]))

    def see(self, name: str, x: Data, weights: Array) -> tuple[Data, Array]:
        outputs, inputs = without_inputs(x)
        if name == "emission":
            return self.child.see(name, outputs, weights)
        within = self.child._steps(outputs).within
        return _flat(_within(inputs, within)), jnp.where(within[1:], weights[None, :], 0).reshape(-1)

    def assign(self, rule: Any) -> "DrivenHMM":
        raise TypeError(
            "DrivenHMM: its path cannot be set by a rule, so hard, stochastic and annealed EM do not work; fit with jem.GEM "
            "alone, and ask jem.viterbi for the most probable path"
        )

    def infer(self, params: HMMParams, x: Data) -> tuple[DrivenPosterior, Array]:
        x, inputs = without_inputs(x)
        steps = self.child._steps(x)
        inputs = _within(inputs, steps.within)
        emission, log_e = self.child._log_emissions(params, x, steps)
        path = driven_chain.smooth(params.initial, self._log_matrices(params, inputs), log_e)
        return DrivenPosterior(path.smoothed, path.filtered, path.pairs, emission), path.log_normalizer

    def expect(self, params: HMMParams, posterior: DrivenPosterior, x: Data, weights: Array) -> DrivenStats:
        x, inputs = without_inputs(x)
        steps, size = self.child._steps(x), self.child.emission.size
        inputs = _within(inputs, steps.within)
        pairs = jnp.where(steps.within[1:, None, None, :], posterior.pairs * weights[None, None, None, :], 0)
        pairs = jnp.moveaxis(pairs, 0, 2).reshape(size, size, -1)
        moves: Any = self.transition.expect(params.transition, (), _flat(inputs), pairs)
        gamma = jnp.where(steps.seen[:, None, :], posterior.smoothed * weights[None, None, :], 0)
        gamma = jnp.moveaxis(gamma, 1, 0).reshape(size, -1)
        emission = self.child.emission.expect(params.emission, posterior.emission, steps.flat, gamma)
        initial = posterior.smoothed[0] @ weights
        return DrivenStats(initial, initial + jnp.sum(pairs, (0, 2)), moves, emission)

    def maximize(self, params: HMMParams, stats: DrivenStats) -> HMMParams:
        initial = self.child.initial.maximize_first(params.initial, stats.initial)
        return HMMParams(initial, params.transition, self.child.emission.maximize(params.emission, stats.emission))

    def expected_log_prob(self, params: HMMParams, stats: DrivenStats, old: HMMParams) -> Array:
        return (
            jnp.sum(xlogy(stats.initial, params.initial))
            + self.transition.expected_log_prob(params.transition, stats.transition, old.transition)
            + self.child.emission.expected_log_prob(params.emission, stats.emission, old.emission)
        )

    def init(self, key: Array, x: Data, weights: Array) -> HMMParams:
        chain_key, law_key = jax.random.split(key)
        transition = self.transition.init(law_key, *self.see("transition", x, weights))
        return self.child.init(chain_key, without_inputs(x)[0], weights)._replace(transition=transition)

    def sample(self, key: Array, params: HMMParams, num: int) -> tuple[Any, Data]:
        raise TypeError("DrivenHMM: inputs are given, not drawn; draw like data with inputs, sample(..., like=x)")

    def sample_like(self, key: Array, params: HMMParams, x: Data) -> tuple[Any, Data]:
        path_key, emission_key = jax.random.split(key)
        outputs, inputs = without_inputs(x)
        path = driven_chain.sample_path(path_key, params.initial, self._log_matrices(params, inputs))
        new = self.child.emit(emission_key, params, path, outputs)
        return path, with_inputs(new, inputs)

    def num_observations(self, x: Data) -> Array:
        return self.child.num_observations(without_inputs(x)[0])

    def own_log_prior(self, params: HMMParams) -> Array:
        return self.child.initial.log_prior(params.initial)

    def own_degenerate(self, params: HMMParams, stats: DrivenStats) -> Array:
        return nobody(stats.visits)

    def own_supports(self, params: HMMParams) -> Any:
        return params._replace(initial=Simplex())

    def recentre(self, stats: DrivenStats, old: HMMParams, new: HMMParams) -> DrivenStats:
        # What is known of the transitions holds about the old parameters only.
        return Node.recentre(self, stats, old, new)

    def features(self, x: Data) -> Array:
        return self.child.features(without_inputs(x)[0])

    def validate(self, x: Data) -> None:
        outputs, inputs = without_inputs(x)
        values, lengths, _ = series_of(x)
        if inputs is None:
            raise ValueError(f"DrivenHMM: x must be jem.Given(outputs, inputs (S, T, p)); got {type(values).__name__}")
        checks.check_sequences(values, lengths, "DrivenHMM")
        ends = jnp.full(inputs.shape[0], inputs.shape[1]) if lengths is None else lengths
        checks.check_inputs(inputs, ends, "DrivenHMM")
        within = jnp.arange(inputs.shape[1])[:, None] < ends[None]
        inputs = jnp.moveaxis(_within(jnp.moveaxis(inputs, 0, -1), within), -1, 0)
        self.transition.validate(jnp.reshape(inputs, (-1, *inputs.shape[2:])))
        self.child.validate(outputs)

    def must_be_finite(self, x: Data) -> Data:
        outputs, inputs = without_inputs(x)
        return with_inputs(self.child.must_be_finite(outputs), inputs)

    def viterbi(self, params: HMMParams, x: Data) -> tuple[Array, Array]:
        """The most probable states (T, S), -1 beyond a sequence's end, and their joint log-probability (S,)."""
        x, inputs = without_inputs(x)
        steps = self.child._steps(x)
        log_e = self.child._log_emissions(params, x, steps)[1]
        log_a = self._log_matrices(params, _within(inputs, steps.within))
        path, log_prob = driven_chain.viterbi(jnp.log(params.initial), log_a, log_e, steps.within)
        return jnp.where(steps.within, path, -1), log_prob

    def _log_matrices(self, params: HMMParams, inputs: Array) -> Array:
        """(T - 1, K, K, S) log-probabilities of the transitions, from inputs (T, p, S)."""
        table = self.transition.infer(params.transition, _flat(inputs))[1]
        return jnp.moveaxis(table.reshape(*self.transition.shape, inputs.shape[0] - 1, -1), 2, 0)


def _within(inputs: Array, within: Array) -> Array:
    """Inputs (T, p, S), those beyond a sequence's end replaced by its first: nothing sees what they held."""
    return jnp.where(within[:, None], inputs, inputs[:1])


def _flat(inputs: Array) -> Array:
    """Inputs (T, p, S) of the steps after the first as units last, (p, (T - 1) S)."""
    return jnp.moveaxis(inputs[1:], 0, 1).reshape(inputs.shape[1], -1)

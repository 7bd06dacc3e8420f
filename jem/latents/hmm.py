"""Hidden Markov models over any emission."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.composite import Composite, Wrapper
from jem.data import fill, observed, series_of, single_steps, with_values, within_lengths
from jem.kernels import chain
from jem.kernels.simplex import xlogy
from jem.kernels.support import ByGradient
from jem.kernels.unit_axis import sum_in_parts
from jem.latents.mixture import SEEDING, KMeansPlusPlus, nobody, pick, relabelled
from jem.latents.transition import Transition, TransitionParams
from jem.latents.weights import free_unless
from jem.node import (
    DISCRETE,
    MISSING,
    Data,
    Node,
    Params,
    Posterior,
    Stats,
    assign,
    node,
    replaced,
    set_once,
    setting,
    static,
)
from jem.plates import Stack
from jem.settings import a, an_instance, check_components, whole


class HMMParams(NamedTuple):
    """Probabilities (K,) of the first state, () where its law has none, the transition's parameters and the emissions'."""

    initial: Any
    transition: TransitionParams
    emission: Params


class HMMPosterior(NamedTuple):
    """Posterior of the states, and the messages behind it; from `jem.infer` with the sequence axis first.

    Attributes:
        smoothed: (T, K, S) `p(z_t | x)`; (S, T, K) from `jem.infer`.
        filtered: (T, K, S) `p(z_t | x_1 .. x_t)`.
        backward: (T - 1, K, S); `p(z_{t-1} = i, z_t = j | x) = filtered[t-1, i] A[i, j] backward[t-1, j]`. Zero at steps
            where it is too large for its dtype.
        rest: (K, K, S) the pair probabilities summed over these steps.
        emission: the emissions' posteriors.
    """

    smoothed: Array
    filtered: Array
    backward: Array
    rest: Array
    emission: Posterior


class HMMStats(NamedTuple):
    """Expected first states (K,), transitions (K, K) and the emissions' statistics."""

    initial: Array
    transition: Array
    emission: Stats


class _Steps(NamedTuple):
    """Sequences as single steps: data (..., T S), which of them lie within their sequence and which are observed (T, S)."""

    flat: Data
    within: Array
    seen: Array


FIRST = a("first", "the law of the first state, jem.Free() or jem.Stationary()")
FORM = an_instance(chain.Form, "jem.Automatic(), jem.Sequential() or jem.Blocks(n)")


@node
class HMM(Composite):
    """A hidden Markov model, `z_1 ~ initial`, `z_t | z_{t-1} ~ transition`, `x_t | z_t = k ~ emission[k]`.

    `log p(x)` by the normalised forward recursion; the E-step gives `gamma_t = p(z_t | x)` and the summed pair
    probabilities; the M-step is Baum and Welch's. A unit is a sequence: weights are per sequence.

    x is `jem.Sequences(values (S, T, ...), lengths (S,))` or an array (S, T, ...) of sequences of one length. A step with a
    NaN is a missing observation: it adds nothing but its transition (use `jem.Missing` around the parts of a `Product` for
    single cells). `jem.Labelled(x, labels (S, T))` gives states that are known.

    Params: `HMMParams(initial (K,), TransitionParams(probs (K, K)), emission)`, emission parameters with a leading axis K;
    `initial` is () where the chain begins where it stays.

    Args:
        emission: a node, repeated K times, or a plate: `Stack`, `Tied`, `OneOf`.
        num_states: K, where `emission` is a node.
        transition: the transition law.
        initial: the law of the first state, `jem.Free()`, the default, or `jem.Stationary()`.
        concentration: short for `initial=jem.Free(concentration)`, a Dirichlet prior.
        seeding: how states are guessed at the start, from single observations.
        form: `jem.Automatic()`, `jem.Sequential()` or `jem.Blocks(n)`: how the recursion runs; never the answer.
        length: length of the sequences that `jem.sample` draws.

    Example:
        >>> import jem
        >>> jem.HMM(jem.Poisson(), 3).emission.size
        3

    Source: Baum, Petrie, Soules and Weiss (1970); Rabiner (1989), Proc. IEEE 77.
    """

    emission: Any  # a plate
    transition: Transition = setting(must=a("matrix", "a transition law such as jem.Transition()"))
    initial: Any = setting(must=FIRST)
    seeding: Any = setting(must=SEEDING)
    form: chain.Form = static(must=FORM)
    length: int = static(must=whole(1))

    def __init__(
        self,
        emission: Any,
        num_states: int | None = None,
        *,
        transition: Transition = Transition(),  # noqa: B008
        initial: Any = None,
        concentration: Any = None,
        seeding: Any = KMeansPlusPlus(),  # noqa: B008
        form: chain.Form = chain.Automatic(),  # noqa: B008
        length: int = 100,
    ):
        size = check_components(emission, num_states, "HMM")
        plate = emission if size is None else Stack(emission, size)
        law = free_unless(initial, concentration, "HMM: initial", FIRST)
        set_once(self, emission=plate, transition=transition, initial=law, seeding=seeding, form=form, length=length)

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({MISSING, DISCRETE})

    def parts(self) -> dict[str, Node]:
        return {"emission": self.emission}

    def see(self, name: str, x: Data, weights: Array) -> tuple[Data, Array]:
        steps = self._steps(x)
        return steps.flat, jnp.where(steps.seen, weights[None, :], 0).reshape(-1)

    def assign(self, rule: Any) -> "AssignedHMM":
        return AssignedHMM(replaced(self, emission=assign(self.emission, rule.part(1))), rule.part(0))

    def infer(self, params: HMMParams, x: Data) -> tuple[HMMPosterior, Array]:
        steps = self._steps(x)
        posterior, log_e = self._log_emissions(params, x, steps)
        first, matrix = self.law(params)
        s = chain.smooth(first, matrix, log_e, self.form)
        return HMMPosterior(s.smoothed, s.filtered, s.backward, s.rest, posterior), s.log_normalizer

    def law(self, params: HMMParams) -> tuple[Array, Array]:
        """The probabilities (K,) of the first state and the transition matrix (K, K)."""
        matrix = self.transition.matrix(params.transition)
        return self.initial.first(params.initial, matrix), matrix

    def expect(self, params: HMMParams, posterior: HMMPosterior, x: Data, weights: Array) -> HMMStats:
        return self.gather(params, posterior, x, weights, self.transition.matrix(params.transition))

    def gather(self, params: HMMParams, posterior: HMMPosterior, x: Data, weights: Array, matrix: Array) -> HMMStats:
        """The statistics, from messages that belong to `matrix` (K, K)."""
        steps = self._steps(x)
        within = jnp.where(steps.within, weights[None, :], 0)
        pairs = chain.expected_transitions(matrix, posterior.filtered, posterior.backward, within[1:])
        pairs = pairs + posterior.rest @ weights
        gamma = jnp.where(steps.seen[:, None, :], posterior.smoothed * weights[None, None, :], 0)
        gamma = jnp.moveaxis(gamma, 1, 0).reshape(gamma.shape[1], -1)
        expect = lambda units, w: self.emission.expect(params.emission, *units, w)
        emission = sum_in_parts(expect, (posterior.emission, steps.flat), gamma)
        return HMMStats(posterior.smoothed[0] @ weights, pairs, emission)

    def maximize(self, params: HMMParams, stats: HMMStats) -> HMMParams:
        return HMMParams(
            self.initial.maximize_first(params.initial, stats.initial),
            params.transition if self.initial.by_gradient else self.transition.maximize(params.transition, stats.transition),
            self.emission.maximize(params.emission, stats.emission),
        )

    def expected_log_prob(self, params: HMMParams, stats: HMMStats, old: HMMParams) -> Array:
        return (
            jnp.sum(xlogy(stats.initial, self.law(params)[0]))
            + self.transition.expected_log_prob(params.transition, stats.transition)
            + self.emission.expected_log_prob(params.emission, stats.emission, old.emission)
        )

    def init(self, key: Array, x: Data, weights: Array) -> HMMParams:
        seed_key, child_key = jax.random.split(key)
        steps, size = self._steps(x), self.emission.size
        num_steps, num = steps.seen.shape
        w = self.see("emission", x, weights)[1]
        r = self.seeding.responsibilities(seed_key, self.emission, steps.flat, w, size)
        path = r.reshape(size, num_steps, num) * steps.seen[None]
        pairs = jnp.einsum("its,jts->ij", path[:, :-1] * jnp.where(steps.within, weights[None, :], 0)[1:][None], path[:, 1:])
        return HMMParams(
            self.initial.begin(path[:, 0] @ weights),
            self.transition.init(pairs),
            self.emission.init(child_key, steps.flat, r * w[None, :]),
        )

    def sample(self, key: Array, params: HMMParams, num: int) -> tuple[Any, Data]:
        path_key, emission_key = jax.random.split(key)
        path = chain.sample_path(path_key, *self.law(params), self.length, num)
        total = self.length * num
        latents, x = self.emission.sample(emission_key, params.emission, total)
        states, index = path.reshape(-1), jnp.arange(total)

        def pick(a: Array) -> Array:
            chosen = jnp.moveaxis(a, -1, 1)[states, index]  # (T S, ...)
            return jnp.moveaxis(chosen.reshape(self.length, num, *chosen.shape[1:]), 1, -1)

        return path, jax.tree.map(pick, x)

    def sample_like(self, key: Array, params: HMMParams, x: Data) -> tuple[Any, Data]:
        path_key, emission_key = jax.random.split(key)
        within = self._steps(x).within
        path = chain.sample_path(path_key, *self.law(params), *within.shape)
        return path, self.emit(emission_key, params, path, x)

    def emit(self, key: Array, params: HMMParams, path: Array, x: Data) -> Data:
        """Sequences like x that the states (T, S) emit, with its gaps; states that are known there are the path's."""
        values, _, labels = series_of(x)
        flat = single_steps(values)
        drawn = pick(self.emission.sample_like(key, params.emission, flat)[1], path.reshape(-1))
        new = jax.tree.map(lambda a: jnp.moveaxis(a.reshape(*a.shape[:-1], *path.shape), -2, 0), drawn)
        return with_values(x, new, None if labels is None else _known(labels, path))

    def num_observations(self, x: Data) -> Array:
        steps = self._steps(x)
        each = self.emission.num_observations(steps.flat).reshape(steps.seen.shape)
        return jnp.sum(jnp.where(steps.seen, each, 0), 0)

    def own_log_prior(self, params: HMMParams) -> Array:
        return self.initial.log_prior(params.initial) + self.transition.log_prior(params.transition)

    def own_degenerate(self, params: HMMParams, stats: HMMStats) -> Array:
        # A state that no step belongs to is not what was asked for.
        return nobody(stats.initial + jnp.sum(stats.transition, 0))

    def own_supports(self, params: HMMParams) -> Any:
        moves = self.transition.supports(params.transition)
        moves = jax.tree.map(ByGradient, moves) if self.initial.by_gradient else moves
        return params._replace(initial=self.initial.supports(params.initial), transition=moves)

    def features(self, x: Data) -> Array:
        # A sequence is described by the mean and the spread of its observations' features.
        steps = self._steps(x)
        f = self.emission.features(steps.flat)
        f = f.reshape(f.shape[0], *steps.seen.shape)
        total = jnp.maximum(jnp.sum(steps.seen, 0), 1)[None]
        mean = jnp.sum(jnp.where(steps.seen[None], f, 0), 1) / total
        spread = jnp.sum(jnp.where(steps.seen[None], (f - mean[:, None, :]) ** 2, 0), 1) / total
        return jnp.concatenate([mean, jnp.sqrt(spread)])

    def validate(self, x: Data) -> None:
        values, lengths, _ = series_of(x)
        checks.check_sequences(values, lengths, "HMM")
        checks.check_state_labels(x, self.emission.size)
        checks.check_steps(self.emission, values, lengths)

    def must_be_finite(self, x: Data) -> Data:
        return with_values(x, self.emission.must_be_finite(series_of(x).values))

    def viterbi(self, params: HMMParams, x: Data) -> tuple[Array, Array]:
        """The most probable states (T, S), -1 beyond a sequence's end, and their joint log-probability (S,)."""
        steps = self._steps(x)
        log_e = self._log_emissions(params, x, steps)[1]
        first, matrix = self.law(params)
        path, log_prob = chain.viterbi(jnp.log(first), jnp.log(matrix), log_e, steps.within)
        return jnp.where(steps.within, path, -1), log_prob

    def predict(self, params: HMMParams, x: Data, num_steps: int) -> Array:
        """State probabilities (num_steps, K, S) of the steps after each sequence's end, given all of it."""
        posterior, _ = self.infer(params, x)
        last = jnp.sum(self._steps(x).within, 0) - 1
        now = jnp.take_along_axis(posterior.filtered, last[None, None, :], axis=0)[0]
        matrix = self.transition.matrix(params.transition)

        def step(p: Array, _: None) -> tuple[Array, Array]:
            p = matrix.T @ p
            return p, p

        return jax.lax.scan(step, now, None, length=num_steps)[1]

    def _steps(self, x: Data) -> _Steps:
        """Sequences, units last, as single steps; those beyond an end or missing hold an observed value instead."""
        values, lengths, _ = series_of(x)
        within, flat = within_lengths(values, lengths), single_steps(values)
        inside = jnp.reshape(within, -1)
        if MISSING in self.emission.traits:
            return _Steps(fill(flat, inside), within, within)
        seen = inside & observed(flat)
        return _Steps(fill(flat, seen), within, seen.reshape(within.shape))

    def _log_emissions(self, params: HMMParams, x: Data, steps: _Steps) -> tuple[Posterior, Array]:
        """The emissions' posteriors and log-likelihoods (T, K, S): 0 where nothing was seen, -inf for states ruled out."""
        posterior, log_prob = self.emission.infer(params.emission, steps.flat)
        log_e = jnp.moveaxis(log_prob.reshape(-1, *steps.seen.shape), 0, 1)
        log_e = jnp.where(steps.seen[:, None, :], log_e, 0)
        labels = series_of(x).labels
        if labels is not None:
            states = jnp.arange(log_e.shape[1])[None, :, None]
            ok = labels if labels.dtype == jnp.bool_ else (labels[:, None, :] == states) | (labels[:, None, :] < 0)  # (T, K, S)
            log_e = jnp.where(ok | ~steps.within[:, None, :], log_e, -jnp.inf)
        return posterior, log_e


@node
class AssignedHMM(Wrapper):
    """A chain whose path is set by a rule; what it says of a sequence is the rule's value."""

    child: HMM
    rule: Any

    transition = property(lambda self: self.child.transition, doc="The chain's.")
    emission = property(lambda self: self.child.emission, doc="The chain's.")

    def infer(self, params: HMMParams, x: Data) -> tuple[HMMPosterior, Array]:
        steps = self.child._steps(x)
        posterior, log_e = self.child._log_emissions(params, x, steps)
        path = self.rule.path(*self.child.law(params), log_e, steps.within, self.child.form)
        return HMMPosterior(path.smoothed, path.filtered, path.backward, path.rest, posterior), path.value

    def expect(self, params: HMMParams, posterior: HMMPosterior, x: Data, weights: Array) -> HMMStats:
        matrix = self.rule.matrix(self.child.transition.matrix(params.transition))
        return self.child.gather(params, posterior, x, weights, matrix)


def _known(labels: Array, path: Array) -> Array:
    """Labels like those given, of a path that was drawn."""
    if labels.dtype == jnp.bool_:
        raise TypeError("HMM: states restricted to sets cannot be drawn; give labels that are known or -1")
    return relabelled(labels, path)

"""Hidden Markov models over any emission."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import series_checks
from jem.combine.stack import Stack
from jem.composite import Composite, Wrapper
from jem.data import Holed, averaged, series_of, single_steps, with_inputs, with_values, without_inputs, without_nan
from jem.kernels import chain
from jem.kernels.assign import Exact
from jem.kernels.moves import Move
from jem.kernels.rings import SUMS
from jem.kernels.simplex import safe_log, xlogy
from jem.kernels.sums import sum_in_parts
from jem.kernels.support import ByGradient
from jem.latents.chain.steps import Steps, flat_inputs, steps_of
from jem.latents.chain.transition import Cells, Law
from jem.latents.mixture.mixture import SEEDING, KMeansPlusPlus, chosen, nobody, pick, relabelled, with_inner
from jem.latents.mixture.weights import free_unless
from jem.node import (
    CELLS,
    DISCRETE,
    INPUTS,
    LEVELS,
    MISSING,
    ORDERLESS,
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
from jem.settings import a, an_instance, check_components, whole


class HMMParams(NamedTuple):
    """Of the law of the first state, probabilities (K,) if free, of the transitions' law and of the emissions."""

    initial: Any
    transition: Params
    emission: Params


class HMMPosterior(NamedTuple):
    """Posterior of the states, and the messages behind it; from `jem.infer` with the sequence axis first.

    M is the number of cells the transitions' law runs over: K, or more where it remembers more than the state.

    Attributes:
        smoothed: (T, K, S) `p(z_t | x)`; (S, T, K) from `jem.infer`.
        first: (M, S), of the first cell.
        filtered: (T, M, S) `p(z_t | x_1 .. x_t)`.
        backward: (T - 1, M, S); `p(z_{t-1} = i, z_t = j | x) = filtered[t-1, i] A[i, j] backward[t-1, j]`. Zero at steps
            where it is too large for its dtype.
        rest: what the law counts of these steps; for a transition matrix the pair probabilities, summed, (K, K, S).
        emission: the emissions' posteriors.
    """

    smoothed: Array
    first: Array
    filtered: Array
    backward: Array
    rest: Any
    emission: Posterior


class HMMStats(NamedTuple):
    """Expected first states (K,), steps in each state (K,), and the statistics of the transitions and of the emissions."""

    initial: Array
    visits: Array
    transition: Stats
    emission: Stats


FIRST = a("first", "the law of the first state, jem.laws.Free(), jem.laws.Outer(..) or jem.laws.Stationary()")
LAW = a("move", "a transition law such as jem.laws.Cells()")
FORM = an_instance(chain.Form, "jem.forms.Automatic(), jem.forms.Sequential() or jem.forms.Blocks(n)")


@node
class HMM(Composite):
    """A hidden Markov model, `z_1 ~ initial`, `z_t | z_{t-1} ~ transition`, `x_t | z_t = k ~ emission[k]`.

    `log p(x)` by the normalised forward recursion; the E-step gives `gamma_t = p(z_t | x)` and the summed pair
    probabilities; the M-step is Baum and Welch's. A unit is a sequence: weights are per sequence.

    x is `jem.Sequences(values (S, T, ...), lengths (S,))` or an array (S, T, ...) of sequences of one length. A step with a
    NaN is a missing observation: it adds nothing but its transition (use `jem.Missing` around the parts of a `Product` for
    single cells). `jem.Labelled(x, labels (S, T))` gives states that are known; `jem.Given(x, inputs (S, T, p))` the inputs
    of transitions that are driven. A state that no step belongs to ends the fit as DEGENERATE.

    Params: `HMMParams(initial (K,), TransitionParams(probs (K, K)), emission)`, emission parameters with a leading axis K;
    `initial` is () where the chain begins where it stays, and the transitions' are those of their law.

    Args:
        emission: a node, repeated K times, or a plate: `Stack`, `Tied`, `OneOf`.
        num_states: K, where `emission` is a node.
        transition: their law: `jem.laws.Cells()`, a matrix, the default; `jem.laws.Driven(..)` by inputs;
            `jem.laws.Durations(..)` of stays; `jem.laws.Kronecker(..)` of several chains side by side.
        initial: the law of the first state, `jem.laws.Free()`, the default; `jem.laws.Outer(..)` of several
            chains; or `jem.laws.Stationary()`.
        concentration: short for `initial=jem.laws.Free(concentration)`, a Dirichlet prior.
        seeding: how states are guessed at the start, from single observations.
        form: how the recursion runs, never the answer; one of `jem.forms`: `Automatic()`, `Sequential()` or `Blocks(n)`.
        length: length of the sequences that `jem.sample` draws.

    Raises:
        ValueError: a number of states that is missing or not the plate's, laws that do not fit together; at the door, sequences
            without inputs for `Driven`.

    Example:
        >>> import jem
        >>> jem.HMM(jem.Poisson(), 3).emission.size
        3

    Source: Baum, Petrie, Soules and Weiss (1970); Rabiner (1989), Proc. IEEE 77.
    """

    Params = HMMParams

    emission: Any  # a plate
    transition: Law = setting(must=LAW)
    initial: Any = setting(must=FIRST)
    seeding: Any = setting(must=SEEDING)
    form: chain.Form = static(must=FORM)
    length: int = static(must=whole(1))

    def __init__(
        self,
        emission: Any,
        num_states: int | None = None,
        *,
        transition: Law = Cells(),  # noqa: B008
        initial: Any = None,
        concentration: Any = None,
        seeding: Any = KMeansPlusPlus(),  # noqa: B008
        form: chain.Form = chain.Automatic(),  # noqa: B008
        length: int = 100,
    ):
        size = check_components(emission, num_states, "HMM")
        plate = emission if size is None else Stack(emission, size)
        first = free_unless(initial, concentration, "HMM: initial", FIRST)
        LAW(transition, "HMM: transition")
        law = transition.sized(plate.size)
        if first.by_gradient and not law.settles:
            raise ValueError(
                f"HMM: initial: with {type(law).__name__} transitions there is no law of one state that the chain stays in; "
                "leave jem.laws.Stationary() out"
            )
        first = first.of_chain(plate.size)
        set_once(self, emission=plate, transition=law, initial=first, seeding=seeding, form=form, length=length)

    @property
    def traits(self) -> frozenset[str]:
        alike = self.initial.traits & self.transition.traits & self.emission.traits & {ORDERLESS}
        return frozenset({MISSING, DISCRETE}) | alike

    def memberships(self, posterior: HMMPosterior, weights: Array) -> Array:
        """How much of each step is each state's, (K, T S)."""
        smoothed = posterior.smoothed * weights[None, None, :]
        return jnp.moveaxis(smoothed, 1, 0).reshape(smoothed.shape[1], -1)

    def parts(self) -> dict[str, Node]:
        return {"initial": self.initial, "transition": self.transition, "emission": self.emission}

    def share(self, name: str, x: Data) -> Data:
        if INPUTS not in self.transition.traits:
            return x
        outputs, inputs = without_inputs(x)
        if name == "transition":
            return inputs
        return outputs if self._takes_inputs_off else x

    @property
    def _takes_inputs_off(self) -> bool:
        """Whether inputs are the transitions' alone."""
        return INPUTS in self.transition.traits and INPUTS not in self.emission.traits

    def _with_inputs(self, outputs: Data, x: Data) -> Data:
        """Outputs like what the emission sees of x, as the chain's own x."""
        return with_inputs(outputs, self.share("transition", x)) if self._takes_inputs_off else outputs

    def see(self, name: str, x: Data, weights: Array) -> tuple[Data, Array]:
        steps = self._steps(x)
        if name == "transition":
            return steps.inputs, jnp.where(steps.within[1:], weights[None, :], 0).reshape(-1)
        if name == "initial":
            return (), weights
        return steps.flat, jnp.where(steps.seen, weights[None, :], 0).reshape(-1)

    def assign(self, rule: Any) -> "AssignedHMM":
        return AssignedHMM(replaced(self, emission=assign(self.emission, rule.part(1))), rule.part(0))

    def infer(self, params: HMMParams, x: Data) -> tuple[HMMPosterior, Array]:
        return self.solve(Exact(), params, x)

    def solve(self, rule: Any, params: HMMParams, x: Data) -> tuple[HMMPosterior, Array]:
        """The posterior by a rule of `kernels.assign`, and what each sequence is then worth (S,)."""
        steps = self._steps(x)
        emission, log_e = self._log_emissions(params, steps)
        first, move = self._law(params, steps)
        path = rule.path(first, move, self.transition.spread(log_e, steps.within), steps.within, self.form)
        smoothed = self.transition.states(path.smoothed)
        return HMMPosterior(smoothed, path.smoothed[0], path.filtered, path.backward, path.rest, emission), path.value

    def law(self, params: HMMParams) -> tuple[Array, Move]:
        """The probabilities (M,) of the first cell and the move between cells, of a chain without inputs."""
        return self._begin(params, self.transition.move(params.transition, None, self.length))

    def expect(self, params: HMMParams, posterior: HMMPosterior, x: Data, weights: Array) -> HMMStats:
        return self.count(Exact(), params, posterior, x, weights)

    def count(self, rule: Any, params: HMMParams, posterior: HMMPosterior, x: Data, weights: Array) -> HMMStats:
        """The statistics of a posterior that the rule gave."""
        steps, law = self._steps(x), self.transition
        within = jnp.where(steps.within, weights[None, :], 0)
        move = rule.move(self._law(params, steps)[1])
        moves = move.counts(posterior.filtered, posterior.backward, posterior.rest, within)
        visits = jnp.sum(posterior.smoothed * within[:, None], (0, 2))
        gamma = jnp.where(steps.seen[:, None, :], posterior.smoothed * weights[None, None, :], 0)
        gamma = jnp.moveaxis(gamma, 1, 0).reshape(gamma.shape[1], -1)
        expect = lambda units, w: self.emission.expect(params.emission, *units, w)
        emission = sum_in_parts(expect, (posterior.emission, steps.flat), gamma)
        moves = law.gather(params.transition, moves, posterior.first @ weights, steps.inputs)
        return HMMStats(posterior.smoothed[0] @ weights, visits, moves, emission)

    def maximize(self, params: HMMParams, stats: HMMStats) -> HMMParams:
        new = super().maximize(params, stats)
        return new._replace(transition=params.transition) if self.initial.by_gradient else new

    def expected_log_prob(self, params: HMMParams, stats: HMMStats, old: HMMParams) -> Array:
        q = super().expected_log_prob(params, stats, old)
        return q + jnp.sum(xlogy(stats.initial, self.law(params)[0])) if self.initial.by_gradient else q

    def init(self, key: Array, x: Data, weights: Array) -> HMMParams:
        seed_key, child_key = jax.random.split(key)
        law_key, child_key = jax.random.split(child_key) if INPUTS in self.transition.traits else (child_key, child_key)
        steps, size = self._steps(x), self.emission.size
        num_steps, num = steps.seen.shape
        w = self.see("emission", x, weights)[1]
        r = self.seeding.responsibilities(seed_key, self.emission, steps.flat, w, size)
        path = r.reshape(size, num_steps, num) * steps.seen[None]
        pairs = jnp.einsum("its,jts->ij", path[:, :-1] * jnp.where(steps.within, weights[None, :], 0)[1:][None], path[:, 1:])
        return HMMParams(
            self.initial.start(path[:, 0] @ weights),
            self.transition.guess(law_key, pairs, *self.see("transition", x, weights)),
            self.emission.init(child_key, steps.flat, r * w[None, :]),
        )

    def sample(self, key: Array, params: HMMParams, num: int) -> tuple[Any, Data]:
        if INPUTS in self.transition.traits:
            raise TypeError("HMM: inputs are given, not drawn; draw like data with inputs, sample(..., like=x)")
        path_key, emission_key = jax.random.split(key)
        first, move = self.law(params)
        path = self.transition.draw(path_key, first, move, jnp.ones((self.length, num), bool))
        total = self.length * num
        latents, x = self.emission.sample(emission_key, params.emission, total)
        states, index = path.reshape(-1), jnp.arange(total)

        def pick(a: Array) -> Array:
            chosen = jnp.moveaxis(a, -1, 1)[states, index]  # (T S, ...)
            return jnp.moveaxis(chosen.reshape(self.length, num, *chosen.shape[1:]), 1, -1)

        return path, jax.tree.map(pick, x)

    def sample_like(self, key: Array, params: HMMParams, x: Data) -> tuple[Any, Data]:
        path_key, emission_key = jax.random.split(key)
        steps = self._steps(x)
        first, move = self._law(params, steps)
        path = self.transition.draw(path_key, first, move, steps.within)
        new = self.emit(emission_key, params, path, self.share("emission", x))
        return path, self._with_inputs(new, x)

    def emit(self, key: Array, params: HMMParams, path: Array, x: Data) -> Data:
        """Sequences like x that the states (T, S) emit, with its gaps; states that are known there are the path's."""
        values, _, labels = series_of(x)
        flat = single_steps(values)
        drawn = pick(self.emission.sample_like(key, params.emission, flat)[1], path.reshape(-1))
        new = jax.tree.map(lambda a: jnp.moveaxis(a.reshape(*a.shape[:-1], *path.shape), -2, 0), drawn)
        return with_values(x, new, None if labels is None else _known(labels, path))

    def complete(self, params: HMMParams, posterior: HMMPosterior, x: Data, key: Array | None = None) -> Data:
        steps = self._steps(x)
        flat = steps.flat
        if CELLS in self.emission.traits:  # whole steps may be missing
            flat = Holed(flat, jnp.broadcast_to(steps.seen.reshape(1, -1), flat.shape))
        each = self.emission.complete(params.emission, posterior.emission, flat, key)
        share = jnp.moveaxis(posterior.smoothed, 1, 0).reshape(posterior.smoothed.shape[1], -1)
        new = averaged(each, share, steps.flat)
        new = jax.tree.map(lambda a: jnp.moveaxis(a.reshape(*a.shape[:-1], *steps.within.shape), -2, 0), new)
        outputs = with_values(self.share("emission", x), new)
        return self._with_inputs(outputs, x)

    def hidden(self, key: Array, params: HMMParams, posterior: HMMPosterior, x: Data) -> Any:
        steps, smoothed = self._steps(x), posterior.smoothed
        path = chosen(jnp.moveaxis(smoothed, 1, 0).reshape(smoothed.shape[1], -1))
        inner = self.emission.hidden(key, params.emission, posterior.emission, steps.flat)
        drawn = with_inner(jnp.where(steps.within.reshape(-1), path, -1), inner, self.emission)
        return jax.tree.map(lambda a: jnp.moveaxis(a.reshape(*a.shape[:-1], *steps.within.shape), -2, 0), drawn)

    def of_columns(self, columns: tuple[int, ...]) -> "HMM":
        return replaced(self, emission=self.emission.of_columns(columns))

    def marginal(self, params: HMMParams, columns: tuple[int, ...]) -> HMMParams:
        return params._replace(emission=self.emission.marginal(params.emission, columns))

    def num_observations(self, x: Data) -> Array:
        steps = self._steps(x)
        each = self.emission.num_observations(steps.flat).reshape(steps.seen.shape)
        return jnp.sum(jnp.where(steps.seen, each, 0), 0)

    def own_degenerate(self, params: HMMParams, stats: HMMStats) -> Array:
        # A state that no step belongs to is not what was asked for, unless all that is said of it is said of its levels.
        return nobody(self.transition.margins(stats.visits) if LEVELS in self.emission.traits else stats.visits)

    def supports(self, params: HMMParams) -> Any:
        where = super().supports(params)
        moves = where.transition
        return where._replace(transition=jax.tree.map(ByGradient, moves) if self.initial.by_gradient else moves)

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
        values, lengths, labels = series_of(self.share("emission", x))
        if INPUTS in self.transition.traits:
            self.transition.validate(flat_inputs(x, lengths))
        series_checks.check_sequences(values, lengths, "HMM")
        series_checks.check_state_labels(self.share("emission", x), self.emission.size)
        if labels is not None:
            self.transition.check_labels(labels, lengths)
        series_checks.check_steps(self.emission, values, lengths)

    def must_be_finite(self, x: Data) -> Data:
        outputs = self.share("emission", x)
        left = with_values(outputs, without_nan(self.emission.must_be_finite(series_of(outputs).values)))
        return self._with_inputs(left, x)

    def decode(self, params: HMMParams, x: Data) -> tuple[Array, Array]:
        """The most probable states (T, S), -1 beyond a sequence's end, and their joint log-probability (S,)."""
        steps = self._steps(x)
        log_e = self.transition.spread(self._log_emissions(params, steps)[1], steps.within)
        first, move = self._law(params, steps)
        cells, log_prob = chain.viterbi(safe_log(first), move, log_e, steps.within)
        return jnp.where(steps.within, self.transition.state_of(cells), -1), log_prob

    def predict(self, params: HMMParams, x: Data, num_steps: int, inputs: Any = None) -> Array:
        """State probabilities (num_steps, K, S) of the steps after each sequence's end, given all of it and their inputs."""
        posterior, _ = self.infer(params, x)
        last = jnp.sum(self._steps(x).within, 0) - 1
        now = jnp.take_along_axis(posterior.filtered, last[None, None, :], axis=0)[0]
        one = self.share("transition", x).shape[1:-1] if INPUTS in self.transition.traits else None
        series_checks.check_future_inputs(inputs, one, num_steps, now.shape[1])
        inputs = None if inputs is None else single_steps(inputs)
        move = self.transition.move(params.transition, inputs, num_steps + 1)

        def step(p: Array, leaving: Any) -> tuple[Array, Array]:
            p = move.at(leaving).ahead(SUMS, p)
            return p, p

        leaving = jax.tree.map(lambda a: a[:-1], move.leaving())
        return self.transition.states(jax.lax.scan(step, now, leaving, length=num_steps)[1])

    def _law(self, params: HMMParams, steps: Steps) -> tuple[Array, Move]:
        """The probabilities (M,) of the first cell, and the move between steps."""
        return self._begin(params, self.transition.move(params.transition, steps.inputs, steps.within.shape[0]))

    def _begin(self, params: HMMParams, move: Move) -> tuple[Array, Move]:
        return self.transition.begin(self.initial.first(params.initial, move), move), move

    def _steps(self, x: Data) -> Steps:
        inputs = self.share("transition", x) if INPUTS in self.transition.traits else None
        return steps_of(self.share("emission", x), inputs, self.emission.must_be_finite)

    def _log_emissions(self, params: HMMParams, steps: Steps) -> tuple[Posterior, Array]:
        """The emissions' posteriors and log-likelihoods (T, K, S): 0 where nothing was seen, -inf for states ruled out."""
        posterior, log_prob = self.emission.infer(params.emission, steps.flat)
        log_e = jnp.moveaxis(log_prob.reshape(-1, *steps.seen.shape), 0, 1)
        log_e = jnp.where(steps.seen[:, None, :], log_e, 0)
        labels = steps.labels
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
        return self.child.solve(self.rule, params, x)

    def expect(self, params: HMMParams, posterior: HMMPosterior, x: Data, weights: Array) -> HMMStats:
        return self.child.count(self.rule, params, posterior, x, weights)


def _known(labels: Array, path: Array) -> Array:
    """Labels like those given, of a path that was drawn."""
    if labels.dtype == jnp.bool_:
        raise TypeError("HMM: states restricted to sets cannot be drawn; give labels that are known or -1")
    return relabelled(labels, path)

"""What estimators of hidden Markov models share, with hmmlearn's names."""

from abc import abstractmethod
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_array, check_is_fitted

import jem
from jem.estimators.base import JemEstimator, ask, draw, has_gaps, padded_size

_FLOATS: Any = [np.float64, np.float32]
CHAIN = {
    "n_components": [Interval(Integral, 1, None, closed="left")],
    "startprob_prior": [Interval(Real, 0, None, closed="neither"), "array-like"],
    "transmat_prior": [Interval(Real, 0, None, closed="neither"), "array-like"],
    "algorithm": [StrOptions({"viterbi", "map"})],
    "random_state": ["random_state"],
    "n_iter": [Interval(Integral, 0, None, closed="left")],
    "tol": [Interval(Real, 0, None, closed="left")],
    "n_init": [Interval(Integral, 1, None, closed="left")],
    "verbose": ["verbose"],
    "params": [str],
    "init_params": [str],
}


class Monitor(NamedTuple):
    """How a climb went.

    Attributes:
        converged: whether no more than `tol` nats were left; in hmmlearn also where `n_iter` was reached.
        iter: steps made.
        history: the objective at the start and after each step; in hmmlearn the last two only.
        tol: nats that might be left.
        n_iter: largest number of steps.
    """

    converged: bool
    iter: int
    history: list[float]
    tol: float
    n_iter: int


class BaseHMM(JemEstimator):
    """What estimators of chains share. Subclasses say the emission, and which attribute and which field of it a letter is.

    All `lengths` are those of the sequences that stand one after the other in X; None is one sequence.
    """

    _letters: dict[str, tuple[str, str]]  # of the emission: letter -> its attribute, the field of its record

    n_components: int
    startprob_prior: Any
    transmat_prior: Any
    algorithm: str
    random_state: Any
    n_iter: int
    tol: float
    params: str
    init_params: str
    verbose: int

    @abstractmethod
    def _emission(self, gaps: bool, held: tuple[str, ...] | None) -> Any:
        """The emissions: of a fit, with fields that are held; of a question, None."""

    @abstractmethod
    def _emitted(self, record: Any, names: set[str]) -> Any:
        """The emissions' parameters, with those of these attributes in their places."""

    @abstractmethod
    def _publish_emission(self, record: Any) -> None:
        """Sets the emissions' attributes."""

    def _node(self, gaps: bool, held: tuple[str, ...] | None = None, length: int = 1) -> Any:
        return jem.HMM(
            self._emission(gaps, held),
            None,
            initial=jem.laws.Free(self.startprob_prior),
            transition=jem.laws.Cells(concentration=self.transmat_prior),
            length=length,
        )

    def _fitted_node(self, gaps: bool) -> Any:
        held = tuple(field for letter, (_, field) in self._letters.items() if letter not in self.params)
        laws = [field for letter, field in {"s": "initial", "t": "transition"}.items() if letter not in self.params]
        chain = self._node(gaps, held)
        return jem.Frozen(chain, *laws) if laws else chain

    @property
    def _max_steps(self) -> int:
        return self.n_iter

    def _params(self) -> Any:
        empty = lambda record: record(*(None for _ in record._fields))
        blank = jem.HMM.Params(None, empty(jem.laws.Cells.Params), empty(self._record()))
        return self._filled(blank, {"startprob_", "transmat_", *(name for name, _ in self._letters.values())})

    @abstractmethod
    def _record(self) -> Any:
        """The class of the emissions' parameters."""

    def _filled(self, params: Any, names: set[str]) -> Any:
        """The parameters, with these attributes in their places."""
        if "startprob_" in names:
            params = params._replace(initial=floats(self.startprob_))
        if "transmat_" in names:
            params = params._replace(transition=params.transition._replace(probs=floats(self.transmat_)))
        return params._replace(emission=self._emitted(params.emission, names))

    def fit(self, X: Any, lengths: Any = None, sample_weight: Any = None) -> Self:
        """Fits the chain from `n_init` starts in one batch, and keeps the best.

        Attributes whose letter is not in `init_params` are where it begins, where they are set.

        Args:
            X: (n_samples, n_features) observations.
            lengths: (n_sequences,) of the sequences; None is one.
            sample_weight: (n_sequences,) weights >= 0 of whole sequences.

        Returns:
            The estimator.

        Raises:
            ValueError: data, lengths, weights or settings that will not do.
        """
        self._validate_params()
        X = self._rows(X, reset=True)
        self._look(X)
        x = self._series(X, lengths)
        weights = self._weights(sample_weight, x.lengths[:, None].astype(X.dtype))
        letters = {"s": "startprob_", "t": "transmat_", **{letter: name for letter, (name, _) in self._letters.items()}}
        names = {name for letter, name in letters.items() if letter not in self.init_params and hasattr(self, name)}

        def given(start: Any) -> Any:
            return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), self._filled(start, names), start)

        self._climb(x, weights, given)
        self._publish()
        return self

    def _publish(self) -> None:
        self.startprob_, self.transmat_ = self.fit_.params.initial, self.fit_.params.transition.probs
        self._publish_emission(self.fit_.params.emission)
        history = [float(value) for value in self.fit_.trace[: self.n_iter_ + 1]]
        self.monitor_ = Monitor(self.converged_, self.n_iter_, history, self.tol, self.n_iter)
        if self.verbose:
            print(self.fits_)

    def decode(self, X: Any, lengths: Any = None, algorithm: str | None = None) -> tuple[float, np.ndarray]:
        """The most probable states.

        Args:
            X: (n_samples, n_features) observations.
            lengths: (n_sequences,) of the sequences; None is one.
            algorithm: "viterbi", the most probable path, or "map", the most probable state of each step; None as it was made.

        Returns:
            The log-probability of path and data ("map": the sum of the states' probabilities, as in hmmlearn), and the states
            (n_samples,).
        """
        algorithm = algorithm or self.algorithm
        if algorithm not in ("viterbi", "map"):
            raise ValueError(f"Unknown decoder {algorithm!r}: expected 'viterbi' or 'map'")
        if algorithm == "map":
            probs = self.predict_proba(X, lengths)
            return float(probs.max(1).sum()), probs.argmax(1)
        within, (states, log_prob) = self._asked(jem.decode, X, lengths)
        return float(log_prob.sum()), states[within]

    def predict(self, X: Any, lengths: Any = None) -> np.ndarray:
        """The most probable states by `algorithm`, (n_samples,)."""
        return self.decode(X, lengths)[1]

    def score_samples(self, X: Any, lengths: Any = None) -> tuple[float, np.ndarray]:
        """The log-likelihood of all of X, and the states' probabilities at each step, (n_samples, n_components)."""

        def question(*asked: Any) -> tuple[jax.Array, jax.Array]:
            posterior, log_prob = jem.infer(*asked)
            return posterior.smoothed, log_prob

        within, (smoothed, log_prob) = self._asked(question, X, lengths)
        return float(log_prob.sum()), smoothed[within]

    def predict_proba(self, X: Any, lengths: Any = None) -> np.ndarray:
        """The probability of each state at each step given its sequence, (n_samples, n_components)."""
        return self.score_samples(X, lengths)[1]

    def score(self, X: Any, lengths: Any = None) -> float:
        """The log-likelihood of all of X."""
        return float(self._asked(jem.log_prob, X, lengths)[1].sum())

    def bic(self, X: Any, lengths: Any = None) -> float:
        """Schwarz's criterion, `-2 log p(X) + p log n_samples`; lower is better."""
        return float(-2 * self.score(X, lengths) + self._num_parameters() * np.log(len(X)))

    def aic(self, X: Any, lengths: Any = None) -> float:
        """Akaike's criterion, `-2 log p(X) + 2 p`; lower is better."""
        return float(-2 * self.score(X, lengths) + 2 * self._num_parameters())

    def sample(
        self, n_samples: int = 1, random_state: Any = None, currstate: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws one sequence.

        Args:
            n_samples: its length.
            random_state: None takes the estimator's.
            currstate: the state it begins in; None draws it.

        Returns:
            The observations (n_samples, n_features) and the states (n_samples,).
        """
        check_is_fitted(self, "startprob_")
        params = self._params()
        if currstate is not None:
            params = params._replace(initial=np.eye(self.n_components, dtype=params.initial.dtype)[currstate])
        node = self._node(False, length=padded_size(n_samples))
        states, x = draw(node, params, 1, self.random_state if random_state is None else random_state)
        x = x[0, :n_samples]
        return x[:, None] if x.ndim == 1 else x, states[0, :n_samples]

    def _look(self, X: np.ndarray) -> None:
        """Looks at data that are new: sets what the model depends on."""

    def _series(self, X: np.ndarray, lengths: Any) -> Any:
        """Rows one after the other as sequences, padded to a length that serves many."""
        counts = np.asarray([len(X)] if lengths is None else lengths)
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or counts.size == 0 or counts.min() < 1:
            raise ValueError(f"lengths must be integers >= 1, one a sequence; got {lengths!r}")
        if counts.sum() != len(X):
            raise ValueError(f"lengths must sum to n_samples; they sum to {counts.sum()}, and X has {len(X)} rows")
        values = np.zeros((len(counts), padded_size(int(counts.max())), *self._data(X).shape[1:]), X.dtype)
        values[_within(counts, values.shape[1])] = self._data(X)
        sequences: Any = jem.Sequences
        return sequences(values, counts.astype(np.int32))

    def _asked(self, question: Callable[[Any, Any, Any], Any], X: Any, lengths: Any) -> tuple[np.ndarray, Any]:
        """Which steps lie within the sequences, and the answer for these."""
        check_is_fitted(self, "startprob_")
        by_hand = not hasattr(self, "n_features_in_")
        x = self._series(check_array(X, dtype=_FLOATS) if by_hand else self._rows(X), lengths)
        return _within(x.lengths, x.values.shape[1]), ask(question, self._node(has_gaps(x)), self._params(), x)

    def _num_parameters(self) -> int:
        return jem.num_parameters(self._node(False), self._params())


def _within(lengths: np.ndarray, steps: int) -> np.ndarray:
    """(S, T) which steps lie within their sequence."""
    return np.arange(steps)[None, :] < lengths[:, None]


def floats(value: Any) -> np.ndarray:
    """An array of float32 or float64 of what a user set."""
    value = np.asarray(value)
    return value if value.dtype.kind == "f" else value.astype(np.float64)


def hold(leaf: Any, fields: tuple[str, ...] | None) -> Any:
    """The emission with these fields of its record held."""
    return jem.Frozen(leaf, *fields) if fields else leaf

"""Hidden Markov models with hmmlearn's names: Gaussian, categorical and Poisson emissions."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

import jem
from jem.estimators.base import with_gaps
from jem.estimators.chain import CHAIN, BaseHMM, floats, hold
from jem.estimators.covariances import STRUCTURES, covariances_of, plate_of, scatter_prior, whitenings_from


class GaussianHMM(BaseHMM):
    """Hidden Markov models with Gaussian emissions, in the place of `hmmlearn.hmm.GaussianHMM`.

    `z_1 ~ startprob_`, `z_t | z_{t-1} ~ transmat_[z_{t-1}]`, `x_t | z_t = k ~ N(means_[k], covars_[k])`.

    Args:
        n_components: K, number of states.
        covariance_type: "spherical", "diag", "full" or "tied".
        startprob_prior: Dirichlet prior on `startprob_`, a number or (K,).
        transmat_prior: Dirichlet prior on each row of `transmat_`, a number or (K, K).
        covars_prior: scatter that a conjugate prior adds, `covariance = (S + covars_prior I) / n` with S the scatter and n the
            expected steps of a state, as in hmmlearn of diagonal ones; 0 is maximum likelihood.
        algorithm: "viterbi" or "map", what `decode` and `predict` do.
        random_state: a seed, a `RandomState` or None.
        n_iter: largest number of steps of a start.
        tol: nats that may be left of the climb where it ends, as the score predicts them; in hmmlearn the last gain.
        n_init: starts; all run in one batch.
        verbose: 1 prints what the fit found.
        params: letters of what is fitted: s, t, m, c for `startprob_`, `transmat_`, `means_`, `covars_`; the rest stays.
        init_params: letters of what a fit finds a start of by itself; the rest begins at the attributes, where they are set.

    Attributes:
        startprob_: (K,).
        transmat_: (K, K).
        means_: (K, D).
        covars_: (K, D, D) whatever the type; set it in the shape of its type, (K,), (K, D), (K, D, D) or tied (D, D).
        monitor_: how the climb went.
        converged_: whether no more than `tol` nats are left; where not, a ConvergenceWarning says why and what to do.
        n_iter_: steps of the best start.
        lower_bound_: its objective for each unit of weight.
        lower_bounds_: the same at the start and after each step.
        fits_: every start's `jem.Fit`.
        fit_: the best of them.
        model_: the `jem.HMM`.
        n_features_in_: D.
        feature_names_in_: names of the columns, where X had names.

    Raises:
        ValueError: data that are not rows of finite numbers, lengths that do not sum to their number, settings out of range.

    Example:
        >>> import numpy as np
        >>> from jem.sklearn import GaussianHMM
        >>> rng = np.random.default_rng(0)
        >>> x = np.repeat([0.0, 5.0, 0.0], 20)[:, None] + rng.standard_normal((60, 1))
        >>> chain = GaussianHMM(2, random_state=0).fit(x)
        >>> print(np.sort(chain.means_[:, 0]).round())
        [0. 5.]

    Source: Baum, Petrie, Soules and Weiss (1970); names of hmmlearn.
    """

    _family = jem.Gaussian
    _letters = {"m": ("means_", "mean"), "c": ("covars_", "whitening")}
    _parameter_constraints = {
        **CHAIN,
        "covariance_type": [StrOptions(set(STRUCTURES))],
        "covars_prior": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 1,
        covariance_type: str = "diag",
        *,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        covars_prior: float = 1e-2,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 1000,
        tol: float = 1e-3,
        n_init: int = 1,
        verbose: int = 0,
        params: str = "stmc",
        init_params: str = "stmc",
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.startprob_prior = startprob_prior
        self.transmat_prior = transmat_prior
        self.covars_prior = covars_prior
        self.algorithm = algorithm
        self.random_state = random_state
        self.n_iter = n_iter
        self.tol = tol
        self.n_init = n_init
        self.verbose = verbose
        self.params = params
        self.init_params = init_params

    @property
    def covars_(self) -> np.ndarray:
        """The covariances of the states, (K, D, D)."""
        c, num, dim = self._covars_, self.n_components, self.means_.shape[1]
        if self.covariance_type in ("full", "tied"):
            return np.broadcast_to(c, (num, dim, dim)).copy()
        return np.eye(dim, dtype=c.dtype) * c.reshape(num, 1, -1)

    @covars_.setter
    def covars_(self, covars: Any) -> None:
        covars = floats(covars)
        if covars.ndim != {"spherical": 1, "diag": 2, "tied": 2, "full": 3}[self.covariance_type]:
            raise ValueError(f"covars_ of type {self.covariance_type!r}: got shape {covars.shape}")
        self._covars_ = covars

    def _emission(self, gaps: bool, held: tuple[str, ...] | None) -> Any:
        leaf = jem.Gaussian(STRUCTURES[self.covariance_type], scatter_prior(self.covars_prior))
        return plate_of(hold(with_gaps(leaf, gaps), held), self.covariance_type, self.n_components)

    def _record(self) -> Any:
        return jem.Gaussian.Params

    def _emitted(self, record: Any, names: set[str]) -> Any:
        if "means_" in names:
            record = record._replace(mean=floats(self.means_))
        if "covars_" in names:
            record = record._replace(whitening=np.asarray(whitenings_from(self._covars_, self.covariance_type)))
        return record

    def _publish_emission(self, record: Any) -> None:
        self.means_, self._covars_ = record.mean, covariances_of(record, self.covariance_type)


class CategoricalHMM(BaseHMM):
    """Hidden Markov models of symbols, in the place of `hmmlearn.hmm.CategoricalHMM`.

    `z_1 ~ startprob_`, `z_t | z_{t-1} ~ transmat_[z_{t-1}]`, `x_t | z_t = k ~ Categorical(emissionprob_[k])`.

    Args:
        n_components: K, number of states.
        startprob_prior: Dirichlet prior on `startprob_`, a number or (K,).
        transmat_prior: Dirichlet prior on each row of `transmat_`, a number or (K, K).
        emissionprob_prior: Dirichlet prior on each row of `emissionprob_`.
        n_features: number of symbols; None takes those that were seen.
        algorithm: "viterbi" or "map", what `decode` and `predict` do.
        random_state: a seed, a `RandomState` or None.
        n_iter: largest number of steps of a start.
        tol: nats that may be left of the climb, as in `GaussianHMM`.
        n_init: starts; all run in one batch.
        verbose: 1 prints what the fit found.
        params: letters of what is fitted: s, t, e for `startprob_`, `transmat_`, `emissionprob_`; the rest stays.
        init_params: letters of what a fit finds a start of by itself; the rest begins at the attributes, where they are set.

    Attributes:
        startprob_: (K,).
        transmat_: (K, K).
        emissionprob_: (K, n_features).
        monitor_: how the climb went.
        converged_: whether no more than `tol` nats are left.
        n_iter_: steps of the best start.
        lower_bound_: its objective for each unit of weight.
        lower_bounds_: the same at the start and after each step.
        fits_: every start's `jem.Fit`.
        fit_: the best of them.
        model_: the `jem.HMM`.
        n_features_in_: 1.
        feature_names_in_: name of the column, where X had names.

    Raises:
        ValueError: symbols that are no integers 0 .. n_features - 1, more than one column.

    Example:
        >>> import numpy as np
        >>> from jem.sklearn import CategoricalHMM
        >>> chain = CategoricalHMM(2)
        >>> chain.startprob_, chain.transmat_ = np.array([0.6, 0.4]), np.array([[0.7, 0.3], [0.4, 0.6]])
        >>> chain.emissionprob_ = np.array([[0.1, 0.4, 0.5], [0.6, 0.3, 0.1]])
        >>> log_prob, states = chain.decode([[0], [1], [2]])
        >>> round(log_prob, 3), states.tolist()
        (-4.31, [1, 0, 0])

    Source: Rabiner (1989), Proc. IEEE 77; names of hmmlearn.
    """

    _letters = {"e": ("emissionprob_", "probs")}
    _parameter_constraints = {
        **CHAIN,
        "emissionprob_prior": [Interval(Real, 0, None, closed="neither")],
        "n_features": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        emissionprob_prior: float = 1.0,
        n_features: int | None = None,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 1000,
        tol: float = 1e-3,
        n_init: int = 1,
        verbose: int = 0,
        params: str = "ste",
        init_params: str = "ste",
    ):
        self.n_components = n_components
        self.startprob_prior = startprob_prior
        self.transmat_prior = transmat_prior
        self.emissionprob_prior = emissionprob_prior
        self.n_features = n_features
        self.algorithm = algorithm
        self.random_state = random_state
        self.n_iter = n_iter
        self.tol = tol
        self.n_init = n_init
        self.verbose = verbose
        self.params = params
        self.init_params = init_params

    def _look(self, X: np.ndarray) -> None:
        seen = int(X.max()) + 1 if self.n_features is None else self.n_features
        given = "e" not in self.init_params and hasattr(self, "emissionprob_")
        self._num_symbols = len(self.emissionprob_[0]) if given else seen

    def _data(self, X: np.ndarray) -> np.ndarray:
        if X.shape[1] != 1:
            raise ValueError(f"CategoricalHMM: expected one column of symbols; got n_features = {X.shape[1]}")
        return X[:, 0]

    def _emission(self, gaps: bool, held: tuple[str, ...] | None) -> Any:
        num = len(self.emissionprob_[0]) if held is None else self._num_symbols
        leaf = jem.Categorical(num, self.emissionprob_prior)
        return jem.Stack(hold(leaf, held), self.n_components)

    def _record(self) -> Any:
        return jem.Categorical.Params

    def _emitted(self, record: Any, names: set[str]) -> Any:
        return record._replace(probs=floats(self.emissionprob_)) if "emissionprob_" in names else record

    def _publish_emission(self, record: Any) -> None:
        self.emissionprob_ = record.probs


class PoissonHMM(BaseHMM):
    """Hidden Markov models of counts, in the place of `hmmlearn.hmm.PoissonHMM`.

    `z_1 ~ startprob_`, `z_t | z_{t-1} ~ transmat_[z_{t-1}]`, `x_td | z_t = k ~ Poisson(lambdas_[k, d])`. A count that is
    missing is NaN, and is left out exactly.

    Args:
        n_components: K, number of states.
        startprob_prior: Dirichlet prior on `startprob_`, a number or (K,).
        transmat_prior: Dirichlet prior on each row of `transmat_`, a number or (K, K).
        algorithm: "viterbi" or "map", what `decode` and `predict` do.
        random_state: a seed, a `RandomState` or None.
        n_iter: largest number of steps of a start.
        tol: nats that may be left of the climb, as in `GaussianHMM`.
        n_init: starts; all run in one batch.
        verbose: 1 prints what the fit found.
        params: letters of what is fitted: s, t, l for `startprob_`, `transmat_`, `lambdas_`; the rest stays.
        init_params: letters of what a fit finds a start of by itself; the rest begins at the attributes, where they are set.

    Attributes:
        startprob_: (K,).
        transmat_: (K, K).
        lambdas_: (K, D) rates.
        monitor_: how the climb went.
        converged_: whether no more than `tol` nats are left.
        n_iter_: steps of the best start.
        lower_bound_: its objective for each unit of weight.
        lower_bounds_: the same at the start and after each step.
        fits_: every start's `jem.Fit`.
        fit_: the best of them.
        model_: the `jem.HMM`.
        n_features_in_: D.
        feature_names_in_: names of the columns, where X had names.

    Raises:
        ValueError: data that are no counts.

    Example:
        >>> from jem.datasets import earthquakes
        >>> from jem.sklearn import PoissonHMM
        >>> chain = PoissonHMM(2, random_state=0).fit(earthquakes()[1][:, None])
        >>> print(chain.lambdas_[chain.lambdas_[:, 0].argsort(), 0].round(1))
        [15.4 26. ]

    Source: Zucchini and MacDonald (2009), Hidden Markov Models for Time Series; names of hmmlearn.
    """

    _family = jem.Poisson
    _letters = {"l": ("lambdas_", "rate")}
    _parameter_constraints = CHAIN

    def __init__(
        self,
        n_components: int = 1,
        *,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 1000,
        tol: float = 1e-3,
        n_init: int = 1,
        verbose: int = 0,
        params: str = "stl",
        init_params: str = "stl",
    ):
        self.n_components = n_components
        self.startprob_prior = startprob_prior
        self.transmat_prior = transmat_prior
        self.algorithm = algorithm
        self.random_state = random_state
        self.n_iter = n_iter
        self.tol = tol
        self.n_init = n_init
        self.verbose = verbose
        self.params = params
        self.init_params = init_params

    def _emission(self, gaps: bool, held: tuple[str, ...] | None) -> Any:
        return jem.Stack(hold(with_gaps(jem.Poisson(), gaps), held), self.n_components)

    def _record(self) -> Any:
        return jem.Poisson.Params

    def _emitted(self, record: Any, names: set[str]) -> Any:
        return record._replace(rate=floats(self.lambdas_)) if "lambdas_" in names else record

    def _publish_emission(self, record: Any) -> None:
        self.lambdas_ = record.rate

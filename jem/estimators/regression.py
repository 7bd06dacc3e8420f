"""Mixtures of regressions as scikit-learn's regressor."""

from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from scipy.special import expit
from sklearn.base import RegressorMixin
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

import jem
from jem.estimators.base import JemEstimator, ask
from jem.estimators.mixtures import CLIMB

NOISES = (jem.Gaussian, jem.StudentT)
FAMILIES = (*NOISES, jem.Poisson, jem.Bernoulli, jem.Binomial, jem.Gamma)


class MixtureOfRegressions(RegressorMixin, JemEstimator):
    """Several regressions, of which each row follows one: clusterwise regression.

    `p(y | x) = sum_k weights_[k] p(y | x @ coef_[k] + intercept_[k])`.

    Args:
        n_components: K.
        family: of y given x: `jem.Gaussian()`, the default, or `jem.StudentT()` for linear regressions with such noise;
            `jem.Poisson()`, `jem.Bernoulli()`, `jem.Binomial(n)` or `jem.Gamma()` for generalised linear ones.
        ridge: strength of a normal prior on the coefficients; None is maximum likelihood.
        tol: nats that may be left of the climb, as in `GaussianMixture`.
        max_iter: largest number of steps of a start.
        n_init: starts; all run in one batch.
        random_state: a seed, a `RandomState` or None.
        warm_start: whether a fit begins where the one before ended.

    Attributes:
        weights_: (K,).
        coef_: (K, D), or (K, M, D) where y has M columns.
        intercept_: (K,), or (K, M).
        converged_: whether no more than `tol` nats are left.
        n_iter_: steps of the best start.
        lower_bound_: its objective for each unit of weight.
        lower_bounds_: the same at the start and after each step.
        fits_: every start's `jem.Fit`.
        fit_: the best of them.
        model_: the `jem.Mixture` of `jem.Linear` or `jem.GLM`.
        n_features_in_: D.
        feature_names_in_: names of the columns, where X had names.

    Raises:
        ValueError: data that are not finite numbers, outputs that the family cannot have, settings out of their ranges.

    Example:
        >>> import numpy as np
        >>> from jem.sklearn import MixtureOfRegressions
        >>> x = np.linspace(-1, 1, 40)[:, None]
        >>> y = np.where(np.arange(40) % 2, 3, -1) * x[:, 0] + 0.1 * np.cos(9 * x[:, 0])
        >>> lines = MixtureOfRegressions(2, n_init=4, random_state=0).fit(x, y)
        >>> print(np.sort(lines.coef_[:, 0]).round(1))
        [-1.  3.]

    Source: Quandt and Ramsey (1978), JASA 73; DeSarbo and Cron (1988), J. Classification 5.
    """

    _parameter_constraints = {
        **CLIMB,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "family": [*FAMILIES, None],
        "ridge": [Interval(Real, 0, None, closed="left"), None],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        family: Any = None,
        ridge: float | None = None,
        tol: float = 1e-3,
        max_iter: int = 1000,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.n_components = n_components
        self.family = family
        self.ridge = ridge
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    def _node(self, gaps: bool) -> Any:
        family = jem.Gaussian() if self.family is None else self.family
        one = jem.Linear(family, self.ridge) if isinstance(family, NOISES) else jem.GLM(family, self.ridge)
        return jem.Mixture(one, self.n_components)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fits the regressions from `n_init` starts in one batch, and keeps the best.

        Args:
            X: (n_samples, n_features) inputs.
            y: (n_samples,) or (n_samples, M) outputs.
            sample_weight: (n_samples,) weights >= 0; an integer weight repeats the row, 0 removes it.

        Returns:
            The estimator.

        Raises:
            ValueError: data, weights or settings that will not do.
        """
        self._validate_params()
        X, y = self._rows(X, y, reset=True, multi_output=True, y_numeric=True, ensure_min_samples=2)
        self._single = y.ndim == 1
        x, weights = self._pairs(X, y), self._weights(sample_weight, X)
        self._climb(x, weights, self._before(X))
        self.weights_, each = self.fit_.params
        intercept = each.level - (each.coef * each.centre[:, None, :]).sum(-1)
        self.coef_, self.intercept_ = (each.coef[:, 0], intercept[:, 0]) if self._single else (each.coef, intercept)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The expectation of y given each row, over the regressions: (n_samples,) or (n_samples, M)."""
        each = self.predict_components(X)
        return np.tensordot(self.weights_, each, 1)

    def predict_components(self, X: Any) -> np.ndarray:
        """The expectation of y by each of the regressions: (n_components, n_samples) or (n_components, n_samples, M)."""
        check_is_fitted(self)
        X = self._rows(X).astype(self.coef_.dtype)
        eta = np.tensordot(self.coef_, X.T, 1) + self.intercept_[..., None]  # rows last
        return self._mean(np.moveaxis(eta, -1, 1))

    def responsibilities(self, X: Any, y: Any) -> np.ndarray:
        """The probability of each regression given x and y of a row, (n_samples, n_components)."""
        return self._ask_pairs(lambda *asked: jem.infer(*asked)[0].responsibilities, X, y)

    def log_density(self, X: Any, y: Any) -> np.ndarray:
        """`log p(y | x)` of each row, (n_samples,)."""
        return self._ask_pairs(jem.log_prob, X, y)

    def _mean(self, eta: np.ndarray) -> np.ndarray:
        """The family's inverse link."""
        if self.family is None or isinstance(self.family, NOISES):
            return eta
        if isinstance(self.family, (jem.Poisson, jem.Gamma)):
            return np.exp(eta)
        return expit(eta) * getattr(self.family, "num_trials", 1)

    def _pairs(self, X: np.ndarray, y: np.ndarray) -> Any:
        return jem.Given((y[:, None] if y.ndim == 1 else y).astype(X.dtype), X)

    def _ask_pairs(self, question: Any, X: Any, y: Any) -> np.ndarray:
        check_is_fitted(self)
        x = self._pairs(*self._rows(X, y, multi_output=True, y_numeric=True))
        return ask(question, self._node(False), self._params(), x)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

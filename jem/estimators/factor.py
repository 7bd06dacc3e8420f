"""Factor analysis as scikit-learn's transformer."""

from numbers import Integral, Real
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

import jem
from jem.estimators.base import JemEstimator, draw, precision, with_gaps


class FactorAnalysis(ClassNamePrefixFeaturesOutMixin, TransformerMixin, JemEstimator):
    """Factor analysis, in the place of `sklearn.decomposition.FactorAnalysis`.

    `x ~ N(mean_, components_.T @ components_ + diag(noise_variance_))`, by accelerated EM on the second moments.

    Args:
        n_components: q, number of factors, fewer than features; None takes the most of which the noise can still be told.
        tol: nats that may be left of the climb, as in `GaussianMixture`; in scikit-learn the last gain.
        max_iter: largest number of steps.
        rotation: None or "varimax".
        n_init: starts; all run in one batch.
        random_state: a seed, a `RandomState` or None.

    Attributes:
        components_: (q, D) loadings.
        noise_variance_: (D,).
        mean_: (D,).
        converged_: whether no more than `tol` nats are left.
        n_iter_: steps of the best start.
        loglike_: its log-likelihoods, at the start and after each step.
        lower_bound_: the last, for each unit of weight.
        lower_bounds_: all of them, for each unit of weight.
        fits_: every start's `jem.Fit`.
        fit_: the best of them.
        model_: the `jem.FactorAnalysis`.
        n_features_in_: D.
        feature_names_in_: names of the columns, where X had names.

    Raises:
        ValueError: data that are not rows of finite numbers, as many factors as features.

    Example:
        >>> import numpy as np
        >>> from jem.sklearn import FactorAnalysis
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((100, 1)) @ [[1.0, 2.0, -1.0, 1.0]] + rng.standard_normal((100, 4))
        >>> FactorAnalysis(1).fit_transform(x).shape
        (100, 1)

    Source: Rubin and Thayer (1982), Psychometrika 47.
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "rotation": [StrOptions({"varimax"}), None],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    components_: Any
    _family = jem.FactorAnalysis

    def __init__(
        self,
        n_components: int | None = None,
        *,
        tol: float = 1e-3,
        max_iter: int = 1000,
        rotation: str | None = None,
        n_init: int = 1,
        random_state: Any = 0,
    ):
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.rotation = rotation
        self.n_init = n_init
        self.random_state = random_state

    def _num_factors(self) -> int:
        return most_factors(self.n_features_in_) if self.n_components is None else self.n_components

    def _node(self, gaps: bool) -> Any:
        return with_gaps(jem.FactorAnalysis(self._num_factors()), gaps)

    def _params(self) -> Any:
        whitening: Any = 1 / np.sqrt(self.noise_variance_)[:, None]
        return jem.FactorAnalysis.Params(self.mean_, self.components_.T, whitening)

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fits loadings and noise.

        Args:
            X: (n_samples, n_features) rows.
            y: not used.
            sample_weight: (n_samples,) weights >= 0; an integer weight repeats the row, 0 removes it.

        Returns:
            The estimator.

        Raises:
            ValueError: data, weights or settings that will not do.
        """
        self._validate_params()
        X = self._rows(X, reset=True, ensure_min_samples=2)
        if self._num_factors() >= X.shape[1]:
            raise ValueError(
                f"FactorAnalysis needs fewer factors than features; got n_components = {self._num_factors()}, "
                f"n_features = {X.shape[1]}"
            )
        weights = self._weights(sample_weight, X)
        self._climb(X, weights)
        params = self.fit_.params
        self.mean_, self.noise_variance_ = params.mean, (1 / params.whitening**2)[:, 0]
        with precision(X.dtype):
            turned = jem.rotations.varimax(jnp.asarray(params.loadings)).loadings if self.rotation else params.loadings
            self.components_ = np.ascontiguousarray(np.asarray(turned).T)
        self.loglike_ = [bound * (len(X) if weights is None else float(weights.sum())) for bound in self.lower_bounds_]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The factors' expectations given each row, (n_samples, n_components)."""
        return self._ask(lambda *asked: jem.infer(*asked)[0].mean, X)

    def score_samples(self, X: Any) -> np.ndarray:
        """The log-density of each row, (n_samples,)."""
        return self._ask(jem.log_prob, X)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-density of the rows."""
        return float(self.score_samples(X).mean())

    def get_covariance(self) -> np.ndarray:
        """The covariance of the model, (n_features, n_features)."""
        check_is_fitted(self)
        return self.components_.T @ self.components_ + np.diag(self.noise_variance_)

    def get_precision(self) -> np.ndarray:
        """Its inverse, (n_features, n_features)."""
        check_is_fitted(self)
        scaled = self.components_ / self.noise_variance_
        inner = np.eye(len(scaled), dtype=scaled.dtype) + scaled @ self.components_.T
        return np.diag(1 / self.noise_variance_) - scaled.T @ np.linalg.solve(inner, scaled)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draws rows (n_samples, n_features) and their factors (n_samples, n_components)."""
        check_is_fitted(self)
        factors, x = draw(self._node(False), self._params(), n_samples, self.random_state)
        return x, factors

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        assert tags.transformer_tags is not None
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def most_factors(dim: int) -> int:
    """The most factors that leave no fewer moments than parameters, `(D - q)^2 >= D + q` (Ledermann's bound); at least 1."""
    return max(1, int((2 * dim + 1 - (8 * dim + 1) ** 0.5) / 2 + 1e-9))

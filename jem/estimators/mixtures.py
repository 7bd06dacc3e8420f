"""Gaussian and Student-t mixtures as scikit-learn's estimators."""

from abc import abstractmethod
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_array, check_is_fitted

import jem
from jem.estimators.base import JemEstimator, draw, with_gaps
from jem.estimators.covariances import (
    STRUCTURES,
    covariance_shape,
    covariances_of,
    plate_of,
    precisions_cholesky_of,
    precisions_of,
    scatter_prior,
    whitenings_from,
    whitenings_of,
)

AT_LEAST_0 = Interval(Real, 0, None, closed="left")
AT_LEAST_1 = Interval(Integral, 1, None, closed="left")
CLIMB = {
    "n_components": [AT_LEAST_1],
    "tol": [AT_LEAST_0],
    "max_iter": [Interval(Integral, 0, None, closed="left")],
    "n_init": [AT_LEAST_1],
    "random_state": ["random_state"],
    "warm_start": ["boolean"],
}
COVARIANCE = {"covariance_type": [StrOptions(set(STRUCTURES))], "reg_covar": [AT_LEAST_0]}


@jem.author.node
class RandomRows:
    """Starts a mixture from rows drawn evenly, every row to its nearest."""

    def responsibilities(self, key: jax.Array, components: Any, x: Any, weights: jax.Array, size: int) -> jax.Array:
        """Hard responsibilities (K, N)."""
        features = components.features(x)
        seeds = jax.random.choice(key, features.shape[1], (size,), replace=False, p=weights / jnp.sum(weights))
        squares = jnp.sum((features[:, None, :] - features[:, seeds][:, :, None]) ** 2, 0)
        return (jnp.argmin(squares, 0)[None, :] == jnp.arange(size)[:, None]).astype(weights.dtype)


SEEDINGS = {
    "kmeans": jem.starts.KMeansPlusPlus(),
    "k-means++": jem.starts.KMeansPlusPlus(),
    "random": jem.starts.RandomResponsibilities(),
    "random_from_data": RandomRows(),
}


class BaseMixture(DensityMixin, JemEstimator):
    """What estimators of mixtures share: `fit`, and the questions about rows and components."""

    n_components: int
    random_state: Any
    warm_start: bool

    @abstractmethod
    def _node(self, gaps: bool) -> Any:
        """The mixture."""

    def _look(self, X: np.ndarray) -> None:
        """Looks at data that are new: sets what the model depends on, raises where they do not suit it."""

    def _given(self, X: np.ndarray) -> Callable[[Any], Any] | None:
        """What puts given values into a start."""

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fits the mixture from `n_init` starts in one batch, and keeps the best.

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
        if len(X) < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, n_samples = {len(X)}"
            )
        self._look(X)
        weights = self._weights(sample_weight, X)
        self._climb(self._data(X), weights, self._before(X) or self._given(X))
        self._publish()
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fits, and returns the most probable component of each row, (n_samples,)."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each row, (n_samples,)."""
        return self.predict_proba(X).argmax(1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each component given the row, (n_samples, n_components)."""
        return self._ask(lambda *asked: jem.infer(*asked)[0].responsibilities, X)

    def score_samples(self, X: Any) -> np.ndarray:
        """The log-density of each row, (n_samples,)."""
        return self._ask(jem.log_prob, X)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-density of the rows."""
        return float(self.score_samples(X).mean())

    def bic(self, X: Any) -> float:
        """Schwarz's criterion, `-2 log p(X) + p log n_samples`; lower is better."""
        log_prob = self.score_samples(X)
        return float(-2 * log_prob.sum() + self._num_parameters() * np.log(len(log_prob)))

    def aic(self, X: Any) -> float:
        """Akaike's criterion, `-2 log p(X) + 2 p`; lower is better."""
        return float(-2 * self.score_samples(X).sum() + 2 * self._num_parameters())

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draws rows (n_samples, n_features) and their components (n_samples,): the same again if `random_state` is a seed."""
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"Invalid value for 'n_samples': {n_samples}. The sampling requires at least one sample.")
        (labels, _), x = draw(self._node(False), self._params(), n_samples, self.random_state)
        return x, labels

    def _num_parameters(self) -> int:
        return jem.num_parameters(self._node(False), self._params())


class GaussianMixture(BaseMixture):
    """Gaussian mixtures, in the place of `sklearn.mixture.GaussianMixture`.

    `x ~ sum_k weights_[k] N(means_[k], covariances_[k])`, by accelerated EM from all starts at once. Names and shapes are
    scikit-learn's; four things mean what they mean in jem.

    Args:
        n_components: K.
        covariance_type: "full", "tied", "diag" or "spherical".
        tol: nats of log-likelihood, of all rows together, that may be left of the climb where it ends, as the score predicts
            them; in scikit-learn the last gain of the mean log-likelihood, which on slow climbs is small far from the end.
        reg_covar: scatter that a conjugate prior adds, `covariance = (S + reg_covar I) / n` with S the scatter and n the weight
            of a component; in scikit-learn it is added to the covariance itself. 0 is maximum likelihood, and a component
            that collapses then ends the fit as DEGENERATE.
        max_iter: largest number of steps of a start.
        n_init: starts; all run in one batch.
        init_params: "kmeans" and "k-means++": seeds by greedy k-means++, every row to its nearest; "random": responsibilities
            near to a random partition; "random_from_data": seeds drawn evenly.
        weights_init: (K,) weights to begin at.
        means_init: (K, D) means to begin at.
        precisions_init: precisions to begin at, in the shape of `precisions_`.
        random_state: a seed, a `RandomState` or None.
        warm_start: whether a fit begins where the one before ended.
        verbose: 1 prints what the fit found.
        verbose_interval: not used: a fit is one program.

    Attributes:
        weights_: (K,).
        means_: (K, D).
        covariances_: (K, D, D), tied (D, D), diag (K, D), spherical (K,).
        precisions_: their inverses.
        precisions_cholesky_: U with `precisions_ = U U^T`, squared where diagonal.
        converged_: whether no more than `tol` nats are left; where not, a ConvergenceWarning says why and what to do.
        n_iter_: steps of the best start.
        lower_bound_: its objective for each unit of weight, log-likelihood and log-prior.
        lower_bounds_: the same at the start and after each step.
        fits_: every start's `jem.Fit`.
        fit_: the best of them.
        model_: the `jem.Mixture`.
        n_features_in_: D.
        feature_names_in_: names of the columns, where X had names.

    Raises:
        ValueError: data that are not rows of finite numbers, settings out of their ranges.

    Example:
        >>> from jem.datasets import old_faithful
        >>> from jem.sklearn import GaussianMixture
        >>> mixture = GaussianMixture(2, n_init=8, random_state=0).fit(old_faithful())
        >>> print(mixture.means_[mixture.means_[:, 0].argsort()].round(1))
        [[ 2.  54.5]
         [ 4.3 80. ]]

    Source: Dempster, Laird and Rubin (1977), JRSS B 39; names of Pedregosa et al. (2011), JMLR 12.
    """

    _family = jem.Gaussian
    _parameter_constraints = {
        **CLIMB,
        **COVARIANCE,
        "init_params": [StrOptions(set(SEEDINGS))],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "verbose": ["verbose"],
        "verbose_interval": [AT_LEAST_1],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    def _node(self, gaps: bool) -> Any:
        leaf = jem.Gaussian(STRUCTURES[self.covariance_type], scatter_prior(self.reg_covar))
        plate = plate_of(with_gaps(leaf, gaps), self.covariance_type, self.n_components)
        return jem.Mixture(plate, seeding=SEEDINGS[self.init_params])

    def _given(self, X: np.ndarray) -> Callable[[Any], Any] | None:
        num, dim = self.n_components, X.shape[1]
        weights = _shaped(self.weights_init, "weights", (num,), X.dtype)
        means = _shaped(self.means_init, "means", (num, dim), X.dtype)
        shape = covariance_shape(self.covariance_type, num, dim)
        precisions = _shaped(self.precisions_init, "precisions", shape, X.dtype)
        if weights is None and means is None and precisions is None:
            return None
        if weights is not None and not ((weights >= 0).all() and np.isclose(weights.sum(), 1)):
            raise ValueError(f"The parameter 'weights' should be in the range [0, 1] and sum to 1, but got {weights}")
        whitening = None
        if precisions is not None:
            matrices = self.covariance_type in ("full", "tied")
            whitening = whitenings_from(np.linalg.inv(precisions) if matrices else 1 / precisions, self.covariance_type)

        def given(start: Any) -> Any:
            put = lambda value, now: now if value is None else jnp.asarray(value, now.dtype)
            components = jem.Gaussian.Params(put(means, start.components.mean), put(whitening, start.components.whitening))
            return jem.Mixture.Params(put(weights, start.weights), components)

        return given

    def _params(self) -> Any:
        whitening = whitenings_of(self.precisions_cholesky_, self.covariance_type)
        return jem.Mixture.Params(self.weights_, jem.Gaussian.Params(self.means_, whitening))

    def _publish(self) -> None:
        self.weights_, components = self.fit_.params
        self.means_ = components.mean
        self.covariances_ = covariances_of(components, self.covariance_type)
        self.precisions_cholesky_ = precisions_cholesky_of(components, self.covariance_type)
        self.precisions_ = precisions_of(self.precisions_cholesky_, self.covariance_type)
        if self.verbose:
            print(self.fits_)


class StudentTMixture(BaseMixture):
    """Mixtures of multivariate Student-t distributions: rows far out count less.

    `x ~ sum_k weights_[k] t(means_[k], scales_[k], dfs_[k])`.

    Args:
        n_components: K.
        covariance_type: of the scale matrices, "full", "tied", "diag" or "spherical".
        df: degrees of freedom, which are held; None estimates those of each component.
        tol: nats that may be left of the climb, as in `GaussianMixture`.
        reg_covar: scatter that a conjugate prior adds, as in `GaussianMixture`.
        max_iter: largest number of steps of a start.
        n_init: starts; all run in one batch.
        random_state: a seed, a `RandomState` or None.
        warm_start: whether a fit begins where the one before ended.

    Attributes:
        weights_: (K,).
        means_: (K, D) locations.
        scales_: scale matrices, in the shape of a Gaussian's covariances.
        dfs_: (K,) degrees of freedom.
        converged_: whether no more than `tol` nats are left.
        n_iter_: steps of the best start.
        lower_bound_: its objective for each unit of weight.
        lower_bounds_: the same at the start and after each step.
        fits_: every start's `jem.Fit`.
        fit_: the best of them.
        model_: the `jem.Mixture`.
        n_features_in_: D.
        feature_names_in_: names of the columns, where X had names.

    Raises:
        ValueError: data that are not rows of finite numbers, settings out of their ranges.

    Example:
        >>> from jem.datasets import old_faithful
        >>> from jem.sklearn import StudentTMixture
        >>> StudentTMixture(2, df=5.0, random_state=0).fit(old_faithful()).dfs_.tolist()
        [5.0, 5.0]

    Source: Peel and McLachlan (2000), Statistics and Computing 10.
    """

    _family = jem.StudentT
    _parameter_constraints = {**CLIMB, **COVARIANCE, "df": [Interval(Real, 0, None, closed="neither"), None]}

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        df: float | None = None,
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.df = df
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    def _node(self, gaps: bool) -> Any:
        structure, prior = STRUCTURES[self.covariance_type], scatter_prior(self.reg_covar)
        if self.df is None:
            leaf = jem.StudentT(structure, prior=prior)
        else:
            leaf = jem.Frozen(jem.StudentT(structure, self.df, prior), "df")
        return jem.Mixture(plate_of(with_gaps(leaf, gaps), self.covariance_type, self.n_components))

    def _publish(self) -> None:
        self.weights_, components = self.fit_.params
        self.means_, self.dfs_ = components.mean, components.df
        self.scales_ = covariances_of(components, self.covariance_type)


def _shaped(value: Any, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
    """A value that a user gives, in its shape."""
    if value is None:
        return None
    value = check_array(value, dtype=dtype, ensure_2d=False, allow_nd=True)
    if value.shape != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {value.shape}")
    return value

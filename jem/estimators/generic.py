"""An estimator of any model of jem's."""

from numbers import Integral, Real
from typing import Any, Self

import jax
import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

import jem
from jem.estimators.base import JemEstimator, draw


def _belongs(estimator: Any) -> bool:
    """Whether rows belong to components, or steps to states."""
    return jem.author.DISCRETE in estimator.node.traits


class Estimator(DensityMixin, JemEstimator):
    """Any model of jem's as a scikit-learn estimator.

    `fit` climbs `sum_n sample_weight_n log p(x_n)` from `n_init` starts in one batch.

    Args:
        node: the model, such as `jem.Mixture(jem.Poisson(), 3)`; also of sequences of one length, X (S, T, D).
        columns: which columns of X the model sees: None all; a number one, as `jem.Categorical` takes it; a list some, as rows;
            a dict of these for the parts of a `jem.Product`.
        tol: nats that may be left of the climb.
        max_iter: largest number of steps of a start.
        n_init: starts.
        random_state: a seed, a `RandomState` or None.
        warm_start: whether a fit begins where the one before ended.

    Attributes:
        converged_: whether no more than `tol` nats are left.
        n_iter_: steps of the best start.
        lower_bound_: its objective for each unit of weight.
        lower_bounds_: the same at the start and after each step.
        fits_: every start's `jem.Fit`.
        fit_: the best of them, `fit_.params` the parameters.
        model_: the node.
        n_features_in_: D.
        feature_names_in_: names of the columns, where X had names.

    Raises:
        ValueError: data that the model does not take, settings out of their ranges.

    Example:
        >>> import jem
        >>> from jem.sklearn import Estimator
        >>> mixed = jem.Mixture(jem.Product(length=jem.Gaussian(), kind=jem.Categorical(3)), 2)
        >>> x, kind = jem.datasets.iris()
        >>> rows = [[*row, one] for row, one in zip(x, kind)]
        >>> estimator = Estimator(mixed, columns={"length": [0, 1], "kind": 4}, random_state=0)
        >>> estimator.fit(rows).predict_proba(rows).shape
        (150, 2)

    Source: Dempster, Laird and Rubin (1977), JRSS B 39.
    """

    _most_dims = 3
    _parameter_constraints = {
        "node": [HasMethods(["infer", "expect", "maximize"])],
        "columns": [Integral, "array-like", dict, None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
    }

    def __init__(
        self,
        node: Any,
        *,
        columns: Any = None,
        tol: float = 1e-3,
        max_iter: int = 1000,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.node = node
        self.columns = columns
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    def _takes_gaps(self) -> bool:
        return jem.author.MISSING in getattr(self.node, "traits", ())

    def _node(self, gaps: bool) -> Any:
        return self.node

    def _data(self, X: np.ndarray) -> Any:
        if isinstance(self.columns, dict):
            return {name: X[:, column] for name, column in self.columns.items()}
        return X if self.columns is None else X[:, self.columns]

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fits the model from `n_init` starts in one batch, and keeps the best.

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
        X = self._rows(X, reset=True)
        weights = self._weights(sample_weight, X)
        self._climb(self._data(X), weights, self._before(X))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """The log-density of each row, (n_samples,)."""
        return self._ask(jem.log_prob, X)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-density of the rows."""
        return float(self.score_samples(X).mean())

    @available_if(_belongs)
    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each component given the row, (n_samples, K); of a chain of the states, (n_samples, T, K)."""

        def question(*asked: Any) -> jax.Array:
            posterior = jem.infer(*asked)[0]
            return posterior.responsibilities if hasattr(posterior, "responsibilities") else posterior.smoothed

        return self._ask(question, X)

    @available_if(_belongs)
    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each row, (n_samples,); of a chain the states, (n_samples, T)."""
        return self.predict_proba(X).argmax(-1)

    def sample(self, n_samples: int = 1) -> Any:
        """Draws rows; those of a `jem.Product` are a dict of its parts."""
        check_is_fitted(self)
        return draw(self.node, self._params(), n_samples, self.random_state)[1]

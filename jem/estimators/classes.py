"""Latent classes of categorical items as a scikit-learn estimator."""

from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_non_negative

import jem
from jem.estimators.base import with_gaps
from jem.estimators.mixtures import AT_LEAST_1, CLIMB, BaseMixture


class LatentClassAnalysis(BaseMixture):
    """Latent class analysis: classes within which categorical items are independent.

    `p(x) = sum_k weights_[k] prod_d category_probs_[d][k, x_d]`. An item that was not answered is NaN, and is left out exactly.

    Args:
        n_components: K, number of classes.
        n_categories: (D,) number of categories of each item, or one number for all; None takes those that were seen.
        concentration: Dirichlet prior on the probabilities of each item; 1 is maximum likelihood, 2 one more
            answer of each kind.
        tol: nats that may be left of the climb, as in `GaussianMixture`.
        max_iter: largest number of steps of a start.
        n_init: starts; all run in one batch.
        random_state: a seed, a `RandomState` or None.
        warm_start: whether a fit begins where the one before ended.

    Attributes:
        weights_: (K,) sizes of the classes.
        category_probs_: for each item the probabilities of its categories, (K, M_d).
        n_categories_: (D,) the M_d.
        converged_: whether no more than `tol` nats are left.
        n_iter_: steps of the best start.
        lower_bound_: its objective for each unit of weight.
        lower_bounds_: the same at the start and after each step.
        fits_: every start's `jem.Fit`.
        fit_: the best of them.
        model_: the `jem.Mixture`, of `jem.Bernoulli` where all items are binary, else of a `jem.Product`.
        n_features_in_: D.
        feature_names_in_: names of the columns, where X had names.

    Raises:
        ValueError: items that are no integers 0 .. M_d - 1.

    Example:
        >>> import numpy as np
        >>> from jem.sklearn import LatentClassAnalysis
        >>> items = np.repeat([[0, 0, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0]], [40, 10, 40, 10], axis=0)
        >>> classes = LatentClassAnalysis(2, random_state=0).fit(items)
        >>> print(classes.weights_.round(2))
        [0.5 0.5]

    Source: Goodman (1974), Biometrika 61.
    """

    _family = jem.Categorical
    _parameter_constraints = {
        **CLIMB,
        "n_categories": ["array-like", AT_LEAST_1, None],
        "concentration": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        n_categories: Any = None,
        concentration: float = 1.0,
        tol: float = 1e-3,
        max_iter: int = 1000,
        n_init: int = 1,
        random_state: Any = None,
        warm_start: bool = False,
    ):
        self.n_components = n_components
        self.n_categories = n_categories
        self.concentration = concentration
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.warm_start = warm_start

    @property
    def _binary(self) -> bool:
        return bool((self.n_categories_ == 2).all())

    def _node(self, gaps: bool) -> Any:
        if self._binary:
            return jem.Mixture(with_gaps(jem.Bernoulli(self.concentration), gaps), self.n_components)
        items = {_item(d): jem.Categorical(int(m), self.concentration) for d, m in enumerate(self.n_categories_)}
        return jem.Mixture(jem.Product(**{name: with_gaps(item, gaps) for name, item in items.items()}), self.n_components)

    def _look(self, X: np.ndarray) -> None:
        seen = np.nan_to_num(X, nan=0).max(0).astype(int) + 1
        asked = 2 if self.n_categories is None else np.asarray(self.n_categories)
        if np.shape(asked) not in ((), seen.shape):
            raise ValueError(f"n_categories: expected {len(seen)} numbers, one an item; got shape {np.shape(asked)}")
        self.n_categories_ = np.maximum(seen, asked) if self.n_categories is None else np.broadcast_to(asked, seen.shape)

    def _data(self, X: np.ndarray) -> Any:
        check_non_negative(X, "LatentClassAnalysis (input X)")
        wrong = (X >= self.n_categories_) | (X != np.floor(X)) & ~np.isnan(X)
        if wrong.any():
            row, d = np.argwhere(wrong)[0]
            raise ValueError(f"Item {d} must be one of 0 .. {self.n_categories_[d] - 1}; got {X[row, d]} in row {row}")
        return X if self._binary else {_item(d): column for d, column in enumerate(X.T)}

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draws rows (n_samples, n_features) and their classes (n_samples,): the same again where `random_state` is a seed."""
        x, labels = super().sample(n_samples)
        return x if self._binary else np.stack([x[_item(d)] for d in range(len(self.n_categories_))], 1), labels

    def _publish(self) -> None:
        self.weights_, items = self.fit_.params
        if self._binary:
            self.category_probs_ = [np.stack([1 - p, p], 1) for p in items.probs.T]
        else:
            self.category_probs_ = [items[_item(d)].probs for d in range(len(self.n_categories_))]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.positive_only = True
        return tags


def _item(d: int) -> str:
    """The name of an item; names sort as their numbers."""
    return f"item{d:06d}"

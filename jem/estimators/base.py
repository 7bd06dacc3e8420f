"""What estimators share: data checked and padded, a key of a random state, one batch of starts, answers as NumPy arrays."""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

import jem

# Families in which single cells may be missing, exactly, inside of `jem.Missing`; estimators of these take NaN.
EXACT_CELLS = (jem.Bernoulli, jem.Categorical, jem.FactorAnalysis, jem.Gaussian, jem.Poisson, jem.StudentT)

_FEWEST, _DOUBLING = 32, 1024  # rows; up to where their number is padded to a power of two
_SEQUENCES = 1, 8  # the same of sequences, each of which may be long


def with_gaps(family: Any, gaps: bool) -> Any:
    """The family, or where cells are missing the family without them."""
    return jem.Missing(family) if gaps else family


def has_gaps(x: Any) -> bool:
    """Whether a NaN is in the data."""
    return any(bool(np.isnan(leaf).any()) for leaf in jax.tree.leaves(x))


def padded_size(num: int, fewest: int = _FEWEST, doubling: int = _DOUBLING) -> int:
    """What a number of rows is padded to: a power of two, then an eighth of one more; few sizes serve all."""
    power = 1 << (max(num, fewest) - 1).bit_length()
    part = power if power <= doubling else power // 8
    return -(-num // part) * part


def size_for(x: Any) -> int:
    """How many units there will be, of these data."""
    num = num_units(x)
    return padded_size(num, *_SEQUENCES) if isinstance(x, jem.Sequences) else padded_size(num)


def num_units(x: Any) -> int:
    """How many rows, or sequences, there are."""
    return len(jax.tree.leaves(x)[0])


def padded(x: Any, size: int) -> Any:
    """So many rows: copies of the first behind those there are."""
    return jax.tree.map(lambda a: np.concatenate([a, np.broadcast_to(a[:1], (size - len(a), *a.shape[1:]))]), x)


def float_of(tree: Any) -> Any:
    """The floats of data or parameters: float32 where they are, float64 otherwise."""
    floats = {leaf.dtype for leaf in jax.tree.leaves(tree) if leaf.dtype.kind == "f"}
    return np.float32 if floats == {np.dtype(np.float32)} else np.float64


def precision(dtype: Any) -> contextlib.AbstractContextManager[Any]:
    """Within it JAX computes in these floats, whatever `jax_enable_x64` is, and no option is changed without it."""
    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


def key_of(random_state: Any) -> jax.Array:
    """A key, drawn from a seed or a `RandomState`."""
    return jax.random.key(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def on_host(tree: Any) -> Any:
    """The tree with NumPy's arrays: what is kept, and pickled, depends on no device."""
    return jax.tree.map(np.asarray, tree)


def ask(question: Callable[[Any, Any, Any], Any], node: Any, params: Any, x: Any) -> Any:
    """`question(node, params, x)`, with an entry for each row of x, on the host."""
    num, dtype = num_units(x), float_of(params)
    x = jax.tree.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a, x)
    with precision(dtype):
        answer = question(node, params, padded(x, size_for(x)))
        return jax.tree.map(lambda a: np.asarray(a)[:num], answer)


def draw(node: Any, params: Any, num: int, random_state: Any) -> Any:
    """Latents and data of so many units."""
    with precision(float_of(params)):
        drawn = jem.sample(node, key_of(random_state), params, padded_size(num))
        return jax.tree.map(lambda a: np.asarray(a)[:num], drawn)


def climb(
    node: Any,
    x: Any,
    weights: np.ndarray | None,
    *,
    random_state: Any,
    num_restarts: int,
    tol: float,
    max_steps: int,
    given: Callable[[Any], Any] | None = None,
) -> jem.Fit:
    """Fits the model from many starts in one program, rows of weight 0 padding the data.

    Args:
        node: the model.
        x: data with N rows, NumPy arrays.
        weights: (N,) or None.
        random_state: a seed, a `RandomState` or None.
        num_restarts: R.
        tol: nats that may be left.
        max_steps: largest number of steps.
        given: what makes of a start the one to begin at, where some of it is given.

    Returns:
        A `Fit` on the host, whose fields have a leading axis R.
    """
    num, size, dtype = num_units(x), size_for(x), float_of(x)
    x, all_weights = padded(x, size), np.zeros(size, dtype)
    all_weights[:num] = 1 if weights is None else weights
    options: Any = {"weights": all_weights, "stop": jem.stop.Remaining(tol), "max_steps": max_steps}
    with precision(dtype):
        key = key_of(random_state)
        if given is None:
            return on_host(jem.fit_restarts(node, key, x, num_restarts=num_restarts, **options))
        start = jax.vmap(lambda key: given(jem.init(node, key, x, options["weights"])))
        return on_host(jem.fit_restarts(node, None, x, starts=start(jax.random.split(key, num_restarts)), **options))


class JemEstimator(BaseEstimator):
    """An estimator around a model of jem's.

    Subclasses say the model, `_node(gaps)`, where the data are not the rows of X what they are, `_data(X)`, and what is to be
    read off the parameters, `_publish()`.

    Attributes:
        fits_: every restart's `jem.Fit`, with a leading axis.
        fit_: the best of them, with NumPy's arrays.
        model_: the node that was fitted, for going on with jem, as in `jem.standard_errors(model_, fit_.params, X)`.
        converged_: whether no more than `tol` nats are left of the climb.
        n_iter_: steps of the best restart.
        lower_bound_: its objective for each unit of weight, log-likelihood and log-prior.
        lower_bounds_: the same at the start and after each step.
    """

    n_features_in_: int
    _family: Any = None  # which of jem's families the rows are from, where it is the same always
    _most_dims = 2

    def _node(self, gaps: bool) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define _node")

    def _fitted_node(self, gaps: bool) -> Any:
        """The node that is fitted, where it is not the one that is asked."""
        return self._node(gaps)

    @property
    def _max_steps(self) -> int:
        settings: Any = self
        return settings.max_iter

    def _data(self, X: np.ndarray) -> Any:
        return X

    def _publish(self) -> None:
        """Sets the attributes that are named as in scikit-learn."""

    def _params(self) -> Any:
        """The parameters that questions are asked at."""
        return self.fit_.params

    def _takes_gaps(self) -> bool:
        return self._family in EXACT_CELLS

    def _rows(self, X: Any, y: Any = "no_validation", *, reset: bool = False, **checks: Any) -> Any:
        """X, and y where it is given, as arrays of floats."""
        finite = "allow-nan" if self._takes_gaps() else True
        checks |= {"dtype": [np.float64, np.float32], "ensure_all_finite": finite, "allow_nd": self._most_dims > 2}
        return validate_data(self, X, y, reset=reset, **checks)

    def _weights(self, sample_weight: Any, X: np.ndarray) -> np.ndarray | None:
        if sample_weight is None:
            return None
        weights = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
        if not weights.any():
            raise ValueError("sample_weight: the weights are all zero; at least one row must count")
        return weights

    def _goes_on(self) -> bool:
        return getattr(self, "warm_start", False) and hasattr(self, "fit_")

    def _before(self, X: np.ndarray) -> Callable[[Any], Any] | None:
        """Where a fit goes on from the one before, the start that this was; scikit-learn then has no other."""
        if not self._goes_on():
            return None
        before = self._params()
        return lambda _: jax.tree.map(lambda a: jnp.asarray(a, X.dtype), before)

    def _climb(self, x: Any, weights: np.ndarray | None, given: Callable[[Any], Any] | None = None) -> None:
        """Fits, keeps what was found, and warns where it is no maximum."""
        settings: Any = self
        again = self._goes_on()
        self.model_ = self._fitted_node(has_gaps(x))
        self.fits_ = climb(
            self.model_, x, weights, random_state=settings.random_state, num_restarts=1 if again else settings.n_init,
            tol=settings.tol, max_steps=self._max_steps, given=given,
        )  # fmt: skip
        with precision(float_of(x)):
            self.fit_ = on_host(self.fits_.best())
        total = num_units(x) if weights is None else weights.sum()
        self.converged_, self.n_iter_ = bool(self.fit_.converged), int(self.fit_.num_steps)
        self.lower_bound_ = float(self.fit_.objective / total)
        self.lower_bounds_ = [float(value / total) for value in self.fit_.trace[: self.n_iter_ + 1]]
        if self._max_steps > 0:
            warn_unless_converged(self.fit_)

    def _ask(self, question: Callable[[Any, Any, Any], Any], X: Any) -> Any:
        """The answer for each row of X."""
        check_is_fitted(self)
        x = self._data(self._rows(X))
        return ask(question, self._node(has_gaps(x)), self._params(), x)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._takes_gaps()
        return tags


def warn_unless_converged(fit: jem.Fit) -> None:
    """A `ConvergenceWarning` with the fit's status, its cause and what to do."""
    try:
        fit.check()
    except jem.FitError as error:
        warnings.warn(str(error), ConvergenceWarning, stacklevel=4)

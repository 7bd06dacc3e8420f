"""A likelihood-ratio test between models, as of the number of components, whose null law is simulated."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import checks
from jem.ask.resample import FromModel
from jem.backend import precise
from jem.data import row_weights, to_units
from jem.doors.fit import checked, fit_restarts
from jem.engine.coded import Coded
from jem.engine.result import Status
from jem.engine.solvers.accelerate import Anderson
from jem.engine.stop import Remaining
from jem.node import Data, Node

_SLACK = 0.02  # of a statistic: 0.01 nats, some ten times what a fit leaves


class TestStatus(Coded):
    """Whether a likelihood-ratio test says anything."""

    VALID = 0, "the alternative fits the data at least as well as the null model"
    NOT_ABOVE = (
        1,
        "the alternative's likelihood lies below the null model's: the null model is no special case of it, or its maximum was "
        "not found; exchange the two, or raise num_restarts or tighten stop",
    )
    FAILED = 2, "the null model or the alternative could not be fitted to the data; fit it by itself to see why"


class LikelihoodRatioTest(NamedTuple):
    """A likelihood-ratio test whose null law was simulated; `statistic`, `p_value` and `status` are scalars ().

    Attributes:
        statistic: `2 (l_alternative - l_null)` of the data.
        p_value: `(1 + number of replicates at or above it) / (1 + number of replicates)`; NaN where the status is not VALID.
        replicates: (B,) statistics of data drawn from the null model; NaN where a fit failed.
        null: the null fit's parameters.
        alternative: the alternative's.
        status: int code of `jem.uncertainty.TestStatus`.
    """

    statistic: Array
    p_value: Array
    replicates: Array
    null: Any
    alternative: Any
    status: Array

    def check(self) -> "LikelihoodRatioTest":
        """Returns itself where the status is VALID, and raises `FitError` otherwise. Not for use inside jit."""
        TestStatus.check(self.status, TestStatus.VALID)
        return self


def likelihood_ratio_test(
    null: Node,
    alternative: Node,
    key: Array,
    x: Data,
    *,
    num_replicates: int,
    num_restarts: int = 10,
    solver: Any = Anderson(),  # noqa: B008
    stop: Any = Remaining(),  # noqa: B008
    max_steps: int = 1000,
) -> LikelihoodRatioTest:
    """Tests a model against a larger one, as K components against K + 1, by the parametric bootstrap.

    The statistic is `2 (l_alternative - l_null)`, l the largest log-likelihood. The null model must be a special case
    of the alternative; where the alternative's likelihood lies below its own, the status says so. The usual chi-squared law
    does not hold between numbers of components: under the null the larger model is not identified. Every data set, observed
    or drawn, is fitted with both models from `num_restarts` starts.

    Args:
        null: the smaller model.
        alternative: the larger one.
        key: a typed PRNG key.
        x: data with N rows.
        num_replicates: B.
        num_restarts: starts of each fit.
        solver: as for `fit`.
        stop: as for `fit`.
        max_steps: as for `fit`.

    Returns:
        A `LikelihoodRatioTest`.

    Raises:
        ValueError: data that do not suit one of the models.
        TypeError: a null model that cannot draw data.

    Example:
        >>> import jax, jem
        >>> x = [[1], [2], [1], [9], [8], [9], [2], [8]]
        >>> test = jem.uncertainty.likelihood_ratio_test(
        ...     jem.Poisson(), jem.Mixture(jem.Poisson(), 2), jax.random.key(0), x, num_replicates=19, num_restarts=2)
        >>> bool(test.p_value <= 0.1)
        True

    Source: McLachlan (1987), JRSS C 36.
    """
    checks.check_key(key)
    checks.check_positive_int(num_replicates, "num_replicates")
    checks.check_positive_int(num_restarts, "num_restarts")
    x, _ = checked(null, x, None)
    checked(alternative, x, None)
    return _test(null, alternative, key, x, solver, stop, sizes=(num_replicates, num_restarts, max_steps))


@functools.partial(jax.jit, static_argnames="sizes")
@precise
def _test(
    null: Node, alternative: Node, key: Array, x: Data, solver: Any, stop: Any, *, sizes: tuple[int, int, int]
) -> LikelihoodRatioTest:
    num_replicates, num_restarts, max_steps = sizes

    def fits(key: Array, x: Data) -> tuple[Any, Any]:
        first, second = jax.random.split(key)
        options: dict[str, Any] = {"num_restarts": num_restarts, "solver": solver, "stop": stop, "max_steps": max_steps}
        return fit_restarts(null, first, x, **options).best(), fit_restarts(alternative, second, x, **options).best()

    key, first = jax.random.split(key)
    small, large = fits(first, x)
    bound = null.bind(to_units(x), row_weights(x, None))

    def one(key: Array) -> Array:
        draw_key, fit_key = jax.random.split(key)
        drawn, _ = FromModel().draw(draw_key, bound, small.params, x, None)
        a, b = fits(fit_key, drawn)
        return jnp.where(_failed(a) | _failed(b), jnp.nan, 2 * (b.log_likelihood - a.log_likelihood))

    statistic = 2 * (large.log_likelihood - small.log_likelihood)
    simulated = lax.map(one, jax.random.split(key, num_replicates))
    p_value = (1 + jnp.sum(simulated >= statistic)) / (1 + jnp.sum(jnp.isfinite(simulated)))
    # What two fits may leave below their maxima.
    slack = _SLACK + 1e3 * jnp.finfo(statistic.dtype).eps * jnp.abs(small.log_likelihood)
    status = jnp.where(statistic < -slack, TestStatus.NOT_ABOVE, TestStatus.VALID)
    status = jnp.where(_failed(small) | _failed(large), TestStatus.FAILED, status).astype(jnp.int32)
    p_value = jnp.where(status == TestStatus.VALID, p_value, jnp.nan)
    return LikelihoodRatioTest(statistic, p_value, simulated, small.params, large.params, status)


def _failed(fit: Any) -> Array:
    """A likelihood without a maximum, or none, is nothing to compare with."""
    return (fit.status == Status.NONFINITE) | (fit.status == Status.DEGENERATE) | ~jnp.isfinite(fit.log_likelihood)

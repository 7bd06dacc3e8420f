"""Vectors of independent waiting times: the family to copy when writing your own. See README.md for the five steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.data import Interval
from jem.families.factorising import Factorising
from jem.kernels import intervals
from jem.kernels.intervals import Edges, Within
from jem.kernels.support import Positive
from jem.node import node, setting
from jem.settings import number


class ExponentialParams(NamedTuple):
    """Rates (D,), > 0."""

    rate: Array


@node
class Exponential(Factorising):
    """D independent waiting times, `p(x) = prod_d rate_d exp(-rate_d x_d)`; x has rows (N, D) of numbers > 0.

    Params: `ExponentialParams(rate (D,))`.

    Attributes:
        shape, inverse_scale: Gamma prior on each rate, `p(rate) ~ rate^(shape - 1) exp(-inverse_scale rate)`; 1 and 0
            are maximum likelihood.

    Raises:
        ValueError: at the door, x that is not (N, D), or a number that is not positive. Inside jit such a row has
            `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Exponential.Params(rate=jnp.array([1.0]))
        >>> jem.log_prob(jem.Exponential(), p, jnp.array([[0.5], [2.0]])).tolist()
        [-0.5, -2.0]

    Source: McLachlan and Peel (2000), Finite Mixture Models, chapter 10.
    """

    Params = ExponentialParams

    shape: Any = setting(default=1.0, must=number(above=0.0))
    inverse_scale: Any = setting(default=0.0, must=number(least=0.0))

    def natural(self, params: ExponentialParams) -> tuple[Array]:
        return (-params.rate,)

    def statistics(self, x: Array) -> tuple[Array]:
        return (x,)

    def log_normaliser(self, params: ExponentialParams) -> Array:
        return -jnp.log(params.rate)

    def carrier(self, x: Array) -> Array:
        # What cannot be has the log-probability minus infinity: under jit no door can refuse it.
        return jnp.where(x > 0, 0.0, -jnp.inf).astype(x.dtype)

    def from_means(self, means: tuple[Array]) -> ExponentialParams:
        # Where there is nothing to divide by, NaN: the old rate stays.
        mean = means[0]
        return ExponentialParams(jnp.where(mean > 0, 1 / jnp.where(mean > 0, mean, 1), jnp.nan))

    def pseudo(self, dtype: Any) -> tuple[Array, tuple[Array]]:
        return jnp.asarray(self.shape, dtype) - 1, (jnp.asarray(self.inverse_scale, dtype),)

    @property
    def edges(self) -> Edges:
        return Edges(0.0)

    def within(self, params: ExponentialParams, x: Interval) -> Within:
        ends = intervals.ends_of(x, self.edges, 1, params.rate.dtype)
        log_prob, mean = intervals.exponential(params.rate[:, None], ends)
        whole = jnp.ones((1, mean.shape[1]), mean.dtype)
        return intervals.assembled(ends, mean[None], whole, log_prob, self.cells(params, ends.value))

    def mean(self, params: ExponentialParams) -> Array:
        return 1 / params.rate

    def sample(self, key: Array, params: ExponentialParams, num: int) -> tuple[tuple[()], Array]:
        draws = jax.random.exponential(key, (params.rate.shape[0], num), params.rate.dtype)
        return (), draws / params.rate[:, None]

    def supports(self, params: ExponentialParams) -> ExponentialParams:
        return params._replace(rate=Positive())

    def features(self, x: Array) -> Array:
        # The logarithm of a waiting time has the same spread at every rate.
        return jnp.log(x)

    def validate(self, x: Array) -> None:
        super().validate(x)
        checks.check_values(x, "Exponential", checks.not_positive, "> 0")

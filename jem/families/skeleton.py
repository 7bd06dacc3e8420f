"""Vectors of independent waiting times: the family to copy when writing your own. See README.md for the five steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.kernels.simplex import xlogy
from jem.kernels.support import Positive
from jem.node import Node, node, setting
from jem.settings import number


class ExponentialParams(NamedTuple):
    """Rates (D,), > 0."""

    rate: Array


class ExponentialStats(NamedTuple):
    """Sum of weights () and weighted sums of x (D,)."""

    count: Array
    total: Array


@node
class Exponential(Node):
    """D independent waiting times, `p(x) = prod_d rate_d exp(-rate_d x_d)`; x has rows (N, D) of numbers > 0.

    Params: `ExponentialParams(rate (D,))`.

    Attributes:
        shape, inverse_scale: Gamma prior on each rate, `p(rate) ~ rate^(shape - 1) exp(-inverse_scale rate)`; 1 and 0
            are maximum likelihood.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> from jem.families.skeleton import Exponential, ExponentialParams
        >>> jem.log_prob(Exponential(), ExponentialParams(jnp.array([1.0])), jnp.array([[0.5], [2.0]])).tolist()
        [-0.5, -2.0]

    Source: McLachlan and Peel (2000), Finite Mixture Models, chapter 10.
    """

    shape: Any = setting(default=1.0, must=number(above=0.0))
    inverse_scale: Any = setting(default=0.0, must=number(least=0.0))

    def infer(self, params: ExponentialParams, x: Array) -> tuple[tuple[()], Array]:
        # No latent variable of its own: the posterior is empty. The unit axis is last, so rates are columns.
        # What cannot be has the log-probability minus infinity: under jit no door can refuse it.
        log_prob = jnp.log(params.rate)[:, None] - params.rate[:, None] * x
        return (), jnp.sum(jnp.where(x > 0, log_prob, -jnp.inf), 0)

    def expect(self, params: ExponentialParams, posterior: tuple[()], x: Array, weights: Array) -> ExponentialStats:
        return ExponentialStats(jnp.sum(weights), x @ weights)

    def maximize(self, params: ExponentialParams, stats: ExponentialStats) -> ExponentialParams:
        # The prior enters as pseudo-statistics; where there is nothing to divide, the old rate stays.
        count = stats.count + (jnp.asarray(self.shape, stats.count.dtype) - 1)
        total = stats.total + jnp.asarray(self.inverse_scale, stats.total.dtype)
        defined = (count > 0) & (total > 0)
        return ExponentialParams(jnp.where(defined, count / jnp.where(defined, total, 1), params.rate))

    def expected_log_prob(self, params: ExponentialParams, stats: ExponentialStats, old: ExponentialParams) -> Array:
        return jnp.sum(stats.count * jnp.log(params.rate) - params.rate * stats.total)

    def init(self, key: Array, x: Array, weights: Array) -> ExponentialParams:
        # One pseudo-observation at the mean of all units: a start with little or no weight stays sensible.
        return ExponentialParams((jnp.sum(weights) + 1) / (x @ weights + jnp.mean(x, 1)))

    def sample(self, key: Array, params: ExponentialParams, num: int) -> tuple[tuple[()], Array]:
        draws = jax.random.exponential(key, (params.rate.shape[0], num), params.rate.dtype)
        return (), draws / params.rate[:, None]

    def log_prior(self, params: ExponentialParams) -> Array:
        more = jnp.asarray(self.shape, params.rate.dtype) - 1
        return jnp.sum(xlogy(more, params.rate) - jnp.asarray(self.inverse_scale, params.rate.dtype) * params.rate)

    def supports(self, params: ExponentialParams) -> ExponentialParams:
        return params._replace(rate=Positive())

    def features(self, x: Array) -> Array:
        # The logarithm of a waiting time has the same spread at every rate.
        return jnp.log(x)

    def validate(self, x: Array) -> None:
        checks.check_matrix(x, "Exponential")
        if checks.found(_not_positive, x):
            raise ValueError(f"Exponential: x must be > 0; got {checks.first_fault(_not_positive, x)}")


def _not_positive(x: Array) -> Array:
    return x <= 0

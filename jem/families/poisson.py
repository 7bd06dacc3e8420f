"""Vectors of independent Poisson counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.data import float_dtype
from jem.kernels.counts import poisson_log_prob, xlogy_ratio
from jem.kernels.simplex import xlogy
from jem.kernels.support import Rate
from jem.node import Node, node, setting
from jem.settings import number


class PoissonParams(NamedTuple):
    """Rates (D,), >= 0."""

    rate: Array


class PoissonStats(NamedTuple):
    """Sum of weights (), weighted counts (D,) and the weighted log-density at the parameters they were gathered at ()."""

    count: Array
    total: Array
    log_prob: Array


@node
class Poisson(Node):
    """D independent counts, `p(x) = prod_d rate_d^x_d exp(-rate_d) / x_d!`; x has rows (N, D) of integers >= 0.

    Params: `PoissonParams(rate (D,))`.

    Attributes:
        shape, inverse_scale: Gamma prior on each rate, `p(rate) ~ rate^(shape - 1) exp(-inverse_scale rate)`; 1 and 0 are
            maximum likelihood.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.log_prob(jem.Poisson(), jem.PoissonParams(jnp.array([2.0])), jnp.array([[0], [3]])).shape
        (2,)

    Source: Hasselblad (1969), JASA 64.
    """

    shape: Any = setting(default=1.0, must=number(above=0.0))
    inverse_scale: Any = setting(default=0.0, must=number(least=0.0))

    def infer(self, params: PoissonParams, x: Array) -> tuple[tuple[()], Array]:
        x = x.astype(params.rate.dtype)
        possible = (x >= 0) & (x == jnp.floor(x))
        log_prob = poisson_log_prob(jnp.where(possible, x, 0), params.rate[:, None])
        return (), jnp.sum(jnp.where(possible, log_prob, -jnp.inf), 0)  # what is no count cannot be

    def expect(self, params: PoissonParams, posterior: tuple[()], x: Array, weights: Array) -> PoissonStats:
        x = x.astype(weights.dtype)
        log_prob = jnp.where(weights > 0, self.infer(params, x)[1], 0)
        return PoissonStats(jnp.sum(weights), x @ weights, log_prob @ weights)

    def maximize(self, params: PoissonParams, stats: PoissonStats) -> PoissonParams:
        total = jnp.maximum(stats.total + (jnp.asarray(self.shape, stats.total.dtype) - 1), 0)
        count = stats.count + jnp.asarray(self.inverse_scale, stats.total.dtype)
        return PoissonParams(jnp.where(count > 0, total / jnp.where(count > 0, count, 1), params.rate))

    def expected_log_prob(self, params: PoissonParams, stats: PoissonStats, old: PoissonParams) -> Array:
        return self.recentre(stats, old, params).log_prob

    def init(self, key: Array, x: Array, weights: Array) -> PoissonParams:
        mean = jnp.mean(x.astype(weights.dtype), 1)
        return PoissonParams((x.astype(weights.dtype) @ weights + mean) / (jnp.sum(weights) + 1))

    def sample(self, key: Array, params: PoissonParams, num: int) -> tuple[tuple[()], Array]:
        return (), jax.random.poisson(key, params.rate[:, None], (params.rate.shape[0], num))

    def log_prior(self, params: PoissonParams) -> Array:
        more = jnp.asarray(self.shape, params.rate.dtype) - 1
        return jnp.sum(xlogy(more, params.rate) - jnp.asarray(self.inverse_scale, params.rate.dtype) * params.rate)

    def recentre(self, stats: PoissonStats, old: PoissonParams, new: PoissonParams) -> PoissonStats:
        more = xlogy_ratio(stats.total, new.rate, old.rate) - stats.count * (new.rate - old.rate)
        return stats._replace(log_prob=stats.log_prob + jnp.sum(more))

    def supports(self, params: PoissonParams) -> PoissonParams:
        return params._replace(rate=Rate())

    def features(self, x: Array) -> Array:
        # The square root of a count has a nearly constant variance.
        return 2 * jnp.sqrt(x.astype(float_dtype(x)))

    def validate(self, x: Array) -> None:
        checks.check_matrix(x, "Poisson")
        checks.check_integers(x, "Poisson")

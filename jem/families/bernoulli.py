"""Vectors of independent binary observations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.data import float_dtype
from jem.kernels.simplex import safe_log, xlogy
from jem.kernels.support import Interval
from jem.node import Node, node, setting
from jem.settings import number


class BernoulliParams(NamedTuple):
    """Probabilities (D,) of a one."""

    probs: Array


class BernoulliStats(NamedTuple):
    """Expected numbers of ones and of zeros, (D,) each."""

    ones: Array
    zeros: Array


@node
class Bernoulli(Node):
    """D independent binary features, `p(x) = prod_d probs_d^x_d (1 - probs_d)^(1 - x_d)`; x has rows (N, D) of 0 and 1.

    With `jem.Mixture` this is the latent class model.

    Params: `BernoulliParams(probs (D,))`.

    Attributes:
        concentration: Beta(concentration, concentration) prior on each probability; 1 is maximum likelihood.

    Example:
        >>> import jem
        >>> jem.Mixture(jem.Bernoulli(), 2).components.size
        2

    Source: Goodman (1974), Biometrika 61.
    """

    concentration: Any = setting(default=1.0, must=number(above=0.0))

    def infer(self, params: BernoulliParams, x: Array) -> tuple[tuple[()], Array]:
        p, x = params.probs, x.astype(params.probs.dtype)
        # A probability of exactly 0 or 1 must rule out the other outcome and say nothing about its own.
        ones = safe_log(p)
        zeros = jnp.where(p == 1, -jnp.inf, jnp.log1p(-jnp.where(p == 1, 0, p)))
        possible = (x == 0) | (x == 1)
        return (), jnp.sum(jnp.where(possible, jnp.where(x > 0, ones[:, None], zeros[:, None]), -jnp.inf), 0)

    def expect(self, params: BernoulliParams, posterior: tuple[()], x: Array, weights: Array) -> BernoulliStats:
        ones = x.astype(weights.dtype) @ weights
        return BernoulliStats(ones, (1 - x.astype(weights.dtype)) @ weights)

    def maximize(self, params: BernoulliParams, stats: BernoulliStats) -> BernoulliParams:
        more = jnp.asarray(self.concentration, stats.ones.dtype) - 1
        ones, zeros = jnp.maximum(stats.ones + more, 0), jnp.maximum(stats.zeros + more, 0)
        total = ones + zeros
        return BernoulliParams(jnp.where(total > 0, ones / jnp.where(total > 0, total, 1), params.probs))

    def expected_log_prob(self, params: BernoulliParams, stats: BernoulliStats, old: BernoulliParams) -> Array:
        return jnp.sum(xlogy(stats.ones, params.probs) + xlogy(stats.zeros, 1 - params.probs))

    def init(self, key: Array, x: Array, weights: Array) -> BernoulliParams:
        ones, zeros = self.expect(BernoulliParams(weights), (), x, weights)
        return BernoulliParams((ones + 1) / (ones + zeros + 2))

    def sample(self, key: Array, params: BernoulliParams, num: int) -> tuple[tuple[()], Array]:
        shape = (params.probs.shape[0], num)
        return (), jax.random.bernoulli(key, params.probs[:, None], shape).astype(jnp.int32)

    def log_prior(self, params: BernoulliParams) -> Array:
        more = jnp.asarray(self.concentration, params.probs.dtype) - 1
        return jnp.sum(xlogy(more, params.probs) + xlogy(more, 1 - params.probs))

    def recentre(self, stats: BernoulliStats, old: BernoulliParams, new: BernoulliParams) -> BernoulliStats:
        return stats

    def supports(self, params: BernoulliParams) -> BernoulliParams:
        return params._replace(probs=Interval())

    def features(self, x: Array) -> Array:
        return x.astype(float_dtype(x))

    def validate(self, x: Array) -> None:
        checks.check_matrix(x, "Bernoulli")
        checks.check_integers(x, "Bernoulli", upper=2)

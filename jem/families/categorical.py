"""Categorical observations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.data import Interval, float_dtype
from jem.kernels.intervals import Edges, Within, is_seen
from jem.kernels.simplex import log_dirichlet, maximize_simplex, safe_log, xlogy
from jem.kernels.support import Simplex
from jem.node import Node, node, setting, static
from jem.settings import number, whole


class CategoricalParams(NamedTuple):
    """Probabilities (M,) of the categories, summing to one."""

    probs: Array


class CategoricalStats(NamedTuple):
    """Expected counts (M,)."""

    counts: Array


@node
class Categorical(Node):
    """One of M categories, `p(x = m) = probs[m]`; x has shape (N,), integers 0 .. M - 1.

    Params: `CategoricalParams(probs (M,))`.

    Attributes:
        num_categories: M.
        concentration: Dirichlet prior on probs; 1 is maximum likelihood.

    Raises:
        ValueError: at the door, x that is not (N,), or no integer 0 .. M - 1. Inside jit such a row has `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.log_prob(jem.Categorical(2), jem.Categorical.Params(jnp.array([0.25, 0.75])), jnp.array([1, 1])).shape
        (2,)

    Source: Dempster, Laird and Rubin (1977), section 4.
    """

    Params = CategoricalParams

    num_categories: int = static(must=whole(1))
    concentration: Any = setting(default=1.0, must=number(above=0.0))

    def infer(self, params: CategoricalParams, x: Array) -> tuple[tuple[()], Array]:
        # What is no category has a place of its own behind the others, and cannot be.
        log, index = safe_log(jnp.append(params.probs, 0)), x.astype(jnp.int32)
        possible = (index == x) & (index >= 0) & (index < self.num_categories)
        return (), log[jnp.where(possible, index, self.num_categories)]

    def expect(self, params: CategoricalParams, posterior: tuple[()], x: Array, weights: Array) -> CategoricalStats:
        hot = x.astype(jnp.int32)[None, :] == jnp.arange(self.num_categories)[:, None]
        return CategoricalStats(hot.astype(weights.dtype) @ weights)

    @property
    def edges(self) -> Edges:
        return Edges(0.0, self.num_categories - 1.0, whole=True)

    def within(self, params: CategoricalParams, x: Interval) -> Within:
        lower, upper = x
        each = jnp.arange(self.num_categories, dtype=params.probs.dtype)[:, None]
        there = (each >= lower[None]) & (each <= upper[None])
        chance = jnp.sum(jnp.where(there, params.probs[:, None], 0), 0)
        known = is_seen(lower, upper, *self.edges[:2])
        shares = jnp.where(there, params.probs[:, None], 0) / jnp.where(chance > 0, chance, 1)[None]
        points = jnp.broadcast_to(jnp.arange(self.num_categories)[:, None], shares.shape)
        return Within(points, shares, jnp.where(known, safe_log(chance), 0))

    def maximize(self, params: CategoricalParams, stats: CategoricalStats) -> CategoricalParams:
        return CategoricalParams(maximize_simplex(stats.counts, params.probs, self.concentration))

    def expected_log_prob(self, params: CategoricalParams, stats: CategoricalStats, old: CategoricalParams) -> Array:
        return jnp.sum(xlogy(stats.counts, params.probs))

    def init(self, key: Array, x: Array, weights: Array) -> CategoricalParams:
        counts = self.expect(CategoricalParams(weights), (), x, weights).counts + 1
        return CategoricalParams(counts / jnp.sum(counts))

    def sample(self, key: Array, params: CategoricalParams, num: int) -> tuple[tuple[()], Array]:
        return (), jax.random.categorical(key, jnp.log(params.probs), shape=(num,))

    def log_prior(self, params: CategoricalParams) -> Array:
        return log_dirichlet(params.probs, self.concentration)

    def recentre(self, stats: CategoricalStats, old: CategoricalParams, new: CategoricalParams) -> CategoricalStats:
        return stats

    def supports(self, params: CategoricalParams) -> CategoricalParams:
        return params._replace(probs=Simplex())

    def features(self, x: Array) -> Array:
        return (x.astype(jnp.int32)[None, :] == jnp.arange(self.num_categories)[:, None]).astype(float_dtype(x))

    def validate(self, x: Array) -> None:
        checks.check_vector(x, "Categorical")
        checks.check_integers(x, "Categorical", upper=self.num_categories)

"""Vectors of independent log-normal observations."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.data import Interval
from jem.families.centred import CentredPositive, CentredStats
from jem.kernels import intervals, support
from jem.kernels.intervals import Within
from jem.kernels.shapes import tightest
from jem.node import node


class LogNormalParams(NamedTuple):
    """Means (D,) and standard deviations (D,) of the logarithm."""

    loc: Array
    scale: Array


@node
class LogNormal(CentredPositive):
    """D independent numbers, `log x_d = loc_d + scale_d z_d` with z standard normal; x has rows (N, D) of numbers > 0.

    Scales are estimated from 1e-3 in float32 and 4e-8 in float64; rows that are all equal end there, and the fit as DEGENERATE.

    Params: `LogNormalParams(loc (D,), scale (D,))`.

    Raises:
        ValueError: at the door, x that is not (N, D), or a number that is not positive. Inside jit such a row has
            `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.LogNormal.Params(loc=jnp.array([0.0]), scale=jnp.array([1.0]))
        >>> round(float(jem.log_prob(jem.LogNormal(), p, jnp.array([[1.0]]))[0]), 3)
        -0.919

    Source: Crow and Shimizu (1988), Lognormal Distributions.
    """

    Params = LogNormalParams

    def about(self, params: LogNormalParams, x: Array) -> tuple[Array, Array]:
        z = (jnp.log(x) - params.loc) / params.scale
        return z, z * z

    def level(self, params: LogNormalParams, means: tuple[Array, ...]) -> Array:
        return -0.5 * means[1] - jnp.log(params.scale) - 0.5 * math.log(2 * math.pi)

    def moved(self, means: tuple[Array, ...], old: LogNormalParams, new: LogNormalParams) -> tuple[Array, Array]:
        ratio, step = old.scale / new.scale, (old.loc - new.loc) / new.scale
        first, second = means
        return ratio * first + step, ratio**2 * second + 2 * ratio * step * first + step**2

    def fit(self, old: LogNormalParams, means: tuple[Array, ...]) -> LogNormalParams:
        first, second = means
        scale = old.scale * jnp.sqrt(jnp.maximum(second - first**2, 0))
        return LogNormalParams(old.loc + old.scale * first, jnp.maximum(scale, _least(scale)))

    def start(self, x: Array, mean: Callable[[Array], Array]) -> LogNormalParams:
        loc = mean(jnp.log(x))
        return LogNormalParams(loc, jnp.ones_like(loc))

    def tightness(self, params: LogNormalParams) -> Array:
        return params.scale**-2

    def hold(self, params: LogNormalParams, stats: CentredStats, fields: tuple[str, ...]) -> CentredStats:
        # Of scales about a location held there is no first moment to remove.
        return stats._replace(sums=(jnp.zeros_like(stats.sums[0]), stats.sums[1])) if "loc" in fields else stats

    def within(self, params: LogNormalParams, x: Interval) -> Within:
        ends = intervals.ends_of(x, self.edges, 1, params.loc.dtype)
        found = intervals.normal(params.loc[:, None], 1 / params.scale[:, None], intervals.logarithm(ends))
        log_prob = jnp.where(ends.exact, self.cells(params, ends.value), found.log_prob)
        return Within(jnp.where(ends.exact, ends.value, jnp.exp(found.points)), found.shares, log_prob)

    def mean(self, params: LogNormalParams) -> Array:
        return jnp.exp(params.loc + 0.5 * params.scale**2)

    def sample(self, key: Array, params: LogNormalParams, num: int) -> tuple[tuple[()], Array]:
        z = jax.random.normal(key, (params.loc.shape[0], num), params.loc.dtype)
        return (), jnp.exp(params.loc[:, None] + params.scale[:, None] * z)

    def supports(self, params: LogNormalParams) -> LogNormalParams:
        most = math.log(jnp.finfo(params.scale.dtype).max)
        return params._replace(loc=support.Real(), scale=support.Interval(_least(params.scale), most))


def _least(scale: Array) -> float:
    return tightest(scale.dtype) ** -0.5

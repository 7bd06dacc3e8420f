"""Vectors of independent Weibull observations."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from jem.families.centred import CentredPositive, CentredStats
from jem.kernels.roots import falling_root
from jem.kernels.shapes import LEAST, log_ratio, tightest
from jem.kernels.support import Below, Positive
from jem.node import node

_LOW, _HIGH = 0.5, 2.0  # how far the concentration moves in one step, as a ratio


class WeibullParams(NamedTuple):
    """Scales (D,) and shapes (D,), > 0."""

    scale: Array
    concentration: Array


@node
class Weibull(CentredPositive):
    """D independent lifetimes, `p(x) = prod_d (c_d / scale_d) (x_d / scale_d)^(c_d - 1) exp(-(x_d / scale_d)^c_d)`.

    c is the concentration. x has rows (N, D) of numbers > 0. No finite number of sums gives the mean of `x^c` at every c: the
    M-step has a bound of it in its place. With `t = (x / scale)^c`, the mean of `t^r` is at most its Taylor series at r = 1 to
    second order and a cubic term that is large enough, as `t^r log(t)^2` is convex in r. So steps are those of Newton's method
    near the maximum, and none lowers the likelihood. Concentrations at most halve or double in a step. They are estimated from
    1e-4 to 1e3 in float32 and 2e7 in float64; rows that are all equal end there, and the fit as DEGENERATE.

    Params: `WeibullParams(scale (D,), concentration (D,))`.

    Raises:
        ValueError: at the door, x that is not (N, D), or a number that is not positive. Inside jit such a row has
            `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Weibull.Params(scale=jnp.array([1.0]), concentration=jnp.array([1.0]))
        >>> jem.log_prob(jem.Weibull(), p, jnp.array([[0.5], [2.0]])).tolist()
        [-0.5, -2.0]

    Source: Hunter and Lange (2004), The American Statistician 58, for bounds in an M-step.
    """

    Params = WeibullParams

    def about(self, params: WeibullParams, x: Array) -> tuple[Array, ...]:
        log = params.concentration * log_ratio(x, params.scale)
        # Far above, a density of exp(-t) is zero long before the square of t overflows.
        log = jnp.minimum(log, 0.4 * math.log(float(jnp.finfo(x.dtype).max)))
        t, square = jnp.exp(log), log * log
        return log, t, t * log, t * square, t**_LOW * square, t**_HIGH * square

    def level(self, params: WeibullParams, means: tuple[Array, ...]) -> Array:
        return jnp.log(params.concentration) + means[0] - means[1]

    def moved(self, means: tuple[Array, ...], old: WeibullParams, new: WeibullParams) -> tuple[Array, ...]:
        ratio = new.concentration / old.concentration
        shift = -new.concentration * log_ratio(new.scale, old.scale)
        return ratio * means[0] + shift, jnp.exp(shift) * _power(ratio, means)[0], *means[2:]

    def fit(self, old: WeibullParams, means: tuple[Array, ...]) -> WeibullParams:
        def slope(r: Array, *means: Array) -> Array:
            value, slope = _power(r, means)
            return 1 / r + means[0] - slope / jnp.where(value > 0, value, 1)

        here = slope(jnp.ones_like(means[0]), *means)
        low, high = jnp.where(here > 0, 1, _LOW), jnp.where(here > 0, _HIGH, 1)
        ratio = falling_root(slope, low, high, *means)
        concentration = jnp.clip(old.concentration * ratio, LEAST, _most(ratio))
        value = _power(concentration / old.concentration, means)[0]
        return WeibullParams(old.scale * jnp.exp(jnp.log(value) / concentration), concentration)

    def start(self, x: Array, mean: Callable[[Array], Array]) -> WeibullParams:
        log = jnp.log(x)
        loc = mean(log)
        deviation = jnp.sqrt(mean((log - loc[:, None]) ** 2))
        c = jnp.clip(math.pi / math.sqrt(6) / jnp.maximum(deviation, 1 / _most(loc)), LEAST, _most(loc))
        return WeibullParams(jnp.exp(loc + 0.5772 / c), c)

    def tightness(self, params: WeibullParams) -> Array:
        return params.concentration**2

    def recentre(self, stats: CentredStats, old: WeibullParams, new: WeibullParams) -> CentredStats:
        raise TypeError("Weibull does not define recentre(stats, old, new): its sums bound Q and cannot be added across steps")

    def hold(self, params: WeibullParams, stats: CentredStats, fields: tuple[str, ...]) -> CentredStats:
        if fields != ("concentration",):
            return super().hold(params, stats, fields)
        # The mean logarithm at which the concentration held is the maximum: what is left is the scale.
        log = stats.count * (stats.sums[2] / jnp.where(stats.sums[1] > 0, stats.sums[1], 1) - 1)
        return stats._replace(sums=(log, *stats.sums[1:]))

    def mean(self, params: WeibullParams) -> Array:
        return params.scale * jnp.exp(gammaln(1 + 1 / params.concentration))

    def sample(self, key: Array, params: WeibullParams, num: int) -> tuple[tuple[()], Array]:
        scale, c = (p[:, None] for p in params)
        t = jax.random.exponential(key, (scale.shape[0], num), scale.dtype)
        return (), scale * jnp.maximum(t, jnp.finfo(t.dtype).tiny) ** (1 / c)

    def supports(self, params: WeibullParams) -> WeibullParams:
        return params._replace(scale=Positive(), concentration=Below(_most(params.concentration)))


def _most(like: Array) -> float:
    return tightest(like.dtype) ** 0.5


def _power(r: Array, means: tuple[Array, ...]) -> tuple[Array, Array]:
    """The bound of `E[t^r]` and its derivative in r."""
    _, value, slope, curvature, low, high = means
    step = r - 1
    third = jnp.where(step > 0, (high - curvature) / (_HIGH - 1), (curvature - low) / (1 - _LOW))
    return (
        value + step * (slope + step * (curvature / 2 + step * third / 6)),
        slope + step * (curvature + step * third / 2),
    )

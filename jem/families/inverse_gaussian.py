"""Vectors of independent inverse Gaussian observations."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.families.centred import CentredPositive, CentredStats
from jem.kernels.shapes import tightest
from jem.kernels.support import Positive
from jem.node import node


class InverseGaussianParams(NamedTuple):
    """Means (D,) and concentrations (D,), > 0: the variance is `loc^3 / concentration`."""

    loc: Array
    concentration: Array


@node
class InverseGaussian(CentredPositive):
    """D independent passage times, `p(x) = prod_d sqrt(c_d / (2 pi x_d^3)) exp(-c_d (x_d - loc_d)^2 / (2 loc_d^2 x_d))`.

    c is the concentration. x has rows (N, D) of numbers > 0. The variance over the squared mean is at least 1e-6 in float32 and
    2e-15 in float64; rows that are all equal end there, and the fit as DEGENERATE.

    Params: `InverseGaussianParams(loc (D,), concentration (D,))`.

    Raises:
        ValueError: at the door, x that is not (N, D), or a number that is not positive. Inside jit such a row has
            `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.InverseGaussian.Params(loc=jnp.array([1.0]), concentration=jnp.array([1.0]))
        >>> round(float(jem.log_prob(jem.InverseGaussian(), p, jnp.array([[1.0]]))[0]), 3)
        -0.919

    Source: Tweedie (1957), Annals of Mathematical Statistics 28.
    """

    Params = InverseGaussianParams

    def about(self, params: InverseGaussianParams, x: Array) -> tuple[Array, Array]:
        away = (x - params.loc) / params.loc
        return away, away * ((x - params.loc) / x)

    def level(self, params: InverseGaussianParams, means: tuple[Array, ...]) -> Array:
        loc, c = params
        return 0.5 * jnp.log(c) - 0.5 * (c / loc) * means[1]

    def moved(self, means: tuple[Array, ...], old: InverseGaussianParams, new: InverseGaussianParams) -> tuple[Array, Array]:
        away, square = means
        step = (new.loc - old.loc) / old.loc
        there = (away - step) / (1 + step)
        return there, (1 + step) * square - step * (there + away)

    def fit(self, old: InverseGaussianParams, means: tuple[Array, ...]) -> InverseGaussianParams:
        away, square = means
        loc = old.loc * (1 + away)
        square = (1 + away) * square - away * away
        return InverseGaussianParams(loc, loc / jnp.maximum(square, 1 / tightest(loc.dtype)))

    def start(self, x: Array, mean: Callable[[Array], Array]) -> InverseGaussianParams:
        loc = mean(x)
        return InverseGaussianParams(loc, loc)

    def carrier(self, x: Array) -> Array:
        return -0.5 * math.log(2 * math.pi) - 1.5 * jnp.log(x)

    def tightness(self, params: InverseGaussianParams) -> Array:
        return params.concentration / params.loc

    def hold(self, params: InverseGaussianParams, stats: CentredStats, fields: tuple[str, ...]) -> CentredStats:
        # Of deviations about a mean held there is no first moment to remove; the mean's own place depends on nothing.
        return stats._replace(sums=(jnp.zeros_like(stats.sums[0]), stats.sums[1])) if "loc" in fields else stats

    def mean(self, params: InverseGaussianParams) -> Array:
        return params.loc

    def sample(self, key: Array, params: InverseGaussianParams, num: int) -> tuple[tuple[()], Array]:
        normal, uniform = jax.random.split(key)
        loc, c = (p[:, None] for p in params)
        y = jax.random.normal(normal, (loc.shape[0], num), loc.dtype) ** 2 * loc / (2 * c)
        # The smaller root over the mean, 1 + y - sqrt(2 y + y^2), without its cancellation.
        low = 1 / (1 + y + jnp.sqrt(y * (2 + y)))
        u = jax.random.uniform(uniform, low.shape, low.dtype)
        return (), loc * jnp.where(u * (1 + low) <= 1, low, 1 / low)

    def supports(self, params: InverseGaussianParams) -> InverseGaussianParams:
        return params._replace(loc=Positive(), concentration=Positive())

"""Vectors of independent gamma observations."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.families.centred import CentredPositive, CentredStats
from jem.kernels.gaussian import digamma_gap, log_gamma_gap
from jem.kernels.shapes import gamma_shape, log_gap, moved_gap, tightest
from jem.kernels.support import Below, Positive
from jem.node import node


class GammaParams(NamedTuple):
    """Shapes (D,) and rates (D,), > 0."""

    concentration: Array
    rate: Array


@node
class Gamma(CentredPositive):
    """D independent numbers > 0, `p(x) = prod_d rate_d^c_d x_d^(c_d - 1) exp(-rate_d x_d) / Gamma(c_d)`; x has rows (N, D).

    c is the concentration. It is estimated from 1e-4 to 1e6 in float32 and 6e14 in float64; rows that are all equal end there,
    and the fit as DEGENERATE. `jem.Frozen(jem.Gamma(), concentration=[2.0])` is an Erlang distribution.

    Params: `GammaParams(concentration (D,), rate (D,))`.

    Raises:
        ValueError: at the door, x that is not (N, D), or a number that is not positive. Inside jit such a row has
            `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Gamma.Params(concentration=jnp.array([1.0]), rate=jnp.array([1.0]))
        >>> jem.log_prob(jem.Gamma(), p, jnp.array([[0.5], [2.0]])).tolist()
        [-0.5, -2.0]

    Source: Choi and Wette (1969), Technometrics 11.
    """

    Params = GammaParams

    def about(self, params: GammaParams, x: Array) -> tuple[Array, Array]:
        mean = params.concentration / params.rate
        return (x - mean) / mean, log_gap(x, mean)

    def level(self, params: GammaParams, means: tuple[Array, ...]) -> Array:
        return params.concentration * means[1] + log_gamma_gap(params.concentration)

    def moved(self, means: tuple[Array, ...], old: GammaParams, new: GammaParams) -> tuple[Array, Array]:
        return moved_gap(means[0], means[1], old.concentration / old.rate, new.concentration / new.rate)

    def fit(self, old: GammaParams, means: tuple[Array, ...]) -> GammaParams:
        mean = old.concentration / old.rate
        new = mean * (1 + means[0])
        concentration = gamma_shape(moved_gap(means[0], means[1], mean, new)[1])
        return GammaParams(concentration, concentration / new)

    def start(self, x: Array, mean: Callable[[Array], Array]) -> GammaParams:
        rate = 1 / mean(x)
        return GammaParams(jnp.ones_like(rate), rate)

    def tightness(self, params: GammaParams) -> Array:
        return params.concentration

    def hold(self, params: GammaParams, stats: CentredStats, fields: tuple[str, ...]) -> CentredStats:
        if fields != ("concentration",):
            return super().hold(params, stats, fields)
        # The gap of which the shape held is the maximum: what is left is the mean.
        away = stats.sums[0] / jnp.where(stats.count > 0, stats.count, 1)
        gap = jnp.log1p(away) - away - digamma_gap(params.concentration)
        return stats._replace(sums=(stats.sums[0], stats.count * gap))

    def mean(self, params: GammaParams) -> Array:
        return params.concentration / params.rate

    def sample(self, key: Array, params: GammaParams, num: int) -> tuple[tuple[()], Array]:
        c, rate = (p[:, None] for p in params)
        return (), sample_gamma(key, c, num) / rate

    def supports(self, params: GammaParams) -> GammaParams:
        return params._replace(concentration=Below(tightest(params.concentration.dtype)), rate=Positive())


def sample_gamma(key: Array, concentration: Array, num: int) -> Array:
    """Draws (D, N) of rate 1, for shapes (D, 1); none of them 0, however small the shape."""
    shape = (concentration.shape[0], num)
    log = jax.random.loggamma(key, jnp.broadcast_to(concentration, shape), shape, concentration.dtype)
    return jnp.exp(jnp.maximum(log, jnp.log(jnp.finfo(concentration.dtype).tiny)))

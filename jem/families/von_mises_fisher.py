"""Unit vectors."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.families.centred import Centred, CentredStats
from jem.kernels.bessel import log_bessel
from jem.kernels.directions import concentration_of, sample_fall
from jem.kernels.shapes import tightest
from jem.kernels.support import Below, Sphere
from jem.node import node

_OFF = 1e-4  # by how much a length may miss one


class VonMisesFisherParams(NamedTuple):
    """Mean direction (D,), of length one, and concentration (), >= 0."""

    mean_direction: Array
    concentration: Array


@node
class VonMisesFisher(Centred):
    """A unit vector, `p(x) = c^h exp(c mean_direction . x) / ((2 pi)^(h + 1) I_h(c))`, h = D / 2 - 1; x has rows (N, D).

    c is the concentration, 0 for the uniform distribution, I_h the modified Bessel function, D at least 2. c is estimated from
    1e-6 to 1e6 in float32 and 6e14 in float64; rows that are all equal end there, and the fit as DEGENERATE.

    Params: `VonMisesFisherParams(mean_direction (D,), concentration ())`.

    Raises:
        ValueError: at the door, x that is not (N, D) with D >= 2, or a row of another length than one. Inside jit such a row
            has `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.VonMisesFisher.Params(mean_direction=jnp.array([0.0, 0.0, 1.0]), concentration=jnp.zeros(()))
        >>> round(float(jem.log_prob(jem.VonMisesFisher(), p, jnp.array([[0.0, 0.6, 0.8]]))[0]), 3)
        -2.531

    Source: Banerjee, Dhillon, Ghosh and Sra (2005), Journal of Machine Learning Research 6.
    """

    Params = VonMisesFisherParams

    @property
    def traits(self) -> frozenset[str]:
        return frozenset()

    def about(self, params: VonMisesFisherParams, x: Array) -> tuple[Array, Array]:
        away = x - params.mean_direction
        return away, 0.5 * jnp.sum(away * away, 0, keepdims=True)

    def level(self, params: VonMisesFisherParams, means: tuple[Array, ...]) -> Array:
        c, half = params.concentration, 0.5 * len(means[0])
        return -c * means[1] - log_bessel(half - 1, c) - half * math.log(2 * math.pi)

    def moved(self, means: tuple[Array, ...], old: VonMisesFisherParams, new: VonMisesFisherParams) -> tuple[Array, Array]:
        away, fall = means
        step = new.mean_direction - old.mean_direction
        return away - step, fall + jnp.sum(step * (0.5 * step - away), 0, keepdims=True)

    def fit(self, old: VonMisesFisherParams, means: tuple[Array, ...]) -> VonMisesFisherParams:
        away, fall = means
        mean = old.mean_direction + away
        length = jnp.sqrt(jnp.sum(mean * mean))
        short = (2 * fall[0] - jnp.sum(away * away)) / (1 + length)  # one less the mean resultant length
        direction = jnp.where(length > 0, mean / jnp.where(length > 0, length, 1), old.mean_direction)
        return VonMisesFisherParams(direction, concentration_of(len(mean), short))

    def start(self, x: Array, mean: Callable[[Array], Array]) -> VonMisesFisherParams:
        centre = mean(x)
        away = jnp.where(jnp.arange(len(x)) == 0, centre + jnp.finfo(x.dtype).eps, centre)
        return VonMisesFisherParams(away / jnp.sqrt(jnp.sum(away * away)), jnp.ones((), x.dtype))

    def possible(self, x: Array) -> Array:
        return ~_not_unit(x, 0)

    def tightness(self, params: VonMisesFisherParams) -> Array:
        return params.concentration

    def carrier(self, x: Array) -> Array:
        return jnp.zeros_like(x[:1])

    def hold(self, params: VonMisesFisherParams, stats: CentredStats, fields: tuple[str, ...]) -> CentredStats:
        if "mean_direction" not in fields:
            return stats
        # About a direction held the resultant has no part across it.
        along = -stats.sums[1] * params.mean_direction
        return stats._replace(sums=(along, stats.sums[1]))

    def sample(self, key: Array, params: VonMisesFisherParams, num: int) -> tuple[tuple[()], Array]:
        fall_key, side_key = jax.random.split(key)
        mean = params.mean_direction[:, None]
        fall = sample_fall(fall_key, len(mean), jnp.full(num, params.concentration))[None]
        side = jax.random.normal(side_key, (len(mean), num), mean.dtype)
        side = side - mean * jnp.sum(mean * side, 0, keepdims=True)
        side = side / jnp.sqrt(jnp.sum(side * side, 0, keepdims=True))
        return (), mean * (1 - fall) + side * jnp.sqrt(fall * (2 - fall))

    def supports(self, params: VonMisesFisherParams) -> VonMisesFisherParams:
        return params._replace(mean_direction=Sphere(), concentration=Below(tightest(params.concentration.dtype)))

    def gauge(self, params: VonMisesFisherParams) -> dict[str, int]:
        return {"mean_direction": 1}  # the length of its free coordinates

    def validate(self, x: Any) -> None:
        super().validate(x)
        if x.shape[1] < 2:
            raise ValueError(f"VonMisesFisher: x must have rows (N, D) of at least two columns; got shape {x.shape}")
        checks.check_values(x, "VonMisesFisher", _not_unit, "rows of length one, x / norm(x)")


def _not_unit(x: Array, axis: int = -1) -> Array:
    return jnp.abs(jnp.sqrt(jnp.sum(x * x, axis, keepdims=True)) - 1) > _OFF

"""Vectors of independent angles."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.data import float_dtype
from jem.families.centred import Centred, CentredStats
from jem.kernels.bessel import log_bessel
from jem.kernels.directions import concentration_of, sample_fall
from jem.kernels.shapes import tightest
from jem.kernels.support import Below, Real
from jem.node import node


class VonMisesParams(NamedTuple):
    """Mean directions (D,) in radians, from -pi to pi, and concentrations (D,), >= 0."""

    loc: Array
    concentration: Array


@node
class VonMises(Centred):
    """D independent angles, `p(x) = prod_d exp(c_d cos(x_d - loc_d)) / (2 pi I_0(c_d))`; x has rows (N, D) of radians.

    c is the concentration, 0 for the uniform distribution, I_0 the modified Bessel function. It is estimated from 1e-6 to 1e6
    in float32 and 6e14 in float64; rows that are all equal end there, and the fit as DEGENERATE.

    Params: `VonMisesParams(loc (D,), concentration (D,))`.

    Raises:
        ValueError: at the door, x that is not (N, D).

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.VonMises.Params(loc=jnp.array([0.0]), concentration=jnp.array([0.0]))
        >>> round(float(jem.log_prob(jem.VonMises(), p, jnp.array([[1.0]]))[0]), 3)
        -1.838

    Source: Mardia and Jupp (2000), Directional Statistics, sections 3.5 and 5.3.
    """

    Params = VonMisesParams

    def about(self, params: VonMisesParams, x: Array) -> tuple[Array, Array]:
        angle = x - params.loc
        return -2 * jnp.sin(0.5 * angle) ** 2, jnp.sin(angle)

    def level(self, params: VonMisesParams, means: tuple[Array, ...]) -> Array:
        c = params.concentration
        return c * means[0] - log_bessel(0.0, c) - math.log(2 * math.pi)

    def moved(self, means: tuple[Array, ...], old: VonMisesParams, new: VonMisesParams) -> tuple[Array, Array]:
        fall, sine = means
        step = new.loc - old.loc
        s, c = jnp.sin(step), jnp.cos(step)
        return fall * c + sine * s - 2 * jnp.sin(0.5 * step) ** 2, sine * c - (1 + fall) * s

    def fit(self, old: VonMisesParams, means: tuple[Array, ...]) -> VonMisesParams:
        fall, sine = means
        loc = old.loc + jnp.arctan2(sine, 1 + fall)
        short = -(fall * (2 + fall) + sine**2) / (1 + jnp.hypot(1 + fall, sine))  # one less the mean resultant length
        return VonMisesParams(_wrapped(loc), concentration_of(2, short))

    def start(self, x: Array, mean: Callable[[Array], Array]) -> VonMisesParams:
        loc = jnp.arctan2(mean(jnp.sin(x)), mean(jnp.cos(x)))
        return VonMisesParams(loc, jnp.ones_like(loc))

    def tightness(self, params: VonMisesParams) -> Array:
        return params.concentration

    def hold(self, params: VonMisesParams, stats: CentredStats, fields: tuple[str, ...]) -> CentredStats:
        # About a direction held the resultant has no part across it.
        return stats._replace(sums=(stats.sums[0], jnp.zeros_like(stats.sums[1]))) if "loc" in fields else stats

    def sample(self, key: Array, params: VonMisesParams, num: int) -> tuple[tuple[()], Array]:
        fall, side = jax.random.split(key)
        shape = (params.loc.shape[0], num)
        half = jnp.arcsin(jnp.sqrt(0.5 * sample_fall(fall, 2, jnp.broadcast_to(params.concentration[:, None], shape))))
        return (), _wrapped(params.loc[:, None] + 2 * jax.random.rademacher(side, shape, half.dtype) * half)

    def supports(self, params: VonMisesParams) -> VonMisesParams:
        return params._replace(loc=Real(), concentration=Below(tightest(params.concentration.dtype)))

    def features(self, x: Array) -> Array:
        x = x.astype(float_dtype(x))
        return jnp.concatenate([jnp.cos(x), jnp.sin(x)])


def _wrapped(angle: Array) -> Array:
    """The same angle from -pi to pi."""
    return angle - 2 * jnp.pi * jnp.round(angle / (2 * jnp.pi))

"""Densities of counts that do not cancel: a count of a million has a density of e^-8, not the difference of two e^(10^7)."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln

from jem.kernels.simplex import xlogy

LARGE = 256  # below, the natural form of a density loses at most 2e-4 in float32
_LOG_FACTORIALS = np.array([math.lgamma(x + 1) for x in range(LARGE)])
_STIRLING = 16  # from which on Stirling's series is exact


def is_count(x: Array) -> Array:
    """Which numbers are whole and at least 0."""
    return (x >= 0) & (x == jnp.floor(x)) & jnp.isfinite(x)


def log_factorial(x: Array) -> Array:
    """`log x!` of counts below 256, looked up: the gamma function would take longer than all else of a density."""
    return jnp.take(jnp.asarray(_LOG_FACTORIALS, x.dtype), x.astype(jnp.int32), mode="clip")


def poisson_log_prob(x: Array, rate: Array) -> Array:
    """`x log rate - rate - log x!` of counts x >= 0 and rates >= 0, elementwise, of shapes that broadcast.

    As `-(x log(x / rate) + rate - x) - log(2 pi x) / 2 - s(x)`, the deviance and Stirling's formula, which are small where the
    density is large. Minus infinity where the rate is 0 and the count is not.

    Source: Loader (2000), Fast and accurate computation of binomial probabilities.
    """
    few, many = jnp.minimum(x, _STIRLING), jnp.maximum(x, _STIRLING)
    y = 1 / (many * many)
    series = (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188)))) / many
    stirling = xlogy_ratio(many, rate, many) - (rate - many) - (0.5 * jnp.log(2 * jnp.pi * many) + series)
    return jnp.where(x < _STIRLING, xlogy(few, rate) - rate - gammaln(few + 1), stirling)


def xlogy_ratio(x: Array, rate: Array, base: Array) -> Array:
    """`x log(rate / base)`, exact where these are nearly equal; 0 where x is 0, minus infinity where only the rate is."""
    none = (rate == 0) | (base == 0)
    near = (rate > 0.5 * base) & (rate < 2 * base)
    safe_rate, safe_base = jnp.where(none, 1, rate), jnp.where(none, 1, base)
    log = jnp.where(near, jnp.log1p(jnp.where(near, (rate - base) / safe_base, 0)), jnp.log(safe_rate) - jnp.log(safe_base))
    return jnp.where(none, xlogy(x, rate), x * log)

"""Densities of counts that do not cancel: a count of a million has a density of e^-8, not the difference of two e^(10^7)."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import digamma, gammaln

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
    small = x < _STIRLING  # a choice, not a minimum, whose derivative in x would be half of it at the seam
    few, many = jnp.where(small, x, _STIRLING), jnp.where(small, _STIRLING, x)
    y = 1 / (many * many)
    series = (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188)))) / many
    stirling = xlogy_ratio(many, rate, many) - (rate - many) - (0.5 * jnp.log(2 * jnp.pi * many) + series)
    return jnp.where(small, xlogy(few, rate) - rate - gammaln(few + 1), stirling)


def xlogy_ratio(x: Array, rate: Array, base: Array) -> Array:
    """`x log(rate / base)`, exact where these are nearly equal; 0 where x is 0, minus infinity where only the rate is."""
    none = (rate == 0) | (base == 0)
    near = (rate > 0.5 * base) & (rate < 2 * base)
    safe_rate, safe_base = jnp.where(none, 1, rate), jnp.where(none, 1, base)
    log = jnp.where(near, jnp.log1p(jnp.where(near, (rate - base) / safe_base, 0)), jnp.log(safe_rate) - jnp.log(safe_base))
    return jnp.where(none, xlogy(x, rate), x * log)


def xlog1m_ratio(x: Array, p: Array, base: Array) -> Array:
    """`x log((1 - p) / (1 - base))` of probabilities, as `xlogy_ratio`: nothing is lost where they are small either."""
    none = (p == 1) | (base == 1)
    safe_p, safe_base = jnp.where(none, 0.5, p), jnp.where(none, 0.5, base)
    more = (safe_base - safe_p) / (1 - safe_base)
    near = jnp.abs(more) < 0.5
    log = jnp.where(near, jnp.log1p(jnp.where(near, more, 0)), jnp.log1p(-safe_p) - jnp.log1p(-safe_base))
    return jnp.where(none, xlogy(x, 1 - p), x * log)


def binomial_log_prob(x: Array, num: Array, p: Array) -> Array:
    """`log C(num, x) + x log p + (num - x) log(1 - p)` of counts 0 .. num: of two Poisson counts, given their sum."""
    return poisson_log_prob(x, num * p) + poisson_log_prob(num - x, num * (1 - p)) - poisson_log_prob(num, num)


def negative_binomial_log_prob(x: Array, mean: Array, size: Array) -> Array:
    """`log Gamma(x + size) / (Gamma(size) x!) + size log(size / (size + mean)) + x log(mean / (size + mean))`.

    As a binomial density of `size` out of `size + x`, so that nothing cancels at large counts, means or sizes.

    Source: Loader (2000), Fast and accurate computation of binomial probabilities.
    """
    none = size == 0  # all mass at 0
    size = jnp.where(none, 1, size)
    total, whole = size + x, size + mean
    # At once: the density is long, and so is its compilation.
    counts = jnp.broadcast_arrays(size, x, total)
    rates = jnp.broadcast_arrays(total * (size / whole), total * (mean / whole), total)
    failures, successes, both = poisson_log_prob(jnp.stack(counts), jnp.stack(rates))
    cells = failures + successes - both - jnp.log1p(x / size)
    return jnp.where(none, jnp.where(x == 0, 0, -jnp.inf), cells)


def tables(x: Array, size: Array) -> tuple[Array, Array]:
    """`sum_{j < x} size / (size + j)` and the rest of x, `sum_{j < x} j / (size + j)`, neither of which cancels.

    The number of groups that x counts are expected in where each new one starts a group with odds `size` to those before it: of
    the hidden number whose Poisson law makes x negative binomial. `size (digamma(x + size) - digamma(size))`.

    Source: Antoniak (1974), Annals of Statistics 2; Zhou and Carin (2015), IEEE Trans. PAMI 37.
    """
    size = jnp.where(size == 0, 1, size)  # nothing is counted there
    large = size > _STIRLING
    small, big = jnp.where(large, 1, size), jnp.where(large, size, _STIRLING)
    few = small * (digamma(x + small) - digamma(small))
    p, q = 1 / big, 1 / (x + big)
    # Of digamma(z) - log z, from its series in 1 / z.
    rest = x * q * _differences((1 / 2, 1 / 12, 0, -1 / 120, 0, 1 / 252, 0, -1 / 240, 0, 1 / 132), p, q)
    log = big * jnp.log1p(x * p)
    return jnp.where(large, log + rest, few), jnp.where(large, big * log1p_gap(x * p) - rest, x - few)


def log_rising(x: Array, size: Array) -> Array:
    """`sum_{j < x} log(1 + j / size)`, which is `log Gamma(x + size) - log Gamma(size) - x log size`, of size > 0."""
    large = size > _STIRLING
    small, big = jnp.where(large, 1, size), jnp.where(large, size, _STIRLING)
    p, q = 1 / big, 1 / (x + big)
    y = x * p
    higher = _differences((1 / 12, 0, -1 / 360, 0, 1 / 1260, 0, -1 / 1680, 0, 1 / 1188), p, q)
    log = jnp.log1p(y)
    many = big * (y * log - log1p_gap(y)) - 0.5 * log - y * q * higher
    return jnp.where(large, many, gammaln(x + small) - gammaln(small) - x * jnp.log(small))


def _differences(coefficients: tuple[float, ...], p: Array, q: Array) -> Array:
    """`sum_m c_m (p^m - q^m) / (p - q)` for m = 1, 2, .., which does not cancel."""
    total, term, power = jnp.zeros_like(p), jnp.ones_like(p), jnp.ones_like(q)
    for c in coefficients:
        total = total + c * term
        power = power * q
        term = p * term + power
    return total


def log1p_gap(y: Array) -> Array:
    """`y - log(1 + y)` of y >= 0, which cancels where y is small."""
    near = y < 0.3
    small = jnp.where(near, y, 0)
    t = small / (2 + small)  # log(1 + y) = 2 atanh t
    s = t * t
    series = jnp.zeros_like(s)
    for k in range(21, 1, -2):
        series = 1 / k + s * series
    return jnp.where(near, small * t - 2 * t * s * series, jnp.where(near, 0, y) - jnp.log1p(y))

"""What densities with a shape are made of, to full precision also where they are narrow and the textbook's terms cancel."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jem.kernels.gaussian import digamma_gap
from jem.kernels.roots import falling_root

LEAST = 1e-4  # of shapes that are estimated
_NEAR = 0.1
_INNER = 4  # Newton steps from Minka's start, which is good to a percent


def tightest(dtype: Any) -> float:
    """The largest shape that is estimated, 1e6 in float32 and 6e14 in float64: beyond, rounding of the parameters tells."""
    return 0.125 / float(jnp.finfo(dtype).eps)


def log_gap(value: Array, base: Array) -> Array:
    """`log(u) - (u - 1)` of u = value / base, both > 0: never above 0, and exact where u is near 1.

    Source: Loader (2000), Fast and accurate computation of binomial probabilities, for the series.
    """
    away = (value - base) / base
    near = jnp.abs(away) < _NEAR
    e = jnp.where(near, away, 0)
    s = e / (2 + e)
    y = s * s
    series = -s * e + 2 * s * y * (1 / 3 + y * (1 / 5 + y * (1 / 7 + y * (1 / 9 + y * (1 / 11 + y / 13)))))
    ratio = jnp.where(near, 1, value / base)
    return jnp.where(near, series, jnp.log(jnp.maximum(ratio, jnp.finfo(ratio.dtype).tiny)) - away)


def log_ratio(value: Array, base: Array) -> Array:
    """`log(value / base)`, both > 0, exact where they are nearly equal."""
    away = (value - base) / base
    near = jnp.abs(away) < 0.5
    ratio = jnp.where(near, 1, value / base)
    return jnp.where(near, jnp.log1p(jnp.where(near, away, 0)), jnp.log(jnp.maximum(ratio, jnp.finfo(ratio.dtype).tiny)))


def moved_gap(away: Array, gap: Array, old: Array, new: Array) -> tuple[Array, Array]:
    """Means of `u - 1` and of `log(u) - (u - 1)` for u = x / new, from those for x / old."""
    step = (new - old) / old
    there = (away - step) / (1 + step)
    return there, gap + step * there - log_gap(new, old)


def _slope(a: Array) -> Array:
    """`a trigamma(a)`, the derivative of digamma in log a."""
    b = a + 6
    y = 1 / (b * b)
    far = 1 / b + y / 2 + y / b * (1 / 6 - y * (1 / 30 - y * (1 / 42 - y * (1 / 30 - y * 5 / 66))))
    return a * (far + sum(1 / (a + j) ** 2 for j in range(1, 6))) + 1 / a


def gamma_shape(gap: Array) -> Array:
    """The shape of a gamma distribution whose u = x / E[x] has this mean of `log(u) - (u - 1)`, at most 0.

    Source: Choi and Wette (1969), Technometrics 11.
    """
    low, high = jnp.log(LEAST), jnp.log(tightest(gap.dtype))
    return jnp.exp(falling_root(lambda z, gap: digamma_gap(jnp.exp(z)) + gap, low, high, gap))


def dirichlet_shape(base: Array, away: Array, gap: Array) -> Array:
    """The Dirichlet parameters a (K, ...) with `E[log x_k] = log base_k + away_k + gap_k`.

    At a total c each is `a_k = c base_k exp(rho_k)`, with `digamma(a_k) - digamma(c)` as it must be; the right c is the one to
    which they sum. As a maximum it is the only one.

    Args:
        base: (K, ...) proportions to which the other two refer.
        away: (K, ...) means of `x / base - 1`.
        gap: (K, ...) means of `log(x / base) - (x / base - 1)`.

    Source: Minka (2000), Estimating a Dirichlet distribution.
    """
    low, high = jnp.log(base.shape[0] * LEAST), jnp.log(tightest(gap.dtype))

    def exponents(z: Array, base: Array, away: Array, gap: Array) -> Array:
        z = z[None]
        c = jnp.exp(z)
        want = away + gap - digamma_gap(c)
        y = want + jnp.log(base) + z  # digamma(a)
        few = y < -2.22
        start = jnp.where(few, -1 / jnp.where(few, y + 0.5772, -1), jnp.exp(jnp.where(few, 0, y)) + 0.5)

        def newton(_: int, rho: Array) -> Array:
            a = c * base * jnp.exp(rho)
            return rho + (want + digamma_gap(a) - rho) / _slope(a)

        return lax.fori_loop(0, _INNER, newton, jnp.log(start) - jnp.log(base) - z)

    def excess(z: Array, base: Array, away: Array, gap: Array) -> Array:
        return jnp.sum(base * (jnp.expm1(exponents(z, base, away, gap)) - away), 0)

    like = jnp.sum(lax.stop_gradient(gap), 0)  # of the shape of the totals
    z = falling_root(lambda z, _, *args: excess(z, *args), low, high, like, base, away, gap)
    return jnp.exp(z)[None] * base * jnp.exp(exponents(z, base, away, gap))

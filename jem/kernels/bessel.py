"""Modified Bessel functions of the first kind, of any order and argument, without overflow or cancellation.

From Debye's expansion at an order high enough to be exact, down to the order that is asked for by the recurrence of the ratios.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.polynomial import Polynomial

_HIGH = {4: 6, 8: 24}  # by the bytes of a number: from which order on Debye's expansion is exact to rounding
_TERMS = {4: 4, 8: 12}


@functools.cache
def _debye() -> tuple[np.ndarray, ...]:
    """Coefficients of Debye's polynomials U_1, U_2, ..."""
    p, u, found = Polynomial([0, 1]), Polynomial([1]), []
    for _ in range(max(_TERMS.values())):
        u = 0.5 * p**2 * (1 - p**2) * u.deriv() + 0.125 * ((1 - 5 * p**2) * u).integ()
        found.append(u.coef)
    return tuple(found)


def _log_series(n: float, kappa: Array) -> Array:
    """The logarithm of `1 + U_1(p) / n + U_2(p) / n^2 + ...` at `p = n / sqrt(n^2 + kappa^2)`."""
    p = n / jnp.hypot(n, kappa)
    terms = _debye()[: _TERMS[kappa.dtype.itemsize]]
    return jnp.log1p(sum(jnp.polyval(jnp.asarray(c[::-1], p.dtype), p) / n**k for k, c in enumerate(terms, 1)))


def _down(order: float, kappa: Array) -> tuple[float, Array, Array]:
    """The order n at which Debye's expansion is used; gaps at the orders n, n - 1, ..., order + 1; and that at the order."""
    n = order + max(0, math.ceil(_HIGH[kappa.dtype.itemsize] - order))
    s = jnp.hypot(n, kappa)
    slope = jax.jvp(lambda k: _log_series(n, k), (kappa,), (jnp.ones_like(kappa),))[1]
    top = n * (1 + kappa / (s + n)) / (s + kappa) + 0.5 * kappa / (s * s) - slope

    def step(gap: Array, twice: Array) -> tuple[Array, Array]:
        return (twice - kappa * gap) / (twice + kappa * (1 - gap)), gap

    gap, above = lax.scan(step, top, 2 * jnp.arange(n, order, -1, dtype=kappa.dtype))
    return n, above, gap


def bessel_gap(order: float, kappa: Array) -> Array:
    """`1 - I_(order + 1)(kappa) / I_order(kappa)`, which falls from 1 at 0 as `(order + 1/2) / kappa`.

    Args:
        order: at least 0.
        kappa: at least 0.

    Source: Amos (1974), Mathematics of Computation 28, for the recurrence.
    """
    return _down(order, kappa)[2]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_bessel(order: float, kappa: Array) -> Array:
    """`log(I_order(kappa) / kappa^order) - kappa`, which is finite at 0.

    Source: Olver (1974), Asymptotics and Special Functions, chapter 10, section 7.
    """
    n, above, _ = _down(order, kappa)
    s = jnp.hypot(n, kappa)
    same = n * n / (s + kappa) - 0.5 * jnp.log(2 * jnp.pi * s) + _log_series(n, kappa)
    # Ratios of neighbours over kappa, from the recurrence: their product is what is finite at 0.
    twice = 2 * jnp.arange(n, order, -1, dtype=kappa.dtype).reshape((-1,) + (1,) * kappa.ndim)
    small = same - n * jnp.log(n + s) + jnp.sum(jnp.log(twice + kappa[None] * (1 - above)), 0)
    # The ratios themselves, which are near 1 where kappa is large.
    far = kappa > 1
    k = jnp.where(far, kappa, 1)
    large = same - n * jnp.arcsinh(n / k) + jnp.sum(jnp.log1p(twice / k[None] - above), 0) - order * jnp.log(k)
    return jnp.where(far, large, small)


@log_bessel.defjvp
def _log_bessel_jvp(order: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return log_bessel(order, *primals), -bessel_gap(order, *primals) * tangents[0]

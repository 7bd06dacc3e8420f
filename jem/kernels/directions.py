"""Unit vectors about a direction, `p(x) ~ exp(kappa mean . x)`, by how far `mean . x` falls short of 1."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.kernels.bessel import bessel_gap
from jem.kernels.roots import falling_root
from jem.kernels.shapes import tightest

_LEAST = 1e-6  # of concentrations that are estimated: uniform to rounding


def concentration_of(dim: int, fall: Array) -> Array:
    """The kappa with `E[1 - mean . x] = fall`, from 1e-6 to the `tightest`."""
    low, high = jnp.log(_LEAST), jnp.log(tightest(fall.dtype))
    return jnp.exp(falling_root(lambda z, fall: bessel_gap(0.5 * dim - 1, jnp.exp(z)) - fall, low, high, fall))


def sample_fall(key: Array, dim: int, kappa: Array) -> Array:
    """Draws of `1 - mean . x`, one for each kappa >= 0.

    Source: Wood (1994), Communications in Statistics, Simulation and Computation 23.
    """
    d = dim - 1
    b = d / (2 * kappa + jnp.hypot(2 * kappa, d))
    x0, rest = (1 - b) / (1 + b), 2 * b / (1 + b)  # rest = 1 - x0

    def propose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        key, fall, done = state
        key, beta, uniform = jax.random.split(key, 3)
        z = jax.random.beta(beta, 0.5 * d, 0.5 * d, kappa.shape, kappa.dtype)
        new = 2 * b * z / (1 - (1 - b) * z)
        log = kappa * (rest - new) + d * (jnp.log1p(x0 * new / rest) - jnp.log1p(x0))
        taken = log >= jnp.log(jax.random.uniform(uniform, kappa.shape, kappa.dtype))
        return key, jnp.where(done, fall, new), done | taken

    start = key, jnp.zeros_like(kappa), jnp.zeros(kappa.shape, bool)
    return lax.while_loop(lambda state: ~jnp.all(state[2]), propose, start)[1]

"""Covariances with one variance."""

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from jem.kernels.covariance.structure import Moments, Separate
from jem.kernels.linalg import safe_sqrt
from jem.kernels.support import Positive, Support


@dataclasses.dataclass(frozen=True)
class Spherical(Separate):
    """One variance for all features: W is (1, 1), the reciprocal standard deviation.

    `Sigma = I / W^2`.

    Example:
        >>> import jem
        >>> jem.Gaussian(jem.covariance.Spherical()).params([0.0, 0.0], 4.0).whitening.tolist()
        [[0.5]]
    """

    def diagonal(self, w: Array, dim: int) -> Array:
        return jnp.broadcast_to(w[:, 0], (dim,))

    def from_diagonal(self, diagonal: Array) -> Array:
        """The mean of the variances."""
        return 1 / rms(1 / diagonal)

    def moments(self, z: Array, weights: Array) -> Moments:
        return Moments(z @ weights, (jnp.mean(z * z, 0) @ weights)[None, None])

    def pool(self, squares: Array) -> Array:
        """Their mean, (1, 1)."""
        return jnp.mean(squares)[None, None]

    def trace(self, s: Array, dim: int) -> Array:
        return dim * s[0, 0]

    def update(self, w: Array, s: Array, floor: Array) -> Array:
        return w / jnp.maximum(safe_sqrt(s), rms(floor) * w)

    def whitening(self, covariance: Array, dim: int) -> Array:
        """W from a variance ()."""
        return 1 / jnp.sqrt(covariance)[None, None]

    def covariance_shape(self, dim: int) -> tuple[int, ...]:
        return ()

    def support(self) -> Support:
        return Positive()


def rms(deviations: Array) -> Array:
    """Root mean square (1, 1) of numbers >= 0 (D,), without overflow."""
    top = lax.stop_gradient(jnp.max(deviations))  # a unit, which cancels
    top = jnp.where(top > 0, top, 1)
    return (top * jnp.sqrt(jnp.mean((deviations / top) ** 2)))[None, None]

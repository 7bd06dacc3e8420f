"""Covariances without correlations."""

import dataclasses

import jax.numpy as jnp
from jax import Array

from jem.kernels.covariance.structure import Moments, Separate
from jem.kernels.linalg import safe_sqrt
from jem.kernels.support import Positive, Support


@dataclasses.dataclass(frozen=True)
class Diagonal(Separate):
    """Diagonal covariance: W is (D, 1), the reciprocal standard deviations.

    `Sigma = diag(1 / W_1^2, ..., 1 / W_D^2)`.

    Example:
        >>> import jem
        >>> jem.Gaussian(jem.covariance.Diagonal()).params([0.0, 0.0], [4.0, 1.0]).whitening.tolist()
        [[0.5], [1.0]]
    """

    def diagonal(self, w: Array, dim: int) -> Array:
        return w[:, 0]

    def from_diagonal(self, diagonal: Array) -> Array:
        return diagonal[:, None]

    def moments(self, z: Array, weights: Array) -> Moments:
        # Matrix-vector products: sums over a last axis are not vectorised on a CPU.
        return Moments(z @ weights, self.pool((z * z) @ weights))

    def pool(self, squares: Array) -> Array:
        """As they are, (D, 1)."""
        return squares[:, None]

    def trace(self, s: Array, dim: int) -> Array:
        return jnp.sum(s)

    def update(self, w: Array, s: Array, floor: Array) -> Array:
        return w / jnp.maximum(safe_sqrt(s), floor[:, None] * w)

    def whitening(self, covariance: Array, dim: int) -> Array:
        """W from variances (D,)."""
        return 1 / jnp.sqrt(covariance)[:, None]

    def covariance_shape(self, dim: int) -> tuple[int, ...]:
        return (dim,)

    def support(self) -> Support:
        return Positive()

"""Covariances without correlations, as volume and shape."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jem.kernels.covariance.diagonal import Diagonal
from jem.kernels.covariance.parts import Parts, Scatter
from jem.kernels.rotation_support import UnitProduct
from jem.kernels.support import Positive


class ScaledFactor(NamedTuple):
    """The whitening `W = volume diag(shape)`: volume (), shape (D,) with product one. Leading axes batch."""

    volume: Array
    shape: Array

    def covariance(self) -> Array:
        """The covariance matrices, (..., D, D)."""
        batch = jnp.broadcast_shapes(self.volume.shape, self.shape.shape[:-1])
        dim = self.shape.shape[-1]
        size = jnp.broadcast_to(self.volume, batch)[..., None] * jnp.broadcast_to(self.shape, (*batch, dim))
        eye = jnp.broadcast_to(jnp.eye(dim, dtype=bool), (*batch, dim, dim))
        return jnp.where(eye, 1 / size[..., None] ** 2, 0)


@dataclasses.dataclass(frozen=True)
class ScaledDiagonal(Parts):
    """Diagonal covariances of which `jem.Tied` may share volume or shape: W is a `ScaledFactor`.

    `Sigma = lambda A`, A diagonal, `|A| = 1`, with `volume = lambda^{-1/2}` and `shape_j = A_jj^{-1/2}`.

    Example:
        >>> import jem
        >>> w = jem.Gaussian(jem.covariance.ScaledDiagonal()).params([0.0, 0.0], [8.0, 2.0]).whitening
        >>> w.volume.tolist(), [round(float(a), 4) for a in w.shape]
        (0.5, [0.7071, 1.4142])
    """

    parts = ("volume", "shape")

    def record(self, **parts: Any) -> ScaledFactor:
        return ScaledFactor(**parts)

    @property
    def plain(self) -> Diagonal:
        return Diagonal()

    def flat(self, w: ScaledFactor) -> Array:
        return (w.volume * w.shape)[:, None]

    def from_diagonal(self, diagonal: Array) -> ScaledFactor:
        volume = jnp.exp(jnp.mean(jnp.log(diagonal)))
        return ScaledFactor(volume, diagonal / volume)

    def solve(self, w: ScaledFactor, z: Array) -> Array:
        return z / self.flat(w)

    def change(self, new: ScaledFactor, old: ScaledFactor, s: Array) -> Array:
        return (self.flat(new) / self.flat(old)) ** 2 * s

    def condition(self, w: ScaledFactor) -> Array:
        return jnp.ones((), w.shape.dtype)

    def whitening(self, covariance: Array, dim: int) -> ScaledFactor:
        """W from variances (D,)."""
        return self.from_diagonal(1 / jnp.sqrt(covariance))

    def covariance_shape(self, dim: int) -> tuple[int, ...]:
        return (dim,)

    def support(self) -> Any:
        return self.record(volume=Positive(), shape=UnitProduct())

    def along(self, w: ScaledFactor, s: Array, unit: Array) -> Array:
        return s * (unit / w.volume / w.shape[:, None]) ** 2

    def variances(self, s: Scatter) -> Array:
        return jnp.maximum(s.second, s.count[:, None, None] * s.floor)[..., 0]

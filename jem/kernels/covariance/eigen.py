"""Covariances as volume, shape and orientation."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.kernels import turns
from jem.kernels.covariance.full import Full
from jem.kernels.covariance.parts import Parts, Scatter, Sizes
from jem.kernels.linalg import diagonal
from jem.kernels.rotation_support import Orientation, UnitProduct, orthogonal
from jem.kernels.support import Positive

_SWEEPS = 16  # of a covariance that a user gives


class EigenFactor(NamedTuple):
    """The whitening `W = volume diag(shape) orientation^T`: volume (), shape (D,) with product one, and axes (D, D) in columns.

    The deviation along axis j is `1 / (volume shape_j)`. Leading axes batch.
    """

    volume: Array
    shape: Array
    orientation: Array

    def covariance(self) -> Array:
        """The covariance matrices, (..., D, D)."""
        batch = jnp.broadcast_shapes(self.volume.shape, self.shape.shape[:-1], self.orientation.shape[:-2])
        volume = jnp.broadcast_to(self.volume, batch)[..., None]
        size = volume * jnp.broadcast_to(self.shape, (*batch, self.shape.shape[-1]))
        axes = jnp.broadcast_to(self.orientation, (*batch, *self.orientation.shape[-2:])) / size[..., None, :]
        return axes @ jnp.swapaxes(axes, -1, -2)


@dataclasses.dataclass(frozen=True)
class Eigen(Parts):
    """Unrestricted covariances of which `jem.Tied` may share volume, shape and orientation: W is an `EigenFactor`.

    `Sigma = lambda O A O^T`, `|A| = 1`, with `volume = lambda^{-1/2}`, `shape_j = A_jj^{-1/2}` and `orientation = O`.

    Example:
        >>> import jem
        >>> w = jem.Gaussian(jem.covariance.Eigen()).params([0.0, 0.0], [[8.0, 0.0], [0.0, 2.0]]).whitening
        >>> w.volume.tolist(), [round(float(a), 4) for a in w.shape]
        (0.5, [0.7071, 1.4142])
    """

    parts = ("volume", "shape", "orientation")

    def record(self, **parts: Any) -> EigenFactor:
        return EigenFactor(**parts)

    @property
    def plain(self) -> Full:
        return Full()

    def flat(self, w: EigenFactor) -> Array:
        return (w.volume * w.shape)[:, None] * w.orientation.T

    def from_diagonal(self, diagonal: Array) -> EigenFactor:
        volume = jnp.exp(jnp.mean(jnp.log(diagonal)))
        return EigenFactor(volume, diagonal / volume, jnp.eye(diagonal.shape[0], dtype=diagonal.dtype))

    def solve(self, w: EigenFactor, z: Array) -> Array:
        return w.orientation @ (z / (w.volume * w.shape)[:, None])

    def change(self, new: EigenFactor, old: EigenFactor, s: Array) -> Array:
        a = self.flat(new) @ (old.orientation / (old.volume * old.shape)[None, :])
        return a @ s @ a.T

    def condition(self, w: EigenFactor) -> Array:
        """The length of a row of W, each feature in units of its deviation."""
        deviation = jnp.sqrt(jnp.sum((w.orientation / (w.volume * w.shape)[None, :]) ** 2, 1))
        return jnp.maximum(1, jnp.sqrt(jnp.max(self.shares(w, deviation))))

    def whitening(self, covariance: Array, dim: int) -> EigenFactor:
        """W from a covariance (D, D)."""
        unit = jnp.max(diagonal(covariance))
        eye = jnp.eye(dim, dtype=covariance.dtype)
        start = (covariance / unit)[None], eye[None]
        t, axes = jax.lax.fori_loop(0, _SWEEPS, lambda _, now: turns.sweep(now[0], now[1], turns.each), start)
        return self.from_diagonal(1 / jnp.sqrt(diagonal(t[0]) * unit))._replace(orientation=orthogonal(axes[0]))

    def covariance_shape(self, dim: int) -> tuple[int, ...]:
        return (dim, dim)

    def support(self) -> Any:
        return self.record(volume=Positive(), shape=UnitProduct(), orientation=Orientation())

    def along(self, w: EigenFactor, s: Array, unit: Array) -> Array:
        deviation = unit / w.volume / w.shape
        return s * deviation[:, None] * deviation[None, :]

    def still(self, num: int, w: EigenFactor) -> Array:
        dim = w.shape.shape[-1]
        return jnp.broadcast_to(jnp.eye(dim, dtype=w.shape.dtype), (num, dim, dim))

    def turn(self, s: Scatter, sizes: Sizes, turned: Array, shared: frozenset[str]) -> tuple[Scatter, Array]:
        if "orientation" not in shared and "shape" in shared:
            s, turned = _in_order(s, sizes, turned)
        if "orientation" not in shared:
            choose = turns.each
        elif "shape" in shared:
            choose = turns.pooled(jnp.broadcast_to(1 / sizes.volume, s.count.shape))
        elif "volume" in shared:
            choose = turns.common(lambda b: jnp.where(s.count > 0, _mean(b), 0), lambda log: jnp.exp(0.5 * log), self._least(s))
        else:
            choose = turns.common(lambda b: s.count, lambda log: log, self._least(s))
        old = turned
        second, turned = turns.sweep(s.second, turned, choose)
        move = jnp.broadcast_to(jnp.swapaxes(old, 1, 2) @ turned, s.floor.shape)
        return s._replace(second=second, floor=jnp.swapaxes(move, 1, 2) @ s.floor @ move), turned

    def variances(self, s: Scatter) -> Array:
        return jnp.maximum(diagonal(s.second), self._least(s))

    def _least(self, s: Scatter) -> Array:
        """The least variances, (K, D)."""
        return s.count[:, None] * diagonal(s.floor)

    def turn_axes(self, w: EigenFactor, turned: Array) -> EigenFactor:
        return w._replace(orientation=orthogonal(w.orientation @ turned))


def _mean(b: Array) -> Array:
    """Geometric means (K,) of variances (K, D)."""
    return jnp.exp(jnp.mean(jnp.log(jnp.where(b > 0, b, 1)), 1))


def _in_order(s: Scatter, sizes: Sizes, turned: Array) -> tuple[Scatter, Array]:
    """Axes in another order: the larger the variance along one, the larger the entry of the shape that all share."""
    rank = jnp.argsort(jnp.argsort(sizes.shape[0]))
    order = jnp.argsort(diagonal(s.second), 1)[:, rank]

    def sorted_(a: Array, order: Array) -> Array:
        return a[order][:, order]

    second, floor = jax.vmap(sorted_)(s.second, order), jax.vmap(sorted_)(s.floor, order)
    return s._replace(second=second, floor=floor), jax.vmap(lambda a, order: a[:, order])(turned, order)

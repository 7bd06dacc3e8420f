"""Unrestricted covariances."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array

from jem.kernels import holes
from jem.kernels.covariance.structure import Moments, Structure
from jem.kernels.linalg import cholesky, cholesky_solve_lower, diagonal, safe_sqrt, solve_lower
from jem.kernels.matrix_support import CholeskyFactor
from jem.kernels.support import Support


@dataclasses.dataclass(frozen=True)
class Full(Structure):
    """Unrestricted covariance: W is (D, D), lower triangular.

    `Sigma = W^{-1} W^{-T}`.

    Example:
        >>> import jem
        >>> jem.Gaussian(jem.covariance.Full()).params([0.0, 0.0], [[4.0, 0.0], [0.0, 1.0]]).whitening.tolist()
        [[0.5, 0.0], [0.0, 1.0]]
    """

    triangular = True

    def diagonal(self, w: Array, dim: int) -> Array:
        return diagonal(w)

    def from_diagonal(self, diagonal: Array) -> Array:
        return jnp.diag(diagonal)

    def times(self, w: Array, d: Array) -> Array:
        return w @ d

    def solve(self, w: Array, z: Array) -> Array:
        return solve_lower(w, z)

    def moments(self, z: Array, weights: Array) -> Moments:
        wz = weights[None, :] * z
        return Moments(jnp.sum(wz, 1), wz @ z.T)

    def conditional(self, w: Array, d: Array, seen: Array) -> tuple[Array, Array]:
        return holes.conditional(w, d, seen)

    def spread(self, w: Array, seen: Array, weights: Array) -> Array:
        return holes.spread(w, seen, weights)

    def among(self, w: Array, some: Any) -> Array:
        # The precision of these, W_s^T W_s = V^T V with V lower triangular: a Cholesky factor from the other end.
        columns = w[:, some[::-1]]
        return cholesky(columns.T @ columns).T[::-1, ::-1]

    def restrict(self, s: Array) -> Array:
        return s

    def pool(self, squares: Array) -> Array:
        return jnp.diag(squares)

    def outer(self, z: Array) -> Array:
        return z[:, None] * z[None, :]

    def trace(self, s: Array, dim: int) -> Array:
        return jnp.sum(diagonal(s))

    def change(self, new: Array, old: Array, s: Array) -> Array:
        a = new @ solve_lower(old, jnp.eye(old.shape[0], dtype=old.dtype))
        return a @ s @ a.T

    def seen(self, w: Array, deviation: Array) -> Array:
        a = w * deviation[None, :]
        return a @ a.T

    def shares(self, w: Array, deviation: Array) -> Array:
        return jnp.sum((w * deviation[None, :]) ** 2, 1)

    def condition(self, w: Array) -> Array:
        """The length of a row of W, each feature in units of its deviation given those before."""
        return jnp.sqrt(jnp.max(jnp.sum((w / diagonal(w)[None, :]) ** 2, 1)))

    def update(self, w: Array, s: Array, floor: Array) -> Array:
        # The deviation of feature j given those before it is C_jj / W_jj, where s = C C^T. What is left of a variance below its
        # rounding is noise, and it would be divided by: a step shrinks to there, the next one, in its coordinates, sees more.
        rounding = safe_sqrt(32 * s.shape[0] * jnp.finfo(s.dtype).eps * diagonal(s))
        return cholesky_solve_lower(s, w, jnp.maximum(floor * diagonal(w), rounding))

    def whitening(self, covariance: Array, dim: int) -> Array:
        """W from a covariance (D, D)."""
        return cholesky_solve_lower(covariance, jnp.eye(dim, dtype=covariance.dtype), jnp.zeros(dim, covariance.dtype))

    def covariance_shape(self, dim: int) -> tuple[int, ...]:
        return (dim, dim)

    def support(self) -> Support:
        return CholeskyFactor()

"""Where matrices may lie: Cholesky factors, positive-definite matrices, correlations."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from jem.kernels.linalg import cholesky, diagonal
from jem.kernels.support import _SLACK, Support, _largest, _outside, _positive


@dataclasses.dataclass(frozen=True, eq=False)
class CholeskyFactor(Support):
    """Lower triangular matrices (..., D, D) of positive diagonal: its logarithms, then the rows below it.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.CholeskyFactor().unconstrain(jnp.array([[1.0, 0.0], [0.5, 1.0]])).tolist()
        [0.0, 0.0, 0.5]
    """

    def unconstrain(self, value: Array) -> Array:
        row, column = _below(value.shape[-1])
        entries = value.reshape(*value.shape[:-2], -1)
        below = jnp.take(entries, row * value.shape[-1] + column, axis=-1, mode="clip")
        return jnp.concatenate([jnp.log(diagonal(value)), below], -1)

    def constrain(self, free: Array, like: Array) -> Array:
        dim = like.shape[-1]
        place = np.full((dim, dim), free.shape[-1])  # of each entry, in a row of the coordinates and a zero
        place[np.diag_indices(dim)] = np.arange(dim)
        place[_below(dim)] = np.arange(dim, free.shape[-1])
        row = jnp.concatenate([jnp.exp(free[..., :dim]), free[..., dim:], jnp.zeros_like(free[..., :1])], -1)
        return jnp.take(row, place, axis=-1, mode="clip")

    def inside(self, value: Array) -> Array:
        return jnp.where(np.broadcast_to(np.eye(value.shape[-1], dtype=bool), value.shape), _positive(value), value)

    def outside(self, value: Array) -> Array:
        largest = jnp.max(jnp.abs(value), (-1, -2), keepdims=True)
        above = np.triu(np.ones(value.shape[-2:], bool), 1)
        wrong = jnp.where(above, jnp.abs(value) > _SLACK * largest, jnp.where(np.eye(len(above), dtype=bool), value < 0, False))
        return jnp.any(wrong, (-1, -2), keepdims=True)

    def fault(self, value: np.ndarray) -> str | None:
        above = np.where(np.triu(np.ones(value.shape[-2:], bool), 1), value, 0) / _largest(value)
        if _outside(above, -_SLACK, _SLACK, ""):
            place = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(above)), value.shape))
            return f"expected lower triangular matrices; got {value[place]:.6g} at {place}, above the diagonal"
        return _outside(np.where(np.eye(value.shape[-1], dtype=bool), value, 0), 0, np.inf, "of at least 0 on the diagonal")


@dataclasses.dataclass(frozen=True, eq=False)
class PositiveDefinite(Support):
    """Symmetric positive definite matrices (..., D, D), by their Cholesky factor.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.PositiveDefinite().unconstrain(jnp.array([[1.0, 0.5], [0.5, 1.25]])).tolist()
        [0.0, 0.0, 0.5]
    """

    def unconstrain(self, value: Array) -> Array:
        return CholeskyFactor().unconstrain(cholesky(value))

    def constrain(self, free: Array, like: Array) -> Array:
        factor = CholeskyFactor().constrain(free, like)
        return factor @ jnp.swapaxes(factor, -1, -2)

    def fault(self, value: np.ndarray) -> str | None:
        value = value / _largest(value)
        if _outside(value - np.swapaxes(value, -1, -2), -_SLACK, _SLACK, ""):
            return "expected symmetric matrices; these are not"
        least = float(np.linalg.eigvalsh(value.astype(float)).min(initial=0))
        if least < -_SLACK:
            return f"expected positive definite matrices; an eigenvalue is {least:.6g} of the largest entry"
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Correlation(Support):
    """Correlation matrices (..., D, D), by D (D - 1) / 2 canonical partial correlations.

    Row i of the Cholesky factor is `z_ij prod_{k<j} sqrt(1 - z_ik^2)`, with z the tanh of the coordinates.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.Correlation().constrain(jnp.array([0.0]), jnp.eye(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    Source: Lewandowski, Kurowicka and Joe (2009), J. Multivariate Analysis 100.
    """

    def unconstrain(self, value: Array) -> Array:
        factor = cholesky(value)
        row, column = _below(value.shape[-1])
        left = 1 - jnp.cumsum(factor**2, -1) + factor**2  # what the columns before leave of a row's length
        least = jnp.finfo(value.dtype).tiny
        z = factor[..., row, column] / jnp.sqrt(jnp.maximum(left[..., row, column], least))
        edge = 1 - jnp.finfo(value.dtype).eps
        return jnp.arctanh(jnp.clip(z, -edge, edge))

    def constrain(self, free: Array, like: Array) -> Array:
        dim = like.shape[-1]
        row, column = _below(dim)
        z = jnp.zeros((*free.shape[:-1], dim, dim), free.dtype).at[..., row, column].set(jnp.tanh(free))
        rest = jnp.sqrt(jnp.cumprod(1 - z**2, -1))
        before = jnp.concatenate([jnp.ones_like(rest[..., :1]), rest[..., :-1]], -1)
        factor = before * (z + jnp.eye(dim, dtype=free.dtype).reshape((1,) * (z.ndim - 2) + (dim, dim)))
        return factor @ jnp.swapaxes(factor, -1, -2)

    def exact(self, value: Array) -> Array:
        deviation = jnp.sqrt(diagonal(value))
        return value / (deviation[..., :, None] * deviation[..., None, :])


def _below(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the entries below the diagonal."""
    return np.tril_indices(dim, -1)

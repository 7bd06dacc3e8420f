"""Where the parts of a covariance may lie: proportions with product one, and orientations."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem.kernels.support import Support, _contrasts, _outside, _positive

_OFF = 1e-4  # how far lengths, angles and products may be off what they should be


@dataclasses.dataclass(frozen=True, eq=False)
class UnitProduct(Support):
    """Positive numbers with product one over the last axis, by D - 1 contrasts of their logarithms.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.UnitProduct().constrain(jnp.array([0.0]), jnp.array([2.0, 0.5])).tolist()
        [1.0, 1.0]
    """

    def unconstrain(self, value: Array) -> Array:
        return jnp.log(_positive(value)) @ _contrasts(value.shape[-1], value.dtype)

    def constrain(self, free: Array, like: Array) -> Array:
        return jnp.exp(free @ _contrasts(like.shape[-1], like.dtype).T)

    def inside(self, value: Array) -> Array:
        return _positive(value)

    def exact(self, value: Array) -> Array:
        return value / jnp.exp(jnp.mean(jnp.log(_positive(value)), -1, keepdims=True))

    def outside(self, value: Array) -> Array:
        off = jnp.abs(jnp.mean(jnp.log(_positive(value)), -1, keepdims=True)) > _OFF
        return off | jnp.any(value <= 0, -1, keepdims=True)

    def fault(self, value: np.ndarray) -> str | None:
        tiny = float(np.finfo(value.dtype).tiny)
        wrong = _outside(value, tiny, np.inf, "above 0")
        if wrong is not None:
            return wrong
        product = np.exp(np.mean(np.log(value.astype(float)), -1))
        off = np.argwhere(np.abs(np.log(product)) > _OFF)
        return None if len(off) == 0 else f"expected numbers with product one; got geometric mean {product[tuple(off[0])]:.6g}"


@dataclasses.dataclass(frozen=True, eq=False)
class Orientation(Support):
    """Orthogonal matrices (..., D, D) whose columns may each be turned around, by D (D - 1) / 2 numbers.

    `O S = (I + X)^{-1} (I - X)`, X skew-symmetric with the coordinates below its diagonal, S the signs of the columns which
    keep them small: those of an axis mean nothing, and what comes back has those of `like`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.Orientation().unconstrain(jnp.array([[0.6, -0.8], [0.8, 0.6]])).round(4).tolist()
        [-0.5]

    Source: O'Dorney (2014), Linear Algebra and its Applications 448, for the signs.
    """

    def unconstrain(self, value: Array) -> Array:
        rows, columns = np.tril_indices(value.shape[-1], -1)
        return _each_matrix(lambda q: _cayley(q, True))(value)[..., rows, columns]

    def constrain(self, free: Array, like: Array) -> Array:
        dim = like.shape[-1]
        rows, columns = np.tril_indices(dim, -1)
        below = jnp.zeros((*free.shape[:-1], dim, dim), free.dtype).at[..., rows, columns].set(free)
        turned = _each_matrix(lambda x: _cayley(x, False))(below - jnp.swapaxes(below, -1, -2))
        against = jnp.sum(like * turned, -2, keepdims=True) < 0
        return jnp.where(against, -turned, turned)

    def exact(self, value: Array) -> Array:
        return orthogonal(value)

    def outside(self, value: Array) -> Array:
        eye = np.broadcast_to(np.eye(value.shape[-1]), value.shape).astype(value.dtype)
        return jnp.any(jnp.abs(jnp.swapaxes(value, -1, -2) @ value - eye) > _OFF, (-1, -2), keepdims=True)

    def fault(self, value: np.ndarray) -> str | None:
        value = value.astype(float)
        off = np.abs(np.swapaxes(value, -1, -2) @ value - np.eye(value.shape[-1])).max(initial=0)
        return f"expected orthogonal matrices, O^T O = I; got one that is {off:.3g} off" if off > _OFF else None


def orthogonal(a: Array) -> Array:
    """The orthogonal matrices (..., D, D) next to matrices that are so but for rounding: Newton's `a (3 I - a^T a) / 2`."""
    return 1.5 * a - 0.5 * a @ (jnp.swapaxes(a, -1, -2) @ a)


def _each_matrix(fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """fn of one matrix, of (..., D, D)."""

    def each(a: Array) -> Array:
        return jax.vmap(fn)(a.reshape(-1, *a.shape[-2:])).reshape(a.shape)

    return each


def _cayley(q: Array, choose: bool) -> Array:
    """`(I + Q S)^{-1} (I - Q S)`, by elimination; with `choose`, signs S of the columns such that every pivot is at least one.

    What is left of an orthogonal matrix after a step is one again, so that nothing grows.
    """
    dim = q.shape[0]
    eye = jnp.eye(dim, dtype=q.dtype)
    places = jnp.arange(dim)

    def step(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        reduce, pivots, signs = carry
        here = places == j
        column = reduce @ lax.dynamic_slice_in_dim(q, j, 1, 1)[:, 0]
        sign = jnp.where(choose & (column[j] < 0), -1, 1).astype(q.dtype)
        column = lax.dynamic_slice_in_dim(reduce, j, 1, 1)[:, 0] + sign * column
        pivot = column[j]
        rest = jnp.where(here, 0, column / pivot)
        reduce = reduce - rest[:, None] * reduce[j][None, :]
        return reduce, jnp.where(here, pivot, pivots), jnp.where(here, sign, signs)

    ones = jnp.ones(dim, q.dtype)
    reduce, pivots, signs = lax.fori_loop(0, dim, step, (eye, ones, ones))
    return (reduce / pivots[:, None]) @ (eye - q * signs[None, :])

"""What the recursions of a chain add and multiply: probabilities, their logarithms, or the best of all ways."""

import jax.numpy as jnp
from jax import Array, lax

from jem.documented import Documented

_BROADCAST = 8  # states up to which, and
_LANES = 128  # sequences below which a broadcast sum beats a matrix product


def safe_log(p: Array) -> Array:
    """`log p`, minus infinity with the derivative zero at zero."""
    return jnp.where(p == 0, -jnp.inf, jnp.log(jnp.where(p == 0, 1, p)))


def log_sum(x: Array, axis: int) -> Array:
    """`log sum exp x` over an axis: minus infinity, with the derivative zero, where all entries are."""
    top = lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    top = jnp.where(top == -jnp.inf, 0, top)
    return safe_log(jnp.sum(jnp.exp(x - top), axis)) + jnp.squeeze(top, axis)


class Ring(Documented):
    """What adds up alternative ways and what multiplies steps of one way: here logarithms of probabilities."""

    zero = -jnp.inf

    def times(self, a: Array, b: Array) -> Array:
        """One thing after another."""
        return a + b

    def total(self, x: Array, axis: int) -> Array:
        """One thing or another, over an axis."""
        return log_sum(x, axis)

    def plus(self, a: Array, b: Array) -> Array:
        """One thing or another."""
        return self.total(jnp.stack([a, b]), 0)

    def ahead(self, matrix: Array, x: Array) -> Array:
        """`sum_i A_ij x_i`, (J, S), of x (I, S) and a matrix (I, J), or (I, J, S) with one for each lane."""
        return self.total(self.times(by_lanes(matrix), x[:, None]), 0)

    def back(self, matrix: Array, x: Array) -> Array:
        """`sum_j A_ij x_j`, (I, S), of x (J, S)."""
        return self.total(self.times(by_lanes(matrix), x[None]), 1)


class _Sums(Ring):
    zero = 0.0

    def times(self, a: Array, b: Array) -> Array:
        return a * b

    def total(self, x: Array, axis: int) -> Array:
        return jnp.sum(x, axis)

    def plus(self, a: Array, b: Array) -> Array:
        return a + b

    def ahead(self, matrix: Array, x: Array) -> Array:
        if matrix.ndim == 3 or _broadcasts(matrix, x.shape[1]):
            return super().ahead(matrix, x)
        return lax.dot_general(matrix, x, (((0,), (0,)), ((), ())))

    def back(self, matrix: Array, x: Array) -> Array:
        if matrix.ndim == 3 or _broadcasts(matrix, x.shape[1]):
            return super().back(matrix, x)
        return matrix @ x


class _Best(Ring):
    def total(self, x: Array, axis: int) -> Array:
        return jnp.max(x, axis)


SUMS, LOGS, BEST = _Sums(), Ring(), _Best()


def _broadcasts(matrix: Array, lanes: int) -> bool:
    """Whether a broadcast sum beats a matrix product: XLA compiles the whole loop where its body is small and calls nothing."""
    return matrix.shape[0] <= _BROADCAST and lanes < _LANES


def by_lanes(matrix: Array) -> Array:
    """A matrix for each lane, (K, K, L), from these or from one (K, K) for all."""
    return matrix if matrix.ndim == 3 else matrix[:, :, None]


def or_zero(x: Array) -> Array:
    """Zero in place of minus infinity."""
    return jnp.where(x == -jnp.inf, 0, x)

"""Gaussian kernels in whitened coordinates, for full, diagonal and spherical covariances.

A covariance is carried as its whitening W, with `W Sigma W^T = I`, W lower triangular with a positive diagonal (so that
`Sigma^{-1} = W^T W` and `log|Sigma| = -2 sum log diag W`). Moments are gathered about the old mean and in whitened
coordinates, `z = W (x - mean)`: they are of order one at any offset and any scale of the data, which is what keeps
float32 accurate where raw second moments fail. D features, N units, units last.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import digamma, gammaln

from jem.kernels.linalg import cholesky_solve_lower, diagonal, safe_sqrt, solve_lower
from jem.kernels.roots import falling_root

LOG_2PI = 1.8378770664093453
_LARGE = 20.0  # where Stirling's series is exact to rounding


class Moments(NamedTuple):
    """First and second whitened moments about a reference: `sum w z` (D,) and `sum w z z^T` (the structure's shape)."""

    first: Array
    second: Array


@dataclasses.dataclass(frozen=True)
class Full:
    """Unrestricted covariance: W is (D, D), lower triangular."""

    def diagonal(self, w: Array, dim: int) -> Array:
        """The diagonal of W, (D,)."""
        return diagonal(w)

    def from_diagonal(self, diagonal: Array) -> Array:
        """The whitening with this diagonal (D,) and nothing else."""
        return jnp.diag(diagonal)

    def whiten(self, w: Array, d: Array) -> Array:
        """`W d` for vectors d (D, N)."""
        return w @ d

    def unwhiten(self, w: Array, z: Array) -> Array:
        """`W^{-1} z` for vectors z (D, N)."""
        return solve_lower(w, z)

    def moments(self, z: Array, weights: Array) -> Moments:
        """`sum_n w_n z_n` and `sum_n w_n z_n z_n^T` of whitened residuals z (D, N)."""
        wz = weights[None, :] * z
        return Moments(jnp.sum(wz, 1), wz @ z.T)

    def outer(self, z: Array) -> Array:
        """`z z^T` of one vector (D,)."""
        return z[:, None] * z[None, :]

    def trace(self, s: Array, dim: int) -> Array:
        """`tr S`."""
        return jnp.sum(diagonal(s))

    def change(self, new: Array, old: Array, s: Array) -> Array:
        """S in the coordinates of W_new: `A S A^T` with `A = W_new W_old^{-1}`."""
        a = new @ solve_lower(old, jnp.eye(old.shape[0], dtype=old.dtype))
        return a @ s @ a.T

    def seen(self, w: Array, deviation: Array) -> Array:
        """The covariance `diag(deviation^2)` seen in whitened coordinates."""
        a = w * deviation[None, :]
        return a @ a.T

    def shares(self, w: Array, deviation: Array) -> Array:
        """Of the variance along each row of W, which is one, what independent features of these deviations make (D,)."""
        return jnp.sum((w * deviation[None, :]) ** 2, 1)

    def condition(self, w: Array) -> Array:
        """By how much a row of W magnifies rounding: its length, each feature in units of its deviation given those before."""
        return jnp.sqrt(jnp.max(jnp.sum((w / diagonal(w)[None, :]) ** 2, 1)))

    def update(self, w: Array, s: Array, floor: Array) -> Array:
        """The whitening of the covariance that is `s` in the coordinates of `w`; deviations stay at or above `floor`."""
        # The deviation of feature j given those before it is C_jj / W_jj, where s = C C^T. What is left of a variance below its
        # rounding is noise, and it would be divided by: a step shrinks to there, the next one, in its coordinates, sees more.
        rounding = safe_sqrt(32 * s.shape[0] * jnp.finfo(s.dtype).eps * diagonal(s))
        return cholesky_solve_lower(s, w, jnp.maximum(floor * diagonal(w), rounding))

    def whitening(self, covariance: Array, dim: int) -> Array:
        """W from a covariance (D, D)."""
        return cholesky_solve_lower(covariance, jnp.eye(dim, dtype=covariance.dtype), jnp.zeros(dim, covariance.dtype))

    def covariance_shape(self, dim: int) -> tuple[int, ...]:
        """Shape in which a user gives a covariance."""
        return (dim, dim)


@dataclasses.dataclass(frozen=True)
class Diagonal:
    """Diagonal covariance: W is (D, 1), the reciprocal standard deviations."""

    def diagonal(self, w: Array, dim: int) -> Array:
        """The diagonal of W, (D,)."""
        return w[:, 0]

    def from_diagonal(self, diagonal: Array) -> Array:
        """The whitening with this diagonal (D,)."""
        return diagonal[:, None]

    def whiten(self, w: Array, d: Array) -> Array:
        """`W d` for vectors d (D, N)."""
        return w * d

    def unwhiten(self, w: Array, z: Array) -> Array:
        """`W^{-1} z` for vectors z (D, N)."""
        return z / w

    def moments(self, z: Array, weights: Array) -> Moments:
        """`sum_n w_n z_n` and `sum_n w_n z_n^2` (D, 1) of whitened residuals z (D, N)."""
        # Matrix-vector products: sums over a last axis are not vectorised on a CPU.
        return Moments(z @ weights, ((z * z) @ weights)[:, None])

    def outer(self, z: Array) -> Array:
        """`z^2` of one vector (D,)."""
        return (z * z)[:, None]

    def trace(self, s: Array, dim: int) -> Array:
        """`tr S`."""
        return jnp.sum(s)

    def change(self, new: Array, old: Array, s: Array) -> Array:
        """S in the coordinates of W_new."""
        return (new / old) ** 2 * s

    def seen(self, w: Array, deviation: Array) -> Array:
        """The covariance `diag(deviation^2)` seen in whitened coordinates."""
        return (w * deviation[:, None]) ** 2

    def shares(self, w: Array, deviation: Array) -> Array:
        """Of each feature's variance, which is one, what these deviations would make (D,)."""
        return (w[:, 0] * deviation) ** 2

    def condition(self, w: Array) -> Array:
        """One: no feature enters another's."""
        return jnp.ones((), w.dtype)

    def update(self, w: Array, s: Array, floor: Array) -> Array:
        """The whitening of the covariance that is `s` in the coordinates of `w`; deviations stay at or above `floor`."""
        return w / jnp.maximum(safe_sqrt(s), floor[:, None] * w)

    def whitening(self, covariance: Array, dim: int) -> Array:
        """W from variances (D,)."""
        return 1 / jnp.sqrt(covariance)[:, None]

    def covariance_shape(self, dim: int) -> tuple[int, ...]:
        """Shape in which a user gives a covariance: variances."""
        return (dim,)


@dataclasses.dataclass(frozen=True)
class Spherical:
    """One variance for all features: W is (1, 1), the reciprocal standard deviation."""

    def diagonal(self, w: Array, dim: int) -> Array:
        """The diagonal of W, (D,)."""
        return jnp.broadcast_to(w[:, 0], (dim,))

    def from_diagonal(self, diagonal: Array) -> Array:
        """The whitening whose variance is the mean of the variances of this diagonal (D,)."""
        return 1 / rms(1 / diagonal)

    def whiten(self, w: Array, d: Array) -> Array:
        """`W d` for vectors d (D, N)."""
        return w * d

    def unwhiten(self, w: Array, z: Array) -> Array:
        """`W^{-1} z` for vectors z (D, N)."""
        return z / w

    def moments(self, z: Array, weights: Array) -> Moments:
        """`sum_n w_n z_n` and `sum_n w_n |z_n|^2 / D` (1, 1) of whitened residuals z (D, N)."""
        return Moments(z @ weights, (jnp.mean(z * z, 0) @ weights)[None, None])

    def outer(self, z: Array) -> Array:
        """`|z|^2 / D` of one vector (D,)."""
        return jnp.mean(z * z)[None, None]

    def trace(self, s: Array, dim: int) -> Array:
        """`tr S`."""
        return dim * s[0, 0]

    def change(self, new: Array, old: Array, s: Array) -> Array:
        """S in the coordinates of W_new."""
        return (new / old) ** 2 * s

    def seen(self, w: Array, deviation: Array) -> Array:
        """The covariance `diag(deviation^2)` seen in whitened coordinates: its mean variance."""
        return (w * rms(deviation)) ** 2

    def shares(self, w: Array, deviation: Array) -> Array:
        """Of each feature's variance, which is one, what these deviations would make (D,)."""
        return (w[:, 0] * deviation) ** 2

    def condition(self, w: Array) -> Array:
        """One: no feature enters another's."""
        return jnp.ones((), w.dtype)

    def update(self, w: Array, s: Array, floor: Array) -> Array:
        """The whitening of the covariance that is `s` in the coordinates of `w`; the deviation stays at or above `floor`."""
        return w / jnp.maximum(safe_sqrt(s), rms(floor) * w)

    def whitening(self, covariance: Array, dim: int) -> Array:
        """W from a variance ()."""
        return 1 / jnp.sqrt(covariance)[None, None]

    def covariance_shape(self, dim: int) -> tuple[int, ...]:
        """Shape in which a user gives a covariance: one variance."""
        return ()


Structure = Full | Diagonal | Spherical


def rms(deviations: Array) -> Array:
    """Root mean square (1, 1) of numbers >= 0 (D,), without overflow."""
    top = lax.stop_gradient(jnp.max(deviations))  # a unit, which cancels
    top = jnp.where(top > 0, top, 1)
    return (top * jnp.sqrt(jnp.mean((deviations / top) ** 2)))[None, None]


def log_det(structure: Structure, w: Array, dim: int) -> Array:
    """`log|W| = -1/2 log|Sigma|`."""
    return jnp.sum(jnp.log(structure.diagonal(w, dim)))


def log_normal(structure: Structure, w: Array, z: Array) -> Array:
    """`log N(x; mean, Sigma)` (N,) from whitened residuals z (D, N)."""
    dim = z.shape[0]
    return log_det(structure, w, dim) - 0.5 * jnp.sum(z * z, 0) - 0.5 * dim * LOG_2PI


def centred(structure: Structure, mass: Array, m: Moments) -> tuple[Array, Array]:
    """The whitened shift of the mean (D,) and the whitened scatter about the shifted mean, from moments of total `mass`."""
    shift = m.first / mass
    return shift, m.second - mass * structure.outer(shift)


def expected_log_normal(
    structure: Structure, mean: Array, w: Array, count: Array, mass: Array, m: Moments, old_mean: Array, old_w: Array
) -> Array:
    """`sum_n c_n log|W| - 1/2 u_n |W (x_n - mean)|^2 - D/2 log 2 pi`, from moments gathered at (old_mean, old_w).

    `count` is the sum of the weights c and `mass` that of the weights u of the moments; they differ for scale mixtures.
    """
    dim = mean.shape[0]
    shift = structure.whiten(w, (mean - old_mean)[:, None])[:, 0]
    first = structure.whiten(w, structure.unwhiten(old_w, m.first[:, None]))[:, 0]
    square = structure.trace(structure.change(w, old_w, m.second), dim) - 2 * shift @ first + mass * shift @ shift
    return count * (log_det(structure, w, dim) - 0.5 * dim * LOG_2PI) - 0.5 * square


def recentre(
    structure: Structure, mass: Array, m: Moments, old_mean: Array, old_w: Array, new_mean: Array, new_w: Array
) -> Moments:
    """Moments of total `mass` about (new_mean, new_w), from those about (old_mean, old_w): `z' = A z + b`.

    `A = W' W^{-1}` and `b = W' (old_mean - new_mean)`. Nothing cancels as long as b is of the order of z.
    """
    b = structure.whiten(new_w, (old_mean - new_mean)[:, None])[:, 0]
    first = structure.whiten(new_w, structure.unwhiten(old_w, m.first[:, None]))[:, 0]
    crossed = structure.outer(first + b) - structure.outer(first) - structure.outer(b)  # A first b^T and its transpose
    return Moments(first + mass * b, structure.change(new_w, old_w, m.second) + crossed + mass * structure.outer(b))


def log_student_t(structure: Structure, w: Array, square: Array, df: Array, dim: int) -> Array:
    """Multivariate Student-t log-density (N,) from squared whitened distances (N,), `df` degrees of freedom."""
    constant = log_gamma_step(0.5 * df, 0.5 * dim) - 0.5 * dim * LOG_2PI
    return log_det(structure, w, dim) + constant - 0.5 * (df + dim) * jnp.log1p(square / df)


def log_gamma_step(a: Array, h: float) -> Array:
    """`gammaln(a + h) - gammaln(a) - h log(a)` to full precision also where a is large and the terms cancel (Stirling)."""
    low, high = jnp.minimum(a, _LARGE), jnp.maximum(a, _LARGE)
    series = (high + h - 0.5) * jnp.log1p(h / high) - h + _tail(high + h) - _tail(high)
    return jnp.where(a < _LARGE, gammaln(low + h) - gammaln(low) - h * jnp.log(low), series)


def log_gamma_gap(a: Array) -> Array:
    """`a log(a) - a - gammaln(a)` to full precision also where a is large (Stirling)."""
    low, high = jnp.minimum(a, _LARGE), jnp.maximum(a, _LARGE)
    return jnp.where(a < _LARGE, low * jnp.log(low) - low - gammaln(low), 0.5 * jnp.log(high) - 0.5 * LOG_2PI - _tail(high))


def digamma_gap(a: Array) -> Array:
    """`log(a) - digamma(a)`, the derivative of `log_gamma_gap`, to full precision also where a is large."""
    low, high = jnp.minimum(a, _LARGE), jnp.maximum(a, _LARGE)
    y = 1 / (high * high)
    return jnp.where(a < _LARGE, jnp.log(low) - digamma(low), 0.5 / high + y * (1 / 12 - y * (1 / 120 - y / 252)))


def _tail(x: Array) -> Array:
    """What follows `(x - 1/2) log(x) - x + log(2 pi) / 2` in Stirling's series of `gammaln(x)`, x large."""
    y = 1 / (x * x)
    return (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y / 1680))) / x


def solve_degrees_of_freedom(target: Array, low: float = 0.05, high: float = 1e4) -> Array:
    """The maximum over df of `df/2 log(df/2) - df/2 - gammaln(df/2) + df/2 target`, in log df.

    Its derivative, `log(df/2) - digamma(df/2) + target`, falls from infinity to `target`: for `target >= 0` the maximum lies
    at infinity and `high` is returned.
    """
    slope = lambda log_df, target: digamma_gap(0.5 * jnp.exp(log_df)) + target  # noqa: E731
    return jnp.exp(falling_root(slope, jnp.log(low), jnp.log(high), target))

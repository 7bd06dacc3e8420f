"""Gaussian and Student-t kernels in whitened coordinates, for covariances of any structure.

Moments are gathered about the old mean and in whitened coordinates, `z = W (x - mean)`: they are of order one at any offset and
any scale of the data, which is what keeps float32 accurate where raw second moments fail. D features, N units, units last.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from jem import tree
from jem.backend import precise
from jem.kernels.covariance import Moments, Structure
from jem.kernels.roots import falling_root

LOG_2PI = 1.8378770664093453
_LARGE = 20.0  # where Stirling's series is exact to rounding
_RAISE = 8  # where it is with two terms more


def residuals(structure: Structure, w: Any, mean: Array, x: Array) -> Array:
    """`W (x - mean)`, (D, N)."""
    return _residuals(structure.plain, structure.flat(w), mean, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _residuals(structure: Structure, w: Array, mean: Array, x: Array) -> Array:
    """Of factors that are arrays.

    The derivative in the mean, `-W dmean`, is worked out before it is spread over the units: the product of W with what is the
    same for all units is wasted, and XLA's fusion of it into a sum reads what is not there (jaxlib 0.10.2 and 0.12.0, on a CPU,
    N of about 2000 and more).
    """
    return structure.times(w, x - mean[:, None])


@precise
def _residuals_jvp(structure: Structure, primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    (w, mean, x), (dw, dmean, dx) = primals, tangents
    d = x - mean[:, None]
    z = structure.times(w, d)
    moves = [] if _is_zero(dw) else [structure.times(dw, d)]
    moves += [] if _is_zero(dx) else [structure.times(w, dx)]
    moves += [] if _is_zero(dmean) else [-structure.times(w, dmean[:, None])]
    return z, jnp.broadcast_to(tree.total(moves), z.shape) if moves else jnp.zeros_like(z)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


_residuals.defjvp(_residuals_jvp, symbolic_zeros=True)


def log_normal(log_det: Array, squares: Array, dim: Any) -> Array:
    """`log N(x; mean, Sigma)` (N,) of D features, from `log|Sigma|^{-1/2}` and squared whitened distances (N,)."""
    return log_det - 0.5 * squares - 0.5 * dim * LOG_2PI


def expected_log_normal(
    structure: Structure, mean: Array, w: Array, count: Array, mass: Array, m: Moments, old_mean: Array, old_w: Array
) -> Array:
    """`sum_n c_n log|W| - 1/2 u_n |W (x_n - mean)|^2 - D/2 log 2 pi`, from moments gathered at (old_mean, old_w).

    `count` is the sum of the weights c and `mass` that of the weights u of the moments; they differ for scale mixtures.
    """
    dim = mean.shape[0]
    shift = structure.times(w, (mean - old_mean)[:, None])[:, 0]
    first = structure.times(w, structure.solve(old_w, m.first[:, None]))[:, 0]
    square = structure.trace(structure.change(w, old_w, m.second), dim) - 2 * shift @ first + mass * shift @ shift
    return count * (structure.log_det(w, dim) - 0.5 * dim * LOG_2PI) - 0.5 * square


def recentre(
    structure: Structure, mass: Array, m: Moments, old_mean: Array, old_w: Array, new_mean: Array, new_w: Array
) -> Moments:
    """Moments of total `mass` about (new_mean, new_w), from those about (old_mean, old_w): `z' = A z + b`.

    `A = W' W^{-1}` and `b = W' (old_mean - new_mean)`. Nothing cancels as long as b is of the order of z.
    """
    b = structure.times(new_w, (old_mean - new_mean)[:, None])[:, 0]
    first = structure.times(new_w, structure.solve(old_w, m.first[:, None]))[:, 0]
    crossed = structure.outer(first + b) - structure.outer(first) - structure.outer(b)  # A first b^T and its transpose
    return Moments(first + mass * b, structure.change(new_w, old_w, m.second) + crossed + mass * structure.outer(b))


def log_student_t(log_det: Array, square: Array, df: Array, dim: Any) -> Array:
    """Multivariate Student-t log-density (N,) of D features and df degrees of freedom, from `log|Sigma|^{-1/2}` and squared
    whitened distances (N,)."""
    constant = log_gamma_step(0.5 * df, 0.5 * dim) - 0.5 * dim * LOG_2PI
    return log_det + constant - 0.5 * (df + dim) * jnp.log1p(square / df)


def log_gamma_step(a: Array, h: Any) -> Array:
    """`gammaln(a + h) - gammaln(a) - h log(a)` to full precision also where a is large and the terms cancel (Stirling)."""
    low, high = jnp.minimum(a, _LARGE), jnp.maximum(a, _LARGE)
    series = (high + h - 0.5) * jnp.log1p(h / high) - h + _tail(high + h) - _tail(high)
    return jnp.where(a < _LARGE, gammaln(low + h) - gammaln(low) - h * jnp.log(low), series)


def log_gamma_gap(a: Array) -> Array:
    """`a log(a) - a - gammaln(a)` to full precision also where a is large (Stirling)."""
    few, c = _raised(a)
    ratio = jnp.where(few, a, c) / c
    less = a * jnp.log(ratio) + _RAISE + jnp.log(_product(ratio * c, c))
    return jnp.where(few, less, 0) + 0.5 * jnp.log(c) - 0.5 * LOG_2PI - _tail(c)


def digamma_gap(a: Array) -> Array:
    """`log(a) - digamma(a)`, the derivative of `log_gamma_gap`, to full precision also where a is large."""
    few, c = _raised(a)
    low = jnp.where(few, a, 1)
    less = jnp.log(low / c) + sum(1 / (low + j) for j in range(_RAISE))
    y = 1 / (c * c)
    series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y * (1 / 132 - y * 691 / 32760)))))
    return jnp.where(few, less, 0) + 0.5 / c + series


def _raised(a: Array) -> tuple[Array, Array]:
    """Where a is small, and a or what Stirling's series is exact of: the recurrence of the gamma function leads back."""
    few = a < _RAISE
    return few, jnp.where(few, a + _RAISE, a)


def _product(a: Array, c: Array) -> Array:
    """`a (a + 1) ...` over as many c."""
    ratio = a / c
    for j in range(1, _RAISE):
        ratio = ratio * ((a + j) / c)
    return ratio


def _tail(x: Array) -> Array:
    """What follows `(x - 1/2) log(x) - x + log(2 pi) / 2` in Stirling's series of `gammaln(x)`, x large."""
    y = 1 / (x * x)
    return (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y * (1 / 1188 - y * 691 / 360360))))) / x


def solve_degrees_of_freedom(target: Array, low: float = 0.05, high: float = 1e4) -> Array:
    """The maximum over df of `df/2 log(df/2) - df/2 - gammaln(df/2) + df/2 target`, in log df.

    Its derivative, `log(df/2) - digamma(df/2) + target`, falls from infinity to `target`: for `target >= 0` the maximum lies
    at infinity and `high` is returned.
    """
    slope = lambda log_df, target: digamma_gap(0.5 * jnp.exp(log_df)) + target  # noqa: E731
    return jnp.exp(falling_root(slope, jnp.log(low), jnp.log(high), target))

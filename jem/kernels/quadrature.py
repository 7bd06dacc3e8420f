"""Gauss-Hermite quadrature over real vectors, centred and scaled by Newton's method."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem.kernels.linalg import cholesky_solve_lower

_FLOOR = 1e-2  # least root of a curvature: no integrand is taken to be wider than its reciprocal
_LENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.0)  # of Newton's step, the best of which is taken


def gauss_hermite(dim: int, num_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points t (M, dim) and log-weights (M,), M = num_points^dim, with `integral f(t) dt = sum_i exp(log_weight_i) f(t_i)`.

    Exact where f is the standard normal density times a polynomial of degree below `2 num_points` in each coordinate.

    Source: Golub and Welsch (1969), Math. Comp. 23.
    """
    points, weights = np.polynomial.hermite.hermgauss(num_points)
    points, log_weights = points * np.sqrt(2), np.log(weights) + points**2 + 0.5 * np.log(2)
    grid = np.array(list(itertools.product(points, repeat=dim)))
    return grid, np.array([sum(logs) for logs in itertools.product(log_weights, repeat=dim)])


def fit_gaussian(log_f: Callable[[Array], Array], start: Array, num_steps: int) -> tuple[Array, Array]:
    """The mode of a log-density over real vectors and a square root of the inverse of its curvature there.

    Newton's steps `z + H^{-1} g` with H the negative Hessian, its pivots kept positive, each of the length, out of a few,
    that climbs highest; a step that cannot climb stays.

    Args:
        log_f: maps z (d,) to a scalar.
        start: (d,).
        num_steps: number of Newton steps.

    Returns:
        The mode (d,) and R (d, d), upper triangular, with `R R^T = H^{-1}`.
    """
    dim = start.shape[0]
    floor = jnp.full(dim, _FLOOR, start.dtype)
    lengths = jnp.asarray(_LENGTHS, start.dtype)[:, None]
    slope, curvature = jax.grad(log_f), jax.hessian(log_f)

    def root(z: Array) -> Array:
        return cholesky_solve_lower(-curvature(z), jnp.eye(dim, dtype=z.dtype), floor).T

    def step(z: Array, _: None) -> tuple[Array, None]:
        r = root(z)
        tried = z[None, :] + lengths * (r @ (r.T @ slope(z)))[None, :]
        values = jax.vmap(log_f)(tried)
        return tried[jnp.argmax(jnp.where(jnp.isnan(values), -jnp.inf, values))], None

    mode = lax.scan(step, start, None, length=num_steps)[0]
    return mode, root(mode)

"""Newton steps of a length that cannot overshoot, where no curvature changes by more than a factor `e^s` over a distance s.

Of a function with slope g and curvature H (minus its second derivative) here, and `|D^3 f[h, h, d]| <= s(d) h^T H h` with
`s(d) <= rho sqrt(d^T H d)`, `f(d) >= f(0) + g^T d - (e^r - 1 - r) / r^2 d^T H d` for `r = rho sqrt(d^T H d)`. The maximum of
that bound is Newton's step shortened to `log(1 + r) / r`, r that of the whole step.

Source: Bach (2010), Electronic J. Statist. 4 (generalised self-concordance).
"""

import jax.numpy as jnp
from jax import Array

from jem.kernels.linalg import solve_psd


def length_of_moves(curvature: Array) -> Array:
    """The most `|d| / sqrt(d^T H d)` can be, bounded by `sqrt(trace(H^{-1}))`."""
    return jnp.sqrt(jnp.trace(solve_psd(curvature, jnp.eye(len(curvature), dtype=curvature.dtype))))


def bounded_step(slope: Array, curvature: Array, rho: Array) -> Array:
    """The step (m,) to the maximum of the bound, from a slope (m,), a curvature (m, m) and rho ()."""
    newton = solve_psd(curvature, slope[:, None])[:, 0]
    r = rho * jnp.sqrt(jnp.maximum(newton @ slope, 0))
    return newton * jnp.where(r > 0, jnp.log1p(r) / jnp.where(r > 0, r, 1), 1)


def bounded_gain(step: Array, slope: Array, curvature: Array, rho: Array) -> Array:
    """What the bound says that a step gains."""
    square = step @ curvature @ step
    return step @ slope - square * _growth(rho**2 * square)


def _growth(square: Array) -> Array:
    """`(e^r - 1 - r) / r^2` from `r^2`, by its series where that is small."""
    small = square < 0.1
    low, r = jnp.where(small, square, 0), jnp.sqrt(jnp.where(small, 1, square))
    root = jnp.sqrt(jnp.where(low > 0, low, 1)) * (low > 0)
    series = 1 / 2 + root / 6 + low / 24 + low * root / 120 + low**2 / 720 + low**2 * root / 5040 + low**3 / 40320
    return jnp.where(small, series, (jnp.expm1(jnp.minimum(r, 80)) - r) / jnp.where(small, 1, square))

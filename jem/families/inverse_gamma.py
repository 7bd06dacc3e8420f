"""Vectors of independent inverse gamma observations."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jem.families.centred import CentredPositive
from jem.families.gamma import sample_gamma
from jem.kernels.gaussian import log_gamma_gap
from jem.kernels.shapes import gamma_shape, log_gap, moved_gap, tightest
from jem.kernels.support import Below, Positive
from jem.node import node


class InverseGammaParams(NamedTuple):
    """Shapes (D,) and scales (D,), > 0."""

    concentration: Array
    scale: Array


@node
class InverseGamma(CentredPositive):
    """D numbers > 0, `p(x) = prod_d scale_d^c_d exp(-scale_d / x_d) / (x_d^(c_d + 1) Gamma(c_d))`; x has rows (N, D).

    1 / x has a gamma distribution. c is the concentration. It is estimated from 1e-4 to 1e6 in float32 and 6e14 in float64;
    rows that are all equal end there, and the fit as DEGENERATE.

    Params: `InverseGammaParams(concentration (D,), scale (D,))`.

    Raises:
        ValueError: at the door, x that is not (N, D), or a number that is not positive. Inside jit such a row has
            `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.InverseGamma.Params(concentration=jnp.array([1.0]), scale=jnp.array([1.0]))
        >>> round(float(jem.log_prob(jem.InverseGamma(), p, jnp.array([[1.0]]))[0]), 3)
        -1.0

    Source: Llera and Beckmann (2016), Estimating an inverse gamma distribution.
    """

    Params = InverseGammaParams

    # A gamma density of scale / x in units of its mean, which is the concentration.
    def about(self, params: InverseGammaParams, x: Array) -> tuple[Array, Array]:
        centre = params.scale / params.concentration
        return (centre - x) / x, log_gap(centre, x)

    def level(self, params: InverseGammaParams, means: tuple[Array, ...]) -> Array:
        return params.concentration * means[1] + log_gamma_gap(params.concentration)

    def moved(self, means: tuple[Array, ...], old: InverseGammaParams, new: InverseGammaParams) -> tuple[Array, Array]:
        return moved_gap(means[0], means[1], old.concentration / old.scale, new.concentration / new.scale)

    def fit(self, old: InverseGammaParams, means: tuple[Array, ...]) -> InverseGammaParams:
        mean = old.concentration / old.scale
        new = mean * (1 + means[0])
        concentration = gamma_shape(moved_gap(means[0], means[1], mean, new)[1])
        return InverseGammaParams(concentration, concentration / new)

    def start(self, x: Array, mean: Callable[[Array], Array]) -> InverseGammaParams:
        scale = 1 / mean(1 / x)
        return InverseGammaParams(jnp.ones_like(scale), scale)

    def tightness(self, params: InverseGammaParams) -> Array:
        return params.concentration

    def mean(self, params: InverseGammaParams) -> Array:
        return jnp.where(params.concentration > 1, params.scale / (params.concentration - 1), jnp.inf)

    def sample(self, key: Array, params: InverseGammaParams, num: int) -> tuple[tuple[()], Array]:
        c, scale = (p[:, None] for p in params)
        return (), scale / sample_gamma(key, c, num)

    def supports(self, params: InverseGammaParams) -> InverseGammaParams:
        return params._replace(concentration=Below(tightest(params.concentration.dtype)), scale=Positive())

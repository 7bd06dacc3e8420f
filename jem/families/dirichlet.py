"""Proportions of several parts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.families.centred import Centred
from jem.families.gamma import sample_gamma
from jem.kernels.gaussian import log_gamma_gap
from jem.kernels.shapes import dirichlet_shape, log_gap, moved_gap, tightest
from jem.kernels.support import Below
from jem.node import node

_OFF = 1e-4  # by how much proportions may miss a sum of one


class DirichletParams(NamedTuple):
    """Concentrations (D,), > 0."""

    concentration: Array


@node
class Dirichlet(Centred):
    """D proportions, `p(x) = Gamma(sum_d a_d) prod_d x_d^(a_d - 1) / Gamma(a_d)`, a the concentration.

    x has rows (N, D) of numbers > 0 that sum to one. The sum of the concentrations is estimated from 1e-4 D to 1e6 in float32
    and 6e14 in float64; rows that are all equal end there, and the fit as DEGENERATE.

    Params: `DirichletParams(concentration (D,))`.

    Raises:
        ValueError: at the door, x that is not (N, D), a number that is not positive, or a row that does not sum to one. Inside
            jit such a row has `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Dirichlet.Params(concentration=jnp.ones(3))
        >>> round(float(jem.log_prob(jem.Dirichlet(), p, jnp.array([[0.2, 0.3, 0.5]]))[0]), 3)
        0.693

    Source: Minka (2000), Estimating a Dirichlet distribution.
    """

    Params = DirichletParams

    @property
    def traits(self) -> frozenset[str]:
        return frozenset()

    def about(self, params: DirichletParams, x: Array) -> tuple[Array, Array]:
        mean = _mean(params)
        return (x - mean) / mean, log_gap(x, mean)

    def level(self, params: DirichletParams, means: tuple[Array, ...]) -> Array:
        a = params.concentration
        cells = jnp.sum(a * means[1] + log_gamma_gap(a), 0, keepdims=True)
        return cells - log_gamma_gap(jnp.sum(a, 0, keepdims=True))

    def moved(self, means: tuple[Array, ...], old: DirichletParams, new: DirichletParams) -> tuple[Array, Array]:
        return moved_gap(means[0], means[1], _mean(old), _mean(new))

    def fit(self, old: DirichletParams, means: tuple[Array, ...]) -> DirichletParams:
        return DirichletParams(dirichlet_shape(_mean(old), means[0], means[1]))

    def start(self, x: Array, mean: Callable[[Array], Array]) -> DirichletParams:
        return DirichletParams(len(x) * mean(x))

    def possible(self, x: Array) -> Array:
        return ~_not_proportions(x, 0)

    def carrier(self, x: Array) -> Array:
        return -jnp.sum(jnp.log(x), 0, keepdims=True)

    def tightness(self, params: DirichletParams) -> Array:
        return jnp.sum(params.concentration)

    def sample(self, key: Array, params: DirichletParams, num: int) -> tuple[tuple[()], Array]:
        x = sample_gamma(key, params.concentration[:, None], num)
        return (), x / jnp.sum(x, 0, keepdims=True)

    def supports(self, params: DirichletParams) -> DirichletParams:
        return params._replace(concentration=Below(tightest(params.concentration.dtype)))

    def validate(self, x: Any) -> None:
        super().validate(x)
        checks.check_values(x, "Dirichlet", checks.not_positive, "> 0")
        checks.check_values(x, "Dirichlet", _not_proportions, "rows that sum to one")


def _mean(params: DirichletParams) -> Array:
    return params.concentration / jnp.sum(params.concentration, 0, keepdims=True)


def _not_proportions(x: Array, axis: int = -1) -> Array:
    total = jnp.sum(x, axis, keepdims=True)
    return jnp.any(x <= 0, axis, keepdims=True) | (jnp.abs(total - 1) > _OFF) | jnp.isinf(total)

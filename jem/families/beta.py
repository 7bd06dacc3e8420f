"""Vectors of independent beta observations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.families.centred import Centred
from jem.families.gamma import sample_gamma
from jem.kernels.gaussian import log_gamma_gap
from jem.kernels.intervals import Edges
from jem.kernels.shapes import dirichlet_shape, log_gap, moved_gap, tightest
from jem.kernels.support import Below
from jem.node import node


class BetaParams(NamedTuple):
    """Shapes towards one (D,) and towards zero (D,), > 0: a and b."""

    concentration1: Array
    concentration0: Array


@node
class Beta(Centred):
    """D independent proportions, `p(x) = prod_d x_d^(a_d - 1) (1 - x_d)^(b_d - 1) / B(a_d, b_d)`; x has rows (N, D) in (0, 1).

    a is concentration1, b concentration0. Their sum is estimated from 2e-4 to 1e6 in float32 and 6e14 in float64; rows that are
    all equal end there, and the fit as DEGENERATE.

    Params: `BetaParams(concentration1 (D,), concentration0 (D,))`.

    Raises:
        ValueError: at the door, x that is not (N, D), or not between 0 and 1, both excluded. Inside jit such a row has
            `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Beta.Params(concentration1=jnp.array([1.0]), concentration0=jnp.array([1.0]))
        >>> abs(round(float(jem.log_prob(jem.Beta(), p, jnp.array([[0.3]]))[0]), 5))
        0.0

    Source: Minka (2000), Estimating a Dirichlet distribution.
    """

    Params = BetaParams

    def about(self, params: BetaParams, x: Array) -> tuple[Array, ...]:
        m1, m0 = _means(params)
        return (x - m1) / m1, (m1 - x) / m0, log_gap(x, m1), log_gap(1 - x, m0)

    def level(self, params: BetaParams, means: tuple[Array, ...]) -> Array:
        a, b = params
        return a * means[2] + b * means[3] + log_gamma_gap(a) + log_gamma_gap(b) - log_gamma_gap(a + b)

    def moved(self, means: tuple[Array, ...], old: BetaParams, new: BetaParams) -> tuple[Array, ...]:
        (m1, m0), (new1, new0) = _means(old), _means(new)
        away1, gap1 = moved_gap(means[0], means[2], m1, new1)
        away0, gap0 = moved_gap(means[1], means[3], m0, new0)
        return away1, away0, gap1, gap0

    def fit(self, old: BetaParams, means: tuple[Array, ...]) -> BetaParams:
        return BetaParams(*dirichlet_shape(jnp.stack(_means(old)), jnp.stack(means[:2]), jnp.stack(means[2:])))

    def start(self, x: Array, mean: Callable[[Array], Array]) -> BetaParams:
        return BetaParams(2 * mean(x), 2 * mean(1 - x))

    @property
    def edges(self) -> Edges:
        return Edges(0.0, 1.0)

    def possible(self, x: Array) -> Array:
        return (x > 0) & (x < 1)

    def carrier(self, x: Array) -> Array:
        return -jnp.log(x) - jnp.log1p(-x)

    def tightness(self, params: BetaParams) -> Array:
        return params.concentration1 + params.concentration0

    def mean(self, params: BetaParams) -> Array:
        return params.concentration1 / (params.concentration1 + params.concentration0)

    def sample(self, key: Array, params: BetaParams, num: int) -> tuple[tuple[()], Array]:
        both = sample_gamma(key, jnp.concatenate(params)[:, None], num)
        ones, zeros = jnp.split(both, 2)
        eps = jnp.finfo(ones.dtype).eps
        return (), jnp.clip(ones / (ones + zeros), jnp.finfo(ones.dtype).tiny, 1 - 0.5 * eps)

    def supports(self, params: BetaParams) -> BetaParams:
        most = Below(tightest(params.concentration1.dtype))
        return params._replace(concentration1=most, concentration0=most)

    def validate(self, x: Any) -> None:
        super().validate(x)
        checks.check_values(x, "Beta", _not_between, "between 0 and 1, both excluded")


def _means(params: BetaParams) -> tuple[Array, Array]:
    total = params.concentration1 + params.concentration0
    return params.concentration1 / total, params.concentration0 / total


def _not_between(x: Array) -> Array:
    return (x <= 0) | (x >= 1)

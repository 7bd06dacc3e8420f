"""Vectors of independent Rayleigh observations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.data import Interval
from jem.families.factorising import Factorising
from jem.kernels import intervals
from jem.kernels.intervals import Edges, Within
from jem.kernels.support import Positive
from jem.node import node, setting
from jem.settings import number


class RayleighParams(NamedTuple):
    """Scales (D,), > 0."""

    scale: Array


@node
class Rayleigh(Factorising):
    """D independent numbers > 0, `p(x) = prod_d x_d / scale_d^2 exp(-x_d^2 / (2 scale_d^2))`; x has rows (N, D).

    The length of two normal errors of deviation `scale`.

    Params: `RayleighParams(scale (D,))`.

    Attributes:
        shape, inverse_scale: Gamma prior on each `1 / (2 scale^2)`, the rate of an `Exponential` of `x^2`; 1 and 0 are maximum
            likelihood.

    Raises:
        ValueError: at the door, x that is not (N, D), or a number that is not positive. Inside jit such a row has
            `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Rayleigh.Params(scale=jnp.array([1.0]))
        >>> jem.log_prob(jem.Rayleigh(), p, jnp.array([[1.0]])).tolist()
        [-0.5]

    Source: Siddiqui (1964), Journal of Research of the National Bureau of Standards 68D.
    """

    Params = RayleighParams

    shape: Any = setting(default=1.0, must=number(above=0.0))
    inverse_scale: Any = setting(default=0.0, must=number(least=0.0))

    def natural(self, params: RayleighParams) -> tuple[Array]:
        return (-0.5 / params.scale**2,)

    def statistics(self, x: Array) -> tuple[Array]:
        return (x * x,)

    def log_normaliser(self, params: RayleighParams) -> Array:
        return 2 * jnp.log(params.scale)

    def carrier(self, x: Array) -> Array:
        return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), -jnp.inf)

    def from_means(self, means: tuple[Array]) -> RayleighParams:
        mean = means[0]
        return RayleighParams(jnp.where(mean > 0, jnp.sqrt(0.5 * jnp.where(mean > 0, mean, 1)), jnp.nan))

    def pseudo(self, dtype: Any) -> tuple[Array, tuple[Array]]:
        return jnp.asarray(self.shape, dtype) - 1, (jnp.asarray(self.inverse_scale, dtype),)

    @property
    def edges(self) -> Edges:
        return Edges(0.0)

    def within(self, params: RayleighParams, x: Interval) -> Within:
        # A square is exponential.
        ends = intervals.ends_of(x, self.edges, 1, params.scale.dtype)
        squares = ends._replace(low=ends.low**2, high=ends.high**2)
        log_prob, mean = intervals.exponential(0.5 / params.scale[:, None] ** 2, squares)
        whole = jnp.ones((1, mean.shape[1]), mean.dtype)
        return intervals.assembled(ends, jnp.sqrt(mean)[None], whole, log_prob, self.cells(params, ends.value))

    def mean(self, params: RayleighParams) -> Array:
        return params.scale * jnp.sqrt(0.5 * jnp.pi)

    def sample(self, key: Array, params: RayleighParams, num: int) -> tuple[tuple[()], Array]:
        scale = params.scale[:, None]
        return (), scale * jnp.sqrt(2 * jax.random.exponential(key, (len(scale), num), scale.dtype))

    def supports(self, params: RayleighParams) -> RayleighParams:
        return params._replace(scale=Positive())

    def features(self, x: Array) -> Array:
        return jnp.log(x)

    def validate(self, x: Array) -> None:
        super().validate(x)
        checks.check_values(x, "Rayleigh", checks.not_positive, "> 0")

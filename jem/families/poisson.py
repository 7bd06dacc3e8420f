"""Vectors of independent Poisson counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.families.counted import Counted, root_of_counts
from jem.families.factorising import Totals
from jem.kernels.counts import is_count, log_factorial, poisson_log_prob, xlogy_ratio
from jem.kernels.simplex import safe_log
from jem.kernels.support import Rate
from jem.node import node, setting
from jem.settings import number


class PoissonParams(NamedTuple):
    """Rates (D,), >= 0."""

    rate: Array


@node
class Poisson(Counted):
    """D independent counts, `p(x) = prod_d rate_d^x_d exp(-rate_d) / x_d!`; x has rows (N, D) of integers >= 0.

    Params: `PoissonParams(rate (D,))`.

    Attributes:
        shape, inverse_scale: Gamma prior on each rate, `p(rate) ~ rate^(shape - 1) exp(-inverse_scale rate)`; 1 and 0 are
            maximum likelihood.

    Raises:
        ValueError: at the door, x that is not (N, D), or no integer >= 0. Inside jit such a row has `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.log_prob(jem.Poisson(), jem.Poisson.Params(jnp.array([2.0])), jnp.array([[0], [3]])).shape
        (2,)

    Source: Hasselblad (1969), JASA 64.
    """

    Params = PoissonParams

    shape: Any = setting(default=1.0, must=number(above=0.0))
    inverse_scale: Any = setting(default=0.0, must=number(least=0.0))

    def natural(self, params: PoissonParams) -> tuple[Array]:
        return (safe_log(params.rate),)

    def statistics(self, x: Array) -> tuple[Array]:
        return (jnp.maximum(x, 0),)

    def log_normaliser(self, params: PoissonParams) -> Array:
        return params.rate

    def carrier(self, x: Array) -> Array:
        return jnp.where(is_count(x), -log_factorial(x), -jnp.inf)

    def from_means(self, means: tuple[Array]) -> PoissonParams:
        return PoissonParams(jnp.maximum(means[0], 0))

    def pseudo(self, dtype: Any) -> tuple[Array, tuple[Array]]:
        return jnp.asarray(self.inverse_scale, dtype), (jnp.asarray(self.shape, dtype) - 1,)

    def cells(self, params: PoissonParams, x: Array) -> Array:
        return jnp.where(is_count(x), poisson_log_prob(jnp.maximum(x, 0), params.rate[:, None]), -jnp.inf)

    def change(self, params: PoissonParams, stats: Totals, old: PoissonParams) -> Array:
        return jnp.sum(xlogy_ratio(stats.sums[0], params.rate, old.rate) - stats.count * (params.rate - old.rate))

    def mean(self, params: PoissonParams) -> Array:
        return params.rate

    def sample(self, key: Array, params: PoissonParams, num: int) -> tuple[tuple[()], Array]:
        return (), jax.random.poisson(key, params.rate[:, None], (params.rate.shape[0], num))

    def supports(self, params: PoissonParams) -> PoissonParams:
        return params._replace(rate=Rate())

    def features(self, x: Array) -> Array:
        return root_of_counts(x)

    def validate(self, x: Array) -> None:
        super().validate(x)
        checks.check_integers(x, "Poisson")

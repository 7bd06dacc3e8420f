"""Vectors of independent Poisson counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import checks
from jem.data import float_dtype
from jem.families.factorising import Factorising, Totals
from jem.kernels.branch import anywhere
from jem.kernels.counts import LARGE, is_count, log_factorial, poisson_log_prob, xlogy_ratio
from jem.kernels.simplex import safe_log
from jem.kernels.support import Rate
from jem.node import Data, node, setting
from jem.settings import number


class PoissonParams(NamedTuple):
    """Rates (D,), >= 0."""

    rate: Array


class PoissonPosterior(NamedTuple):
    """Nothing is hidden; the log-densities (N,), which the statistics sum."""

    log_prob: Array


@node
class Poisson(Factorising):
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

    def infer(self, params: PoissonParams, x: Data) -> tuple[PoissonPosterior, Array]:
        values, seen = self._cells(x, params)
        natural_form = super().infer

        def by_cell() -> Array:
            cells = poisson_log_prob(jnp.maximum(values, 0), params.rate[:, None])
            cells = jnp.where(is_count(values), cells, -jnp.inf)
            return jnp.sum(cells if seen is None else jnp.where(seen, cells, 0), 0)

        # Large counts cancel in the natural form. A branch, not a choice of values: it costs a logarithm for every cell.
        log_prob = lax.cond(anywhere(jnp.max(values, initial=0) >= LARGE), by_cell, lambda: natural_form(params, x)[1])
        return PoissonPosterior(log_prob), log_prob

    def expect(self, params: PoissonParams, posterior: PoissonPosterior, x: Data, weights: Array) -> Totals:
        # The log-density itself stands for its carrier, and Q is its change from here: neither cancels.
        count, sums, _ = self._totals(x, weights)
        return Totals(count, sums, jnp.where(weights > 0, posterior.log_prob, 0) @ weights)

    def expected_log_prob(self, params: PoissonParams, stats: Totals, old: PoissonParams) -> Array:
        more = xlogy_ratio(stats.sums[0], params.rate, old.rate) - stats.count * (params.rate - old.rate)
        return stats.carrier + jnp.sum(more)

    def conditioning(self, params: PoissonParams) -> Array:
        return jnp.ones((), params.rate.dtype)  # large counts take another form

    def recentre(self, stats: Totals, old: PoissonParams, new: PoissonParams) -> Totals:
        return stats._replace(carrier=self.expected_log_prob(new, stats, old))

    def sample(self, key: Array, params: PoissonParams, num: int) -> tuple[tuple[()], Array]:
        return (), jax.random.poisson(key, params.rate[:, None], (params.rate.shape[0], num))

    def supports(self, params: PoissonParams) -> PoissonParams:
        return params._replace(rate=Rate())

    def features(self, x: Array) -> Array:
        # The square root of a count has a nearly constant variance.
        return 2 * jnp.sqrt(x.astype(float_dtype(x)))

    def validate(self, x: Array) -> None:
        super().validate(x)
        checks.check_integers(x, "Poisson")

"""Vectors of independent overdispersed counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.families.counted import SIZES, Overdispersed, root_of_counts, solve_size
from jem.families.factorising import Totals
from jem.kernels.counts import is_count, log1p_gap, negative_binomial_log_prob, xlogy_ratio
from jem.kernels.support import Rate
from jem.node import Data, node


class NegativeBinomialParams(NamedTuple):
    """Means (D,), >= 0, and sizes (D,), > 0: the variance is `mean + mean^2 / size`."""

    mean: Array
    size: Array


@node
class NegativeBinomial(Overdispersed):
    """D independent overdispersed counts, Poisson with a gamma-distributed rate; x has rows (N, D) of integers >= 0.

        p(x) = prod_d Gamma(x_d + r_d) / (Gamma(r_d) x_d!) (r_d / (r_d + m_d))^r_d (m_d / (r_d + m_d))^x_d

    with means m and sizes r. A size is estimated within [1e-6, 1e8]: counts that vary less than a Poisson law has them end at
    1e8, which is that law. Hold sizes with `jem.Frozen(jem.NegativeBinomial(), size=[2.0])`; at 1 the law is geometric.

    Params: `NegativeBinomialParams(mean (D,), size (D,))`.

    Raises:
        ValueError: at the door, x that is not (N, D), or no integer >= 0. Inside jit such a row has `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.NegativeBinomial.Params(mean=jnp.array([1.0]), size=jnp.array([1.0]))
        >>> [round(float(v), 3) for v in jnp.exp(jem.log_prob(jem.NegativeBinomial(), p, jnp.array([[0], [1], [2]])))]
        [0.5, 0.25, 0.125]

    Source: Fisher (1941), Annals of Eugenics 11; Zhou and Carin (2015), IEEE Trans. PAMI 37, for the groups.
    """

    Params = NegativeBinomialParams

    def cells(self, params: NegativeBinomialParams, x: Array) -> Array:
        counts = jnp.where(is_count(x), x, 0)
        log_prob = negative_binomial_log_prob(counts, params.mean[:, None], params.size[:, None])
        return jnp.where(is_count(x), log_prob, -jnp.inf)

    def sizes(self, params: NegativeBinomialParams, x: Array) -> tuple[tuple[Array, Array]]:
        return ((jnp.where(is_count(x), x, 0), params.size[:, None]),)

    def change(self, params: NegativeBinomialParams, stats: Totals, old: NegativeBinomialParams) -> Array:
        # Groups are Poisson with mean r log(1 + m / r), and what is in them is logarithmic: as the Poisson law's Q, and gaps.
        groups, rest, *_ = stats.sums
        m, r = params
        odds, odds_old = m / r, old.mean / old.size
        rise = (m - old.mean) - (r * log1p_gap(odds) - old.size * log1p_gap(odds_old))
        less = (groups + rest) * (jnp.log1p(odds) - jnp.log1p(odds_old)) + rest * jnp.log(r / old.size) + stats.count * rise
        return jnp.sum(xlogy_ratio(groups + rest, m, old.mean) - less)

    def maximize(self, params: NegativeBinomialParams, stats: Totals) -> NegativeBinomialParams:
        groups, rest, *off = stats.sums
        some = stats.count > 0
        mean, rest, off = (jnp.where(some, s, 0) / jnp.where(some, stats.count, 1) for s in (groups + rest, rest, sum(off)))
        # r - m log(1 + m / r) of the counts start no group; `off`, where the mean is held, is how far it is off.
        mean = jnp.maximum(mean - off, 0)
        fn = lambda r, m, rest, off: r * log1p_gap(m / r) + off * m / (r + m) - rest  # noqa: E731
        size = solve_size(fn, *jnp.broadcast_arrays(mean, rest, off))
        return NegativeBinomialParams(jnp.where(some, mean, params.mean), jnp.where(some & (groups > 0), size, params.size))

    def hold(self, params: NegativeBinomialParams, stats: Totals, fields: tuple[str, ...]) -> Totals:
        if "mean" not in fields:
            return stats
        groups, rest = stats.sums
        return stats._replace(sums=(groups, rest, groups + rest - stats.count * params.mean))

    def init(self, key: Array, x: Data, weights: Array) -> NegativeBinomialParams:
        mean, variance = self.moments(x, weights)
        size = mean**2 / jnp.maximum(variance - mean, 1e-3 * mean + jnp.finfo(mean.dtype).tiny)
        return NegativeBinomialParams(mean, jnp.clip(size, 0.1, 100))

    def mean(self, params: NegativeBinomialParams) -> Array:
        return params.mean

    def sample(self, key: Array, params: NegativeBinomialParams, num: int) -> tuple[Array, Array]:
        rate_key, count_key = jax.random.split(key)
        m, r = params.mean[:, None], params.size[:, None]
        rate = jax.random.gamma(rate_key, r, (m.shape[0], num), m.dtype) * (m / r)
        return rate, jax.random.poisson(count_key, rate)

    def supports(self, params: NegativeBinomialParams) -> NegativeBinomialParams:
        return params._replace(mean=Rate(), size=SIZES)

    def features(self, x: Array) -> Array:
        return root_of_counts(x)

    def validate(self, x: Array) -> None:
        super().validate(x)
        checks.check_integers(x, "NegativeBinomial")

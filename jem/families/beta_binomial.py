"""Vectors of independent overdispersed numbers of successes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.data import float_dtype
from jem.families.counted import SIZES, TRIALS, Overdispersed, arcsine_of_shares, check_trials, column, dispersed, solve_size
from jem.families.factorising import Totals
from jem.kernels.counts import is_count, log_rising, negative_binomial_log_prob, tables, xlog1m_ratio, xlogy_ratio
from jem.kernels.intervals import Edges
from jem.kernels.support import Interval
from jem.node import Data, node, setting


class BetaBinomialParams(NamedTuple):
    """Mean probabilities (D,) of a success, and concentrations (D,), > 0: of the beta law of the probabilities."""

    probs: Array
    concentration: Array


@node
class BetaBinomial(Overdispersed):
    """D independent successes of n trials with a beta-distributed probability; x has rows (N, D) of integers 0 .. n.

        p(x) = prod_d C(n_d, x_d) B(x_d + a_d, n_d - x_d + b_d) / B(a_d, b_d)

    with `a = probs concentration` and `b = (1 - probs) concentration`; trials of one row are correlated by
    `1 / (1 + concentration)`. A concentration is estimated within [1e-6, 1e8]: where successes vary less than binomial
    ones it ends at 1e8, which is that law. Where the number of trials differs between rows, `jem.DirichletMultinomial` takes
    successes and failures as two columns.

    Params: `BetaBinomialParams(probs (D,), concentration (D,))`.

    Attributes:
        num_trials: n, one number or (D,). Of one trial no concentration can be told, and it stays at the start.

    Raises:
        ValueError: at the door, x that is not (N, D), or no integer 0 .. n. Inside jit such a row has `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.BetaBinomial.Params(probs=jnp.array([0.5]), concentration=jnp.array([2.0]))
        >>> [round(float(v), 3) for v in jnp.exp(jem.log_prob(jem.BetaBinomial(3), p, jnp.array([[0], [1], [2], [3]])))]
        [0.25, 0.25, 0.25, 0.25]

    Source: Skellam (1948), JRSS B 10; Griffiths (1973), Biometrics 29.
    """

    Params = BetaBinomialParams

    num_trials: Any = setting(must=TRIALS)

    @property
    def edges(self) -> Edges:
        return Edges(0.0, self.num_trials, whole=True)

    def cells(self, params: BetaBinomialParams, x: Array) -> Array:
        # Two negative binomial counts, given their sum: at this mean nothing cancels.
        (ones, a), (zeros, b) = self.sizes(params, x)
        num, s = ones + zeros, params.concentration[:, None]
        counts, means, sizes = (jnp.stack(pair) for pair in ((ones, zeros), (num * (a / s), num * (b / s)), (a, b)))
        both = jnp.sum(negative_binomial_log_prob(counts, means, sizes), 0)
        possible = is_count(x) & (x <= column(self.num_trials, x.dtype))
        return jnp.where(possible, both - negative_binomial_log_prob(num, num, s), -jnp.inf)

    def sizes(self, params: BetaBinomialParams, x: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        num, (p, s) = column(self.num_trials, x.dtype), params
        ones = jnp.clip(jnp.where(is_count(x), x, 0), 0, num)
        return (ones, (p * s)[:, None]), (num - ones, ((1 - p) * s)[:, None])

    def change(self, params: BetaBinomialParams, stats: Totals, old: BetaBinomialParams) -> Array:
        ones, zeros, *rest = stats.sums
        (p, s), num = params, jnp.broadcast_to(jnp.asarray(self.num_trials, params.probs.dtype), params.probs.shape)
        mean = xlogy_ratio(ones, p, old.probs) + xlog1m_ratio(zeros, p, old.probs)
        rise = log_rising(num, s) - log_rising(num, old.concentration)
        return jnp.sum(mean - sum(rest) * jnp.log(s / old.concentration) - stats.count * rise)

    def maximize(self, params: BetaBinomialParams, stats: Totals) -> BetaBinomialParams:
        ones, zeros, *rest = stats.sums
        groups, some = ones + zeros, stats.count > 0
        num = jnp.broadcast_to(jnp.asarray(self.num_trials, groups.dtype), groups.shape)
        mean = jnp.where(some, sum(rest), 0) / jnp.where(some, stats.count, 1)
        s = solve_size(lambda s, mean, num: tables(num, s)[1] - mean, mean, num)
        probs = ones / jnp.where(groups > 0, groups, 1)
        return BetaBinomialParams(jnp.where(some, probs, params.probs), jnp.where(some & (num > 1), s, params.concentration))

    def init(self, key: Array, x: Data, weights: Array) -> BetaBinomialParams:
        mean, variance = self.moments(x, weights)
        num = jnp.asarray(self.num_trials, mean.dtype)
        p = (mean + 0.5 / num) / (num + 1 / num)
        return BetaBinomialParams(p, dispersed(variance / (num * p * (1 - p)), num))

    def mean(self, params: BetaBinomialParams) -> Array:
        return jnp.asarray(self.num_trials, params.probs.dtype) * params.probs

    def sample(self, key: Array, params: BetaBinomialParams, num: int) -> tuple[Array, Array]:
        chance_key, count_key = jax.random.split(key)
        (p, s), shape = params, (params.probs.shape[0], num)
        chances = jax.random.beta(chance_key, (p * s)[:, None], ((1 - p) * s)[:, None], shape, p.dtype)
        trials = column(self.num_trials, p.dtype)
        return chances, jax.random.binomial(count_key, trials, chances, shape).astype(jnp.int32)

    def supports(self, params: BetaBinomialParams) -> BetaBinomialParams:
        return params._replace(probs=Interval(), concentration=SIZES)

    def features(self, x: Array) -> Array:
        x = x.astype(float_dtype(x))
        return arcsine_of_shares(x, column(self.num_trials, x.dtype))

    def validate(self, x: Array) -> None:
        check_trials(x, "BetaBinomial", self.num_trials)

"""Rows of overdispersed counts over categories."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.families.counted import SIZES, dispersed, root_of_shares
from jem.families.multinomial import counts_of, multinomial
from jem.kernels.counts import negative_binomial_log_prob, tables, xlogy_ratio
from jem.kernels.simplex import maximize_simplex
from jem.kernels.support import Simplex
from jem.node import Node, node, static
from jem.settings import whole


class DirichletMultinomialParams(NamedTuple):
    """Mean probabilities (D,) of the categories, summing to one, and the concentration (), > 0, of their Dirichlet law."""

    probs: Array
    concentration: Array

    @property
    def alpha(self) -> Array:
        """The Dirichlet law's parameters, (..., D)."""
        return self.probs * self.concentration[..., None]


class DirichletMultinomialPosterior(NamedTuple):
    """Expected groups (D, N) that the counts of each category fall into, what else was counted, and the log-densities (N,)."""

    groups: Array
    rest: Array
    log_prob: Array


class DirichletMultinomialStats(NamedTuple):
    """Groups (D,); `Q = -power log s - rate s - pull / s` in the concentration s, () each; log-densities () where gathered."""

    groups: Array
    power: Array
    rate: Array
    pull: Array
    log_prob: Array


@node
class DirichletMultinomial(Node):
    """Counts over D categories with Dirichlet-distributed probabilities; x has rows (N, D) of integers >= 0 with total n.

        p(x) = n! Gamma(s) / Gamma(n + s) prod_d Gamma(x_d + alpha_d) / (Gamma(alpha_d) x_d!)

    with the concentration s and `alpha = probs s`. Totals may differ from row to row; they are given, not modelled. The
    concentration is estimated within [1e-6, 1e8]: counts that vary less than multinomial ones have it end at 1e8, which is
    that law.

    Params: `DirichletMultinomialParams(probs (D,), concentration ())`.

    Attributes:
        num_trials: the total of each row that is drawn by `jem.sample`.

    Raises:
        ValueError: at the door, x that is not (N, D), or no integer >= 0. Inside jit such a row has `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.DirichletMultinomial.Params(probs=jnp.array([0.5, 0.5]), concentration=jnp.array(2.0))
        >>> [round(float(v), 3) for v in jnp.exp(jem.log_prob(jem.DirichletMultinomial(), p, jnp.array([[1, 1], [2, 0]])))]
        [0.333, 0.333]

    Source: Mosimann (1962), Biometrika 49; Zhou and Lange (2010), JCGS 19, for the bounds.
    """

    Params = DirichletMultinomialParams

    num_trials: int = static(default=1, must=whole(0))

    def infer(self, params: DirichletMultinomialParams, x: Array) -> tuple[DirichletMultinomialPosterior, Array]:
        counts, possible = counts_of(x, params.probs)
        p, total = params.probs[:, None], jnp.sum(counts, 0)
        # Negative binomial counts, given their sum: at this mean nothing cancels.
        cells = negative_binomial_log_prob(counts, total[None] * p, params.concentration * p)
        log_prob = jnp.sum(cells, 0) - negative_binomial_log_prob(total, total, params.concentration)
        log_prob = jnp.where(possible, log_prob, -jnp.inf)
        return DirichletMultinomialPosterior(*tables(counts, params.concentration * p), log_prob), log_prob

    def expect(
        self, params: DirichletMultinomialParams, posterior: DirichletMultinomialPosterior, x: Array, weights: Array
    ) -> DirichletMultinomialStats:
        # The factor Gamma(s) s^n / Gamma(n + s) is bounded by its tangent in s, which is near where s is small, and by that in
        # 1 / s, near where s is large: by shares `near` and `1 - near` of the two.
        counts, _ = counts_of(x, weights)
        total, s = jnp.sum(counts, 0), params.concentration
        groups, rest = tables(total, s)
        near = (total / (total + s)) ** 2
        power = jnp.sum(posterior.rest, 0) - near * total
        log_prob = jnp.where(weights > 0, posterior.log_prob, 0)
        sums = (v @ weights for v in (posterior.groups, power, near * groups / s, (1 - near) * rest * s, log_prob))
        return DirichletMultinomialStats(*sums)

    def maximize(self, params: DirichletMultinomialParams, stats: DirichletMultinomialStats) -> DirichletMultinomialParams:
        _, power, rate, pull, _ = stats
        root = jnp.sqrt(power**2 + 4 * rate * pull)  # of rate s^2 + power s - pull
        some, down = rate > 0, power > 0
        up = (root - power) / jnp.where(some, 2 * rate, 1)
        s = jnp.where(down, 2 * pull / jnp.where(down, power + root, 1), up)
        s = jnp.clip(jnp.where(some, s, params.concentration), SIZES.low, SIZES.high)
        return DirichletMultinomialParams(maximize_simplex(stats.groups, params.probs, 1.0), s)

    def expected_log_prob(
        self, params: DirichletMultinomialParams, stats: DirichletMultinomialStats, old: DirichletMultinomialParams
    ) -> Array:
        groups, power, rate, pull, log_prob = stats
        (p, s), (p_old, s_old) = params, old
        more = -power * jnp.log(s / s_old) - rate * (s - s_old) - pull * (1 / s - 1 / s_old)
        return log_prob + jnp.sum(xlogy_ratio(groups, p, p_old)) + more

    def init(self, key: Array, x: Array, weights: Array) -> DirichletMultinomialParams:
        counts, _ = counts_of(x, weights)
        sums = counts @ weights + 1
        p, total = sums / jnp.sum(sums), jnp.sum(counts, 0)
        some = jnp.where(total > 0, weights, 0) + 1 / weights.shape[0]
        excess = jnp.sum((counts - total[None] * p[:, None]) ** 2 / (jnp.maximum(total, 1)[None] * p[:, None]), 0) / max(
            len(p) - 1, 1
        )
        mean = lambda v: (some @ v) / jnp.sum(some)  # noqa: E731
        return DirichletMultinomialParams(p, dispersed(mean(excess), mean(total)))

    def sample(self, key: Array, params: DirichletMultinomialParams, num: int) -> tuple[Array, Array]:
        chance_key, count_key = jax.random.split(key)
        chances = jax.random.dirichlet(chance_key, params.alpha, (num,), params.probs.dtype).T
        return chances, multinomial(count_key, self.num_trials, chances)

    def sample_like(self, key: Array, params: DirichletMultinomialParams, x: Array) -> tuple[Array, Array]:
        chance_key, count_key = jax.random.split(key)
        counts, _ = counts_of(x, params.probs)
        chances = jax.random.dirichlet(chance_key, params.alpha, counts.shape[1:], params.probs.dtype).T
        return chances, multinomial(count_key, jnp.sum(counts, 0), chances)

    def recentre(
        self, stats: DirichletMultinomialStats, old: DirichletMultinomialParams, new: DirichletMultinomialParams
    ) -> DirichletMultinomialStats:
        return stats._replace(log_prob=self.expected_log_prob(new, stats, old))

    def supports(self, params: DirichletMultinomialParams) -> DirichletMultinomialParams:
        return params._replace(probs=Simplex(), concentration=SIZES)

    def features(self, x: Array) -> Array:
        return root_of_shares(x)

    def validate(self, x: Array) -> None:
        checks.check_matrix(x, "DirichletMultinomial")
        checks.check_integers(x, "DirichletMultinomial")

"""Rows of counts over categories."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.families.counted import CountPosterior, root_of_shares
from jem.kernels.counts import is_count, poisson_log_prob, xlogy_ratio
from jem.kernels.simplex import log_dirichlet, maximize_simplex
from jem.kernels.support import Simplex
from jem.node import Node, node, setting, static
from jem.settings import number, whole


class MultinomialParams(NamedTuple):
    """Probabilities (D,) of the categories, summing to one."""

    probs: Array


class MultinomialStats(NamedTuple):
    """Weighted counts (D,), and the log-densities' sum () at the parameters where they were gathered."""

    counts: Array
    log_prob: Array


@node
class Multinomial(Node):
    """Counts over D categories, `p(x) = n! prod_d probs_d^x_d / x_d!` with n the row's total; x has rows (N, D).

    Totals may differ from row to row; they are given, not modelled.

    Params: `MultinomialParams(probs (D,))`.

    Attributes:
        concentration: Dirichlet prior on probs; 1 is maximum likelihood.
        num_trials: the total of each row that is drawn by `jem.sample`.

    Raises:
        ValueError: at the door, x that is not (N, D), or no integer >= 0. Inside jit such a row has `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Multinomial.Params(jnp.array([0.5, 0.5]))
        >>> [round(float(v), 3) for v in jnp.exp(jem.log_prob(jem.Multinomial(), p, jnp.array([[1, 1], [2, 0], [0, 0]])))]
        [0.5, 0.25, 1.0]

    Source: Nigam, McCallum, Thrun and Mitchell (2000), Machine Learning 39.
    """

    Params = MultinomialParams

    concentration: Any = setting(default=1.0, must=number(above=0.0))
    num_trials: int = static(default=1, must=whole(0))

    def infer(self, params: MultinomialParams, x: Array) -> tuple[CountPosterior, Array]:
        counts, possible = counts_of(x, params.probs)
        # Poisson counts, given their sum: nothing cancels.
        total = jnp.sum(counts, 0)
        cells = poisson_log_prob(counts, total[None] * params.probs[:, None])
        log_prob = jnp.where(possible, jnp.sum(cells, 0) - poisson_log_prob(total, total), -jnp.inf)
        return CountPosterior(log_prob), log_prob

    def expect(self, params: MultinomialParams, posterior: CountPosterior, x: Array, weights: Array) -> MultinomialStats:
        counts, _ = counts_of(x, weights)
        return MultinomialStats(counts @ weights, jnp.where(weights > 0, posterior.log_prob, 0) @ weights)

    def maximize(self, params: MultinomialParams, stats: MultinomialStats) -> MultinomialParams:
        return MultinomialParams(maximize_simplex(stats.counts, params.probs, self.concentration))

    def expected_log_prob(self, params: MultinomialParams, stats: MultinomialStats, old: MultinomialParams) -> Array:
        return stats.log_prob + jnp.sum(xlogy_ratio(stats.counts, params.probs, old.probs))

    def init(self, key: Array, x: Array, weights: Array) -> MultinomialParams:
        counts = counts_of(x, weights)[0] @ weights + 1
        return MultinomialParams(counts / jnp.sum(counts))

    def sample(self, key: Array, params: MultinomialParams, num: int) -> tuple[tuple[()], Array]:
        return (), multinomial(key, self.num_trials, jnp.broadcast_to(params.probs[:, None], (params.probs.shape[0], num)))

    def sample_like(self, key: Array, params: MultinomialParams, x: Array) -> tuple[tuple[()], Array]:
        counts, _ = counts_of(x, params.probs)
        return (), multinomial(key, jnp.sum(counts, 0), jnp.broadcast_to(params.probs[:, None], counts.shape))

    def log_prior(self, params: MultinomialParams) -> Array:
        return log_dirichlet(params.probs, self.concentration)

    def recentre(self, stats: MultinomialStats, old: MultinomialParams, new: MultinomialParams) -> MultinomialStats:
        return stats._replace(log_prob=self.expected_log_prob(new, stats, old))

    def supports(self, params: MultinomialParams) -> MultinomialParams:
        return params._replace(probs=Simplex())

    def features(self, x: Array) -> Array:
        return root_of_shares(x)

    def validate(self, x: Array) -> None:
        checks.check_matrix(x, "Multinomial")
        checks.check_integers(x, "Multinomial")


def counts_of(x: Array, like: Array) -> tuple[Array, Array]:
    """The counts (D, N) in the dtype of what they meet, 0 for what is none, and which rows (N,) are counts throughout."""
    count = is_count(x)
    return jnp.where(count, x, 0).astype(like.dtype), jnp.all(count, 0)


def multinomial(key: Array, total: Any, probs: Array) -> Array:
    """Draws counts (D, N) that sum to `total`, () or (N,), with probabilities (D, N)."""
    counts = jax.random.multinomial(key, jnp.broadcast_to(jnp.asarray(total, probs.dtype), probs.shape[1:]), probs.T)
    return counts.T.astype(jnp.int32)

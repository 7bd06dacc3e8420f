"""Rows of counts over D categories: a family whose cells are not independent, written out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, xlogy

import jem
from jem.author import Node, node


class MultinomialParams(NamedTuple):
    """Probabilities (D,), summing to one."""

    probs: jax.Array


class MultinomialStats(NamedTuple):
    """Counts (D,) of the categories, and the sum () of what does not depend on the parameters."""

    counts: jax.Array
    rest: jax.Array


@node
class Multinomial(Node):
    """`p(x) = n! / (x_1! .. x_D!) prod_d probs_d^x_d`, n the sum of the row; x has rows (N, D) of whole numbers >= 0."""

    def infer(self, params, x):  # the posterior, of no latents, and log p(x), (N,)
        return (), _log_ways(x) + jnp.sum(xlogy(x, params.probs[:, None]), 0)

    def expect(self, params, posterior, x, weights):  # sums over units, linear in the weights (N,)
        return MultinomialStats(x @ weights, _log_ways(x) @ weights)

    def maximize(self, params, stats):  # where there is nothing to divide by, the old value
        total = jnp.sum(stats.counts)
        return MultinomialParams(jnp.where(total > 0, stats.counts / jnp.where(total > 0, total, 1), params.probs))

    def expected_log_prob(self, params, stats, old):  # Q
        return stats.rest + jnp.sum(xlogy(stats.counts, params.probs))

    def init(self, key, x, weights):  # one start from weighted units; sane where the weights are 0
        counts = x @ weights + 1
        return MultinomialParams(counts / jnp.sum(counts))

    def sample(self, key, params, num):
        draws = jax.random.multinomial(key, 20.0, params.probs, shape=(num, params.probs.shape[0]))
        return (), draws.T.astype(params.probs.dtype)

    def supports(self, params):
        return params._replace(probs=jem.supports.Simplex())

    def recentre(self, stats, old, new):  # these sums do not refer to the parameters
        return stats

    def features(self, x):  # numbers (F, N) in which distance means something, for starts
        return jnp.sqrt(x)


def _log_ways(x):
    return gammaln(jnp.sum(x, 0) + 1) - jnp.sum(gammaln(x + 1), 0)


truth = MultinomialParams(jnp.array([0.2, 0.3, 0.5]))
x = jem.sample(Multinomial(), jax.random.key(0), truth, 200)[1]
print(jem.testing.check_node(Multinomial(), truth, x[:60]))
fits = jem.fit_restarts(jem.Mixture(Multinomial(), 2), jax.random.key(1), x, num_restarts=4)
print(fits.best().params.components.probs.shape)

"""Counts with too many zeros: a node around another, with a hidden variable of its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlog1py, xlogy

import jem
from jem.author import Composite, Node, node


class ZeroInflatedParams(NamedTuple):
    """Probability () that a unit is zero whatever the child says, and the child's parameters."""

    zero: jax.Array
    child: Any


class ZeroInflatedPosterior(NamedTuple):
    """Probability (N,) that a unit is such a zero, and the child's posterior where it is not."""

    zero: jax.Array
    child: Any


class ZeroInflatedStats(NamedTuple):
    """How many units () are such zeros, how many there are (), and the child's statistics."""

    zeros: jax.Array
    count: jax.Array
    child: Any


@node
class ZeroInflated(Composite):
    """`p(x) = zero [x = 0] + (1 - zero) p_child(x)`."""

    child: Node

    def parts(self):  # by the name of the field that holds their parameters and statistics
        return {"child": self.child}

    def infer(self, params, x):
        inner, log_child = self.child.infer(params.child, x)
        log_zero = jnp.where(jnp.all(x == 0, 0), jnp.log(params.zero), -jnp.inf)
        log_prob = jnp.logaddexp(log_zero, jnp.log1p(-params.zero) + log_child)
        zero = jnp.where(jnp.isfinite(log_prob), jnp.exp(log_zero - log_prob), 0)
        return ZeroInflatedPosterior(zero, inner), log_prob

    def expect(self, params, posterior, x, weights):  # weights go down, statistics come up
        zeros = weights * posterior.zero
        child = self.child.expect(params.child, posterior.child, x, weights - zeros)
        return ZeroInflatedStats(jnp.sum(zeros), jnp.sum(weights), child)

    def maximize(self, params, stats):
        share = stats.zeros / jnp.where(stats.count > 0, stats.count, 1)
        return super().maximize(params, stats)._replace(zero=jnp.where(stats.count > 0, share, params.zero))

    def expected_log_prob(self, params, stats, old):
        own = xlogy(stats.zeros, params.zero) + xlog1py(stats.count - stats.zeros, -params.zero)
        return own + super().expected_log_prob(params, stats, old)

    def own_supports(self, params):  # of the fields that are no part's
        return params._replace(zero=jem.supports.Interval(0.0, 1.0))

    def init(self, key, x, weights):
        total = jnp.sum(weights)
        share = jnp.sum(jnp.where(jnp.all(x == 0, 0), weights, 0)) / jnp.where(total > 0, total, 1)
        return ZeroInflatedParams(0.9 * share + 0.05, self.child.init(key, x, weights))

    def sample(self, key, params, num):
        first, second = jax.random.split(key)
        latents, x = self.child.sample(first, params.child, num)
        zero = jax.random.bernoulli(second, params.zero, (num,))
        return (zero, latents), jnp.where(zero[None], 0, x)


model = ZeroInflated(jem.Poisson())
truth = ZeroInflatedParams(jnp.array(0.3), jem.Poisson.Params(jnp.array([4.0])))
x = jem.sample(model, jax.random.key(0), truth, 400)[1]
print(jem.testing.check_node(model, truth, x[:60]))
fit = jem.fit(model, jem.init(model, jax.random.key(1), x), x)
print(jem.standard_errors(model, fit.check().params, x).check().errors.zero.shape)
print(jem.Status(jem.fit_restarts(jem.HMM(model, 2), jax.random.key(2), x[None], num_restarts=2).best().status).name)

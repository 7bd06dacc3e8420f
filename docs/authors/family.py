"""Geometric counts: a family whose cells are independent, of one statistic each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import jem
from jem.author import Factorising, node


class GeometricParams(NamedTuple):
    """Probability (D,) of a success; x counts the failures before it."""

    prob: jax.Array


@node
class Geometric(Factorising):
    """`p(x) = prod_d prob_d (1 - prob_d)^x_d`; x has rows (N, D) of whole numbers >= 0."""

    def natural(self, params):  # eta_i, a tuple of (D,); minus infinity where something is ruled out
        return (jnp.log1p(-params.prob),)

    def statistics(self, x):  # t_i of x (D, N), a tuple; at least 0 where eta_i may be minus infinity
        return (x,)

    def log_normaliser(self, params):  # A, (D,)
        return -jnp.log(params.prob)

    def carrier(self, x):  # h, minus infinity for what cannot be
        return jnp.where((x >= 0) & (x == jnp.floor(x)), 0.0, -jnp.inf).astype(x.dtype)

    def from_means(self, means):  # the M-step: theta at which E[t_i] are these, (D,) each
        return GeometricParams(1 / (1 + means[0]))

    def supports(self, params):  # where each field may lie: coordinates for gradients and errors
        return params._replace(prob=jem.supports.Interval(0.0, 1.0))

    def sample(self, key, params, num):  # the latents, of which there are none, and x (D, num)
        draws = jax.random.geometric(key, params.prob[:, None], (params.prob.shape[0], num))
        return (), draws - jnp.ones((), params.prob.dtype)


truth = GeometricParams(jnp.array([0.1, 0.6]))
x = jem.sample(Geometric(), jax.random.key(0), truth, 300)[1]
print(jem.testing.check_node(Geometric(), truth, x[:60]))
x = x.at[::10, 0].set(jnp.nan)  # cells that nobody saw
fits = jem.fit_restarts(jem.Mixture(jem.Missing(Geometric()), 2), jax.random.key(1), x, num_restarts=4)
print(jem.Status(fits.best().status).name)

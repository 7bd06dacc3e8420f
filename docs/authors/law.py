"""Stays of a chain that end with the same probability at every step: a law of durations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlog1py

import jem
from jem.author import StayLaw, node, static


class GeometricParams(NamedTuple):
    """Probabilities (K,) that a stay ends, at any of its steps."""

    end: jax.Array


@node
class Geometric(StayLaw):
    """`p(d) = end (1 - end)^(d - 1)` for d = 1 .. D - 1, and `(1 - end)^(D - 1)` for D steps or more."""

    longest: int = static()

    def log_probs(self, params):  # (K, D), the last of D or more
        more = jnp.arange(self.longest, dtype=params.end.dtype)[None]  # steps after the first
        return xlog1py(more, -params.end[:, None]) + jnp.where(more < self.longest - 1, jnp.log(params.end)[:, None], 0)

    def start(self, counts):  # parameters from expected counts (K, D) of stays, all positive
        return GeometricParams(_share_of_ends(counts))

    def maximize(self, params, stats):  # the statistics are such counts
        new = _share_of_ends(stats)
        return GeometricParams(jnp.where(jnp.isfinite(new), new, params.end))

    def supports(self, params):
        return params._replace(end=jem.supports.Interval(0.0, 1.0))


def _share_of_ends(counts):
    ends, steps = jnp.sum(counts[:, :-1], 1), jnp.sum(counts * jnp.arange(counts.shape[1])[None], 1)
    return ends / (ends + steps)


chain = jem.HMM(jem.Poisson(), 2, transition=jem.laws.Durations(Geometric(30)), length=200)
moves = jem.laws.Cells.Params(jnp.array([[0.0, 1.0], [1.0, 0.0]]))
stays = jem.laws.Durations.Params(moves, GeometricParams(jnp.array([0.1, 0.3])))
truth = jem.HMM.Params(jnp.array([0.5, 0.5]), stays, jem.Poisson.Params(jnp.array([[1.0], [8.0]])))
x = jem.sample(chain, jax.random.key(0), truth, 4)[1].astype(float)
print(jnp.exp(Geometric(30).log_probs(stays.stays)).sum(1))
best = jem.fit_restarts(chain, jax.random.key(1), x, num_restarts=4).check().best()
print(jnp.sort(best.params.transition.stays.end).round(1))
print(jem.decode(chain, best.params, x)[0].shape)

"""Hidden Markov chains whose transition matrix changes from step to step, in the normalised form of `chain`.

Lanes last: emissions e are (T, K, S), transitions (T - 1, K, K, S), entry t the matrix of the step from t to t + 1. Steps
with `e = 1` and rows that sum to one leave every posterior and the log-likelihood as they are.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jem.kernels.chain import Smoothed


class Path(NamedTuple):
    """The posterior of a chain with the probabilities (T - 1, K, K, S) of every pair of neighbours."""

    smoothed: Smoothed
    pairs: Array


def smooth(initial: Array, transitions: Array, e: Array) -> Path:
    """Forward-backward with a matrix of its own for every step and sequence.

    Args:
        initial: (K,) probabilities of the first state.
        transitions: (T - 1, K, K, S), rows sum to one.
        e: (T, K, S) emission likelihoods, scaled so that the largest of each step is near one.

    Returns:
        The messages and posteriors, as `chain.smooth` has them, and the pairs
        `p(z_t = i, z_{t+1} = j | x) = alpha_{t, i} A_{t, ij} b_{t+1, j}`.

    Source: Rabiner (1989), Proc. IEEE 77, section V.
    """
    first = e[0] * initial[:, None]
    total = jnp.sum(first, 0)
    start = first / total[None]

    def ahead(alpha: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        matrix, e_t = inputs
        u = jnp.sum(matrix * alpha[:, None, :], 0) * e_t
        c = jnp.sum(u, 0)
        alpha = u * (1 / c)[None]
        return alpha, (alpha, c)

    def back(beta: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        matrix, w_t = inputs
        b = w_t * beta
        beta = jnp.sum(matrix * b[None], 1)
        return beta, (beta, b)

    alpha, c = lax.scan(ahead, start, (transitions, e[1:]))[1]
    beta, b = lax.scan(back, jnp.ones_like(start), (transitions, e[1:] * (1 / c)[:, None, :]), reverse=True)[1]
    alpha = jnp.concatenate([start[None], alpha])
    gamma = alpha * jnp.concatenate([beta, jnp.ones_like(start)[None]])
    gamma = gamma / jnp.sum(gamma, 1, keepdims=True)
    pairs = alpha[:-1, :, None] * transitions * b[:, None]
    return Path(Smoothed(alpha, b, gamma, jnp.log(total) + jnp.sum(jnp.log(c), 0)), pairs)

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


def viterbi(log_initial: Array, log_transitions: Array, log_e: Array, within: Array) -> tuple[Array, Array]:
    """The most probable path, as `chain.viterbi` finds it, with matrices (T - 1, K, K, S) of log-probabilities.

    Returns:
        The path (T, S) of states and its joint log-probability (S,). Ties go to the lowest state.
    """
    size = log_e.shape[1]
    stay = jnp.where(jnp.eye(size, dtype=bool), 0.0, -jnp.inf).astype(log_e.dtype)[:, :, None]

    def step(best: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        log_a, log_e_t, inside = inputs
        scores = best[:, None, :] + jnp.where(inside[None, None, :], log_a, stay)
        return jnp.max(scores, 0) + log_e_t, jnp.argmax(scores, 0).astype(jnp.int32)

    best, back = lax.scan(step, log_initial[:, None] + log_e[0], (log_transitions, log_e[1:], within[1:]))

    def trace(state: Array, pointers: Array) -> tuple[Array, Array]:
        previous = jnp.take_along_axis(pointers, state[None, :], axis=0)[0]
        return previous, previous

    last = jnp.argmax(best, 0).astype(jnp.int32)
    path = lax.scan(trace, last, back, reverse=True)[1]
    return jnp.concatenate([path, last[None]]), jnp.max(best, 0)

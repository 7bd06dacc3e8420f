"""Hidden Markov chains whose transition matrix changes from step to step, in the normalised form of `chain`.

Lanes last: emissions are (T, K, S), transitions (T - 1, K, K, S), entry t the matrix of the step from t to t + 1. Steps
with the log-likelihood 0 and rows that sum to one leave every posterior and the log-likelihood as they are.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.kernels import chain, log_chain
from jem.kernels.log_chain import Ways, by_best_way


class Path(NamedTuple):
    """The posterior of a chain.

    Attributes:
        smoothed: (T, K, S) `p(z_t | x)`.
        filtered: (T, K, S) `p(z_t | x_1..x_t)`.
        pairs: (T - 1, K, K, S) probabilities of neighbours, `p(z_t = i, z_{t+1} = j | x)`.
        log_normalizer: (S,) `log p(x)`; minus infinity where x cannot happen, and then all posteriors are zero.
    """

    smoothed: Array
    filtered: Array
    pairs: Array
    log_normalizer: Array


class _Laid(NamedTuple):
    """Matrices (T - 1, K, K, S), emissions of the steps after the first (T - 1, K, S), and c (T, S)."""

    transitions: Array
    e: Array
    c: Array


def smooth(initial: Array, log_transitions: Array, log_e: Array) -> Path:
    """Forward-backward with a matrix of its own for every step and sequence.

    Args:
        initial: (K,) probabilities of the first state.
        log_transitions: (T - 1, K, K, S) log-probabilities, rows from.
        log_e: (T, K, S) log-likelihoods of the emissions.

    Returns:
        The posteriors; in the normalised form pairs are `alpha_{t, i} A_{t, ij} b_{t+1, j}`.

    Source: Rabiner (1989), Proc. IEEE 77, section V.
    """
    return by_best_way(_Ways(), (initial, log_transitions, log_e, *chain.scaled(initial, log_e)))


@dataclasses.dataclass(frozen=True)
class _Ways(Ways):
    """Normalised, or in log space."""

    def plain(self, args: Any) -> Array:
        _, log_transitions, _, e, top = args
        return jnp.all(log_transitions >= 0.25 * jnp.log(jnp.finfo(e.dtype).tiny)) & jnp.all(top > -jnp.inf)

    def fast(self, args: Any) -> tuple[Path, _Laid]:
        initial, log_transitions, _, e, top = args
        transitions = jnp.exp(log_transitions)
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
        weights = e[1:] * (1 / c)[:, None, :]
        beta, b = lax.scan(back, jnp.ones_like(start), (transitions, weights), reverse=True)[1]
        alpha = jnp.concatenate([start[None], alpha])
        gamma = alpha * jnp.concatenate([beta, jnp.ones_like(start)[None]])
        gamma = gamma / jnp.sum(gamma, 1, keepdims=True)
        pairs = alpha[:-1, :, None] * transitions * b[:, None]
        c = jnp.concatenate([total[None], c])
        log_normalizer = jnp.sum(jnp.log(c), 0) + jnp.sum(top, 0)
        return Path(gamma, alpha, pairs, log_normalizer), _Laid(transitions, e[1:], c)

    def held(self, args: Any, seen: _Laid) -> Array:
        def step(carry: tuple[Array, Array], inputs: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
            beta, top = carry
            matrix, e_t, c_t = inputs
            w = (1 / c_t)[None] * beta
            return (jnp.sum(matrix * (e_t * w)[None], 1), jnp.maximum(top, w)), None

        one = jnp.ones_like(args[2][0])
        beta, top = lax.scan(step, (one, one), (seen.transitions, seen.e, seen.c[1:]), reverse=True)[0]
        return chain.held(jnp.maximum(top, (1 / seen.c[0])[None] * beta))

    def robust(self, args: Any) -> Path:
        initial, log_transitions, log_e, _, _ = args
        m = log_chain.smooth(log_transitions, log_chain.begun(initial, log_e))
        return Path(m.smoothed, jnp.exp(m.log_filtered), m.pairs[:-1], m.log_normalizer)


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


def sample_path(key: Array, initial: Array, log_transitions: Array) -> Array:
    """Draws state paths (T, S) from the prior, with matrices (T - 1, K, K, S) of log-probabilities."""
    num, _, _, lanes = log_transitions.shape
    first_key, rest_key = jax.random.split(key)
    first = jax.random.categorical(first_key, jnp.log(initial), shape=(lanes,))

    def step(state: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        key, log_a = inputs
        state = jax.random.categorical(key, jnp.take_along_axis(log_a, state[None, None, :], axis=0)[0], axis=0)
        return state, state

    rest = lax.scan(step, first, (jax.random.split(rest_key, num), log_transitions))[1]
    return jnp.concatenate([first[None], rest])

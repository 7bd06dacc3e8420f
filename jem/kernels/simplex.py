"""Probability vectors: the M-step under a Dirichlet prior, log-densities and safe logarithms."""

import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import xlogy


def maximize_simplex(counts: Array, old: Array, concentration: Array | float) -> Array:
    """`argmax_p sum_k (counts_k + concentration - 1) log p_k` over the last axis; `old` where there is nothing to count.

    Args:
        counts: (..., K) non-negative expected counts.
        old: (..., K) probabilities to keep where all pseudo-counts are zero.
        concentration: Dirichlet parameter, scalar or (K,), > 0; 1 is maximum likelihood. Below 1 negative pseudo-counts
            are cut at zero.

    Returns:
        (..., K) probabilities.
    """
    counts = jnp.maximum(counts + (jnp.asarray(concentration, counts.dtype) - 1), 0)
    total = jnp.sum(counts, -1, keepdims=True)
    return jnp.where(total > 0, counts / jnp.where(total > 0, total, 1), old)


def log_dirichlet(p: Array, concentration: Array | float) -> Array:
    """`sum (concentration - 1) log p`, the Dirichlet log-density up to a constant."""
    return jnp.sum(xlogy(jnp.broadcast_to(jnp.asarray(concentration, p.dtype) - 1, p.shape), p))


def normalize_log(logits: Array) -> tuple[Array, Array]:
    """Softmax and log-sum-exp over the leading axis, K first: probabilities (K, N) and normaliser (N,).

    A column of minus infinities has normaliser minus infinity and probabilities zero.
    """
    # It cancels; and the derivative of a maximum looks for entries equal to it, which recomputed ones need not be.
    top = lax.stop_gradient(jnp.max(logits, 0))
    top = jnp.where(top == -jnp.inf, 0, top)
    e = jnp.exp(logits - top[None])
    total = jnp.sum(e, 0)
    return e * (1 / jnp.where(total > 0, total, 1))[None], top + jnp.log(total)

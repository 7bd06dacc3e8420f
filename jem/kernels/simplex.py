"""Probability vectors: the M-step under a Dirichlet prior, log-densities and safe logarithms."""

import jax.numpy as jnp
import jax.scipy.special as special
from jax import Array, lax


def safe_log(p: Array) -> Array:
    """`log p`, minus infinity at 0 with derivative zero there: what is ruled out stays so, and has no say in a gradient."""
    never = p == 0
    return jnp.where(never, -jnp.inf, jnp.log(jnp.where(never, 1, p)))


def xlogy(x: Array, p: Array) -> Array:
    """`x log p`, 0 where x is 0; at p = 0 its derivatives are zero, where those of `jax.scipy.special.xlogy` are 0 / 0."""
    never = p == 0
    value = special.xlogy(x, jnp.where(never, 1, p))
    return jnp.where(never & (x != 0), jnp.where(x > 0, -jnp.inf, jnp.inf), value)


def maximize_simplex(counts: Array, old: Array, concentration: Array | float, returns: bool = False) -> Array:
    """`argmax_p sum_k (counts_k + concentration - 1) log p_k` over the last axis; `old` where there is nothing to count.

    Args:
        counts: (..., K) non-negative expected counts.
        old: (..., K) probabilities to keep where all pseudo-counts are zero. What is exactly zero is held there: the prior does
            not open it.
        concentration: Dirichlet parameter, scalar or (K,), > 0; 1 is maximum likelihood. Below 1 negative pseudo-counts
            are cut at zero.
        returns: whether a probability whose count is an exact zero, by underflow, stays positive too.

    Returns:
        (..., K) probabilities. One that is counted stays positive, if next to nothing: an exact zero could not come back.
    """
    least = 0.5 * jnp.finfo(counts.dtype).eps ** 4
    extra = jnp.where(old > 0, jnp.asarray(concentration, counts.dtype) - 1, 0)
    counts = jnp.maximum(counts + extra, 0)
    total = jnp.sum(counts, -1, keepdims=True)
    kept = (old > 0) & ((counts > 0) | returns)
    new = counts / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, jnp.where(kept, jnp.maximum(new, least), new), old)


def log_dirichlet(p: Array, concentration: Array | float) -> Array:
    """`sum (concentration - 1) log p`, the Dirichlet log-density up to a constant, over the cells that are not held at zero."""
    free = p > 0
    extra = jnp.broadcast_to(jnp.asarray(concentration, p.dtype) - 1, p.shape)
    return jnp.sum(jnp.where(free, xlogy(extra, jnp.where(free, p, 1)), 0))


def normalize_log(logits: Array) -> tuple[Array, Array]:
    """Softmax and log-sum-exp over the leading axis, K first: probabilities (K, N) and normaliser (N,).

    A column of minus infinities has normaliser minus infinity and probabilities zero, and derivatives zero.
    """
    # It cancels; and the derivative of a maximum looks for entries equal to it, which recomputed ones need not be.
    top = lax.stop_gradient(jnp.max(logits, 0))
    top = jnp.where(top == -jnp.inf, 0, top)
    e = jnp.exp(logits - top[None])
    total = jnp.sum(e, 0)
    return e * (1 / jnp.where(total > 0, total, 1))[None], top + safe_log(total)


def margins(counts: Array, sizes: tuple[int, ...]) -> list[Array]:
    """Counts (K_f,) of the levels of each factor, from those of all combinations (K_1 K_2 ..), the last factor fastest."""
    whole, axes = counts.reshape(sizes), range(len(sizes))
    return [jnp.sum(whole, tuple(a for a in axes if a != f)) for f in axes]

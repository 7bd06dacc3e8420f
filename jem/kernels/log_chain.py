"""Hidden Markov chains in log space: what the normalised form cannot hold, at about three times its cost.

A state may be e^-100 as probable as another one and yet the only way on: products underflow, their logarithms do not. What
cannot happen has the log-likelihood minus infinity, no posterior, and no derivative. Lanes last, as in `chain`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class Messages(NamedTuple):
    """A chain's posterior.

    Attributes:
        log_filtered: (T, K, S) of `p(z_t | x_1..x_t)`.
        backward: (T, K, S) `b_t = e_t beta_t / c_t`, zero at steps where it is too large for its dtype.
        smoothed: (T, K, S) `p(z_t | x)`.
        pairs: (T, K, K, S) `p(z_t = i, z_{t+1} = j | x)`, the last one zero, where every step has a matrix of its own; else
            (K, K, S), summed over the steps whose backward message is not held.
        log_normalizer: (S,) `log p(x)`.
    """

    log_filtered: Array
    backward: Array
    smoothed: Array
    pairs: Array
    log_normalizer: Array


def safe_log(p: Array) -> Array:
    """`log p`, minus infinity with the derivative zero at zero."""
    return jnp.where(p == 0, -jnp.inf, jnp.log(jnp.where(p == 0, 1, p)))


def log_sum(x: Array, axis: int) -> Array:
    """`log sum exp x` over an axis: minus infinity, with the derivative zero, where all entries are."""
    top = lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    top = jnp.where(top == -jnp.inf, 0, top)
    return safe_log(jnp.sum(jnp.exp(x - top), axis)) + jnp.squeeze(top, axis)


def begun(initial: Array, log_e: Array) -> Array:
    """Log-emissions (T, K, S), with the log-probabilities of the first state, from (K,), at the first step."""
    first = (jnp.arange(log_e.shape[0]) == 0)[:, None, None]
    return log_e + jnp.where(first, safe_log(initial)[None, :, None], 0)


def smooth(log_transition: Array, log_e: Array) -> Messages:
    """Forward-backward.

    Args:
        log_transition: (K, K), or (T - 1, K, K, S) with a matrix for every step and lane.
        log_e: (T, K, S) from `begun`.
    """
    steps, size, lanes = log_e.shape
    driven = log_transition.ndim == 4
    own = jnp.concatenate([log_transition, jnp.zeros_like(log_e, shape=(1, size, size, lanes))]) if driven else None
    matrix = lambda own: log_transition[:, :, None] if own is None else own  # noqa: E731
    limit = -0.7 * jnp.log(jnp.finfo(log_e.dtype).tiny)

    def ahead(predicted: Array, inputs: tuple[Array, Array | None]) -> tuple[Array, tuple[Array, Array, Array]]:
        log_e_t, own_t = inputs
        u = predicted + log_e_t
        c = log_sum(u, 0)
        alpha = u - _or_zero(c)[None]
        return log_sum(alpha[:, None] + matrix(own_t), 0), (predicted > -jnp.inf, alpha, c)

    predicted, alpha, c = lax.scan(ahead, jnp.zeros_like(log_e[0]), (log_e, own))[1]
    total = jnp.sum(c, 0)
    impossible = total == -jnp.inf

    def back(carry: tuple[Array, Array], inputs: Any) -> tuple[tuple[Array, Array], tuple[Array, Array, Array | None]]:
        b, rest = carry  # of the step after
        log_e_t, possible, alpha_t, c_t, own_t, last = inputs
        onward = matrix(own_t) + b[None]
        beta = jnp.where(last, 0, log_sum(onward, 1))
        both = jnp.where(impossible[None], -jnp.inf, alpha_t + beta)
        smoothed = jnp.exp(both - _or_zero(log_sum(both, 0))[None])
        # What is smoothed, split over where it goes.
        pair = jnp.where(last, 0, smoothed[:, None] * jnp.exp(onward - _or_zero(beta)[:, None]))
        held = jnp.max(b, 0) <= limit
        rest = rest if driven else rest + jnp.where(held, 0, pair)
        # What cannot be reached has no posterior, however well it would explain the rest.
        b = jnp.where(impossible[None] | ~possible, -jnp.inf, beta + log_e_t - _or_zero(c_t)[None])
        message = jnp.where(jnp.max(b, 0) <= limit, b, -jnp.inf)
        return (b, rest), (jnp.exp(message), smoothed, pair if driven else None)

    start: Any = (jnp.zeros_like(log_e[0]), None if driven else jnp.zeros_like(log_e, shape=(size, size, lanes)))
    inputs = (log_e, predicted, alpha, c, own, jnp.arange(steps) == steps - 1)
    (_, rest), (b, smoothed, pairs) = lax.scan(back, start, inputs, reverse=True)
    whole: Any = pairs if driven else rest
    return Messages(alpha, b, smoothed, whole, jnp.where(impossible, -jnp.inf, total))


def _or_zero(x: Array) -> Array:
    return jnp.where(x == -jnp.inf, 0, x)


@jax.custom_batching.custom_vmap
def anywhere(flag: Array) -> Array:
    """The flag, and under `vmap` one for all lanes: a `lax.cond` on it stays a branch, of which one side runs."""
    return flag


@anywhere.def_vmap
def _(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return anywhere(jnp.any(flag)), False


class Ways:
    """A fast way to compute something, which may lose it, and a robust one. Hashable; `args` is a tuple of arrays."""

    def plain(self, args: Any) -> Array:
        """Whether a glance at `args` shows that the fast way loses nothing."""
        raise NotImplementedError

    def fast(self, args: Any) -> tuple[Any, Any]:
        """The result, and what `held` wants to see of how it was found."""
        raise NotImplementedError

    def held(self, args: Any, seen: Any) -> Array:
        """Whether the fast way lost nothing; it costs a pass over the steps."""
        raise NotImplementedError

    def robust(self, args: Any) -> Any:
        """The result, whatever comes."""
        raise NotImplementedError


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def by_best_way(ways: Ways, args: Any) -> Any:
    """The result of the fast way where it holds, of the robust one where not: values and derivatives."""
    result, seen = ways.fast(args)
    sound = lax.cond(anywhere(~ways.plain(args)), lambda: ways.held(args, seen), lambda: jnp.array(True))

    def again(carry: tuple[Any, Array]) -> tuple[Any, Array]:
        # What does not change would be moved out of the loop, and made in any case.
        return ways.robust(lax.optimization_barrier((args, carry[1]))[0]), jnp.array(True)

    # A loop of one round or none, as a branch would copy what it only hands on.
    return lax.while_loop(lambda carry: ~carry[1], again, (result, ~anywhere(~sound)))[0]


@by_best_way.defjvp
def _by_best_way_jvp(ways: Ways, primals: Any, tangents: Any) -> Any:
    # The way is chosen first: zero times the infinite derivative of the way not taken would be NaN.
    check = lambda: ways.held(primals[0], ways.fast(primals[0])[1])  # noqa: E731
    sound = lax.cond(anywhere(~ways.plain(primals[0])), check, lambda: jnp.array(True))

    def chosen(args: Any) -> Any:
        # Made again for its derivative, so that nothing is kept of the robust way where it is not taken.
        return lax.cond(anywhere(~sound), jax.checkpoint(ways.robust), lambda a: ways.fast(a)[0], args)

    return jax.jvp(chosen, primals, tangents)

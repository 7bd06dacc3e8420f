"""Hidden Markov chains in log space: what the normalised form cannot hold, at about three times its cost.

A state may be e^-100 as probable as another one and yet the only way on: products underflow, their logarithms do not. What
cannot happen has the log-likelihood minus infinity, no posterior, and no derivative. Lanes last, as in `chain`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.backend import precise
from jem.kernels.branch import anywhere
from jem.kernels.moves import Move
from jem.kernels.rings import LOGS, log_sum, or_zero, safe_log


class Messages(NamedTuple):
    """A chain's posterior.

    Attributes:
        log_filtered: (T, M, S) of `p(z_t | x_1..x_t)`.
        backward: (T, M, S) `b_t = e_t beta_t / c_t`, zero at steps where it is too large for its dtype.
        smoothed: (T, M, S) `p(z_t | x)`.
        rest: the moves of the steps whose backward message is not held, as `Move.counts` takes them.
        log_normalizer: (S,) `log p(x)`.
    """

    log_filtered: Array
    backward: Array
    smoothed: Array
    rest: Any
    log_normalizer: Array


def begun(initial: Array, log_e: Array) -> Array:
    """Log-emissions (T, M, S), with the log-probabilities of the first state, from (M,), at the first step."""
    first = (jnp.arange(log_e.shape[0]) == 0)[:, None, None]
    return log_e + jnp.where(first, safe_log(initial)[None, :, None], 0)


def smooth(move: Move, log_e: Array) -> Messages:
    """Forward-backward.

    Args:
        move: in logarithms.
        log_e: (T, M, S) from `begun`.
    """
    steps, _, lanes = log_e.shape
    limit = -0.7 * jnp.log(jnp.finfo(log_e.dtype).tiny)

    def ahead(predicted: Array, inputs: tuple[Array, Any]) -> tuple[Array, tuple[Array, Array, Array]]:
        log_e_t, step = inputs
        u = predicted + log_e_t
        c = log_sum(u, 0)
        alpha = u - or_zero(c)[None]
        return move.at(step).ahead(LOGS, alpha), (predicted > -jnp.inf, alpha, c)

    leaving = move.leaving()
    predicted, alpha, c = lax.scan(ahead, jnp.zeros_like(log_e[0]), (log_e, leaving))[1]
    total = jnp.sum(c, 0)
    impossible = total == -jnp.inf
    summed = None if move.changes else move.nothing(steps, lanes, log_e.dtype)

    def back(carry: tuple[Array, Any], inputs: Any) -> tuple[tuple[Array, Any], tuple[Array, Array, Any]]:
        b, summed = carry  # of the step after
        log_e_t, possible, alpha_t, c_t, step, last = inputs
        beta = jnp.where(last, 0, move.at(step).back(LOGS, b))
        both = jnp.where(impossible[None], -jnp.inf, alpha_t + beta)
        smoothed = jnp.exp(both - or_zero(log_sum(both, 0))[None])
        pairs = move.at(step).split(smoothed, b, beta)
        held = last | (jnp.max(b, 0) <= limit)
        rest = jax.tree.map(lambda pair: jnp.where(held, 0, pair), pairs)
        # What cannot be reached has no posterior, however well it would explain the rest.
        b = jnp.where(impossible[None] | ~possible, -jnp.inf, beta + log_e_t - or_zero(c_t)[None])
        message = jnp.where(jnp.max(b, 0) <= limit, b, -jnp.inf)
        if summed is not None:
            summed, rest = jax.tree.map(jnp.add, summed, rest), None
        return (b, summed), (jnp.exp(message), smoothed, rest)

    inputs = (log_e, predicted, alpha, c, leaving, jnp.arange(steps) == steps - 1)
    (_, summed), (b, smoothed, each) = lax.scan(back, (jnp.zeros_like(log_e[0]), summed), inputs, reverse=True)
    rest = jax.tree.map(lambda leaf: leaf[:-1], each) if move.changes else summed
    return Messages(alpha, b, smoothed, rest, jnp.where(impossible, -jnp.inf, total))


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
@precise
def _by_best_way_jvp(ways: Ways, primals: Any, tangents: Any) -> Any:
    # The way is chosen first: zero times the infinite derivative of the way not taken would be NaN.
    check = lambda: ways.held(primals[0], ways.fast(primals[0])[1])  # noqa: E731
    sound = lax.cond(anywhere(~ways.plain(primals[0])), check, lambda: jnp.array(True))

    def chosen(args: Any) -> Any:
        # Made again for its derivative, so that nothing is kept of the robust way where it is not taken.
        return lax.cond(anywhere(~sound), jax.checkpoint(ways.robust), lambda a: ways.fast(a)[0], args)

    return jax.jvp(chosen, primals, tangents)

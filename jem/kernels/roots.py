"""Roots of one variable: bracketed, in a fixed number of halvings, with the derivative of the root put on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def falling_root(fn: Callable[..., Array], low: Any, high: Any, *args: Array) -> Array:
    """The z in [low, high] with `fn(z, *args) = 0`, elementwise and falling in z; the end on its side where there is none.

    Args:
        fn: of z and the other arguments, all of one shape.
        low: least z, a number or an array.
        high: largest z.
        *args: (...) arrays of one shape and dtype, in which the root is differentiable.

    Returns:
        z (...), to the last place: halvings of the bracket, 30 in float32 and 58 in float64. NaN for NaN.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> roots = jem.author.falling_root(lambda z, a: a - z**2, 0.0, 4.0, jnp.array([4.0, 9.0]))
        >>> [round(float(z), 3) for z in roots]
        [2.0, 3.0]

    Source: Griewank and Walther (2008), Evaluating Derivatives, chapter 15, for the derivative.
    """
    held = lax.stop_gradient(args)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        lo, hi = bounds
        mid = 0.5 * (lo + hi)
        above = fn(mid, *held) > 0  # the root is
        return jnp.where(above, mid, lo), jnp.where(above, hi, mid)

    ends = tuple(jnp.full_like(args[0], end) for end in (low, high))
    lo, hi = lax.fori_loop(0, 30 if args[0].dtype == jnp.float32 else 58, halve, lax.stop_gradient(ends))
    z = lax.stop_gradient(0.5 * (lo + hi))
    # Halving has no derivative of its own: that of the root is put on, with nothing added to its value.
    slope = jax.jvp(lambda z: fn(z, *held), (z,), (jnp.ones_like(z),))[1]
    value = fn(z, *args)
    inside = (lo > ends[0]) & (hi < ends[1]) & (slope < 0)
    put = jnp.where(inside, (value - lax.stop_gradient(value)) / jnp.where(inside, lax.stop_gradient(slope), 1), 0)
    return jnp.where(jnp.isnan(value), jnp.nan, z - put)

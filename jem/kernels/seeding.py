"""Seeding: k-means++, nearest-centre assignment, and a short climb from a start; units last."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def squared_distance(x: Array, centre: Array) -> Array:
    """Squared Euclidean distances (N,) of the columns of x (F, N) to one centre (F,)."""
    return jnp.sum((x - centre[:, None]) ** 2, 0)


def kmeans_plus_plus(key: Array, x: Array, weights: Array, num: int) -> Array:
    """Greedy k-means++: `num` units, each drawn in proportion to its squared distance to those before.

    At each step `2 + log(num)` candidates are drawn and the one that lowers the total squared distance most is kept
    (Arthur and Vassilvitskii, 2007, section 3).

    Args:
        key: a typed PRNG key.
        x: (F, N) features.
        weights: (N,) non-negative; units of weight zero are never drawn.
        num: number of centres.

    Returns:
        (num,) int indices of the units drawn. Where fewer than `num` units differ, some coincide.
    """
    trials = 2 + int(math.log(num))
    first_key, rest_key = jax.random.split(key)

    def draw(key: Array, mass: Array, shape: tuple[int, ...]) -> Array:
        mass = jnp.where(jnp.sum(mass) > 0, mass, weights)
        cumulative = jnp.cumsum(mass)
        u = jax.random.uniform(key, shape, mass.dtype) * cumulative[-1] * (1 - jnp.finfo(mass.dtype).eps)
        index = jnp.searchsorted(cumulative, u, side="right")
        return jnp.minimum(index, mass.shape[0] - 1)

    first = draw(first_key, weights, ())
    nearest = squared_distance(x, x[:, first])

    def step(nearest: Array, index: Array) -> tuple[Array, Array]:
        candidates = draw(jax.random.fold_in(rest_key, index), nearest * weights, (trials,))
        distances = jax.vmap(lambda i: jnp.minimum(nearest, squared_distance(x, x[:, i])))(candidates)
        best = jnp.argmin(distances @ weights)
        return distances[best], candidates[best]

    _, others = jax.lax.scan(step, nearest, jnp.arange(1, num))
    return jnp.concatenate([first[None], others])


def assign_nearest(x: Array, centres: Array) -> Array:
    """Index (N,) of the nearest of the centres (K, F) for each column of x (F, N)."""

    def step(carry: tuple[Array, Array, Array], centre: Array) -> tuple[tuple[Array, Array, Array], None]:
        best, index, k = carry
        distance = squared_distance(x, centre)
        closer = distance < best
        return (jnp.where(closer, distance, best), jnp.where(closer, k, index), k + 1), None

    n = x.shape[1]
    start = (jnp.full(n, jnp.inf, x.dtype), jnp.zeros(n, jnp.int32), jnp.zeros((), jnp.int32))
    return jax.lax.scan(step, start, centres)[0][1]


def draw_units(key: Array, x: Any, weights: Array, num: int = 256) -> tuple[Any, Array]:
    """At most `num` units, drawn in proportion to their weights, and weights for these that sum to one.

    Args:
        key: a typed PRNG key.
        x: a tree of arrays, units last.
        weights: (..., N) >= 0; leading axes are summed over for the draw.
        num: units to keep; all of them where there are no more.

    Source: systematic sampling, Madow and Madow (1944), Annals of Mathematical Statistics 15.
    """
    mass = jnp.sum(weights, tuple(range(weights.ndim - 1)))
    if mass.shape[0] > num:
        cumulative = jnp.cumsum(mass)
        places = (jnp.arange(num) + jax.random.uniform(key, (), mass.dtype)) / num * cumulative[-1]
        index = jnp.minimum(jnp.searchsorted(cumulative, places, side="right"), mass.shape[0] - 1)
        x = jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=-1), x)
        each = jnp.take(mass, index)
        weights = jnp.where(each > 0, jnp.take(weights, index, axis=-1) / jnp.where(each > 0, each, 1), 0)
    total = jnp.sum(weights)
    return x, weights / jnp.where(total > 0, total, 1)


def climb(fn: Callable[[Array], Array], start: Array, num: int = 40, length: float = 0.1) -> Array:
    """A point (n,) higher up than `start`, by `num` evaluations of `fn` and its gradient; finite wherever `start` is.

    Every coordinate has a step of its own, along the sign of its slope: half as long where that turned, half as long again
    where it did not. What is not higher, or not finite, is not taken.

    Source: Riedmiller and Braun (1993), IEEE Conference on Neural Networks (Rprop).
    """
    rise = jax.value_and_grad(fn)

    def step(carry: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], None]:
        at, value, slope, size = carry
        new = at + size * jnp.sign(slope)
        new_value, new_slope = rise(new)
        sound = jnp.isfinite(new_value) & jnp.all(jnp.isfinite(new_slope)) & jnp.all(jnp.isfinite(new))
        higher = sound & (new_value > value)
        turned = sound & (new_slope * slope < 0)
        shrink = turned | ~(higher | jnp.any(turned))
        size = size * jnp.where(shrink, 0.5, jnp.where(higher, 1.5, 1.0))
        take = lambda a, b: jnp.where(higher, a, b)  # noqa: E731
        return (take(new, at), take(new_value, value), take(new_slope, slope), size), None

    value, slope = rise(start)
    value, slope = jnp.where(jnp.isfinite(value), value, -jnp.inf), jnp.where(jnp.isfinite(slope), slope, 0)
    return jax.lax.scan(step, (start, value, slope, jnp.full_like(start, length)), None, length=num)[0][0]

"""Seeding: k-means++ and nearest-centre assignment, units last."""

import math

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

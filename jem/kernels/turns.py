"""Turns of pairs of axes: eigenvectors of one matrix, and common axes of several, in plain operations that batch.

A sweep turns each pair of the D axes once, D / 2 disjoint pairs at a time. Near the end a sweep squares what is left beside the
diagonals of one matrix, and started from matrices that are nearly diagonal it has little to do.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem.kernels.linalg import diagonal

# From K matrices (K, D, D) and P pairs of axes i and j to the tangents of their turns (K or 1, P).
Choice = Callable[[Array, Array, Array], Array]


def rounds(dim: int) -> np.ndarray:
    """The pairs of D axes in rounds of disjoint ones, (R, 2, P): the circle of a tournament."""
    size = dim + dim % 2
    ring, found = list(range(1, size)), []
    for _ in range(size - 1):
        order = [0, *ring]
        pairs = [sorted((order[p], order[size - 1 - p])) for p in range(size // 2)]
        found.append([pair for pair in pairs if pair[1] < dim])
        ring = ring[-1:] + ring[:-1]
    return np.swapaxes(np.array(found, int).reshape(len(found), -1, 2), 1, 2)


def tangent(beside: Array, apart: Array) -> Array:
    """Of the turn by at most 45 degrees that takes `beside` off a matrix whose diagonal entries are `apart`, `t_jj - t_ii`.

    It minimises `-beside sin(2 angle) - apart/2 cos(2 angle)` where apart >= 0.

    Source: Golub and Van Loan (2013), Matrix Computations, section 8.5.2.
    """
    size = jnp.abs(beside) + jnp.abs(apart)
    unit = jnp.where(size > 0, size, 1)  # squares are taken of what is near one
    b, d = 2 * beside / unit, apart / unit
    square = b * b + d * d
    root = jnp.sqrt(jnp.where(size > 0, square, 1))
    return jnp.where(d < 0, -b, b) / (jnp.abs(d) + root)


def after(t_ii: Array, t_ij: Array, t_jj: Array, tan: Array) -> tuple[Array, Array]:
    """Both diagonal entries after a turn."""
    square = tan * tan
    moved = 2 * tan * t_ij
    return (t_ii - moved + square * t_jj) / (1 + square), (t_jj + moved + square * t_ii) / (1 + square)


def sweep(t: Array, turned: Array, choose: Choice) -> tuple[Array, Array]:
    """One sweep over symmetric matrices t (K, D, D), whose axes so far are `turned` (K or 1, D, D), one for all or one each.

    Args:
        t: the matrices in coordinates of the axes.
        turned: axes in columns.
        choose: says the tangents of the turns of pairs, as many as there are axes.

    Returns:
        t and the axes after it.
    """
    dim = t.shape[-1]
    if dim == 1:
        return t, turned
    table = jnp.asarray(rounds(dim))
    eye = jnp.eye(dim, dtype=t.dtype)[None]

    def turn(r: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        t, turned = carry
        i, j = lax.dynamic_index_in_dim(table, r, keepdims=False)
        tan = choose(t, i, j)
        cos = 1 / jnp.sqrt(1 + tan * tan)
        sin = tan * cos
        move = jnp.broadcast_to(eye, turned.shape)
        move = move.at[:, i, i].set(cos).at[:, j, j].set(cos).at[:, i, j].set(sin).at[:, j, i].set(-sin)
        t = jnp.swapaxes(move, -1, -2) @ t @ move
        return 0.5 * (t + jnp.swapaxes(t, -1, -2)), turned @ move

    return lax.fori_loop(0, len(table), turn, (t, turned))


def each(t: Array, i: Array, j: Array) -> Array:
    """Every matrix has axes of its own: its eigenvectors (Jacobi)."""
    return tangent(t[:, i, j], t[:, j, j] - t[:, i, i])


def pooled(weights: Array) -> Choice:
    """The axes of all are the eigenvectors of `sum_k weights_k t_k`."""
    return lambda t, i, j: each(jnp.sum(weights[:, None, None] * t, 0, keepdims=True), i, j)


def common(weights: Callable[[Array], Array], growth: Callable[[Array], Array], least: Array) -> Choice:
    """The axes of all make `sum_k f_k(log prod_i t_kii)` small, f rising: those of matrices that share nothing but them.

    Tried for each pair are the turn that minimises the majoriser `sum_k v_k (t_kii / old t_kii + t_kjj / old t_kjj)`, those
    that make one of the matrices diagonal there, which leads away from a saddle, and none; the best for the objective is taken.

    Args:
        weights: `v (K,)`, the slopes f_k, from the diagonals (K, D).
        growth: of each term `v_k growth(log(t_kii t_kjj / old))`, a bound of how the objective changes.
        least: (K, D) below which a diagonal is noise.

    Source: Flury and Gautschi (1986), SIAM J. Sci. Stat. Comput. 7; Browne and McNicholas (2014), Adv. Data Anal. Classif. 8.
    """

    def choose(t: Array, i: Array, j: Array) -> Array:
        b = jnp.maximum(diagonal(t), least)
        v = weights(b)[:, None]
        b = jnp.where(v > 0, b, 1)
        t_ii, t_ij, t_jj = b[:, i], t[:, i, j], b[:, j]
        q = v * (1 / t_ii - 1 / t_jj)
        total = lambda a: jnp.sum(a, 0, keepdims=True)  # noqa: E731
        best = tangent(total(q * t_ij), total(q * (t_jj - t_ii)))
        tried = jnp.concatenate([jnp.zeros_like(best), best, tangent(t_ij, t_jj - t_ii)])  # (2 + K, P)
        new_ii, new_jj = after(t_ii[None], t_ij[None], t_jj[None], tried[:, None])
        low_i, low_j = (jnp.where(v > 0, least[:, at], 1)[None] for at in (i, j))
        ratio = jnp.log(jnp.maximum(new_ii, low_i) / t_ii[None]) + jnp.log(jnp.maximum(new_jj, low_j) / t_jj[None])
        value = jnp.sum(v[None] * growth(ratio), 1)
        return jnp.take_along_axis(tried, jnp.argmin(value, 0)[None], 0)

    return choose

"""All components of a plate at once: their whitened distances and moments as a few wide matrix products.

With o a point between the means, `|W (x - m)|^2 = |W (x - o)|^2 - 2 (W (x - o)) . (W (m - o)) + |W (m - o)|^2`, and what
depends on x and not on the component is formed once. Terms of the size of `|W (m - o)|^2` cancel in it: where the means are so
far apart that this would be seen, each component is looked at by itself. K components, D features, N units, units last; a
factor w that all share has no axis K.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem import tree
from jem.kernels.branch import anywhere
from jem.kernels.covariance import Moments, Structure
from jem.kernels.gaussian import residuals

T = TypeVar("T")

_WIDE = 32  # features from which blocks of a triangular factor, four or of half as many rows, are faster than all of it
_LOSS = {4: 30.0, 8: 1e4}  # what rounding may be magnified by, per feature, by the bytes of a number


def squares(structure: Structure, w: Array, mean: Array, x: Array) -> Array:
    """`|W_k (x_n - mean_k)|^2`, (K, N)."""

    def each() -> Array:
        one = lambda w, m: tree.total(jnp.sum(z * z, 0) for z in _whitened(structure, w, m, x))  # noqa: E731
        return jax.vmap(one, (0 if w.ndim > 2 else None, 0))(w, mean)

    if w.ndim == 2:
        z, nu = _shared(structure, w, mean, x)
        wide = lambda: jnp.sum(z * z, 0)[None, :] - 2 * nu @ z + jnp.sum(nu * nu, 1)[:, None]  # noqa: E731
        return _where_near(jnp.sum(nu * nu, 1), mean, wide, each)
    if not _pays(structure, mean):
        return each()
    y, m, root, pool = _scaled(structure, w, mean, x)
    p = root * root
    h = p * m
    parts = mean.shape[1] // p.shape[1]  # features in one precision
    wide = lambda: jnp.concatenate([-2 * h, parts * p], 1) @ _powers(y, pool) + jnp.sum(h * m, 1)[:, None]  # noqa: E731
    return _where_near(jnp.sum(h * m, 1), mean, wide, each)


def moments(structure: Structure, w: Array, mean: Array, x: Array, weights: Array) -> Moments:
    """Whitened moments of each component about its mean, for weights (K, N), with a leading axis K.

    Where the factor is shared, second moments need only be right in the sum over the components: each has a K-th of it.
    """

    def each() -> Moments:
        one = lambda w, m, v: _in_blocks(structure, _whitened(structure, w, m, x), v)  # noqa: E731
        return jax.vmap(one, (0 if w.ndim > 2 else None, 0, 0))(w, mean, weights)

    if w.ndim == 2:
        z, nu = _shared(structure, w, mean, x)
        # No squares cancel: what is lost goes with the distances themselves.
        return _where_near(jnp.sqrt(jnp.sum(nu * nu, 1)), mean, lambda: _pooled(structure, z, nu, weights), each)
    if not _pays(structure, mean):
        return each()
    y, m, root, pool = _scaled(structure, w, mean, x)

    def wide() -> Moments:
        sums = (_powers(y, pool) @ weights.T).T  # the longer side of the product first
        first, second = sums[:, : len(y)], sums[:, len(y) :]
        count = jnp.sum(weights, 1)[:, None]
        square = second - 2 * pool((m * first).T).T + count * pool((m * m).T).T
        return Moments(root * (first - count * m), (root * root * square)[..., None])

    return _where_near(jnp.sum((root * m) ** 2, 1), mean, wide, each)


def _whitened(structure: Structure, w: Array, mean: Array, x: Array) -> list[Array]:
    """`W (x - mean)` in blocks of features: the zeros of a wide triangular factor are left out of the products."""
    dim = len(mean)
    if not structure.triangular or dim < _WIDE:
        return [residuals(structure, w, mean, x)]
    size = max(_WIDE // 2, -(-dim // 4))
    return [residuals(structure, w[end - size : end, :end], mean[:end], x[:end]) for end in range(size, dim + size, size)]


def _in_blocks(structure: Structure, z: list[Array], weights: Array) -> Moments:
    """Moments of what is whitened in blocks; of second ones the upper half is the lower."""
    if len(z) == 1:
        return structure.moments(z[0], weights)
    weighted = [weights[None, :] * block for block in z]
    lower = [[a @ b.T for b in z[: i + 1]] for i, a in enumerate(weighted)]
    both = [[lower[i][j] if j <= i else lower[j][i].T for j in range(len(z))] for i in range(len(z))]
    return Moments(jnp.concatenate([jnp.sum(a, 1) for a in weighted]), jnp.block(both))


def _pays(structure: Structure, mean: Array) -> bool:
    """Whether one wide product is less work than K small ones."""
    return structure.separate and mean.size >= 24


def _where_near(lost: Array, mean: Array, wide: Callable[[], T], each: Callable[[], T]) -> T:
    """The wide form while rounding, magnified as many times (K,), is not seen; else each component by itself."""
    near = jnp.max(lost) <= _LOSS[mean.dtype.itemsize] * mean.shape[1]
    return lax.cond(anywhere(~near), each, wide)


def _shared(structure: Structure, w: Array, mean: Array, x: Array) -> tuple[Array, Array]:
    """x (D, N) and the means (K, D), whitened by the one factor, about the middle of the means."""
    middle = lax.stop_gradient(jnp.mean(mean, 0))
    return residuals(structure, w, middle, x), structure.times(w, (mean - middle[None]).T).T


def _scaled(
    structure: Structure, w: Array, mean: Array, x: Array
) -> tuple[Array, Array, Array, Callable[[Array], Array]]:
    """Of factors that are F numbers, one for each feature or one for all: x (D, N) and the means (K, D) about their middle, in
    the least deviations; the factors (K, F) in these; and what pools the squares of features, (D, N) to (F, N)."""
    middle, unit = lax.stop_gradient((jnp.mean(mean, 0), jnp.max(w, 0)))
    pool = lambda squares: jax.vmap(structure.pool, 1, 2)(squares)[:, 0]  # noqa: E731
    return (x - middle[:, None]) * unit, (mean - middle[None]) * unit.T, (w / unit[None])[..., 0], pool


def _powers(y: Array, pool: Callable[[Array], Array]) -> Array:
    return jnp.concatenate([y, pool(y * y)])


def _pooled(structure: Structure, z: Array, nu: Array, weights: Array) -> Moments:
    """Moments about means nu (K, D) of units z (D, N) in the coordinates of one factor.

    About the mean of the means by a unit's weights, `m_n`, nothing of the size of the distances is squared:
    `sum_k v_kn (z_n - nu_k)(z_n - nu_k)^T = s_n d_n d_n^T + sum_k<l v_kn v_ln / s_n (nu_k - nu_l)(nu_k - nu_l)^T`,
    where `s_n = sum_k v_kn` and `d_n = z_n - m_n`.
    """
    total = jnp.sum(weights, 0)
    share = weights / jnp.where(total > 0, total, 1)[None, :]
    d = z - nu.T @ share
    common = share @ weights.T  # of two components
    gaps = nu[:, None] - nu[None, :]
    first = weights @ d.T - jnp.einsum("kl,kld->kd", common, gaps)
    above = np.triu_indices(len(nu), 1)
    second = structure.moments(d, total).second + structure.moments(gaps[above].T, common[above]).second
    return Moments(first, jnp.broadcast_to(second / len(nu), (len(nu), *second.shape)))

"""Covariances of parts, `Sigma_k = lambda_k O_k A_k O_k^T`: volume, shape and orientation, each shared or of a copy's own.

The M-step minimises, over what is shared and what is not,

    sum_k n_k log|Sigma_k| + tr(Sigma_k^{-1} S_k),      B_k = diag(O_k^T S_k O_k),

a part after the other: the orientation turns towards smaller B, a shape is `A_k ~ B_k` or `A ~ sum_k B_k / lambda_k`, a volume
is `lambda_k = tr(A_k^{-1} B_k) / (n_k D)` or the same of the sums over k. None of these steps raises it, and where volumes are
shared, or shapes are not, shapes and volumes are exact at once. The scatter is looked at along the axes there are, in units of
the largest deviation.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import tree
from jem.kernels.covariance.structure import Moments, Pseudo, Structure

_ROUNDS = 8  # of the parts in turn, at a step: with what the last step found they end where they should within a few steps


class Scatter(NamedTuple):
    """Of K copies: counts (K,) that sum to one, and scatter and floor per unit of it, in the structure's shape, along axes."""

    count: Array
    second: Array
    floor: Array


class Sizes(NamedTuple):
    """Volumes (K or 1,) and shapes (K or 1, D) as variances, one for all where they are shared."""

    volume: Array
    shape: Array


class Parts(Structure):
    """Structures whose factors are records of parts, of which `jem.Tied` shares some; w is such a record.

    The parts of sizes are reciprocal deviations, as those of any whitening: `volume = |Sigma|^{-1/(2D)}`, and `shape (D,)` with
    product one. A new one is a file with `plain`, `flat`, `from_diagonal`, `solve`, `change`, `condition`, what users give,
    `support` and the members below down to `turn_axes`.
    """

    parts: tuple[str, ...] = ()

    def record(self, **parts: Any) -> Any:
        """A factor of these parts."""
        raise TypeError(f"{type(self).__name__} does not define record")

    def along(self, w: Any, s: Array, unit: Array) -> Array:
        """Second moments s, in the coordinates of w, as they are along its axes in this unit."""
        raise TypeError(f"{type(self).__name__} does not define along")

    def turn(self, s: Scatter, sizes: Sizes, turned: Array, shared: frozenset[str]) -> tuple[Scatter, Array]:
        """The scatter after the axes have turned towards smaller variances, and the axes in those there were."""
        return s, turned

    def still(self, num: int, w: Any) -> Array:
        """Axes of `num` that have not turned."""
        return jnp.zeros(num, w.volume.dtype)

    def variances(self, s: Scatter) -> Array:
        """The scatter of each axis (K, D), at or above the floor."""
        raise TypeError(f"{type(self).__name__} does not define variances")

    def turn_axes(self, w: Any, turned: Array) -> Any:
        """The factor with its axes turned."""
        return w

    def times(self, w: Any, d: Array) -> Array:
        return self.plain.times(self.flat(w), d)

    def moments(self, z: Array, weights: Array) -> Moments:
        return self.plain.moments(z, weights)

    def restrict(self, s: Array) -> Array:
        return self.plain.restrict(s)

    def pool(self, squares: Array) -> Array:
        return self.plain.pool(squares)

    def outer(self, z: Array) -> Array:
        return self.plain.outer(z)

    def trace(self, s: Array, dim: int) -> Array:
        return self.plain.trace(s, dim)

    def seen(self, w: Any, deviation: Array) -> Array:
        return self.plain.seen(self.flat(w), deviation)

    def shares(self, w: Any, deviation: Array) -> Array:
        return self.plain.shares(self.flat(w), deviation)

    def log_det(self, w: Any, dim: int) -> Array:
        return dim * jnp.log(w.volume) + jnp.sum(jnp.log(w.shape))

    def axes(self, fields: tuple[str, ...]) -> Any:
        if fields == ("whitening",):
            return None
        return self.record(**{part: None if part in fields else 0 for part in self.parts})

    def maximize(self, w: Any, count: Array, scatter: Array, prior: Pseudo | None, dim: int) -> Any:
        one = jax.tree.map(lambda a: a[None], w)
        return jax.tree.map(lambda a: a[0], self.tie(one, count[None], scatter[None], prior, dim, ()))

    def tie(
        self, w: Any, count: Array, scatter: Array, prior: Pseudo | None, dim: int, fields: tuple[str, ...]
    ) -> Any:
        shared = frozenset(self.parts if fields == ("whitening",) else fields)
        if not shared <= set(self.parts):
            raise ValueError(f"Tied: covariances of the structure {self!r} share some of {self.parts}; got {fields}")
        old = w._replace(**{part: getattr(w, part)[None] for part in self.parts if part in shared})
        some = count > 0
        new = self._climb(old, jnp.where(some, count, 0), scatter, prior, shared)
        for part in self.parts:
            kept = jnp.any(some)[None] if part in shared else some
            new = new._replace(**{part: tree.where(kept, getattr(new, part), getattr(old, part))})
        return new._replace(**{part: getattr(new, part)[0] for part in shared})

    def _climb(self, w: Any, count: Array, scatter: Array, prior: Pseudo | None, shared: frozenset[str]) -> Any:
        """The parts after the rounds, those shared with an axis of length one."""
        num = count.shape[0]
        some = count > 0
        each = jax.tree.map(lambda a: jnp.broadcast_to(a, (num, *a.shape[1:])), w)
        unit = jnp.max(w.volume)
        s = self._scatter(each, count, scatter, prior, unit)
        sizes = Sizes((unit / w.volume) ** 2, 1 / w.shape**2)

        def step(_: Any, state: tuple[Scatter, Sizes, Array]) -> tuple[Scatter, Sizes, Array]:
            s, sizes, turned = state
            s, turned = self.turn(s, sizes, turned, shared)
            return s, _sized(s.count, self.variances(s), sizes, some, shared), turned

        start = s, sizes, self.still(1 if "orientation" in shared else num, w)
        _, sizes, turned = jax.lax.fori_loop(0, _ROUNDS, step, start)
        w = w._replace(volume=unit / jnp.sqrt(sizes.volume), shape=1 / jnp.sqrt(sizes.shape))
        return self.turn_axes(w, turned)

    def _scatter(self, w: Any, count: Array, scatter: Array, prior: Pseudo | None, unit: Array) -> Scatter:
        """Along the axes of each copy, every one with its prior."""
        # What is left of a variance below its rounding is noise: a step shrinks to there, the next one sees more.
        rounding = 8 * w.shape.shape[-1] * jnp.finfo(unit.dtype).eps
        floor = rounding * jax.vmap(lambda w: self.pool(jnp.ones_like(w.shape)))(w)
        if prior is not None:
            seen = jax.vmap(self.seen, (0, None))
            strength = jnp.where(count > 0, prior.strength, 0)
            own = seen(w, prior.deviation)
            count, scatter = count + strength, scatter + jnp.reshape(strength, (-1,) + (1,) * (own.ndim - 1)) * own
            floor = floor + seen(w, prior.floor)
        total = jnp.sum(count)
        total = jnp.where(total > 0, total, 1)
        along = jax.vmap(self.along, (0, 0, None))
        return Scatter(count / total, along(w, scatter / total, unit), along(w, floor, unit))


def _sized(count: Array, b: Array, old: Sizes, some: Array, shared: frozenset[str]) -> Sizes:
    """Shapes and volumes for variances b (K, D) along the axes; where nothing is counted they stay."""
    volume, shape = old
    if "shape" in shared:
        b_of = jnp.sum(b / volume[:, None], 0, keepdims=True)
    else:
        b_of = jnp.where(some[:, None], b, shape)
    shape = b_of / jnp.exp(jnp.mean(jnp.log(b_of), 1, keepdims=True))
    total = jnp.mean(b / shape, 1)
    if "volume" in shared:
        return Sizes(jnp.sum(total, keepdims=True) / jnp.sum(count), shape)
    return Sizes(jnp.where(some, total / jnp.where(some, count, 1), volume), shape)

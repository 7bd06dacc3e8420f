"""What a structure of a covariance is asked, and what follows from the answers.

A covariance is carried as a factor with a positive diagonal: as its whitening W, `W Sigma W^T = I`, hence
`Sigma^{-1} = W^T W` and `log|Sigma| = -2 sum log diag W`, or in state-space models as the factor C with `C C^T = Sigma`.
Moments are gathered about the old mean and in whitened coordinates, `z = W (x - mean)`. D features, N units, units last.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import tree
from jem.backend import precise
from jem.documented import Documented
from jem.kernels.linalg import solve_lower
from jem.kernels.support import Support


class Moments(NamedTuple):
    """First and second whitened moments about a reference: `sum w z` (D,) and `sum w z z^T` (the structure's shape)."""

    first: Array
    second: Array


class Pseudo(NamedTuple):
    """A prior on a covariance as pseudo-statistics: its count () and deviations (D,), and the floor (D,) of all deviations."""

    strength: Array
    deviation: Array
    floor: Array


class Structure(Documented):
    """A kind of covariance matrices; w is a factor of one, s second moments, both in the structure's own shape.

    A new one is a file with the members down to `support`; the others follow. A family asks, and never looks which it is.
    """

    separate = False  # whether a factor is numbers for one feature at a time
    triangular = False  # whether it is a lower triangular matrix

    @property
    def plain(self) -> "Structure":
        """The structure whose factors are arrays that whiten as those of this one do: itself, but for factors of parts."""
        return self

    def flat(self, w: Any) -> Array:
        """W as an array, a factor of `plain`."""
        return w

    def diagonal(self, w: Array, dim: int) -> Array:
        """The diagonal of the factor, (D,)."""
        raise TypeError(f"{type(self).__name__} does not define diagonal")

    def from_diagonal(self, diagonal: Array) -> Array:
        """The factor with this diagonal (D,) and nothing beside it: what fits start from, with reciprocal deviations."""
        raise TypeError(f"{type(self).__name__} does not define from_diagonal")

    def times(self, w: Array, d: Array) -> Array:
        """`W d` for vectors d (D, N): whitens them."""
        raise TypeError(f"{type(self).__name__} does not define times")

    def solve(self, w: Array, z: Array) -> Array:
        """`W^{-1} z` for vectors z (D, N): colours them."""
        raise TypeError(f"{type(self).__name__} does not define solve")

    def moments(self, z: Array, weights: Array) -> Moments:
        """`sum_n w_n z_n` and what the structure keeps of `sum_n w_n z_n z_n^T`, for z (D, N)."""
        raise TypeError(f"{type(self).__name__} does not define moments")

    def conditional(self, w: Array, d: Array, seen: Array) -> tuple[Array, Array]:
        """The mean (D, N) of z given the seen cells, d being 0 in the others, and `1/2 log|W_u^T W_u|` of these (N,)."""
        raise TypeError(f"{type(self).__name__} does not define conditional: it takes no missing cells")

    def spread(self, w: Array, seen: Array, weights: Array) -> Array:
        """What the structure keeps of `sum_n w_n cov(z_n | seen cells)`."""
        raise TypeError(f"{type(self).__name__} does not define spread: it takes no missing cells")

    def among(self, w: Array, some: Any) -> Array:
        """The whitening of some features given all the others."""
        raise TypeError(f"{type(self).__name__} does not define among")

    def restrict(self, s: Array) -> Array:
        """What the structure keeps of second moments (D, D)."""
        raise TypeError(f"{type(self).__name__} does not define restrict")

    def pool(self, squares: Array) -> Array:
        """The second moments of independent features with these (D,)."""
        raise TypeError(f"{type(self).__name__} does not define pool")

    def outer(self, z: Array) -> Array:
        """What it keeps of `z z^T` for one vector (D,)."""
        raise TypeError(f"{type(self).__name__} does not define outer")

    def trace(self, s: Array, dim: int) -> Array:
        """`tr S`."""
        raise TypeError(f"{type(self).__name__} does not define trace")

    def change(self, new: Array, old: Array, s: Array) -> Array:
        """S in the coordinates of W_new: `A S A^T` with `A = W_new W_old^{-1}`."""
        raise TypeError(f"{type(self).__name__} does not define change")

    def seen(self, w: Array, deviation: Array) -> Array:
        """The covariance `diag(deviation^2)` (D,) in whitened coordinates."""
        raise TypeError(f"{type(self).__name__} does not define seen")

    def shares(self, w: Array, deviation: Array) -> Array:
        """Of the variance along each row of W, which is one, what independent features of these deviations make (D,)."""
        raise TypeError(f"{type(self).__name__} does not define shares")

    def condition(self, w: Array) -> Array:
        """By how much whitening magnifies rounding, at least one."""
        raise TypeError(f"{type(self).__name__} does not define condition")

    def update(self, w: Array, s: Array, floor: Array) -> Array:
        """The whitening of the covariance that is S in the coordinates of w; deviations stay at or above `floor` (D,)."""
        raise TypeError(f"{type(self).__name__} does not define update")

    def whitening(self, covariance: Array, dim: int) -> Array:
        """W of a covariance as a user gives it."""
        raise TypeError(f"{type(self).__name__} does not define whitening")

    def covariance_shape(self, dim: int) -> tuple[int, ...]:
        """Shape in which a user gives a covariance."""
        raise TypeError(f"{type(self).__name__} does not define covariance_shape")

    def support(self) -> Support:
        """Where a whitening may lie."""
        raise TypeError(f"{type(self).__name__} does not define support")

    def log_det(self, w: Array, dim: int) -> Array:
        """`log|W| = -1/2 log|Sigma|`."""
        return jnp.sum(jnp.log(self.diagonal(w, dim)))

    def centred(self, mass: Array, m: Moments) -> tuple[Array, Array]:
        """The whitened shift of the mean (D,) and the scatter about the shifted mean, from moments of total `mass`."""
        shift = m.first / mass
        return shift, m.second - mass * self.outer(shift)

    def maximize(self, w: Array, count: Array, scatter: Array, prior: Pseudo | None, dim: int) -> Array:
        """The M-step: the whitening of `(scatter + prior scatter) / (count + strength)`, all in the coordinates of w.

        Where nothing is counted w stays.
        """
        some = count > 0
        if prior is None:
            # Without data to set a floor: a collapsing deviation shrinks by at most 1/eps a step.
            floor = jnp.finfo(scatter.dtype).eps / jnp.abs(self.diagonal(w, dim))
            new = self.update(w, scatter / jnp.where(some, count, 1), floor)
        else:
            total = jnp.where(some, count + prior.strength, 1)
            new = self.update(w, (scatter + prior.strength * self.seen(w, prior.deviation)) / total, prior.floor)
        return tree.where(some, new, w)

    def axes(self, fields: tuple[str, ...]) -> Any:
        """The vmap axes of w of K covariances that share `fields`: None for what is shared."""
        return None if fields else 0

    def tie(
        self, w: Any, count: Array, scatter: Array, prior: Pseudo | None, dim: int, fields: tuple[str, ...]
    ) -> Any:
        """The M-step of K covariances that share `fields`: the whitening, from the pooled scatter, or nothing.

        Args:
            w: whitenings as `axes` says.
            count: (K,).
            scatter: (K, ...), in the coordinates of the whitenings.
            prior: every copy brings its own.
            dim: D.
            fields: what is shared, as it was asked of `jem.Tied`; a structure of several parts may know some of these.
        """
        if not fields:
            return jax.vmap(lambda w, c, s: self.maximize(w, c, s, prior, dim))(w, count, scatter)
        if fields != ("whitening",):
            raise ValueError(f"Tied: covariances of the structure {self!r} share their 'whitening', not {fields}")
        pooled = jnp.sum(scatter, 0)
        if prior is not None:
            prior = prior._replace(strength=prior.strength * count.shape[0])
        return self.maximize(w, jnp.sum(count), pooled, prior, dim)

    def log_prior(self, w: Array, prior: Pseudo, dim: int) -> Array:
        """`strength (log|W| - 1/2 |W diag(deviation)|^2)`."""
        return prior.strength * (self.log_det(w, dim) - 0.5 * self.trace(self.seen(w, prior.deviation), dim))

    def held(self, w: Array, resolution: Array) -> Array:
        """Whether more than half of the variance in some direction is what numbers this coarse (D,) make of any data."""
        return jnp.any(2 * self.shares(w, resolution) > 1)


class Separate(Structure):
    """Structures without correlations: W is numbers (D, 1) or (1, 1), a feature at a time; they differ in how they pool."""

    separate = True

    def times(self, w: Array, d: Array) -> Array:
        return w * d

    def solve(self, w: Array, z: Array) -> Array:
        return z / w

    def conditional(self, w: Array, d: Array, seen: Array) -> tuple[Array, Array]:
        return self.times(w, d), jnp.sum(jnp.where(seen, 0, jnp.log(w)), 0)

    def spread(self, w: Array, seen: Array, weights: Array) -> Array:
        return self.pool((~seen).astype(weights.dtype) @ weights)

    def among(self, w: Array, some: Any) -> Array:
        return w if w.shape[0] == 1 else w[some]

    def restrict(self, s: Array) -> Array:
        return self.pool(jnp.diagonal(s))

    def outer(self, z: Array) -> Array:
        return self.pool(z * z)

    def change(self, new: Array, old: Array, s: Array) -> Array:
        return (new / old) ** 2 * s

    def seen(self, w: Array, deviation: Array) -> Array:
        return self.pool(self.shares(w, deviation))

    def shares(self, w: Array, deviation: Array) -> Array:
        return (w[:, 0] * deviation) ** 2

    def condition(self, w: Array) -> Array:
        return jnp.ones((), w.dtype)


@functools.partial(jax.jit, static_argnames="dim")
@precise
def covariance_of(whitening: Any, dim: int) -> Array:
    """Covariance matrices (..., D, D) from whitenings (..., D, D), (..., D, 1) or (..., 1, 1), or of parts."""
    if not hasattr(whitening, "ndim"):
        return whitening.covariance()
    if whitening.shape[-2:] != (dim, dim):
        variances = jnp.broadcast_to((1 / whitening) ** 2, (*whitening.shape[:-2], dim, 1))
        return jnp.where(jnp.eye(dim, dtype=bool), variances, 0)
    eye = jnp.eye(dim, dtype=whitening.dtype)
    inverse = jax.vmap(lambda w: solve_lower(w, eye))(whitening.reshape(-1, dim, dim)).reshape(whitening.shape)
    return inverse @ jnp.swapaxes(inverse, -1, -2)

"""Gaussian observations with full, diagonal or spherical covariance."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import checks
from jem.kernels import gaussian as kernel
from jem.kernels.gaussian import Full, Structure
from jem.kernels.linalg import safe_sqrt, solve_lower
from jem.kernels.support import CholeskyFactor, Positive, Real, Support
from jem.node import HELD, Node, flag, node, setting, static
from jem.settings import a, number, optional

STRUCTURE = a("whiten", "jem.covariance.Full(), jem.covariance.Diagonal() or jem.covariance.Spherical()")
PRIOR = a("strength", "a jem.priors.InverseWishart(strength=...), or None", optional=True)


class GaussianParams(NamedTuple):
    """Mean (D,) and whitening W of a Gaussian, `W Sigma W^T = I`.

    W is (D, D) lower triangular for a full covariance, (D, 1) for a diagonal one, (1, 1) for a spherical one. Leading
    axes batch both fields.
    """

    mean: Array
    whitening: Array

    @property
    def covariance(self) -> Array:
        """The covariance matrices, (..., D, D) whatever the structure."""
        return covariance_of(self.whitening, self.mean.shape[-1])


class FeatureScale(NamedTuple):
    """What a node keeps of the data it is bound to: per feature the standard deviation and the finest deviation the
    numbers can carry, both (D,)."""

    deviation: Array
    resolution: Array


class GaussianStats(NamedTuple):
    """Sum of weights () and moments about the old mean, in old whitened coordinates."""

    count: Array
    moments: kernel.Moments


@node
class InverseWishart:
    """A conjugate prior on a covariance: `strength` pseudo-observations of variance `deviation**2` per feature.

    `log p(Sigma) = strength (log|W| - 1/2 |W diag(deviation)|^2)`, up to a constant. With n units of scatter S the
    M-step is `(S + strength diag(deviation^2)) / (n + strength)`: a component that collapses onto a point keeps a
    finite covariance, and a component of variance v moves by about `strength deviation^2 / (n v)` of itself.

    Attributes:
        strength: number of pseudo-observations, >= 0.
        deviation: (D,) or scalar standard deviation of the pseudo-observations, > 0; None takes that of all the data.

    Raises:
        ValueError: a negative or infinite strength, a deviation that is not positive.

    Example:
        >>> import jem
        >>> jem.Gaussian(prior=jem.priors.InverseWishart(strength=0.01)).prior.strength
        0.01

    Source: Fraley and Raftery (2007), J. Classification 24, eq. 9, without the pull on the mean.
    """

    strength: Any = setting(default=1e-3, must=number(least=0.0))
    deviation: Any = setting(default=None, must=optional(number(above=0.0)))


class Scatter(NamedTuple):
    """The prior as pseudo-statistics: its count () and deviations (D,), and the floor (D,) of all deviations."""

    strength: Array
    deviation: Array
    floor: Array


@node
class Gaussian(Node):
    """A D-variate Gaussian, `x ~ N(mean, Sigma)`; x has rows (N, D).

    Params: `GaussianParams(mean (D,), whitening)`, with `whitening @ Sigma @ whitening.T = I`; make them from a mean
    and a covariance with `params`, read the covariance with `.covariance`.

    Attributes:
        covariance: `jem.covariance.Full()`, `jem.covariance.Diagonal()` or `jem.covariance.Spherical()`.
        prior: an `InverseWishart`, or None for maximum likelihood. A component that collapses is kept finite by the resolution
            of the data's numbers whatever the prior, and its fit ends as DEGENERATE.
        scale: filled in by binding to data.

    Example:
        >>> import jem
        >>> p = jem.Gaussian().params(mean=[0.0, 1.0], covariance=[[4.0, 0.0], [0.0, 1.0]])
        >>> p.covariance.tolist()
        [[4.0, 0.0], [0.0, 1.0]]
    """

    Params = GaussianParams

    covariance: Structure = static(default=Full(), must=STRUCTURE)
    prior: InverseWishart | None = setting(default=None, must=PRIOR)
    scale: FeatureScale | None = None

    def params(self, mean: Any, covariance: Any) -> GaussianParams:
        """Parameters from means (..., D) and covariances of this structure, batched alike or unbatched."""
        mean, covariance = jnp.asarray(mean, float), jnp.asarray(covariance, float)
        return GaussianParams(mean, whitening_of(self.covariance, covariance, mean.shape[-1]))

    def infer(self, params: GaussianParams, x: Array) -> tuple[tuple[()], Array]:
        z = self.covariance.whiten(params.whitening, x - params.mean[:, None])
        return (), kernel.log_normal(self.covariance, params.whitening, z)

    def expect(self, params: GaussianParams, posterior: tuple[()], x: Array, weights: Array) -> GaussianStats:
        z = self.covariance.whiten(params.whitening, x - params.mean[:, None])
        return GaussianStats(jnp.sum(weights), self.covariance.moments(z, weights))

    def maximize(self, params: GaussianParams, stats: GaussianStats) -> GaussianParams:
        return maximize_moments(self.covariance, prior_of(self), params, stats.count, stats.count, stats.moments)

    def expected_log_prob(self, params: GaussianParams, stats: GaussianStats, old: GaussianParams) -> Array:
        return kernel.expected_log_normal(
            self.covariance, *params, stats.count, stats.count, stats.moments, old.mean, old.whitening
        )

    def init(self, key: Array, x: Array, weights: Array) -> GaussianParams:
        mean, deviation = weighted_moments(x, weights, self.scale)
        return GaussianParams(mean, self.covariance.from_diagonal(1 / deviation))

    def sample(self, key: Array, params: GaussianParams, num: int) -> tuple[tuple[()], Array]:
        noise = jax.random.normal(key, (params.mean.shape[0], num), params.mean.dtype)
        return (), params.mean[:, None] + self.covariance.unwhiten(params.whitening, noise)

    def bind(self, x: Array, weights: Array) -> "Gaussian":
        return Gaussian(self.covariance, self.prior, feature_scale(x, weights))

    def log_prior(self, params: GaussianParams) -> Array:
        return log_prior_whitening(self.covariance, prior_of(self), params)

    def degenerate(self, params: GaussianParams, stats: GaussianStats) -> Array:
        return held(self.covariance, self.scale, params)

    def conditioning(self, params: GaussianParams) -> Array:
        return self.covariance.condition(params.whitening)

    def supports(self, params: GaussianParams) -> GaussianParams:
        return params._replace(mean=Real(), whitening=whitening_support(self.covariance))

    def recentre(self, stats: GaussianStats, old: GaussianParams, new: GaussianParams) -> GaussianStats:
        return stats._replace(moments=kernel.recentre(self.covariance, stats.count, stats.moments, *old, *new))

    def features(self, x: Array) -> Array:
        return x if self.scale is None else x / self.scale.deviation[:, None]

    def validate(self, x: Array) -> None:
        check_rows(x, type(self).__name__)

    def hold(self, params: GaussianParams, stats: GaussianStats, fields: tuple[str, ...]) -> GaussianStats:
        # About the old mean the scatter is that around a mean held fixed, once there is no first moment to remove.
        return stats._replace(moments=hold_mean(stats.moments)) if "mean" in fields else stats

    def tie(self, params: GaussianParams, stats: GaussianStats, fields: tuple[str, ...]) -> GaussianParams:
        if fields != ("whitening",):
            return super().tie(params, stats, fields)
        return tie_whitening(self.covariance, prior_of(self), params, stats.count, stats.count, stats.moments)


def check_rows(x: Any, name: str) -> None:
    """x must be rows (N, D) of at least one feature."""
    checks.check_matrix(x, name)
    if x.shape[1] == 0:
        raise ValueError(f"{name}: x must have at least one feature; got shape {x.shape}")


def whitening_support(structure: Structure) -> Support:
    """Where a whitening of this structure may lie."""
    return CholeskyFactor() if isinstance(structure, Full) else Positive()


def covariance_of(whitening: Array, dim: int) -> Array:
    """Covariance matrices (..., D, D) from whitenings (..., D, D), (..., D, 1) or (..., 1, 1)."""
    if whitening.shape[-2:] != (dim, dim):
        variances = jnp.broadcast_to((1 / whitening) ** 2, (*whitening.shape[:-2], dim, 1))
        return jnp.where(jnp.eye(dim, dtype=bool), variances, 0)
    eye = jnp.eye(dim, dtype=whitening.dtype)
    inverse = jax.vmap(lambda w: solve_lower(w, eye))(whitening.reshape(-1, dim, dim)).reshape(whitening.shape)
    return inverse @ jnp.swapaxes(inverse, -1, -2)


def whitening_of(structure: Structure, covariance: Array, dim: int) -> Array:
    """Whitenings from a user's covariances, batched over leading axes."""
    inner = structure.covariance_shape(dim)
    checks.check_covariance(covariance, inner)
    batch = covariance.shape[: covariance.ndim - len(inner)]
    flat = jax.vmap(lambda c: structure.whitening(c, dim))(covariance.reshape(-1, *inner))
    return flat.reshape(*batch, *flat.shape[1:])


def feature_scale(x: Array, weights: Array) -> FeatureScale:
    """Standard deviation of each feature of x (D, N), and four units in its last place, without over- or underflow."""
    return mean_and_scale(x, weights)[1]


def mean_and_scale(x: Array, weights: Array) -> tuple[Array, FeatureScale]:
    """The weighted mean (D,) of x (D, N), zero where nothing has weight, and its scale."""
    x = x.astype(weights.dtype)
    eps, tiny = jnp.finfo(x.dtype).eps, jnp.finfo(x.dtype).tiny
    top = jnp.max(_over_rows(lambda rows, w: jnp.max(jnp.abs(rows), 1), jnp.maximum, x, weights), 0)
    everything = jnp.max(top)
    unit = lax.stop_gradient(jnp.where(top > 0, top, jnp.where(everything > 0, everything, 1)))  # it cancels
    total = jnp.sum(weights)
    share = weights / jnp.where(total > 0, total, 1)
    scaled = lambda rows: rows / unit[None, None]  # noqa: E731
    mean = jnp.sum(_over_rows(lambda rows, s: _average(s, scaled(rows)), jnp.add, x, share), 0)
    square = lambda rows: (scaled(rows) - mean[None, None]) ** 2  # noqa: E731
    variance = jnp.sum(_over_rows(lambda rows, s: _average(s, square(rows)), jnp.add, x, share), 0)
    resolution = jnp.maximum(4 * eps * unit, 4 * tiny)
    return mean * unit, FeatureScale(jnp.maximum(safe_sqrt(variance) * unit, resolution), resolution)


def _average(share: Array, values: Array) -> Array:
    """`sum_c share_pc values_pcd`, (P, D)."""
    return jnp.einsum("pc,pcd->pd", share, values)


def _over_rows(
    fn: Callable[[Array, Array], Array], combine: Callable[[Array, Array], Array], x: Array, weights: Array
) -> Array:
    """`fn(rows (P, C, D), weights (P, C))` over all units of x (D, N), C of each of P parts at a time; (P, D).

    x is the transpose of rows that lie as they were given: a few at a time are read fast, and nothing of the size of x is made.
    Rows spread over devices stay where they are, as parts are theirs. Rows of weight 0 are zeros.
    """
    num_parts = math.gcd(weights.shape[0], 48)
    rows, w = x.T.reshape(num_parts, -1, x.shape[0]), weights.reshape(num_parts, -1)
    num = w.shape[1]
    size = min(num, max(1, 2048 // num_parts))

    def block(index: Array | int) -> Array:
        start = jnp.minimum(index * size, num - size)
        some, v = (lax.dynamic_slice_in_dim(a, start, size, 1) for a in (rows, w))
        fresh = start + jnp.arange(size) >= index * size  # the last block begins early enough to be full
        v = jnp.where(jnp.broadcast_to(fresh, v.shape), v, 0)
        return fn(jnp.where((v > 0)[:, :, None], some, 0), v)

    if num <= size:
        return block(0)
    return lax.scan(lambda value, i: (combine(value, block(i)), None), block(0), jnp.arange(1, -(-num // size)))[0]


def weighted_moments(x: Array, weights: Array, scale: FeatureScale | None) -> tuple[Array, Array]:
    """Weighted mean and standard deviation (D,) of x (D, N), with one pseudo-observation of the bound scale."""
    x = x.astype(weights.dtype)
    total = jnp.sum(weights)
    share = weights / jnp.where(total > 0, total, 1)
    mean = jnp.where(total > 0, x @ share, jnp.mean(x, 1))
    unit = jnp.maximum(jnp.std(x, 1), jnp.finfo(x.dtype).tiny) if scale is None else scale.deviation
    d = (x - mean[:, None]) / unit[:, None]
    deviation = unit * jnp.sqrt((jnp.sum(weights[None, :] * d * d, 1) + 1) / (total + 1))
    return mean, deviation if scale is None else jnp.maximum(deviation, scale.resolution)


def prior_of(family: Any) -> Scatter | None:
    """The pseudo-statistics of a family's prior and floor; None where it has neither prior nor data."""
    prior, scale = family.prior, family.scale
    if prior is None:
        return None if scale is None else Scatter(jnp.zeros((), scale.deviation.dtype), *scale)
    if scale is None:
        if prior.deviation is None:
            raise ValueError(
                f"{type(family).__name__}: the prior is relative to data it has not seen; bind the model with "
                "jem.bind(model, x), give InverseWishart(deviation=...), or set prior=None"
            )
        deviation = jnp.atleast_1d(jnp.asarray(prior.deviation, float))
        return Scatter(jnp.asarray(prior.strength, deviation.dtype), deviation, jnp.zeros_like(deviation))
    given = scale.deviation if prior.deviation is None else jnp.asarray(prior.deviation, scale.deviation.dtype)
    deviation = jnp.broadcast_to(given, scale.deviation.shape)
    return Scatter(jnp.asarray(prior.strength, deviation.dtype), deviation, scale.resolution)


def maximize_moments(
    structure: Structure, prior: Scatter | None, params: Any, count: Array, mass: Array, m: kernel.Moments
) -> GaussianParams:
    """Mean `mean + first / mass`, covariance `(centred scatter + prior scatter) / (count + strength)`."""
    mean, w = params.mean, params.whitening
    empty = ~(mass > 0)
    shift, scatter = kernel.centred(structure, jnp.where(empty, 1, mass), m)
    return GaussianParams(
        jnp.where(empty, mean, mean + structure.unwhiten(w, shift[:, None])[:, 0]),
        jnp.where(empty, w, update_whitening(structure, prior, w, mean.shape[0], count, scatter)),
    )


def update_whitening(
    structure: Structure, prior: Scatter | None, w: Array, dim: int, count: Array, scatter: Array
) -> Array:
    """The whitening of `(scatter + prior scatter) / (count + strength)`, all in the whitened coordinates of w."""
    if prior is None:
        # Without data to set a floor: a collapsing deviation shrinks by at most 1/eps a step.
        tiny = jnp.finfo(w.dtype).eps / jnp.abs(structure.diagonal(w, dim))
        return structure.update(w, scatter / jnp.where(count > 0, count, 1), tiny)
    total = count + prior.strength
    total = jnp.where(total > 0, total, 1)
    return structure.update(w, (scatter + prior.strength * structure.seen(w, prior.deviation)) / total, prior.floor)


def tie_whitening(
    structure: Structure, prior: Scatter | None, params: Any, count: Array, mass: Array, m: kernel.Moments
) -> GaussianParams:
    """Own means, one covariance from the pooled scatter; statistics and means have a leading axis, w has none."""
    w, dim = params.whitening, params.mean.shape[-1]
    empty = ~(mass > 0)
    shift, scatter = jax.vmap(lambda u, s: kernel.centred(structure, u, s))(jnp.where(empty, 1, mass), m)
    delta = structure.unwhiten(w, shift.T).T
    keep = empty.reshape((-1,) + (1,) * (scatter.ndim - 1))
    pooled = jnp.sum(jnp.where(keep, 0, scatter), 0)
    if prior is not None:
        prior = prior._replace(strength=prior.strength * mass.shape[0])  # every copy brings its own
    updated = update_whitening(structure, prior, w, dim, jnp.sum(count), pooled)
    return GaussianParams(
        jnp.where(empty[:, None], params.mean, params.mean + delta), jnp.where(jnp.any(~empty), updated, w)
    )


def hold_mean(m: kernel.Moments) -> kernel.Moments:
    """Moments about a mean that stays where it is."""
    return m._replace(first=jnp.zeros_like(m.first))


def log_prior_whitening(structure: Structure, prior: Scatter | None, params: Any) -> Array:
    """`strength (log|W| - 1/2 |W diag(deviation)|^2)`."""
    if prior is None:
        return jnp.zeros((), params.mean.dtype)
    dim = params.mean.shape[0]
    square = structure.trace(structure.seen(params.whitening, prior.deviation), dim)
    return prior.strength * (kernel.log_det(structure, params.whitening, dim) - 0.5 * square)


def held(structure: Structure, scale: FeatureScale | None, params: Any) -> Array:
    """HELD where more than half of the variance in some direction is what the numbers' resolution makes of any data."""
    if scale is None:
        return flag(HELD, jnp.array(False))
    return flag(HELD, jnp.any(2 * structure.shares(params.whitening, scale.resolution) > 1))

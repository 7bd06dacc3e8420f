"""What location-scale families share: statistics about the current mean, M-step, prior, tying and starts, of any structure."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem import checks
from jem.backend import precise
from jem.data import Holed, Interval, without_holes
from jem.kernels import gaussian as kernel
from jem.kernels import intervals, plates
from jem.kernels.covariance import Moments, Pseudo, Structure, covariance_of
from jem.kernels.holes import order
from jem.kernels.intervals import Edges, Within
from jem.kernels.linalg import safe_sqrt
from jem.kernels.sums import over_rows
from jem.kernels.support import Real
from jem.node import CELLS, HELD, Data, Node, Params, Posterior, Stats, flag, node, replaced, setting
from jem.settings import a, number, optional

STRUCTURE = a("from_diagonal", "jem.covariance.Full(), jem.covariance.Diagonal() or another of jem.covariance")
PRIOR = a("strength", "a jem.priors.InverseWishart(strength=...), or None", optional=True)


class FeatureScale(NamedTuple):
    """What a node keeps of the data it is bound to: per feature the standard deviation and the finest deviation the
    numbers can carry, both (D,)."""

    deviation: Array
    resolution: Array


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


class LocationScale(Node):
    """A density of `z = W (x - mean)`; x has rows (N, D).

    Params begin with `mean` (D,) and `whitening`; statistics have `count` (), the sum of the weights, and `moments` of z, whose
    own weights sum to `mass` (). A family adds `of_squares`, `mass`, `gather`, `expected_log_prob`, `init` and `sample`, and
    where it has more parameters `maximize_others`; its fields are these three, what its covariances are is the structure's
    business.
    """

    covariance: Structure
    prior: InverseWishart | None
    scale: FeatureScale | None

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({CELLS})

    def of_squares(self, params: Params, squares: Array, log_det: Array, dim: Any) -> tuple[Posterior, Array]:
        """The posterior and the log-density (N,), from `|z|^2` (N,), `log|Sigma|^{-1/2}` and D: of what is seen of a unit."""
        raise TypeError(f"{type(self).__name__} does not define of_squares")

    def mass(self, posterior: Posterior, weights: Array) -> Array:
        """What the moments of each unit weigh, (N,)."""
        return weights

    def gather(self, posterior: Posterior, weights: Array, moments: Moments) -> Stats:
        """The statistics, from the moments and what else the posterior tells."""
        raise TypeError(f"{type(self).__name__} does not define gather")

    def maximize_others(self, params: Params, stats: Stats) -> dict[str, Array]:
        """The M-step of the fields that are neither mean nor whitening, by name."""
        return {}

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        values, seen = without_holes(x)
        if seen is None:
            return self._of_squares(params, jnp.sum(self.whitened(params, values) ** 2, 0), values.shape[0])
        z, log_det = self._conditional(params, x)
        squares = jnp.where(jnp.all(jnp.isfinite(values), 0), jnp.sum(z * z, 0), jnp.inf)
        return self.of_squares(params, squares, log_det, jnp.sum(seen, 0, dtype=z.dtype))

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        values, seen = without_holes(x)
        mass = self.mass(posterior, weights)
        if seen is None:
            return self.gather(posterior, weights, self.covariance.moments(self.whitened(params, values), mass))
        # A scale u of the precision leaves the covariance of what is not seen, times u, as it is.
        moments = self.covariance.moments(self._conditional(params, x)[0], mass)
        unseen = self.covariance.plain.spread(self.covariance.flat(params.whitening), seen, weights)
        return self.gather(posterior, weights, moments._replace(second=moments.second + unseen))

    def infer_each(self, params: Params, x: Data, axes: Any, size: int) -> tuple[Posterior, Array]:
        if params.mean.ndim == 1 or isinstance(x, Holed):
            return super().infer_each(params, x, axes, size)
        squares = plates.squares(self.covariance.plain, self._flat(params, axes), params.mean, x)
        return jax.vmap(lambda p, s: self._of_squares(p, s, x.shape[0]), (axes, 0))(params, squares)

    def expect_each(self, params: Params, posterior: Posterior, x: Data, weights: Array, axes: Any) -> Stats:
        if params.mean.ndim == 1 or isinstance(x, Holed):
            return super().expect_each(params, posterior, x, weights, axes)
        mass = jax.vmap(self.mass)(posterior, weights)
        moments = plates.moments(self.covariance.plain, self._flat(params, axes), params.mean, x, mass)
        return jax.vmap(self.gather)(posterior, weights, moments)

    def _of_squares(self, params: Params, squares: Array, dim: int) -> tuple[Posterior, Array]:
        return self.of_squares(params, squares, self.covariance.log_det(params.whitening, dim), dim)

    def _conditional(self, params: Params, x: Holed) -> tuple[Array, Array]:
        """The mean of z given what is seen, (D, N), and `log|Sigma|^{-1/2}` of what is seen, (N,)."""
        structure, w, dim = self.covariance, params.whitening, params.mean.shape[0]
        away = jnp.where(x.seen, x.values - params.mean[:, None], 0)
        z, log_unseen = structure.plain.conditional(structure.flat(w), away, x.seen)
        return z, jnp.where(jnp.any(x.seen, 0), structure.log_det(w, dim) - log_unseen, 0)

    @property
    def edges(self) -> Edges:
        return Edges()

    def within(self, params: Params, x: Interval) -> Within:
        # In the arc sine of the deviation over the scale, densities with heavy tails fall exponentially.
        if params.mean.shape[0] > 1:
            raise TypeError(f"Censored: {type(self).__name__} takes intervals of one column only; got {params.mean.shape[0]}")
        mean, root = params.mean[:, None], self.roots(params)
        held, unit = lax.stop_gradient((mean, root))
        at = intervals.Coordinate(
            lambda s: held + jnp.sinh(s) / unit,
            lambda s: jnp.logaddexp(s, -s) - jnp.log(2 * unit),
            lambda t: jnp.arcsinh((t - held) * unit),
            75.0 if mean.dtype == jnp.float32 else 600.0,
        )

        def density(t: Array) -> Array:
            return self.of_squares(params, ((t - mean) * root) ** 2, jnp.log(root), 1)[1]

        return intervals.by_quadrature(density, intervals.ends_of(x, self.edges, held, mean.dtype), at)

    def roots(self, params: Params) -> Array:
        """Reciprocal deviations of independent columns, (D, 1)."""
        structure, dim = self.covariance.plain, params.mean.shape[0]
        if not (structure.separate or dim == 1):
            raise TypeError(
                f"Censored: columns with correlations take no intervals; use a diagonal or spherical covariance, "
                f"jem.{type(self).__name__}(jem.covariance.Diagonal())"
            )
        return jnp.reshape(structure.diagonal(self.covariance.flat(params.whitening), dim), (dim, 1))

    def complete(self, params: Params, posterior: Posterior, x: Data, key: Array | None = None) -> Array:
        values, seen = without_holes(x)
        if seen is None:
            return values
        new = self.coloured(params, self._conditional(params, x)[0])
        if key is None:
            return jnp.where(seen, values, new)
        # What a draw of all cells has beside its own mean given those that were seen is as it would be beside any other.
        scale_key, noise_key = jax.random.split(key)
        noise = self.covariance.solve(params.whitening, jax.random.normal(noise_key, values.shape, values.dtype))
        about = Holed(params.mean[:, None] + noise, seen)
        beside = about.values - self.coloured(params, self._conditional(params, about)[0])
        scale = self.draw_scale(scale_key, params, posterior, jnp.sum(seen, 0, dtype=values.dtype))
        return jnp.where(seen, values, new + beside * jnp.sqrt(scale))

    def draw_scale(self, key: Array, params: Params, posterior: Posterior, dim: Array) -> Array:
        """A draw of what each unit's covariance is multiplied by given its seen cells, so many (N,): () or (1, N)."""
        return jnp.ones((), dim.dtype)

    def of_columns(self, columns: tuple[int, ...]) -> Node:
        return replaced(self, covariance=self.covariance.plain, prior=None, scale=None)

    def marginal(self, params: Params, columns: tuple[int, ...]) -> Params:
        some, structure = np.array(columns, int), self.covariance.plain
        covariance = covariance_of(params.whitening, params.mean.shape[0])[some][:, some]
        as_given = (lambda c: c[0, 0], jnp.diagonal, lambda c: c)[len(structure.covariance_shape(len(some)))]
        return params._replace(mean=params.mean[some], whitening=structure.whitening(as_given(covariance), len(some)))

    def conditional(self, params: Params, given: tuple[int, ...], rest: tuple[int, ...], values: Array) -> tuple[Params, Array]:
        dim, some = params.mean.shape[0], np.array(rest, int)
        known = jnp.zeros(dim, params.mean.dtype).at[np.array(given, int)].set(values)
        unit = Holed(known[:, None], jnp.asarray(np.isin(np.arange(dim), given))[:, None])
        posterior, log_prob = self.infer(params, unit)
        mean = self.complete(params, posterior, unit)[some, 0]
        w = self.covariance.plain.among(self.covariance.flat(params.whitening), some)
        return self.after(params._replace(mean=mean, whitening=w), posterior, len(given)), log_prob[0]

    def after(self, params: Params, posterior: Posterior, num_seen: int) -> Params:
        """The parameters of the cells that are left, from those that they have where a unit's scale is one."""
        return params

    def _flat(self, params: Params, axes: Any) -> Array:
        """The whitenings of copies as arrays, with a leading axis K unless there is one for all."""
        w_axes = axes if isinstance(axes, int) else axes.whitening
        own = bool(jax.tree.leaves(w_axes))
        return jax.vmap(self.covariance.flat, (w_axes,))(params.whitening) if own else self.covariance.flat(params.whitening)

    def whitened(self, params: Params, x: Array) -> Array:
        """`W (x - mean)`, (D, N)."""
        return kernel.residuals(self.covariance, params.whitening, params.mean, x)

    def coloured(self, params: Params, z: Array) -> Array:
        """`mean + W^{-1} z`, (D, N)."""
        return params.mean[:, None] + self.covariance.solve(params.whitening, z)

    def start(self, x: Data, weights: Array) -> tuple[Array, Array]:
        """The mean, and the whitening of the features' deviations without correlations."""
        mean, deviation = weighted_moments(x, weights, self.scale)
        return mean, self.covariance.from_diagonal(1 / deviation)

    def maximize(self, params: Params, stats: Stats) -> Params:
        mean, scatter = self._move(params.mean, params.whitening, stats)
        return self.scattered(params, stats, stats.count, scatter, mean.shape[0])._replace(mean=mean)

    def scattered(self, params: Params, stats: Stats, count: Array, scatter: Array, dim: int) -> Params:
        """The M-step of all but the mean, from the scatter about the mean there will be, of so many units."""
        w = self.covariance.maximize(params.whitening, count, scatter, prior_of(self), dim)
        return params._replace(whitening=w, **self.maximize_others(params, stats))

    def sharing(self, params: Params, fields: tuple[str, ...]) -> Params:
        parts = getattr(params.whitening, "_fields", ())
        if not set(fields) & set(parts):
            return super().sharing(params, fields)
        axes = super().sharing(params, tuple(f for f in fields if f not in parts))
        return axes._replace(whitening=self.covariance.axes(tuple(f for f in fields if f in parts)))

    def tie(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Params:
        if "mean" in fields:
            return super().tie(params, stats, fields)
        w_axes = self.covariance.axes(self._of_covariance(params, fields))
        mean, scatter = jax.vmap(self._move, (0, w_axes, 0))(params.mean, params.whitening, stats)
        return self.tied(params, stats, mean, stats.count, scatter, fields)

    def tied(self, params: Params, stats: Stats, mean: Array, count: Array, scatter: Array, fields: tuple[str, ...]) -> Params:
        """The M-step of K copies that share fields but have these means (K, D) of their own, from the scatter about these."""
        shared, others = self._of_covariance(params, fields), params._fields[2:]
        w = self.covariance.tie(params.whitening, count, scatter, prior_of(self), mean.shape[1], shared)
        w_axes = self.covariance.axes(shared)
        axes = params._replace(mean=0, whitening=w_axes, **{f: None if f in fields else 0 for f in others})
        each = jax.vmap(self.maximize_others, (axes, 0))(params, stats)
        pooled = self.maximize_others(params, jax.tree.map(lambda s: jnp.sum(s, 0), stats))
        return params._replace(mean=mean, whitening=w, **{f: (pooled if f in fields else each)[f] for f in others})

    @staticmethod
    def _of_covariance(params: Params, fields: tuple[str, ...]) -> tuple[str, ...]:
        """Which fields are the covariance's, which knows what of it may be shared."""
        return tuple(f for f in fields if f not in params._fields[2:])

    def _move(self, mean: Array, w: Array, stats: Stats) -> tuple[Array, Array]:
        """The M-step of the mean, and the scatter about it in the coordinates of w."""
        empty = ~(stats.mass > 0)
        shift, scatter = self.covariance.centred(jnp.where(empty, 1, stats.mass), stats.moments)
        return jnp.where(empty, mean, mean + self.covariance.solve(w, shift[:, None])[:, 0]), scatter

    def hold(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Stats:
        # About the old mean the scatter is that around a mean held fixed, once there is no first moment to remove.
        moments = stats.moments
        return stats._replace(moments=moments._replace(first=jnp.zeros_like(moments.first))) if "mean" in fields else stats

    def recentre(self, stats: Stats, old: Params, new: Params) -> Stats:
        return stats._replace(moments=kernel.recentre(self.covariance, stats.mass, stats.moments, *old[:2], *new[:2]))

    def log_prior(self, params: Params) -> Array:
        return log_prior_of(self, self.covariance, params)

    def degenerate(self, params: Params, stats: Stats) -> Array:
        held = jnp.array(False) if self.scale is None else self.covariance.held(params.whitening, self.scale.resolution)
        return flag(HELD, held)

    def conditioning(self, params: Params) -> Array:
        return self.covariance.condition(params.whitening)

    def supports(self, params: Params) -> Params:
        return params._replace(mean=Real(), whitening=self.covariance.support())

    def bind(self, x: Data, weights: Array) -> Self:
        return replaced(self, scale=mean_and_scale(x, weights)[1])

    def sorting(self, x: Data) -> Array | None:
        return order(x.seen) if isinstance(x, Holed) and not self.covariance.separate else None

    def features(self, x: Array) -> Array:
        return x if self.scale is None else x / self.scale.deviation[:, None]

    def validate(self, x: Array) -> None:
        check_rows(x, type(self).__name__)


def check_rows(x: Any, name: str) -> None:
    """x must be rows (N, D) of at least one feature."""
    checks.check_matrix(x, name)
    if x.shape[1] == 0:
        raise ValueError(f"{name}: x must have at least one feature; got shape {x.shape}")


def whitening_of(structure: Structure, covariance: Array, dim: int) -> Any:
    """Whitenings from a user's covariances, batched over leading axes."""
    inner = structure.covariance_shape(dim)
    checks.check_covariance(covariance, inner)
    batch = covariance.shape[: covariance.ndim - len(inner)]
    flat = _whitenings(structure, covariance.reshape(-1, *inner), dim)
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), flat)


@functools.partial(jax.jit, static_argnames=("structure", "dim"))
@precise
def _whitenings(structure: Structure, covariances: Array, dim: int) -> Any:
    return jax.vmap(lambda c: structure.whitening(c, dim))(covariances)


def mean_and_scale(x: Data, weights: Array) -> tuple[Array, FeatureScale]:
    """The weighted mean (D,) of x (D, N), of the cells that are seen, zero where nothing has weight, and its scale."""
    if isinstance(x, Holed):
        return _of_cells(mean_and_scale, x, weights)
    x = x.astype(weights.dtype)
    eps, tiny = jnp.finfo(x.dtype).eps, jnp.finfo(x.dtype).tiny
    top = jnp.max(over_rows(lambda rows, w: jnp.max(jnp.abs(rows), 1), jnp.maximum, x, weights), 0)
    everything = jnp.max(top)
    unit = lax.stop_gradient(jnp.where(top > 0, top, jnp.where(everything > 0, everything, 1)))  # it cancels
    total = jnp.sum(weights)
    share = weights / jnp.where(total > 0, total, 1)
    scaled = lambda rows: rows / unit[None, None]  # noqa: E731
    mean = jnp.sum(over_rows(lambda rows, s: _average(s, scaled(rows)), jnp.add, x, share), 0)
    square = lambda rows: (scaled(rows) - mean[None, None]) ** 2  # noqa: E731
    variance = jnp.sum(over_rows(lambda rows, s: _average(s, square(rows)), jnp.add, x, share), 0)
    resolution = jnp.maximum(4 * eps * unit, 4 * tiny)
    return mean * unit, FeatureScale(jnp.maximum(safe_sqrt(variance) * unit, resolution), resolution)


def _average(share: Array, values: Array) -> Array:
    """`sum_c share_pc values_pcd`, (P, D)."""
    return jnp.einsum("pc,pcd->pd", share, values)


def _of_cells(question: Callable[..., Any], x: Holed, weights: Array, *others: Any) -> Any:
    """`question(x, weights)` of each feature by itself, as other units are seen of it; what it returns has features (D,)."""
    seen = weights[None, :] * x.seen
    alone = lambda cells, w, *others: question(cells[None], w, *jax.tree.map(lambda o: o[None], others))  # noqa: E731
    return jax.tree.map(lambda leaf: leaf[:, 0], jax.vmap(alone)(x.values, seen, *others))


def weighted_moments(x: Data, weights: Array, scale: FeatureScale | None) -> tuple[Array, Array]:
    """Weighted mean and standard deviation (D,) of x (D, N), with one pseudo-observation of the bound scale."""
    if isinstance(x, Holed):
        return _of_cells(weighted_moments, x, weights, scale)
    x = x.astype(weights.dtype)
    total = jnp.sum(weights)
    share = weights / jnp.where(total > 0, total, 1)
    mean = jnp.where(total > 0, x @ share, jnp.mean(x, 1))
    unit = jnp.maximum(jnp.std(x, 1), jnp.finfo(x.dtype).tiny) if scale is None else scale.deviation
    d = (x - mean[:, None]) / unit[:, None]
    deviation = unit * jnp.sqrt((jnp.sum(weights[None, :] * d * d, 1) + 1) / (total + 1))
    return mean, deviation if scale is None else jnp.maximum(deviation, scale.resolution)


def prior_of(family: Any) -> Pseudo | None:
    """The pseudo-statistics of a family's prior and floor; None where it has neither prior nor data."""
    prior, scale = family.prior, family.scale
    if prior is None:
        return None if scale is None else Pseudo(jnp.zeros((), scale.deviation.dtype), *scale)
    if scale is None:
        if prior.deviation is None:
            raise ValueError(
                f"{type(family).__name__}: the prior is relative to data it has not seen; bind the model with "
                "jem.bind(model, x), give InverseWishart(deviation=...), or set prior=None"
            )
        deviation = jnp.atleast_1d(jnp.asarray(prior.deviation, float))
        return Pseudo(jnp.asarray(prior.strength, deviation.dtype), deviation, jnp.zeros_like(deviation))
    given = scale.deviation if prior.deviation is None else jnp.asarray(prior.deviation, scale.deviation.dtype)
    deviation = jnp.broadcast_to(given, scale.deviation.shape)
    return Pseudo(jnp.asarray(prior.strength, deviation.dtype), deviation, scale.resolution)


def log_prior_of(family: Any, structure: Structure, params: Any) -> Array:
    """Log-density of a family's prior on the covariance of this structure."""
    prior = prior_of(family)
    if prior is None:
        return jnp.zeros((), params.mean.dtype)
    return structure.log_prior(params.whitening, prior, params.mean.shape[0])

"""Factor analysis and probabilistic PCA: a few hidden factors that explain the covariances of many features."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.data import Holed, without_holes
from jem.families.gaussian import Gaussian, GaussianParams
from jem.families.scatter import (
    FeatureScale,
    InverseWishart,
    check_rows,
    log_prior_of,
    mean_and_scale,
    prior_of,
    weighted_moments,
    whitening_of,
)
from jem.kernels import factor as kernel
from jem.kernels.covariance import Diagonal, Full, Spherical
from jem.kernels.factor import FactorMoments
from jem.kernels.gaussian import LOG_2PI
from jem.kernels.support import Real
from jem.node import CELLS, HELD, Node, flag, node, static
from jem.settings import whole


class FactorParams(NamedTuple):
    """Mean (D,), loadings (D, q), and the noise's reciprocal deviations: (D, 1) if diagonal, (1, 1) if spherical.

    Leading axes batch all fields.
    """

    mean: Array
    loadings: Array
    whitening: Array

    @property
    def noise(self) -> Array:
        """Variances of the noise, (..., D)."""
        return jnp.broadcast_to((1 / self.whitening) ** 2, (*self.mean.shape, 1))[..., 0]

    @property
    def covariance(self) -> Array:
        """Covariances of x, `L L^T + Psi`, (..., D, D)."""
        noise = jnp.where(jnp.eye(self.mean.shape[-1], dtype=bool), self.noise[..., None], 0)
        return self.loadings @ jnp.swapaxes(self.loadings, -1, -2) + noise

    @property
    def communalities(self) -> Array:
        """Share of each feature's variance that the factors explain, (..., D); one less it is the uniqueness."""
        squares = jnp.sum((self.whitening * self.loadings) ** 2, -1)
        return squares / (1 + squares)


class FactorPosterior(NamedTuple):
    """Posterior of the factors: `E[f | x]`, (N, q) from `jem.infer`, and a root of the covariance, (N, q, q).

    The covariance is the same for every row of which the same is seen; inside, both have the unit axis last.
    """

    mean: Array
    root: Array

    @property
    def covariance(self) -> Array:
        """`cov[f | x] = (I + L^T Psi^{-1} L)^{-1}`, (N, q, q), of what `jem.infer` returns."""
        return self.root @ jnp.swapaxes(self.root, -1, -2)


class Offset(NamedTuple):
    """Data as an unevaluated sum `origin + deviation`, (D, N) each: more digits than one number can hold."""

    origin: Array
    deviation: Array


@node
class FactorAnalysis(Node):
    """Factor analysis: `f ~ N(0, I_q)`, `x | f ~ N(mean + L f, Psi)`; x has rows (N, D).

    Hence `x ~ N(mean, L L^T + Psi)`. With a spherical Psi it is probabilistic PCA. Loadings are found up to a rotation:
    see `varimax` and `promax`. A fit with this node at the top gathers the data's mean and covariance once, and an
    iteration then costs `D^2 q` however many rows there are; below a mixture it costs `N D q`.

    A noise variance may vanish (a Heywood case). Where the likelihood has a maximum there, that is an answer, near which EM
    comes slowly; where it grows for ever, as features follow from others, the data's resolution bounds it and the fit ends as
    DEGENERATE.

    Params: `FactorParams(mean (D,), loadings (D, q), whitening)`; make them with `params`, read `.noise`, `.covariance`
    and `.communalities`.

    Attributes:
        num_factors: q, at least 1 and below D.
        noise: `jem.covariance.Diagonal()` (factor analysis) or `jem.covariance.Spherical()` (probabilistic PCA).
        prior: an `InverseWishart` on the noise, or None for maximum likelihood.
        scale: filled in by binding to data.
        origin: the data's mean (D,), likewise.

    Example:
        >>> import jax, jem
        >>> from jem.latents.linear.factor import FactorAnalysis
        >>> model = FactorAnalysis(1)
        >>> p = model.params(mean=[0.0, 0.0, 0.0], loadings=[[1.0], [1.0], [1.0]], noise=[1.0, 3.0, 1.0])
        >>> p.communalities.tolist()
        [0.5, 0.25, 0.5]
        >>> jem.infer(model, p, [[1.0, 1.0, 1.0]])[0].mean.shape
        (1, 1)

    Source: Rubin and Thayer (1982), Psychometrika 47; Tipping and Bishop (1999), JRSS B 61; Ghahramani and Hinton (1996)
    for mixtures.
    """

    Params = FactorParams

    num_factors: int = static(must=whole(1))
    noise: Diagonal | Spherical = static(default=Diagonal())
    prior: InverseWishart | None = None
    scale: FeatureScale | None = None
    origin: Array | None = None

    def params(self, mean: Any, loadings: Any, noise: Any) -> FactorParams:
        """Parameters from means (..., D), loadings (..., D, q) and noise variances (..., D), or (...) where spherical."""
        mean, loadings = jnp.asarray(mean, float), jnp.asarray(loadings, float)
        return FactorParams(mean, loadings, whitening_of(self.noise, jnp.asarray(noise, float), mean.shape[-1]))

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({CELLS})

    def infer(self, params: FactorParams, x: Any) -> tuple[FactorPosterior, Array]:
        if isinstance(x, Holed):
            return self._infer_seen(params, x)
        w, dim = params.whitening, params.mean.shape[0]
        b = kernel.basis(w * params.loadings)
        f, r = kernel.posterior_mean(b, w * residual(x, params.mean))
        constant = self.noise.log_det(w, dim) + kernel.log_normaliser(b) - 0.5 * dim * LOG_2PI
        log_prob = constant - 0.5 * (jnp.sum(r * r, 0) + jnp.sum(f * f, 0))
        return FactorPosterior(f, jnp.broadcast_to(b.factors[:, :, None], (*b.factors.shape, f.shape[1]))), log_prob

    def _infer_seen(self, params: FactorParams, x: Holed) -> tuple[FactorPosterior, Array]:
        """`infer` from the cells that are seen: rows of features that are not are no part of the model of a unit."""
        b = kernel.basis(jnp.where(x.seen[:, None], (params.whitening * params.loadings)[:, :, None], 0))
        z = jnp.where(x.seen, params.whitening * residual(x.values, params.mean), 0)
        f, r = kernel.posterior_mean_each(b, z)
        of_cell = jnp.log(self.noise.diagonal(params.whitening, len(z)))[:, None] - 0.5 * LOG_2PI
        constant = jnp.sum(jnp.where(x.seen, of_cell, 0), 0) + kernel.log_normaliser(b)
        return FactorPosterior(f, b.factors), constant - 0.5 * (jnp.sum(r * r, 0) + jnp.sum(f * f, 0))

    def expect(self, params: FactorParams, posterior: FactorPosterior, x: Any, weights: Array) -> FactorMoments:
        if isinstance(x, Holed):
            a = jnp.broadcast_to(params.whitening * params.loadings, params.loadings.shape)
            r = params.whitening * residual(x.values, params.mean) - a @ posterior.mean
            return kernel.moments_seen(a, posterior.root, posterior.mean, jnp.where(x.seen, r, 0), x.seen, weights)
        a, root = params.whitening * params.loadings, posterior.root[:, :, 0]
        r = params.whitening * residual(x, params.mean) - a @ posterior.mean
        return kernel.moments(kernel.Basis(a @ root, root), posterior.mean, r, weights)

    def complete(self, params: FactorParams, posterior: FactorPosterior, x: Any, key: Array | None = None) -> Array:
        values, seen = without_holes(x)
        if seen is None:
            return values
        factors, noise = posterior.mean, jnp.zeros_like(values)
        if key is not None:
            factor_key, noise_key = jax.random.split(key)
            f = jax.random.normal(factor_key, factors.shape, factors.dtype)
            factors = factors + jnp.sum(posterior.root * f[None], 1)
            noise = jax.random.normal(noise_key, values.shape, values.dtype) / params.whitening
        return jnp.where(seen, values, params.mean[:, None] + params.loadings @ factors + noise)

    def hidden(self, key: Array, params: FactorParams, posterior: FactorPosterior, x: Any) -> Array:
        noise = jax.random.normal(key, posterior.mean.shape, posterior.mean.dtype)
        return posterior.mean + jnp.sum(posterior.root * noise[None], 1)

    def of_columns(self, columns: tuple[int, ...]) -> Gaussian:
        return Gaussian()  # so few columns may be left that fewer factors would do

    def marginal(self, params: FactorParams, columns: tuple[int, ...]) -> GaussianParams:
        return Gaussian().marginal(_as_gaussian(params), columns)

    def conditional(
        self, params: FactorParams, given: tuple[int, ...], rest: tuple[int, ...], values: Array
    ) -> tuple[GaussianParams, Array]:
        return Gaussian().conditional(_as_gaussian(params), given, rest, values)

    def maximize(self, params: FactorParams, stats: FactorMoments) -> FactorParams:
        empty = ~(stats.count > 0)
        c = kernel.centred(jnp.where(empty, 1, stats.count), stats)
        step = kernel.regress(c)
        w, scatter = params.whitening, self.noise.pool(stats.count * step.scatter)
        new = FactorParams(
            params.mean + (c.noise - step.loadings @ c.factor) / w[:, 0],
            params.loadings + step.loadings / w,
            self.noise.maximize(w, stats.count, scatter, prior_of(self), params.mean.shape[0]),
        )
        return jax.tree.map(lambda n, o: jnp.where(empty, o, n), new, params)

    def expected_log_prob(self, params: FactorParams, stats: FactorMoments, old: FactorParams) -> Array:
        dim, num = params.loadings.shape
        change, shift = old.whitening * (params.loadings - old.loadings), old.whitening[:, 0] * (params.mean - old.mean)
        square = (params.whitening / old.whitening)[:, 0] ** 2 * kernel.expected_squares(stats, change, shift)
        constant = self.noise.log_det(params.whitening, dim) - 0.5 * (dim + num) * LOG_2PI
        return stats.count * constant - 0.5 * (jnp.sum(square) + jnp.trace(stats.factor_square))

    def init(self, key: Array, x: Any, weights: Array) -> FactorParams:
        origin = jnp.mean(together(x), 1) if self.origin is None else self.origin
        d = residual(x, origin)
        cells = Holed(d, x.seen) if isinstance(x, Holed) else d
        d = d if cells is d else jnp.where(x.seen, d, 0)
        shift, deviation = weighted_moments(cells, weights, self.scale)
        unit = jnp.std(d, 1) if self.scale is None else self.scale.deviation
        rows = jnp.sum(weights) + 1  # the moments have one pseudo-row, of the unit
        pseudo = jnp.where(unit > 0, (unit / deviation) ** 2, 1) / rows
        g = jax.random.normal(key, (d.shape[0], self.num_factors), d.dtype)
        a, left = kernel.principal_start(g, d, weights / rows, shift, deviation, pseudo)
        noise = deviation * jnp.sqrt(left)
        noise = noise if self.scale is None else jnp.maximum(noise, self.scale.resolution)
        return FactorParams(origin + shift, deviation[:, None] * a, self.noise.from_diagonal(1 / noise))

    def sample(self, key: Array, params: FactorParams, num: int) -> tuple[Array, Array]:
        factor_key, noise_key = jax.random.split(key)
        dim, dtype = params.mean.shape[0], params.mean.dtype
        f = jax.random.normal(factor_key, (self.num_factors, num), dtype)
        noise = jax.random.normal(noise_key, (dim, num), dtype) / params.whitening
        return f, params.mean[:, None] + params.loadings @ f + noise

    def bind(self, x: Any, weights: Array) -> "FactorAnalysis":
        origin, scale = mean_and_scale(x if isinstance(x, Holed) else together(x), weights)
        return FactorAnalysis(self.num_factors, self.noise, self.prior, scale, origin)

    def compress(self, total: Callable[..., Any], x: Array, weights: Array) -> tuple[Offset, Array] | None:
        dim = x.shape[1]
        if self.scale is None or self.origin is None or x.shape[0] <= dim + 1:
            return None
        origin, deviation = self.origin, self.scale.deviation

        def gather(x: Array, weights: Array) -> tuple[Array, Array, Array]:
            z = (x - origin[:, None]) / deviation[:, None]
            wz = weights[None, :] * z
            return jnp.sum(weights), jnp.sum(wz, 1), wz @ z.T

        count, first, second = total(gather)
        mass = jnp.where(count > 0, count, 1)
        mean = first / mass
        units = kernel.few_units(mean, second / mass - mean[:, None] * mean[None, :])
        rows = deviation[None, :] * units.T
        return Offset(jnp.broadcast_to(origin, rows.shape), rows), jnp.full(dim + 1, count / (dim + 1), weights.dtype)

    def supports(self, params: FactorParams) -> FactorParams:
        return params._replace(mean=Real(), loadings=Real(), whitening=self.noise.support())

    def log_prior(self, params: FactorParams) -> Array:
        return log_prior_of(self, self.noise, params)

    def degenerate(self, params: FactorParams, stats: FactorMoments) -> Array:
        w = params.whitening
        a = jnp.broadcast_to(w * params.loadings, params.loadings.shape)
        # No second moment of this dtype can tell the noise from zero, or it is at its floor.
        vanished = 1 <= 16 * jnp.finfo(w.dtype).eps * (1 + jnp.sum(a * a, 1))
        if self.scale is not None:
            vanished = vanished | (1 / self.noise.diagonal(w, a.shape[0]) <= 2 * self.scale.resolution)
        # A maximum on that boundary is an answer. There is none where nothing else varies in some direction of these features:
        # of their variances given the factors' part, (I + A A^T)^{-1}, the trace is then at least a half, and else near 0.
        left = 1 - jnp.sum(kernel.basis(jnp.where(vanished[:, None], a, 0)).features ** 2, 1)
        return flag(HELD, jnp.sum(jnp.where(vanished, left, 0)) > 0.5)

    def conditioning(self, params: FactorParams) -> Array:
        return jnp.sqrt(1 + jnp.max(jnp.sum((params.whitening * params.loadings) ** 2, 1)))

    def gauge(self, params: FactorParams) -> dict[str, int]:
        return {"loadings": self.num_factors * (self.num_factors - 1) // 2}  # rotations

    def features(self, x: Any) -> Array:
        x = together(x)
        return x if self.scale is None else x / self.scale.deviation[:, None]

    def validate(self, x: Array) -> None:
        check_rows(x, type(self).__name__)
        checks.check_positive_int(self.num_factors, "FactorAnalysis: num_factors")
        if not isinstance(self.noise, Diagonal | Spherical):
            raise ValueError(
                f"FactorAnalysis: noise must be jem.covariance.Diagonal() or jem.covariance.Spherical(); got {self.noise!r}. "
                "A full noise covariance leaves nothing for the factors: use jem.Gaussian()"
            )
        if self.num_factors >= x.shape[1]:
            raise ValueError(
                f"FactorAnalysis: num_factors is {self.num_factors} and x has {x.shape[1]} features; use fewer factors than "
                "features, or jem.Gaussian()"
            )

    def hold(self, params: FactorParams, stats: FactorMoments, fields: tuple[str, ...]) -> FactorMoments:
        # Without first moments the regression has no intercept; without cross moments it has no slope.
        if "mean" in fields:
            stats = stats._replace(factor=jnp.zeros_like(stats.factor), noise=jnp.zeros_like(stats.noise))
        if "loadings" in fields:
            stats = stats._replace(factor=jnp.zeros_like(stats.factor), cross=jnp.zeros_like(stats.cross))
        return stats

    def tie(self, params: FactorParams, stats: FactorMoments, fields: tuple[str, ...]) -> FactorParams:
        if set(fields) not in ({"whitening"}, {"loadings", "whitening"}):
            return super().tie(params, stats, fields)
        empty, w = ~(stats.count > 0), params.whitening
        count = jnp.sum(stats.count)
        c = jax.vmap(kernel.centred)(jnp.where(empty, 1, stats.count), stats)
        share = stats.count / jnp.where(count > 0, count, 1)
        average = lambda t: jax.tree.map(lambda leaf: jnp.tensordot(share, leaf, 1), t)  # noqa: E731
        if "loadings" in fields:
            step = kernel.regress(average(c))
            slopes, scatter = jnp.broadcast_to(step.loadings, c.cross.shape), step.scatter[None]
            loadings = jnp.where(count > 0, params.loadings + step.loadings / w, params.loadings)
        else:
            slopes, scatter = jax.vmap(kernel.regress)(c)
            loadings = jnp.where(empty[:, None, None], params.loadings, params.loadings + slopes / w[None])
        shift = (c.noise - jnp.einsum("kdq,kq->kd", slopes, c.factor)) / w[None, :, 0]
        scatter = jax.vmap(self.noise.pool)(stats.count[:, None] * scatter)
        whitening = self.noise.tie(w, stats.count, scatter, prior_of(self), params.mean.shape[1], ("whitening",))
        return FactorParams(jnp.where(empty[:, None], params.mean, params.mean + shift), loadings, whitening)


def _as_gaussian(params: FactorParams) -> GaussianParams:
    """The same distribution of x, without factors."""
    return GaussianParams(params.mean, Full().whitening(params.covariance, params.mean.shape[0]))


def residual(x: Any, mean: Array) -> Array:
    """`x - mean` (D, N)."""
    x = without_holes(x)[0]
    if isinstance(x, Offset):
        return (x.origin - mean[:, None]) + x.deviation
    return x - mean[:, None]


def together(x: Any) -> Array:
    """Data as one array (D, N)."""
    x = without_holes(x)[0]
    return x.origin + x.deviation if isinstance(x, Offset) else x


def rows_with_moments(mean: Any, covariance: Any, num: Any) -> tuple[Array, Array]:
    """Rows and weights that stand for `num` rows of which only mean and covariance are known.

    `sum_n w_n x_n = num mean`, `sum_n w_n (x_n - mean)(x_n - mean)^T = num covariance`: D + 1 rows of equal weight, which a
    Gaussian model or a factor analysis cannot tell from the data.

    Args:
        mean: (D,).
        covariance: (D, D), divided by `num`, not by `num - 1`.
        num: number of rows.

    Returns:
        x (D + 1, D) and weights (D + 1,), for `jem.fit`.

    Raises:
        ValueError: a covariance of another shape, or that is none.

    Example:
        >>> from jem.latents.linear.factor import rows_with_moments
        >>> x, weights = rows_with_moments([1.0, 2.0], [[4.0, 1.0], [1.0, 2.0]], 100)
        >>> print(x.mean(0).round(4), (x.T @ x / 3).round(4), weights.sum())  # second moment: covariance + mean mean^T
        [1. 2.] [[5. 3.]
         [3. 6.]] 100.0
    """
    mean, covariance = jnp.asarray(mean, float), jnp.asarray(covariance, float)
    checks.check_covariance(covariance, (mean.shape[0], mean.shape[0]))
    deviation = jnp.sqrt(jnp.diagonal(covariance))
    units = kernel.few_units(jnp.zeros_like(mean), covariance / deviation[:, None] / deviation[None, :])
    dim = mean.shape[0]
    return mean[None, :] + deviation[None, :] * units.T, jnp.full(dim + 1, num / (dim + 1), mean.dtype)

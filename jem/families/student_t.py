"""Multivariate Student-t observations, as Gaussians with a gamma-distributed precision scale."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.data import float_dtype
from jem.families.scatter import PRIOR, STRUCTURE, FeatureScale, InverseWishart, LocationScale, whitening_of
from jem.kernels import gaussian as kernel
from jem.kernels.covariance import Full, Moments, Structure, covariance_of
from jem.kernels.support import Interval
from jem.node import Data, node, setting, static
from jem.settings import number


class StudentTParams(NamedTuple):
    """Location (D,), whitening W of the scale matrix, (D, D), (D, 1) or (1, 1) as in a Gaussian, degrees of freedom ()."""

    mean: Array
    whitening: Array
    df: Array

    @property
    def scale_matrix(self) -> Array:
        """The scale matrices, (..., D, D); the covariance is `df / (df - 2)` times as large where df > 2."""
        return covariance_of(self.whitening, self.mean.shape[-1])


class StudentTPosterior(NamedTuple):
    """`E[u]` and `E[log u] - E[u] + 1` (N,) of each unit's precision scale u; the latter is 0 where u is known to be 1."""

    scale: Array
    gap: Array

    @property
    def log_scale(self) -> Array:
        """`E[log u]`, (N,)."""
        return self.gap + self.scale - 1


class StudentTStats(NamedTuple):
    """Sums of weights, of `E[u]`, of `E[log u] - E[u] + 1`, and the moments weighted by `E[u]`."""

    count: Array
    mass: Array
    gap: Array
    moments: Moments


@node
class StudentT(LocationScale):
    """A multivariate Student-t: `u ~ Gamma(df/2, df/2)`, `x | u ~ N(mean, Sigma / u)`; x has rows (N, D).

    The posterior of u is `Gamma((df + D)/2, (df + |z|^2)/2)`: units far out get a small weight. The degrees of freedom
    are estimated within [0.05, 1e4]; hold them with `jem.Frozen(jem.StudentT(df=4.0), "df")`. A scale
    matrix that collapses is kept finite by the resolution of the data's numbers, and the fit ends as DEGENERATE.

    Params: `StudentTParams(mean (D,), whitening, df ())`.

    Attributes:
        covariance: structure of the scale matrix, one of `jem.covariance`: `Full()`, `Diagonal()`, `Spherical()`,
            `Eigen()` or `ScaledDiagonal()`.
        df: degrees of freedom at the start.
        prior: an `InverseWishart` on the scale matrix, or None.
        scale: filled in by binding to data.

    Example:
        >>> import jem
        >>> p = jem.StudentT().params(mean=[0.0], covariance=[[4.0]], df=3.0)
        >>> float(p.scale_matrix[0, 0])
        4.0

    Source: Peel and McLachlan (2000), Statistics and Computing 10, section 4.
    """

    Params = StudentTParams

    covariance: Structure = static(default=Full(), must=STRUCTURE)
    df: Any = setting(default=4.0, must=number(above=0.0))
    prior: InverseWishart | None = setting(default=None, must=PRIOR)
    scale: FeatureScale | None = None

    def params(self, mean: Any, covariance: Any, df: Any) -> StudentTParams:
        """Parameters from locations (..., D), scale matrices of this structure and degrees of freedom (...)."""
        mean, covariance = jnp.asarray(mean, float), jnp.asarray(covariance, float)
        w = whitening_of(self.covariance, covariance, mean.shape[-1])
        return StudentTParams(mean, w, jnp.asarray(df, float))

    def of_squares(
        self, params: StudentTParams, squares: Array, log_det: Array, dim: Any
    ) -> tuple[StudentTPosterior, Array]:
        df = params.df
        a, b = 0.5 * (df + dim), 0.5 * (df + squares)
        log_prob = kernel.log_student_t(log_det, squares, df, dim)
        away = (dim - squares) / (df + squares)  # E[u] - 1; near 0 it and its logarithm cancel
        near = jnp.abs(away) < 0.5
        log_ratio = jnp.where(near, jnp.log1p(jnp.where(near, away, 0)), jnp.log(a / b))
        return StudentTPosterior(a / b, log_ratio - away - kernel.digamma_gap(a)), log_prob

    def mass(self, posterior: StudentTPosterior, weights: Array) -> Array:
        return weights * posterior.scale

    def gather(self, posterior: StudentTPosterior, weights: Array, moments: Moments) -> StudentTStats:
        u, gap = posterior
        return StudentTStats(jnp.sum(weights), weights @ u, weights @ gap, moments)

    def draw_scale(self, key: Array, params: StudentTParams, posterior: StudentTPosterior, dim: Array) -> Array:
        shape = 0.5 * (params.df + dim)  # of the gamma distribution of the precision's scale, whose mean is the posterior's
        return (shape / (posterior.scale * jax.random.gamma(key, shape)))[None]

    def after(self, params: StudentTParams, posterior: StudentTPosterior, num_seen: int) -> StudentTParams:
        w = params.whitening * jnp.sqrt(posterior.scale[0])
        return params._replace(whitening=w, df=params.df + num_seen)

    def maximize_others(self, params: StudentTParams, stats: StudentTStats) -> dict[str, Array]:
        empty = ~(stats.count > 0)
        target = stats.gap / jnp.where(empty, 1, stats.count)
        return {"df": jnp.where(empty, params.df, kernel.solve_degrees_of_freedom(target))}

    def expected_log_prob(self, params: StudentTParams, stats: StudentTStats, old: StudentTParams) -> Array:
        mean, w, df = params
        half, dim = 0.5 * df, mean.shape[0]
        # E[log u] enters the Gaussian term D/2 times and the gamma density of u (half - 1) times.
        log_u = stats.gap + stats.mass - stats.count
        normal = kernel.expected_log_normal(self.covariance, mean, w, stats.count, stats.mass, stats.moments, *old[:2])
        gamma = stats.count * kernel.log_gamma_gap(half) + half * stats.gap - log_u
        return normal + 0.5 * dim * log_u + gamma

    def init(self, key: Array, x: Data, weights: Array) -> StudentTParams:
        return StudentTParams(*self.start(x, weights), jnp.asarray(self.df, float_dtype(x)))

    def sample(self, key: Array, params: StudentTParams, num: int) -> tuple[Array, Array]:
        u_key, z_key = jax.random.split(key)
        half = 0.5 * params.df
        u = jax.random.gamma(u_key, half, (num,), params.mean.dtype) / half
        noise = jax.random.normal(z_key, (params.mean.shape[0], num), params.mean.dtype) / jnp.sqrt(u)[None, :]
        return u, self.coloured(params, noise)

    def supports(self, params: StudentTParams) -> StudentTParams:
        return super().supports(params)._replace(df=Interval(0.05, 1e4))

"""Gaussian observations with a covariance of any structure."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.data import Interval
from jem.families.scatter import PRIOR, STRUCTURE, FeatureScale, InverseWishart, LocationScale, whitening_of
from jem.kernels import gaussian as kernel
from jem.kernels import intervals
from jem.kernels.covariance import Full, Moments, Structure, covariance_of
from jem.kernels.intervals import Within
from jem.node import Data, node, setting, static


class GaussianParams(NamedTuple):
    """Mean (D,) and whitening W of a Gaussian, `W Sigma W^T = I`.

    W is (D, D) lower triangular for a full covariance, (D, 1) for a diagonal one, (1, 1) for a spherical one, and a record of
    parts for `jem.covariance.Eigen()` and `ScaledDiagonal()`. Leading axes batch both fields.
    """

    mean: Array
    whitening: Array

    @property
    def covariance(self) -> Array:
        """The covariance matrices, (..., D, D) whatever the structure."""
        return covariance_of(self.whitening, self.mean.shape[-1])


class GaussianStats(NamedTuple):
    """Sum of weights () and moments about the old mean, in old whitened coordinates."""

    count: Array
    moments: Moments

    @property
    def mass(self) -> Array:
        """The sum of the weights of the moments: the same."""
        return self.count


@node
class Gaussian(LocationScale):
    """A D-variate Gaussian, `x ~ N(mean, Sigma)`; x has rows (N, D).

    Params: `GaussianParams(mean (D,), whitening)`, with `whitening @ Sigma @ whitening.T = I`; make them from a mean
    and a covariance with `params`, read the covariance with `.covariance`.

    Attributes:
        covariance: `jem.covariance.Full()`, `Diagonal()` or `Spherical()`; or, for `jem.Tied` to share volume, shape or
            orientation, `jem.covariance.Eigen()` or `ScaledDiagonal()`.
        prior: an `InverseWishart`, or None for maximum likelihood. A component that collapses is kept finite by the resolution
            of the data's numbers whatever the prior, and its fit ends as DEGENERATE.
        scale: filled in by binding to data.

    Example:
        >>> import jem
        >>> p = jem.Gaussian().params(mean=[0.0, 1.0], covariance=[[4.0, 0.0], [0.0, 1.0]])
        >>> p.covariance.tolist()
        [[4.0, 0.0], [0.0, 1.0]]

    Source: Anderson (2003), An Introduction to Multivariate Statistical Analysis, section 3.2.
    """

    Params = GaussianParams

    covariance: Structure = static(default=Full(), must=STRUCTURE)
    prior: InverseWishart | None = setting(default=None, must=PRIOR)
    scale: FeatureScale | None = None

    def params(self, mean: Any, covariance: Any) -> GaussianParams:
        """Parameters from means (..., D) and covariances of this structure, batched alike or unbatched."""
        mean, covariance = jnp.asarray(mean, float), jnp.asarray(covariance, float)
        return GaussianParams(mean, whitening_of(self.covariance, covariance, mean.shape[-1]))

    def of_squares(self, params: GaussianParams, squares: Array, log_det: Array, dim: Any) -> tuple[tuple[()], Array]:
        return (), kernel.log_normal(log_det, squares, dim)

    def within(self, params: GaussianParams, x: Interval) -> Within:
        mean = params.mean[:, None]
        return intervals.normal(mean, self.roots(params), intervals.ends_of(x, self.edges, mean, mean.dtype))

    def gather(self, posterior: tuple[()], weights: Array, moments: Moments) -> GaussianStats:
        return GaussianStats(jnp.sum(weights), moments)

    def expected_log_prob(self, params: GaussianParams, stats: GaussianStats, old: GaussianParams) -> Array:
        return kernel.expected_log_normal(self.covariance, *params, stats.count, stats.mass, stats.moments, *old)

    def init(self, key: Array, x: Data, weights: Array) -> GaussianParams:
        return GaussianParams(*self.start(x, weights))

    def sample(self, key: Array, params: GaussianParams, num: int) -> tuple[tuple[()], Array]:
        return (), self.coloured(params, jax.random.normal(key, (params.mean.shape[0], num), params.mean.dtype))

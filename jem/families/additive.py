"""Gaussians whose means add up: one for each combination of the levels of several factors, with one covariance for all."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem.families.gaussian import Gaussian, GaussianParams, GaussianStats
from jem.families.scatter import prior_of, weighted_moments, whitening_of
from jem.kernels.covariance import covariance_of
from jem.kernels.regression import solve_psd
from jem.kernels.support import Real
from jem.node import EMPTY, LEVELS, Data, Node, flag, node, set_once, setting, static
from jem.settings import an_instance, whole


class AdditiveParams(NamedTuple):
    """Mean (D,) of the first levels, effects (E, D) of the others and one whitening W for all, `W Sigma W^T = I`.

    E = sum_c (K_c - 1), factor after factor; an effect is what a level adds to its factor's first. Leading axes batch all
    fields.
    """

    offset: Array
    effects: Array
    whitening: Array

    @property
    def covariance(self) -> Array:
        """The covariance matrices, (..., D, D) whatever the structure."""
        return covariance_of(self.whitening, self.offset.shape[-1])


@node
class Additive(Node):
    """K = K_1 K_2 .. Gaussians, `x | s ~ N(offset + sum_c W_c[s_c], Sigma)`: a plate, one member to a combination of levels s.

    With `jem.laws.Kronecker` transitions it is the emission of a factorial hidden Markov model, in a `Mixture` a cross of
    factors. Combinations are counted as there, the last factor's level fastest. The M-step is exact: least squares of all
    combinations' means on indicators of the levels, weighted by how much belongs to each, then the covariance from what is
    left. A combination that nothing belongs to has the mean that its levels say.

    `W_c[0] = 0`: effects are contrasts with the first level, so that every coordinate counts. A level that nothing belongs to
    is left out of the fit, which ends as DEGENERATE.

    Params: `AdditiveParams(offset (D,), effects (E, D), whitening)`, made with `params`; `means` gives the means (K, D).

    Args:
        child: a `jem.Gaussian`; its prior is that of the one covariance, and counts once.
        *sizes: numbers of levels K_c.

    Example:
        >>> import jem
        >>> emission = jem.Additive(jem.Gaussian(), 3, 2)
        >>> jem.HMM(emission, transition=jem.laws.Kronecker(3, 2)).emission.size
        6

    Source: Ghahramani and Jordan (1997), Machine Learning 29, section 2.
    """

    Params = AdditiveParams

    child: Gaussian = setting(must=an_instance(Gaussian, "a jem.Gaussian()"))
    sizes: tuple[int, ...] = static()

    def __init__(self, child: Gaussian, *sizes: int):
        if not sizes:
            raise ValueError("Additive: give the number of levels of each factor, as Additive(jem.Gaussian(), 3, 2)")
        for size in sizes:
            whole(1)(size, "Additive: sizes")
        set_once(self, child=child, sizes=tuple(int(size) for size in sizes))

    @property
    def size(self) -> int:
        """Number of combinations."""
        return int(np.prod(self.sizes))

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({LEVELS})

    def params(self, offset: Any, effects: Any, covariance: Any) -> AdditiveParams:
        """Parameters from a mean (D,), a table (K_c, D) of effects for each factor, and a covariance of the child's structure.

        The tables may be about any level: what their first rows hold goes to the offset.
        """
        offset, tables = jnp.asarray(offset, float), [jnp.asarray(table, float) for table in effects]
        dim = offset.shape[-1]
        wanted, got = [(size, dim) for size in self.sizes], [table.shape for table in tables]
        if got != wanted:
            raise ValueError(f"Additive: effects must be a table (K_c, D) for each factor, of shapes {wanted}; got {got}")
        first = jnp.stack([table[0] for table in tables])
        others = jnp.concatenate([table[1:] - table[:1] for table in tables])
        whitening = whitening_of(self.child.covariance, jnp.asarray(covariance, float), dim)
        return AdditiveParams(offset + jnp.sum(first, 0), others, whitening)

    def means(self, params: AdditiveParams) -> Array:
        """The means (K, D) of all combinations."""
        others = self._design(params.offset.dtype)[:, self._first == 0]
        return params.offset[..., None, :] + others @ params.effects

    def _design(self, dtype: Any) -> Array:
        """Which levels each combination has, (K, sum_c K_c), factor after factor."""
        states = np.unravel_index(np.arange(self.size), self.sizes)
        levels = [state[:, None] == np.arange(size)[None] for state, size in zip(states, self.sizes, strict=True)]
        return jnp.asarray(np.concatenate(levels, 1), dtype)

    @property
    def _first(self) -> np.ndarray:
        """Which levels are the first of their factor."""
        return np.concatenate([np.arange(size) == 0 for size in self.sizes]).astype(int)

    @property
    def _factor(self) -> np.ndarray:
        """The factors of the levels."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def _each(self, params: AdditiveParams) -> GaussianParams:
        """The combinations' Gaussians: means (K, D), one whitening."""
        return GaussianParams(self.means(params), params.whitening)

    def infer(self, params: AdditiveParams, x: Array) -> tuple[tuple[()], Array]:
        return self.child.infer_each(self._each(params), x, SHARED, self.size)

    def expect(self, params: AdditiveParams, posterior: tuple[()], x: Array, weights: Array) -> GaussianStats:
        return self.child.expect_each(self._each(params), (), x, weights, SHARED)

    def maximize(self, params: AdditiveParams, stats: GaussianStats) -> AdditiveParams:
        w, total = params.whitening, jnp.sum(stats.count)
        moved = self._moved(params, stats)
        scatter = jnp.sum(self.recentre(stats, params, moved).moments.second, 0)
        new = self.child.covariance.maximize(w, total, scatter, prior_of(self.child), params.offset.shape[0])
        return moved._replace(whitening=new)

    def _moved(self, params: AdditiveParams, stats: GaussianStats) -> AdditiveParams:
        """The offset and the effects that fit best."""
        design = self._design(stats.count.dtype)
        counts = stats.count @ design
        # Columns of all levels of the first factor, and of the others all but the fullest one's: what is empty is a column of
        # zeros, and nothing that is rare is a difference of what is not.
        full = [jnp.argmax(counts[self._factor == c]) for c in range(len(self.sizes))]
        open_ = [jnp.ones(k) if c == 0 else jnp.arange(k) != full[c] for c, k in enumerate(self.sizes)]
        change = solve(design * jnp.concatenate(open_).astype(design.dtype)[None], stats)
        change = self.child.covariance.solve(params.whitening, change.T).T
        # About the first levels again. Where one of these is empty the offset may stay as it is.
        first = change[self._first == 1]
        empty = counts[self._first == 1] <= 0
        shift = jnp.sum(first, 0)
        unseen = empty & (jnp.arange(len(self.sizes)) == jnp.argmax(empty))
        first = first - jnp.where(unseen[:, None], shift[None], 0)
        effects = (change - first[self._factor])[self._first == 0]
        offset = params.offset + jnp.where(jnp.any(empty), 0, shift)
        return params._replace(offset=offset, effects=params.effects + effects)

    def expected_log_prob(self, params: AdditiveParams, stats: GaussianStats, old: AdditiveParams) -> Array:
        each = jax.vmap(self.child.expected_log_prob, (SHARED, 0, SHARED))
        return jnp.sum(each(self._each(params), stats, self._each(old)))

    def init(self, key: Array, x: Array, weights: Array) -> AdditiveParams:
        # Which combination a cluster is nobody knows: effects are drawn, of the size that gives x its spread.
        mean, deviation = weighted_moments(x, jnp.sum(weights, 0), self.child.scale)
        levels = len(self._first) - len(self.sizes)
        noise = jax.random.normal(key, (levels, x.shape[0]), mean.dtype)
        effects = noise * (deviation / len(self.sizes) ** 0.5)[None]
        params = AdditiveParams(mean, effects, self.child.covariance.from_diagonal(1 / deviation))
        return params._replace(offset=2 * mean - jnp.mean(self.means(params), 0))

    def sample(self, key: Array, params: AdditiveParams, num: int) -> tuple[tuple[()], Array]:
        draw = jax.vmap(lambda k, p: self.child.sample(k, p, num), (0, SHARED))
        return draw(jax.random.split(key, self.size), self._each(params))

    def sample_like(self, key: Array, params: AdditiveParams, x: Data) -> tuple[Any, Data]:
        draw = jax.vmap(lambda k, p: self.child.sample_like(k, p, x), (0, SHARED))
        return draw(jax.random.split(key, self.size), self._each(params))

    def bind(self, x: Array, weights: Array) -> "Additive":
        return Additive(self.child.bind(x, weights), *self.sizes)

    def log_prior(self, params: AdditiveParams) -> Array:
        return self.child.log_prior(GaussianParams(params.offset, params.whitening))

    def degenerate(self, params: AdditiveParams, stats: GaussianStats) -> Array:
        counts = stats.count @ self._design(stats.count.dtype)
        nobody = flag(EMPTY, jnp.any(counts <= jnp.finfo(counts.dtype).eps))
        return nobody | self.child.degenerate(GaussianParams(params.offset, params.whitening), stats)

    def conditioning(self, params: AdditiveParams) -> Array:
        return self.child.conditioning(GaussianParams(params.offset, params.whitening))

    def supports(self, params: AdditiveParams) -> Any:
        return params._replace(offset=Real(), effects=Real(), whitening=self.child.covariance.support())

    def recentre(self, stats: GaussianStats, old: AdditiveParams, new: AdditiveParams) -> GaussianStats:
        return jax.vmap(self.child.recentre, (0, SHARED, SHARED))(stats, self._each(old), self._each(new))

    def features(self, x: Array) -> Array:
        return self.child.features(x)

    def num_observations(self, x: Array) -> Array:
        return self.child.num_observations(x)

    def validate(self, x: Array) -> None:
        self.child.validate(x)

    def hold(self, params: AdditiveParams, stats: GaussianStats, fields: tuple[str, ...]) -> GaussianStats:
        count, moments = stats.count, stats.moments
        if {"offset", "effects"} <= {*fields}:
            return stats._replace(moments=moments._replace(first=jnp.zeros_like(moments.first)))
        if "effects" in fields:  # all is as if of the first levels
            one = (jnp.arange(self.size) == 0).astype(count.dtype)
            first = one[:, None] * jnp.sum(moments.first, 0)[None]
            return GaussianStats(one * jnp.sum(count), moments._replace(first=first))
        if "offset" in fields:  # first moments that the other levels explain alone
            design = self._design(count.dtype) * (1 - self._first).astype(count.dtype)[None]
            return stats._replace(moments=moments._replace(first=count[:, None] * (design @ solve(design, stats))))
        return stats


AXES: Any = (0, None)
SHARED = GaussianParams(*AXES)  # of the combinations


def solve(design: Array, stats: GaussianStats) -> Array:
    """Coefficients, whitened, of the combinations' means on the design, weighted by their counts; 0 of a column of zeros."""
    return solve_psd(design.T @ (stats.count[:, None] * design), design.T @ stats.moments.first)

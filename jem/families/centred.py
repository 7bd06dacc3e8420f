"""Families whose statistics are gathered about the parameters there are: narrow densities keep their digits."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.data import float_dtype, without_holes
from jem.families.cells import Cells
from jem.kernels.intervals import Edges
from jem.kernels.shapes import tightest
from jem.node import HELD, Data, Params, flag


class CentredPosterior(NamedTuple):
    """Nothing is hidden; the log-densities (N,), which the statistics sum."""

    log_prob: Array


class CentredStats(NamedTuple):
    """Weighted sums over units: of 1, () or (D,) where cells are missing; of each deviation, (D,); of the log-densities, ()."""

    count: Array
    sums: tuple[Array, ...]
    log_prob: Array


class Centred(Cells):
    """Cells with `log p(x) = level(params, about(params, x)) + carrier(x)`; x has rows (N, D).

    What is `about` are deviations of x from the parameters, (D, N) each, small where the density is large: nothing cancels, as
    `eta t - A` of a `Factorising` family does in a narrow density. The level is linear in them; in the M-step they are means,
    (D,), which `moved` puts about other parameters. Inside these members fields have a last axis of one where x has units.

    Write `level`, `about`, `moved`, `fit`, `start`, `possible`, `carrier`, and what the data ask for. A family whose columns
    belong together returns arrays with one row in place of D.

    Source: Barndorff-Nielsen (1978), Information and Exponential Families.
    """

    inside: ClassVar[float] = 0.5  # what stands for a value that cannot be

    def about(self, params: Params, x: Array) -> tuple[Array, ...]:
        """Deviations of x from the parameters."""
        raise TypeError(f"{type(self).__name__} does not define about")

    def level(self, params: Params, means: tuple[Array, ...]) -> Array:
        """The log-density but for the carrier, of deviations or of their means."""
        raise TypeError(f"{type(self).__name__} does not define level")

    def moved(self, means: tuple[Array, ...], old: Params, new: Params) -> tuple[Array, ...]:
        """Means of the deviations from `new`, from those of the deviations from `old`."""
        raise TypeError(f"{type(self).__name__} does not define moved")

    def fit(self, old: Params, means: tuple[Array, ...]) -> Params:
        """The parameters of highest mean level, from means of the deviations from `old`."""
        raise TypeError(f"{type(self).__name__} does not define fit")

    def start(self, x: Array, mean: Callable[[Array], Array]) -> Params:
        """Parameters from which `fit` may be taken; `mean` is that over units, (D, N) to (D,)."""
        raise TypeError(f"{type(self).__name__} does not define start")

    def possible(self, x: Array) -> Array:
        """Which cells can be."""
        return jnp.isfinite(x)

    def carrier(self, x: Array) -> Array:
        """What of the log-density does not depend on the parameters."""
        return jnp.zeros_like(x)

    def tightness(self, params: Params) -> Array:
        """About the mean over the variance, squared: what must not exceed `tightest`."""
        return jnp.ones((), jax.tree.leaves(params)[0].dtype)

    def infer(self, params: Params, x: Data) -> tuple[CentredPosterior, Array]:
        values, seen = without_holes(x)
        cells = self.cells(params, values)
        log_prob = jnp.sum(cells if seen is None else jnp.where(seen, cells, 0), 0)
        return CentredPosterior(log_prob), log_prob

    def cells(self, params: Params, x: Array) -> Array:
        values, _, possible = self._cells(x, params)
        columns = _columns(params)
        return jnp.where(possible, self.level(columns, self.about(columns, values)) + self.carrier(values), -jnp.inf)

    def expect(self, params: Params, posterior: CentredPosterior, x: Data, weights: Array) -> CentredStats:
        values, seen, _ = self._cells(x, weights)
        count = jnp.sum(weights) if seen is None else seen.astype(weights.dtype) @ weights
        each = self.about(_columns(params), values)
        sums = tuple((t if seen is None else jnp.where(seen, t, 0)) @ weights for t in each)
        return CentredStats(count, sums, jnp.where(weights > 0, posterior.log_prob, 0) @ weights)

    def maximize(self, params: Params, stats: CentredStats) -> Params:
        some = stats.count > 0
        new = self.fit(params, _means(stats))
        return jax.tree.map(lambda new, old: jnp.where(some & jnp.isfinite(new), new, old), new, params)

    def expected_log_prob(self, params: Params, stats: CentredStats, old: Params) -> Array:
        # The change from the parameters at which the log-densities were summed: the carrier is in these.
        means = _means(stats)
        change = self.level(params, self.moved(means, old, params)) - self.level(old, means)
        return stats.log_prob + jnp.sum(stats.count * change)

    def recentre(self, stats: CentredStats, old: Params, new: Params) -> CentredStats:
        sums = tuple(stats.count * m for m in self.moved(_means(stats), old, new))
        return CentredStats(stats.count, sums, self.expected_log_prob(new, stats, old))

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        # One pseudo-observation, spread over all units: a start with little or no weight stays sensible.
        values, seen, possible = self._cells(x, weights)
        used = possible if seen is None else possible & seen
        whole = jnp.sum(used.astype(values.dtype), -1, keepdims=True)
        cells = jnp.where(used, weights[None] + 1 / jnp.maximum(whole, 1), jnp.where(whole > 0, 0, 1 / values.shape[-1]))
        total = jnp.sum(cells, -1)
        params = self.start(values, lambda t: jnp.sum(t * cells, -1) / total)
        means = tuple(jnp.sum(t * cells, -1) / total for t in self.about(_columns(params), values))
        new = self.fit(params, means)
        return jax.tree.map(lambda new, old: jnp.where(jnp.isfinite(new), new, old), new, params)

    def degenerate(self, params: Params, stats: CentredStats) -> Array:
        tightness = self.tightness(params)
        return flag(HELD, jnp.any(tightness > 0.9 * tightest(tightness.dtype)))

    def conditioning(self, params: Params) -> Array:
        return jnp.sqrt(jnp.max(self.tightness(params), initial=1.0))

    def hold(self, params: Params, stats: CentredStats, fields: tuple[str, ...]) -> CentredStats:
        name = type(self).__name__
        raise ValueError(f"Frozen: {name} has no closed form for the rest with {', '.join(fields)} held; hold all or none")

    def features(self, x: Array) -> Array:
        return x.astype(float_dtype(x))

    def validate(self, x: Any) -> None:
        checks.check_matrix(x, type(self).__name__)

    def _cells(self, x: Data, like: Any) -> tuple[Array, Array | None, Array]:
        """The cells in the dtype of what they meet, which of them are seen, None for all, and which can be."""
        values, seen = without_holes(x)
        values = values.astype(jax.tree.leaves(like)[0].dtype)
        possible = self.possible(values)
        return jnp.where(possible, values, self.inside), seen, possible


class CentredPositive(Centred):
    """`Centred` families of numbers > 0."""

    inside = 1.0

    @property
    def edges(self) -> Edges:
        return Edges(0.0)

    def possible(self, x: Array) -> Array:
        return (x > 0) & (x < jnp.inf)

    def carrier(self, x: Array) -> Array:
        return -jnp.log(x)

    def features(self, x: Array) -> Array:
        return jnp.log(x)  # of which a scale is an origin

    def validate(self, x: Any) -> None:
        super().validate(x)
        checks.check_values(x, type(self).__name__, checks.not_positive, "> 0")


def _columns(params: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, 1), params)


def _means(stats: CentredStats) -> tuple[Array, ...]:
    count = jnp.where(stats.count > 0, stats.count, 1)
    return tuple(s / count for s in stats.sums)

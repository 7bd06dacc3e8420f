"""What families of counts share: a density that does not cancel, and chances of one kind of event against another."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import checks
from jem.data import float_dtype
from jem.families.factorising import Factorising, Totals
from jem.kernels.branch import anywhere
from jem.kernels.counts import LARGE, tables, xlog1m_ratio, xlogy_ratio
from jem.kernels.intervals import Edges
from jem.kernels.roots import falling_root
from jem.kernels.simplex import safe_log
from jem.kernels.support import Bounded, Interval
from jem.node import Data, Params, Stats
from jem.settings import Must, wholes


class CountPosterior(NamedTuple):
    """Nothing is hidden; the log-densities (N,), which the statistics sum."""

    log_prob: Array


class Counted(Factorising):
    """Independent counts whose natural form cancels where they are large, `log p(x) = sum_d cells_d(x_d)`.

    Write `cells`, `largest` and `change` beside what `Factorising` asks for.
    """

    @property
    def edges(self) -> Edges:
        return Edges(0.0, whole=True)

    def cells(self, params: Params, x: Array) -> Array:
        """Log-densities of cells x (D, N) that does not cancel, minus infinity for what cannot be."""
        raise TypeError(f"{type(self).__name__} does not define cells")

    def largest(self, x: Array) -> Array:
        """The number that says how large the terms of the natural form are."""
        return jnp.max(x, initial=0)

    def change(self, params: Params, stats: Stats, old: Params) -> Array:
        """`Q(params) - Q(old)`, without taking a difference of large numbers."""
        raise TypeError(f"{type(self).__name__} does not define change")

    def infer(self, params: Params, x: Data) -> tuple[CountPosterior, Array]:
        values, seen = self._cells(x, params)
        natural_form = super().infer

        def by_cell() -> Array:
            cells = self.cells(params, values)
            return jnp.sum(cells if seen is None else jnp.where(seen, cells, 0), 0)

        # A branch, not a choice of values: it costs a logarithm for every cell.
        log_prob = lax.cond(anywhere(self.largest(values) >= LARGE), by_cell, lambda: natural_form(params, x)[1])
        return CountPosterior(log_prob), log_prob

    def expect(self, params: Params, posterior: CountPosterior, x: Data, weights: Array) -> Totals:
        # The log-density itself stands for its carrier, and Q is its change from here: neither cancels.
        count, sums, _ = self._totals(x, weights)
        return Totals(count, sums, jnp.where(weights > 0, posterior.log_prob, 0) @ weights)

    def expected_log_prob(self, params: Params, stats: Totals, old: Params) -> Array:
        return stats.carrier + self.change(params, stats, old)

    def conditioning(self, params: Params) -> Array:
        return jnp.ones((), jax.tree.leaves(params)[0].dtype)  # large counts take another form

    def recentre(self, stats: Totals, old: Params, new: Params) -> Totals:
        return stats._replace(carrier=self.expected_log_prob(new, stats, old))


class GroupPosterior(NamedTuple):
    """Expected groups (D, N) that the counts of each cell fall into, what else was counted, and the log-densities (N,)."""

    groups: tuple[Array, ...]
    rest: tuple[Array, ...]
    log_prob: Array


class Overdispersed(Counted):
    """Independent counts with a size: rising factorials `size (size + 1) .. (size + x - 1)` of parameters in the density.

    Such a factor is a sum over ways to put x counts in groups, of `size` to the number of groups: that number is hidden, and
    given its expectation the Q function is that of counts. Write `cells`, `sizes` and `change`, and the M-step.

    Source: Antoniak (1974), Annals of Statistics 2; Zhou and Carin (2015), IEEE Trans. PAMI 37.
    """

    def sizes(self, params: Params, x: Array) -> tuple[tuple[Array, Array], ...]:
        """Counts (D, N) and sizes that broadcast to them, one pair a rising factorial."""
        raise TypeError(f"{type(self).__name__} does not define sizes")

    def infer(self, params: Params, x: Data) -> tuple[GroupPosterior, Array]:
        values, seen = self._cells(x, params)
        cells = self.cells(params, values)
        log_prob = jnp.sum(cells if seen is None else jnp.where(seen, cells, 0), 0)
        groups, rest = zip(*(tables(*pair) for pair in self.sizes(params, values)), strict=True)
        return GroupPosterior(groups, rest, log_prob), log_prob

    def expect(self, params: Params, posterior: GroupPosterior, x: Data, weights: Array) -> Totals:
        seen = self._cells(x, weights)[1]
        sums = tuple((t if seen is None else jnp.where(seen, t, 0)) @ weights for t in posterior.groups + posterior.rest)
        count = jnp.sum(weights) if seen is None else seen.astype(weights.dtype) @ weights
        return Totals(count, sums, jnp.where(weights > 0, posterior.log_prob, 0) @ weights)

    def log_prior(self, params: Params) -> Array:
        return jnp.zeros((), jax.tree.leaves(params)[0].dtype)

    def moments(self, x: Data, weights: Array) -> tuple[Array, Array]:
        """For starts: means and variances (D,), with one unit more that is like all of them."""
        values, seen = self._cells(x, weights)
        shown = jnp.ones_like(values) if seen is None else seen.astype(values.dtype)
        share = shown / jnp.maximum(jnp.sum(shown, 1, keepdims=True), 1)
        weights = shown * weights[None] + share
        total = jnp.maximum(jnp.sum(weights, 1), jnp.finfo(values.dtype).tiny)
        mean = jnp.sum(weights * values, 1) / total
        return mean, jnp.sum(weights * (values - mean[:, None]) ** 2, 1) / total


class Chances(Factorising):
    """Cells with two statistics, events and others: `log p(x) = sum_d ones_d log probs_d + zeros_d log(1 - probs_d) + h(x_d)`.

    The record is `self.Params(probs (D,))`; the field `concentration` is that of a symmetric beta prior on each.
    """

    concentration: Any

    def natural(self, params: Any) -> tuple[Array, Array]:
        # Of ones and zeros both, not their difference: nothing cancels near 0 or 1.
        return safe_log(params.probs), safe_log1m(params.probs)

    def from_means(self, means: tuple[Array, Array]) -> Params:
        ones, zeros = (jnp.maximum(m, 0) for m in means)
        total = ones + zeros
        return self._record(jnp.where(total > 0, ones / jnp.where(total > 0, total, 1), jnp.nan))

    def pseudo(self, dtype: Any) -> tuple[Array, tuple[Array, Array]]:
        more = jnp.asarray(self.concentration, dtype) - 1
        return 2 * more, (more, more)

    def init(self, key: Array, x: Any, weights: Array) -> Params:
        ones, zeros = self._totals(x, weights).sums
        return self._record((ones + 1) / (ones + zeros + 2))

    def change(self, params: Any, stats: Totals, old: Any) -> Array:
        ones, zeros = stats.sums
        return jnp.sum(xlogy_ratio(ones, params.probs, old.probs) + xlog1m_ratio(zeros, params.probs, old.probs))

    def supports(self, params: Any) -> Params:
        return params._replace(probs=Interval())

    def _record(self, probs: Array) -> Params:
        return type(self).Params(probs)  # type: ignore[attr-defined]


def safe_log1m(p: Array) -> Array:
    """`log(1 - p)`, minus infinity at 1 with derivative zero there."""
    return jnp.where(p == 1, -jnp.inf, jnp.log1p(-jnp.where(p == 1, 0, p)))


def root_of_counts(x: Array) -> Array:
    """For starts: the square root of a count has a nearly constant variance."""
    return 2 * jnp.sqrt(x.astype(float_dtype(x)))


def root_of_shares(x: Array) -> Array:
    """For starts: the square roots of a row's shares, whose distance is Hellinger's."""
    x = x.astype(float_dtype(x))
    total = jnp.sum(x, 0)
    return jnp.sqrt(x / jnp.maximum(total, 1)[None])


def arcsine_of_shares(x: Array, num: Array) -> Array:
    """For starts: the arc sine of the root of a share has a nearly constant variance."""
    return 2 * jnp.sqrt(num) * jnp.arcsin(jnp.sqrt(jnp.clip(x / num, 0, 1)))


def dispersed(ratio: Array, num: Array) -> Array:
    """For starts: the concentration at which counts of `num` have a variance so much larger than if they were independent."""
    correlation = jnp.clip((ratio - 1) / jnp.maximum(num - 1, 1), 0.01, 0.9)
    return 1 / correlation - 1


SIZES = Bounded(1e-6, 1e8)  # beyond, the density is the limit's to the last place that matters


def solve_size(fn: Any, *args: Array) -> Array:
    """The size at which `fn(size, *args)`, falling in it, is 0, or the end of what sizes may be."""
    return jnp.exp(falling_root(lambda z, *a: fn(jnp.exp(z), *a), math.log(SIZES.low), math.log(SIZES.high), *args))


TRIALS: Must = wholes(1)


def column(number: Any, dtype: Any) -> Array:
    """A setting that is one number or one a column, (D,), as it meets x (D, N)."""
    number = jnp.asarray(number, dtype)
    return number[:, None] if number.ndim else number


def check_trials(x: Any, name: str, num_trials: Any) -> None:
    """Rows of integers from 0 to the number of trials, which is one or one a column."""
    checks.check_matrix(x, name)
    checks.check_integers(x, name)
    if jnp.shape(num_trials) not in ((), (x.shape[1],)):
        raise ValueError(f"{name}: num_trials must be one number or one a column, ({x.shape[1]},); got {jnp.shape(num_trials)}")
    if checks.found(_above, x, num_trials):
        raise ValueError(f"{name}: x must be at most num_trials; got {checks.first_fault(_above, x, num_trials)}")


def _above(x: Array, most: Any) -> Array:
    return x > jnp.reshape(most, (1, -1))

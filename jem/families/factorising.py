"""Families of independent cells, each from an exponential family: everything follows from five short functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks, tree
from jem.data import float_dtype, without_holes
from jem.families.cells import Cells
from jem.node import Data, Params

_NEVER = {4: -1e30, 8: -1e200}  # by the bytes of a number: minus infinity in a product, as is what is below half of it


class Totals(NamedTuple):
    """Weighted sums over units: of 1, () or (D,) where cells are missing; of each statistic, (D,); of the carriers, ()."""

    count: Array
    sums: tuple[Array, ...]
    carrier: Array


class Factorising(Cells):
    """D independent cells, `log p(x) = sum_d sum_i eta_i(theta_d) t_i(x_d) - A(theta_d) + h(x_d)`; x has rows (N, D).

    Write `natural`, `statistics`, `from_means`, `supports`, where they are not zero `log_normaliser` and `carrier`, for a
    conjugate prior `pseudo`, and what the data ask for: `sample`, `features`, `validate` (this one checks for rows).
    Statistics are at least 0 where a natural parameter may be minus infinity, as the logarithm of a probability of 0: a cell
    with a positive one is then impossible. Inside `jem.Missing` single cells may be missing.

    Source: Barndorff-Nielsen (1978), Information and Exponential Families; Diaconis and Ylvisaker (1979) for the prior.
    """

    def natural(self, params: Params) -> tuple[Array, ...]:
        """The natural parameters eta_i, (D,) each."""
        raise TypeError(f"{type(self).__name__} does not define natural")

    def statistics(self, x: Array) -> tuple[Array, ...]:
        """The statistics t_i of x (D, N), alike in shape."""
        raise TypeError(f"{type(self).__name__} does not define statistics")

    def from_means(self, means: tuple[Array, ...]) -> Params:
        """The parameters at which the statistics have these expectations, (D,) each; NaN keeps the old ones."""
        raise TypeError(f"{type(self).__name__} does not define from_means")

    def log_normaliser(self, params: Params) -> Array:
        """A, (D,)."""
        return jnp.zeros_like(self.natural(params)[0])

    def carrier(self, x: Array) -> Array:
        """h(x), (D, N): what does not depend on the parameters, minus infinity for what cannot be."""
        return jnp.zeros_like(x)

    def cells(self, params: Params, x: Array) -> Array:
        """Log-densities of cells x (D, N)."""
        never = _NEVER[x.dtype.itemsize]
        pairs = zip(self._natural(params), self._statistics(x, None), strict=True)
        products = tree.total(jnp.maximum(e, never)[:, None] * t for e, t in pairs)
        return products - self.log_normaliser(params)[:, None] + self.carrier(x)

    def pseudo(self, dtype: Any) -> tuple[Array, tuple[Array, ...]]:
        """The conjugate prior as a count and sums, `log p(theta) = sum_i eta_i sums_i - count A`; zeros for none."""
        zero = jnp.zeros((), dtype)
        return zero, (zero,) * len(self.statistics(jnp.zeros((1, 1), dtype)))

    def infer(self, params: Params, x: Data) -> tuple[tuple[()], Array]:
        values, seen = self._cells(x, params)
        eta, a, carrier = self._natural(params), self.log_normaliser(params), self.carrier(values)
        possible = carrier > -jnp.inf if seen is None else seen & (carrier > -jnp.inf)
        constant = -jnp.sum(a) if seen is None else -(a @ seen.astype(a.dtype))
        never = _NEVER[values.dtype.itemsize]
        products = (jnp.maximum(e, never) @ t for e, t in zip(eta, self._statistics(values, possible), strict=True))
        log_prob = tree.total(products) + constant
        known = jnp.sum(carrier if seen is None else jnp.where(seen, carrier, 0), 0)  # the same for every component
        return (), jnp.where(log_prob <= 0.5 * never, -jnp.inf, log_prob) + known

    def expect(self, params: Params, posterior: Any, x: Data, weights: Array) -> Totals:
        return self._totals(x, weights)

    def conditioning(self, params: Params) -> Array:
        # log p is the difference of eta t and A, which rounds as these do.
        a = jnp.abs(self.log_normaliser(params))
        return jnp.max(jnp.where(jnp.isfinite(a), a, 1), initial=1.0)

    def features(self, x: Array) -> Array:
        return jnp.concatenate(self.statistics(x.astype(float_dtype(x))))

    def _totals(self, x: Data, weights: Array) -> Totals:
        values, seen = self._cells(x, weights)
        carrier = self.carrier(values) if seen is None else jnp.where(seen, self.carrier(values), 0)
        carrier = jnp.sum(jnp.where(weights > 0, jnp.sum(carrier, 0) * weights, 0))
        count = jnp.sum(weights) if seen is None else seen.astype(weights.dtype) @ weights
        return Totals(count, tuple(t @ weights for t in self._statistics(values, seen)), carrier)

    def maximize(self, params: Params, stats: Totals) -> Params:
        more, extra = self.pseudo(stats.count.dtype)
        count = stats.count + more
        some = count > 0
        means = tuple(jnp.where(some, s + e, 1) / jnp.where(some, count, 1) for s, e in zip(stats.sums, extra, strict=True))
        keep = lambda new, old: jnp.where(some & jnp.isfinite(new), new, old)  # noqa: E731
        return jax.tree.map(keep, self.from_means(means), params)

    def expected_log_prob(self, params: Params, stats: Totals, old: Params) -> Array:
        return self._dot(params, stats.count, stats.sums) + stats.carrier

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        # One pseudo-observation at the mean of all units: a start with little or no weight stays sensible.
        mine, every = (self._totals(x, w) for w in (weights, jnp.ones_like(weights)))

        def mean(total: Array) -> Array:
            count = jnp.broadcast_to(every.count, total.shape)
            whole = jnp.sum(count)
            other = jnp.where(whole > 0, jnp.sum(total) / jnp.maximum(whole, 1), 1)  # of a column that nobody saw
            return jnp.where(count > 0, total / jnp.maximum(count, 1), other)

        means = tuple((s + mean(e)) / (mine.count + 1) for s, e in zip(mine.sums, every.sums, strict=True))
        return self.from_means(means)

    def validate(self, x: Any) -> None:
        checks.check_matrix(x, type(self).__name__)

    def log_prior(self, params: Params) -> Array:
        return self._dot(params, *self.pseudo(jax.tree.leaves(params)[0].dtype))

    def recentre(self, stats: Totals, old: Params, new: Params) -> Totals:
        return stats

    def _dot(self, params: Params, count: Array, sums: tuple[Array, ...]) -> Array:
        """`sum_i eta_i sums_i - count A`; what sums to nothing may be impossible."""
        safe = (jnp.where((s == 0) & jnp.isinf(e), 0, e) * s for e, s in zip(self._natural(params), sums, strict=True))
        return jnp.sum(tree.total(safe) - count * self.log_normaliser(params))

    def _cells(self, x: Data, like: Any) -> tuple[Array, Array | None]:
        """The cells in the dtype of what they meet, and which of them are seen; None for all."""
        values, seen = without_holes(x)
        return values.astype(jax.tree.leaves(like)[0].dtype), seen

    def _natural(self, params: Params) -> tuple[Array, ...]:
        return _several(self, "natural", self.natural(params))

    def _statistics(self, values: Array, seen: Array | None) -> tuple[Array, ...]:
        each = _several(self, "statistics", self.statistics(values))
        return tuple(t if seen is None else jnp.where(seen, t, 0) for t in each)


def _several(family: Factorising, member: str, got: Any) -> tuple[Array, ...]:
    """What a member of a family returned, which must be a tuple."""
    if not isinstance(got, tuple):
        found = type(got).__name__
        raise TypeError(f"{type(family).__name__}.{member} must return a tuple of arrays, (a,) where it is one; got {found}")
    return got

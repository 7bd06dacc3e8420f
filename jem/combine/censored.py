"""Cells of which an interval is known."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.composite import WHOLE, Wrapper
from jem.data import (
    Given,
    Holed,
    Interval,
    as_floats,
    at_means,
    fill,
    observed,
    single_steps,
    with_holes,
    with_labels,
    without_labels,
    without_nan,
)
from jem.kernels.intervals import Within, is_seen
from jem.node import CELLS, INPUTS, MISSING, Data, Node, Params, Posterior, Stats, node, setting
from jem.settings import check_child


@node
class Censored(Wrapper):
    """A family of which intervals are known in place of values, `log p = sum_d log P(lower_d < x_d < upper_d)`; x is
    `jem.Interval(lower, upper)`, or `jem.Given` of one and inputs.

    An exact observation, `lower = upper`, has its density; where both ends are NaN a cell is missing. Counts and categories
    may be at both ends of their interval. The M-step is the family's own, of statistics that are expected given the intervals:
    that is EM. It is right as long as when a value is censored depends on nothing but what was seen.

    Families are `jem.Gaussian` (of diagonal or spherical covariance, or of one column), `jem.StudentT` of one column,
    `jem.Linear` with such noise (a Tobit model), the families of numbers > 0 and of counts whose columns are independent, and
    `jem.Categorical`. `jem.Frozen` may be inside; `jem.Stack` and `jem.Tied` go around, and so do mixtures, chains and parts of
    a product. Draws are exact observations. Values are integrated where their mass is, to about 1e-12 of it in float64; where
    counts spread over more than 512 integers, log P is NaN.

    Args:
        child: the family.

    Raises:
        TypeError: a child that is no node, a plate, or a family that takes no intervals.
        ValueError: at the door, x that is no `jem.Interval`, `lower > upper`, one end NaN, ends where the family has no values.
            Inside jit such a row has `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Exponential.Params(jnp.array([1.0]))
        >>> x = jem.Interval(jnp.array([[2.0], [2.0]]), jnp.array([[2.0], [jnp.inf]]))
        >>> jem.log_prob(jem.Censored(jem.Exponential()), p, x).tolist()
        [-2.0, -2.0]

    Source: Dempster, Laird and Rubin (1977), section 4.2; Klein and Moeschberger (2003), Survival Analysis, chapter 3.
    """

    child: Node = setting(must=check_child)

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({MISSING}) | (self.child.traits & {INPUTS})

    def see(self, name: Any, x: Data, weights: Array) -> tuple[Data, Array]:
        # Values in the place of intervals: for starts, and for scales.
        values, labels = without_labels(x)
        values = self._middles(values)
        if CELLS in self.child.traits:
            cells = with_holes(values)
            return with_labels(cells, labels), jnp.where(jnp.any(cells.seen, 0), weights, 0)
        ok = observed(values)
        return with_labels(fill(values, ok), labels), jnp.where(ok, weights, 0)

    def infer(self, params: Params, x: Data) -> tuple[Within, Array]:
        found = self.child.within(params, x)
        return found, jnp.sum(jnp.atleast_2d(found.log_prob), 0)

    def expect(self, params: Params, posterior: Within, x: Data, weights: Array) -> Stats:
        points, shares, _ = posterior
        num, seen = len(shares), self._seen(x)
        weights = jnp.where(jnp.any(seen, 0), weights, 0)
        repeat = lambda a: jnp.tile(a, num)  # noqa: E731
        units = single_steps(points)
        if CELLS not in self.child.traits or len(seen) == 1:
            share = shares if shares.ndim == 2 else jnp.sum(shares, 1)
            units = Given(units, jax.tree.map(repeat, x.inputs)) if isinstance(x, Given) else units
            return self._of_units(params, units, share * weights[None])
        if shares.ndim == 2:
            return self._of_units(params, Holed(units, repeat(seen)), shares * weights[None])

        # Each cell has shares of its own: units of which it alone is seen.
        def of_cell(cell: tuple[Array, Array]) -> Stats:
            alone, share = cell
            return self._of_units(params, Holed(units, repeat(seen & alone[:, None])), share * weights[None])

        each = jax.lax.map(of_cell, (jnp.eye(len(seen), dtype=bool), jnp.moveaxis(shares, 1, 0)))
        return jax.tree.map(lambda stat: jnp.sum(stat, 0), each)

    def _of_units(self, params: Params, units: Data, weights: Array) -> Stats:
        """The statistics of points, units last, that have these weights (M, N)."""
        return self.child.expect(params, self.child.infer(params, units)[0], units, weights.reshape(-1))

    def _middles(self, x: Data) -> Data:
        """One number for each cell, units last; NaN where nothing is known of it."""
        if isinstance(x, Given):
            return x._replace(outputs=self._middles(x.outputs))
        middle = jnp.floor(x.middle) if self.child.edges.whole else x.middle
        seen = self._seen(x)
        return jnp.where(seen if middle.ndim > 1 else seen[0], middle, jnp.nan)

    def _seen(self, x: Data) -> Array:
        """(D, N) bool: the cells of which something is known."""
        lower, upper = jnp.atleast_2d(*(x.outputs if isinstance(x, Given) else x))
        ends = (jnp.reshape(e, (-1, 1)) for e in self.child.edges[:2])
        return is_seen(lower, upper, *ends)

    def complete(self, params: Params, posterior: Posterior, x: Data, key: Array | None = None) -> Data:
        return Node.complete(self, params, posterior, x, key)  # which says that it cannot be done

    def of_columns(self, columns: tuple[int, ...]) -> Node:
        return Censored(self.child.of_columns(columns))

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        return self.child.init(key, *self.see(WHOLE, x, weights))

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        latents, drawn = self.child.sample(key, params, num)
        return latents, Interval(as_floats(drawn), as_floats(drawn))

    def sample_like(self, key: Array, params: Params, x: Data) -> tuple[Any, Data]:
        values = self._middles(x)
        latents, drawn = self.child.sample_like(key, params, fill(values, observed(values)))
        if isinstance(drawn, Given):
            return latents, drawn._replace(outputs=Interval(drawn.outputs, drawn.outputs))
        return latents, Interval(drawn, drawn)

    def sorting(self, x: Data) -> Array | None:
        return None

    def num_observations(self, x: Data) -> Array:
        return jnp.where(jnp.any(self._seen(x), 0), 1, 0)

    def features(self, x: Data) -> Array:
        values, labels = without_labels(x)
        values = self._middles(values)
        values = at_means(values) if CELLS in self.child.traits else fill(values, observed(values))
        return self.child.features(with_labels(values, labels))

    def must_be_finite(self, x: Data) -> Data:
        rows = x.outputs if isinstance(x, Given) else x
        middle = without_nan(rows.middle)
        return self.child.must_be_finite(Given(middle, x.inputs) if isinstance(x, Given) else middle)

    def validate(self, x: Data) -> None:
        rows = x.outputs if isinstance(x, Given) else x
        if not isinstance(rows, Interval):
            raise ValueError(
                f"Censored: x must be jem.Interval(lower, upper), or jem.Given of one and inputs; got {type(rows).__name__}; "
                "what is exact has both ends alike, jem.Interval(y, y)"
            )
        if rows.lower.shape != rows.upper.shape:
            raise ValueError(f"Censored: lower and upper must have one shape; got {rows.lower.shape} and {rows.upper.shape}")
        *ends, whole = self.child.edges
        low, high = (jnp.reshape(end, (1, -1)) if jnp.ndim(end) else end for end in ends)
        _refuse(_half_known, "both ends of a missing cell must be NaN", *rows)
        _refuse(_crossed, "lower must be at most upper", *rows)
        _refuse(_beyond, f"ends must be infinite or from {low} to {high}", *rows, low, high)
        if whole:
            _refuse(_broken, "ends must be integers, or infinite; they belong to the interval", *rows)
        middle = jnp.floor(rows.middle) if whole else rows.middle
        self.child.validate(Given(middle, x.inputs) if isinstance(x, Given) else middle)


def _refuse(fault: Any, expected: str, lower: Array, upper: Array, *rest: Any) -> None:
    if checks.found(fault, lower, upper, *rest):
        first = checks.first_fault(fault, lower, upper, *rest)
        other = "" if checks.is_apart(upper) else f" and upper = {jnp.asarray(upper)[first.place]}"
        raise ValueError(f"Censored: {expected}; got lower = {first.value}{other} in {checks.locate(first.place)}")


def _half_known(lower: Array, upper: Array) -> Array:
    return jnp.isnan(lower) != jnp.isnan(upper)


def _crossed(lower: Array, upper: Array) -> Array:
    return lower > upper


def _beyond(lower: Array, upper: Array, low: Any, high: Any) -> Array:
    outside = lambda end: jnp.isfinite(end) & ((end < low) | (end > high))  # noqa: E731
    return outside(lower) | outside(upper) | (lower == jnp.inf) | (upper == -jnp.inf)


def _broken(lower: Array, upper: Array) -> Array:
    part = lambda end: jnp.isfinite(end) & (end != jnp.floor(end))  # noqa: E731
    return part(lower) | part(upper)

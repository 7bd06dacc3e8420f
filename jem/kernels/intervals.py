"""Cells known to lie in intervals: log-probabilities, and points that stand for what is hidden.

The points of a cell, at their shares, have the expectations that EM asks for given its interval, so that Fisher's identity
holds, `grad log P = sum_m share_m grad log f(point_m)`. Integrals and sums are taken where the mass is and relative to the
highest density within the interval: nothing underflows however far out it lies. M points, D features, N units, units last.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import logsumexp

from jem.data import Interval
from jem.kernels.gaussian import LOG_2PI
from jem.kernels.linalg import safe_sqrt

_SUMMED = 512  # integers that are summed one by one


class Edges(NamedTuple):
    """The least and the largest a cell can be, numbers or (D,), and whether it is an integer."""

    low: Any = -math.inf
    high: Any = math.inf
    whole: bool = False


class Within(NamedTuple):
    """What is known of intervals.

    Attributes:
        points: data with leaves (M, D, N) that stand for each cell.
        shares: of the points, (M, N) where they are those of all cells of a unit, (M, D, N) where each cell has its own.
        log_prob: (D, N) log-probabilities, of an exact observation its log-density.
    """

    points: Any
    shares: Array
    log_prob: Array


class Ends(NamedTuple):
    """Intervals (D, N) as they are computed with.

    Attributes:
        low: lower ends; for what is no interval that of all there can be.
        high: upper ends, likewise.
        value: the observation where it is exact, else something harmless.
        exact: which are exact observations.
        open: which are intervals.
        seen: which are not missing.
    """

    low: Array
    high: Array
    value: Array
    exact: Array
    open: Array
    seen: Array


def ends_of(x: Interval, edges: Edges, inside: Any, dtype: Any) -> Ends:
    """The intervals' ends within the edges of what can be; `inside`, a number that can be, stands for what is not exact."""
    lower, upper = x.lower.astype(dtype), x.upper.astype(dtype)
    columns = (jnp.asarray(e, dtype) for e in edges[:2])
    least, most = (jnp.broadcast_to(e[:, None] if e.ndim else e, lower.shape) for e in columns)
    low, high = jnp.maximum(lower, least), jnp.minimum(upper, most)
    seen = is_seen(lower, upper, least, most)
    exact = seen & (lower == upper)
    opened = seen & (low <= high) & ~exact
    return Ends(
        jnp.where(opened, low, least), jnp.where(opened, high, most), jnp.where(exact, lower, inside), exact, opened, seen
    )


def logarithm(ends: Ends) -> Ends:
    """Intervals of numbers >= 0, in their logarithm."""
    return ends._replace(low=_safe_log(ends.low), high=_safe_log(ends.high), value=jnp.log(ends.value))


def is_seen(lower: Array, upper: Array, least: Any, most: Any) -> Array:
    """Which cells say anything: not those with two NaN, or all that can be between their ends."""
    return ~(jnp.isnan(lower) & jnp.isnan(upper)) & ~((lower <= least) & (upper >= most) & (lower < upper))


def assembled(ends: Ends, points: Array, shares: Array, log_prob: Array, density: Array) -> Within:
    """Intervals, exact observations and missing cells together; what cannot be has minus infinity."""
    known = jnp.where(ends.exact, density, jnp.where(ends.open, log_prob, -jnp.inf))
    return Within(jnp.where(ends.exact[None], ends.value[None], points), shares, jnp.where(ends.seen, known, 0))


# Reals ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Coordinate:
    """A coordinate s of a cell in which densities have one hill and fall at least as fast as an exponential.

    Attributes:
        value: x at s.
        log_slope: `log dx/ds`.
        place: s at x.
        limit: s beyond minus and plus this is not looked at.
    """

    value: Callable[[Array], Array]
    log_slope: Callable[[Array], Array]
    place: Callable[[Array], Array]
    limit: float


def coordinate_of(edges: Edges, dtype: Any) -> Coordinate:
    """That of numbers between two edges, either of which may be infinite."""
    low, high, _ = edges
    limit = 75.0 if dtype == jnp.float32 else 600.0
    if math.isfinite(low) and math.isfinite(high):
        to = lambda s: low + (high - low) * jax.nn.sigmoid(s)  # noqa: E731
        slope = lambda s: math.log(high - low) + jax.nn.log_sigmoid(s) + jax.nn.log_sigmoid(-s)  # noqa: E731
        return Coordinate(to, slope, lambda x: jnp.log((x - low) / (high - x)), 15.0 if dtype == jnp.float32 else 34.0)
    if math.isfinite(low):
        return Coordinate(lambda s: low + jnp.exp(s), lambda s: s, lambda x: jnp.log(x - low), limit)
    if math.isfinite(high):
        return Coordinate(lambda s: high - jnp.exp(-s), lambda s: -s, lambda x: -jnp.log(high - x), limit)
    return Coordinate(jnp.sinh, lambda s: jnp.logaddexp(s, -s) - math.log(2), jnp.arcsinh, limit)


def by_quadrature(density: Callable[[Array], Array], ends: Ends, at: Coordinate) -> Within:
    """Cells with `density(x)`, the log-density of x (D, N), of one hill in the coordinate.

    Two panels meet at the highest density, and end with the interval or where the density is `e^-reach` of the highest.
    """
    reach, y, log_w = _panels(ends.low.dtype)
    log_f = lambda s: density(at.value(s)) + at.log_slope(s)  # noqa: E731
    least, middle, most = (at.value(jnp.full_like(ends.low, s)) for s in (-at.limit, 0, at.limit))
    place = lambda x, there, end: jnp.where(there, at.place(jnp.where(there, x, middle)), end)  # noqa: E731
    low, high = place(ends.low, ends.low > least, -at.limit), place(ends.high, ends.high < most, at.limit)
    left, mode, right = (lax.stop_gradient(s) for s in _hill(log_f, low, high, reach))
    left, right = jnp.where(left <= low, low, left), jnp.where(right >= high, high, right)
    mode = jnp.clip(mode, left, right)

    def point(y: Array, log_w: Array) -> tuple[Array, Array]:
        """x and its log-weight, y of the way from the mode to the right end, or -y to the left one."""
        panel = jnp.where(y > 0, right - mode, mode - left)
        s = mode + panel * y
        # A narrow interval keeps its width better in x than in s.
        x = jnp.where(narrow, first + size * (0.5 + 0.5 * y), jnp.clip(at.value(s), ends.low, ends.high))
        return x, log_w + jnp.where(narrow, jnp.log(0.5 * size), _safe_log(panel) + at.log_slope(s))

    narrow = (high - low < 0.1) & (left <= low) & (right >= high)
    first, size = jnp.where(narrow, ends.low, 0), jnp.where(narrow, ends.high - ends.low, 1)
    x, weight = jax.vmap(point)(y, log_w)
    terms = jax.vmap(density)(x) + weight
    log_prob = logsumexp(terms, 0)
    return assembled(ends, x, jnp.exp(terms - log_prob[None]), log_prob, density(ends.value))


def _panels(dtype: Any) -> tuple[float, Array, Array]:
    """How far down a density is looked at, in nats, and points (M,) and log-weights of integrals from -1 to 0 and 0 to 1.

    Gauss's, in the cube root: densest at 0, where a density is highest.
    """
    reach, num = (20.0, 24) if dtype == jnp.float32 else (42.0, 56)
    root, w = _gauss(num)
    y, log_w = root**3, np.log(3 * root**2 * w)
    return reach, jnp.asarray(np.concatenate([-y, y]), dtype), jnp.asarray(np.concatenate([log_w, log_w]), dtype)


def _gauss(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre points and weights of an integral from 0 to 1."""
    points, weights = np.polynomial.legendre.leggauss(num)
    return 0.5 + 0.5 * points, 0.5 * weights


def _hill(log_f: Callable[[Array], Array], low: Array, high: Array, reach: float) -> tuple[Array, Array, Array]:
    """Where a function of one hill is highest between two ends, and where, on either side, it is so much lower, or the ends."""
    slope = lambda s: jax.jvp(log_f, (s,), (jnp.ones_like(s),))[1]  # noqa: E731
    before, behind = _halved(lambda s: slope(s) > 0, low, high)
    mode = 0.5 * (before + behind)
    least = log_f(mode) - reach
    left = _halved(lambda s: ~(log_f(s) > least), low, mode)[0]
    return left, mode, _halved(lambda s: log_f(s) > least, mode, high)[1]


def _halved(above: Callable[[Array], Array], low: Array, high: Array) -> tuple[Array, Array]:
    """The bracket of the place up to which `above` holds, after 40 halvings."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        lo, hi = bounds
        mid = 0.5 * (lo + hi)
        up = lax.stop_gradient(above(mid))
        return jnp.where(up, mid, lo), jnp.where(up, hi, mid)

    return lax.fori_loop(0, 40, halve, (lax.stop_gradient(low), lax.stop_gradient(high)))


def _safe_log(a: Array) -> Array:
    some = a > 0
    return jnp.where(some, jnp.log(jnp.where(some, a, 1)), -jnp.inf)


# Normal --------------------------------------------------------------------------------------------


def normal(mean: Array, root: Array, ends: Ends) -> Within:
    """Cells with the density `N(mean, 1 / root^2)`, all (D, N): two points each, of the mean and the variance there are.

    Gauss-Legendre quadrature of `exp(-t (m + t / 2))`, t the distance in deviations from the place m of the highest density.
    Values are those in t, derivatives those of the density at points x that stay.
    """
    reach, num = (20.0, 24) if ends.low.dtype == jnp.float32 else (42.0, 44)
    y, w = (jnp.asarray(a, ends.low.dtype) for a in _gauss(num))
    held, unit = lax.stop_gradient((mean, root))
    m, far, left, right = lax.stop_gradient(_normal_hill(held, unit, ends, reach))
    low = _kept(ends.low, left < far, held + (m - left) / unit)
    high = _kept(ends.high, right < far, held + (m + right) / unit)

    def point(y: Array, w: Array) -> tuple[Array, ...]:
        t, x = (left + right) * y - left, low + (high - low) * y
        z = (x - mean) * root
        slope = jnp.log((high - low) * root) - 0.5 * z * z
        return t / unit, x, jnp.log(w) + _with_slope(jnp.log(left + right) - 0.5 * m * m - t * (m + 0.5 * t), slope)

    away, x, terms = jax.vmap(point)(y, w)
    total = logsumexp(terms, 0)
    shares = jnp.exp(terms - total[None])
    each = [_with_slope(*pair) for pair in zip(_spread(shares, away), _spread(shares, x), strict=True)]
    middle, deviation = _with_slope(held + m / unit + each[0], each[0]), each[1]
    points = jnp.stack([middle - deviation, middle + deviation])
    exact = (ends.value - mean) * root
    density = jnp.log(root) - 0.5 * exact * exact - 0.5 * LOG_2PI
    return assembled(ends, points, jnp.full((2, x.shape[-1]), 0.5, x.dtype), total - 0.5 * LOG_2PI, density)


def _normal_hill(mean: Array, root: Array, ends: Ends, reach: float) -> tuple[Array, ...]:
    """In deviations, the place of the highest density within an interval, how far is looked, and how far to either side."""
    a, b, width = (ends.low - mean) * root, (ends.high - mean) * root, (ends.high - ends.low) * root
    m = jnp.clip(0, a, b)
    far = 2 * reach / (jnp.abs(m) + jnp.sqrt(m * m + 2 * reach))
    left = jnp.minimum(jnp.where(a > 0, 0, jnp.where(b < 0, width, -a)), far)
    return m, far, left, jnp.minimum(jnp.where(b < 0, 0, jnp.where(a > 0, width, b)), far)


def _kept(end: Array, own: Array, cut: Array) -> Array:
    """The end of what is integrated over: that of the interval, or one that is no function of anything."""
    return jnp.where(own, jnp.where(own, end, 0), lax.stop_gradient(cut))


def _spread(shares: Array, x: Array) -> tuple[Array, Array]:
    """The mean and the deviation of x (M, ...) with these shares."""
    middle = jnp.sum(shares * x, 0)
    return middle, safe_sqrt(jnp.sum(shares * (x - middle[None]) ** 2, 0))


def _with_slope(value: Array, like: Array) -> Array:
    """A value with the derivatives of another that is the same but for rounding."""
    return lax.stop_gradient(value) + (like - lax.stop_gradient(like))


# Waiting times -------------------------------------------------------------------------------------


def exponential(rate: Array, ends: Ends) -> tuple[Array, Array]:
    """`log P` of intervals of waiting times with these rates, (D, N), and their expectations."""
    some = ends.high < jnp.inf
    width = jnp.where(some, ends.high - ends.low, 1)
    y = rate * width
    log_prob = jnp.where(some, jnp.log(-jnp.expm1(-y)), 0) - rate * ends.low
    # The mean of a wait that ends within its time, as a share of it: 1/y - 1/(e^y - 1).
    small = y < 0.5
    safe = jnp.where(small, 1, y)
    q = jnp.where(small, y, 0)
    q2 = q * q
    series = 0.5 - q / 12 + q * q2 * (1 / 720 - q2 * (1 / 30240 - q2 * (1 / 1209600 - q2 / 47900160)))
    share = jnp.where(small, series, 1 / safe - jnp.exp(-safe) / -jnp.expm1(-safe))
    return log_prob, ends.low + jnp.where(some, width * share, 1 / rate)


# Integers ------------------------------------------------------------------------------------------


def by_sums(density: Callable[[Array], Array], ends: Ends) -> Within:
    """Cells of integers with `density(x)`, the log-probability of x (D, N), of one hill; both ends belong to an interval.

    The terms are those from `e^-reach` of the highest within the interval on. Where these are more than 512, log P is NaN.
    """
    like = ends.low
    reach, largest = (20.0, 2.0**23) if like.dtype == jnp.float32 else (42.0, 2.0**40)
    low, high = jnp.ceil(ends.low), jnp.minimum(jnp.floor(ends.high), largest)
    mode = _stepped(lambda k: density(k + 1) > density(k), low, high)
    least = lax.stop_gradient(density(mode)) - reach
    left = _stepped(lambda k: ~(density(k) > least), low, mode)
    right = _stepped(lambda k: density(k + 1) > least, mode, high)

    def term(step: Array) -> tuple[Array, Array]:
        k = left + step
        return jnp.where(k <= right, k, mode), jnp.where(k <= right, density(jnp.minimum(k, right)), -jnp.inf)

    x, terms = jax.vmap(term)(jnp.arange(_SUMMED, dtype=like.dtype))
    log_prob = logsumexp(terms, 0)
    shares = jnp.exp(terms - log_prob[None])
    log_prob = jnp.where(right - left < _SUMMED, log_prob, jnp.nan)
    return assembled(ends, x, shares, log_prob, density(ends.value))


def _stepped(above: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """The least integer from `low` at which `above` does not hold, at most `high`."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        lo, hi = bounds
        mid = jnp.floor(0.5 * (lo + hi))
        up = lax.stop_gradient(above(mid)) & (mid < hi)
        return jnp.where(up, jnp.minimum(mid + 1, hi), lo), jnp.where(up, hi, mid)

    return lax.fori_loop(0, 42, halve, (lax.stop_gradient(low), lax.stop_gradient(jnp.maximum(low, high))))[0]

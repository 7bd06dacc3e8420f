"""Where parameters may lie, and the coordinates in which they may lie anywhere: one bijection a support.

`constrain(unconstrain(value), value)` is `value`. Supports act on the trailing axes, so leading axes batch them. They
are no pytrees: a record of supports has one leaf for each leaf of the record of parameters.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jem.documented import Documented

_SLACK = 1e-5  # of the largest entry: as far as rounding moves those of a matrix


@dataclasses.dataclass(frozen=True, eq=False)
class Support(Documented):
    """A set of values and free coordinates for it.

    Two are equal where they hold the same numbers, however these are stored: a node built anew runs the program there is.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (np.ndarray, list)):  # which its owner may change
                object.__setattr__(self, field.name, _fixed(value))

    def _key(self) -> tuple[Any, ...]:
        return (type(self), *(_comparable(getattr(self, field.name)) for field in dataclasses.fields(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Support) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def unconstrain(self, value: Array) -> Array:
        """Free coordinates of a value."""
        raise TypeError(f"{type(self).__name__} does not define unconstrain")

    def constrain(self, free: Array, like: Array) -> Array:
        """The value at free coordinates; `like` is a value of the same shape, which says what is held and where."""
        raise TypeError(f"{type(self).__name__} does not define constrain")

    def idle(self, shape: tuple[int, ...]) -> int:
        """How many coordinates of a value of this shape move nothing, as its cells are held."""
        return 0

    def inside(self, value: Array) -> Array:
        """The value, or the nearest one at which the free coordinates and what is computed from them are finite."""
        return value

    def exact(self, value: Array) -> Array:
        """The value that lies here to the last place of its dtype, of one that does to those of a shorter one."""
        return value

    def outside(self, value: Array) -> Array:
        """Which cells, or rows of them, do not lie here: what `fault` says, where there are only traces to look at."""
        return jnp.zeros((), bool)

    def mass(self, value: Array) -> Array | None:
        """How far each cell is from vanishing, as a probability or an expected count; None where none comes back from that."""
        return None

    def raised(self, value: Array, cells: Array, mass: Array) -> Array:
        """The value with these cells so far from vanishing, the others making room."""
        return value

    def fault(self, value: np.ndarray) -> str | None:
        """What is wrong with a value, and where; None for one that lies here. On the host."""
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Real(Support):
    """Any real number.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.Real().unconstrain(jnp.array([-2.0, 3.0])).tolist()
        [-2.0, 3.0]
    """

    def unconstrain(self, value: Array) -> Array:
        return value

    def constrain(self, free: Array, like: Array) -> Array:
        return free


@dataclasses.dataclass(frozen=True, eq=False)
class Held(Support):
    """A value that stays as it is, the one given where one is: no coordinates.

    Attributes:
        value: the value given, of the shape of what is held or broadcast to it; None holds whatever is there.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.Held().unconstrain(jnp.array([-2.0, 3.0])).shape
        (0,)
    """

    value: Any = dataclasses.field(default=None, compare=False)

    def unconstrain(self, value: Array) -> Array:
        return jnp.zeros(0, jnp.result_type(value, jnp.float32))

    def constrain(self, free: Array, like: Array) -> Array:
        return like

    def fault(self, value: np.ndarray) -> str | None:
        if self.value is None or isinstance(self.value, Tracer):
            return None
        given = np.broadcast_to(np.asarray(self.value), value.shape)
        if np.allclose(value, given, rtol=1e-5, atol=1e-6):
            return None
        return f"jem.Frozen was given {np.asarray(self.value).tolist()}; got {value.tolist()}"


@dataclasses.dataclass(frozen=True, eq=False)
class ByGradient(Support):
    """A support of values that no M-step finds in closed form: `jem.solvers.GEM` moves them along the gradient of Q.

    Attributes:
        support: where the values lie; its coordinates are theirs.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.ByGradient(jem.supports.Positive()).unconstrain(jnp.array([1.0])).tolist()
        [0.0]
    """

    support: Support

    def unconstrain(self, value: Array) -> Array:
        return self.support.unconstrain(value)

    def constrain(self, free: Array, like: Array) -> Array:
        return self.support.constrain(free, like)

    def idle(self, shape: tuple[int, ...]) -> int:
        return self.support.idle(shape)

    def inside(self, value: Array) -> Array:
        return self.support.inside(value)

    def exact(self, value: Array) -> Array:
        return self.support.exact(value)

    def outside(self, value: Array) -> Array:
        return self.support.outside(value)

    def fault(self, value: np.ndarray) -> str | None:
        return self.support.fault(value)


@dataclasses.dataclass(frozen=True, eq=False)
class Positive(Support):
    """Positive numbers, by their logarithms.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.Positive().unconstrain(jnp.array([1.0])).tolist()
        [0.0]
    """

    def unconstrain(self, value: Array) -> Array:
        return jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny))

    def constrain(self, free: Array, like: Array) -> Array:
        return jnp.exp(free)

    def inside(self, value: Array) -> Array:
        return _positive(value)

    def outside(self, value: Array) -> Array:
        return value < 0

    def fault(self, value: np.ndarray) -> str | None:
        return _outside(value, 0, np.inf, "at least 0")


@dataclasses.dataclass(frozen=True, eq=False)
class Rate(Positive):
    """Expected counts, by their logarithms."""

    def mass(self, value: Array) -> Array:
        return value

    def raised(self, value: Array, cells: Array, mass: Array) -> Array:
        return jnp.where(cells, mass, value)


@dataclasses.dataclass(frozen=True, eq=False)
class Bounded(Positive):
    """Positive numbers by their logarithms, of which none beyond the ends is taken: there they no longer move anything.

    Attributes:
        low, high: its ends.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.Bounded(1.0, 4.0).constrain(jnp.array([-1.0, 0.0]), jnp.array([2.0, 2.0])).tolist()
        [1.0, 1.0]
    """

    low: float
    high: float

    def constrain(self, free: Array, like: Array) -> Array:
        return jnp.exp(jnp.clip(free, math.log(self.low), math.log(self.high)))


@dataclasses.dataclass(frozen=True, eq=False)
class Deviation(Positive):
    """Standard deviations, by their logarithms; one that is zero stays so."""

    def constrain(self, free: Array, like: Array) -> Array:
        return jnp.where(like == 0, 0, jnp.exp(free))


@dataclasses.dataclass(frozen=True, eq=False)
class Interval(Support):
    """Numbers between `low` and `high`, by the logit of their place.

    `value = low + (high - low) / (1 + exp(-free))`.

    Attributes:
        low, high: its ends.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.Interval(-1.0, 3.0).constrain(jnp.array([0.0]), jnp.array([0.5])).tolist()
        [1.0]
    """

    low: float = 0.0
    high: float = 1.0

    def unconstrain(self, value: Array) -> Array:
        eps = jnp.finfo(value.dtype).eps
        up, down = value - self.low, self.high - value
        least = eps * eps * (self.high - self.low)
        return jnp.log(jnp.maximum(up, least)) - jnp.log(jnp.maximum(down, least))

    def constrain(self, free: Array, like: Array) -> Array:
        return self.low + (self.high - self.low) * jax.nn.sigmoid(free)

    def inside(self, value: Array) -> Array:
        eps = float(jnp.finfo(value.dtype).eps)
        share = max(4 * eps, min(eps**0.75, 1e-10))  # enough for slopes at it to be told from those of what is held
        margin = share * max(self.high - self.low, abs(self.low), abs(self.high))
        return jnp.clip(value, self.low + margin, self.high - margin)

    def outside(self, value: Array) -> Array:
        slack = 1e-6 * (self.high - self.low)
        return (value < self.low - slack) | (value > self.high + slack)

    def mass(self, value: Array) -> Array | None:
        return jnp.minimum(value, 1 - value) if (self.low, self.high) == (0, 1) else None

    def raised(self, value: Array, cells: Array, mass: Array) -> Array:
        return jnp.where(cells, jnp.where(value < 0.5, mass, 1 - mass), value)

    def fault(self, value: np.ndarray) -> str | None:
        slack = 1e-6 * (self.high - self.low)
        return _outside(value, self.low - slack, self.high + slack, f"between {self.low:g} and {self.high:g}")


@dataclasses.dataclass(frozen=True, eq=False)
class Below(Support):
    """Positive numbers below `high`, which may be very large: by their logarithms, but for what is near it.

    `value = 1 / (exp(-free) + 1 / high)`.

    Attributes:
        high: the upper end.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.Below(2.0).unconstrain(jnp.array([2 / 3])).round(5).tolist()
        [0.0]
    """

    high: float

    def unconstrain(self, value: Array) -> Array:
        eps = jnp.finfo(value.dtype).eps
        rest = jnp.maximum(1 - value / self.high, eps * eps)
        return jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny)) - jnp.log(rest)

    def constrain(self, free: Array, like: Array) -> Array:
        return 1 / (jnp.exp(-free) + 1 / self.high)

    def inside(self, value: Array) -> Array:
        eps = float(jnp.finfo(value.dtype).eps)
        share = max(4 * eps, min(eps**0.75, 1e-10))  # as in an interval
        return jnp.clip(_positive(value), None, self.high * (1 - share))

    def outside(self, value: Array) -> Array:
        return (value < 0) | (value > self.high * (1 + 1e-6))

    def fault(self, value: np.ndarray) -> str | None:
        return _outside(value, 0, self.high * (1 + 1e-6), f"from 0 to {self.high:g}")


@dataclasses.dataclass(frozen=True, eq=False)
class Simplex(Support):
    """Probabilities that sum to one over the last axis, by K - 1 contrasts of their logarithms.

    Zeros stay zeros, and so do cells marked in `held` (..., K); the others share what these leave.

    Attributes:
        held: bool, (..., K) or what broadcasts to it; None holds none.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.Simplex().unconstrain(jnp.array([0.2, 0.2, 0.6])).shape
        (2,)
    """

    held: Any = None

    def unconstrain(self, value: Array) -> Array:
        moving = self._moving(value)
        log = jnp.where(moving, jnp.log(jnp.where(moving, value, 1)), 0)
        return log @ _contrasts(value.shape[-1], value.dtype)

    def idle(self, shape: tuple[int, ...]) -> int:
        if self.held is None:
            return 0
        free = np.sum(~np.broadcast_to(np.asarray(self.held), shape), -1)
        return int(np.sum(shape[-1] - 1 - np.maximum(free - 1, 0)))

    def inside(self, value: Array) -> Array:
        # Next to nothing is nothing, and stays there: slopes of its logarithm overflow.
        return jnp.where(value < jnp.finfo(value.dtype).eps ** 4, 0, value)

    def exact(self, value: Array) -> Array:
        moving = self._moving(value)
        mass, whole = (jnp.sum(jnp.where(cells, value, 0), -1, keepdims=True) for cells in (moving, ~moving))
        return jnp.where(moving, value * ((1 - whole) / jnp.where(mass > 0, mass, 1)), value)

    def outside(self, value: Array) -> Array:
        off = jnp.abs(jnp.sum(value, -1, keepdims=True) - 1) > _off_by(value.shape[-1])
        return off | jnp.any(value < 0, -1, keepdims=True)

    def mass(self, value: Array) -> Array:
        return value

    def raised(self, value: Array, cells: Array, mass: Array) -> Array:
        up, rest = jnp.where(cells, mass, 0), jnp.where(cells, 0, value)
        whole, others = jnp.sum(value, -1, keepdims=True), jnp.sum(rest, -1, keepdims=True)
        return up + rest * ((whole - jnp.sum(up, -1, keepdims=True)) / jnp.where(others > 0, others, 1))

    def fault(self, value: np.ndarray) -> str | None:
        size = value.shape[-1]
        rows = value.reshape(-1, size).astype(float)
        off = np.abs(rows.sum(1) - 1) > _off_by(size)
        wrong = np.flatnonzero(off | (rows < 0).any(1))
        if wrong.size == 0:
            return None
        row, where = rows[wrong[0]], np.unravel_index(wrong[0], value.shape[:-1])
        place = f"row {', '.join(str(int(i)) for i in where)}" if where else "it"
        return f"probabilities must be at least 0 and sum to one; {place} sums to {row.sum():.6g}, the least is {row.min():.6g}"

    def constrain(self, free: Array, like: Array) -> Array:
        moving = self._moving(like)
        log = free @ _contrasts(like.shape[-1], like.dtype).T
        mass = jnp.sum(jnp.where(moving, like, 0), -1, keepdims=True)
        whole = 1.0 if self.held is None else mass
        return jnp.where(moving, whole * jax.nn.softmax(log, -1, where=moving), like)

    def _moving(self, value: Array) -> Array:
        return (value > 0) if self.held is None else (value > 0) & ~jnp.broadcast_to(jnp.asarray(self.held), value.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Sphere(Support):
    """Unit vectors over the last axis, by vectors of any length: one coordinate of each is a gauge of its node.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.Sphere().constrain(jnp.array([0.0, 2.0]), jnp.array([1.0, 0.0])).tolist()
        [0.0, 1.0]
    """

    def unconstrain(self, value: Array) -> Array:
        return value

    def constrain(self, free: Array, like: Array) -> Array:
        return self.exact(free)

    def exact(self, value: Array) -> Array:
        square = jnp.sum(value * value, -1, keepdims=True)
        return value / jnp.sqrt(jnp.where(square > 0, square, 1))

    def outside(self, value: Array) -> Array:
        return jnp.abs(jnp.sum(value * value, -1, keepdims=True) - 1) > _off_by(value.shape[-1])

    def fault(self, value: np.ndarray) -> str | None:
        square = np.sum(value.astype(float) ** 2, -1)
        wrong = np.argwhere(np.abs(square - 1) > _off_by(value.shape[-1]))
        if len(wrong) == 0:
            return None
        place = tuple(int(i) for i in wrong[0])
        return f"expected vectors of length one; got length {np.sqrt(square[place]):.6g}" + (f" at {place}" if place else "")


@dataclasses.dataclass(frozen=True, eq=False)
class HeldCells(Support):
    """Numbers, of which the cells marked in `held` stay as they are and the others lie in `inner`, each by itself.

    Attributes:
        held: a bool array of the value's trailing shape.
        inner: the support of each other cell.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.supports.HeldCells(jnp.array([True, False])).unconstrain(jnp.array([1.0, 3.0])).tolist()
        [3.0]
    """

    held: Any
    inner: Support = Real()

    def unconstrain(self, value: Array) -> Array:
        return self.inner.unconstrain(self._flat(value)[..., self._free()])

    def constrain(self, free: Array, like: Array) -> Array:
        flat = self._flat(like)
        value = self.inner.constrain(free, flat[..., self._free()])
        return flat.at[..., self._free()].set(value).reshape(like.shape)

    def inside(self, value: Array) -> Array:
        flat = self._flat(value)
        return flat.at[..., self._free()].set(self.inner.inside(flat[..., self._free()])).reshape(value.shape)

    def exact(self, value: Array) -> Array:
        flat = self._flat(value)
        return flat.at[..., self._free()].set(self.inner.exact(flat[..., self._free()])).reshape(value.shape)

    def outside(self, value: Array) -> Array:
        flat = self._flat(value)
        outside = self.inner.outside(flat[..., self._free()])
        return jnp.zeros(flat.shape, bool).at[..., self._free()].set(outside).reshape(value.shape)

    def fault(self, value: np.ndarray) -> str | None:
        return self.inner.fault(value.reshape(*value.shape[: value.ndim - np.ndim(self.held)], -1)[..., self._free()])

    def _flat(self, value: Array) -> Array:
        return value.reshape(*value.shape[: value.ndim - self.held.ndim], -1)

    def _free(self) -> np.ndarray:
        return np.flatnonzero(~np.asarray(self.held))


def _fixed(value: Any) -> np.ndarray:
    """A copy that nobody changes."""
    value = np.array(value)
    value.setflags(write=False)
    return value


def _comparable(value: Any) -> Any:
    """Stands for a field: the numbers of an array, the object itself where there are none to look at."""
    if isinstance(value, Tracer):
        return id(value)
    if isinstance(value, (np.ndarray, np.generic, Array)):
        return value.shape, str(value.dtype), np.asarray(value).tobytes()
    return value


def _positive(value: Array) -> Array:
    """Numbers above zero, whose squares are too."""
    return jnp.maximum(value, 2 * jnp.sqrt(jnp.finfo(value.dtype).tiny))


def _outside(value: np.ndarray, low: Any, high: Any, expected: str) -> str | None:
    """What is wrong with numbers that should lie from `low` to `high`."""
    wrong = np.argwhere((value < low) | (value > high))
    if len(wrong) == 0:
        return None
    place = tuple(int(i) for i in wrong[0])
    return f"expected numbers {expected}; got {value[place]:.6g}" + (f" at {place}" if place else "")


def _off_by(size: int) -> float:
    """By how much the sum of so many probabilities may miss one."""
    return 1e-4 + 4 * size * float(np.finfo(np.float32).eps)


def _largest(value: np.ndarray) -> np.ndarray:
    """The largest entry of each matrix, 1 where all are 0."""
    largest = np.abs(value).max((-1, -2), initial=0, keepdims=True)
    return np.where(largest > 0, largest, 1)


def _contrasts(size: int, dtype: Any) -> Array:
    """K x (K - 1) orthonormal columns that sum to zero (Helmert)."""
    columns = [np.r_[np.ones(j), -j, np.zeros(size - j - 1)] / math.sqrt(j * (j + 1)) for j in range(1, size)]
    return jnp.asarray(np.stack(columns, 1) if columns else np.zeros((size, 0)), dtype)

"""How the hidden state of a chain moves from one step to the next: what the recursions ask of it, whatever its form.

A move is written once over a `Ring`: sums of products of probabilities, the same in logarithms, or the best of all ways.
Messages are (M, S), M cells of the chain first, one lane a sequence last. A move that changes from step to step has arrays
with a leading axis T - 1; `at` gives that of one step.
"""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.documented import Documented
from jem.kernels.rings import LOGS, SUMS, Ring, by_lanes, log_sum, or_zero, safe_log


def _take(table: Array, index: Array, axis: int) -> Array:
    """The column (axis 1) or row (axis 0) of a matrix (I, J) or (I, J, S) that each lane names, (., S)."""
    if table.ndim == 2:
        return jnp.take(table, index, axis=1) if axis == 1 else jnp.take(table, index, axis=0).T
    expanded = index[None, None, :]
    return jnp.squeeze(jnp.take_along_axis(table, expanded, axis=axis), axis)


def _to_states(a: Array) -> Array:
    """(T, K, S) as (K, T S)."""
    return jnp.moveaxis(a, 1, 0).reshape(a.shape[1], -1)


def pair_sums(now: Array, then: Array) -> Array:
    """`sum_ts now_tis then_tjs`, (I, J), of (T, I, S) and (T, J, S)."""
    if now.shape[2] == 1:
        return lax.dot_general(now[:, :, 0], then[:, :, 0], (((0,), (0,)), ((), ())))
    return _to_states(now) @ _to_states(then).T


@dataclasses.dataclass(frozen=True)
class Move(Documented):
    """Probabilities of where a cell leads, `values`, arrays; and their logarithms where these are known better, or None."""

    values: Any
    logs: Any = None

    @property
    def size(self) -> int:
        """Number of cells M."""
        raise NotImplementedError

    @property
    def changes(self) -> bool:
        """Whether every step and lane has its own."""
        return False

    def log(self) -> Self:
        """The same move for the rings of logarithms."""
        logs = jax.tree.map(safe_log, self.values) if self.logs is None else self.logs
        return dataclasses.replace(self, values=logs, logs=logs)

    def leaving(self) -> Any:
        """What `at` takes, for a scan over all T steps: the move out of each; None where it is always the same."""
        return None

    def entering(self) -> Any:
        """As `leaving`, the move into each step."""
        return None

    def at(self, step: Any) -> Self:
        """The move of one step."""
        return self

    def for_paths(self, log_first: Array, log_e: Array) -> tuple["Move", Array, Array]:
        """The same chain over cells that are known where the states are, in the same places: what a best path is sought over.

        Args:
            log_first: (M,) log-probabilities of the first cell.
            log_e: (T, M, S) log-likelihoods.

        Returns:
            The move in logarithms, and both for its cells.
        """
        return self.log(), log_first, log_e

    def along(self, cells: Array) -> Array:
        """Which cells (T, M, S) a path (T, S) of these leaves open: those of its states."""
        return cells[:, None, :] == jnp.arange(self.size)[None, :, None]

    def plain(self) -> Array:
        """Whether every cell leads to every other one, with a probability that loses nothing for long."""
        return jnp.array(False)

    def ahead(self, ring: Ring, x: Array) -> Array:
        """What arrives at each cell (M, S) of what is in each, x."""
        raise NotImplementedError

    def back(self, ring: Ring, x: Array) -> Array:
        """What each cell (M, S) leads to, of x."""
        raise NotImplementedError

    def into(self, cell: Array) -> Array:
        """Log-probabilities (M, S) of all cells of moving to the given one (S,)."""
        raise NotImplementedError

    def out(self, cell: Array) -> Array:
        """Log-probabilities (M, S) of moving to each cell from the given one (S,)."""
        raise NotImplementedError

    def split(self, smoothed: Array, b: Array, beta: Array) -> Any:
        """Expected moves of one step, lanes last: what is smoothed, split over where it goes; in logarithms.

        Args:
            smoothed: (M, S) probabilities before the step.
            b: (M, S) messages from after it, logarithms.
            beta: (M, S) `back` of these.
        """
        raise NotImplementedError

    def counts(self, filtered: Array, backward: Array, rest: Any, weights: Array) -> Any:
        """Expected moves `sum_ts w_ts p(z_{t-1} = i, z_t = j | x)`, from messages.

        Args:
            filtered: (T, M, S).
            backward: (T - 1, M, S), of the steps after the first.
            rest: what `split` gave of steps without messages, summed over steps where the move is always the same.
            weights: (T, S), of the step into t; 0 beyond an end.
        """
        raise NotImplementedError

    def tempered(self, power: Array) -> tuple[Self, Array]:
        """Probabilities to a power, over what they sum to, and the logarithm of that: (M,), or (T - 1, M, S)."""
        raise NotImplementedError

    def matrix(self) -> Array:
        """The matrix (M, M), where the move is always the same."""
        raise NotImplementedError

    def nothing(self, steps: int, lanes: int, dtype: Any) -> Any:
        """Zeros of the form of `rest`."""
        one = jnp.zeros((self.size, lanes), dtype)
        first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), self.leaving())
        form = jax.eval_shape(lambda step, a: self.at(step).split(a, a, a), first, one)
        return jax.tree.map(lambda s: jnp.zeros((steps - 1, *s.shape) if self.changes else s.shape, dtype), form)


def register(cls: type) -> type:
    """Makes a move a pytree of its arrays."""
    jax.tree_util.register_dataclass(cls, data_fields=["values", "logs"], meta_fields=[])
    return cls


@register
class Table(Move):
    """Any matrix: values (K, K), rows from; or (T - 1, K, K, S), and (K, K, S) at one step. Counts have the form of values."""

    @property
    def size(self) -> int:
        return self.values.shape[1]

    @property
    def changes(self) -> bool:
        return self.values.ndim == 4

    def leaving(self) -> Any:
        return jnp.pad(self.values, ((0, 1), (0, 0), (0, 0), (0, 0))) if self.changes else None

    def entering(self) -> Any:
        return jnp.pad(self.values, ((1, 0), (0, 0), (0, 0), (0, 0))) if self.changes else None

    def at(self, step: Any) -> "Table":
        return self if step is None else Table(step)

    def plain(self) -> Array:
        return jnp.all(self.values >= jnp.finfo(self.values.dtype).tiny ** 0.25)

    def ahead(self, ring: Ring, x: Array) -> Array:
        return ring.ahead(self.values, x)

    def back(self, ring: Ring, x: Array) -> Array:
        return ring.back(self.values, x)

    def into(self, cell: Array) -> Array:
        return _take(self.values, cell, 1)

    def out(self, cell: Array) -> Array:
        return _take(self.values, cell, 0)

    def split(self, smoothed: Array, b: Array, beta: Array) -> Array:
        return smoothed[:, None] * jnp.exp(by_lanes(self.values) + b[None] - or_zero(beta)[:, None])

    def counts(self, filtered: Array, backward: Array, rest: Any, weights: Array) -> Array:
        if self.changes:
            return (filtered[:-1, :, None] * self.values * backward[:, None] + rest) * weights[1:, None, None, :]
        return self.values * pair_sums(filtered[:-1] * weights[1:, None, :], backward) + rest @ weights[0]

    def tempered(self, power: Array) -> tuple["Table", Array]:
        logs, axis = power * self.log().values, 2 if self.changes else 1
        total = log_sum(logs, axis)
        logs = logs - jnp.expand_dims(or_zero(total), axis)
        return Table(jnp.exp(logs), logs), total

    def matrix(self) -> Array:
        return self.values


@register
class Factors(Move):
    """Several chains side by side that move on their own: cells (K_1 K_2 ..), the last chain fastest.

    Values: a matrix (K_f, K_f) for each chain. Counts are those of each.
    """

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of states of each chain."""
        return tuple(matrix.shape[0] for matrix in self.values)

    @property
    def size(self) -> int:
        size = 1
        for k in self.sizes:
            size *= k
        return size

    def plain(self) -> Array:
        # The smallest entry of the product.
        least = [jnp.min(matrix) for matrix in self.values]
        total = least[0]
        for entry in least[1:]:
            total = total * entry
        return total >= jnp.finfo(total.dtype).tiny ** 0.25

    def _along(self, fn: Any, x: Array) -> Array:
        """`fn(matrix, what lies along its chain (K_f, ..))`, one chain after the other."""
        whole = x.reshape(*self.sizes, -1)
        for axis, matrix in enumerate(self.values):
            front = jnp.moveaxis(whole, axis, 0)
            whole = jnp.moveaxis(fn(matrix, front.reshape(front.shape[0], -1)).reshape(front.shape), 0, axis)
        return whole.reshape(x.shape)

    def ahead(self, ring: Ring, x: Array) -> Array:
        return self._along(ring.ahead, x)

    def back(self, ring: Ring, x: Array) -> Array:
        return self._along(ring.back, x)

    def _sum(self, logs: list[Array]) -> Array:
        """`sum_f` of (K_f, S), over all cells, (M, S)."""
        total = logs[0]
        for log in logs[1:]:
            total = (total[:, None] + log[None]).reshape(-1, log.shape[-1])
        return total

    def into(self, cell: Array) -> Array:
        states = jnp.unravel_index(cell, self.sizes)
        return self._sum([_take(matrix, state, 1) for matrix, state in zip(self.values, states, strict=True)])

    def out(self, cell: Array) -> Array:
        states = jnp.unravel_index(cell, self.sizes)
        return self._sum([_take(matrix, state, 0) for matrix, state in zip(self.values, states, strict=True)])

    def of_each(self, pairs: Array) -> tuple[Array, ...]:
        """The pairs of each chain, (K_f, K_f, ...), from those of all cells (M, M, ...)."""
        sizes, trailing = self.sizes, pairs.shape[2:]
        num = len(sizes)
        whole = pairs.reshape(*sizes, *sizes, *trailing)
        others = lambda f: tuple(a for a in range(2 * num) if a not in (f, num + f))  # noqa: E731
        return tuple(jnp.sum(whole, others(f)) for f in range(num))

    def split(self, smoothed: Array, b: Array, beta: Array) -> tuple[Array, ...]:
        return self.of_each(Table(self._matrix(LOGS)).split(smoothed, b, beta))

    def counts(self, filtered: Array, backward: Array, rest: Any, weights: Array) -> tuple[Array, ...]:
        pairs = self.of_each(self._matrix(SUMS) * pair_sums(filtered[:-1] * weights[1:, None, :], backward))
        return tuple(p + r @ weights[0] for p, r in zip(pairs, rest, strict=True))

    def tempered(self, power: Array) -> tuple["Factors", Array]:
        each = [Table(matrix).tempered(power) for matrix in self.values]
        rows = self._sum([row[:, None] for _, row in each])[:, 0]
        return Factors(tuple(move.values for move, _ in each), tuple(move.logs for move, _ in each)), rows

    def _matrix(self, ring: Ring) -> Array:
        whole = self.values[0]
        for matrix in self.values[1:]:
            size = whole.shape[0] * matrix.shape[0]
            whole = ring.times(whole[:, None, :, None], matrix[None, :, None, :]).reshape(size, size)
        return whole

    def matrix(self) -> Array:
        return self._matrix(SUMS)


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

_BROADCAST = 8  # states up to which, and
_LANES = 128  # sequences below which a broadcast sum beats a matrix product


def safe_log(p: Array) -> Array:
    """`log p`, minus infinity with the derivative zero at zero."""
    return jnp.where(p == 0, -jnp.inf, jnp.log(jnp.where(p == 0, 1, p)))


def log_sum(x: Array, axis: int) -> Array:
    """`log sum exp x` over an axis: minus infinity, with the derivative zero, where all entries are."""
    top = lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    top = jnp.where(top == -jnp.inf, 0, top)
    return safe_log(jnp.sum(jnp.exp(x - top), axis)) + jnp.squeeze(top, axis)


class Ring:
    """What adds up alternative ways and what multiplies steps of one way: here logarithms of probabilities."""

    zero = -jnp.inf

    def times(self, a: Array, b: Array) -> Array:
        """One thing after another."""
        return a + b

    def total(self, x: Array, axis: int) -> Array:
        """One thing or another, over an axis."""
        return log_sum(x, axis)

    def plus(self, a: Array, b: Array) -> Array:
        """One thing or another."""
        return self.total(jnp.stack([a, b]), 0)

    def ahead(self, matrix: Array, x: Array) -> Array:
        """`sum_i A_ij x_i`, (J, S), of x (I, S) and a matrix (I, J), or (I, J, S) with one for each lane."""
        return self.total(self.times(_by_lanes(matrix), x[:, None]), 0)

    def back(self, matrix: Array, x: Array) -> Array:
        """`sum_j A_ij x_j`, (I, S), of x (J, S)."""
        return self.total(self.times(_by_lanes(matrix), x[None]), 1)


class _Sums(Ring):
    zero = 0.0

    def times(self, a: Array, b: Array) -> Array:
        return a * b

    def total(self, x: Array, axis: int) -> Array:
        return jnp.sum(x, axis)

    def plus(self, a: Array, b: Array) -> Array:
        return a + b

    def ahead(self, matrix: Array, x: Array) -> Array:
        if matrix.ndim == 3 or _broadcasts(matrix, x.shape[1]):
            return super().ahead(matrix, x)
        return lax.dot_general(matrix, x, (((0,), (0,)), ((), ())))

    def back(self, matrix: Array, x: Array) -> Array:
        if matrix.ndim == 3 or _broadcasts(matrix, x.shape[1]):
            return super().back(matrix, x)
        return matrix @ x


class _Best(Ring):
    def total(self, x: Array, axis: int) -> Array:
        return jnp.max(x, axis)


SUMS, LOGS, BEST = _Sums(), Ring(), _Best()


def _broadcasts(matrix: Array, lanes: int) -> bool:
    """Whether a broadcast sum beats a matrix product: XLA compiles the whole loop where its body is small and calls nothing."""
    return matrix.shape[0] <= _BROADCAST and lanes < _LANES


def _by_lanes(matrix: Array) -> Array:
    return matrix if matrix.ndim == 3 else matrix[:, :, None]


def _take(table: Array, index: Array, axis: int) -> Array:
    """The column (axis 1) or row (axis 0) of a matrix (I, J) or (I, J, S) that each lane names, (., S)."""
    if table.ndim == 2:
        return jnp.take(table, index, axis=1) if axis == 1 else jnp.take(table, index, axis=0).T
    expanded = index[None, None, :]
    return jnp.squeeze(jnp.take_along_axis(table, expanded, axis=axis), axis)


def _to_states(a: Array) -> Array:
    """(T, K, S) as (K, T S)."""
    return jnp.moveaxis(a, 1, 0).reshape(a.shape[1], -1)


def _pairs(now: Array, then: Array) -> Array:
    """`sum_ts now_tis then_tjs`, (I, J), of (T, I, S) and (T, J, S)."""
    if now.shape[2] == 1:
        return lax.dot_general(now[:, :, 0], then[:, :, 0], (((0,), (0,)), ((), ())))
    return _to_states(now) @ _to_states(then).T


@dataclasses.dataclass(frozen=True)
class Move:
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

    def ones(self) -> Self:
        """In place of the move where messages are indicators: then these say all of the pairs."""
        return dataclasses.replace(self, values=jax.tree.map(jnp.ones_like, self.values), logs=None)

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


def _register(cls: type) -> type:
    jax.tree_util.register_dataclass(cls, data_fields=["values", "logs"], meta_fields=[])
    return cls


@_register
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
        return smoothed[:, None] * jnp.exp(_by_lanes(self.values) + b[None] - or_zero(beta)[:, None])

    def counts(self, filtered: Array, backward: Array, rest: Any, weights: Array) -> Array:
        if self.changes:
            return (filtered[:-1, :, None] * self.values * backward[:, None] + rest) * weights[1:, None, None, :]
        return self.values * _pairs(filtered[:-1] * weights[1:, None, :], backward) + rest @ weights[0]

    def tempered(self, power: Array) -> tuple["Table", Array]:
        logs, axis = power * self.log().values, 2 if self.changes else 1
        total = log_sum(logs, axis)
        logs = logs - jnp.expand_dims(or_zero(total), axis)
        return Table(jnp.exp(logs), logs), total

    def matrix(self) -> Array:
        return self.values


@_register
class Stays(Move):
    """A state is held for a number of steps that is drawn on entering it: cells (K D), state times steps that are left.

    Values: where a stay leads, (K, K), and how long it lasts, (K, D). A cell with steps left, (k, r), leads to (k, r - 1);
    the last one, (i, 0), to (j, d) with probability `move_ij stay_jd`. Counts are those of the two arrays.
    """

    @property
    def size(self) -> int:
        return self.values[1].size

    def _apart(self, x: Array) -> Array:
        return x.reshape(*self.values[1].shape, *x.shape[1:])

    def _at_end(self, ended: Array, others: Array) -> Array:
        """(M, S) of what is (K, S) in the cells of a last step, and of the rest, (K, D - 1, S)."""
        return jnp.concatenate([ended[:, None], others], 1).reshape(-1, ended.shape[-1])

    def ahead(self, ring: Ring, x: Array) -> Array:
        moves, stays = self.values
        x = self._apart(x)
        entered = ring.times(stays[:, :, None], ring.ahead(moves, x[:, 0])[:, None])
        older = jnp.concatenate([x[:, 1:], jnp.full_like(x[:, :1], ring.zero)], 1)
        return ring.plus(older, entered).reshape(-1, x.shape[-1])

    def back(self, ring: Ring, x: Array) -> Array:
        moves, stays = self.values
        x = self._apart(x)
        ended = ring.back(moves, ring.total(ring.times(stays[:, :, None], x), 1))
        return self._at_end(ended, x[:, :-1])

    def _state(self, cell: Array) -> tuple[Array, Array]:
        length = self.values[1].shape[1]
        return cell // length, cell % length

    def into(self, cell: Array) -> Array:
        moves, stays = self.values
        state, left = self._state(cell)
        ended = jnp.take(moves, state, axis=1) + stays[state, left][None]
        cells = jnp.arange(self.size).reshape(stays.shape)[:, 1:, None]
        before = cells == cell[None, None] + 1  # of the same state, unless that is the next one's last step
        return self._at_end(ended, jnp.where(before, 0.0, -jnp.inf).astype(stays.dtype))

    def out(self, cell: Array) -> Array:
        moves, stays = self.values
        state, left = self._state(cell)
        entered = (jnp.take(moves, state, axis=0).T[:, None] + stays[:, :, None]).reshape(-1, cell.shape[0])
        older = jnp.where(jnp.arange(self.size)[:, None] == cell[None] - 1, 0.0, -jnp.inf)
        return jnp.where(left[None] == 0, entered, older.astype(stays.dtype))

    def split(self, smoothed: Array, b: Array, beta: Array) -> tuple[Array, Array]:
        moves, stays = self.values
        ended, b, beta = self._apart(smoothed)[:, 0], self._apart(b), self._apart(beta)[:, 0]
        onward = moves[:, :, None, None] + stays[None, :, :, None] + b[None]
        pairs = ended[:, None, None] * jnp.exp(onward - or_zero(beta)[:, None, None])
        return jnp.sum(pairs, 2), jnp.sum(pairs, 0)

    def counts(self, filtered: Array, backward: Array, rest: Any, weights: Array) -> tuple[Array, Array]:
        moves, stays = self.values
        size, length = stays.shape
        ended = filtered[:-1].reshape(filtered.shape[0] - 1, size, length, -1)[:, :, 0] * weights[1:, None, :]
        pairs = _pairs(ended, backward).reshape(size, size, length) * moves[:, :, None] * stays[None]
        return jnp.sum(pairs, 2) + rest[0] @ weights[0], jnp.sum(pairs, 0) + rest[1] @ weights[0]

    def tempered(self, power: Array) -> tuple["Stays", Array]:
        moves, stays = (power * log for log in self.log().values)
        total = log_sum(stays, 1)
        moves = moves + total[None]
        row = log_sum(moves, 1)
        logs = (moves - row[:, None], stays - total[:, None])
        return Stays(jax.tree.map(jnp.exp, logs), logs), jnp.zeros_like(stays).at[:, 0].set(row).reshape(-1)


@_register
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
        pairs = self.of_each(self._matrix(SUMS) * _pairs(filtered[:-1] * weights[1:, None, :], backward))
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


def or_zero(x: Array) -> Array:
    """Zero in place of minus infinity."""
    return jnp.where(x == -jnp.inf, 0, x)

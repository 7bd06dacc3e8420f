"""Moves of states that last: in cells of the steps that are left, or of those since a stay began."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.kernels.moves import Move, pair_sums, register
from jem.kernels.rings import Ring, log_sum, or_zero


@register
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

    def for_paths(self, log_first: Array, log_e: Array) -> tuple[Move, Array, Array]:
        # By steps since the stay began: these follow from the states, as what is left does not. What a stay that goes on is
        # worth is that of lasting so long, of whatever length.
        moves, stays = self.log().values
        shape = stays.shape
        beyond = lax.cumlogsumexp(stays, axis=1, reverse=True)  # log P(d >= .)
        after = jnp.concatenate([beyond[:, 1:], jnp.full_like(beyond[:, :1], -jnp.inf)], 1)
        on, end = (jnp.where(beyond > -jnp.inf, a - or_zero(beyond), -jnp.inf) for a in (after, stays))
        first = log_sum(log_first.reshape(shape), 1)
        log_first = jnp.concatenate([first[:, None], jnp.full((shape[0], shape[1] - 1), -jnp.inf, first.dtype)], 1)
        each = log_e.reshape(log_e.shape[0], *shape, -1)
        # Where a step is left to no cell but the last of a stay, the stay ends there.
        ends = (each[:, :, :1] > -jnp.inf) & (each[:, :, -1:] == -jnp.inf)
        by_age = each[:, :, :1] + jnp.where(ends, end[None, :, :, None], 0)
        return Ages((moves, on, end)), log_first.reshape(-1), by_age.reshape(log_e.shape)

    def along(self, cells: Array) -> Array:
        size, length = self.values[1].shape
        states = (cells // length)[:, None, :] == jnp.arange(size)[None, :, None]
        return jnp.repeat(states, length, axis=1)

    def counts(self, filtered: Array, backward: Array, rest: Any, weights: Array) -> tuple[Array, Array]:
        moves, stays = self.values
        size, length = stays.shape
        ended = filtered[:-1, ::length] * weights[1:, None, :]
        pairs = pair_sums(ended, backward).reshape(size, size, length) * moves[:, :, None] * stays[None]
        return jnp.sum(pairs, 2) + rest[0] @ weights[0], jnp.sum(pairs, 0) + rest[1] @ weights[0]

    def tempered(self, power: Array) -> tuple["Stays", Array]:
        moves, stays = (power * log for log in self.log().values)
        total = log_sum(stays, 1)
        moves = moves + total[None]
        row = log_sum(moves, 1)
        logs = (moves - row[:, None], stays - total[:, None])
        return Stays(jax.tree.map(jnp.exp, logs), logs), jnp.zeros_like(stays).at[:, 0].set(row).reshape(-1)


@register
class Ages(Move):
    """`Stays` by the steps since a stay began, in logarithms: cells (K D), state times age. For `chain.viterbi` alone.

    Values: where a stay leads (K, K), and of each state and age (K, D) the chance to go on, and to end.
    """

    @property
    def size(self) -> int:
        return self.values[1].size

    def log(self) -> "Ages":
        return self

    def ahead(self, ring: Ring, x: Array) -> Array:
        moves, on, end = self.values
        x = x.reshape(*on.shape, -1)
        entered = ring.ahead(moves, ring.total(ring.times(end[:, :, None], x), 1))
        older = ring.times(on[:, :-1, None], x[:, :-1])
        return jnp.concatenate([entered[:, None], older], 1).reshape(self.size, -1)

    def into(self, cell: Array) -> Array:
        moves, on, end = self.values
        state, age = cell // on.shape[1], cell % on.shape[1]
        entered = (end[:, :, None] + jnp.take(moves, state, axis=1)[:, None]).reshape(self.size, -1)
        older = jnp.where(jnp.arange(self.size)[:, None] == cell[None] - 1, on.reshape(-1, 1), -jnp.inf)
        return jnp.where(age[None] == 0, entered, older)

"""The hidden variable of a `LogJoint` as a Markov chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import series_checks
from jem.data import series_of, single_steps, within_lengths
from jem.families import user
from jem.kernels import chain
from jem.kernels.moves import Table
from jem.kernels.unit_axis import over_units
from jem.latents.written.spaces import Finite, LogJointFn, Space
from jem.node import Data, Params, node, set_once, static


class ChainPosterior(NamedTuple):
    """Probabilities of the states, `smoothed` (T, K, S), and of the transitions summed over steps, `pairs` (K, K, S).

    `expected` (S,) is `E_q[log p(x, z)]` of each sequence.
    """

    smoothed: Array
    pairs: Array
    expected: Array


class ChainStatistics(NamedTuple):
    """What `maximize` gets: expected first states (K,), transitions (K, K), and the statistics of the steps, (K, ...)."""

    initial: Array
    transition: Array
    steps: Any


@node
class ChainOf(Space):
    """A Markov chain z_1 .. z_T of K states; a unit is a sequence x_1 .. x_T.

    `log p(x, z) = log_initial(params)[z_1] + sum_t log_transition(params)[z_{t-1}, z_t] + sum_t log_joint(params, x_t, z_t)`:
    the `log_joint` of the model is the emission of one step, and sums over all paths are the forward-backward recursion's.

    x is an array (S, T, ...) or `jem.Sequences`; nothing may be missing within a sequence.

    Args:
        values: the states, as for `jem.spaces.Finite`: K, or their values.
        log_initial: `log_initial(params)`, log-probabilities (K,).
        log_transition: `log_transition(params)`, log-probabilities (K, K), rows from.
        form: how the recursion runs, as for `jem.HMM`.

    Example:
        >>> import jem
        >>> jem.spaces.ChainOf(2, lambda p: p["start"], lambda p: p["move"]).values.tolist()
        [0, 1]

    Source: Baum, Petrie, Soules and Weiss (1970); Rabiner (1989), Proc. IEEE 77.
    """

    values: Any
    log_initial: Callable[[Params], Array] = static()
    log_transition: Callable[[Params], Array] = static()
    form: chain.Form = static()

    def __init__(
        self,
        values: Any,
        log_initial: Callable[[Params], Array],
        log_transition: Callable[[Params], Array],
        form: chain.Form = chain.Automatic(),  # noqa: B008
    ):
        set_once(
            self, values=Finite(values).values, log_initial=log_initial, log_transition=log_transition, form=form
        )  # fmt: skip

    def infer(self, log_joint: LogJointFn, params: Params, x: Data) -> tuple[ChainPosterior, Array]:
        log_e, within = self._emissions(log_joint, params, x)
        matrix = jnp.exp(self.log_transition(params))
        s = chain.smooth(jnp.exp(self.log_initial(params)), Table(matrix), log_e, self.form)
        ahead = s.filtered[:-1] * within[1:, None, :]
        pairs = matrix[:, :, None] * jnp.einsum("tis,tjs->ijs", ahead, s.backward) + s.rest
        expected = self._expected(params, s.smoothed, pairs, log_e, within)
        return ChainPosterior(s.smoothed, pairs, expected), s.log_normalizer

    def expected(self, log_joint: LogJointFn, params: Params, posterior: ChainPosterior, x: Data) -> Array:
        return self._expected(params, posterior.smoothed, posterior.pairs, *self._emissions(log_joint, params, x))

    def _expected(self, params: Params, smoothed: Array, pairs: Array, log_e: Array, within: Array) -> Array:
        gamma = jnp.where(within[:, None, :], smoothed, 0)
        first = _mean(gamma[0], self.log_initial(params)[:, None], 0)
        moves = _mean(pairs, self.log_transition(params)[:, :, None], (0, 1))
        return first + moves + _mean(gamma, log_e, (0, 1))

    def average(
        self, statistics: Callable[[Any, Any], Any], posterior: ChainPosterior, x: Data, weights: Array
    ) -> ChainStatistics:
        flat, within = _steps(x)
        gamma = jnp.where(within[:, None, :], posterior.smoothed * weights[None, None, :], 0)
        q = jnp.moveaxis(gamma, 1, 0).reshape(gamma.shape[1], -1)
        each = jax.vmap(over_units(statistics, (-1, None)), (None, 0))(flat, self.values)
        steps = jax.tree.map(lambda s: jnp.einsum("kn,k...n->k...", q, s.astype(q.dtype)), each)
        return ChainStatistics(posterior.smoothed[0] @ weights, posterior.pairs @ weights, steps)

    def num_observations(self, x: Data) -> Array:
        return jnp.sum(_steps(x)[1], 0)

    def one_each(self, x: Data, weights: Array) -> tuple[Data, Array] | None:
        flat, within = _steps(x)
        return flat, jnp.where(within, weights[None, :], 0).reshape(-1)

    def points(self, params: Params, x: Data) -> tuple[Data, Any]:
        return _steps(x)[0], self.values

    def check(self, log_joint: LogJointFn, params: Params, x: Data) -> None:
        values, lengths, _ = series_of(x)
        series_checks.check_sequences(values, lengths, "ChainOf")
        size = jax.tree.leaves(self.values)[0].shape[0]
        user.check_output("ChainOf", self.log_initial, (size,), params)
        user.check_output("ChainOf", self.log_transition, (size, size), params)
        user.check_output("LogJoint", log_joint, (), params, user.one_row(user.one_row(values)), user.one_row(self.values))

    def _emissions(self, log_joint: LogJointFn, params: Params, x: Data) -> tuple[Array, Array]:
        """Log-likelihoods (T, K, S) of the steps, 0 beyond the ends, and which lie within their sequences (T, S)."""
        flat, within = _steps(x)
        table = jax.vmap(over_units(log_joint, (None, -1, None)), (None, None, 0))(params, flat, self.values)
        log_e = jnp.moveaxis(table.reshape(-1, *within.shape), 0, 1)
        return jnp.where(within[:, None, :], log_e, 0), within


def _steps(x: Data) -> tuple[Data, Array]:
    """Sequences, units last, as single steps (..., T S), and which of them lie within their sequence (T, S)."""
    values, lengths, _ = series_of(x)
    return single_steps(values), within_lengths(values, lengths)


def _mean(probs: Array, terms: Array, axes: int | tuple[int, ...]) -> Array:
    """`sum probs terms` over the axes; what has probability zero may be impossible."""
    return jnp.sum(jnp.where(probs > 0, probs * terms, 0), axes)

"""Hidden Markov chains: forward, backward, Viterbi and sampling, in the normalised form, sequential or in blocks of time.

Lanes last: emissions `e` are (T, M, S), one lane a sequence, M cells: the states, or more where a `moves.Move` says so. Nothing
of size T x M x M is stored. Padding and missing observations are steps with `e = 1`: they leave every posterior and the
log-likelihood as they are.

The normalised form is fast, and loses a state that is too improbable for the range of its numbers. That costs nothing unless
the state is the only way on, of which the backward messages know: where one is too large, `log_chain` takes its place.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import backend
from jem.kernels import log_chain
from jem.kernels.log_chain import Ways, by_best_way
from jem.kernels.moves import Move
from jem.kernels.rings import BEST, SUMS, safe_log


class Smoothed(NamedTuple):
    """Posterior of a chain.

    Attributes:
        filtered: (T, M, S) `p(z_t | x_1..x_t)`.
        backward: (T - 1, M, S) the messages `b_t = e_t beta_t / c_t` of the steps after the first, with which
            `p(z_{t-1} = i, z_t = j | x) = alpha_{t-1, i} A_ij b_{t, j}`; zero at steps where they are too large to be held.
        smoothed: (T, M, S) `p(z_t | x)`.
        log_normalizer: (S,) `log p(x)`; minus infinity where x cannot happen, and then all posteriors are zero.
        log_filtered: (T, M, S).
        rest: the moves of the steps whose messages are not held, as `Move.counts` takes them.
    """

    filtered: Array
    backward: Array
    smoothed: Array
    log_normalizer: Array
    log_filtered: Array
    rest: Any


@dataclasses.dataclass(frozen=True)
class Sequential:
    """One scan forward and one back over all T steps. Best on a CPU, and for many sequences.

    Example:
        >>> import jem
        >>> jem.HMM(jem.Poisson(), 2, form=jem.forms.Sequential()).form
        Sequential()
    """


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Time in blocks worked on side by side, joined through their K x K transfer products: for accelerators.

    Attributes:
        num_blocks: number of blocks; None takes about the square root of T.

    Example:
        >>> import jem
        >>> jem.HMM(jem.Poisson(), 2, form=jem.forms.Blocks(8)).form
        Blocks(num_blocks=8)
    """

    num_blocks: int | None = None


@dataclasses.dataclass(frozen=True)
class Automatic:
    """What is fastest for the model, the length and number of the sequences, and the device.

    Example:
        >>> import jem
        >>> jem.HMM(jem.Poisson(), 2).form
        Automatic()
    """


Form = Sequential | Blocks | Automatic

_LONG = 1024  # steps from which a chain is worked on in blocks
_LIGHT = 2**24  # K^3 S up to which blocks' further arithmetic costs less than launching a step's kernels, at 1e12 a second


def choose(form: Form, steps: int, states: int, lanes: int) -> Sequential | Blocks:
    """The form to use for T steps, K states and S sequences on this backend.

    Automatically it is `Sequential`, except on an accelerator for long sequences, where every step in turn is a few kernels to
    launch: there it is `Blocks`, unless K times the arithmetic, `2 K^3 S` a step, would take longer than that.
    """
    if not isinstance(form, Automatic):
        return form
    parallel = backend.accelerated() and steps >= _LONG and states**3 * lanes <= _LIGHT
    return Blocks() if parallel else Sequential()


def _ahead(predicted: Array, move: Move, e: Array) -> tuple[Array, Array]:
    """`u_t = p_t e_t`, `c_t = sum u_t`, `alpha_t = u_t / c_t`, `p_{t+1} = A^T alpha_t`, from `predicted` p_1 (M, S).

    Returns alpha (T, M, S) and c (T, S).
    """

    def step(predicted: Array, inputs: tuple[Array, Any]) -> tuple[Array, tuple[Array, Array]]:
        e_t, leaving = inputs
        u = predicted * e_t
        c = jnp.sum(u, 0)
        alpha = u * (1 / c)[None]
        return move.at(leaving).ahead(SUMS, alpha), (alpha, c)

    return lax.scan(step, predicted, (e, move.leaving()))[1]


def _back(last: Array, move: Move, e: Array, alpha: Array, c: Array) -> tuple[Array, Array]:
    """`b_t = e_t beta_t / c_t`, `beta_{t-1} = A b_t`, and the posterior, proportional to `alpha_t beta_t`; `last` is beta_T.

    Returns b (T, M, S) and the posterior (T, M, S).
    """

    def step(beta: Array, inputs: tuple[Array, Array, Array, Any]) -> tuple[Array, tuple[Array, Array]]:
        e_t, alpha_t, c_t, entering = inputs
        both = alpha_t * beta
        b = e_t * (1 / c_t)[None] * beta
        return move.at(entering).back(SUMS, b), (b, both * (1 / jnp.sum(both, 0))[None])

    return lax.scan(step, last, (e, alpha, c, move.entering()), reverse=True)[1]


def _largest(last: Array, move: Move, e: Array, c: Array) -> tuple[Array, Array, Array]:
    """Of the recursion of `_back` the largest `beta_t / c_t` of each state, the first step's b, and beta before it."""

    def step(carry: tuple[Array, Array, Array], inputs: tuple[Array, Array, Any]) -> tuple[tuple[Array, Array, Array], None]:
        beta, top, _ = carry
        e_t, c_t, entering = inputs
        w = (1 / c_t)[None] * beta
        b = e_t * w
        return (move.at(entering).back(SUMS, b), jnp.maximum(top, w), b), None

    zero = jnp.zeros_like(last)
    beta, top, b = lax.scan(step, (last, zero, zero), (e, c, move.entering()), reverse=True)[0]
    return top, b, beta


def _held(top: Array) -> Array:
    """Whether what underflowed is nothing: at most `tiny` was lost of a state at a step, which counts `beta_t / c_t` times."""
    return jnp.all(top <= jnp.finfo(top.dtype).tiny ** -0.5)


class _Laid(NamedTuple):
    """Steps as the recursions run over them, (T, M, S) or (L, M, blocks S): emissions, alpha, c, and beta of the last step.

    `starts` (blocks, K, S) is what is predicted of the first step of each block.
    """

    e: Array
    alpha: Array
    c: Array
    last: Array
    starts: Array


def _in_turn(predicted: Array, move: Move, e: Array) -> _Laid:
    """One step after the other."""
    last = jnp.ones_like(predicted)
    return _Laid(e, *_ahead(predicted, move, e), last, predicted[None])


def _in_blocks(predicted: Array, move: Move, e: Array, form: Blocks) -> _Laid:
    """Transfer products of all blocks side by side, boundary messages in turn, then all blocks side by side again."""
    steps, states, lanes = e.shape
    length = -(-steps // (form.num_blocks or max(1, int(steps**0.5))))
    num = -(-steps // length)
    # States that cannot be the first must not set the scale of what leads on from it.
    padded = jnp.concatenate([predicted[None] * e[:1], e[1:], jnp.ones((num * length - steps, states, lanes), e.dtype)])
    predicted = jnp.ones_like(predicted)
    inside = jnp.moveaxis(padded.reshape(num, length, states, lanes), 0, 2)  # (L, K, blocks, S)

    def transfer(p: Array, e_t: Array) -> tuple[Array, None]:
        p = jnp.moveaxis(p * e_t[None], 1, 0)  # where it is now first, where it began with the lanes
        p = jnp.moveaxis(move.ahead(SUMS, p.reshape(states, -1)).reshape(p.shape), 0, 1)
        return p / jnp.sum(p, (0, 1), keepdims=True), None

    eye = jnp.broadcast_to(jnp.eye(states, dtype=e.dtype)[:, :, None, None], (states, states, num, lanes))
    product = jnp.moveaxis(lax.scan(transfer, eye, inside)[0], 2, 0)  # (blocks, K, K, S)

    def across(predicted: Array, p: Array) -> tuple[Array, Array]:
        u = jnp.einsum("is,ijs->js", predicted, p)
        u = u / jnp.sum(u, 0)[None]
        return u, predicted

    def across_back(beta: Array, p: Array) -> tuple[Array, Array]:
        u = jnp.einsum("ijs,js->is", p, beta)
        return u / lax.stop_gradient(jnp.max(u, 0))[None], beta

    starts = lax.scan(across, predicted, product)[1]
    ends = lax.scan(across_back, jnp.ones_like(predicted), product, reverse=True)[1]

    side_by_side = lambda a: jnp.moveaxis(a, 0, 1).reshape(states, num * lanes)  # noqa: E731
    inside = inside.reshape(length, states, num * lanes)
    alpha, c = _ahead(side_by_side(starts), move, inside)
    # A backward message is the right multiple of itself where its product with the forward one sums to one.
    last = move.back(SUMS, side_by_side(ends))
    last = last / jnp.sum(alpha[-1] * last, 0, keepdims=True)
    return _Laid(inside, alpha, c, last, starts)


def _all_held(move: Move, laid: _Laid) -> Array:
    """Whether what underflowed is nothing, and blocks fit together."""
    top, b, before = _largest(laid.last, move, laid.e, laid.c)
    num, states, _ = laid.starts.shape
    if num == 1:
        return _held(top)
    apart = lambda a: a.reshape(states, num, -1)  # noqa: E731
    end = laid.alpha[-1]
    jump = apart(move.ahead(SUMS, end))[:, :-1] - jnp.moveaxis(laid.starts, 0, 1)[:, 1:]
    jump_back = apart(laid.last)[:, :-1] - apart(before)[:, 1:]
    off = jnp.abs(jump) * apart(b)[:, 1:] + jnp.abs(jump_back) * apart(end)[:, :-1]
    return _held(top) & jnp.all(jnp.sum(off, 0) <= jnp.finfo(off.dtype).eps ** 0.5)


def scaled(initial: Array, log_e: Array) -> tuple[Array, Array]:
    """Emission likelihoods (T, M, S), the largest of each step one; at the first step it is the largest product with `initial`.

    And the logarithms (T, S) of what was taken out, minus infinity where no state is possible. They cancel.
    """
    # States first, so that with a single sequence the loops still run along a long axis.
    log_e = jnp.moveaxis(log_e, 1, 0)
    first = jnp.max(log_e[:, 0] + safe_log(initial)[:, None], 0)
    top = lax.stop_gradient(jnp.max(log_e, 0).at[0].set(first))
    # A first state of probability zero may explain the step better by far: its derivative is kept, within bounds.
    room = -jnp.log(jnp.finfo(log_e.dtype).tiny) * jnp.where(initial > 0, 0.98, 0.4)
    e = jnp.exp(jnp.minimum(log_e - jnp.where(top == -jnp.inf, 0, top)[None], room[:, None, None]))
    return jnp.moveaxis(e, 0, 1), top


def smooth(initial: Array, move: Move, log_e: Array, form: Form = Automatic()) -> Smoothed:  # noqa: B008
    """Forward-backward: the posterior of every state and, through its messages, of every pair.

    Args:
        initial: (M,) probabilities of the first cell.
        move: how one leads to the next.
        log_e: (T, M, S) log-likelihoods of the emissions.
        form: `Sequential()`, `Blocks(n)` or `Automatic()`; all give the same answer.

    Returns:
        A `Smoothed`. Renormalising the product of the messages keeps float32 at its own precision over any number of
        steps.

    Source: Rabiner (1989), Proc. IEEE 77, section V.
    """
    steps, states, lanes = log_e.shape
    e, top = scaled(initial, log_e)
    how = Sequential() if move.changes else choose(form, steps, states, lanes)
    return by_best_way(_Ways(how), (initial, move, log_e, e, top))


@dataclasses.dataclass(frozen=True)
class _Ways(Ways):
    """Normalised, in a form, or in log space."""

    form: Sequential | Blocks

    def plain(self, args: Any) -> Array:
        # Where every state leads to every other one, nothing is lost for long.
        _, move, _, _, top = args
        return move.plain() & jnp.all(top > -jnp.inf)

    def fast(self, args: Any) -> tuple[Smoothed, _Laid]:
        initial, move, _, e, top = args
        steps, states, lanes = e.shape
        start = jnp.broadcast_to(initial[:, None], (states, lanes))
        form = self.form
        laid = _in_blocks(start, move, e, form) if isinstance(form, Blocks) else _in_turn(start, move, e)
        b, smoothed = _back(laid.last, move, laid.e, laid.alpha, laid.c)
        num = laid.starts.shape[0]

        def in_turn(a: Array) -> Array:
            if num == 1:
                return a[:steps]
            return jnp.moveaxis(a.reshape(-1, a.shape[1], num, lanes), 2, 0).reshape(-1, a.shape[1], lanes)[:steps]

        alpha, c = in_turn(laid.alpha), in_turn(laid.c[:, None])[:, 0]
        total = jnp.sum(jnp.log(c), 0) + jnp.sum(top, 0)
        none = move.nothing(steps, lanes, e.dtype)
        return Smoothed(alpha, in_turn(b)[1:], in_turn(smoothed), total, jnp.log(alpha), none), laid

    def held(self, args: Any, seen: _Laid) -> Array:
        return _all_held(args[1], seen)

    def robust(self, args: Any) -> Smoothed:
        initial, move, log_e, _, _ = args
        m = log_chain.smooth(move.log(), log_chain.begun(initial, log_e))
        return Smoothed(jnp.exp(m.log_filtered), m.backward[1:], m.smoothed, m.log_normalizer, m.log_filtered, m.rest)


def viterbi(log_initial: Array, move: Move, log_e: Array, within: Array) -> tuple[Array, Array]:
    """The most probable path.

    Args:
        log_initial: (M,).
        move: how one cell leads to the next.
        log_e: (T, M, S) log-likelihoods of the emissions; zero where there is no observation.
        within: (T, S) bool, whether a step lies within its sequence; beyond the end the state stays, at no cost.

    Returns:
        The path (T, S) of cells of `move.for_paths`, and the joint log-probability (S,) of its states. Ties go to the lowest.

    Source: Viterbi (1967); Rabiner (1989), section III.B.
    """
    move, log_initial, log_e = move.for_paths(log_initial, log_e)
    leaving = jax.tree.map(lambda a: a[:-1], move.leaving())

    def step(best: Array, inputs: tuple[Array, Array, Any]) -> tuple[Array, Array]:
        log_e_t, inside, step = inputs
        return jnp.where(inside, move.at(step).ahead(BEST, best), best) + log_e_t, best

    last, before = lax.scan(step, log_initial[:, None] + log_e[0], (log_e[1:], within[1:], leaving))

    def trace(cell: Array, inputs: tuple[Array, Array, Any]) -> tuple[Array, Array]:
        best, inside, step = inputs
        previous = jnp.argmax(best + move.at(step).into(cell), 0).astype(jnp.int32)
        previous = jnp.where(inside, previous, cell)
        return previous, previous

    end = jnp.argmax(last, 0).astype(jnp.int32)
    path = lax.scan(trace, end, (before, within[1:], leaving), reverse=True)[1]
    return jnp.concatenate([path, end[None]]), jnp.max(last, 0)


def sample_path(key: Array, log_initial: Array, move: Move, steps: int, lanes: int) -> Array:
    """Draws paths (T, S) of cells from the prior; the move in logarithms."""
    first_key, rest_key = jax.random.split(key)
    first = jax.random.categorical(first_key, log_initial, shape=(lanes,))
    leaving = jax.tree.map(lambda a: a[:-1], move.leaving())

    def step(cell: Array, inputs: tuple[Array, Any]) -> tuple[Array, Array]:
        key, step = inputs
        cell = jax.random.categorical(key, move.at(step).out(cell).T)
        return cell, cell

    rest = lax.scan(step, first, (jax.random.split(rest_key, steps - 1), leaving))[1]
    return jnp.concatenate([first[None], rest])


def sample_posterior(key: Array, move: Move, log_filtered: Array) -> Array:
    """Draws paths (T, S) of cells from `p(z | x)`, backwards from the filtered log-probabilities (T, M, S)."""
    # The bits of keys, as under vmap a scan moves its inputs about, which would use keys up.
    keys = jax.random.split(key, log_filtered.shape[0])
    bits, impl = jax.random.key_data(keys), jax.random.key_impl(key)
    leaving = jax.tree.map(lambda a: a[:-1], move.leaving())

    def draw(bits: Array, logits: Array) -> Array:
        return jax.random.categorical(jax.random.wrap_key_data(bits, impl=impl), logits.T)

    last = draw(bits[-1], log_filtered[-1])

    def step(cell: Array, inputs: tuple[Array, Array, Any]) -> tuple[Array, Array]:
        bits, alpha, step = inputs
        cell = draw(bits, alpha + move.at(step).into(cell))
        return cell, cell

    rest = lax.scan(step, last, (bits[:-1], log_filtered[:-1], leaving), reverse=True)[1]
    return jnp.concatenate([rest, last[None]])

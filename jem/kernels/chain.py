"""Hidden Markov chains: forward, backward, Viterbi and sampling, in the normalised form, sequential or in blocks of time.

Lanes last: emissions `e` are (T, K, S), one lane a sequence. Nothing of size T x K x K is stored. Padding and missing
observations are steps with `e = 1`: they leave every posterior and the log-likelihood as they are.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

_BROADCAST = 8  # states up to which, and
_LANES = 128  # sequences below which a broadcast sum beats a matrix product


class Smoothed(NamedTuple):
    """Posterior of a chain.

    Attributes:
        filtered: (T, K, S) `p(z_t | x_1..x_t)`.
        backward: (T - 1, K, S) the messages `b_t = e_t beta_t / c_t` of the steps after the first, with which
            `p(z_{t-1} = i, z_t = j | x) = alpha_{t-1, i} A_ij b_{t, j}`.
        smoothed: (T, K, S) `p(z_t | x)`.
        log_normalizer: (S,) `log p(x)`, up to what was taken out of the emissions.
    """

    filtered: Array
    backward: Array
    smoothed: Array
    log_normalizer: Array


@dataclasses.dataclass(frozen=True)
class Sequential:
    """One scan forward and one back over all T steps. Best on a CPU, and for many sequences."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Time in blocks worked on side by side, joined through their K x K transfer products: for accelerators.

    Attributes:
        num_blocks: number of blocks; None takes about the square root of T.
    """

    num_blocks: int | None = None


@dataclasses.dataclass(frozen=True)
class Automatic:
    """What is fastest for the model, the length and number of the sequences, and the device."""


Form = Sequential | Blocks | Automatic


def choose(form: Form, steps: int, states: int, lanes: int) -> Sequential | Blocks:
    """The form to use for T steps, K states and S sequences on this backend.

    Automatically it is `Sequential`, except on an accelerator for few and long sequences of few states, where it is `Blocks`.
    """
    if not isinstance(form, Automatic):
        return form
    parallel = jax.default_backend() != "cpu" and steps >= 1024 and states <= 16 and lanes <= 64
    return Blocks() if parallel else Sequential()


def _broadcasts(transition: Array, lanes: int) -> bool:
    """Whether a broadcast sum beats a matrix product: XLA compiles the whole loop where its body is small and calls nothing."""
    return transition.shape[0] <= _BROADCAST and lanes < _LANES


def _forward_product(transition: Array, alpha: Array) -> Array:
    """`A^T alpha` for alpha (K, S)."""
    if _broadcasts(transition, alpha.shape[1]):
        return jnp.sum(transition[:, :, None] * alpha[:, None, :], 0)
    return lax.dot_general(transition, alpha, (((0,), (0,)), ((), ())))


def _backward_product(transition: Array, b: Array) -> Array:
    """`A b` for b (K, S)."""
    if _broadcasts(transition, b.shape[1]):
        return jnp.sum(transition[:, :, None] * b[None, :, :], 1)
    return transition @ b


def _ahead(predicted: Array, transition: Array, e: Array) -> tuple[Array, Array]:
    """`u_t = p_t e_t`, `c_t = sum u_t`, `alpha_t = u_t / c_t`, `p_{t+1} = A^T alpha_t`, from `predicted` p_1 (K, S).

    Returns alpha (T, K, S) and c (T, S).
    """

    def step(predicted: Array, e_t: Array) -> tuple[Array, tuple[Array, Array]]:
        u = predicted * e_t
        c = jnp.sum(u, 0)
        alpha = u * (1 / c)[None]
        return _forward_product(transition, alpha), (alpha, c)

    return lax.scan(step, predicted, e)[1]


def _back(last: Array, transition: Array, e: Array, alpha: Array, c: Array) -> tuple[Array, Array]:
    """`b_t = e_t beta_t / c_t`, `beta_{t-1} = A b_t`, and the posterior, proportional to `alpha_t beta_t`; `last` is beta_T.

    Returns b (T, K, S) and the posterior (T, K, S).
    """

    def step(beta: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        e_t, alpha_t, c_t = inputs
        both = alpha_t * beta
        b = e_t * (1 / c_t)[None] * beta
        return _backward_product(transition, b), (b, both * (1 / jnp.sum(both, 0))[None])

    return lax.scan(step, last, (e, alpha, c), reverse=True)[1]


def _smooth_in_blocks(predicted: Array, transition: Array, e: Array, form: Blocks) -> tuple[Array, Array, Array, Array]:
    """Transfer products of all blocks side by side, boundary messages in turn, then all blocks side by side again."""
    steps, states, lanes = e.shape
    length = -(-steps // (form.num_blocks or max(1, int(steps**0.5))))
    num = -(-steps // length)
    padded = jnp.concatenate([e, jnp.ones((num * length - steps, states, lanes), e.dtype)])
    inside = jnp.moveaxis(padded.reshape(num, length, states, lanes), 0, 2)  # (L, K, blocks, S)

    def transfer(p: Array, e_t: Array) -> tuple[Array, None]:
        p = jnp.einsum("ikns,kj->ijns", p * e_t[None], transition)
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
    alpha, c = _ahead(side_by_side(starts), transition, inside)
    # A backward message is the right multiple of itself where its product with the forward one sums to one.
    last = _backward_product(transition, side_by_side(ends))
    last = last / jnp.sum(alpha[-1] * last, 0, keepdims=True)
    b, smoothed = _back(last, transition, inside, alpha, c)

    def in_turn(a: Array) -> Array:
        return jnp.moveaxis(a.reshape(length, -1, num, lanes), 2, 0).reshape(num * length, -1, lanes)[:steps]

    return in_turn(alpha), in_turn(c[:, None])[:, 0], in_turn(b), in_turn(smoothed)


def scaled(log_e: Array) -> tuple[Array, Array]:
    """Emission likelihoods (T, K, S) with the largest of each step one, and the logarithm of what was taken out, (S,)."""
    # States first, so that with a single sequence the loops still run along a long axis.
    log_e = jnp.moveaxis(log_e, 1, 0)
    top = lax.stop_gradient(jnp.max(log_e, 0))  # it cancels
    top = jnp.where(top == -jnp.inf, 0, top)
    return jnp.moveaxis(jnp.exp(log_e - top[None]), 0, 1), jnp.sum(top, 0)


def smooth(initial: Array, transition: Array, e: Array, form: Form = Automatic()) -> Smoothed:  # noqa: B008
    """Forward-backward: the posterior of every state and, through its messages, of every pair.

    Args:
        initial: (K,) probabilities of the first state.
        transition: (K, K), rows sum to one.
        e: (T, K, S) emission likelihoods, scaled so that the largest of each step is near one.
        form: `Sequential()`, `Blocks(n)` or `Automatic()`; all give the same answer.

    Returns:
        A `Smoothed`. Renormalising the product of the messages keeps float32 at its own precision over any number of
        steps.

    Source: Rabiner (1989), Proc. IEEE 77, section V.
    """
    steps, states, lanes = e.shape
    form = choose(form, steps, states, lanes)
    predicted = jnp.broadcast_to(initial[:, None], (states, lanes))
    if isinstance(form, Blocks):
        alpha, c, b, smoothed = _smooth_in_blocks(predicted, transition, e, form)
    else:
        alpha, c = _ahead(predicted, transition, e)
        b, smoothed = _back(jnp.ones_like(predicted), transition, e, alpha, c)
    return Smoothed(alpha, b[1:], smoothed, jnp.sum(jnp.log(c), 0))


def expected_transitions(transition: Array, filtered: Array, backward: Array, weights: Array) -> Array:
    """Expected transition counts `sum_{t,s} w_ts p(z_{t-1} = i, z_t = j | x)`, (K, K).

    Args:
        transition: (K, K).
        filtered: (T, K, S).
        backward: (T - 1, K, S), the messages of steps 2..T.
        weights: (T - 1, S), of the step into t = 2..T.
    """
    now, then = filtered[:-1] * weights[:, None, :], backward
    if now.shape[2] == 1:
        return transition * lax.dot_general(now[:, :, 0], then[:, :, 0], (((0,), (0,)), ((), ())))
    states_first = lambda a: jnp.moveaxis(a, 1, 0).reshape(a.shape[1], -1)  # noqa: E731
    return transition * (states_first(now) @ states_first(then).T)


def viterbi(log_initial: Array, log_transition: Array, log_e: Array, within: Array) -> tuple[Array, Array]:
    """The most probable path.

    Args:
        log_initial: (K,).
        log_transition: (K, K).
        log_e: (T, K, S) log-likelihoods of the emissions; zero where there is no observation.
        within: (T, S) bool, whether a step lies within its sequence; beyond the end the state stays, at no cost.

    Returns:
        The path (T, S) of states and its joint log-probability (S,). Ties go to the lowest state.

    Source: Viterbi (1967); Rabiner (1989), section III.B.
    """
    stay = jnp.where(jnp.eye(log_transition.shape[0], dtype=bool), 0.0, -jnp.inf).astype(log_e.dtype)

    def step(best: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        log_e_t, inside = inputs
        log_a = jnp.where(inside[None, None, :], log_transition[:, :, None], stay[:, :, None])
        scores = best[:, None, :] + log_a
        return jnp.max(scores, 0) + log_e_t, jnp.argmax(scores, 0).astype(jnp.int32)

    best, back = lax.scan(step, log_initial[:, None] + log_e[0], (log_e[1:], within[1:]))

    def trace(state: Array, pointers: Array) -> tuple[Array, Array]:
        previous = jnp.take_along_axis(pointers, state[None, :], axis=0)[0]
        return previous, previous

    last = jnp.argmax(best, 0).astype(jnp.int32)
    path = lax.scan(trace, last, back, reverse=True)[1]
    return jnp.concatenate([path, last[None]]), jnp.max(best, 0)


def sample_path(key: Array, initial: Array, transition: Array, steps: int, lanes: int) -> Array:
    """Draws state paths (T, S) from the prior."""
    first_key, rest_key = jax.random.split(key)
    first = jax.random.categorical(first_key, jnp.log(initial), shape=(lanes,))
    log_a = jnp.log(transition)

    def step(state: Array, key: Array) -> tuple[Array, Array]:
        state = jax.random.categorical(key, log_a[state])
        return state, state

    rest = lax.scan(step, first, jax.random.split(rest_key, steps - 1))[1]
    return jnp.concatenate([first[None], rest])


def sample_posterior(key: Array, transition: Array, filtered: Array) -> Array:
    """Draws state paths (T, S) from `p(z | x)`, backwards from the filtered probabilities (T, K, S)."""
    # The bits of keys, as under vmap a scan moves its inputs about, which would use keys up.
    bits, impl = jax.random.key_data(jax.random.split(key, filtered.shape[0])), jax.random.key_impl(key)

    def draw(bits: Array, p: Array) -> Array:
        return jax.random.categorical(jax.random.wrap_key_data(bits, impl=impl), jnp.log(p).T)

    last = draw(bits[-1], filtered[-1])

    def step(state: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        bits, alpha = inputs
        state = draw(bits, alpha * transition[:, state])
        return state, state

    rest = lax.scan(step, last, (bits[:-1], filtered[:-1]), reverse=True)[1]
    return jnp.concatenate([rest, last[None]])

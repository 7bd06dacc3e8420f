"""Hidden Markov chains: forward, backward, Viterbi and sampling, in the normalised form, sequential or in blocks of time.

Lanes last: emissions `e` are (T, K, S), one lane a sequence. Nothing of size T x K x K is stored. Padding and missing
observations are steps with `e = 1`: they leave every posterior and the log-likelihood as they are.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

_BROADCAST = 8  # states up to which a broadcast sum beats a matrix product


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


def _forward_product(transition: Array, alpha: Array) -> Array:
    """`A^T alpha` for alpha (K, S)."""
    if transition.shape[0] <= _BROADCAST:
        return jnp.sum(transition[:, :, None] * alpha[:, None, :], 0)
    return transition.T @ alpha


def _backward_product(transition: Array, b: Array) -> Array:
    """`A b` for b (K, S)."""
    if transition.shape[0] <= _BROADCAST:
        return jnp.sum(transition[:, :, None] * b[None, :, :], 1)
    return transition @ b


def messages(start: Array, transition: Array, e: Array, form: Sequential | Blocks) -> tuple[Array, Array, Array]:
    """Forward and backward messages of the steps after the first.

    `u_t = (A^T alpha_{t-1}) e_t`, `c_t = sum u_t`, `alpha_t = u_t / c_t`; `b_t = e_t beta_t / c_t`, `beta_{t-1} = A b_t`.

    Args:
        start: (K, S) filtered probabilities of the first state.
        transition: (K, K), rows sum to one.
        e: (T, K, S) emission likelihoods of the steps that follow.
        form: sequential or in blocks.

    Returns:
        alpha (T, K, S), c (T, S), b (T, K, S).
    """
    if isinstance(form, Blocks):
        return _messages_in_blocks(start, transition, e, form)
    alpha, c = _ahead(start, transition, e)
    return alpha, c, _back(jnp.ones_like(start), transition, e * (1 / c)[:, None, :])


def _ahead(start: Array, transition: Array, e: Array) -> tuple[Array, Array]:
    def step(alpha: Array, e_t: Array) -> tuple[Array, tuple[Array, Array]]:
        u = _forward_product(transition, alpha) * e_t
        c = jnp.sum(u, 0)
        alpha = u * (1 / c)[None]
        return alpha, (alpha, c)

    return lax.scan(step, start, e)[1]


def _back(last: Array, transition: Array, w: Array) -> Array:
    def step(beta: Array, w_t: Array) -> tuple[Array, Array]:
        b = w_t * beta
        return _backward_product(transition, b), b

    return lax.scan(step, last, w, reverse=True)[1]


def _messages_in_blocks(start: Array, transition: Array, e: Array, form: Blocks) -> tuple[Array, Array, Array]:
    """Transfer products of all blocks side by side, boundary messages in turn, then all blocks side by side again."""
    steps, states, lanes = e.shape
    length = -(-steps // (form.num_blocks or max(1, int(steps**0.5))))
    num = -(-steps // length)
    padded = jnp.concatenate([e, jnp.ones((num * length - steps, states, lanes), e.dtype)])
    inside = jnp.moveaxis(padded.reshape(num, length, states, lanes), 0, 2)  # (L, K, blocks, S)

    def transfer(p: Array, e_t: Array) -> tuple[Array, None]:
        p = jnp.einsum("ikns,kj->ijns", p, transition) * e_t[None]
        return p / jnp.sum(p, (0, 1), keepdims=True), None

    eye = jnp.broadcast_to(jnp.eye(states, dtype=e.dtype)[:, :, None, None], (states, states, num, lanes))
    product = jnp.moveaxis(lax.scan(transfer, eye, inside)[0], 2, 0)  # (blocks, K, K, S)

    def across(alpha: Array, p: Array) -> tuple[Array, Array]:
        u = jnp.einsum("is,ijs->js", alpha, p)
        u = u / jnp.sum(u, 0)[None]
        return u, alpha

    def across_back(beta: Array, p: Array) -> tuple[Array, Array]:
        u = jnp.einsum("ijs,js->is", p, beta)
        return u / lax.stop_gradient(jnp.max(u, 0))[None], beta

    final, starts = lax.scan(across, start, product)
    ends = lax.scan(across_back, jnp.ones_like(start), product, reverse=True)[1]
    # A backward message is the right multiple of itself where its product with the forward one sums to one.
    alphas = jnp.concatenate([starts[1:], final[None]])
    ends = ends / jnp.sum(alphas * ends, 1, keepdims=True)

    side_by_side = lambda a: jnp.moveaxis(a, 0, 1).reshape(states, num * lanes)  # noqa: E731
    inside = inside.reshape(length, states, num * lanes)
    alpha, c = _ahead(side_by_side(starts), transition, inside)
    b = _back(side_by_side(ends), transition, inside * (1 / c)[:, None, :])

    def in_turn(a: Array) -> Array:
        return jnp.moveaxis(a.reshape(length, -1, num, lanes), 2, 0).reshape(num * length, -1, lanes)[:steps]

    return in_turn(alpha), in_turn(c[:, None])[:, 0], in_turn(b)


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
    first = e[0] * initial[:, None]
    total = jnp.sum(first, 0)
    start = first / total[None]
    alpha, c, b = messages(start, transition, e[1:], choose(form, steps, states, lanes))
    alpha = jnp.concatenate([start[None], alpha])
    # States first, as in `scaled`.
    ahead, behind = jnp.moveaxis(alpha, 1, 0), jnp.moveaxis(b, 1, 0)
    beta = _backward_product(transition, behind.reshape(states, -1)).reshape(behind.shape)
    gamma = ahead * jnp.concatenate([beta, jnp.ones((states, 1, lanes), e.dtype)], 1)
    gamma = jnp.moveaxis(gamma / jnp.sum(gamma, 0)[None], 0, 1)
    return Smoothed(alpha, b, gamma, jnp.log(total) + jnp.sum(jnp.log(c), 0))


def expected_transitions(transition: Array, filtered: Array, backward: Array, weights: Array) -> Array:
    """Expected transition counts `sum_{t,s} w_ts p(z_{t-1} = i, z_t = j | x)`, (K, K).

    Args:
        transition: (K, K).
        filtered: (T, K, S).
        backward: (T - 1, K, S), the messages of steps 2..T.
        weights: (T - 1, S), of the step into t = 2..T.
    """
    return transition * jnp.einsum("tis,tjs->ij", filtered[:-1] * weights[:, None, :], backward)


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

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
        backward: (T, K, S) the messages `b_t = e_t beta_t / c_t`, with which
            `p(z_{t-1} = i, z_t = j | x) = filtered[t-1, i] A[i, j] backward[t, j]`.
        smoothed: (T, K, S) `p(z_t | x)`.
        log_normalizer: (S,) `log p(x)`, up to what was taken out of the emissions.
    """

    filtered: Array
    backward: Array
    smoothed: Array
    log_normalizer: Array


@dataclasses.dataclass(frozen=True)
class Sequential:
    """One scan forward and one back: T steps of K x K work. Best on a CPU, and for many sequences."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Time in blocks worked on side by side, joined through their K x K transfer products: for accelerators.

    Attributes:
        num_blocks: number of blocks; None takes about the square root of T.
    """

    num_blocks: int | None = None


@dataclasses.dataclass(frozen=True)
class Automatic:
    """`Sequential`, except on an accelerator for few and long sequences of few states, where it is `Blocks`."""


Form = Sequential | Blocks | Automatic


def choose(form: Form, steps: int, states: int, lanes: int) -> Sequential | Blocks:
    """The form to use for T steps, K states and S sequences on this backend."""
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


def forward(initial: Array, transition: Array, e: Array) -> tuple[Array, Array]:
    """Normalised forward recursion: `u_t = (A^T alpha_{t-1}) e_t`, `c_t = sum u_t`, `alpha_t = u_t / c_t`.

    Args:
        initial: (K,) or (K, S) probabilities of the first state, before its emission.
        transition: (K, K), rows sum to one.
        e: (T, K, S) emission likelihoods, scaled per step as one likes.

    Returns:
        alpha (T, K, S) and c (T, S); `sum_t log c_t` is the log-likelihood of the scaled emissions.
    """
    first = e[0] * (initial[:, None] if initial.ndim == 1 else initial)
    total = jnp.sum(first, 0)
    start = first / total[None]

    def step(alpha: Array, e_t: Array) -> tuple[Array, tuple[Array, Array]]:
        u = _forward_product(transition, alpha) * e_t
        c = jnp.sum(u, 0)
        alpha = u * (1 / c)[None]
        return alpha, (alpha, c)

    _, (alpha, c) = lax.scan(step, start, e[1:])
    return jnp.concatenate([start[None], alpha]), jnp.concatenate([total[None], c])


def backward(transition: Array, w: Array, last: Array) -> Array:
    """Backward recursion: `b_t = w_t beta_t`, `beta_{t-1} = A b_t`, from `beta_T = last`.

    Args:
        transition: (K, K).
        w: (T, K, S) emissions over their normalisers, `e_t / c_t`.
        last: (K, S).

    Returns:
        b (T, K, S).
    """

    def step(beta: Array, w_t: Array) -> tuple[Array, Array]:
        b = w_t * beta
        return _backward_product(transition, b), b

    return lax.scan(step, last, w, reverse=True)[1]


def smooth(initial: Array, transition: Array, e: Array, form: Form = Automatic()) -> Smoothed:  # noqa: B008
    """Forward-backward: the posterior of every state and, through its messages, of every pair.

    Args:
        initial: (K,).
        transition: (K, K).
        e: (T, K, S) emission likelihoods, scaled so that the largest of each step is near one.
        form: `Sequential()`, `Blocks(n)` or `Automatic()`; all give the same answer.

    Returns:
        A `Smoothed`. Renormalising the product of forward and backward messages keeps float32 at its own precision
        over any number of steps.

    Source: Rabiner (1989), Proc. IEEE 77, section V; Devijver (1985).
    """
    steps, states, lanes = e.shape
    chosen = choose(form, steps, states, lanes)
    if isinstance(chosen, Blocks):
        alpha, c, b = _blocks(initial, transition, e, chosen)
    else:
        alpha, c = forward(initial, transition, e)
        b = backward(transition, e * (1 / c)[:, None, :], jnp.ones_like(e[0]))
    beta = jnp.concatenate([jnp.einsum("ij,tjs->tis", transition, b[1:]), jnp.ones_like(b[:1])])
    gamma = alpha * beta
    gamma = gamma / jnp.sum(gamma, 1, keepdims=True)
    return Smoothed(alpha, b, gamma, jnp.sum(jnp.log(c), 0))


def _blocks(initial: Array, transition: Array, e: Array, form: Blocks) -> tuple[Array, Array, Array]:
    """Forward and backward in blocks: transfer products side by side, boundaries in turn, blocks side by side again."""
    steps, states, lanes = e.shape
    num = form.num_blocks or max(1, int(steps**0.5))
    length = -(-steps // num)
    num = -(-steps // length)
    padded = jnp.concatenate([e, jnp.ones((num * length - steps, states, lanes), e.dtype)])
    # Block-major lanes: (L, K, num * S) for the scans inside blocks.
    inside = jnp.moveaxis(padded.reshape(num, length, states, lanes), 0, 2).reshape(length, states, num * lanes)

    def transfer(p: Array, e_t: Array) -> tuple[Array, None]:
        p = jnp.einsum("ikl,kj->ijl", p, transition) * e_t[None]
        return p / jnp.sum(p, (0, 1), keepdims=True), None

    # The first step of the chain has no transition before it: a block starts from the state before its first step.
    eye = jnp.broadcast_to(jnp.eye(states, dtype=e.dtype)[:, :, None], (states, states, num * lanes))
    product = lax.scan(transfer, eye, inside)[0].reshape(states, states, num, lanes)
    product = jnp.moveaxis(product, 2, 0)
    before = _state_before(initial, transition, e)

    def across(alpha: Array, p: Array) -> tuple[Array, Array]:
        u = jnp.einsum("is,ijs->js", alpha, p)
        return u / jnp.sum(u, 0)[None], alpha

    starts = lax.scan(across, before, product[1:])[1] if num > 1 else before[None][:0]
    first = jnp.einsum("is,ijs->js", before, product[0])
    first = first / jnp.sum(first, 0)[None]
    starts = jnp.concatenate([before[None], lax.scan(across, first, product[1:])[1]])

    def back(beta: Array, p: Array) -> tuple[Array, Array]:
        u = jnp.einsum("ijs,js->is", p, beta)
        return u / jnp.max(u, 0)[None], beta

    ends = lax.scan(back, jnp.ones((states, lanes), e.dtype), product, reverse=True)[1]
    fold_lanes = lambda a: jnp.moveaxis(a, 0, 1).reshape(states, num * lanes)  # noqa: E731
    unfold = lambda a: jnp.moveaxis(a.reshape(length, -1, num, lanes), 2, 0).reshape(num * length, -1, lanes)[:steps]  # noqa: E731

    def ahead(alpha: Array, e_t: Array) -> tuple[Array, tuple[Array, Array]]:
        u = _forward_product(transition, alpha) * e_t
        c = jnp.sum(u, 0)
        alpha = u * (1 / c)[None]
        return alpha, (alpha, c)

    alpha, c = lax.scan(ahead, fold_lanes(starts), inside)[1]
    b = backward(transition, inside * (1 / c)[:, None, :], fold_lanes(ends))
    alpha, c, b = unfold(alpha), unfold(c[:, None])[:, 0], unfold(b)
    # Backward messages of each block are right up to a factor: fix it by p(z_{t-1}, z_t | x) summing to one.
    total = jnp.sum(jnp.einsum("tis,ij->tjs", jnp.concatenate([before[None], alpha[:-1]]), transition) * b, 1)
    return alpha, c, b / total[:, None, :]


def _state_before(initial: Array, transition: Array, e: Array) -> Array:
    raise NotImplementedError

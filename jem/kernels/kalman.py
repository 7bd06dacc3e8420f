"""Kalman smoothing of many sequences: sequential, steady, or parallel in time, with one API and the same answers.

`x_t = A x_{t-1} + drift_t + chol_Q e_t`, `x_1 = m0 + chol_P0 eta_1`, `z_t = H_t x_t + v_t`, with e, eta_1, v standard normal.
See `riccati` for the notation and the covariances. These do not depend on z: they are computed once for all sequences that
are observed at the same steps. Lanes (sequences) come last.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import backend
from jem.kernels.chain import Automatic, Sequential
from jem.kernels.lanes import apply, apply_all, eye_like, recur, recur_associative, times, transpose
from jem.kernels.riccati import (
    Factors,
    System,
    backward,
    backward_associative,
    forward,
    forward_associative,
    pair,
    step,
)


@dataclasses.dataclass(frozen=True)
class Steady:
    """As `Sequential`, with the covariances held constant once they are.

    They are iterated for `head` steps from either end. Where nothing is missing, all sequences are of full length and both
    iterations have come to rest at the rounding level, the steps between have the constants; where not, all is computed.
    Under a vmap over parameters both are computed and one is taken.

    Attributes:
        head: steps after which to look; sequences shorter than three times this are computed in full.

    Example:
        >>> import jem
        >>> jem.LDS(1, 1, form=jem.forms.Steady(head=64)).form
        Steady(head=64)
    """

    head: int = 512


@dataclasses.dataclass(frozen=True)
class Associative:
    """Associative scans: about 2 log2(T) rounds of larger steps. For accelerators; compiles slowly.

    Example:
        >>> import jem
        >>> jem.LDS(1, 1, form=jem.forms.Associative()).form
        Associative()

    Source: Sarkka and Garcia-Fernandez (2021), IEEE Trans. Automatic Control 66.
    """


_FEW = 512  # steps in all, up to which sharing covariances is not worth the longer compilation

Form = Sequential | Steady | Associative | Automatic


def choose(form: Form, steps: int, lanes: int) -> Sequential | Steady | Associative:
    """The form to use for T steps and S sequences on this backend.

    Automatically it is `Steady` for long sequences, else `Sequential`; on an accelerator `Associative`, unless there are many.
    """
    if isinstance(form, Automatic):
        if backend.accelerated() and steps >= 256 and lanes <= 64:
            return Associative()
        form = Steady()
    if isinstance(form, Steady) and steps < 3 * form.head:
        return Sequential()
    return form


class Moments(NamedTuple):
    """Posterior covariances summed over time, one lane a sequence.

    Attributes:
        first: (n, n, S) of eta_1.
        xx: (n, n, S) of x_{t-1}, over the steps t that have a predecessor.
        ex: (n, n, S) of e_t with x_{t-1}.
        ee: (n, n, S) of e_t.
        emission: what the caller's `gather` makes of the covariances of x_t.
    """

    first: Array
    xx: Array
    ex: Array
    ee: Array
    emission: Any


class Smoothed(NamedTuple):
    """The posterior of the states.

    Attributes:
        mean: (T, n, S) of x_t.
        noise: (T, n, S) of e_{t+1}; zero where t is the last step.
        first: (n, S) of eta_1.
        log_det: (S,) `sum_t log|U_t^{-1}|`.
        moments: covariances, summed over time.
    """

    mean: Array
    noise: Array
    first: Array
    log_det: Array
    moments: Moments


class Segment(NamedTuple):
    """Steps `start` to `stop` and their factors and observation matrices, with a time axis or the same for all of them."""

    start: int
    stop: int
    factors: Factors
    h: Array


def smooth_means(
    segments: list[Segment], z: Array, drift: Array, go: Array | None, mean: Array, recur: Callable[..., Array]
) -> tuple[Array, Array, Array, Array]:
    """Means given z: of x_t before z_t is seen and of x_t (T, n, S), of e_{t+1} (T, n, S), of eta_1 (n, S)."""
    of = lambda a, part: None if a is None else a[part]  # noqa: E731
    predicted, now = [], jnp.broadcast_to(mean[:, None], drift.shape[1:])
    for start, stop, f, _ in segments:
        part = slice(start, stop)
        input_ = apply_all(f.inject, z[part]) + drift[part]
        # The first step of a segment takes over from the last one, in the form of an input.
        a = f.closed if f.closed.ndim == 3 else f.closed[0]
        input_ = input_.at[0].add(apply(a, now))
        if go is not None:  # shared matrices go on beyond a sequence's end, where nothing must be left
            input_ = jnp.where(go[part][:, None], input_, 0)
        path = recur(f.closed, input_, of(go, part))
        predicted += [now[None], path[:-1]]
        now = path[-1]
    predicted = jnp.concatenate(predicted)
    means, noises, ahead = [], [], jnp.zeros_like(now)
    for start, stop, f, h in reversed(segments):
        part = slice(start, stop)
        news = apply_all(f.gain, z[part] - apply_all(h, predicted[part]))
        m = f.pull if f.pull.ndim == 3 else f.pull[-1]
        eta = recur(f.pull, news.at[-1].add(apply(m, ahead)), of(go, part), reverse=True)
        means.append(predicted[part] + apply_all(f.predicted, eta))
        noises.append(apply_all(f.noise, jnp.concatenate([eta[1:], ahead[None]])))
        ahead = eta[0]
    return predicted, jnp.concatenate(means[::-1]), jnp.concatenate(noises[::-1]), ahead


class Gather(NamedTuple):
    """What the caller wants of Cov(x_t | z).

    Attributes:
        each: from those of all steps (T, n, n, 1 or S), a tree of sums with lanes (..., S).
        total: the same from their sum (n, n, 1), where nothing is missing.
    """

    each: Callable[[Array], Any]
    total: Callable[[Array], Any]


class Pattern(NamedTuple):
    """What sequences have in common, as bools known only when the program runs.

    Attributes:
        steps: what is observed at each step is the same for all sequences, as far as they go.
        lengths: moreover all have the same length.
        complete: moreover that length is T, and everything is observed.
    """

    steps: Array
    lengths: Array
    complete: Array


def smooth(
    system: System, h: Array, z: Array, drift: Array, go: Array, form: Form, gather: Gather, pattern: Pattern
) -> Smoothed:
    """The posterior of the states.

    Args:
        system: the dynamics.
        h: (T, k, n, S) observation matrices, zero where nothing is observed; noise is taken to be standard normal.
        z: (T, k, S) observations, zero where missing.
        drift: (T, n, S) what inputs add to the next state, zero where there is none.
        go: (T, S) bool, whether a step has a next one within its sequence.
        form: how to run; all forms give the same answer.
        gather: what to make of the states' covariances.
        pattern: what the sequences share.

    Returns:
        A `Smoothed`.
    """
    chosen = choose(form, z.shape[0], z.shape[-1])
    longest = jnp.argmax(jnp.sum(go, 0))
    common = lax.dynamic_slice_in_dim(h, longest, 1, -1)
    further = lax.dynamic_slice_in_dim(go, longest, 1, -1)

    def run(h: Array, go_forward: Array, go_back: Array) -> Smoothed:
        return smooth_full(system, h, z, drift, go_forward, go_back, go, gather, isinstance(chosen, Associative))

    def alike() -> Smoothed:
        full = lambda: run(common, further, further)  # noqa: E731
        if not isinstance(chosen, Steady):
            return full()
        return smooth_steady(system, common, z, drift, go, gather, chosen.head, pattern.complete, full)

    if z.shape[-1] == 1:
        return alike()
    if isinstance(chosen, Sequential) and z.shape[0] * z.shape[-1] <= _FEW:
        return run(h, go, go)
    case = jnp.where(pattern.lengths, 0, jnp.where(pattern.steps, 1, 2))
    return lax.switch(case, [alike, lambda: run(common, further, go), lambda: run(h, go, go)])


def smooth_full(
    system: System, h: Array, z: Array, drift: Array, go_forward: Array, go_back: Array, go: Array, gather: Gather,
    associative: bool,
) -> Smoothed:  # fmt: skip
    """All steps, with as many lanes of covariances as h and go_forward have, and backwards as many as go_back."""
    covariances, move = (forward_associative, backward_associative), recur_associative
    if not associative:
        covariances, move = (forward, backward), recur
    f = covariances[0](system, h, go_forward)[1]
    v, pairs = covariances[1](f, go_back, jnp.zeros((*f.spread.shape[1:3], go_back.shape[-1]), z.dtype))[1]
    _, mean, noise, first = smooth_means([Segment(0, z.shape[0], f, h)], z, drift, go, system.mean, move)
    # A lane ends where it ends; shared factors run on.
    width = lambda a: jnp.broadcast_to(a, (*a.shape[:-1], z.shape[-1]))  # noqa: E731
    summed = lambda p: width(jnp.sum(jnp.where(go_back[:, None, None], p, 0), 0))  # noqa: E731
    log_det = jnp.sum(jnp.where(jnp.concatenate([jnp.ones_like(go[:1]), go[:-1]]), f.log_det, 0), 0)
    moments = Moments(width(v[0]), summed(pairs.xx), summed(pairs.ex), summed(pairs.ee), gather.each(pairs.xx))
    return Smoothed(mean, noise, first, log_det, moments)


def at_rest(new: Array, old: Array) -> Array:
    """Whether covariances (n, n, 1) have stopped changing, each entry seen on the scale of its variances."""
    deviation = jnp.sqrt(jnp.maximum(jnp.diagonal(new[..., 0]), 0))
    scale = deviation[:, None, None] * deviation[None, :, None]
    return jnp.all(jnp.abs(new - old) <= 32 * jnp.finfo(new.dtype).eps * scale)


def smooth_steady(
    system: System, h: Array, z: Array, drift: Array, go: Array, gather: Gather, head: int, complete: Array,
    full: Callable[[], Smoothed],
) -> Smoothed:  # fmt: skip
    """One lane of covariances, constant between the first and the last `head` steps where that is so; else `full()`."""
    steps, n = z.shape[0], system.transition.shape[0]
    on = jnp.ones((head, 1), bool)
    lower, first_part = forward(system, h[:head], on)
    following, constant = step(system, lower, h[0], on[0])
    many = jax.tree.map(lambda a: jnp.broadcast_to(a, (head, *a.shape)), constant)
    settled, (tail, _) = backward(many, on.at[-1].set(False), jnp.zeros_like(lower))
    rest = at_rest(times(following, transpose(following)), times(lower, transpose(lower)))

    def fast() -> Smoothed:
        v_first, (_, pairs) = backward(first_part, on, settled)
        total = jnp.sum(tail, 0) + (steps - 2 * head) * settled
        count = steps - 1 - head
        later = pair(constant, total - tail[-1], count * eye_like(total, n) - (total - settled), count)
        summed = jax.tree.map(lambda a, b: jnp.sum(a, 0) + b, pairs, later)
        covered = summed.xx + times(times(lower, tail[-1]), transpose(lower))
        segments = [Segment(0, head, first_part, h[0]), Segment(head, steps, constant, h[0])]
        _, mean, noise, first = smooth_means(segments, z, drift, None, system.mean, recur)
        log_det = jnp.sum(first_part.log_det, 0) + (steps - head) * constant.log_det
        width = lambda a: jnp.broadcast_to(a, (*a.shape[:-1], z.shape[-1]))  # noqa: E731
        moments = Moments(width(v_first), width(summed.xx), width(summed.ex), width(summed.ee), gather.total(covered))
        return Smoothed(mean, noise, first, width(log_det), moments)

    return lax.cond(complete & rest & at_rest(settled, tail[1]), fast, full)

"""The covariances of a linear-Gaussian state space in whitened square-root form, sequential or parallel in time.

`x_t = A x_{t-1} + drift_t + chol_Q e_t`, `x_1 = m0 + chol_P0 eta_1`, `z_t = H_t x_t + v_t`, with e, eta_1, v standard normal.
Matrices lead and lanes (sequences) come last: (n, n, S), with time in front where a scan runs over it: (T, n, n, S). The
covariance recursions have their own number of lanes, 1 where all sequences share them.

Nothing is inverted but triangles whose diagonal is at least one, so any of the noises may be singular and any prior
diffuse. With `L L^T = Cov(x_t | z_1..t-1)` lower triangular, `x_t = m_t + L eta_t` and `eta_t ~ N(0, I)`, a step is

    [I; H L] U = [U; V]             orthonormal columns    =>  Cov(eta_t | z_1..t) = U U^T, gain G = U V^T
    [A L U, chol_Q] = L' [K^T, E^T] orthonormal rows       =>  xi_t = K eta_{t+1} + .., e_{t+1} = E eta_{t+1} + ..

with `x_t = m_t + L (a_t + U xi_t)` and `a_t = G (z_t - H m_t)`; and backwards, with `M = U K` and `W = U (I - K K^T) U^T`,

    E[eta_t | z] = a_t + M E[eta_{t+1} | z]        Cov(eta_t | z) = W + M Cov(eta_{t+1} | z) M^T

whose factors are all contractions: no subtraction, no growth of rounding errors.

Source: Kailath, Sayed and Hassibi (2000), Linear Estimation, ch. 12, for array forms; Sarkka and Garcia-Fernandez (2021), IEEE
TAC 66, and Yaghoobi et al. (2022), arXiv:2207.00426, for the parallel one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.kernels.lanes import eye_like, lower_factor, scan_associative, shrink_factor, times, transpose


class System(NamedTuple):
    """The dynamics: A (n, n), chol_Q (n, n), m0 (n,), chol_P0 (n, n); factors lower triangular, possibly singular."""

    transition: Array
    chol_process: Array
    mean: Array
    chol_initial: Array


class Factors(NamedTuple):
    """The forward recursion's matrices, (T, ..., S) each, or one step of it without T; see the module's notation."""

    predicted: Array  # L (n, n)
    shrink: Array  # U (n, n)
    gain: Array  # G (n, k)
    log_det: Array  # log|U^{-1}|
    noise: Array  # E (n, n)
    pull: Array  # M (n, n)
    spread: Array  # W (n, n)
    closed: Array  # A (I - L G H) (n, n)
    inject: Array  # A L G (n, k)


def step(system: System, lower: Array, h: Array, go: Array) -> tuple[Array, Factors]:
    """One step of the forward recursion.

    Args:
        system: the dynamics.
        lower: (n, n, S) L of this step.
        h: (k, n, S) observation matrices, zero where nothing is observed.
        go: (S,) bool, whether there is a next step; if not, L stays.

    Returns:
        L of the next step, and the factors.
    """
    n = lower.shape[0]
    spare = (1,) * (lower.ndim - 2)
    a = system.transition.reshape(n, n, *spare)
    shrink, v, log_det = shrink_factor(times(h, lower))
    moved = times(a, times(lower, shrink))
    chol_q = jnp.broadcast_to(system.chol_process.reshape(n, n, *spare), moved.shape)
    following, rows = lower_factor(jnp.concatenate([moved, chol_q], 1))
    k = transpose(rows[:, :n])
    inject = times(moved, transpose(v))
    # The projection beside K twice over: as a difference I - K K^T would lose what a diffuse prior needs.
    rest = times(shrink, jnp.concatenate([eye_like(lower, n), jnp.zeros_like(lower)], 1) - times(k, rows))
    factors = Factors(
        predicted=lower,
        shrink=shrink,
        gain=times(shrink, transpose(v)),
        log_det=log_det,
        noise=transpose(rows[:, n:]),
        pull=times(shrink, k),
        spread=times(rest, transpose(rest)),
        closed=a - times(inject, h),
        inject=inject,
    )
    return jnp.where(go[None, None], following, lower), factors


def forward(system: System, h: Array, go: Array) -> tuple[Array, Factors]:
    """The forward recursion over all steps, h (T, k, n, S) and go (T, S): L of the step after, and the factors."""
    n = system.transition.shape[0]
    start = jnp.broadcast_to(system.chol_initial[:, :, None], (n, n, h.shape[-1]))
    return lax.scan(lambda lower, inputs: step(system, lower, *inputs), start, (h, go))


class Pair(NamedTuple):
    """Posterior covariances (n, n, ...) of a step and the next: of x_t, of e_{t+1} with x_t, and of e_{t+1}."""

    xx: Array
    ex: Array
    ee: Array


def pair(f: Factors, v: Array, told: Array, count: int = 1) -> Pair:
    """The pair's covariances from `v = Cov(eta_t)` and `told = I - Cov(eta_{t+1})`; sums of `count` of them from sums."""
    loading = times(f.predicted, f.pull)
    noise = times(f.noise, told)
    return Pair(
        times(times(f.predicted, v), transpose(f.predicted)),
        -times(noise, transpose(loading)),
        count * eye_like(v, v.shape[0]) - times(noise, transpose(f.noise)),
    )


def backward(f: Factors, go: Array, following: Array) -> tuple[Array, tuple[Array, Pair]]:
    """Backwards over all steps from Cov(eta) of the step after them: Cov(eta) of the first, and of all with their pairs."""

    def back(v_next: Array, inputs: tuple[Factors, Array]) -> tuple[Array, tuple[Array, Pair]]:
        f, go = inputs
        alone = times(f.shrink, transpose(f.shrink))
        v = jnp.where(go[None, None], f.spread + times(times(f.pull, v_next), transpose(f.pull)), alone)
        return v, (v, pair(f, v, eye_like(v, v.shape[0]) - v_next))

    return lax.scan(back, following, (f, go), reverse=True)


class Element(NamedTuple):
    """What a stretch of steps does: `x_after ~ N(A x_before + .., U U^T)`, and what it tells of x_before: precision Z Z^T."""

    a: Array
    u: Array
    z: Array


def combine(one: Element, two: Element) -> Element:
    """One stretch after another."""
    x = times(transpose(two.z), one.u)
    shrink, v, _ = shrink_factor(x)
    reach = times(one.u, shrink)
    through = one.a - times(reach, times(transpose(v), times(transpose(two.z), one.a)))
    told = times(times(transpose(one.a), two.z), shrink_factor(transpose(x))[0])
    return Element(
        times(two.a, through),
        lower_factor(jnp.concatenate([times(two.a, reach), two.u], 1))[0],
        lower_factor(jnp.concatenate([told, one.z], 1))[0],
    )


def elements_of(system: System, h: Array, into: Array) -> Element:
    """The elements of single steps, h (k, n, T, S) and into (1, 1, T, S): a move, if there is one, and an observation."""
    n = system.transition.shape[0]
    a, chol_q = (jnp.broadcast_to(m[:, :, None, None], (n, n, *h.shape[2:])) for m in system[:2])
    x, seen = times(h, chol_q), times(h, a)
    shrink, v, _ = shrink_factor(x)
    told = times(transpose(seen), shrink_factor(transpose(x))[0])
    told = jnp.concatenate([told, jnp.zeros((n, n - told.shape[1], *told.shape[2:]), told.dtype)], 1)
    reach = times(chol_q, shrink)
    through = a - times(reach, times(transpose(v), seen))
    return Element(jnp.where(into, through, eye_like(h, n)), jnp.where(into, reach, 0), jnp.where(into, told, 0))


def forward_associative(system: System, h: Array, go: Array) -> tuple[None, Factors]:
    """`forward` by an associative scan over filtered factors; the rest follows for all steps at once."""
    h = jnp.moveaxis(h, 0, 2)
    lift = lambda m: jnp.broadcast_to(m.reshape(*m.shape, 1, 1), (*m.shape, *h.shape[2:]))  # noqa: E731
    start = step(system, lift(system.chol_initial)[:, :, 0], h[:, :, 0], go[0])[1]
    zero = jnp.zeros_like(start.shrink)
    elements = elements_of(system, h, jnp.concatenate([go[:1], go[:-1]])[None, None])
    first = Element(zero, times(start.predicted, start.shrink), zero)
    elements = jax.tree.map(lambda e, f: e.at[:, :, 0].set(f), elements, first)
    unit = Element(eye_like(zero, len(zero))[:, :, None], zero[:, :, None], zero[:, :, None])
    filtered = scan_associative(combine, unit, elements).u[:, :, :-1]
    chol_q = lift(system.chol_process)[:, :, 1:]
    moved = jnp.concatenate([times(lift(system.transition)[:, :, 1:], filtered), chol_q], 1)
    lower = jnp.concatenate([start.predicted[:, :, None], lower_factor(moved)[0]], 2)
    return None, jax.tree.map(lambda a: jnp.moveaxis(a, -2, 0), step(system, lower, h, go)[1])


def backward_associative(f: Factors, go: Array, following: Array) -> tuple[None, tuple[Array, Pair]]:
    """`backward` by an associative scan; nothing follows the last step."""
    f = jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2), f)
    go = go[None, None]

    def join(later: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[Array, Array]:
        return times(now[0], later[0]), now[1] + times(times(now[0], later[1]), transpose(now[0]))

    moves = jnp.where(go, f.pull, 0), jnp.where(go, f.spread, times(f.shrink, transpose(f.shrink)))
    zero = jnp.zeros_like(following)[:, :, None]
    v = scan_associative(join, (eye_like(zero, len(zero)), zero), moves, reverse=True)[1]
    pairs = pair(f, v, eye_like(v, len(zero)) - jnp.concatenate([v[:, :, 1:], zero], 2))
    return None, jax.tree.map(lambda a: jnp.moveaxis(a, -2, 0), (v, pairs))

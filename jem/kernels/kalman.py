"""Linear-Gaussian state space: filter and smoother in whitened square-root form; sequential, steady, or parallel in time.

`x_t = A x_{t-1} + drift_t + chol_Q e_t`, `x_1 = m0 + chol_P0 eta_1`, `z_t = H_t x_t + v_t`, with e, eta_1, v standard normal.
Matrices lead and lanes (sequences) come last: (n, n, S), with time in front where a scan runs over it: (T, n, n, S). The
covariance recursions have their own number of lanes, 1 where all sequences share them.

Nothing is inverted but triangles whose diagonal is at least one, so any of the noises may be singular and any prior
diffuse. With `L L^T = Cov(x_t | z_1..t-1)` lower triangular, `x_t = m_t + L eta_t` and `eta_t ~ N(0, I)`, a step is

    [I; H L] = [U^{-1}; .]              orthogonal columns U, V     =>  Cov(eta_t | z_1..t) = U U^T, gain G = U V^T
    [A L U, chol_Q] = L' [K^T, E^T]     orthonormal rows            =>  xi_t = K eta_{t+1} + .., e_{t+1} = E eta_{t+1} + ..

with `x_t = m_t + L (G (z_t - H m_t) + U xi_t)`. Backwards, with `M = U K`, `W = U (I - K K^T) U^T` and `a_t = G (z_t - H m_t)`,

    E[eta_t | z] = a_t + M E[eta_{t+1} | z]        Cov(eta_t | z) = W + M Cov(eta_{t+1} | z) M^T

whose factors are all contractions: no subtraction, no growth of rounding errors.

Source: Kailath, Sayed and Hassibi (2000), Linear Estimation, ch. 12, for array forms; Sarkka and Garcia-Fernandez (2021), IEEE
TAC 66, and Yaghoobi et al. (2022), arXiv:2207.00426, for the parallel one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

_UNROLL = 8  # dimensions up to which loops over rows are straight-line code, which XLA compiles into one native scan


@dataclasses.dataclass(frozen=True)
class Sequential:
    """One scan forward and one back over all T steps."""


@dataclasses.dataclass(frozen=True)
class Steady:
    """As `Sequential`, with the covariances held constant once they are.

    They are iterated for `head` steps from either end. Where nothing is missing, all sequences are of full length and both
    iterations have come to rest at the rounding level, the steps between have the constants; where not, all is computed.
    Under a vmap over parameters both are computed and one is taken.

    Attributes:
        head: steps after which to look; sequences shorter than three times this are computed in full.
    """

    head: int = 512


@dataclasses.dataclass(frozen=True)
class Associative:
    """Associative scans: about 2 log2(T) rounds of larger steps. For accelerators; compiles slowly."""


@dataclasses.dataclass(frozen=True)
class Automatic:
    """`Steady` where sequences are long enough for it, else `Sequential`; on an accelerator, `Associative` for few long ones."""


Form = Sequential | Steady | Associative | Automatic


def choose(form: Form, steps: int, lanes: int) -> Sequential | Steady | Associative:
    """The form to use for T steps and S sequences on this backend."""
    if isinstance(form, Automatic):
        if jax.default_backend() != "cpu" and steps >= 256 and lanes <= 64:
            return Associative()
        form = Steady()
    if isinstance(form, Steady) and steps < 3 * form.head:
        return Sequential()
    return form


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


def transpose(a: Array) -> Array:
    """Of the matrices in the two leading axes."""
    return jnp.swapaxes(a, 0, 1)


def times(a: Array, b: Array) -> Array:
    """Matrix products over lanes: (i, j, ...) by (j, k, ...)."""
    if a.shape[1] > _UNROLL:
        return jnp.einsum("ij...,jk...->ik...", a, b)
    return sum((a[:, j, None] * b[None, j] for j in range(1, a.shape[1])), start=a[:, 0, None] * b[None, 0])


def apply(a: Array, x: Array) -> Array:
    """Matrices (i, j, ...) by vectors (j, ...)."""
    return times(a, x[:, None])[:, 0]


def eye_like(a: Array, dim: int) -> Array:
    """Identities (dim, dim, ...) with the lanes of a."""
    eye = jnp.eye(dim, dtype=a.dtype).reshape(dim, dim, *(1,) * (a.ndim - 2))
    return jnp.broadcast_to(eye, (dim, dim, *a.shape[2:]))


def lower_factor(x: Array) -> tuple[Array, Array]:
    """`x = L Q` with L (n, n, ...) lower triangular and Q (n, r, ...) with orthonormal rows, for x (n, r, ...).

    Gram-Schmidt with every row projected twice, which keeps Q orthonormal to rounding. A row that depends on those before it
    has a zero on the diagonal of L and a row of zeros in Q.

    Source: Giraud, Langou and Rozloznik (2005), "twice is enough".
    """
    n = x.shape[0]
    tolerance = (8 * jnp.finfo(x.dtype).eps) ** 2

    def new_row(q: Array, v: Array) -> tuple[Array, Array, Array]:
        size = jnp.sum(v * v, 0)
        first = jnp.sum(q * v[None], 1)
        v = v - jnp.sum(q * first[:, None], 0)
        second = jnp.sum(q * v[None], 1)
        v = v - jnp.sum(q * second[:, None], 0)
        square = jnp.sum(v * v, 0)
        independent = square > tolerance * size
        norm = jnp.where(independent, jnp.sqrt(jnp.where(independent, square, 1)), 0)
        return first + second, norm, v * jnp.where(independent, 1 / jnp.where(independent, norm, 1), 0)[None]

    if n > _UNROLL:

        def body(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            lower, q = carry
            row, norm, new = new_row(q, lax.dynamic_index_in_dim(x, j, 0, keepdims=False))
            at_j = (jnp.arange(n) == j).reshape(n, *(1,) * (row.ndim - 1))
            return lower.at[j].set(jnp.where(at_j, norm[None], row)), q.at[j].set(new)

        return lax.fori_loop(0, n, body, (jnp.zeros_like(x, shape=(n, n, *x.shape[2:])), jnp.zeros_like(x)))
    lower, q = [], x[:0]
    for j in range(n):
        row, norm, new = new_row(q, x[j])
        zeros = jnp.zeros_like(norm, shape=(n - 1 - j, *norm.shape))
        lower.append(jnp.concatenate([row, norm[None], zeros]))
        q = jnp.concatenate([q, new[None]])
    return jnp.stack(lower), q


def shrink_factor(x: Array) -> tuple[Array, Array, Array]:
    """For x (k, n, ...): U (n, n, ...) upper triangular with `U U^T = (I + x^T x)^{-1}`, `x U`, and `log|U^{-1}|`.

    The columns of [I; x] are orthogonalised; each keeps a norm of at least one.
    """
    k, n = x.shape[:2]
    w = jnp.concatenate([eye_like(x, n), x])

    def column(w: Array, c: Array) -> tuple[Array, Array, Array]:
        square = jnp.sum(c * c, 0)
        q = c * lax.rsqrt(square)[None]
        return q, jnp.sum(q[:, None] * w, 0), square

    if n > _UNROLL:

        def body(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            w, log_det = carry
            q, row, square = column(w, lax.dynamic_index_in_dim(w, j, 1, keepdims=False))
            index = jnp.arange(n).reshape(n, *(1,) * (row.ndim - 1))
            w = w - q[:, None] * jnp.where(index > j, row, 0)[None]
            return w.at[:, j].set(q), log_det + 0.5 * jnp.log(square)

        w, log_det = lax.fori_loop(0, n, body, (w, jnp.zeros_like(x[0, 0])))
        return w[:n], w[n:], log_det
    columns, squares = [], []
    for j in range(n):
        q, row, square = column(w[:, 1:], w[:, 0])
        w = w[:, 1:] - q[:, None] * row[None]
        columns.append(q)
        squares.append(square)
    q = jnp.stack(columns, 1)
    return q[:n], q[n:], 0.5 * sum((jnp.log(s) for s in squares[1:]), start=jnp.log(squares[0]))


def step(system: System, lower: Array, h: Array, go: Array) -> tuple[Array, Factors]:
    """One step of the forward recursion.

    Args:
        system: the dynamics.
        lower: (n, n, S) L of this step.
        h: (k, n, S) observation matrices, zero where nothing is observed.
        go: (S,) bool, whether there is a next step; if not, L stays and nothing comes back from it.

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
    rows = jnp.where(go[None, None], rows, 0)
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


def forward(system: System, h: Array, go: Array) -> Factors:
    """The forward recursion over all steps: h (T, k, n, S), go (T, S)."""
    n = system.transition.shape[0]
    start = jnp.broadcast_to(system.chol_initial[:, :, None], (n, n, h.shape[-1]))
    return lax.scan(lambda lower, inputs: step(system, lower, *inputs), start, (h, go))[1]


def backward(spread: Array, pull: Array, last: Array) -> Array:
    """Cov(eta_t | z) of all steps from their W and M (T, n, n, S), and Cov(eta) of the step after them."""

    def back(v: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        w, m = inputs
        v = w + times(times(m, v), transpose(m))
        return v, v

    return lax.scan(back, last, (spread, pull), reverse=True)[1]


def recur(a: Array, b: Array, start: Array, reverse: bool = False) -> Array:
    """All `y_t = a_t y_{t-1} + b_t` (T, n, S) from `start` = y_0 (n, S); a is (T, n, n, S), or (n, n, S) for all steps."""

    def move(y: Array, inputs: Any) -> tuple[Array, Array]:
        y = apply(a, y) + inputs if a.ndim == 3 else apply(inputs[0], y) + inputs[1]
        return y, y

    return lax.scan(move, start, b if a.ndim == 3 else (a, b), reverse=reverse)[1]

"""What one asks of a state-space model's trajectories: filtered, smoothed and future states, draws. Units last inside."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import ndtri

from jem.kernels import kalman, lanes, regression, riccati
from jem.kernels.lanes import times, transpose
from jem.settings import check_level


class Filtered(NamedTuple):
    """States given the observations so far: mean (S, T, n), covariance (S, T, n, n)."""

    mean: Array
    covariance: Array


class Smoothed(NamedTuple):
    """States given all observations.

    Attributes:
        mean: (S, T, n).
        covariance: (S, T, n, n).
        lag_one: (S, T - 1, n, n), `Cov(x_{t+1}, x_t)`.
    """

    mean: Array
    covariance: Array
    lag_one: Array


class Forecast(NamedTuple):
    """What comes after each sequence, h steps of it.

    Attributes:
        mean: (S, h, M) of the observations.
        covariance: (S, h, M, M).
        state_mean: (S, h, n).
        state_covariance: (S, h, n, n).
    """

    mean: Array
    covariance: Array
    state_mean: Array
    state_covariance: Array

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Lower and upper ends (S, h, M) of intervals that hold each observation with probability `level`, between 0 and 1."""
        check_level(level, "interval: level")
        deviation = jnp.sqrt(jnp.diagonal(self.covariance, axis1=-2, axis2=-1))
        reach = ndtri(jnp.asarray(0.5 + 0.5 * level, deviation.dtype)) * deviation
        return self.mean - reach, self.mean + reach


Dynamics = tuple[riccati.System, Array, Array]


def trajectory(dynamics: Dynamics, h: Array, z: Array) -> tuple[riccati.Factors, Array, Array]:
    """The factors of all steps and the means before each step's observation and given all, (T, n, S)."""
    system, drift, go = dynamics
    factors = riccati.forward(system, h, go)[1]
    segments = [kalman.Segment(0, z.shape[0], factors, h)]
    predicted, mean, _, _ = kalman.smooth_means(segments, z, drift, go, system.mean, lanes.recur)
    return factors, predicted, mean


def filtered(model: Any, params: Any, dynamics: Dynamics, h: Array, z: Array, within: Array) -> Filtered:
    """See `LDS.filter`."""
    f, predicted, _ = trajectory(dynamics, h, z)
    news = lanes.apply_all(f.gain, z - lanes.apply_all(h, predicted))
    root = jax.vmap(times)(f.predicted, f.shrink)
    covariance = jax.vmap(lambda a: times(a, transpose(a)))(root)
    return Filtered(mark(predicted + lanes.apply_all(f.predicted, news), within), mark(covariance, within))


def smoothed(model: Any, params: Any, dynamics: Dynamics, h: Array, z: Array, within: Array) -> Smoothed:
    """See `LDS.smooth`."""
    system, _, go = dynamics
    f, _, mean = trajectory(dynamics, h, z)
    _, (_, pairs) = riccati.backward(f, go, jnp.zeros_like(f.spread[0]))
    spread = lambda a, x: jnp.einsum("ij,tjks->tiks", a, x)  # noqa: E731
    lag_one = spread(system.transition, pairs.xx) + spread(system.chol_process, pairs.ex)
    return Smoothed(mark(mean, within), mark(pairs.xx, within), mark(lag_one, go)[:-1])


def mark(a: Array, within: Array) -> Array:
    """NaN outside of sequences; a is (T, ..., S)."""
    return jnp.where(within.reshape(len(within), *(1,) * (a.ndim - 2), -1), a, jnp.nan)


def forecast(
    model: Any, params: Any, dynamics: Dynamics, h: Array, z: Array, within: Array, inputs: Array
) -> Forecast:
    """See `LDS.forecast`; inputs (h, p, S)."""
    system = dynamics[0]
    now = filtered(model, params, dynamics, h, z, within)
    last = jnp.sum(within, 0) - 1
    pick = lambda a: jnp.take_along_axis(a, last.reshape(*(1,) * (a.ndim - 1), -1), 0)[0]  # noqa: E731
    lift = lambda a: a[:, :, None]  # noqa: E731
    a, c = lift(system.transition), lift(params.C)
    chol_R = regression.matrix_of(model.R, params.chol_R)
    noises = lift(system.chol_process @ system.chol_process.T), lift(chol_R @ chol_R.T)

    def move(state: tuple[Array, Array], u: Array) -> tuple[tuple[Array, Array], Forecast]:
        mean = lanes.apply(a, state[0]) + params.B @ u
        covariance = times(times(a, state[1]), transpose(a)) + noises[0]
        seen = times(times(c, covariance), transpose(c)) + noises[1]
        return (mean, covariance), Forecast(lanes.apply(c, mean) + params.D @ u, seen, mean, covariance)

    return lax.scan(move, (pick(now.mean), pick(now.covariance)), inputs.astype(z.dtype))[1]


def draw(
    key: Array, system: riccati.System, drift: Array, loading: Array, effect: Array, chol_R: Array
) -> tuple[Array, Array]:
    """States (T, n, S) and observations (T, M, S); drift adds to the next state, effect to the observation."""
    first_key, state_key, noise_key = jax.random.split(key, 3)
    start = system.mean[:, None] + system.chol_initial @ jax.random.normal(first_key, drift.shape[1:], drift.dtype)

    def move(x: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        drift, e = inputs
        return system.transition @ x + drift + system.chol_process @ e, x

    states = lax.scan(move, start, (drift, jax.random.normal(state_key, drift.shape, drift.dtype)))[1]
    noise = jax.random.normal(noise_key, effect.shape, effect.dtype)
    mix = lambda a, x: jnp.einsum("ij,tjs->tis", a, x)  # noqa: E731
    return states, mix(loading, states) + effect + mix(chol_R, noise)

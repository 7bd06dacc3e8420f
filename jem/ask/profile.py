"""Profile-likelihood intervals: right where standard errors are not, as near the edge of a domain."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem.ask.asking import asked as asked_about
from jem.ask.errors import judged
from jem.ask.information import Oakes
from jem.ask.polish import InformationStatus, ask
from jem.backend import precise
from jem.engine.score import Curvature, Target, level, observed_information, params_at
from jem.kernels.spectral import least_squares
from jem.node import Data, Node, Params
from jem.settings import check_level

_STEPS = 60
_NOWHERE = (InformationStatus.NOT_AT_MAXIMUM, InformationStatus.NONFINITE)  # from which no interval starts


class ProfileInterval(NamedTuple):
    """Ends of an interval, and whether they were found; numbers are scalars () but for `found`.

    Attributes:
        estimate: the function at the maximum.
        low: lower end; NaN where it was not found.
        high: upper end, likewise.
        found: (2,) bool. An end is not found where the profile does not fall far enough before the edge of the domain, and
            neither is where the parameters are not at a maximum.
        params: parameters at both ends, leading axis 2.
        status: int code of `jem.uncertainty.InformationStatus` at the parameters given.
    """

    estimate: Array
    low: Array
    high: Array
    found: Array
    params: Any
    status: Array

    def check(self) -> "ProfileInterval":
        """Returns itself where the parameters are at a maximum, and raises `FitError` otherwise. Not for use inside jit."""
        if int(np.asarray(self.status)) in _NOWHERE:
            InformationStatus.check(self.status, InformationStatus.REGULAR)
        return self


def profile_interval(
    fn: Callable[[Params], Array], node: Node, params: Params, x: Data, weights: Array | None = None, *,
    confidence: Any = 0.95,
) -> ProfileInterval:  # fmt: skip
    """The values of a function of the parameters that a likelihood-ratio test does not reject.

    Ends of `{ fn(theta) : 2 (l(theta_hat) - l(theta)) <= q }`, q the quantile of chi-squared with one degree of freedom, l
    the objective. At an end the gradient of l is a multiple of that of fn: Newton steps on both equations at once.

    Args:
        fn: from parameters to a scalar; keep one function object, a new one is a new program.
        node: the model.
        params: parameters at the maximum.
        x: data with N rows.
        weights: (N,) or None.
        confidence: between 0 and 1.

    Returns:
        A `ProfileInterval`.

    Raises:
        ValueError: `fn` does not return a scalar.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Poisson.Params(jnp.array([2.5]))
        >>> ends = jem.uncertainty.profile_interval(lambda p: p.rate[0], jem.Poisson(), p, [[1], [4]])
        >>> round(float(ends.low), 2), round(float(ends.high), 2)
        (0.9, 5.37)

    Source: Venzon and Moolgavkar (1988), JRSS C 37.
    """
    params, x, weights = asked_about(node, params, x, weights)
    shape = jax.eval_shape(fn, params).shape
    if shape != ():
        raise ValueError(f"profile_interval: fn must return a scalar; got the shape {shape}; profile one number at a time")
    check_level(confidence, "profile_interval: confidence")
    return _profile(fn, node, params, x, weights, jnp.asarray(confidence, float))


@functools.partial(jax.jit, static_argnums=0)
@precise
def _profile(
    fn: Callable[[Params], Array], model: Node, params: Params, x: Data, weights: Array | None, confidence: Array
) -> ProfileInterval:
    asked = ask(Oakes(), model, params, x, weights)
    t, z, c, status = asked.target, asked.z, asked.curvature, judged(asked)[2]
    top = level(t, z).objective
    depth = _chi_squared_quantile(confidence).astype(z.dtype)
    ends, found = lax.map(lambda side: _end(t, fn, z, top, c, depth, side), jnp.array([-1.0, 1.0], z.dtype))
    found = found & jnp.all(status != jnp.array(_NOWHERE))
    value = lambda z: fn(params_at(t, z))
    values = jnp.where(found, lax.map(value, ends), jnp.nan)
    return ProfileInterval(value(z), values[0], values[1], found, lax.map(lambda z: params_at(t, z), ends), status)


class _Search(NamedTuple):
    step: Array
    z: Array
    multiplier: Array
    gap: Array  # of the objective to where it should be
    slope: Array  # of the Lagrangian, in standard errors


def _end(
    t: Target, fn: Callable[[Params], Array], start: Array, top: Array, c: Curvature, depth: Array, side: Array
) -> tuple[Array, Array]:
    """Free coordinates of one end, and whether it is one."""
    value = lambda z: fn(params_at(t, z))
    gradient = jax.grad(value)
    direction = c.ascend(gradient(start))
    spread = jnp.sqrt(gradient(start) @ direction)
    depth_root = jnp.sqrt(depth)

    def body(s: _Search) -> _Search:
        here, g = level(t, s.z), gradient(s.z)
        along = here.score - s.multiplier * g
        gap = here.objective - (top - 0.5 * depth)
        block = -observed_information(t, s.z) - s.multiplier * jax.hessian(value)(s.z)
        matrix = jnp.concatenate(
            [jnp.concatenate([block, -g[:, None]], 1), jnp.append(here.score, 0)[None, :]], 0
        )
        # In units of standard errors, so that neither equations nor unknowns differ in size.
        scale = jnp.append(jnp.sqrt(jnp.maximum(jnp.sum(c.basis**2, 1), jnp.finfo(g.dtype).tiny)), 1 / spread)
        right = scale * jnp.append(-along, -gap)
        move = scale * least_squares(scale[:, None] * matrix * scale[None, :], right)
        length = jnp.max(jnp.abs(move[:-1] / scale[:-1]))
        shorter = jnp.where(length > 1, 1 / length, 1)
        slope = jnp.sqrt(jnp.maximum(c.ascend(along) @ along, 0))
        return _Search(s.step + 1, s.z + shorter * move[:-1], s.multiplier + shorter * move[-1], gap, slope)

    def going(s: _Search) -> Array:
        return (s.step < _STEPS) & ~_arrived(s, top) & jnp.all(jnp.isfinite(s.z))

    far = jnp.array(jnp.inf, start.dtype)
    first = _Search(
        jnp.array(0), start + side * depth_root * direction / spread, -side * depth_root / spread, far, far
    )
    end = lax.while_loop(going, body, first)
    right_side = side * (value(end.z) - value(start)) >= 0
    return end.z, _arrived(end, top) & right_side


def _arrived(s: _Search, top: Array) -> Array:
    tolerance = jnp.sqrt(jnp.finfo(top.dtype).eps)
    return (jnp.abs(s.gap) <= tolerance * jnp.maximum(jnp.abs(top), 1) ** 0.5) & (s.slope <= 1e3 * tolerance)


def _chi_squared_quantile(level: Array) -> Array:
    """Of one degree of freedom: the square of a normal quantile."""
    return jax.scipy.stats.norm.ppf(0.5 + 0.5 * level) ** 2

"""The score: what vanishes at a fixed point of EM, and the information, which says how it changes around one.

    F(z) = d/dz' [ Q(z' | z) + log p(z') ]  at z' = z,        I(z) = - dF/dz,        z the free coordinates.

By Fisher's identity F is the gradient of the objective where the E-step is exact, and by Oakes' its derivative, taken
through the E-step, is the Hessian. Nothing is differentiated twice but Q, and the M-step is not differentiated at all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.backend import precise
from jem.coordinates import constrain, ravel, unconstrain, unravel
from jem.data import row_weights, to_units, used_rows
from jem.engine.step import e_step, e_step_chunk
from jem.engine.stream import Chunks, chunk_size, fold, lay_out, unit_bytes
from jem.kernels.spectral import eigh, right_singular
from jem.kernels.sums import in_batches
from jem.kernels.support import HeldCells, Simplex
from jem.node import Data, Node, Params, Stats, has_local_q, keep_units

TOGETHER = 16  # directions in which the score is differentiated at once


class Target(NamedTuple):
    """A model bound to its data, and parameters whose values stand for what its coordinates do not move."""

    model: Node
    data: Chunks
    like: Params
    total_weight: Array


class Level(NamedTuple):
    """What one E-step says: the score (n,), the objective, the log-likelihood and the statistics."""

    score: Array
    objective: Array
    log_likelihood: Array
    stats: Stats


@jax.jit
@precise
def target(model: Node, x: Data, weights: Array | None, like: Params) -> Target:
    """Binds a model to rows and lays them out. It can be differentiated in all it is given but `like`.

    A row of weight 0 is not looked at: its derivatives are zero.
    """
    x = used_rows(x, weights)
    weights = row_weights(x, weights)
    weights = jnp.where(weights > 0, weights, 0)
    model = model.bind(to_units(x), weights)
    like = _rounded(model, lax.stop_gradient(like))
    per_unit = unit_bytes(lambda x, w: e_step_chunk(model, like, x, w), x, weights)
    data = lay_out(x, weights, chunk_size(per_unit * TOGETHER, weights.shape[0]))
    return Target(model, data, _held_by_model(model, data, like), jnp.sum(weights))


def _rounded(model: Node, like: Params) -> Params:
    """`like` with what lies at the very edge of its domain put where free coordinates and slopes there are finite."""
    return jax.tree.map(lambda support, value: support.inside(value), model.supports(like), like)


def _held_by_model(model: Node, data: Chunks, like: Params) -> Params:
    """`like` with the cells that the model itself holds in place, as its M-step puts them there: they may be differentiated."""
    supports = model.supports(like)
    if not any(isinstance(s, HeldCells) or (isinstance(s, Simplex) and s.held is not None) for s in jax.tree.leaves(supports)):
        return like
    stats, _ = lax.stop_gradient(e_step(model, like, data))
    return constrain(model, unconstrain(model, like), model.maximize(like, stats))


def start_of(t: Target) -> Array:
    """Free coordinates (n,) of the parameters that the target was made with."""
    return ravel(t.model, t.like)


def params_at(t: Target, z: Array) -> Params:
    """Parameters at free coordinates (n,)."""
    return unravel(t.model, z, t.like)


def natural(t: Target, z: Array) -> Array:
    """All parameters as one vector (p,)."""
    return flat(params_at(t, z))


def flat(params: Params) -> Array:
    """The leaves of a record as one vector (p,)."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])


@jax.jit
@precise
def level(t: Target, z: Array) -> Level:
    """One E-step at z."""
    params = params_at(t, z)
    stats, log_likelihood = e_step(t.model, params, t.data)
    score = jax.grad(lambda new: _climbed(t, new, stats, params))(z)
    prior = t.model.log_prior(params).astype(log_likelihood.dtype)
    return Level(score, log_likelihood + prior, log_likelihood, stats)


def _climbed(t: Target, z: Array, stats: Stats, old: Params) -> Array:
    new = params_at(t, z)
    return t.model.expected_log_prob(new, stats, old) + t.model.log_prior(new)


def columns(fn: Any, size: int, dtype: Any) -> Array:
    """The matrix (m, size) of a linear map, a few directions at a time."""
    return in_batches(fn, jnp.eye(size, dtype=dtype), TOGETHER).T


def observed_information(t: Target, z: Array) -> Array:
    """I(z), (n, n): minus the derivative of the score, prior included.

    Source: Oakes (1999), JRSS B 61.
    """
    push = lambda direction: jax.jvp(lambda z: level(t, z).score, (z,), (direction,))[1]
    matrix = -columns(push, z.shape[0], z.dtype)
    return 0.5 * (matrix + matrix.T)


def complete_information(t: Target, z: Array, stats: Stats) -> Array:
    """Minus the second derivative of Q + log p with the posterior as it is at z, where the statistics were gathered, (n, n)."""
    params = params_at(t, z)
    gradient = jax.grad(lambda new: _climbed(t, new, stats, params))
    if has_local_q(t.model):
        gradient = _gradient_by_units(t, params)
    matrix = -columns(lambda direction: jax.jvp(gradient, (z,), (direction,))[1], z.shape[0], z.dtype)
    return 0.5 * (matrix + matrix.T)


def _gradient_by_units(t: Target, old: Params) -> Callable[[Array], Array]:
    """The gradient of Q + log p at any coordinates, of statistics that give it nowhere but where they were gathered."""
    kept = keep_units(t.model)

    def gradient(z: Array) -> Array:
        def chunk(x: Any, weights: Array) -> Array:
            stats = kept.expect(old, kept.infer(old, x)[0], x, weights)
            return jax.grad(lambda z: kept.expected_log_prob(params_at(t, z), stats, old))(z)

        return fold(chunk, t.data) + jax.grad(lambda z: t.model.log_prior(params_at(t, z)))(z)

    return gradient


class Curvature(NamedTuple):
    """The information in coordinates in which the complete-data information is about one: `basis^T I basis = diag(values)`.

    Attributes:
        basis: (n, n).
        values: (n,) about 1 - the fraction of missing information; 1 for coordinates that move no parameter, where the basis
            is zero.
        tolerance: values up to it, in absolute value, count as zero.
    """

    basis: Array
    values: Array
    tolerance: Array

    @property
    def num_flat(self) -> Array:
        """Number of directions that the data say nothing about."""
        return jnp.sum(jnp.abs(self.values) <= self.tolerance)

    @property
    def num_rising(self) -> Array:
        """Number of directions in which the objective curves upwards."""
        return jnp.sum(self.values < -self.tolerance)

    def solve(self, b: Array) -> Array:
        """`I^+ b`: of all solutions, where there are many, the shortest in units of the complete-data information."""
        return self._apply(b, self.values)

    def ascend(self, b: Array, more: Any = 0) -> Array:
        """The same with every curvature taken as downwards, and `more`: a direction in which the objective rises."""
        return self._apply(b, jnp.abs(self.values) + more)

    def _apply(self, b: Array, values: Array) -> Array:
        used = jnp.abs(values) > self.tolerance
        return self.basis @ (jnp.where(used, 1 / jnp.where(used, values, 1), 0) * (b @ self.basis))


def curvature(t: Target, z: Array, stats: Stats) -> Curvature:
    """The information at z, where the statistics were gathered, taken apart."""
    observed = observed_information(t, z)
    # A scale is all that is asked for here, and not worth further passes over the data.
    return take_apart(t, z, observed, observed if has_local_q(t.model) else complete_information(t, z, stats))


def take_apart(t: Target, z: Array, observed: Array, complete: Array) -> Curvature:
    """`Curvature` of an information matrix at z.

    Coordinates that move no parameter, as those of a probability of zero, are no part of it. The others are scaled by the
    complete-data information, where it is larger than the observed.
    """
    eps = jnp.finfo(z.dtype).eps
    theta = natural(t, z)
    moves = jax.jacfwd(lambda z: natural(t, z))(z) / (1 + jnp.abs(theta))[:, None]
    size, v = right_singular(moves)
    live = size > 32 * eps * jnp.max(size, initial=0.0)
    observed, complete = v.T @ observed @ v, v.T @ complete @ v
    diagonal = jnp.maximum(jnp.abs(jnp.diagonal(observed)), jnp.diagonal(complete))
    floor = eps * jnp.max(jnp.where(live, diagonal, 0), initial=0.0)
    scale = jnp.where(live, 1 / jnp.sqrt(jnp.maximum(diagonal, jnp.where(floor > 0, floor, 1))), 0)
    scaled = observed * scale[:, None] * scale[None, :] + jnp.diag(jnp.where(live, 0.0, 1.0).astype(z.dtype))
    values, u = eigh(scaled)
    return Curvature((v * scale[None, :]) @ u, values, jnp.asarray(eps ** (2 / 3), z.dtype))

"""Q over the free coordinates that go by gradient: its value, gradient and curvature, from statistics or from units."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jem.engine.step import Evaluated
from jem.engine.stop import scale
from jem.kernels.support import ByGradient, Held
from jem.node import Node, Params, has_local_q, keep_units


class Surface(NamedTuple):
    """Q + log prior per unit weight over the free coordinates of the block, less its value at the start.

    Attributes:
        value: from free coordinates to a scalar; it can be differentiated.
        value_and_gradient: both at once.
        curvature: minus the Hessian times directions (m, n), (m, n).
        blind: what rounding may hide of the value; below it the slope is asked, which is of its own size.
    """

    value: Callable[[Any], Array]
    value_and_gradient: Callable[[Any], tuple[Array, Any]]
    curvature: Callable[[Any, Array], Array]
    blind: Array


def surface_of(model: Node, seen: Evaluated, block: Any, base: Params, weight: Array) -> Surface:
    """Q from the statistics where these give it at any parameters, else from the units, in chunks."""
    local = has_local_q(model)
    kept = keep_units(model)
    data = seen.total.data

    def q(model: Node, stats: Any, free: Any) -> Array:
        new = model.expected_log_prob(constrain_block(block, free, base), stats, seen.params)
        return new - model.expected_log_prob(base, stats, seen.params)

    def gather(x: Any, weights: Array) -> Any:
        posterior, _ = kept.infer(seen.params, x)
        return kept.expect(seen.params, posterior, x, weights)

    # Of a single chunk the posterior is worked out once; of several it would take memory for all units.
    whole = gather(*jax.tree.map(lambda leaf: leaf[0], data)) if local and data.weights.shape[0] == 1 else None

    def total(fn: Callable[[Node, Any], Any]) -> Any:
        if not local:
            return fn(model, seen.stats)
        if whole is not None:
            return seen.total.reduce(fn(kept, whole))
        return seen.total(lambda x, weights: fn(kept, gather(x, weights)))

    def prior(free: Any) -> Array:
        return model.log_prior(constrain_block(block, free, base)) - model.log_prior(base)

    @jax.custom_vjp
    def value(free: Any) -> Array:
        return (total(lambda node, stats: q(node, stats, free)) + prior(free)) / weight

    def value_and_gradient(free: Any) -> tuple[Array, Any]:
        # Chunk by chunk, so that no chunk's intermediates wait for the others.
        of_units = total(lambda node, stats: jax.value_and_grad(lambda f: q(node, stats, f))(free))
        return jax.tree.map(lambda a, b: (a + b) / weight, of_units, jax.value_and_grad(prior)(free))

    def curvature(free: Any, directions: Array) -> Array:
        z, unravel = ravel_pytree(free)

        def rows(fn: Callable[[Any], Array]) -> Array:
            # One direction at a time: a user's factorisations are not batched further.
            gradient = lambda z: jax.grad(lambda z: fn(unravel(z)))(z)  # noqa: E731
            return lax.map(lambda e: jax.jvp(gradient, (z,), (e,))[1], directions)

        return -(total(lambda node, stats: rows(lambda f: q(node, stats, f))) + rows(prior)) / weight

    value.defvjp(value_and_gradient, lambda gradient, up: (jax.tree.map(lambda g: up * g, gradient),))
    eps = jnp.finfo(seen.objective.dtype).eps
    return Surface(value, value_and_gradient, curvature, eps**0.5 * scale(seen.objective, weight) / weight)


def block_of(model: Node, params: Params) -> Any:
    """Supports with everything held but what goes by gradient; where that is nothing, all of it goes."""
    supports = model.supports(params)
    if not any(isinstance(s, ByGradient) for s in jax.tree.leaves(supports)):
        return supports
    return jax.tree.map(lambda s: s if isinstance(s, ByGradient) else Held(), supports)


def unconstrain_block(block: Any, params: Params) -> Any:
    """Free coordinates of what goes by gradient; those of what is held are empty."""
    return jax.tree.map(lambda support, value: support.unconstrain(value), block, params)


def constrain_block(block: Any, free: Any, like: Params) -> Params:
    """Parameters at free coordinates of the block, the rest as in `like`."""
    return jax.tree.map(lambda support, f, value: support.constrain(f, value), block, free, like)

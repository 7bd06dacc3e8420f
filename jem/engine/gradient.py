"""Generalised EM: closed forms where there are any, and gradient steps on Q, safeguarded, for the rest."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem import tree
from jem.engine.step import Evaluated, Solver, Standing
from jem.engine.stop import rounding
from jem.kernels.support import ByGradient, Held
from jem.node import Node, Params, has_local_q, keep_units, node, set_once, static

_RISE = 1e-4  # the part of the gain promised by the slope that a step must make (Armijo)


class GEMState(NamedTuple):
    """What is carried from one M-step to the next.

    Attributes:
        optimizer: the optimiser's own state.
        scale: factor on its steps, at most 1: halved where Q fell, doubled again where it did not.
        refused: steps refused so far.
        stalled: whether the last M-step refused one.
    """

    optimizer: Any
    scale: Array
    refused: Array
    stalled: Array


class _Climb(NamedTuple):
    """Where the inner loop stands: free coordinates, Q per unit weight there less Q at the start, and its gradient."""

    free: Any
    value: Array
    gradient: Any
    state: GEMState


class _Surface(NamedTuple):
    """Q + log prior per unit weight over the free coordinates of the block, less its value at the start.

    Attributes:
        value: from free coordinates to a scalar; it can be differentiated.
        value_and_gradient: both at once.
        rounding: how far rounding may move the value.
    """

    value: Callable[[Any], Array]
    value_and_gradient: Callable[[Any], tuple[Array, Any]]
    rounding: Array


@node
class GEM(Solver):
    """Generalised EM: an M-step that raises Q where it cannot maximise it.

    `theta_{k+1} = argmax Q` in closed form for the fields that have one, then `num_steps` steps of an optax optimiser on
    `(Q(theta | theta_k) + log p(theta)) / sum of weights` in the free coordinates of those that have none: parameters of
    `jem.Density`, `jem.LogJoint` and their like. Where every field has a closed form, all are moved by gradient instead.

    The first gradient costs nothing: by Fisher's identity the E-step has it. **Safeguard**: a step that does not raise Q,
    beyond rounding, is halved up to `num_halvings` times, then refused: the block stays, the refusal is counted in
    `Fit.num_refusals`, and the next step starts from the smaller length. A direction that leads down is replaced by the
    gradient. The closed forms go on whatever becomes of the gradient's block, and the objective never falls.

    Args:
        optimizer: a function of optax, `optax.adam`, called with the options; or a ready transformation, `optax.adam(0.1)`.
            Chains, schedules and line searches (`optax.lbfgs`) are transformations like any other.
        num_steps: largest number of optimiser steps in one M-step; 1 is the classical gradient EM.
        gradient_tol: an M-step ends early where no slope per unit weight is larger; 0 makes all steps.
        num_halvings: how often one step may be halved.
        safeguard: without it steps are taken as they come, and a lane whose objective falls ends as DECREASED.
        **options: arguments of `optimizer`. Floats and arrays are values, which may change without a recompilation;
            everything else is part of the program, and so is a ready transformation, which is new each time it is made.

    Example:
        >>> import jax, jem, optax
        >>> x = jem.datasets.old_faithful()
        >>> model, solver = jem.Mixture(jem.Gaussian(), 2), jem.GEM(optax.adam, learning_rate=0.1)
        >>> fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, solver=solver)
        >>> bool(fit.log_likelihood > -1130.5)
        True

    Source: Dempster, Laird and Rubin (1977), section 3; Lange (1995), JRSS B 57 (one Newton step); Neal and Hinton (1998).
    """

    optimizer: Any = static()
    options: tuple[tuple[str, Any], ...] = static()
    values: dict[str, Any]
    num_steps: int = static()
    gradient_tol: Any
    num_halvings: int = static()
    safeguard: bool = static()

    def __init__(
        self,
        optimizer: Any,
        *,
        num_steps: int = 1,
        gradient_tol: Any = 0.0,
        num_halvings: int = 20,
        safeguard: bool = True,
        **options: Any,
    ):
        ready = hasattr(optimizer, "update") and hasattr(optimizer, "init")
        if not ready and not callable(optimizer):
            raise ValueError(
                f"GEM: optimizer must be a function that makes a gradient transformation, such as optax.adam, or one that "
                f"is ready; got {type(optimizer).__name__}"
            )
        if ready and options:
            raise ValueError(f"GEM: {sorted(options)} belong to a function such as optax.adam; this optimiser is ready made")
        for name, value, least in (("num_steps", num_steps, 1), ("num_halvings", num_halvings, 0)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"GEM: {name} must be an integer of at least {least}; got {value!r}")
        values = {n: v for n, v in options.items() if isinstance(v, (float, np.ndarray, np.floating, Array))}
        fixed = tuple(sorted((n, v) for n, v in options.items() if n not in values))
        set_once(
            self, optimizer=optimizer, options=fixed, values=values, num_steps=num_steps, gradient_tol=gradient_tol,
            num_halvings=num_halvings, safeguard=safeguard,
        )  # fmt: skip

    def init(self, model: Node, params: Params) -> GEMState:
        """The optimiser's state at the start."""
        free = _unconstrain(_block(model, params), params)
        state = self._transformation().init(free)
        one = jnp.ones((), jnp.result_type(*jax.tree.leaves(free), jnp.float32))
        return GEMState(state, one, jnp.array(0, jnp.int32), jnp.array(False))

    def step(self, model: Node, seen: Evaluated, state: GEMState) -> tuple[Params, GEMState]:
        """The closed forms, then the climb."""
        block = _block(model, seen.params)
        mixed = any(isinstance(s, Held) for s in jax.tree.leaves(block))
        base = model.maximize(seen.params, seen.stats) if mixed else seen.params
        weight = seen.total(lambda x, w: jnp.sum(w))
        surface = _surface(model, seen, block, base, weight)

        def at_old(free: Any) -> Array:
            params = _constrain(block, free, seen.params)
            return (model.expected_log_prob(params, seen.stats, seen.params) + model.log_prior(params)) / weight

        free = _unconstrain(block, seen.params)
        climb = _Climb(free, jnp.zeros((), weight.dtype), jax.grad(at_old)(free), state._replace(stalled=jnp.array(False)))
        climb = self._take(surface, climb) if self.num_steps == 1 else self._climb(surface, climb)
        return _constrain(block, climb.free, base), climb.state

    def refusals(self, state: GEMState) -> Array:
        """Steps refused so far."""
        return state.refused

    def standing(self, state: GEMState, objective: Array) -> Standing:
        """After a refused step a gain of nothing is no sign of convergence."""
        return Standing(objective, objective, 2, ~state.stalled)

    def _transformation(self) -> Any:
        ready = hasattr(self.optimizer, "update") and hasattr(self.optimizer, "init")
        return self.optimizer if ready else self.optimizer(**dict(self.options), **self.values)

    def _climb(self, surface: _Surface, climb: _Climb) -> _Climb:
        """Several steps, each but the first with a gradient of its own."""

        def unfinished(carry: tuple[Array, _Climb]) -> Array:
            num, climb = carry
            return (num == 0) | ((num < self.num_steps) & (_largest(climb.gradient) > self.gradient_tol))

        def body(carry: tuple[Array, _Climb]) -> tuple[Array, _Climb]:
            num, climb = carry
            climb = self._take(surface, climb)
            last = num + 1 >= self.num_steps
            gradient = lax.cond(last, lambda c: c.gradient, lambda c: surface.value_and_gradient(c.free)[1], climb)
            return num + 1, climb._replace(gradient=gradient)

        return lax.while_loop(unfinished, body, (jnp.array(0), climb))[1]

    def _take(self, surface: _Surface, climb: _Climb) -> _Climb:
        """One step of the optimiser, shortened or refused where it does not climb."""
        direction, optimizer = self._direction(surface, climb)
        if not self.safeguard:
            state = climb.state._replace(optimizer=optimizer)
            return climb._replace(free=tree.add(climb.free, direction), state=state)
        slope = _dot(climb.gradient, direction)
        up = slope > 0
        # An optimiser that leads down, or nowhere, has lost its way: it starts anew along the gradient.
        steep, length = jnp.sqrt(_dot(climb.gradient, climb.gradient)), jnp.sqrt(_dot(direction, direction))
        factor = jnp.where(jnp.isfinite(length), length, 1) / jnp.where(steep > 0, steep, 1)
        direction = tree.where(up, direction, jax.tree.map(lambda g: factor * g, climb.gradient))
        optimizer = tree.where(up, optimizer, _like(self._transformation().init(climb.free), optimizer))
        slope = jnp.where(up, slope, factor * steep**2)

        def attempt(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            num, scale, _, _ = carry
            scale = jnp.where(num > 0, scale / 2, scale)
            value = surface.value(_move(climb.free, scale, direction))
            return num + 1, scale, value, value - climb.value >= _RISE * scale * slope - surface.rounding

        start = (jnp.array(0), climb.state.scale, climb.value, jnp.array(False))
        num, scale, value, rose = lax.while_loop(lambda c: ~c[3] & (c[0] <= self.num_halvings), attempt, start)
        free = tree.where(rose, _move(climb.free, scale, direction), climb.free)
        # Where there is no gradient there is no way on: the lane ends as NONFINITE.
        lost = ~jnp.isfinite(slope)
        free = jax.tree.map(lambda f: jnp.where(lost, jnp.nan, f), free)
        longer = jnp.where(rose & (num == 1), jnp.minimum(2 * scale, 1), jnp.where(rose, scale, scale / 2))
        refused = climb.state.refused + (~rose).astype(jnp.int32)
        state = GEMState(optimizer, longer, refused, climb.state.stalled | ~rose)
        return climb._replace(free=free, value=jnp.where(rose, value, climb.value), state=state)

    def _direction(self, surface: _Surface, climb: _Climb) -> tuple[Any, Any]:
        """The optimiser's step, which minimises, and its next state."""
        transformation, old = self._transformation(), climb.state.optimizer
        downhill = jax.tree.map(jnp.negative, climb.gradient)
        extra: dict[str, Any] = {}
        kinds = [p.kind for p in inspect.signature(transformation.update).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD in kinds:
            extra = {"value": -climb.value, "grad": downhill, "value_fn": lambda free: -surface.value(free)}
        updates, new = transformation.update(downhill, old, climb.free, **extra)
        return _like(updates, climb.free), _like(new, old)


def _surface(model: Node, seen: Evaluated, block: Any, base: Params, weight: Array) -> _Surface:
    """Q from the statistics where these give it at any parameters, else from the units, in chunks."""
    local = has_local_q(model)
    kept = keep_units(model)
    data = seen.total.data

    def q(model: Node, stats: Any, free: Any) -> Array:
        new = model.expected_log_prob(_constrain(block, free, base), stats, seen.params)
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
        return model.log_prior(_constrain(block, free, base)) - model.log_prior(base)

    @jax.custom_vjp
    def value(free: Any) -> Array:
        return (total(lambda node, stats: q(node, stats, free)) + prior(free)) / weight

    def value_and_gradient(free: Any) -> tuple[Array, Any]:
        # Chunk by chunk, so that no chunk's intermediates wait for the others.
        of_units = total(lambda node, stats: jax.value_and_grad(lambda f: q(node, stats, f))(free))
        return jax.tree.map(lambda a, b: (a + b) / weight, of_units, jax.value_and_grad(prior)(free))

    value.defvjp(value_and_gradient, lambda gradient, up: (jax.tree.map(lambda g: up * g, gradient),))
    return _Surface(value, value_and_gradient, rounding(seen.objective, weight) / weight)


def _block(model: Node, params: Params) -> Any:
    """Supports with everything held but what goes by gradient; where that is nothing, all of it goes."""
    supports = model.supports(params)
    if not any(isinstance(s, ByGradient) for s in jax.tree.leaves(supports)):
        return supports
    return jax.tree.map(lambda s: s if isinstance(s, ByGradient) else Held(), supports)


def _unconstrain(block: Any, params: Params) -> Any:
    return jax.tree.map(lambda support, value: support.unconstrain(value), block, params)


def _constrain(block: Any, free: Any, like: Params) -> Params:
    return jax.tree.map(lambda support, f, value: support.constrain(f, value), block, free, like)


def _move(free: Any, scale: Array, direction: Any) -> Any:
    return jax.tree.map(lambda f, d: f + scale * d, free, direction)


def _dot(a: Any, b: Any) -> Array:
    return tree.total(jnp.sum(p * q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _largest(gradient: Any) -> Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(g), initial=0.0) for g in jax.tree.leaves(gradient)]))


def _like(new: Any, old: Any) -> Any:
    """The dtypes of the loop's carry."""
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), new, old)

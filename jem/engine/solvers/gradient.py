"""Generalised EM: closed forms where there are any, and gradient steps on Q, safeguarded, for the rest."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem import tree
from jem.engine.solvers.metric import LARGEST, Metric, Plain, trivial
from jem.engine.solvers.surface import Surface, block_of, constrain_block, surface_of, unconstrain_block
from jem.engine.step import Evaluated, Proposal, Solver
from jem.engine.stream import Total
from jem.kernels.support import Held
from jem.node import Node, Params, node, set_once, static
from jem.settings import whole

_RISE = 1e-4  # the part of the gain promised by the slope that a step must make (Armijo)
_SHOWN = 0.1  # part of the Newton step that a step must go for its gain to tell how far the climb has come
_NOWHERE = 1e-5  # part of it below which a step is none


class GEMState(NamedTuple):
    """What is carried from one M-step to the next.

    Attributes:
        optimizer: the optimiser's own state.
        metric: the coordinates in which it works.
        scale: factor on its steps, at most 1: halved where Q fell, doubled again where it did not.
        count: M-steps made.
        stale: whether the metric did not fit and is to be measured again.
        plain: M-steps in a row whose gain tells how far the climb has come.
        slack: nats by which rounding has been seen to hide a rise of Q.
    """

    optimizer: Any
    metric: Any
    scale: Array
    count: Array
    stale: Array
    plain: Array
    slack: Array


class _Climb(NamedTuple):
    """Where the inner loop stands: free coordinates, Q per unit weight there less Q at the start, and its gradient.

    `refused` and `misjudged` are of this M-step: how many steps were, and by how much Q's value was off from its slope.
    """

    free: Any
    value: Array
    gradient: Any
    state: GEMState
    refused: Array
    misjudged: Array


class _Tried(NamedTuple):
    """A step on trial: attempts so far, the factor on it, its gain, whether it rose, and by how much the gain was misjudged."""

    num: Array
    scale: Array
    gain: Array
    rose: Array
    misjudged: Array


@node
class GEM(Solver):
    """Generalised EM: an M-step that raises Q where it cannot maximise it.

    `theta_{k+1} = argmax Q` in closed form for the fields that have one, then `num_steps` steps of an optax optimiser on
    `(Q(theta | theta_k) + log p(theta)) / sum of weights` in the free coordinates of those that have none: parameters of
    `jem.Density`, `jem.LogJoint` and their like. Where every field has a closed form, all are moved by gradient instead.

    The first gradient costs nothing: by Fisher's identity the E-step has it. **Metric**: up to 64 coordinates are measured in
    the curvature of Q, so that the optimiser sees a problem that curves alike in every direction and whose Newton step, where
    the metric was made, has length 1 at most: a learning rate is the part of that step to go, whatever the columns' scales. It
    is made anew after 1, 2, 4, 8, ... M-steps and where it did not fit; the optimiser's moments then start anew, its schedules
    go on. **Safeguard**: a step that does not raise Q is halved up to `num_halvings` times, then refused: the block stays, the
    refusal is counted in `Fit.num_refusals`, and the next step starts from the smaller length. Where rounding hides the rise
    the slope is asked. A direction that leads down is replaced by the gradient. The closed forms go on whatever becomes of the
    gradient's block, and the objective never falls. A step that goes nowhere, as with a learning rate of 0, ends no fit.

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
        >>> model, solver = jem.Mixture(jem.Gaussian(), 2), jem.solvers.GEM(optax.adam, learning_rate=0.1)
        >>> fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, solver=solver)
        >>> bool(fit.log_likelihood > -1130.5)
        True

    Source: Dempster, Laird and Rubin (1977), section 3; Lange (1995), JRSS B 57 (one Newton step); Neal and Hinton (1998).
    """

    optimizer: Any = static()
    options: tuple[tuple[str, Any], ...] = static()
    values: dict[str, Any]
    num_steps: int = static(must=whole(1))
    gradient_tol: Any
    num_halvings: int = static(must=whole(0))
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
        values = {n: v for n, v in options.items() if isinstance(v, (float, np.ndarray, np.floating, Array))}
        fixed = tuple(sorted((n, v) for n, v in options.items() if n not in values))
        set_once(
            self, optimizer=optimizer, options=fixed, values=values, num_steps=num_steps, gradient_tol=gradient_tol,
            num_halvings=num_halvings, safeguard=safeguard,
        )  # fmt: skip

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, GEMState]:
        """The start, and the optimiser's state there."""
        free = unconstrain_block(block_of(model, params), params)
        one = jnp.ones((), jnp.result_type(*jax.tree.leaves(free), jnp.float32))
        dense = tree.num_entries(free) <= LARGEST
        count = jnp.array(0, jnp.int32)
        return Proposal(params, params), GEMState(
            optimizer=self._transformation().init(free),
            metric=trivial(free) if dense else Plain(one, one),
            scale=one,
            count=count,
            stale=jnp.array(False),
            plain=count + 2,
            slack=0 * one,
        )

    def step(self, model: Node, seen: Evaluated, state: GEMState) -> tuple[Proposal, GEMState]:
        """The closed forms, then the climb.

        The image is the Newton step on Q, as far as the metric knows it; what goes by closed form is where the M-step puts it.
        A step that went nowhere is no sign of convergence, and the gain of a short one says nothing of what is left.
        """
        block = block_of(model, seen.params)
        mixed = any(isinstance(s, Held) for s in jax.tree.leaves(block))
        base = model.maximize(seen.params, seen.stats) if mixed else seen.params
        weight = seen.total(lambda x, w: jnp.sum(w))
        surface = surface_of(model, seen, block, base, weight)

        def at_old(free: Any) -> Array:
            params = constrain_block(block, free, seen.params)
            return (model.expected_log_prob(params, seen.stats, seen.params) + model.log_prior(params)) / weight

        free = unconstrain_block(block, seen.params)
        gradient = jax.grad(at_old)(free)
        state = self._measure(surface, free, gradient, state, weight)
        zero = jnp.zeros((), weight.dtype)
        climb = _Climb(free, zero, gradient, state, jnp.array(0, jnp.int32), zero)
        climb = self._take(surface, climb) if self.num_steps == 1 else self._climb(surface, climb)
        state, metric = climb.state, climb.state.metric
        went = metric.length(jax.tree.map(jnp.subtract, climb.free, free))
        ahead = metric.ahead(gradient)
        wanted = metric.length(ahead)
        # What the Newton step would gain is nothing: here is the top, and a step need not go anywhere.
        done = weight * _dot(gradient, ahead) / 2 <= _spent(wanted.dtype)
        shows = (climb.refused == 0) & (went >= _SHOWN * wanted) & (state.scale >= 1)
        state = state._replace(
            count=state.count + 1,
            plain=jnp.where(shows | done, jnp.minimum(state.plain + 1, 2), 0),
            slack=jnp.maximum(state.slack, climb.misjudged * weight),
        )
        return seen.propose(constrain_block(block, climb.free, base))._replace(
            image=constrain_block(block, tree.add(free, ahead), base),
            floor=seen.kept - 4 * state.slack,
            plain=state.plain,
            settled=done | ((climb.refused == 0) & (went > _NOWHERE * wanted)),
            refused=climb.refused,
        ), state

    def _measure(self, surface: Surface, free: Any, gradient: Any, state: GEMState, weight: Array) -> GEMState:
        """The metric made anew after 0, 1, 2, 4, 8, ... M-steps, and where the last one did not fit."""
        old, powers = state.optimizer, 2 ** jnp.arange(31, dtype=state.count.dtype)
        due = state.stale | (state.count == 0) | jnp.any(state.count == powers)
        curvature = lambda directions: surface.curvature(free, directions)  # noqa: E731
        # A loop of one turn, not a branch: of several lanes together all would take both.
        anew = lambda carry: (~carry[0], carry[1].measured(curvature, gradient, free, weight))  # noqa: E731
        metric = lax.while_loop(lambda carry: carry[0], anew, (due, state.metric))[1]
        # The optimiser's state as at the start, but for what only counts: schedules go on.
        fresh = _like(self._transformation().init(metric.place(free)), old)
        fresh = jax.tree.map(lambda o, n: o if _counts(o) else n, old, fresh, is_leaf=_counts)
        restart = due if isinstance(metric, Metric) else state.stale
        return state._replace(metric=metric, optimizer=tree.where(restart, fresh, old), stale=jnp.zeros_like(due))

    def _transformation(self) -> Any:
        ready = hasattr(self.optimizer, "update") and hasattr(self.optimizer, "init")
        return self.optimizer if ready else self.optimizer(**dict(self.options), **self.values)

    def _climb(self, surface: Surface, climb: _Climb) -> _Climb:
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

    def _take(self, surface: Surface, climb: _Climb) -> _Climb:
        """One step of the optimiser, shortened or refused where it does not climb."""
        metric = climb.state.metric
        direction, optimizer = self._direction(surface, climb)
        if not self.safeguard:
            state = climb.state._replace(optimizer=optimizer)
            return climb._replace(free=tree.add(climb.free, metric.push(direction)), state=state)
        uphill = metric.pull(climb.gradient)
        length, steep = jnp.sqrt(_dot(direction, direction)), jnp.sqrt(_dot(uphill, uphill))
        slope = _dot(climb.gradient, metric.push(direction))
        # An optimiser that leads down has lost its way: here the gradient takes over, then it starts anew. One that does not
        # move may wait.
        lost = ~((slope > 0) | (length == 0))
        factor = jnp.where(jnp.isfinite(length), length, steep) / jnp.where(steep > 0, steep, 1)
        direction = metric.push(tree.where(lost, jax.tree.map(lambda g: factor * g, uphill), direction))
        slope = _dot(climb.gradient, direction)
        tried = self._search(surface, climb, direction, slope)
        free = tree.where(tried.rose, _move(climb.free, tried.scale, direction), climb.free)
        # Where there is no gradient there is no way on: the lane ends as NONFINITE.
        free = jax.tree.map(lambda f: jnp.where(jnp.isfinite(slope), f, jnp.nan), free)
        scale, rose = tried.scale, tried.rose
        longer = jnp.where(rose & (tried.num == 1), jnp.minimum(2 * scale, 1), jnp.where(rose, scale, scale / 2))
        state = climb.state._replace(
            optimizer=optimizer,
            scale=longer,
            stale=climb.state.stale | lost | (~rose | (tried.num > 2)) & isinstance(metric, Metric),
        )
        value = jnp.where(rose, climb.value + tried.gain, climb.value)
        misjudged = jnp.maximum(climb.misjudged, tried.misjudged)
        return climb._replace(free=free, value=value, state=state, refused=climb.refused + ~rose, misjudged=misjudged)

    def _search(self, surface: Surface, climb: _Climb, direction: Any, slope: Array) -> _Tried:
        """Halves the step until it rises as the slope promises.

        Where it promises less than rounding hides, the slope where it leads says whether it rises ("approximate Wolfe"):
        Hager and Zhang (2005), SIAM J. Optim. 16.
        """

        def attempt(tried: _Tried) -> _Tried:
            scale = jnp.where(tried.num > 0, tried.scale / 2, tried.scale)
            free = _move(climb.free, scale, direction)
            gain, hoped = surface.value(free) - climb.value, scale * slope
            blind = (hoped > 0) & (hoped <= surface.blind) & (jnp.abs(gain) <= surface.blind)

            def ask(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                there = scale * _dot(surface.value_and_gradient(free)[1], direction)
                # Still rising there it rose on the way; past the top both must say so.
                past = (there >= (2 * _RISE - 1) * hoped) & (gain >= _RISE * hoped)
                rose = (there >= 0) | past
                return jnp.array(False), rose, jnp.where(rose, jnp.maximum(_RISE * hoped - gain, 0), 0)

            seen = (blind, gain >= _RISE * hoped, jnp.zeros_like(gain))
            _, rose, misjudged = lax.while_loop(lambda carry: carry[0], ask, seen)
            return _Tried(tried.num + 1, scale, gain, rose, misjudged)

        zero = jnp.zeros_like(climb.value)
        start = _Tried(jnp.array(0), climb.state.scale, zero, jnp.array(False), zero)
        return lax.while_loop(lambda tried: ~tried.rose & (tried.num <= self.num_halvings), attempt, start)

    def _direction(self, surface: Surface, climb: _Climb) -> tuple[Any, Any]:
        """The optimiser's step over the metric's coordinates, which minimises, and its next state."""
        transformation, old, metric = self._transformation(), climb.state.optimizer, climb.state.metric
        downhill = jax.tree.map(jnp.negative, metric.pull(climb.gradient))
        extra: dict[str, Any] = {}
        kinds = [p.kind for p in inspect.signature(transformation.update).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD in kinds:
            loss = lambda value: -value / metric.unit**2  # noqa: E731
            value_fn = lambda place: loss(surface.value(metric.free(place)))  # noqa: E731
            extra = {"value": loss(climb.value), "grad": downhill, "value_fn": value_fn}
        updates, new = transformation.update(downhill, old, metric.place(climb.free), **extra)
        return _like(updates, climb.free), _like(new, old)


def _move(free: Any, scale: Array, direction: Any) -> Any:
    return jax.tree.map(lambda f, d: f + scale * d, free, direction)


def _dot(a: Any, b: Any) -> Array:
    return tree.total(jnp.sum(p * q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _spent(dtype: Any) -> float:
    """Nats that are nothing: 1e-10 in float64, 3e-6 in float32."""
    return 1e-2 * float(jnp.finfo(dtype).eps) ** 0.5


def _counts(state: Any) -> bool:
    """Whether a part of an optimiser's state is a record of integers: how far a schedule has come."""
    leaves = jax.tree.leaves(state)
    return isinstance(state, tuple) and hasattr(state, "_fields") and bool(leaves) and all(map(_is_integer, leaves))


def _is_integer(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.integer)


def _largest(gradient: Any) -> Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(g), initial=0.0) for g in jax.tree.leaves(gradient)]))


def _like(new: Any, old: Any) -> Any:
    """The dtypes of the loop's carry."""
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), new, old)

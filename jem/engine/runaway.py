"""Whether a climb that seems to have arrived has a top at all: a likelihood may rise for ever, ever more slowly.

Near a maximum the slope is a straight line that meets zero at one place, wherever along the line it is looked at. Where there
is none, as in a logistic regression with separated classes (slope `e^-b`), the place where it seems to meet zero recedes as one
goes towards it: by as much as one goes with an exponential tail, by more with a power.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jem.coordinates import unconstrain, unravel
from jem.engine.loop import Lane, Problem
from jem.engine.path import gone, look
from jem.engine.result import Status
from jem.engine.step import e_step_chunk, gradient_fields
from jem.engine.stream import Total
from jem.kernels.support import ByGradient, HeldCells, Positive, Real
from jem.node import ENDLESS, LEAF, Node, Params

RECEDES = 0.5  # 0 at a maximum, 1 and more where there is none
_NEAR = 0.05  # part of a step: what vanishes nearer has a top
_LONGEST = 1e4  # steps to look ahead, at most
_NOISE = 20  # rounding errors of the score that a slope must be above to be looked at


def mark(problem: Problem, table: Lane) -> Lane:
    """The lanes with those that seem to have arrived, but where there is no end to the climb, as DEGENERATE.

    Six E-steps a lane, where a model has parameters that go by gradient; nothing elsewhere.
    """
    model = problem.model
    if table.path is None or not gradient_fields(model, jax.tree.map(lambda p: p[0], table.params)):
        return table
    total = Total(problem.data, problem.reduce, problem.place)

    def look_ahead(lane: Lane) -> Lane:
        assert lane.path is not None
        place, score = lane.path.last

        def score_at(place: Array) -> Array:
            params = unravel(model, place, lane.params)
            point = look(model, params, total(lambda x, weights: e_step_chunk(model, params, x, weights))[0])
            assert point is not None
            return point.score

        # Where it has been going.
        went = outward(model, lane.params, gone(lane.path))
        asked = lane.status == Status.CONVERGED
        endless = has_no_end(score_at, place, score, went, problem.total_weight, asked)
        cause = ENDLESS + (_leaf_of(model, lane.params, farthest(place, went)) << LEAF)
        return lane._replace(
            status=jnp.where(endless, Status.DEGENERATE, lane.status).astype(lane.status.dtype),
            cause=jnp.where(endless, cause, lane.cause).astype(lane.cause.dtype),
        )

    if table.status.shape[0] == 1:
        one = look_ahead(jax.tree.map(lambda leaf: leaf[0], table))
        return jax.tree.map(lambda leaf: leaf[None], one)
    return lax.map(look_ahead, table)


def farthest(place: Array, step: Array) -> Array:
    """The coordinate that goes farthest by a step, for its size."""
    return jnp.argmax(jnp.abs(step) / (1 + jnp.abs(place)))


def has_no_end(
    score_at: Callable[[Array], Array], place: Array, score: Array, step: Array, total_weight: Array, asked: Array
) -> Array:
    """Whether the objective rises without end along a step (n,) from a place, or along the coordinate that goes farthest by it.

    The others may have a top in between. Six scores, where it is asked and the slope is above what rounding makes of it.
    """
    far = farthest(place, step)
    eps = jnp.finfo(step.dtype).eps * total_weight.astype(step.dtype)
    clear = jnp.abs(score @ step) > _NOISE * eps * jnp.sqrt(jnp.sum(step * step))
    clear = clear | (jnp.abs(step) > _NEAR * (1 + jnp.abs(place)))[far]
    steps = jnp.stack([step, jnp.where(jnp.arange(step.shape[0]) == far, step, 0)])
    recedes = lambda step: recession(lambda t: score_at(place + t * step) @ step, score @ step)  # noqa: E731
    nothing = lambda: jnp.zeros(2, step.dtype)  # noqa: E731
    return jnp.max(lax.cond(clear & asked, lambda: lax.map(recedes, steps), nothing)) > RECEDES


def _leaf_of(model: Node, params: Params, coordinate: Array) -> Array:
    """The number of the leaf of `params` to which a free coordinate belongs."""
    sizes = [leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda p: unconstrain(model, p), params))]
    return jnp.searchsorted(jnp.cumsum(jnp.asarray(sizes)), coordinate, side="right").astype(jnp.int32)


def outward(node: Node, params: Params, step: Array) -> Array:
    """The part of a step (n,) over free coordinates along which a climb may have no end.

    Real numbers either way, and positive ones that grow. A probability or a variance that goes to 0 has arrived there.
    """

    def leaf(support: Any, free: Any) -> Any:
        while isinstance(support, ByGradient):
            support = support.support
        inner = support.inner if isinstance(support, HeldCells) else support
        if isinstance(inner, Real):
            return free
        return jnp.maximum(free, 0) if isinstance(inner, Positive) else jnp.zeros_like(free)

    shaped = ravel_pytree(unconstrain(node, params))[1](step)
    return ravel_pytree(jax.tree.map(leaf, node.supports(params), shaped))[0]


def recession(slope: Callable[[Array], Array], here: Array) -> Array:
    """How fast the place where the slope seems to vanish recedes as one goes towards it, `f f'' / f'^2`.

    Args:
        slope: `slope(t)`, that of the objective along a step, `t` steps ahead: the score there times the step.
        here: `slope(0)`.

    Returns:
        0 where the slope is a straight line, 1 where it falls exponentially, more where it falls as a power; 0 where it does
        not fall, or there is none, or where it vanishes so near that the rest of the step says nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> from jem.engine.runaway import recession
        >>> round(float(recession(lambda t: 1.0 - 0.3 * t, jnp.array(1.0))), 3)
        0.0
        >>> round(float(recession(lambda t: jnp.exp(-0.3 * t), jnp.array(1.0))), 1)
        1.0
    """
    falls = lambda low, high: jnp.where(low > high, low - high, jnp.inf)  # noqa: E731
    # About where the slope vanishes by a straight line; then half of the way, in two parts.
    far = jnp.clip(here / falls(here, slope(jnp.ones_like(here))), 0, _LONGEST)
    one, two = slope(far / 4), slope(far / 2)
    first = here * (far / 4) / falls(here, one)
    second = far / 4 + one * (far / 4) / falls(one, two)
    fell = (here > 0) & (one < here) & (two < one) & (far > _NEAR)
    return jnp.where(fell, 4 * (second - first) / jnp.where(far > 0, far, 1), 0)

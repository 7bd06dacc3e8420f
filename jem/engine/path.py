"""Where a climb has been, in free coordinates, and what that says is left of it.

With dX (m, n) the last differences of free coordinates between accepted points, dL those of the score g, the objective is, as
far as they show it, quadratic along dX with curvature `b = -dX dL^T`, and its maximum there is

    left = c^T b^{-1} c / 2,     c = dX g

above the last point, and no less than their gains would lead to. What the directions gone do not show, EM's own decrement does:
`E = g^T (M(z) - z) / 2`, half of what the slope promises for a plain step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import tree
from jem.coordinates import ravel, unravel
from jem.kernels.linalg import diagonal, solve_symmetric
from jem.node import Node, Params, Stats

MEMORY = 30  # differences that the model is made of, or as many as there are coordinates; ten of 74 took a plateau for the top
LEAST = 15  # points, or as many as there are coordinates, before it is believed; after twelve, some saddles look like tops
IN_A_ROW = 3  # points at which it must say the same
_RECENT = 10  # differences whose gains are looked at
_SLIP = 1e-4  # nats that a step may seem to fall by its scores
_FLAT = 0.1  # nats that a slope may promise where nothing moves
_WORTH = 10  # nats of E above which no model is made


class Point(NamedTuple):
    """Free coordinates (n,) and the score there (n,): the gradient of objective or bound."""

    place: Array
    score: Array


class Path(NamedTuple):
    """The last accepted points.

    Attributes:
        last: the one accepted last.
        steps: differences between one and the next, rows (m, n) in a ring.
        count: points in a row, 0 where the path begins anew.
        moved: which coordinates ever moved, (n,).
        forecast: E, and what is left with E in it, at the last three points from the newest to the oldest, (3, 2).
    """

    last: Point
    steps: Point
    count: Array
    moved: Array
    forecast: Array


def look(model: Node, params: Params, stats: Stats) -> Point | None:
    """The point at which statistics were gathered; None where the model does not say where its parameters lie.

    The score is the gradient of Q + log prior there: by Fisher's identity that of the objective, without a pass over the data.
    """
    try:
        place = ravel(model, params)
    except TypeError:
        return None

    def climbed(place: Array) -> Array:
        new = unravel(model, place, params)
        return model.expected_log_prob(new, stats, params) + model.log_prior(new)

    return Point(place, jax.grad(climbed)(place).astype(place.dtype))


def begin(model: Node, params: Params, memory: int) -> Path | None:
    """A path without a point, with room for one step more than the solver and the forecast look back at."""
    try:
        place = ravel(model, params)
    except TypeError:
        return None
    rows = jnp.zeros((max(memory, _RECENT, min(MEMORY, place.shape[0])) + 1, place.shape[0]), place.dtype)
    nowhere = Point(place, jnp.zeros_like(place))
    never, unknown = jnp.zeros(place.shape, bool), jnp.full((IN_A_ROW, 2), jnp.inf, place.dtype)
    return Path(nowhere, Point(rows, rows), jnp.array(0, jnp.int32), never, unknown)


def go_on(path: Path, point: Point, accepted: Array, fresh: Array) -> Path:
    """The path with a point more, where it is accepted and another one; begun anew where no step of the solver led there."""
    finite = tree.all_finite(point)
    count = jnp.where(fresh | ~finite, 0, path.count)
    accepted = accepted & (jnp.any(point.place != path.last.place) | (count == 0))
    size = path.steps.place.shape[0]
    row = (jnp.arange(size) == (count - 1) % size) & (count > 0) & accepted & finite
    steps = jax.tree.map(lambda rows, new, old: jnp.where(row[:, None], (new - old)[None], rows), path.steps, point, path.last)
    return path._replace(
        last=tree.where(accepted & finite, point, path.last),
        steps=steps,
        count=jnp.where(accepted, count + finite, path.count),
        moved=path.moved | ((point.place != path.last.place) & accepted & finite),
    )


def slid(path: Path, point: Point) -> Array:
    """Whether the objective fell from the last point to this one, as both scores say of the step between: `(g + g')^T d / 2`.

    It sees a fall that rounding hides in the difference of the objectives, and says yes where there is no last point.
    """
    step = point.place - path.last.place
    return ~((path.count > 0) & (0.5 * ((path.last.score + point.score) @ step) >= -_SLIP))


def forecast(path: Path, residual: Array, accepted: Array) -> Path:
    """The path with what is left at its last point, of the residual `M(z) - z` (n,) of the plain step there.

    The residual is NaN where the solver has no plain step.
    """
    e = jnp.where(path.count > 0, 0.5 * (path.last.score @ residual), jnp.inf)  # no score was finite: nothing is known
    ahead = lax.cond(jnp.isnan(e) | (e <= _WORTH), left, lambda _: jnp.full_like(e, jnp.inf), path)
    now = jnp.stack([e, ahead + jnp.where(jnp.isnan(e), 0, jnp.abs(e))])
    before = jnp.where(path.count > 1, path.forecast[:-1], jnp.inf)
    return path._replace(forecast=jnp.where(accepted, jnp.concatenate([now[None], before]), path.forecast))


def stuck(path: Path, residual: Array, total_weight: Array) -> Array:
    """Whether the plain step leaves a coordinate exactly where it always was although the score has a slope along it.

    One that has moved before, and no more, is where its last digit has it: so are means very far from zero.
    """
    size = jnp.abs(path.last.place)
    slope = jnp.abs(path.last.score) * jnp.where(size > 0, size, 1)  # as the coordinate grows by its own size
    steep = slope > _FLAT + jnp.sqrt(jnp.finfo(size.dtype).eps) * total_weight.astype(size.dtype)
    return jnp.any(steep & (residual == 0) & ~path.moved)


def gone(path: Path) -> Array:
    """From the oldest point known to the last, (n,)."""
    used = jnp.zeros(path.steps.place.shape[0], bool).at[ages(path)].set(jnp.arange(path.steps.place.shape[0]) < path.count - 1)
    return jnp.sum(jnp.where(used[:, None], path.steps.place, 0), 0)


def ages(path: Path, size: int | None = None) -> Array:
    """Rows of a ring of `size` from the newest to the oldest, that of the path if not given."""
    size = path.steps.place.shape[0] if size is None else size
    return (path.count - 2 - jnp.arange(size)) % size


def left(path: Path) -> Array:
    """What the quadratic model says is left along the steps gone, in nats.

    Infinite where a step shows that the objective curves upwards, as on a plateau, or no step shows anything.
    """
    order = ages(path)[: max(min(MEMORY, path.last.place.shape[0]), 1)]
    steps, scores = path.steps.place[order], path.steps.score[order]
    shown = jnp.arange(order.shape[0]) < path.count - 1
    curvature, c = -(steps @ scores.T), steps @ path.last.score
    squares = jnp.where(shown, diagonal(curvature), 1)
    unit = jnp.where(shown & (squares > 0), 1 / jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    ridge = jnp.asarray(1e-4 if c.dtype == jnp.float64 else 1e-3, c.dtype)
    eye = jnp.eye(order.shape[0], dtype=c.dtype)
    b = 0.5 * (curvature + curvature.T) * unit[:, None] * unit[None, :] * (1 - eye) + (1 + ridge) * eye
    least = 0.25 * ridge  # the pivots of a matrix without a negative eigenvalue are at least four times that
    solved = solve_symmetric(b, unit * c, least)
    sound = jnp.all(solved.pivots > 1.02 * least) & jnp.all(squares > 0) & (path.count > 1)
    model = jnp.where(sound, 0.5 * jnp.sum(solved.forward**2 / jnp.maximum(solved.pivots, least)), jnp.inf)
    return jnp.maximum(model, _by_gains(path, ages(path)[:_RECENT]))


def _by_gains(path: Path, order: Array) -> Array:
    """Where what the newer half of the steps gained, and the older half, would lead: what is left of a climb along a ridge.

    Gains by the scores at both ends of a step, as rounding may hide those of the objective. With G and G' of the halves
    `G^2 / (G' - G)` is left (Aitken).
    """
    scores = path.steps.score[order]
    after = path.last.score[None] - (jnp.cumsum(scores, 0) - scores)
    gains = jnp.sum((after - 0.5 * scores) * path.steps.place[order], 1)
    half = jnp.minimum(path.count - 1, _RECENT) // 2
    age = jnp.arange(_RECENT)
    new, old = jnp.sum(jnp.where(age < half, gains, 0)), jnp.sum(jnp.where((age >= half) & (age < 2 * half), gains, 0))
    ahead = jnp.where(old > new, new**2 / jnp.where(old > new, old - new, 1), jnp.inf)
    return jnp.where(new > 0, ahead, 0)

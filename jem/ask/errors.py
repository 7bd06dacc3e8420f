"""Standard errors of parameters on their own scale, and of any function of them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem import checks
from jem.ask.asking import asked as asked_about
from jem.ask.information import Oakes, check_method
from jem.ask.polish import Asked, InformationStatus, ask, status_of
from jem.ask.room import room_of
from jem.backend import precise
from jem.engine import runaway
from jem.engine.score import flat, level, natural, params_at
from jem.engine.step import gradient_fields
from jem.node import Data, Node, Params
from jem.settings import check_level, describe

_NAMED = 6  # numbers without a standard error that `check` names


class StandardErrors(NamedTuple):
    """Standard errors, and what they rest on; `distance`, `num_flat` and `status` are scalars ().

    Attributes:
        estimate: what they are the errors of: parameters, or the value of a function of them.
        errors: the same tree with standard errors; NaN where there is none, 0 for what the model holds.
        covariance: (p, p) of all numbers of `estimate`, in the order of its leaves; singular where they are constrained (a
            simplex, a symmetric matrix). NaN rows and columns where there is none.
        distance: distance to the maximum of the objective in standard errors.
        num_flat: number of directions in parameter space without information.
        status: int code of `jem.uncertainty.InformationStatus`.
    """

    estimate: Any
    errors: Any
    covariance: Array
    distance: Array
    num_flat: Array
    status: Array

    def check(self) -> "StandardErrors":
        """Returns itself where the status is REGULAR, and raises `FitError` otherwise. Not for use inside jit."""
        lost = [
            f"{jax.tree_util.keystr(path)}{list(map(int, place)) or ''}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(self.errors)
            for place in np.argwhere(np.isnan(np.asarray(leaf)))
        ]
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        where = f"no standard error: {', '.join(lost[:_NAMED])}{more}" if lost else ""
        InformationStatus.check(self.status, InformationStatus.REGULAR, where)
        return self

    def interval(self, level: float = 0.95) -> tuple[Any, Any]:
        """Wald intervals, `estimate -+ quantile * errors`: both ends, as trees like `estimate`. `level` is between 0 and 1."""
        check_level(level, "interval: level")
        quantile = jax.scipy.stats.norm.ppf(0.5 + 0.5 * level)
        low = jax.tree.map(lambda e, s: e - quantile * s, self.estimate, self.errors)
        return low, jax.tree.map(lambda e, s: e + quantile * s, self.estimate, self.errors)


def standard_errors(
    node: Node, params: Params, x: Data, weights: Array | None = None, *, method: Any = Oakes()  # noqa: B008
) -> StandardErrors:
    """Standard errors of parameters as they are, constraints respected.

    `cov(theta) = C I^+ C^T`, C the derivative of the parameters in the free coordinates, I the information there. A
    probability or variance on the edge of its domain has no standard error, and neither has what moves along a direction
    without information: both are NaN, and the status says so.

    Args:
        node: the model.
        params: parameters at the maximum: a fit to a small tolerance.
        x: data with N rows.
        weights: (N,) or None.
        method: as for `information`.

    Returns:
        A `StandardErrors`, its trees like `params`.

    Raises:
        TypeError: as for `information`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> found = jem.standard_errors(jem.Poisson(), jem.Poisson.Params(jnp.array([2.5])), [[1], [4]]).check()
        >>> round(float(found.errors.rate[0]), 3)  # sqrt(2.5 / 2)
        1.118

    Source: Oehlert (1992), The American Statistician 46, for the way from free coordinates to parameters.
    """
    params, x, weights = asked_about(node, params, x, weights)
    check_method(method, x, weights)
    return _standard_errors(method, node, params, x, weights)


def delta_method(
    fn: Callable[[Params], Any], node: Node, params: Params, x: Data, weights: Array | None = None, *,
    method: Any = Oakes(),  # noqa: B008
) -> StandardErrors:  # fmt: skip
    """Standard errors of any differentiable function of the parameters.

    `cov(fn) = G I^+ G^T`, G the derivative of `fn` in the free coordinates. What does not move along directions without
    information has its errors, and is REGULAR, where the parameters are SINGULAR: the covariance that rotated loadings make.

    Args:
        fn: from parameters to an array or a tree of arrays; keep one function object, a new one is a new program.
        node: the model.
        params: parameters at the maximum.
        x: data with N rows.
        weights: (N,) or None.
        method: as for `information`.

    Returns:
        A `StandardErrors`, its trees like what `fn` returns.

    Raises:
        TypeError: as for `information`; `fn` does not return numbers.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Poisson.Params(jnp.array([2.5]))
        >>> never = jem.uncertainty.delta_method(lambda p: jnp.exp(-p.rate[0]), jem.Poisson(), p, [[1], [4]])
        >>> round(float(never.errors), 3)  # exp(-2.5) sqrt(2.5 / 2)
        0.092

    Source: Oehlert (1992), The American Statistician 46.
    """
    params, x, weights = asked_about(node, params, x, weights)
    check_method(method, x, weights)
    value = fn(params) if checks.is_concrete(params) else jax.eval_shape(fn, params)
    for leaf in jax.tree.leaves(value):
        if not isinstance(leaf, (Array, np.ndarray, np.number, float, int, jax.ShapeDtypeStruct)):
            raise TypeError(f"delta_method: fn must return numbers; got {describe(leaf)}")
    return _delta_method(fn, method, node, params, x, weights)


@jax.jit
@precise
def _standard_errors(method: Any, model: Node, params: Params, x: Data, weights: Array | None) -> StandardErrors:
    asked = ask(method, model, params, x, weights)
    moves, lost, status, away = judged(asked)
    return _propagate(asked, params, moves, lost | _along(moves, away), status)


@functools.partial(jax.jit, static_argnums=0)
@precise
def _delta_method(
    fn: Callable[[Params], Any], method: Any, model: Node, params: Params, x: Data, weights: Array | None
) -> StandardErrors:
    asked = ask(method, model, params, x, weights)
    _, _, status, away = judged(asked)
    moves = jax.jacfwd(lambda z: flat(fn(params_at(asked.target, z))))(asked.z)
    found = _propagate(asked, fn(params), moves, _along(moves, away), status)
    known = (status == InformationStatus.SINGULAR) & jnp.all(jnp.isfinite(found.covariance))
    return found._replace(status=jnp.where(known, InformationStatus.REGULAR, status))


def _propagate(asked: Asked, estimate: Any, moves: Array, lost: Array, status: Array) -> StandardErrors:
    """From the covariance of the free coordinates to that of what moves with them by `moves` (p, n)."""
    c = asked.curvature
    along = moves @ c.basis
    # What moves along a direction without information, or one in which the objective rises, has no error.
    bad = c.values <= c.tolerance
    reach = jnp.sqrt(jnp.sum(along**2, 1))
    astray = jnp.sqrt(jnp.sum(jnp.where(bad[None, :], along, 0) ** 2, 1))
    gap = jnp.min(jnp.abs(c.values), initial=1, where=~bad)
    mixed = jnp.maximum(1e3 * jnp.finfo(gap.dtype).eps ** (2 / 3), c.tolerance / gap)  # how well directions are told apart
    lost = lost | (astray > mixed * reach) | ~jnp.all(jnp.isfinite(c.values))
    spread = jnp.where(bad, 0, 1 / jnp.where(bad, 1, c.values))
    if asked.parts.meat is None:
        covariance = (along * spread[None, :]) @ along.T
    else:
        influence = (along * spread[None, :]) @ c.basis.T
        covariance = influence @ asked.parts.meat @ influence.T
    covariance = jnp.where(lost[:, None] | lost[None, :], jnp.nan, covariance)
    leaves, treedef = jax.tree.flatten(estimate)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]
    errors = jnp.split(jnp.sqrt(jnp.diagonal(covariance)), ends)
    tree = treedef.unflatten([e.reshape(np.shape(leaf)) for e, leaf in zip(errors, leaves, strict=True)])
    return StandardErrors(estimate, tree, covariance, asked.distance, c.num_flat, status)


def judged(asked: Asked) -> tuple[Array, Array, Array, Array]:
    """How the parameters move with the coordinates (p, n), which are at an edge (p,), the status, and where `endless`, (n,)."""
    moves = jax.jacfwd(lambda z: natural(asked.target, z))(asked.z)
    lost, status = at_edge(asked, moves), status_of(asked)
    status = jnp.where((status == InformationStatus.REGULAR) & jnp.any(lost), InformationStatus.BOUNDARY, status)
    away = endless(asked, status == InformationStatus.REGULAR)
    return moves, lost, jnp.where(jnp.any(away != 0), InformationStatus.SINGULAR, status), away


def endless(asked: Asked, open_: Array) -> Array:
    """The direction (n,) of the Newton step, where the objective rises along it without end; zeros where it does not.

    Its curvature falls as fast as its slope there: a logistic regression whose classes are separated shows some at any point.
    """
    t, z = asked.target, asked.z
    params = params_at(t, z)
    if not gradient_fields(t.model, params):
        return jnp.zeros_like(z)
    step = runaway.outward(t.model, params, asked.curvature.ascend(asked.score))
    score_at = lambda z: level(t, z).score  # noqa: E731
    return jnp.where(runaway.has_no_end(score_at, z, asked.score, step, t.total_weight, open_), step, 0)


def _along(moves: Array, away: Array) -> Array:
    """Which rows of (p, n) move along a direction (n,); none where that is zero."""
    size = jnp.sqrt(jnp.sum(moves**2, 1) * jnp.sum(away**2))
    return jnp.abs(moves @ away) > 0.05 * size


def at_edge(asked: Asked, moves: Array) -> Array:
    """(p,) bool: parameters at, or on their way to, the edge of their domain.

    A logarithm that runs away does so by about one a Newton step, whatever the gain, when that of an estimate inside of its
    domain hardly moves at all.
    """
    t = asked.target
    step = jnp.abs(moves @ asked.curvature.ascend(asked.score))
    room, held = room_of(t, asked.z)
    still = jnp.sqrt(jnp.sum(moves**2, 1)) <= 32 * jnp.finfo(room.dtype).eps * (1 + jnp.abs(natural(t, asked.z)))
    return ~held & jnp.isfinite(room) & ((step > 0.1 * room) | still)

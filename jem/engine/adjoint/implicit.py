"""The derivative of the fixed point that a fit leads to."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

from jem import tree
from jem.backend import precise
from jem.engine import loop
from jem.engine.adjoint.status import Adjoint, AdjointStatus, not_taken
from jem.engine.joining import joined
from jem.engine.loop import Lane, Problem
from jem.engine.result import Fit, Status
from jem.engine.score import (
    Curvature,
    Target,
    complete_information,
    curvature,
    level,
    params_at,
    start_of,
    target,
)
from jem.engine.step import STATIONARY
from jem.engine.task import Task
from jem.kernels.krylov import solve_symmetric
from jem.node import Data, Node, Params, node, static

_MANY = 30  # Newton steps at most
_REFINEMENTS = 4  # of one linear solve, at most; each is a pass over the data


@node
class Implicit:
    """The derivative of the fixed point that a fit leads to, whatever the path.

    A fit is a function of the data, the weights and the model's hyper-parameters, data-relative priors included; starts have
    derivative zero, and so have solvers, stopping rules and schedules. At the fixed point the score F(z; a) is zero, hence

        dz = I(z)^{-1} dF/da da,     I = -dF/dz,

    a symmetric system, solved once: forward (`jvp`, `jacfwd`) and reverse (`grad`, `vjp`, `jacrev`), to any order, in `jit`,
    `vmap` and `scan`. Memory does not depend on the number of steps. Before that, Newton steps polish the point, as
    derivatives taken where a slow climb was stopped can be far off: what a differentiated fit returns is polished, and
    `fit.adjoint` says how well. A fit that is not differentiated costs nothing more.

    Of restarts every lane is polished and solved for; for the derivative of the winner alone, fit again from
    `fits.best().params` and differentiate that.

    Attributes:
        dense_limit: number of coordinates up to which the information is formed and taken apart; above it, products with it
            are enough (MINRES), and flat directions are noticed only where they matter.
        tol: distance to the fixed point at which polishing ends, in units of what a single row tells; None takes
            `eps^(2/3)` of the dtype.

    Raises:
        ValueError: when differentiated, after a solver that ends elsewhere: `jem.solvers.Hard()`,
            `jem.solvers.Variational(...)`.

    Example:
        >>> import jax, jax.numpy as jnp, jem
        >>> x = jnp.array([[1.0], [2.0], [6.0]])
        >>> mean = lambda x: jem.fit(jem.Poisson(), jem.Poisson.Params(jnp.array([1.0])), x).params.rate[0]
        >>> [round(float(slope), 3) for slope in jax.grad(mean)(x)[:, 0]]
        [0.333, 0.333, 0.333]

    Source: Christianson (1994), Optim. Methods Softw. 3; Blondel et al. (2022), NeurIPS; Oakes (1999), JRSS B 61.
    """

    dense_limit: int = static(default=256)
    tol: Any = None

    def inputs(self, values: Any) -> Any:
        """What the steps see: values without derivatives."""
        return lax.stop_gradient(values)

    def batched(self, program: Any) -> Any:
        """The program of the lanes, as `vmap` takes it: more starts are more lanes."""
        return joined(program)

    def run(self, problem: Problem, starts: Params, numbers: Array, num_slots: int) -> tuple[Lane, Array]:
        """The loop as it is."""
        return loop.run(problem, starts, numbers, num_slots)

    def attach(self, fits: Fit, task: Task) -> Fit:
        """The fits (leading axis R) with their derivatives in model, x and weights."""
        fits = fits._replace(adjoint=jax.vmap(not_taken)(fits.objective))
        options = _Options(self.dense_limit, "" if STATIONARY in task.solver.traits else type(task.solver).__name__)
        return _attach(options, lax.stop_gradient(fits), lax.stop_gradient(self.tol), task.model, task.x, task.weights)


class _Options(NamedTuple):
    """What is known when the program is made: the dense limit, and the name of a solver that does not end where EM does."""

    dense_limit: int
    wanders: str


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attach(options: _Options, fits: Fit, tol: Any, model: Node, x: Data, weights: Array | None) -> Fit:
    """The identity, until it is differentiated."""
    return _axes_first(fits, (tol, model, x, weights))


@_attach.defjvp
@precise
def _attach_jvp(options: _Options, primals: Any, tangents: Any) -> tuple[Fit, Fit]:
    if options.wanders:
        raise ValueError(
            f"Implicit: expected a solver that ends where the objective is stationary; got {options.wanders}; "
            "differentiate its steps with adjoint=jem.adjoints.Unrolled(), or go on from its parameters with jem.solvers.EM()"
        )
    values, slopes = jax.jvp(functools.partial(_refine_all, options.dense_limit), primals, tangents)
    return _axes_first(values, primals[1:]), slopes


@jax.custom_jvp
def _axes_first(fits: Fit, given: Any) -> Fit:
    """The fits; under `vmap` all their leaves have the mapped axis, in front, where anything given has one.

    Differentiated under `vmap`, a `custom_jvp` function and its rule must place mapped axes alike, and JAX leaves that to them.
    """
    return _place_axes(fits, given)


@_axes_first.defjvp
def _axes_first_jvp(primals: Any, tangents: Any) -> tuple[Fit, Fit]:
    return _axes_first(*primals), tangents[0]


@custom_vmap
def _place_axes(fits: Fit, given: Any) -> Fit:
    return fits


@_place_axes.def_vmap
def _place_axes_rule(axis_size: int, in_batched: Any, fits: Fit, given: Any) -> tuple[Fit, Fit]:
    spread = lambda leaf, mapped: leaf if mapped else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
    return _place_axes(jax.tree.map(spread, fits, in_batched[0]), given), jax.tree.map(lambda _: True, fits)


def _refine_all(dense_limit: int, fits: Fit, tol: Any, model: Node, x: Data, weights: Array | None) -> Fit:
    """Every lane at its polished fixed point, as a function of model, x and weights; one lane at a time."""
    fits, tol = lax.stop_gradient((fits, tol))
    refine = lambda fit: _refine(dense_limit, fit, tol, model, x, weights)
    if fits.objective.shape[0] == 1:
        return jax.tree.map(lambda leaf: leaf[None], refine(jax.tree.map(lambda leaf: leaf[0], fits)))
    return lax.map(refine, fits)


def _refine(dense_limit: int, fit: Fit, tol: Any, model: Node, x: Data, weights: Array | None) -> Fit:
    found = _polish(target(*lax.stop_gradient((model, x, weights)), fit.params), fit, dense_limit, tol)
    ok = found.adjoint.status != AdjointStatus.FAILED
    # Zero times NaN is NaN: derivatives that are none are cut off at both ends, going in forwards and backwards alike.
    model, x, weights = jax.tree.map(lambda a: jnp.where(ok, a, lax.stop_gradient(a)), (model, x, weights))
    z = _fixed_point(found, fit.params, model, x, weights)
    t = target(model, x, weights, fit.params)
    here = level(t, z)
    refined = fit._replace(
        params=params_at(t, z),
        log_likelihood=here.log_likelihood,
        objective=here.objective,
        bound=here.log_likelihood,
        adjoint=found.adjoint,
    )
    return jax.tree.map(lambda new, old: jnp.where(ok, new, old), refined, fit._replace(adjoint=found.adjoint))


class _Found(NamedTuple):
    """A polished point, the information there (diagonal scale only, above the dense limit), and a report."""

    point: Array
    curvature: Curvature | Array
    adjoint: Adjoint


@jax.custom_jvp
def _fixed_point(found: _Found, like: Params, model: Node, x: Data, weights: Array | None) -> Array:
    """The fixed point found, as a function of model, x and weights."""
    return found.point


@_fixed_point.defjvp
@precise
def _fixed_point_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    found, like, *inputs = primals
    z = _fixed_point(*primals)  # with derivatives of its own
    score = lambda z, inputs: level(target(*inputs, like), z).score
    # A pass over the data of which nothing is kept but the data.
    push = jax.checkpoint(lambda z, inputs, dots: jax.jvp(lambda a: score(z, a), (inputs,), (dots,))[1])
    change = push(z, tuple(inputs), tuple(tangents[2:]))
    here = target(*inputs, like)
    product = lambda v: -jax.jvp(lambda z: level(here, z).score, (z,), (v,))[1]
    solve = lambda product, b: _solve(found.curvature, product, b)
    return z, lax.custom_linear_solve(product, change, solve, symmetric=True)


def _solve(c: Curvature | Array, product: Any, b: Array) -> Array:
    """`I^+ b`; what was taken apart a little off the fixed point is made good by products with the information there."""
    if not isinstance(c, Curvature):
        return _solve_large(c, product, b)[0]
    enough = jnp.finfo(b.dtype).eps ** (2 / 3)

    def refine(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, x, _ = state
        change = c.solve(b - product(x))
        return count + 1, x + change, jnp.max(jnp.abs(change))

    def going(state: tuple[Array, Array, Array]) -> Array:
        count, x, change = state
        return (count < _REFINEMENTS) & (change > enough * jnp.max(jnp.abs(x)))

    return lax.while_loop(going, refine, (jnp.array(0), c.solve(b), jnp.array(jnp.inf, b.dtype)))[1]


def _solve_large(scale: Array, product: Any, b: Array) -> tuple[Array, Array]:
    """By products with the information, scaled by that of the complete data."""
    tolerance = float(jnp.finfo(b.dtype).eps) ** (2 / 3)
    x, outside = solve_symmetric(lambda v: scale * product(scale * v), scale * b, tolerance, 4 * b.shape[0])
    return scale * x, outside


class _Polishing(NamedTuple):
    step: Array
    point: Array
    curvature: Curvature | Array
    first: Curvature | Array  # the one at the start
    taken_at: Array  # distance at which the curvature was taken
    distance: Array
    residual: Array
    done: Array


def _tells_flat(c: Curvature | Array, taken_at: Array, near: Any) -> Array:
    """Whether the information was taken near enough to tell flat directions from others; it is off by about `taken_at`."""
    if not isinstance(c, Curvature):
        return taken_at <= near
    return (taken_at <= near) | (jnp.min(jnp.abs(c.values)) > 100 * taken_at)


def _polish(t: Target, fit: Fit, dense_limit: int, tol: Any) -> _Found:
    """Newton steps on the score; the information is formed anew only where the last one no longer does.

    Steps longer than about one standard error are damped to that (Nesterov and Nemirovskii, 1994): the climb stays in its
    basin. Where they lead nowhere the point stays where it was, and so does a fit that failed.
    """
    start = start_of(t)
    eps = jnp.finfo(start.dtype).eps
    tol = eps ** (2 / 3) if tol is None else tol
    dense = start.shape[0] <= dense_limit
    may_move = (fit.status == Status.CONVERGED) | (fit.status == Status.MAX_STEPS) | (fit.status == Status.DEGENERATE)
    near = eps**0.5

    def direction(c: Any, z: Array, score: Array) -> tuple[Array, Array]:
        if dense:
            d = c.ascend(score)
        else:
            d = _solve_large(c, lambda v: -jax.jvp(lambda z: level(t, z).score, (z,), (v,))[1], score)[0]
        return d, jnp.sqrt(jnp.maximum(d @ score, 0))

    def body(s: _Polishing) -> _Polishing:
        score, _, _, stats = level(t, s.point)
        c, old = s.curvature, s.distance
        stale = jnp.array(False)
        if dense:
            distance = direction(c, s.point, score)[1] / jnp.sqrt(t.total_weight)
            stale = (s.step == 0) | ~(distance <= 0.25 * old) | ((distance <= near) & ~_tells_flat(c, s.taken_at, near))
            c = lax.cond(stale, lambda: curvature(t, s.point, stats), lambda: c)
        move, length = direction(c, s.point, score)
        distance = length / jnp.sqrt(t.total_weight)
        taken_at = jnp.where(stale | ~jnp.array(dense), distance, s.taken_at)
        stuck = stale & (distance > 0.5 * old) & (distance <= near)  # as near as rounding lets it come
        done = ((distance <= tol) & _tells_flat(c, taken_at, near)) | stuck | ~jnp.isfinite(distance) | ~may_move
        damped = move * jnp.where(length > 0.25, 1 / (1 + length), 1)
        go = may_move & jnp.isfinite(distance)
        return _Polishing(
            step=s.step + 1,
            point=jnp.where(go, s.point + damped, s.point),
            curvature=c,
            first=tree.where(s.step == 0, c, s.first),
            taken_at=taken_at,
            distance=distance,
            residual=jnp.max(jnp.abs(score)),
            done=done,
        )

    far = jnp.array(jnp.inf, start.dtype)
    if dense:
        square = jnp.zeros((start.shape[0], start.shape[0]), start.dtype)
        first: Curvature | Array = Curvature(square, start, far)
    else:
        first = _scale(t, start)
    begin = _Polishing(jnp.array(0), start, first, first, far, far, far, jnp.array(False))
    end = lax.while_loop(lambda s: ~s.done & (s.step < _MANY), body, begin)
    arrived = end.distance <= 10 * near
    end = end._replace(
        point=jnp.where(arrived, end.point, start), curvature=tree.where(arrived, end.curvature, end.first)
    )
    if isinstance(end.curvature, Curvature):
        # At a distance from the fixed point, what is flat curves by about that much.
        flat = jnp.maximum(eps ** (2 / 3), jnp.where(arrived, 8 * end.taken_at, 0))
        end = end._replace(curvature=end.curvature._replace(tolerance=flat.astype(start.dtype)))
    return _Found(end.point, end.curvature, _report(t, end, near))


def _scale(t: Target, z: Array) -> Array:
    diagonal = jnp.diagonal(complete_information(t, z, level(t, z).stats))
    return 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, jnp.maximum(jnp.max(diagonal, initial=0.0), 1)))


def _report(t: Target, end: _Polishing, near: Any) -> Adjoint:
    flat = end.curvature.num_flat if isinstance(end.curvature, Curvature) else jnp.array(-1)
    finite = jnp.isfinite(end.distance) & tree.all_finite((end.point, end.curvature))
    status = jnp.where(flat > 0, AdjointStatus.SINGULAR, AdjointStatus.SOLVED)
    status = jnp.where(end.distance <= 10 * near, status, AdjointStatus.UNPOLISHED)
    status = jnp.where(finite, status, AdjointStatus.FAILED)
    return Adjoint(status.astype(jnp.int32), end.residual / t.total_weight, end.distance, flat.astype(jnp.int32))

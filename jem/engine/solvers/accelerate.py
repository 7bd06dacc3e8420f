"""Solvers around a solver that need fewer steps: they extrapolate its path in free coordinates, and take back what falls."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jem import tree
from jem.coordinates import ravel, unravel
from jem.engine.path import Path, ages, begin
from jem.engine.step import EM, GAINS, Around, Evaluated, Proposal, carried
from jem.engine.stream import Total
from jem.kernels.linalg import diagonal, solve_symmetric
from jem.node import Node, Params, node, setting, static
from jem.settings import number, whole

_STIFF = 1e4  # a damping at which the extrapolated step is the plain one
_PIVOT = 0.01  # least pivot of a curvature matrix of unit diagonal


class Accelerator(Around):
    """What accelerators share: only extrapolated steps are taken back, and the inner solver's step follows."""

    @property
    def traits(self) -> frozenset[str]:
        """The inner solver's, but for GAINS: an accelerated path is not EM's."""
        return self.solver.traits - {GAINS}


class Ahead(NamedTuple):
    """The inner solver's step from the point accepted last, to fall back on, and the plain steps in a row that led to it."""

    candidate: Params
    plain: Array


def _ahead(proposal: Proposal) -> Ahead:
    return Ahead(proposal.candidate, jnp.asarray(proposal.plain, jnp.int32))


def _told_apart(ahead: Proposal, plain: Array, **changes: Any) -> Proposal:
    """The inner solver's proposal after so many plain steps of the accelerator: after none of them it may be taken back."""
    return ahead._replace(plain=jnp.minimum(plain, ahead.plain), retries=(plain == 0) | ahead.retries, **changes)


def _choose(back: Array, seen: Evaluated, ahead: Ahead, proposal: Proposal) -> Proposal:
    """The plain step from the point accepted last where the extrapolated one is taken back, else the proposal."""
    plain = jnp.minimum(ahead.plain, 1)
    known = seen.proposal._replace(candidate=ahead.candidate, plain=plain, retries=False, refused=0)
    return tree.where(back, *(carried(p, seen.kept.dtype) for p in (known, proposal)))


class AndersonState(NamedTuple):
    """The inner solver's state, and what is known of the steps beside the path of the loop, `Evaluated.path`."""

    inner: Any
    ahead: Ahead
    residual: Array  # M(x) - x there, (n,)
    residuals: Array  # its last differences, in a ring of their own, (m, n)
    length: Array  # rows in use
    damping: Array
    plain: Array  # plain steps in a row that led to the candidate


@node
class Anderson(Accelerator):
    """Anderson acceleration of a solver's steps, damped, restarting and monotone.

    With x the free coordinates, r = M(x) - x the plain step's residual, l the objective's gradient and dX, dR, dL the last m
    differences of these, the next point is

        x + r - (dX + dR) g,     -(dX^T dL) g = -dX^T l.

    It is the plain step from where the gradient, were it linear, would vanish along all the directions gone before: on a
    quadratic objective the conjugate-gradient point, with EM as the preconditioner. The gradient costs no pass over the data:
    it is that of Q at the parameters at which the statistics were gathered. The matrix is made symmetric and of unit diagonal,
    `damping` is added to that, and small pivots are raised, so that directions of the wrong curvature do no harm.

    A point is accepted if the objective does not fall; else the plain step from x, which is known already, follows, the
    history is dropped and the damping grows.

    Attributes:
        solver: the solver whose steps are accelerated.
        memory: m, differences kept; never more than half as many as there are coordinates.
        damping: the first damping, > 0; every accepted step divides it by `relax`, every refused one multiplies it by
            `relax^2`.
        relax: factor, > 1.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.Mixture(jem.Gaussian(), 3)
        >>> start = jem.init(model, jax.random.key(0), x)
        >>> slow, fast = [jem.fit(model, start, x, solver=s) for s in (jem.solvers.EM(), jem.solvers.Anderson())]
        >>> bool(fast.num_steps < slow.num_steps), bool(fast.objective > slow.objective - 1e-2)
        (True, True)

    Source: Anderson (1965), J. ACM 12; Fang and Saad (2009), Numer. Linear Algebra Appl. 16 (type I, here in the metric of the
    complete data's information); Jamshidian and Jennrich (1997), JRSS B 59; damping and restarts after Henderson and
    Varadhan (2019), J. Comput. Graph. Stat. 28.
    """

    solver: Any = EM()
    memory: int = static(default=10, must=whole(1))  # pyright: ignore[reportIncompatibleMethodOverride]
    damping: Any = setting(default=1e-2, must=number(above=0.0))
    relax: Any = setting(default=10.0, must=number(above=1.0))

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, AndersonState]:
        """The start, with an empty history."""
        start, inner = self.solver.init(model, params, total, lane)
        path = begin(model, params, self.memory)
        place = jnp.zeros(0) if path is None else path.last.place
        count = jnp.array(0, jnp.int32)
        return start._replace(plain=1), AndersonState(
            inner=inner,
            ahead=Ahead(params, count),
            residual=place,
            residuals=jnp.zeros((self._rows(place), place.shape[0]), place.dtype),
            length=count - 1,  # the first point makes no difference
            damping=jnp.asarray(self.damping, place.dtype),
            plain=count + 1,
        )

    def step(self, model: Node, seen: Evaluated, state: AndersonState) -> tuple[Proposal, AndersonState]:
        """The extrapolated step, or the plain one after a refusal and where the stopping rule waits for one."""
        steady, bold = seen.proposal.floor > -jnp.inf, state.plain == 0
        proposal, inner = self.solver.step(model, seen, state.inner)
        image = proposal.candidate
        if seen.path is None or seen.point is None:  # no coordinates to extrapolate in
            return proposal, state._replace(inner=inner)
        place = seen.point.place
        residual = ravel(model, image) - place
        usable = seen.accepted & tree.all_finite((seen.point, residual))
        eps = jnp.finfo(place.dtype).eps
        eased = jnp.where(bold & seen.accepted, jnp.maximum(state.damping / self.relax, eps), state.damping)
        new = self._remember(seen, state, residual, usable)
        rows = self._rows(place)
        order = ages(seen.path)[:rows]
        g = _coefficients(seen.path, order, new.length, eased)
        ahead = place + residual - g @ (seen.path.steps.place[order] + new.residuals[ages(seen.path, rows)])
        go = usable & steady & ~seen.close & (new.length > 0) & jnp.all(jnp.isfinite(ahead))
        plain = jnp.where(go, 0, jnp.minimum(state.plain + 1, 2))
        candidate = tree.where(go, unravel(model, ahead, image), image)
        new = new._replace(inner=inner, ahead=_ahead(proposal), damping=eased, plain=plain)
        back = state._replace(
            length=jnp.zeros_like(state.length),
            damping=jnp.minimum(state.damping * self.relax**2, _STIFF),
            plain=jnp.ones_like(state.plain),
        )
        refused = bold & ~seen.accepted
        proposal = _told_apart(proposal, plain, candidate=candidate)
        return _choose(refused, seen, state.ahead, proposal), tree.where(refused, back, new)

    def _remember(self, seen: Evaluated, state: AndersonState, residual: Array, usable: Array) -> AndersonState:
        """The state with the residual's last difference beside the path's last row."""
        assert seen.path is not None
        rows = self._rows(residual)
        length = jnp.where(seen.path.count > 1, state.length, -1)  # the path begins anew here
        row = (jnp.arange(rows) == ages(seen.path, rows)[0]) & usable & (length >= 0)
        return state._replace(
            residual=jnp.where(usable, residual, state.residual),
            residuals=jnp.where(row[:, None], residual - state.residual, state.residuals),
            length=jnp.where(usable, jnp.minimum(length + 1, rows), length),
        )

    def _rows(self, place: Array) -> int:
        """Differences kept."""
        return min(self.memory, max(1, (place.shape[0] + 1) // 2))


def _coefficients(path: Path, order: Array, length: Array, damping: Array) -> Array:
    """The coefficients g (m,) of the rows in this order; those of rows not in use, or of the wrong curvature, are zero."""
    steps, scores = path.steps.place[order], path.steps.score[order]
    curvature = -(steps @ scores.T)
    squares = jnp.where(jnp.arange(order.shape[0]) < length, diagonal(curvature), 0)
    tiny = jnp.finfo(squares.dtype).tiny
    unit = jnp.where(squares > tiny, 1 / jnp.sqrt(jnp.maximum(squares, tiny)), 0)
    eye = jnp.eye(order.shape[0], dtype=squares.dtype)
    scaled = 0.5 * (curvature + curvature.T) * unit[:, None] * unit[None, :] * (1 - eye) + (1 + damping) * eye
    return -unit * solve_symmetric(scaled, unit * (steps @ path.last.score), jnp.asarray(_PIVOT, unit.dtype)).x


class SquaremState(NamedTuple):
    """The inner solver's state; the cycle's first point and residual; the plain step to fall back on; the longest step."""

    inner: Any
    point: Array  # (n,)
    residual: Array  # (n,)
    ahead: Ahead
    turn: Array  # what is evaluated: 0, 1 the cycle's plain points, 2 the extrapolated one, 3 the plain step from a worse one
    longest: Array
    stride: Array  # a of the extrapolated point
    plain: Array


@node
class SQUAREM(Accelerator):
    """Squared extrapolation (scheme S3) of a solver's steps, with step bounds, monotone.

    From x two plain steps give r = M(x) - x and v = (M(M(x)) - M(x)) - r in free coordinates, and the next point is
    `x + 2 a r + a^2 v` with `a = |r| / |v|`, at least 1 and at most a bound that grows by `growth` when a step that met it is
    accepted, and shrinks by it when one is refused. A point is accepted if the objective does not fall, or does not after one
    plain step from there; else the second plain step from x, which is known already, follows. Three evaluations a cycle;
    nothing but two vectors is kept.

    Attributes:
        solver: the solver whose steps are accelerated.
        growth: factor of the bound, > 1.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.Mixture(jem.Gaussian(), 3)
        >>> start = jem.init(model, jax.random.key(0), x)
        >>> slow, fast = [jem.fit(model, start, x, solver=s) for s in (jem.solvers.EM(), jem.solvers.SQUAREM())]
        >>> bool(fast.num_steps < slow.num_steps), bool(fast.objective > slow.objective - 1e-2)
        (True, True)

    Source: Varadhan and Roland (2008), Scand. J. Stat. 35; the bounds are those of the R package SQUAREM.
    """

    solver: Any = EM()
    growth: Any = setting(default=4.0, must=number(above=0.0))

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, SquaremState]:
        """The start, the first point of the first cycle."""
        start, inner = self.solver.init(model, params, total, lane)
        path = begin(model, params, 0)
        point = jnp.zeros(0) if path is None else path.last.place
        count, one = jnp.array(0, jnp.int32), jnp.ones((), point.dtype)
        return start._replace(plain=1), SquaremState(
            inner=inner,
            point=point,
            residual=jnp.zeros_like(point),
            ahead=Ahead(params, count),
            turn=count,
            longest=one,
            stride=one,
            plain=count + 1,
        )

    def step(self, model: Node, seen: Evaluated, state: SquaremState) -> tuple[Proposal, SquaremState]:
        """A plain step, or after two of them the extrapolated one."""
        steady = seen.proposal.floor > -jnp.inf
        proposal, inner = self.solver.step(model, seen, state.inner)
        image = proposal.candidate
        if seen.path is None:  # no coordinates to extrapolate in
            return proposal, state._replace(inner=inner)
        point = ravel(model, seen.params)
        residual = ravel(model, image) - point
        worse = (state.turn >= 2) & ~seen.accepted
        # A worse point may lie beside a better path: one plain step decides.
        again = worse & (state.turn == 2) & jnp.all(jnp.isfinite(point + residual)) & tree.all_finite(image)
        back = worse & ~again
        second = (state.turn == 1) & seen.accepted & steady
        change = residual - state.residual
        length, bend = jnp.sqrt(jnp.sum(state.residual**2)), jnp.sqrt(jnp.sum(change**2))
        wanted = length / jnp.where(bend > 0, bend, 1)
        a = jnp.clip(wanted, 1, state.longest)
        ahead = state.point + 2 * a * state.residual + a * a * change
        go = second & ~seen.close & (a > 1) & (bend > 0) & jnp.all(jnp.isfinite(ahead))
        bolder = jnp.where(
            state.turn >= 2, seen.accepted & (state.stride >= state.longest), second & ~go & (a >= state.longest)
        )
        longest = jnp.where(bolder, state.longest * self.growth, state.longest)
        turn = jnp.where(go, 2, jnp.where(again, 3, jnp.where((state.turn == 0) & seen.accepted & ~back, 1, 0)))
        plain = jnp.where(go | again, 0, jnp.where(state.turn >= 2, 1, jnp.minimum(state.plain + 1, 2)))
        told = _told_apart(
            proposal,
            plain,
            candidate=tree.where(go, unravel(model, ahead, image), image),
            image=tree.where(worse, seen.proposal.image, proposal.image),
        )
        return _choose(back, seen, state.ahead, told), SquaremState(
            inner=inner,
            point=jnp.where(second, state.point, point),
            residual=jnp.where(second, state.residual, residual),
            ahead=tree.where(worse, state.ahead, _ahead(proposal)),
            turn=turn.astype(jnp.int32),
            longest=jnp.where(back & (state.stride >= longest), jnp.maximum(longest / self.growth, 1), longest),
            stride=jnp.where(go, a, state.stride),
            plain=plain,
        )

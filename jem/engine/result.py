"""What a fit returns: parameters, a status per lane with its prose, and the trace of the objective."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jem.backend import precise
from jem.engine.coded import Coded, FitError
from jem.node import BOUNDARY, EMPTY, ENDLESS, HELD, LEAF, SEPARATED


class Status(Coded):
    """How a lane ended. Decided in this order: finite? fell? degenerate? stuck? converged? steps left?"""

    RUNNING = -1, "still running"
    CONVERGED = 0, "the stopping rule was met"
    MAX_STEPS = 1, "max_steps was reached before the stopping rule was met; raise max_steps or loosen stop"
    NONFINITE = (
        2,
        "the objective, the expected statistics or the parameters became NaN or infinite, and the last finite ones were kept; "
        "look for NaN or infinity in the data and the start, and for rows that no component can produce",
    )
    DECREASED = (
        3,
        "the objective fell by more than rounding and the better parameters were kept; the M-step does not climb, or the "
        "log-density rounds by more than the node's `conditioning` says",
    )
    DEGENERATE = 4, "the parameters are not an answer; what is wrong is `Fit.cause`, and `Fit.check()` says what to do"
    SCREENED = 5, "the schedule gave this start up early, as it was not going to be the best"
    STUCK = (
        6,
        "the steps do not move a parameter along which the objective still rises; give it an M-step of its own, move it with "
        "solver=jem.solvers.GEM(optax.lbfgs), or hold it with jem.Frozen",
    )


MOST_SHOWN = 10  # optima of a table

_CAUSES = {
    EMPTY: "nothing belongs to some component or state; use fewer of them, or other starts",
    HELD: (
        "more than half of the variance in some direction is what the numbers' resolution makes, not the data; "
        "remove constant and duplicate columns and those that follow from others, use a simpler covariance "
        "(jem.covariance.Diagonal(), jem.FactorAnalysis) or fewer components, or choose a prior (jem.priors.InverseWishart)"
    ),
    BOUNDARY: "a variance is at zero, where the likelihood rises with it and EM cannot leave; start from a larger one",
    ENDLESS: (
        "the objective rises for ever, ever more slowly, along params{leaf}: it has no maximum, as with groups that an input "
        "separates; give the parameter a prior, leave out what separates, or say where it lies (supports=)"
    ),
    SEPARATED: (
        "the outputs leave coefficients of a regression without a maximum, as groups that an input separates do: they would "
        "grow for ever; give it a prior (ridge=...), or leave out the input that separates"
    ),
}


class Optimum(NamedTuple):
    """One optimum of several restarts.

    Attributes:
        objective: of the best lane that found it.
        num_lanes: how many did.
        lane: the number of the best of them.
        num_steps: the median of their steps.
    """

    objective: float
    num_lanes: int
    lane: int
    num_steps: int


class Optima(NamedTuple):
    """What restarts found; printed it is a table.

    Attributes:
        rows: the distinct optima, the highest first.
        others: how many lanes ended in every other way, by their status.
    """

    rows: list[Optimum]
    others: dict[Status, int]

    def __str__(self) -> str:
        head = f"{'optimum':>8}{'objective':>18}{'lanes':>8}{'best lane':>11}{'steps':>8}"
        lines = [
            f"{n:>8}{row.objective:>18.4f}{row.num_lanes:>8}{row.lane:>11}{row.num_steps:>8}"
            for n, row in enumerate(self.rows[:MOST_SHOWN], 1)
        ]
        more = len(self.rows) - MOST_SHOWN
        if more > 0:
            lines.append(f"{'...':>8} and {more} more, of {sum(row.num_lanes for row in self.rows[MOST_SHOWN:])} lanes")
        lines += [f"{count} of the lanes ended as {code.name}: {code.prose}" for code, count in self.others.items()]
        return "\n".join([head, *lines] if self.rows else ["no lane converged", *lines])


class Fit(NamedTuple):
    """A fit: numbers are scalars (); with restarts every field has a leading axis R.

    Attributes:
        params: the last accepted: finite, and not below their predecessors by more than rounding.
        status: int code of `jem.Status`.
        num_steps: steps taken, each with one pass over the data for its E-step; refused ones included.
        log_likelihood: weighted `log p(x | params)`.
        objective: log-likelihood + log prior: what never falls.
        trace: (max_steps + 1,) the objective at the start and after each step, then NaN.
        num_refusals: steps that would have lowered the objective and were taken back; 0 with plain EM.
        bound: the lower bound of the log-likelihood that was climbed, objective - log prior; with an exact E-step the
            log-likelihood itself.
        rate: rate of convergence of plain steps at the end, 0 to 1: the fraction of missing information in the slowest
            direction. A step leaves `rate` of the distance to the limit; NaN where too few steps show it, and with accelerated
            solvers, whose path is not EM's.
        steps_left: with MAX_STEPS, how many more steps the stopping rule would have taken, as the gains shrink (NaN where they
            do not, or the rule forecasts nothing); 0 with any other status.
        remaining: nats that the climb still has before it, as its last steps and the score predict; about half the squared
            distance to the maximum in standard errors. Infinite where they show no maximum; NaN where the model does not say
            where its parameters lie.
        probes: log-densities at a few units of the data, by which restarts tell optima apart; empty from `jem.fit`.
        adjoint: where the fit is differentiated, how far its derivatives are to be trusted (`jem.adjoints.Adjoint`).
        cause: with DEGENERATE what is, the sum of some of EMPTY = 1 (a component or state that nothing belongs to), HELD = 2 (a
            direction in which more than half of the variance is not the data's), BOUNDARY = 4 (a variance at its boundary
            where that is not a maximum), ENDLESS = 8 (a parameter along which the objective rises for ever, 256 times the
            number of its leaf added) and SEPARATED = 16 (coefficients of a regression without a maximum); 0 with any other
            status.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> fits = jem.fit_restarts(jem.Mixture(jem.Gaussian(), 2), jax.random.key(0), x, num_restarts=4)
        >>> fits.objective.shape
        (4,)
        >>> bool(fits.best().converged)
        True
    """

    params: Any
    status: Array
    num_steps: Array
    log_likelihood: Array
    objective: Array
    trace: Array
    num_refusals: Array
    bound: Array
    rate: Array
    steps_left: Array
    remaining: Any = None
    probes: Any = None
    adjoint: Any = None
    cause: Any = None

    @property
    def kl(self) -> Array:
        """`KL(q || p(z | x, params)) = log_likelihood - bound`, summed over rows: what a restricted E-step leaves; else 0."""
        return self.log_likelihood - self.bound

    @property
    def limit(self) -> Array:
        """The objective that the climb leads to, as far as its end shows: `objective + remaining`, or the objective alone."""
        if self.remaining is None:
            return self.objective
        return self.objective + jnp.where(jnp.isfinite(self.remaining), self.remaining, 0)

    @property
    def converged(self) -> Array:
        """Whether the stopping rule was met: () or (R,) bool."""
        return self.status == Status.CONVERGED

    def best(self) -> "Fit":
        """The lane whose climb leads highest, of those that ended well where there are any.

        Lanes rank by how they ended, then by the predicted limit of the objective, `objective + remaining`: converged or out of
        steps; then screened or stuck; then degenerate; then decreased or non-finite. A NaN never wins. Works inside jit.
        """
        if self.objective.ndim == 0:
            return self
        return _best(self)

    def num_optima(self, tolerance: float = 1e-5) -> int:
        """Number of distinct optima among the lanes that converged.

        Two lanes count as one where their predicted limits differ by no more than `tolerance * |objective|`, or than what is
        left of them, and their log-densities at the probe units by no more than a hundredth: optima of equal height are
        different where their densities are. Not for use inside jit.
        """
        return len(self.optima(tolerance).rows)

    def optima(self, tolerance: float = 1e-5) -> Optima:
        """The distinct optima among the lanes that converged, the highest first; printed it is a table. Not inside jit.

        Args:
            tolerance: as for `num_optima`.
        """
        status = np.atleast_1d(np.asarray(self.status))
        objective, steps = (np.atleast_1d(np.asarray(a)) for a in (self.objective, self.num_steps))
        lanes = np.flatnonzero(status == Status.CONVERGED)
        group = _alike(self, lanes, tolerance)
        rows = []
        for number in range(int(group.max(initial=-1)) + 1):
            mine = lanes[group == number]
            best = mine[np.argmax(objective[mine])]
            rows.append(Optimum(float(objective[best]), len(mine), int(best), int(np.median(steps[mine]))))
        others = {code: int(np.sum(status == code)) for code in Status if code != Status.CONVERGED}
        return Optima(rows, {code: count for code, count in others.items() if count})

    def __str__(self) -> str:
        """How it ended, how good it is, the parameters in the terms of their users; of restarts the optima and the best."""
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self)):
            return repr(self)
        if self.objective.ndim == 0:
            return "\n".join([*_ending(self), "parameters", *described(self.params)])
        return f"{self.status.size} restarts\n{self.optima()}\n\nthe best lane:\n{self.best()}"

    def check(self) -> "Fit":
        """Returns the fit itself where every lane converged or was screened, and raises `FitError` otherwise.

        The error gives each cause with what to do about it, and names the failed restarts. Not for use inside jit.
        """
        status = np.atleast_1d(np.asarray(self.status))
        lines = []
        for code in Status:
            lanes = np.flatnonzero(status == code)
            if code in (Status.CONVERGED, Status.SCREENED) or lanes.size == 0:
                continue
            if code == Status.DEGENERATE and self.cause is not None:
                lines += _degenerate(self, lanes)
                continue
            who = "" if self.objective.ndim == 0 else f" [restarts {_list(lanes)}; {lanes.size} of {status.size}]"
            lines.append(f"{code.name}: {code.prose}{_forecast(self, lanes) if code == Status.MAX_STEPS else ''}{who}")
        if lines:
            raise FitError("\n".join(lines))
        return self


def _alike(fits: Fit, lanes: np.ndarray, tolerance: float) -> np.ndarray:
    """The number of the optimum of each of these lanes, from the highest on."""
    limit = np.atleast_1d(np.asarray(fits.limit, float))[lanes]
    left = np.atleast_1d(np.asarray(fits.limit - fits.objective, float))[lanes]
    probes = np.zeros((1, 0)) if fits.probes is None else np.atleast_2d(np.asarray(fits.probes, float))
    probes = np.broadcast_to(probes, (max(len(probes), lanes.max(initial=0) + 1), probes.shape[1]))[lanes]
    probes = np.where(np.isfinite(probes), probes, np.nan)
    near = np.maximum(tolerance * np.max(np.abs(limit), initial=0.0), left)
    group = np.full(lanes.size, -1)
    for lane in np.argsort(-limit):  # the highest first; each joins the first lane that it cannot be told from
        apart = _mean_finite(np.abs(probes - probes[lane])) / (1 + _mean_finite(np.abs(probes[lane])))
        same = (np.abs(limit - limit[lane]) <= near + near[lane]) & (apart <= 1e-2) & (group >= 0)
        group[lane] = group[np.argmax(same)] if same.any() else group.max() + 1
    return group


def _ending(fit: Fit) -> list[str]:
    """Status and figures of one fit, in lines."""
    status = Status(int(fit.status))
    why = status.prose
    if status == Status.DEGENERATE and fit.cause is not None:
        why = "; ".join(line.removeprefix(f"{status.name}: ") for line in _degenerate(fit, np.arange(1)))
    if status == Status.MAX_STEPS:
        why += _forecast(fit, np.arange(1))
    lines = [f"{status.name} after {int(fit.num_steps)} steps: {why}"]
    lines += [f"log-likelihood  {float(fit.log_likelihood):.9g}"]
    lines += [f"objective       {float(fit.objective):.9g}, prior included"] if fit.objective != fit.log_likelihood else []
    if fit.remaining is not None and np.isfinite(fit.remaining):
        lines.append(f"remaining       {float(fit.remaining):.2g} nats")
    lines += [f"rate            a step leaves {float(fit.rate):.3g} of the distance"] if np.isfinite(fit.rate) else []
    return lines


def described(params: Any, name: str = "") -> list[str]:
    """Parameters in lines, a field each; where a record knows its covariance, that in place of its factor."""
    if params is None:
        return []
    if isinstance(params, dict) or hasattr(params, "_asdict"):
        fields = dict(params if isinstance(params, dict) else params._asdict())
        matrix = next((m for m in ("covariance", "scale_matrix") if "whitening" in fields and hasattr(params, m)), None)
        if matrix is not None:
            fields = {matrix if field == "whitening" else field: value for field, value in fields.items()}
            fields[matrix] = getattr(params, matrix)
    elif isinstance(params, (tuple, list)):
        fields = dict(enumerate(params))
    else:
        start = f"  {name or 'value':<23} "
        text = np.array2string(
            np.asarray(params), precision=4, suppress_small=True, threshold=24, edgeitems=2, max_line_width=100, prefix=start
        )
        return [start + text]
    return [line for field, value in fields.items() for line in described(value, f"{name}.{field}" if name else str(field))]


def _mean_finite(values: np.ndarray) -> np.ndarray:
    """The mean of the finite entries over the last axis, 0 where there are none."""
    finite = np.isfinite(values)
    return np.sum(np.where(finite, values, 0), -1) / np.maximum(np.sum(finite, -1), 1)


@jax.jit
@precise
def _best(fits: Fit) -> Fit:
    rank = jnp.array([4, 4, 0, 1, 2, 3, 3], fits.objective.dtype)[fits.status]
    limit = jnp.where(jnp.isfinite(fits.objective), fits.limit, -jnp.inf)
    index = jnp.argmax(jnp.where(rank == jnp.max(rank), limit, -jnp.inf))
    return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), fits)


def _forecast(fit: Fit, lanes: np.ndarray) -> str:
    """What score and gains say about what is missing."""
    nats = np.atleast_1d(np.asarray(fit.limit - fit.objective, float))[lanes]
    known = f"; about {np.max(nats):.2g} nats are left" if (nats > 0).any() else ""
    left = np.atleast_1d(np.asarray(fit.steps_left))[lanes]
    rate = np.atleast_1d(np.asarray(fit.rate))[lanes]
    if not np.isfinite(left).any():
        return known
    worst = int(np.nanargmax(left))
    speed = f" (rate of convergence {rate[worst]:.4g})" if np.isfinite(rate[worst]) else ""
    advice = "; jem.solvers.Anderson() or jem.solvers.SQUAREM() needs fewer" if rate[worst] > 0.9 and left[worst] > 20 else ""
    return f"{known}; about {left[worst]:.0f} more would do{speed}{advice}"


def _degenerate(fit: Fit, lanes: np.ndarray) -> list[str]:
    """A line for every cause, with the lanes that have it."""
    causes, lines = np.atleast_1d(np.asarray(fit.cause)), []
    for bit, prose in _CAUSES.items():
        some = lanes[(causes[lanes] & bit) > 0]
        who = "" if fit.objective.ndim == 0 else f" [restarts {_list(some)}; {some.size} of {causes.size}]"
        lines += [f"{Status.DEGENERATE.name}: {_with_leaf(prose, fit, some, causes)}{who}"] if some.size else []
    return lines


def _with_leaf(prose: str, fit: Fit, lanes: np.ndarray, causes: np.ndarray) -> str:
    """The words with the names of the parameters that they are about."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(fit.params)]
    return prose.replace("{leaf}", ", ".join(sorted({paths[leaf] for leaf in causes[lanes] >> LEAF})))


def _list(lanes: np.ndarray) -> str:
    head = ", ".join(map(str, lanes[:8]))
    return head + (", ..." if lanes.size > 8 else "")

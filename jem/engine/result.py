"""What a fit returns: parameters, a status per lane with its prose, and the trace of the objective."""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Status(enum.IntEnum):
    """How a lane ended. Decided in this order: finite? fell? converged? steps left?"""

    RUNNING = -1
    CONVERGED = 0
    MAX_STEPS = 1
    NONFINITE = 2
    DECREASED = 3
    DEGENERATE = 4
    SCREENED = 5

    @property
    def prose(self) -> str:
        """The cause, and what to do next."""
        return _PROSE[self]


_PROSE = {
    Status.RUNNING: "still running",
    Status.CONVERGED: "the stopping rule was met",
    Status.MAX_STEPS: "max_steps was reached before the stopping rule was met; raise max_steps or loosen stop",
    Status.NONFINITE: (
        "the objective or the parameters became NaN or infinite, and the last finite ones were kept; look for NaN or "
        "infinity in the data and the start, and for rows that no component can produce"
    ),
    Status.DECREASED: "the objective fell by more than rounding and the better parameters were kept; the M-step does not climb",
    Status.DEGENERATE: (
        "a component is empty, or a variance is held up by the prior or the data's resolution alone; use fewer components, "
        "a stronger prior, or drop constant and duplicate columns"
    ),
    Status.SCREENED: "the schedule gave this start up early, as it was not going to be the best",
}


class FitError(RuntimeError):
    """Raised by `Fit.check`."""


class Fit(NamedTuple):
    """A fit; with restarts every field has a leading axis R.

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
        adjoint: where the fit is differentiated, how far its derivatives are to be trusted (`jem.Adjoint`).

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
    adjoint: Any = None

    @property
    def kl(self) -> Array:
        """`KL(q || p(z | x, params)) = log_likelihood - bound`, summed over rows: what a restricted E-step leaves; else 0."""
        return self.log_likelihood - self.bound

    @property
    def converged(self) -> Array:
        """Whether the stopping rule was met: () or (R,) bool."""
        return self.status == Status.CONVERGED

    def best(self) -> "Fit":
        """The lane of the highest objective, of those that ended well where there are any.

        Lanes rank by how they ended, then by objective: converged or out of steps; then screened; then degenerate;
        then decreased or non-finite. A NaN never wins. Works inside jit.
        """
        if self.objective.ndim == 0:
            return self
        return _best(self)

    def num_optima(self, tolerance: float = 1e-5) -> int:
        """Number of distinct optima among the lanes that converged.

        Two lanes count as one where no gap larger than `tolerance * |objective|` separates their objectives in sorted
        order; lanes stop at a finite tolerance, so keep this well above the stopping rule's. Not for use inside jit.
        """
        objective = np.sort(np.asarray(self.objective)[np.asarray(self.status) == Status.CONVERGED])
        if objective.size == 0:
            return 0
        return 1 + int(np.sum(np.diff(objective) > tolerance * np.max(np.abs(objective))))

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
            who = "" if self.objective.ndim == 0 else f" [restarts {_list(lanes)}; {lanes.size} of {status.size}]"
            lines.append(f"{code.name}: {code.prose}{_forecast(self, lanes) if code == Status.MAX_STEPS else ''}{who}")
        if lines:
            raise FitError("\n".join(lines))
        return self


@jax.jit
def _best(fits: Fit) -> Fit:
    rank = jnp.array([4, 4, 0, 1, 2, 3], fits.objective.dtype)[fits.status]
    objective = jnp.where(jnp.isfinite(fits.objective), fits.objective, -jnp.inf)
    index = jnp.argmax(jnp.where(rank == jnp.max(rank), objective, -jnp.inf))
    return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), fits)


def _forecast(fit: Fit, lanes: np.ndarray) -> str:
    """What the gains say about the steps that are missing."""
    left = np.atleast_1d(np.asarray(fit.steps_left))[lanes]
    rate = np.atleast_1d(np.asarray(fit.rate))[lanes]
    if not np.isfinite(left).any():
        return ""
    worst = int(np.nanargmax(left))
    speed = f" (rate of convergence {rate[worst]:.4g})" if np.isfinite(rate[worst]) else ""
    advice = "; jem.Anderson() or jem.SQUAREM() needs fewer" if rate[worst] > 0.9 and left[worst] > 20 else ""
    return f"; about {left[worst]:.0f} more would do{speed}{advice}"


def _list(lanes: np.ndarray) -> str:
    head = ", ".join(map(str, lanes[:8]))
    return head + (", ..." if lanes.size > 8 else "")

"""A fit in words: why it ended, what its restarts found, whether to trust it, and what to try next."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem.ask.align import labelled_part, memberships
from jem.ask.asking import asked
from jem.ask.information import Oakes
from jem.ask.polish import ask
from jem.backend import precise
from jem.coordinates import num_free
from jem.data import row_weights, to_units, used_rows
from jem.engine.result import Fit, Status
from jem.node import Data, Node, Params

_RARE = 0.05  # share of the lanes below which an optimum may have better ones beside it
_FEW, _WORK = 100, 2e6  # free coordinates, and these times the rows, of which the curvature is looked at


def explain(node: Node, fit: Fit, x: Data, weights: Array | None = None) -> str:
    """Why a fit ended, what its restarts found, whether to trust it and what to try next, in words to print.

    Where a model is small, the curvature at the end is looked at too: whether it is a maximum, and whether the data tell all
    parameters apart.

    Args:
        node: the model.
        fit: from `jem.fit` or `jem.fit_restarts`.
        x: the data it was fitted to, N rows.
        weights: (N,) or None.

    Returns:
        Lines of text.

    Raises:
        ValueError: data or weights that do not fit the model.

    Example:
        >>> import jax, jem
        >>> model, x = jem.Mixture(jem.Gaussian(), 2), jem.datasets.old_faithful()
        >>> fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8)
        >>> print(jem.explain(model, fits, x))
        CONVERGED after ... steps: the stopping rule was met.
        All 8 restarts found the same optimum.
        The parameters lie within ... standard errors of the maximum that they climb to.
        Members of the components: 175.2, 96.8, of 272.
    """
    best = fit.best()
    params, x, weights = asked(node, best.params, x, weights)
    status = Status(int(best.status))
    words = [str(best).partition("\n")[0] + "."]
    words += _of_restarts(fit) if fit.objective.ndim else []
    left = np.nan if best.remaining is None else float(best.remaining)
    rising, loose = _curvature(node, params, x, weights) if status == Status.CONVERGED else (0, 0)
    if rising:
        words.append(
            "It is a saddle point, no maximum: along some direction the objective still rises to both sides. Fit from other "
            "starts, as jem.fit_restarts makes them."
        )
    elif status == Status.CONVERGED and np.isfinite(left):
        near = max(np.sqrt(2 * max(left, 0)), 1e-3)  # half the squared distance is what is left
        words.append(f"The parameters lie within {near:.1g} standard errors of the maximum that they climb to.")
    elif status not in (Status.CONVERGED, Status.MAX_STEPS):
        words.append("The parameters are not an answer: they are the last that were sound.")
    if loose and not rising:
        words.append(
            f"The data do not tell all parameters apart: {loose} of their directions change nothing. Look for equal or empty "
            "components; use fewer, a smaller model, or a prior."
        )
    if labelled_part(node) is not None and status != Status.NONFINITE:
        words.append(_of_members(np.asarray(_members(node, params, x, weights)), params))
    return "\n".join(words)


def _curvature(node: Node, params: Params, x: Data, weights: Array | None) -> tuple[int, int]:
    """In how many directions the objective rises, and in how many nothing changes but by convention; of a large model none."""
    num = num_free(node, params)
    if num > _FEW or num * row_weights(x, weights).shape[0] > _WORK:
        return 0, 0
    try:
        rising, flat = _directions(node, params, x, weights)
    except TypeError:  # a model of which there is no information
        return 0, 0
    return int(rising), max(0, int(flat) - sum(node.gauge(params).values()))


@jax.jit
@precise
def _directions(node: Node, params: Params, x: Data, weights: Array | None) -> tuple[Array, Array]:
    curvature = ask(Oakes(), node, params, x, weights).curvature
    return curvature.num_rising, curvature.num_flat


def _of_restarts(fits: Fit) -> list[str]:
    found, num = fits.optima(), fits.status.size
    if not found.rows:
        return [f"None of the {num} restarts converged: what they found cannot be compared."]
    top, *others = found.rows
    if not others and top.num_lanes == num:
        return [f"All {num} restarts found the same optimum."]
    words = [f"{top.num_lanes} of {num} restarts found the best optimum, lane {top.lane} among them."]
    if others:
        lower = top.objective - others[0].objective
        words.append(f"There are {len(others)} more optima, the next one {lower:.3g} nats lower.")
    if top.num_lanes <= max(1, _RARE * num):
        words.append("It was hardly ever found, and there may be better ones: use more restarts.")
    return words + [f"{count} ended as {code.name}." for code, count in found.others.items()]


def _of_members(members: np.ndarray, params: Params) -> str:
    text = ", ".join(f"{count:.4g}" for count in members[:20]) + (", ..." if len(members) > 20 else "")
    words = f"Members of the components: {text}, of {members.sum():.4g}."
    own = sum(leaf.size for leaf in jax.tree.leaves(params)) / len(members)
    few = np.flatnonzero(members < own)
    if few.size:
        words += (
            f"\nFewer members than the {own:.0f} numbers that describe it: component {', '.join(map(str, few[:8]))}; use fewer "
            "components, a simpler covariance, or a prior."
        )
    return words


@jax.jit
@precise
def _members(node: Node, params: Params, x: Data, weights: Array | None) -> Array:
    units, w = to_units(used_rows(x, weights)), row_weights(x, weights)
    return jnp.sum(memberships(node.bind(units, w), params, units, w), 1)

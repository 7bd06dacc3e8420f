"""How fits climbed: the traces of all lanes, the optima they found, and the bound beneath the likelihood."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

import jem
from jem.plots.canvas import INK, QUIET, axes_of, colour, finish

_NAMED = 5  # optima with a colour and a line in the legend


def trace(fits: jem.Fit, *, ax: Axes | None = None) -> Axes:
    """How far every lane was from the best limit at each step, `best limit - objective`, on a logarithmic scale.

    A straight line is EM's linear convergence, its slope the logarithm of `Fit.rate`; lanes that level off found another
    optimum. Lanes of one optimum have one colour; those that did not converge are grey.

    Args:
        fits: of `jem.fit` or `jem.fit_restarts`.
        ax: axes to draw on, or None for a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: no fit; axes that are none.

    Example:
        >>> import jax, jem, jem.plot
        >>> model, x = jem.Mixture(jem.Gaussian(), 2), jem.datasets.old_faithful()
        >>> jem.plot.trace(jem.fit_restarts(model, jax.random.key(0), x, num_restarts=4)).get_yscale()
        'log'

    Source: McLachlan and Krishnan (2008), The EM Algorithm and Extensions, section 3.9.
    """
    fits, ax = _lanes(fits, "trace"), axes_of(ax)
    traces, group = np.atleast_2d(np.asarray(fits.trace, float)), _groups(fits)
    limit = np.atleast_1d(np.asarray(fits.limit, float))
    top = np.max(limit[group >= 0], initial=-np.inf) if (group >= 0).any() else np.nanmax(traces)
    least = np.finfo(np.asarray(fits.trace).dtype).eps * max(1.0, abs(top))  # what rounding leaves of a difference
    seen = set()
    for lane in np.argsort(-group, kind="stable"):  # the best optimum on top
        gap = np.maximum(top - traces[lane], least)
        number = int(group[lane])
        named = 0 <= number < _NAMED
        label = f"optimum {number + 1}" if named else "others" if number >= 0 else "not converged"
        steps = np.flatnonzero(np.isfinite(gap))
        style: dict[str, Any] = {"color": colour(number) if named else QUIET, "linewidth": 1.2, "alpha": 0.8}
        ax.plot(steps, gap[steps], label=None if label in seen else label, **style)
        seen.add(label)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: (not labels[i].startswith("optimum"), labels[i]))
    ax.legend([handles[i] for i in order], [labels[i] for i in order], frameon=False)
    return finish(ax, "step", "nats below the best limit")


def optima(fits: jem.Fit, *, ax: Axes | None = None) -> Axes:
    """The distinct optima that restarts found, the highest first, by the lanes that found each.

    Args:
        fits: of `jem.fit_restarts`.
        ax: axes to draw on, or None for a new figure.

    Returns:
        The axes: a bar for each optimum, and one for each way in which other lanes ended.

    Raises:
        TypeError: no fit; axes that are none.

    Example:
        >>> import jax, jem, jem.plot
        >>> model, x = jem.Mixture(jem.Gaussian(), 2), jem.datasets.old_faithful()
        >>> fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=4)
        >>> len(jem.plot.optima(fits).patches) == len(fits.optima().rows)
        True

    Source: Biernacki, Celeux and Govaert (2003), Computational Statistics and Data Analysis 41.
    """
    fits = _lanes(fits, "optima")
    found = fits.optima()
    labels = [f"{row.objective:.3f}" for row in found.rows] + [code.name for code in found.others]
    lanes = [row.num_lanes for row in found.rows] + list(found.others.values())
    ax = axes_of(ax, height=1.2 + 0.3 * len(labels))
    tones = [colour(i) if i < _NAMED else QUIET for i in range(len(found.rows))] + ["#D9D9D9"] * len(found.others)
    ax.barh(range(len(labels)), lanes, color=tones)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finish(ax, "lanes", "objective at the optimum")


def bound(model: Any, params: Any, x: Any, *, num_steps: int = 6, ax: Axes | None = None) -> Axes:
    """The inequalities of EM on numbers: `F(q, theta) <= log p(x | theta)`, equal after each E-step, both rising.

    From the parameters on, each step is drawn in two: the M-step lifts F(q, theta), and the log-likelihood further still, by
    the divergence KL(q || p(z | x, theta)) that is shaded; the E-step closes that gap.

    Args:
        model: the node.
        params: where the steps begin.
        x: data with N rows.
        num_steps: EM steps.
        ax: axes to draw on, or None for a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: data or parameters that do not fit the model; a number of steps that is no integer of at least one.

    Example:
        >>> import jax, jem, jem.plot
        >>> model, x = jem.Mixture(jem.Gaussian(), 2), jem.datasets.old_faithful()
        >>> ax = jem.plot.bound(model, jem.init(model, jax.random.key(0), x), x, num_steps=3)
        >>> [line.get_label() for line in ax.lines[:2]]
        ['log-likelihood', 'bound F(q, theta)']

    Source: Neal and Hinton (1998), A view of the EM algorithm that justifies incremental, sparse, and other variants.
    """
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"bound: num_steps: expected an integer of at least 1; got {num_steps!r}")
    ax = axes_of(ax)
    at = [0.0]
    heights = [float(jem.log_prob(model, params, x).sum())]
    bounds = list(heights)
    for step in range(num_steps):
        new, _ = jem.em_step(model, params, x)
        log_likelihood = float(jem.log_prob(model, new, x).sum())
        at += [step + 0.5, step + 1.0]
        heights += [log_likelihood, log_likelihood]
        bounds += [float(jem.elbo(model, new, x, posterior_at=params)), log_likelihood]
        params = new
    ax.fill_between(at, bounds, heights, color=colour(1), alpha=0.35, linewidth=0, label="KL(q || p(z | x, theta))")
    ax.plot(at, heights, color=INK, linewidth=1.6, label="log-likelihood")
    ax.plot(at, bounds, color=colour(0), linewidth=1.6, label="bound F(q, theta)")
    ax.plot(at[::2], bounds[::2], "o", color=colour(0), markersize=4, label="_after an E-step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, loc="lower right")
    return finish(ax, "step", "nats")


def _lanes(fits: Any, name: str) -> jem.Fit:
    if not isinstance(fits, jem.Fit):
        raise TypeError(f"{name}: fits: expected a jem.Fit, of jem.fit or jem.fit_restarts; got {type(fits).__name__}")
    return fits


def _groups(fits: jem.Fit) -> np.ndarray:
    """The number of the optimum that each lane found, the highest 0; -1 where it did not converge."""
    limit, ok = np.atleast_1d(np.asarray(fits.limit, float)), np.atleast_1d(np.asarray(fits.converged))
    heights = np.array([row.objective for row in fits.optima().rows])
    group = np.full(len(limit), -1)
    if len(heights):
        group[ok] = np.abs(np.atleast_1d(np.asarray(fits.objective, float))[ok, None] - heights[None]).argmin(1)
    return group

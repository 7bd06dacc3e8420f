"""Sequences: the states of a chain under the series, and what a state-space model sees behind it."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

import jem
from jem.plots.canvas import INK, QUIET, axes_of, colour, column_of, finish

_QUANTILE = 1.959963984540054


def states(model: Any, params: Any, x: Any, *, sequence: int = 0, column: int = 0, ax: Axes | None = None) -> Axes:
    """One sequence over the most probable path of its states, `argmax_z p(z | x)`.

    Args:
        model: a chain, `jem.HMM`.
        params: its parameters.
        x: sequences (S, T, D), or `jem.sequences`.
        sequence: which of them.
        column: which feature.
        ax: axes to draw on, or None for a new figure.

    Returns:
        The axes: the background is in the colour of the state.

    Raises:
        ValueError: data or parameters that do not fit the model; a sequence or column that is not there.

    Example:
        >>> import jax, jem, jem.plot
        >>> x, model = jem.datasets.earthquakes()[1].reshape(1, -1, 1), jem.HMM(jem.Poisson(), 2)
        >>> jem.plot.states(model, jem.init(model, jax.random.key(0), x), x).get_xlabel()
        'step'

    Source: Zucchini and MacDonald (2009), Hidden Markov Models for Time Series, section 5.3.
    """
    series = _series(x, sequence, column, "states")
    path = np.asarray(jem.decode(model, params, x)[0])[sequence][: len(series)]
    ax = axes_of(ax, width=8.0, height=3.2)
    starts = np.flatnonzero(np.diff(path, prepend=path[0] - 1))
    for start, end in zip(starts, [*starts[1:], len(path)], strict=True):
        ax.axvspan(start - 0.5, end - 0.5, color=colour(path[start]), alpha=0.25, linewidth=0)
    ax.plot(np.arange(len(series)), series, color=INK, linewidth=1.0, marker=".", markersize=3)
    handles = [Patch(color=colour(k), alpha=0.25, label=f"state {k}") for k in np.unique(path)]
    ax.legend(handles=handles, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set_xlim(-0.5, len(series) - 0.5)
    return finish(ax, "step", f"column {column}")


def signal(
    model: Any, params: Any, x: Any, *, sequence: int = 0, output: int = 0, num_ahead: int = 0, ax: Axes | None = None
) -> Axes:
    """What a state-space model sees behind one output, `C x_t` given all observations, with its 95% band; and what comes next.

    The band is of the signal, not of the observations; that of the steps ahead is of the observations.

    Args:
        model: a `jem.LDS` without inputs.
        params: its parameters.
        x: sequences (S, T, M), NaN where nothing was seen.
        sequence: which of them.
        output: which output.
        num_ahead: steps after the end to be forecast.
        ax: axes to draw on, or None for a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: a model that does not smooth.
        ValueError: data or parameters that do not fit the model; a sequence or output that is not there.

    Example:
        >>> import jem, jem.plot
        >>> level = jem.LDS(1, 1, fixed={"A": [[1]], "C": [[1]]})
        >>> x = jem.datasets.nile()[1].reshape(1, -1, 1)
        >>> jem.plot.signal(level, level.params(Q=[[1500.0]], R=[[15000.0]], m0=[1000.0]), x, num_ahead=5).get_ylabel()
        'output 0'

    Source: Durbin and Koopman (2012), Time Series Analysis by State Space Methods, section 2.4.
    """
    if not hasattr(model, "smooth"):
        raise TypeError(f"signal: expected a jem.LDS, which smooths; got {type(model).__name__}")
    series = _series(x, sequence, output, "signal")
    smoothed = model.smooth(params, x)
    loadings = np.asarray(params.C, float)[output]
    mean = np.asarray(smoothed.mean, float)[sequence][: len(series)]
    covariance = np.asarray(smoothed.covariance, float)[sequence][: len(series)]
    level = mean @ loadings
    width = _QUANTILE * np.sqrt(np.einsum("i,tij,j->t", loadings, covariance, loadings))
    ax, steps = axes_of(ax, width=8.0, height=3.4), np.arange(len(series))
    ax.plot(steps, series, ".", color=QUIET, markersize=5, label="observed")
    ax.fill_between(steps, level - width, level + width, color=colour(0), alpha=0.25, linewidth=0)
    ax.plot(steps, level, color=colour(0), linewidth=1.6, label="signal, 95%")
    if num_ahead:
        ahead = model.forecast(params, x, num_ahead)
        low, high = (np.asarray(end, float)[sequence, :, output] for end in ahead.interval(0.95))
        later = len(series) + np.arange(num_ahead)
        ax.fill_between(later, low, high, color=colour(1), alpha=0.25, linewidth=0)
        ax.plot(later, 0.5 * (low + high), color=colour(1), linewidth=1.6, label="forecast, 95%")
    ax.legend(frameon=False)
    return finish(ax, "step", f"output {output}")


def _series(x: Any, sequence: int, column: int, name: str) -> np.ndarray:
    """One feature of one sequence, up to its end."""
    values, lengths = (x.values, np.asarray(x.lengths)) if isinstance(x, jem.Sequences) else (x, None)
    values = np.asarray(values, float)
    if values.ndim not in (2, 3):
        raise ValueError(f"{name}: x: expected sequences (S, T, D); got shape {values.shape}; one sequence is x[None]")
    if not -len(values) <= sequence < len(values):
        raise ValueError(f"{name}: sequence: expected one from 0 to {len(values) - 1}; got {sequence}")
    end = values.shape[1] if lengths is None else int(lengths[sequence])
    one = values[sequence][:end]
    return one if values.ndim == 2 else column_of(one, column, f"{name}: column or output")

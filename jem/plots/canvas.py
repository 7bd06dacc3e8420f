"""What pictures share: axes, colours that all eyes tell apart, checks."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import jem

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F")
"""Okabe and Ito's, in which components, states and optima come; past the last they begin again."""

QUIET = "#9A9A9A"  # what is beside the point
INK = "#222222"


def axes_of(ax: Axes | None, width: float = 6.4, height: float = 4.0) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is None:
        return plt.subplots(figsize=(width, height), layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax: expected matplotlib Axes, or None for a new figure; got {type(ax).__name__}")
    return ax


def colour(number: int) -> str:
    """The colour of a component, state or optimum."""
    return COLOURS[number % len(COLOURS)]


def finish(ax: Axes, x: str, y: str) -> Axes:
    """Labels, and a frame that leaves the data to be seen."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def column_of(x: np.ndarray, column: int, name: str) -> np.ndarray:
    """One feature of rows or steps, along the last axis."""
    if not -x.shape[-1] <= column < x.shape[-1]:
        raise ValueError(f"{name}: expected a column from 0 to {x.shape[-1] - 1}; got {column}")
    return x[..., column]


def rows_of(x: Any, name: str) -> np.ndarray:
    """Rows (N, D) of numbers."""
    rows = np.asarray(jem.table(x) if _is_named(x) else x, float)
    if rows.ndim != 2:
        raise ValueError(f"{name}: expected rows, shape (N, D); got shape {rows.shape}")
    return rows


def column_name(x: Any, column: int, otherwise: str | None = None) -> str:
    """What a column is called: its name where the rows came as a table."""
    if not _is_named(x):
        return otherwise or f"column {column}"
    return str(jem.table(x).columns[column])


def _is_named(x: Any) -> bool:
    return hasattr(x, "column_names") or hasattr(x, "columns")

"""Mixtures: clusters with their ellipses, densities, responsibilities."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

import jem
from jem.plots.canvas import INK, axes_of, colour, column_name, column_of, finish, rows_of

_GRID = 200  # points along an axis


def clusters(
    model: Any, params: Any, x: Any, *, columns: tuple[int, int] = (0, 1), deviations: tuple[float, ...] = (1.0, 2.0),
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Rows in the colours of the components they most likely come from, and the ellipses of these.

    A row is the paler the less sure it is where it belongs. Ellipses are `(u - mean)^T Sigma^{-1} (u - mean) = c^2` in the
    two columns, of covariances, or of the scale matrices of a Student-t; rows of which one of the two is missing are left out.

    Args:
        model: a mixture.
        params: its parameters.
        x: rows (N, D); of a table its names label the axes.
        columns: the two features to draw.
        deviations: the c of the ellipses, > 0.
        ax: axes to draw on, or None for a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: data or parameters that do not fit the model; columns that are not there.
        TypeError: a model without responsibilities.

    Example:
        >>> import jax, jem, jem.plot
        >>> model, x = jem.Mixture(jem.Gaussian(), 2), jem.datasets.old_faithful()
        >>> len(jem.plot.clusters(model, jem.init(model, jax.random.key(0), x), x).patches)  # two of each component
        4

    Source: Fraley and Raftery (2002), JASA 97.
    """
    rows, (i, j) = rows_of(x, "clusters: x"), columns
    first, second = column_of(rows, i, "clusters: columns"), column_of(rows, j, "clusters: columns")
    shares = _shares(model, params, x, "clusters")
    ax = axes_of(ax, height=4.8)
    mine, sure = shares.argmax(1), shares.max(1)
    least = 1 / shares.shape[1]
    strength = 0.2 + 0.6 * (sure - least) / max(1 - least, 1e-9)
    for k in range(shares.shape[1]):
        ours = mine == k
        alpha = np.clip(strength[ours], 0.2, 0.8)
        ax.scatter(first[ours], second[ours], s=14, color=colour(k), alpha=alpha, linewidths=0, label=f"component {k}")
    for k, (mean, matrix) in enumerate(_ellipses(params)):
        for c in deviations:
            ax.add_patch(_ellipse(mean[[i, j]], matrix[np.ix_([i, j], [i, j])], c, colour(k)))
        ax.plot(*mean[[i, j]], marker="+", color=INK, markersize=9)
    ax.legend(frameon=False)
    return finish(ax, column_name(x, i), column_name(x, j))


def density(model: Any, params: Any, x: Any, *, ax: Axes | None = None) -> Axes:
    """The density of a model of one or two features, beside the data.

    Of one feature the histogram, `p(x)` and, of a mixture, each component's part of it, `weights_k p_k(x)`; of two the rows
    and the lines that hold a half, nine tenths and 99 of a hundred of the rows.

    Args:
        model: a node of rows (N, 1) or (N, 2).
        params: its parameters.
        x: such rows.
        ax: axes to draw on, or None for a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: more features than two; data or parameters that do not fit the model.

    Example:
        >>> import jax, jem, jem.plot
        >>> model, x = jem.Mixture(jem.Gaussian(), 2), jem.datasets.old_faithful()[:, :1]
        >>> len(jem.plot.density(model, jem.init(model, jax.random.key(0), x), x).lines)  # all, and two parts
        3

    Source: Silverman (1986), Density Estimation for Statistics and Data Analysis, for what is beside it.
    """
    rows = rows_of(x, "density: x")
    if rows.shape[1] > 2:
        raise ValueError(f"density: x: expected one or two features; got {rows.shape[1]}; `clusters` draws two of several")
    rows = rows[~np.isnan(rows).any(1)]
    ax = axes_of(ax)
    if rows.shape[1] == 1:
        return _curve(model, params, rows, column_name(x, 0, "x"), ax)
    return finish(_contours(model, params, rows, ax), column_name(x, 0), column_name(x, 1))


def responsibilities(model: Any, params: Any, x: Any, *, ax: Axes | None = None) -> Axes:
    """How sure the rows are of their components: the responsibilities of each, rows sorted by component and by how sure.

    Args:
        model: a mixture.
        params: its parameters.
        x: its data, N rows.
        ax: axes to draw on, or None for a new figure.

    Returns:
        The axes: an area for each component; where colours meet steeply, components are apart.

    Raises:
        ValueError: data or parameters that do not fit the model.
        TypeError: a model without responsibilities.

    Example:
        >>> import jax, jem, jem.plot
        >>> model, x = jem.Mixture(jem.Gaussian(), 2), jem.datasets.old_faithful()
        >>> len(jem.plot.responsibilities(model, jem.init(model, jax.random.key(0), x), x).collections)
        2

    Source: McLachlan and Peel (2000), Finite Mixture Models, section 1.15.
    """
    shares = _shares(model, params, x, "responsibilities")
    ax = axes_of(ax, height=2.8)
    mine = shares.argmax(1)
    order = np.lexsort((-shares.max(1), mine))
    size = shares.shape[1]
    labels = [f"component {k}" for k in range(size)]
    ax.stackplot(np.arange(len(shares)), shares[order].T, colors=[colour(k) for k in range(size)], labels=labels, step="post")
    ax.set(xlim=(0, max(len(shares) - 1, 1)), ylim=(0, 1))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return finish(ax, "rows, sorted", "responsibility")


def _shares(model: Any, params: Any, x: Any, name: str) -> np.ndarray:
    """Responsibilities (N, K)."""
    posterior, _ = jem.infer(model, params, x)
    if not hasattr(posterior, "responsibilities"):
        raise TypeError(f"{name}: expected a mixture, which has responsibilities; got {type(model).__name__}")
    return np.asarray(posterior.responsibilities, float)


def _ellipses(params: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and covariance, or scale matrix, of each component that has them."""
    parts = getattr(params, "components", params)
    mean = getattr(parts, "mean", None)
    matrix = getattr(parts, "covariance", getattr(parts, "scale_matrix", None))
    if mean is None or matrix is None or np.ndim(mean) != 2:
        return []
    mean = np.asarray(mean, float)
    matrix = np.broadcast_to(np.asarray(matrix, float), (len(mean), *np.shape(matrix)[-2:]))
    return list(zip(mean, matrix, strict=True))


def _ellipse(mean: np.ndarray, matrix: np.ndarray, deviations: float, tone: str) -> Ellipse:
    values, axes = np.linalg.eigh(matrix)
    width, height = 2 * deviations * np.sqrt(np.maximum(values[::-1], 0))
    angle = np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))
    return Ellipse((float(mean[0]), float(mean[1])), width, height, angle=angle, fill=False, color=tone, linewidth=1.5)


def _around(values: np.ndarray, share: float = 0.1) -> np.ndarray:
    """A grid over values and a share of their range beyond."""
    low, high = values.min(), values.max()
    room = share * (high - low) or 1.0
    return np.linspace(low - room, high + room, _GRID)


def _curve(model: Any, params: Any, rows: np.ndarray, name: str, ax: Axes) -> Axes:
    values = rows[:, 0]
    whole = bool((values == np.round(values)).all()) and np.ptp(values) < _GRID  # counts are drawn where they lie
    grid = np.arange(values.min(), values.max() + 1) if whole else _around(values)
    posterior, log_prob = jem.infer(model, params, grid[:, None])
    height = np.exp(np.asarray(log_prob, float))
    bins = np.arange(values.min(), values.max() + 2) - 0.5 if whole else "auto"
    ax.hist(values, bins=bins, density=True, color="#D9D9D9")  # pyright: ignore[reportArgumentType]
    ax.plot(grid, height, color=INK, linewidth=1.6, label="density")
    for k, share in enumerate(np.asarray(getattr(posterior, "responsibilities", np.zeros((len(grid), 0)))).T):
        ax.plot(grid, share * height, color=colour(k), linewidth=1.4, label=f"component {k}")
    ax.legend(frameon=False)
    return finish(ax, name, "probability" if whole else "density")


def _contours(model: Any, params: Any, rows: np.ndarray, ax: Axes) -> Axes:
    across, up = _around(rows[:, 0], 0.25), _around(rows[:, 1], 0.25)
    grid = np.stack(np.meshgrid(across, up), -1)
    height = np.asarray(jem.log_prob(model, params, grid.reshape(-1, 2)), float).reshape(_GRID, _GRID)
    at_rows = np.asarray(jem.log_prob(model, params, rows), float)
    levels = np.unique(np.quantile(at_rows, [0.01, 0.1, 0.5]))
    ax.scatter(*rows.T, s=12, color="#BDBDBD", linewidths=0)
    ax.contour(across, up, height, levels=levels, colors=[colour(0)], linewidths=1.4, linestyles="solid")
    return ax

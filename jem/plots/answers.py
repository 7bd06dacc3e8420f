"""What was asked of models: criteria over a sweep, intervals of parameters, pairs of bootstrap replicates."""

from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jem.plots.canvas import INK, QUIET, axes_of, colour, finish

CRITERIA = ("bic", "aic", "icl")


def selection(table: Any, criterion: str = "bic", *, ax: Axes | None = None) -> Axes:
    """A criterion over the models of a sweep; the lowest, which is the best, is ringed.

    Where all names end in a number, as "VVE 3", a line for each kind runs over the numbers.

    Args:
        table: of `jem.sweep`.
        criterion: "bic", "aic" or "icl".
        ax: axes to draw on, or None for a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: no sweep.
        ValueError: a criterion of another name.

    Example:
        >>> import jax, jem, jem.plot
        >>> x, key = jem.datasets.old_faithful(), jax.random.key(0)
        >>> models = {f"full {k}": jem.Mixture(jem.Gaussian(), k) for k in (1, 2)}
        >>> len(jem.plot.selection(jem.sweep(models, key, x, num_restarts=2)).lines[0].get_xdata())
        2

    Source: Fraley and Raftery (2002), JASA 97.
    """
    if not hasattr(table, "rows") or not hasattr(table, "best"):
        raise TypeError(f"selection: table: expected what jem.sweep returns; got {type(table).__name__}")
    if criterion not in CRITERIA:
        raise ValueError(f"selection: criterion: expected one of {', '.join(CRITERIA)}; got {criterion!r}")
    ax = axes_of(ax)
    named = [(row.name, float(getattr(row, criterion))) for row in table.rows]
    split = [name.rsplit(maxsplit=1) for name, _ in named]
    over_sizes = all(part[-1].isdigit() for part in split)
    best = table.best(criterion)
    if over_sizes:
        kinds = list(dict.fromkeys(" ".join(part[:-1]) for part in split))
        for number, kind in enumerate(kinds):
            points = [(int(p[-1]), v) for p, (_, v) in zip(split, named, strict=True) if " ".join(p[:-1]) == kind]
            ax.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, color=colour(number), label=kind or None)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if kinds != [""]:
            ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        where = int(best.rsplit(maxsplit=1)[-1])
    else:
        ax.plot(range(len(named)), [v for _, v in named], "o", color=colour(0))
        ax.set_xticks(range(len(named)), [name for name, _ in named], rotation=45, ha="right")
        where = [name for name, _ in named].index(best)
    ax.plot(where, dict(named)[best], "o", markersize=12, fillstyle="none", color=INK)
    return finish(ax, "components" if over_sizes else "", criterion.upper())


def intervals(
    found: Any, *, level: float = 0.95, numbers: list[int] | None = None, names: list[str] | None = None,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Intervals of every number of the parameters, or of a function of them.

    Args:
        found: of `jem.standard_errors`, `jem.uncertainty.delta_method` or `jem.bootstrap`.
        level: their coverage, between 0 and 1.
        numbers: which to draw, in the order of the leaves; None takes all. Those of very different size are better apart.
        names: one for each that is drawn, top down; None takes the places in the parameters.
        ax: axes to draw on, or None for a new figure.

    Returns:
        The axes: a point and a line for each number; a hollow point where it has no standard error.

    Raises:
        TypeError: something without intervals.
        ValueError: a level that is not between 0 and 1; numbers that are not there; names that are too many or too few.

    Example:
        >>> import jem, jem.plot, jax.numpy as jnp
        >>> found = jem.standard_errors(jem.Poisson(), jem.Poisson.Params(jnp.array([2.5])), [[1], [4]])
        >>> [label.get_text() for label in jem.plot.intervals(found).get_yticklabels()]
        ['rate[0]']

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 12 and 13.
    """
    if not hasattr(found, "interval"):
        raise TypeError(f"intervals: found: expected jem.standard_errors or jem.bootstrap; got {type(found).__name__}")
    low, high = (_flat(end) for end in found.interval(level))
    middle = _flat(found.estimate) if hasattr(found, "estimate") else 0.5 * (low + high)
    places = _places(found.estimate if hasattr(found, "estimate") else jax.tree.map(lambda a: a[0], found.params))
    numbers = _numbers(numbers, places, "intervals")
    low, middle, high = low[numbers], middle[numbers], high[numbers]
    names = [places[i] for i in numbers] if names is None else list(names)
    if len(names) != len(middle):
        raise ValueError(f"intervals: names: expected {len(middle)} names, one for each number; got {len(names)}")
    ax = axes_of(ax, height=0.8 + 0.28 * len(names))
    for i, (a, m, b) in enumerate(zip(low, middle, high, strict=True)):
        known = bool(np.isfinite(a) and np.isfinite(b))
        if known:
            ax.plot([a, b], [i, i], color=colour(0), linewidth=2)
        ax.plot(m, i, "o", color=colour(0), fillstyle="full" if known else "none")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    return finish(ax, f"{100 * level:g}% interval", "")


def pairs(found: Any, *, numbers: list[int] | None = None) -> np.ndarray:
    """Bootstrap replicates of the parameters against each other: histograms of each number, and of each two the points.

    Args:
        found: of `jem.bootstrap`; replicates that did not converge are left out.
        numbers: which of the parameters' numbers, in the order of their leaves; None takes the first five that vary.

    Returns:
        The axes (n, n) of a new figure; those above the diagonal are not drawn on.

    Raises:
        TypeError: no bootstrap.
        ValueError: numbers that are not there; no replicate that converged.

    Example:
        >>> import jax, jem, jem.plot, jax.numpy as jnp
        >>> x, p = jem.datasets.old_faithful(), jem.Gaussian().params([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
        >>> boot = jem.bootstrap(jem.Gaussian(), jax.random.key(0), p, x, num_replicates=8)
        >>> jem.plot.pairs(boot, numbers=[0, 1]).shape
        (2, 2)

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 6.
    """
    if not hasattr(found, "params") or not hasattr(found, "ok"):
        raise TypeError(f"pairs: found: expected what jem.bootstrap returns; got {type(found).__name__}")
    ok = np.asarray(found.ok)
    if not ok.any():
        raise ValueError("pairs: no replicate converged; look at found.status")
    draws = np.concatenate([np.asarray(a, float).reshape(len(ok), -1) for a in jax.tree.leaves(found.params)], 1)[ok]
    names = _places(jax.tree.map(lambda a: a[0], found.params))
    if numbers is None:
        numbers = [int(i) for i in np.flatnonzero(draws.std(0) > 0)[:5]]
    numbers = _numbers(numbers, names, "pairs")
    size = len(numbers)
    figure, grid = plt.subplots(size, size, figsize=(2 * size + 1, 2 * size + 1), layout="constrained", squeeze=False)
    for row, i in enumerate(numbers):
        for col, j in enumerate(numbers):
            ax = grid[row, col]
            if col > row:
                ax.set_axis_off()
                continue
            if col == row:
                ax.hist(draws[:, i], bins="auto", color=colour(0))
                ax.set_yticks([])
            else:
                ax.plot(draws[:, j], draws[:, i], ".", color=QUIET, markersize=3)
            finish(ax, names[j] if row == size - 1 else "", names[i] if col == 0 else "")
    return grid


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, float).reshape(-1) for leaf in jax.tree.leaves(tree)])


def _numbers(numbers: list[int] | None, names: list[str], question: str) -> list[int]:
    """Which numbers are drawn."""
    numbers = list(range(len(names))) if numbers is None else list(numbers)
    if not numbers or not all(0 <= i < len(names) for i in numbers):
        raise ValueError(f"{question}: numbers: expected some of 0 to {len(names) - 1}; got {numbers}")
    return numbers


def _places(tree: Any) -> list[str]:
    """Names of all numbers of a tree, `mean[0, 1]`."""
    names = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        field = jax.tree_util.keystr(path).lstrip(".") or "value"
        names += [f"{field}[{', '.join(map(str, place))}]" if place else field for place in np.ndindex(np.shape(leaf))]
    return names

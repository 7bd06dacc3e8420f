"""What the command reads: the rows, what is known beside them, and how the model of that name takes them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jem
from jem.cli.models import MODELS, STEPS, Model, Shape, values_of
from jem.datasets.table import cell_name, read_table, read_words


class InputError(ValueError):
    """Something the user can put right; the message is one line."""


class Read(NamedTuple):
    """A file as it was read.

    Attributes:
        x: rows (N, D), in the order of the file.
        rows: what the model takes; None where that is x.
        names: of the D columns.
        inputs: names of the inputs.
        weights: (N,), or (S,) of sequences; None for ones.
        labels: (N,) int, -1 where unknown; None where there are none.
        label_names: what these stand for, where they are no numbers.
        order: (N,) the rows in the order of their sequences; None where these are none.
        lengths: (S,) of the sequences.
        shape: what a model must know of it.
    """

    x: np.ndarray
    rows: Any = None
    names: Sequence[str] = ()
    inputs: Sequence[str] = ()
    weights: Any = None
    labels: Any = None
    label_names: Sequence[str] = ()
    order: np.ndarray | None = None
    lengths: np.ndarray | None = None
    shape: Shape = Shape()

    @property
    def data(self) -> Any:
        """What the model takes."""
        return self.x if self.rows is None else self.rows

    @property
    def num_missing(self) -> int:
        """How many cells are missing."""
        return int(np.isnan(self.x).sum())

    @property
    def num_sequences(self) -> int:
        """S; 0 where units are rows."""
        return 0 if self.lengths is None else len(self.lengths)

    def by_rows(self, steps: Any) -> np.ndarray:
        """What there is for each step, (S, T, ...), in the order of the file, (N, ...)."""
        flat = np.asarray(jem.flat_rows(steps, self.lengths))
        found = np.empty_like(flat)
        found[self.order] = flat
        return found


def read(
    path: str, model: str, *, columns: str, inputs: str, weights: str, labels: str, sequence: str, trials: int, factors: int,
    dtype: str,
) -> Read:  # fmt: skip
    """Reads a file for the model of that name.

    Raises:
        TableError: what is wrong with the file.
        InputError: what is wrong with an option, or does not go with the model.
    """
    kind = MODELS[model]
    _check_options(kind, model, inputs=inputs, labels=labels, sequence=sequence, trials=trials)
    chosen, given = ([name.strip() for name in text.split(",")] if text else [] for text in (columns, inputs))
    beside = [*given, *(name for name in (weights, labels, sequence) if name)]
    x, names = read_table(path, chosen, without=beside, holes=kind.holes)
    x = cast(x, dtype, path, names)
    u = cast(read_table(path, given)[0], dtype, path, given) if given else None
    w = cast(read_table(path, [weights])[0], dtype, path, [weights])[:, 0] if weights else None
    known, label_names = _codes(path, labels) if labels else (None, ())
    holes = bool(np.isnan(x).any())
    categories = _categories(path, x, names) if kind.categories else ()
    different = names if len(set(names)) == len(names) else [f"{i + 1} {name}" for i, name in enumerate(names)]
    shape = Shape(tuple(different), len(given), categories, trials, factors, holes)
    values = values_of(kind, x, shape)
    values = values if u is None else jem.Given(values, u)
    if kind.units != STEPS:
        rows = values if known is None else jem.Labelled(values, known)
        return Read(x, rows, names, given, w, known, label_names, shape=shape)
    order, lengths = _sequences(path, sequence) if sequence else (np.arange(len(x)), np.array([len(x)]))
    rows = _in_order(jem.Labelled(values, known) if known is not None else values, order, lengths)
    per_sequence = None if w is None else _of_sequences(w[order], lengths, weights)
    return Read(x, rows, names, given, per_sequence, known, label_names, order, lengths, shape)


def _check_options(kind: Model, model: str, *, inputs: str, labels: str, sequence: str, trials: int) -> None:
    """Raises where an option does not go with the model."""
    if kind.inputs and not inputs:
        raise InputError(f"--model {model}: is a regression; say its inputs, --inputs A,B")
    if inputs and not (kind.inputs or kind.driven):
        raise InputError(f"--inputs {inputs}: {model} takes no inputs; leave them out of --columns, or take a regression")
    if kind.trials and not trials:
        raise InputError(f"--model {model}: say of how many trials the counts are, --trials N")
    if trials and not kind.trials:
        raise InputError(f"--trials {trials}: {model} has no trials; leave it out")
    if sequence and kind.units != STEPS:
        raise InputError(f"--sequence {sequence}: {model} is of rows; take a chain, as hmm-gaussian, or leave it out")
    if labels and kind.counts == "factors" or labels and model == "lds":
        raise InputError(f"--labels {labels}: {model} has no components to be known")


def cast(x: np.ndarray, dtype: str, path: str, names: Sequence[str]) -> np.ndarray:
    """The table in the dtype of the fit."""
    with np.errstate(over="ignore"):
        y = x.astype(dtype)
    for row, column in np.argwhere(np.isinf(y))[:1]:
        where = cell_name(row, names[int(column)])
        raise InputError(f"{path}: {where}: {x[row, column]} does not fit {dtype}; use --dtype float64")
    return y


def _categories(path: str, x: np.ndarray, names: Sequence[str]) -> tuple[int, ...]:
    """How many categories each column has: as many as the largest says."""
    for row, column in np.argwhere((x < 0) | (x != np.floor(x)) & ~np.isnan(x))[:1]:
        where = cell_name(row, names[int(column)])
        raise InputError(f"{path}: {where}: {x[row, column]:g} is no category; code them as 0, 1, ..")
    return tuple(int(most) + 1 for most in np.fmax.reduce(x, 0, initial=0))


def _codes(path: str, column: str) -> tuple[Any, tuple[str, ...]]:
    """Labels (N,), -1 where unknown, and their names where they are text."""
    words = read_words(path, column)
    try:
        numbers = [float(word) if word else -1.0 for word in words]
    except ValueError:
        levels = tuple(sorted({word for word in words if word}))
        place = {word: i for i, word in enumerate(levels)}
        return np.array([place.get(word, -1) for word in words], np.int32), levels
    for row, number in enumerate(numbers):
        if number != int(number) or number < -1:
            raise InputError(f"{path}: {cell_name(row, column)}: {words[row]} is no label; expected 0, 1, .., or -1")
    return np.array(numbers, np.int32), ()


def _sequences(path: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows in the order of their sequences, these as they first come, and the sequences' lengths."""
    words = read_words(path, column)
    for row, word in enumerate(words):
        if not word:
            raise InputError(f"{path}: {cell_name(row, column)}: the row is of no sequence; fill the cell in")
    place = {word: i for i, word in enumerate(dict.fromkeys(words))}
    number = np.array([place[word] for word in words])
    return np.argsort(number, kind="stable"), np.bincount(number)


def _in_order(values: Any, order: np.ndarray, lengths: np.ndarray) -> Any:
    """The rows as sequences."""
    return jem.sequences(jax.tree.map(lambda leaf: leaf[order], values), lengths)


def _of_sequences(weights: np.ndarray, lengths: np.ndarray, name: str) -> np.ndarray:
    """A weight for each sequence, of the weights of its steps in order."""
    start = np.cumsum(lengths) - lengths
    first = weights[start]
    uneven = np.repeat(first, lengths) != weights
    if uneven.any():
        raise InputError(f"--weights {name}: a sequence has one weight; that of its steps must be the same")
    return first

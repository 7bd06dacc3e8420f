"""Reads a table of numbers from a .csv or .npy file; every error names the file, the row and the column."""

import csv
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Cells that mean "no value", so that a first row with one of them is still a row of data.
MISSING = frozenset({"", "na", "n/a", "null", "none", "?"})
_REMEDY = "remove the row or fill the cell in"


class TableError(ValueError):
    """A file that cannot be read as a table of finite numbers; the message is one line."""


def read_table(path: str | Path, columns: Sequence[str] = ()) -> tuple[np.ndarray, list[str]]:
    """The numbers of a .csv or .npy file and the names of its columns.

    A CSV file may use commas, semicolons or tabs; its first row is a header if some cell of it is neither a number nor
    empty.

    Args:
        path: file ending in .csv (UTF-8 text) or .npy (an array (N, D), or (N,) for one column).
        columns: names or numbers (from 1) of the columns to keep, in that order; all if empty.

    Returns:
        `(x, names)`: float64 array (N, D), finite, with N, D >= 1; the D column names, numbers from 1
        where there is no header.

    Raises:
        TableError: the file is missing, empty or of another kind; a cell is not a finite number; no such column.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".npy": _read_npy}
    if path.suffix not in readers:
        raise TableError(f"{path}: unknown extension {path.suffix!r}; expected .csv or .npy")
    try:
        return readers[path.suffix](path, columns)
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error):
        raise TableError(f"{path}: is not CSV in UTF-8 text") from None


def cell_name(row: int, name: str, line: int | None = None) -> str:
    """How an error names the cell in data row `row` (from 0) and the column called `name`."""
    place = "" if line is None else f" (line {line})"
    return f"row {row + 1}{place}, column {name if name.isdigit() else repr(name)}"


def _select(path: Path, names: list[str], columns: Sequence[str]) -> list[int]:
    numbers = [str(i + 1) for i in range(len(names))]
    indices = []
    for column in columns:
        if column not in names and column not in numbers:
            raise TableError(f"{path}: no column {column!r}; the columns are {', '.join(names)}")
        indices.append(names.index(column) if column in names else numbers.index(column))
    return indices or list(range(len(names)))


def _read_npy(path: Path, columns: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    try:
        # Mapped, not read: a header may claim more than the file, or the memory, holds.
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        problem = "is empty" if path.stat().st_size == 0 else "is not an array of numbers in NumPy's .npy format"
        raise TableError(f"{path}: {problem}") from None
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "biuf":
        raise TableError(f"{path}: expected real numbers, found dtype {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim not in (1, 2):
        raise TableError(f"{path}: expected shape (N, D), found {x.shape}; reshape it to one row per observation")
    x = np.array(x.reshape(len(x), -1), np.float64) if x.size else np.empty((0, 1))
    if not len(x):
        raise TableError(f"{path}: holds no rows of data")
    names = [str(i + 1) for i in range(x.shape[1])]
    indices = _select(path, names, columns)
    x, names = x[:, indices], [names[i] for i in indices]
    for row, column in np.argwhere(~np.isfinite(x))[:1]:
        raise TableError(f"{path}: {cell_name(row, names[column])}: {x[row, column]} is not finite; {_REMEDY}")
    return x, names


class _Layout(NamedTuple):
    names: list[str]
    delimiter: str
    num_skipped: int  # lines before the data


def _read_csv(path: Path, columns: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    layout = _read_layout(path)
    indices = _select(path, layout.names, columns)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "input contained no data": the error below says so
            x = np.loadtxt(
                path,
                delimiter=layout.delimiter,
                skiprows=layout.num_skipped,
                usecols=indices if columns else None,
                quotechar='"',
                comments=None,
                ndmin=2,
                encoding="utf-8-sig",
            )
    except ValueError as error:
        raise TableError(f"{path}: {_first_problem(path, layout, indices) or error}") from None
    if not len(x):
        raise TableError(f"{path}: holds no rows of data")
    if not np.isfinite(x).all() or x.shape[1] != len(indices):
        raise TableError(f"{path}: {_first_problem(path, layout, indices)}")
    return x, [layout.names[i] for i in indices]


def _read_layout(path: Path) -> _Layout:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for num_blank, line in enumerate(file):  # noqa: B007
            if line.strip():
                break
        else:
            raise TableError(f"{path}: is empty")
    delimiter = max(",;\t", key=re.sub(r'"[^"]*"', "", line).count)
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    is_header = any(cell.lower() not in MISSING and _number(cell) is None for cell in cells)
    names = [cell if is_header and cell else str(i + 1) for i, cell in enumerate(cells)]
    layout = _Layout(names, delimiter, num_blank + is_header)
    # A file written with unnamed row labels has one name too few; its columns would be taken one for another.
    for line_num, first in _rows(path, layout):
        if len(first) != len(names):
            raise TableError(f"{path}: row 1 (line {line_num}) has {len(first)} cells under {len(names)} column names")
        break
    return layout


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _first_problem(path: Path, layout: _Layout, indices: list[int]) -> str | None:
    """What is wrong with the first bad row: the file is read again, row by row, only to say where."""
    for row, (line_num, cells) in enumerate(_rows(path, layout)):
        if len(cells) != len(layout.names):
            return f"row {row + 1} (line {line_num}) has {len(cells)} cells, expected {len(layout.names)}"
        for index in indices:
            cell = cells[index].strip()
            where = cell_name(row, layout.names[index], line_num)
            value = _number(cell)
            if cell.lower() in MISSING or (value is not None and not math.isfinite(value)):
                return f"{where}: {cell or 'an empty cell'} is not a finite number; {_REMEDY}"
            if value is None:
                return f"{where}: {cell!r} is not a number; leave the column out or code it as numbers"
    return None


def _rows(path: Path, layout: _Layout) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of each row of data."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        for _ in range(layout.num_skipped):
            next(file)
        reader = csv.reader(file, delimiter=layout.delimiter)
        yield from ((layout.num_skipped + reader.line_num, cells) for cells in reader if cells)

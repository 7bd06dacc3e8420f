"""Reads a table of numbers from a .csv, .parquet or .npy file; every error names the file, the row and the column."""

import contextlib
import csv
import importlib
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

# Cells that mean "no value", so that a first row with one of them is still a row of data.
MISSING = frozenset({"", "na", "n/a", "null", "none", "?"})
_ARROW_NUMBERS = ("int", "uint", "float", "double", "half", "bool", "decimal", "null")
_REMEDY = "remove the row or fill the cell in"


class TableError(ValueError):
    """A file that cannot be read as a table of finite numbers; the message is one line."""


def read_table(
    path: str | Path, columns: Sequence[str] = (), *, without: Sequence[str] = (), holes: bool = False
) -> tuple[np.ndarray, list[str]]:
    """The numbers of a .csv, .parquet or .npy file and the names of its columns.

    A CSV file may use commas, semicolons or tabs; its first row is a header if some cell of it is neither a number nor
    empty.

    Args:
        path: file ending in .csv (UTF-8 text), .parquet (pyarrow reads it) or .npy (an array (N, D), or (N,) for one column).
        columns: names or numbers (from 1) of the columns to keep, in that order; all if empty.
        without: those to leave out where all are kept.
        holes: whether a cell may be missing, which is NaN then.

    Returns:
        `(x, names)`: float64 array (N, D), finite but for what is missing, with N, D >= 1; the D column names, numbers from 1
        where there is no header.

    Raises:
        TableError: the file is missing, empty or of another kind; a cell is not a finite number; no such column.
    """
    path = Path(path)
    file = _open(path)
    chosen, left_out = _select(path, file.names, columns), _select(path, file.names, without)
    indices = chosen or [i for i in range(len(file.names)) if i not in left_out]
    if not indices:
        raise TableError(f"{path}: no column is left of {', '.join(file.names)}")
    with _named(path):
        x = file.numbers(indices, holes)
    if not len(x):
        raise TableError(f"{path}: holds no rows of data")
    return x, [file.names[i] for i in indices]


def read_words(path: str | Path, column: str) -> list[str]:
    """The cells of one column of such a file as they stand there, "" where one is missing."""
    path = Path(path)
    file = _open(path)
    (index,) = _select(path, file.names, [column])
    with _named(path):
        words = file.words(index)
    return ["" if word.strip().lower() in {*MISSING, "nan"} else word.strip() for word in words]


def cell_name(row: int, name: str, line: int | None = None) -> str:
    """How an error names the cell in data row `row` (from 0) and the column called `name`."""
    place = "" if line is None else f" (line {line})"
    return f"row {row + 1}{place}, column {name if name.isdigit() else repr(name)}"


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of the system and of decoding in a line that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error):
        raise TableError(f"{path}: is not CSV in UTF-8 text") from None


def _open(path: Path) -> "_File":
    kinds = {".csv": _Csv, ".npy": _Npy, ".parquet": _Parquet}
    if path.suffix not in kinds:
        raise TableError(f"{path}: unknown extension {path.suffix!r}; expected .csv, .parquet or .npy")
    with _named(path):
        return kinds[path.suffix](path)


def _select(path: Path, names: list[str], columns: Sequence[str]) -> list[int]:
    numbers = [str(i + 1) for i in range(len(names))]
    indices = []
    for column in columns:
        if column not in names and column not in numbers:
            raise TableError(f"{path}: no column {column!r}; the columns are {', '.join(names)}")
        indices.append(names.index(column) if column in names else numbers.index(column))
    return indices


def _check_finite(path: Path, x: np.ndarray, names: Sequence[str], holes: bool) -> np.ndarray:
    for row, column in np.argwhere(np.isinf(x) if holes else ~np.isfinite(x))[:1]:
        raise TableError(f"{path}: {cell_name(row, names[int(column)])}: {x[row, column]} is not finite; {_REMEDY}")
    return x


class _File(Protocol):
    """A file of columns."""

    names: list[str]

    def numbers(self, indices: list[int], holes: bool) -> np.ndarray:
        """Columns (N, D), finite but for NaN where `holes`."""
        ...

    def words(self, index: int) -> list[str]:
        """One column as text."""
        ...


class _Npy:
    """An array in NumPy's format."""

    def __init__(self, path: Path):
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
        if not x.size:
            raise TableError(f"{path}: holds no rows of data")
        self.path, self.x = path, x.reshape(len(x), -1)
        self.names = [str(i + 1) for i in range(self.x.shape[1])]

    def numbers(self, indices: list[int], holes: bool) -> np.ndarray:
        x = np.array(self.x[:, indices], np.float64)
        return _check_finite(self.path, x, [self.names[i] for i in indices], holes)

    def words(self, index: int) -> list[str]:
        return [f"{value:.17g}" for value in self.x[:, index].tolist()]


class _Parquet:
    """A table in Arrow's format, with names and types."""

    def __init__(self, path: Path):
        try:
            parquet, arrow = importlib.import_module("pyarrow.parquet"), importlib.import_module("pyarrow")
        except ModuleNotFoundError:
            raise TableError(f"{path}: Parquet needs pyarrow: pip install 'jem[tables]'") from None
        with path.open("rb"):  # what the system has to say of it, in its words
            pass
        try:
            self.table = parquet.read_table(path)
        except arrow.ArrowInvalid:
            raise TableError(f"{path}: {'is empty' if path.stat().st_size == 0 else 'is not a table in Parquet'}") from None
        self.path, self.names = path, list(map(str, self.table.column_names))

    def numbers(self, indices: list[int], holes: bool) -> np.ndarray:
        columns = [self.table.column(i) for i in indices]
        for i, column in zip(indices, columns):
            if not str(column.type).startswith(_ARROW_NUMBERS):
                raise TableError(
                    f"{self.path}: column {self.names[i]!r}: {column.type} is no type of numbers; leave the column out or "
                    "code it as numbers"
                )
        x = np.stack([_from_arrow(column) for column in columns], 1)
        return _check_finite(self.path, x, [self.names[i] for i in indices], holes)

    def words(self, index: int) -> list[str]:
        return ["" if cell is None else str(cell) for cell in self.table.column(index).to_pylist()]


def _from_arrow(column: Any) -> np.ndarray:
    """A column of Arrow's, NaN where it is null."""
    if str(column.type).startswith(("bool", "decimal", "null")):  # objects to NumPy
        return np.array([math.nan if cell is None else float(cell) for cell in column.to_pylist()])
    return np.asarray(column.to_numpy(), np.float64)


class _Layout(NamedTuple):
    names: list[str]
    delimiter: str
    num_skipped: int  # lines before the data


class _Csv:
    """Lines of text."""

    def __init__(self, path: Path):
        self.path, self.layout = path, _read_layout(path)
        self.names = self.layout.names

    def numbers(self, indices: list[int], holes: bool) -> np.ndarray:
        path, layout = self.path, self.layout
        try:
            x = self._load(indices, None)
        except ValueError as error:
            problem = _first_problem(path, layout, indices, holes)
            if problem or not holes:
                raise TableError(f"{path}: {problem or error}") from None
            x = self._load(indices, lambda cell: math.nan if cell.strip().lower() in MISSING else float(cell))
        bad = np.isinf(x) if holes else ~np.isfinite(x)
        if len(x) and (bad.any() or x.shape[1] != len(indices)):
            raise TableError(f"{path}: {_first_problem(path, layout, indices, holes)}")
        return x

    def words(self, index: int) -> list[str]:
        found = []
        for row, (line_num, cells) in enumerate(_rows(self.path, self.layout)):
            if len(cells) != len(self.names):
                where = f"row {row + 1} (line {line_num})"
                raise TableError(f"{self.path}: {where} has {len(cells)} cells, expected {len(self.names)}")
            found.append(cells[index])
        return found

    def _load(self, indices: list[int], converter: Any) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "input contained no data": the error of it comes later
            return np.loadtxt(
                self.path,
                delimiter=self.layout.delimiter,
                skiprows=self.layout.num_skipped,
                usecols=indices if len(indices) < len(self.names) or indices != sorted(indices) else None,
                quotechar='"',
                comments=None,
                ndmin=2,
                encoding="utf-8-sig",
                converters=converter,
            )


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


def _first_problem(path: Path, layout: _Layout, indices: list[int], holes: bool) -> str | None:
    """What is wrong with the first bad row: the file is read again, row by row, only to say where."""
    for row, (line_num, cells) in enumerate(_rows(path, layout)):
        if len(cells) != len(layout.names):
            return f"row {row + 1} (line {line_num}) has {len(cells)} cells, expected {len(layout.names)}"
        for index in indices:
            cell = cells[index].strip()
            where = cell_name(row, layout.names[index], line_num)
            value = _number(cell)
            if holes and (cell.lower() in MISSING or (value is not None and math.isnan(value))):
                continue
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

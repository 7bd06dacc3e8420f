"""Tables of named columns, of pandas, polars or Arrow, as numbers. narwhals reads them, once there is one to be read."""

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterable
from numbers import Number
from typing import Any

import numpy as np

from jem.settings import describe


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Columns of a table as numbers, under their names: data for every door, as `jem.table` makes them.

    Attributes:
        values: rows (N, D), one column (N,), or a dict of these for the parts of a `jem.Product`.
        columns: the names, alike: a tuple (D,), a name, or a dict of these.
        levels: of every column that is coded what its codes 0, 1, .. stand for, a tuple.

    Example:
        >>> import jem, pandas
        >>> frame = pandas.DataFrame({"size": [1.0, 2.5], "kind": ["wide", "long"]})
        >>> found = jem.table(frame, codes=True)
        >>> found.values.tolist(), found.columns, found.levels
        ([[1.0, 1.0], [2.5, 0.0]], ('size', 'kind'), {'kind': ('long', 'wide')})
    """

    values: Any
    columns: Any
    levels: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if isinstance(self.values, dict):
            raise TypeError(f"expected one array; got a table of parts; take one of table.values: {list(self.values)}")
        return np.array(self.values, dtype) if copy else np.asarray(self.values, dtype)


def table(frame: Any, columns: Any = None, *, codes: bool | str | Iterable[str] = ()) -> Table:
    """Columns of a table of pandas, polars or Arrow as numbers, with their names; every door takes the answer.

    Doors take such a table as it is, too, where all of its columns are numbers. Truth is 0 or 1; null, None and NaN are NaN, a
    missing cell. Text and categories become codes 0, 1, .. where that is asked for: in the order of the categories, or else
    sorted. Dates and durations are refused, unless they are named as codes.

    Args:
        frame: the table; narwhals reads it, `pip install 'jem[tables]'`.
        columns: which: None all, a name one, (N,), as `jem.Categorical` takes it; a list some, (N, D); a dict of names and
            lists for the parts of a `jem.Product`.
        codes: names of columns to code; True for all that are text or categories.

    Returns:
        A `Table`.

    Raises:
        TypeError: no table; a column that is no number, named, with its type and what to do.
        ValueError: a column that is not there, or whose name comes twice.
        ModuleNotFoundError: narwhals is not installed.

    Example:
        >>> import jax, jem, pandas
        >>> frame = pandas.DataFrame({"size": [1.0, 2.5, 9.0], "kind": ["wide", "long", "wide"]})
        >>> x = jem.table(frame, {"size": ["size"], "kind": "kind"}, codes=True)
        >>> mixed = jem.Product(size=jem.Gaussian(), kind=jem.Categorical(len(x.levels["kind"])))
        >>> start = jem.init(mixed, jax.random.key(0), x)
        >>> jem.log_prob(mixed, start, x).shape
        (3,)
    """
    if isinstance(frame, Table):
        return frame
    if not is_table(frame):
        raise TypeError(f"table: frame: expected a table of pandas, polars or Arrow; got {describe(frame)}")
    read, _ = _frame(frame, "table: frame")
    wanted = list(read.columns) if columns is None else columns
    flat = [name for one in (wanted.values() if isinstance(wanted, dict) else [wanted]) for name in _listed(one)]
    coded = set() if isinstance(codes, bool) else set(_listed(codes))
    for name in [*flat, *coded]:
        if name not in read.columns:
            raise ValueError(f"table: no column {name!r}; the columns are {', '.join(map(str, read.columns))}")
    names = dict.fromkeys(flat)
    coded |= {name for name in names if codes is True and _is_category(read.get_column(name).dtype)}
    pairs = {name: _coded(read.get_column(name)) for name in names if name in coded}
    arrays = {name: array for name, (array, _) in pairs.items()} | _numbers(read, [n for n in names if n not in pairs], "table")
    levels = {str(name): found for name, (_, found) in pairs.items()}
    take = lambda one: arrays[one] if _is_one(one) else _side_by_side([arrays[name] for name in one])
    if isinstance(wanted, dict):
        return Table({part: take(one) for part, one in wanted.items()}, {k: _named(v) for k, v in wanted.items()}, levels)
    return Table(take(wanted), _named(wanted), levels)


def is_table(value: Any) -> bool:
    """Whether this is a table, or a column of one, of pandas, polars or Arrow; nothing is imported to tell."""
    kind = type(value)
    return hasattr(kind, "__arrow_c_stream__") or hasattr(kind, "__dataframe__")


def can_read() -> bool:
    """Whether there is what reads tables."""
    return importlib.util.find_spec("narwhals") is not None


def as_rows(value: Any, name: str) -> np.ndarray:
    """The numbers (N, D) of a table, or (N,) of a column; raises `TypeError` for what is none, naming the column."""
    read, alone = _frame(value, name)
    columns = list(_numbers(read, read.columns, name).values())
    return columns[0] if alone else _side_by_side(columns)


def filled(value: Any, x: Any) -> Any:
    """A table like this one, or a `Table`, with the numbers x (N, D) in the place of its missing cells."""
    x = np.asarray(x)
    if isinstance(value, Table):
        return dataclasses.replace(value, values=x)
    nw, frame = _narwhals("impute"), _read(value, "x")
    new = {name: column for name, column in zip(frame.columns, x.T, strict=True) if _is_missing(frame.get_column(name)).any()}
    kind = frame.implementation
    return frame.with_columns(*[nw.new_series(name, column, backend=kind) for name, column in new.items()]).to_native()


def _narwhals(name: str) -> Any:
    try:
        return importlib.import_module("narwhals.stable.v2")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "narwhals":
            raise
        raise ModuleNotFoundError(f"{name}: tables need narwhals: pip install 'jem[tables]'", name="narwhals") from None


def _read(value: Any, name: str) -> Any:
    """The table, or the column, as narwhals has them."""
    nw = _narwhals(name)
    try:
        return nw.from_native(value, eager_only=True, allow_series=True)
    except nw.exceptions.DuplicateError:
        raise ValueError(f"{name}: expected columns of different names; some come twice: {list(value.columns)}") from None
    except TypeError:
        hint = "call .collect() first" if hasattr(type(value), "collect") else "pass pyarrow.table(x)"
        raise TypeError(f"{name}: expected a table of pandas, polars or Arrow; got {describe(value)}; {hint}") from None


def _frame(value: Any, name: str) -> tuple[Any, bool]:
    """The table as narwhals has it, and whether it is a single column."""
    read = _read(value, name)
    if not hasattr(read, "columns"):
        return read.to_frame(), True
    if not read.columns:
        raise ValueError(f"{name}: the table has no columns")
    return read, False


def _is_one(name: Any) -> bool:
    return isinstance(name, (str, int))  # pandas numbers columns that have no name


def _listed(names: Any) -> list[Any]:
    return [names] if _is_one(names) else list(names)


def _named(names: Any) -> Any:
    return str(names) if _is_one(names) else tuple(map(str, names))


def _side_by_side(columns: list[np.ndarray]) -> np.ndarray:
    return np.stack(columns, 1)


def _numbers(frame: Any, names: Iterable[str], name: str) -> dict[str, np.ndarray]:
    """The columns, each (N,), by their names."""
    other = {one: _kind(frame.get_column(one)) for one in names}
    other = {one: kind for one, kind in other.items() if kind}
    if other:
        some = ", ".join(f"{one!r} ({kind})" for one, kind in list(other.items())[:6])
        categories = tuple(one for one in other if _is_category(frame.get_column(one).dtype))
        remedies = [f"for codes 0, 1, .. of text and categories pass jem.table(frame, codes={categories!r})"] * bool(categories)
        if any(frame.get_column(one).dtype.is_temporal() for one in other):
            remedies.append("for dates pass numbers, as the days since the first")
        remedies.append("leave out the rest with jem.table(frame, columns=[..])")
        raise TypeError(f"{name}: expected columns of numbers; got {some}; {'; '.join(remedies)}")
    return {one: _floats(frame.get_column(one)) for one in names}


def _kind(series: Any) -> str:
    """What a column is that is no number; "" where it is."""
    dtype = series.dtype
    if dtype.is_numeric() or dtype.is_boolean() or _is_missing(series).all():
        return ""
    if type(dtype).__name__ == "Object":  # pandas' column of anything: truth with None in it, Decimals, dates
        other = next((one for one in series.drop_nulls().to_list() if not isinstance(one, (bool, Number, np.bool_))), None)
        return "" if other is None else f"Python objects, as {describe(other)}"
    if dtype.is_temporal():
        return "durations" if str(dtype).startswith("Duration") else "times" if str(dtype) == "Time" else "dates"
    return {"String": "text", "Categorical": "categories", "Enum": "categories"}.get(type(dtype).__name__, str(dtype))


def _is_category(dtype: Any) -> bool:
    return type(dtype).__name__ in ("String", "Categorical", "Enum")


def _is_missing(series: Any) -> np.ndarray:
    return np.asarray(series.is_null().to_numpy(), bool)


def _floats(series: Any) -> np.ndarray:
    """Numbers as they are; floats with NaN where some are missing."""
    missing = _is_missing(series)
    if missing.all():
        return np.full(len(missing), np.nan)
    array = series.to_numpy()
    if not missing.any() and array.dtype.kind in "biuf":
        return array
    old = array.dtype if array.dtype == np.float32 else np.float64
    values = np.full(len(missing), np.nan, old)
    values[~missing] = series.drop_nulls().to_numpy().astype(old)
    return values


def _coded(series: Any) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Codes (N,) of a column and its levels: integers, or floats with NaN where some are missing."""
    seen = series.drop_nulls()
    kind, polars = type(series.dtype).__name__, series.implementation.is_polars()
    if kind == "Enum" or (kind == "Categorical" and not polars):  # those of polars are of all tables at once
        levels = tuple(series.cat.get_categories().to_list())
    else:
        levels = tuple(sorted(seen.unique().to_list()))
    place = {level: i for i, level in enumerate(levels)}
    missing = _is_missing(series)
    codes = np.full(len(missing), np.nan)
    codes[~missing] = [place[level] for level in seen.to_list()]
    return (codes if missing.any() else codes.astype(np.int32)), levels

"""What a user hands in, as JAX arrays: numbers only, whole numbers that do not wrap, and errors that name the argument."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding

from jem.settings import describe
from jem.tables import Table, as_rows, can_read, is_table

# What is no number, by NumPy's kind of dtype: what it is and what to do.
_REFUSED = {
    "c": ("complex numbers", "pass real and imaginary parts as two columns"),
    "M": ("dates", "pass numbers, for example (t - t[0]) / np.timedelta64(1, 's')"),
    "m": ("durations", "pass numbers, for example t / np.timedelta64(1, 's')"),
    "U": ("text", "code it as numbers, categories as integers 0 .. M - 1"),
    "S": ("bytes", "code them as numbers, categories as integers 0 .. M - 1"),
    "T": ("text", "code it as numbers, categories as integers 0 .. M - 1"),
    "V": ("records", "pass their fields as columns, np.column_stack([x[f] for f in x.dtype.names])"),
    "O": ("Python objects", "convert them, for example with x.astype(float); NaN is what is missing"),
}


def as_arrays(x: Any, name: str = "x") -> Any:
    """Data as JAX arrays: a list of rows becomes one array, records and dicts keep their shape.

    Integers that do not fit the integers of JAX become floats. Raises TypeError for what is no number and for a plain tuple of
    arrays, ValueError for rows of several lengths; all name the argument, and the place in it.
    """
    if isinstance(x, Array):
        return as_array(x, name)
    if isinstance(x, Table):
        return as_arrays(x.values, name)
    if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
        if isinstance(x, tuple) and any(getattr(part, "ndim", 0) for part in x):
            if len({np.shape(part)[:1] for part in x}) > 1:
                raise TypeError(
                    f"{name}: expected one array; got a tuple of arrays of several lengths; for sequences pass "
                    f"jem.sequences(list({name}))"
                )
            raise TypeError(
                f"{name}: a tuple of arrays may be rows or columns; for rows pass np.stack({name}), for columns "
                f"np.column_stack({name}), or a dict of them that the model takes by name"
            )
        return as_array(x, name)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(x, is_leaf=_is_one)
    named = [(name + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    return treedef.unflatten([(as_arrays if isinstance(leaf, Table) else as_array)(leaf, place) for place, leaf in named])


def as_array(value: Any, name: str) -> Array:
    """One array, as `as_arrays` makes it."""
    if not isinstance(value, Array):
        listed = isinstance(value, (list, tuple)) and any(isinstance(leaf, Array) for leaf in jax.tree.leaves(value))
        value = _stacked(value, name) if listed else jnp.asarray(as_numbers(value, name))
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{name}: expected numbers; got complex numbers; {_REFUSED['c'][1]}")
    if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == jnp.bool_):
        raise TypeError(f"{name}: expected numbers; got dtype {value.dtype}")
    if jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.itemsize < 4:
        value = value.astype(jnp.float32)  # too few digits for sums
    return _automatic(value)


def as_numbers(value: Any, name: str) -> np.ndarray:
    """One array on the host, in a dtype that JAX keeps: as it is, or raises as `as_arrays` does."""
    array = _on_host(value, name)
    kind, wide = array.dtype.kind, array.dtype.itemsize > jnp.result_type(int).itemsize
    if kind not in "biuf":
        what, remedy = _REFUSED.get(kind, (f"dtype {array.dtype}", "convert them with x.astype(float)"))
        first = f", the first {describe(array.flat[0])}" if kind == "O" and array.size else ""
        raise TypeError(f"{name}: expected numbers; got {what}{first}; {remedy}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float64 if array.dtype.itemsize > 8 else np.float32)
    if kind in "iu" and wide and array.size and (array.min() < -(2**31) or array.max() >= 2**31):
        array = array.astype(np.float64)  # a float of the right size, where an integer would wrap
    if kind == "f" and jnp.result_type(float).itemsize < array.dtype.itemsize:
        array = _narrowed(array, name)
    return array


def _narrowed(array: np.ndarray, name: str) -> np.ndarray:
    """Numbers in float32; those that it has no place for are named."""
    with np.errstate(over="ignore"):  # of an infinity it is said later
        narrow = array.astype(np.float32)
    limits = np.finfo(np.float32)
    largest = max(np.fmax.reduce(narrow, axis=None, initial=0), -np.fmin.reduce(narrow, axis=None, initial=0))
    if largest == np.inf and (lost := np.isfinite(array) & np.isinf(narrow)).any():
        place = tuple(int(i) for i in np.argwhere(lost)[0])
        where = f" at {place}" if place else ""
        raise ValueError(
            f"{name}: expected numbers that float32 holds, below {limits.max:.3g}; got {array[place]:.6g}{where}; divide them "
            "by a unit of their size, or set jax_enable_x64"
        )
    if largest < limits.tiny and (small := np.fmax.reduce(np.abs(array), axis=None, initial=0)) > 0:
        raise ValueError(
            f"{name}: expected numbers that float32 tells from 0, from {limits.tiny:.3g} on; all are smaller, up to "
            f"{small:.6g}; multiply them, or set jax_enable_x64"
        )
    return narrow


def _on_host(value: Any, name: str) -> np.ndarray:
    """A NumPy array of whatever dtype."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected numbers; got a masked array; pass x.filled(np.nan), with jem.Missing around the node"
        )
    if hasattr(value, "todense") or hasattr(value, "toarray"):
        raise TypeError(f"{name}: expected a dense array; got a sparse {type(value).__name__}; pass x.toarray()")
    if is_table(value) and (can_read() or not hasattr(value, "to_numpy")):
        return as_rows(value, name)
    if hasattr(type(value), "collect") and hasattr(type(value), "columns"):
        raise TypeError(f"{name}: expected an array of numbers, or a table; got {describe(value)}; call .collect() first")
    if hasattr(value, "columns") and hasattr(value, "to_numpy"):
        return _frame(value, name)
    if isinstance(value, (str, bytes, type)) or not (hasattr(value, "__array__") or np.isscalar(value) or _is_listed(value)):
        hint = "; read the file first" if isinstance(value, (str, bytes)) or hasattr(value, "__fspath__") else ""
        hint = "; pass np.array(list(x))" if hasattr(value, "__iter__") and not hint else hint
        raise TypeError(f"{name}: expected an array of numbers; got {describe(value)}{hint}")
    try:
        return np.asarray(value)
    except ValueError:
        raise _ragged(value, name) from None


def _ragged(value: Any, name: str) -> ValueError:
    lengths = sorted({np.shape(row)[0] if np.ndim(row) else 0 for row in value if not isinstance(row, (list, tuple))})
    lengths = lengths or sorted({len(row) for row in value if isinstance(row, (list, tuple))})
    return ValueError(
        f"{name}: expected rows of one length; got lengths {lengths[:8]}; for sequences of unequal lengths use "
        "jem.sequences(x), for values that are missing NaN"
    )


def _frame(value: Any, name: str) -> np.ndarray:
    """The numbers of a data frame that narwhals does not read; columns of anything else are named."""
    dtypes = dict(zip(map(str, value.columns), list(value.dtypes), strict=True))
    other = [f"{column!r} ({dtype})" for column, dtype in dtypes.items() if getattr(dtype, "kind", "f") not in "biuf"]
    if other:
        raise TypeError(
            f"{name}: expected columns of numbers; got {', '.join(other[:6])}; leave them out, or code them as numbers and "
            "give each kind a part of a jem.Product"
        )
    array = np.asarray(value.to_numpy())
    if array.dtype.kind == "O":  # numbers and bools together
        try:
            return array.astype(float)
        except (TypeError, ValueError):
            return array
    return array


def _stacked(value: Any, name: str) -> Array:
    """A list that holds JAX arrays."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):
        if len({np.shape(row) for row in value if hasattr(row, "shape")}) > 1:
            raise _ragged(value, name) from None
        raise TypeError(f"{name}: expected a list of numbers or of arrays of one shape; got other things in it") from None


def _is_listed(value: Any) -> bool:
    return isinstance(value, (list, tuple, range))


def _is_one(value: Any) -> bool:
    """Whether a part of a tree of data stands for one array, though JAX would look inside."""
    if value is None or hasattr(value, "todense") or hasattr(value, "__next__"):
        return True
    if not _is_listed(value) or hasattr(value, "_fields"):
        return False
    return not any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(value))


def _automatic(leaf: Array) -> Array:
    """The array on a mesh whose axes the compiler partitions, where it came on one with explicit axes."""
    sharding = None if isinstance(leaf, Tracer) else leaf.sharding
    if not isinstance(sharding, NamedSharding) or all(t == AxisType.Auto for t in sharding.mesh.axis_types):
        return leaf
    names = sharding.mesh.axis_names
    mesh = Mesh(np.asarray(sharding.mesh.devices), names, axis_types=(AxisType.Auto,) * len(names))
    return jax.device_put(leaf, NamedSharding(mesh, sharding.spec))

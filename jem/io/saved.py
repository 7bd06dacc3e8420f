"""A fit in one file, beside what its model is: arrays and their names, nothing that could be executed."""

import dataclasses
import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jem.engine.result import Fit
from jem.node import Node
from jem.settings import check_node, describe

_FORMAT = 1
_ABOUT = "about"  # the member of the archive that says what the others are
_FEW = 64  # numbers of a setting that are written out


def save(path: Any, model: Node, fit: Fit) -> None:
    """Writes a fit to one file, with a description of its model by which `load` knows it again.

    The file is a NumPy archive (.npz): the arrays of the fit and a page of JSON that names them. It takes the place of a file
    that is there only once it is whole.

    Args:
        path: of the file; its name is taken as it is.
        model: the node that was fitted.
        fit: of `jem.fit`, or all lanes of `jem.fit_restarts`.

    Raises:
        TypeError: a model that is no node, a fit that is none, or one with something else than arrays of numbers in it.
        OSError: a file that cannot be written.

    Example:
        >>> import jax, jem, tempfile, pathlib
        >>> x, model = jem.datasets.old_faithful(), jem.Mixture(jem.Gaussian(), 2)
        >>> fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "two.jem"
        >>> jem.save(path, model, fit)
        >>> again = jem.load(path, model)
        >>> bool((again.params.weights == fit.params.weights).all()), again.status == fit.status
        (True, Array(True, dtype=bool))
    """
    check_node(model, "save: model")
    if not isinstance(fit, Fit):
        raise TypeError(f"save: fit: expected a jem.Fit; got {describe(fit)}")
    arrays: list[np.ndarray] = []
    about = {"format": _FORMAT, "model": said_of(model), "fit": _packed(fit, arrays, "fit")}
    members: dict[str, Any] = {_ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)}
    members |= {str(i): a for i, a in enumerate(arrays)}
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, **members)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load(path: Any, model: Node) -> Fit:
    """Reads a fit of this model that `save` wrote. Nothing in the file is executed, whatever it holds.

    Go on from it with `jem.fit(model, fit.params, x)`.

    Args:
        path: of the file.
        model: the node that was fitted, made as it was then: its parts, sizes and settings are compared.

    Returns:
        The fit as it was, to the last bit.

    Raises:
        TypeError: a model that is no node.
        OSError: a file that is not there, or cannot be read.
        ValueError: a file that is no saved fit, is damaged, was written in a later format, holds a fit of another model (it
            says in what they differ), or float64 where JAX is not set to it.

    Example:
        >>> import jax, jem, tempfile, pathlib
        >>> x, model = jem.datasets.old_faithful(), jem.Gaussian()
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "one.jem"
        >>> jem.save(path, model, jem.fit(model, jem.init(model, jax.random.key(0), x), x))
        >>> jem.fit(model, jem.load(path, model).params, x).status
        Array(0, dtype=int32)
    """
    check_node(model, "load: model")
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            about = json.loads(archive[_ABOUT].tobytes())
            if about["format"] > _FORMAT:
                raise _Refused(f"was written in format {about['format']} by a later jem; this one reads up to {_FORMAT}")
            _compare(about["model"], said_of(model))
            fit = _unpacked(about["fit"], archive)
    except _Refused as refused:
        raise ValueError(f"load: {path} {refused}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"load: {path} is damaged, or no fit that jem.save wrote ({error})") from None
    if not isinstance(fit, Fit):
        raise ValueError(f"load: {path} holds {describe(fit)}, no fit")
    return fit


class _Refused(Exception):
    """What is wrong with a file, to follow its name."""


def said_of(thing: Any) -> Any:
    """What a model is, as JSON: classes, sizes, settings; functions by their names."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {f.name: said_of(getattr(thing, f.name)) for f in dataclasses.fields(thing)}
        return {"class": type(thing).__qualname__, **fields}
    if isinstance(thing, dict):
        return {str(name): said_of(value) for name, value in thing.items()}
    if isinstance(thing, tuple | list):
        return [said_of(value) for value in thing]
    if isinstance(thing, jax.Array | np.ndarray | np.generic | int | float) and not isinstance(thing, bool):
        array = np.asarray(thing)
        numbers = array.tolist() if array.size <= _FEW else hashlib.sha256(array.tobytes()).hexdigest()
        return numbers if array.ndim == 0 else {"shape": list(array.shape), "numbers": numbers}
    if thing is None or isinstance(thing, bool | str):
        return thing
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def _compare(saved: Any, mine: Any, place: str = "model") -> None:
    """Raises where two models differ, at the first place."""
    mine = json.loads(json.dumps(mine))
    alike = isinstance(saved, dict) and isinstance(mine, dict) and saved.keys() == mine.keys()
    if alike and saved.get("class") == mine.get("class"):
        for name, value in saved.items():
            _compare(value, mine[name], f"{place}.{name}")
    elif isinstance(saved, list) and isinstance(mine, list) and len(saved) == len(mine):
        for i, value in enumerate(saved):
            _compare(value, mine[i], f"{place}[{i}]")
    elif json.dumps(saved) != json.dumps(mine):
        raise _Refused(f"holds a fit of another model: its {place} is {_short(saved)}; here it is {_short(mine)}")


def _short(said: Any) -> str:
    return said["class"] if isinstance(said, dict) and "class" in said else json.dumps(said)[:80]


def _packed(thing: Any, arrays: list[np.ndarray], place: str) -> Any:
    """What the records of a tree are, as JSON, its arrays by their numbers."""
    if thing is None:
        return None
    if isinstance(thing, dict):
        return {"dict": {name: _packed(value, arrays, f"{place}[{name!r}]") for name, value in thing.items()}}
    names = getattr(thing, "_fields", None)
    if isinstance(thing, tuple) and names is not None:
        kind, fields = type(thing), {f: _packed(getattr(thing, f), arrays, f"{place}.{f}") for f in names}
        return {"record": [kind.__module__, kind.__qualname__], "fields": fields}
    if isinstance(thing, tuple | list):
        return {type(thing).__name__: [_packed(value, arrays, f"{place}[{i}]") for i, value in enumerate(thing)]}
    if not isinstance(thing, jax.Array | np.ndarray | np.generic | float | int | bool):
        raise TypeError(f"save: {place}: only arrays of numbers are saved; got {describe(thing)}")
    if jnp.issubdtype(jnp.asarray(thing).dtype, jax.dtypes.extended) or np.asarray(thing).dtype.kind not in "biufc":
        raise TypeError(f"save: {place}: only arrays of numbers are saved; got {jnp.asarray(thing).dtype}")
    arrays.append(np.asarray(thing))
    return {"array": len(arrays) - 1}


def _unpacked(packed: Any, archive: Any) -> Any:
    """Undoes `_packed`: arrays as they are, records only of classes that are there and have these fields."""
    if packed is None:
        return None
    if "array" in packed:
        array = archive[str(int(packed["array"]))]
        if jnp.asarray(array).dtype != array.dtype:
            raise _Refused(f"holds {array.dtype}, and JAX is not set to it: jax.config.update('jax_enable_x64', True) first")
        return jnp.asarray(array)
    if "dict" in packed:
        return {name: _unpacked(value, archive) for name, value in packed["dict"].items()}
    if "record" in packed:
        values = {name: _unpacked(value, archive) for name, value in packed["fields"].items()}
        return tuple.__new__(_record(packed["record"], tuple(values)), values.values())
    name = "tuple" if "tuple" in packed else "list"
    return (tuple if name == "tuple" else list)(_unpacked(value, archive) for value in packed[name])


def _record(name: list[str], fields: tuple[str, ...]) -> type:
    """The record of this name and these fields, of a module that is imported already: a file imports nothing."""
    module, qualname = name
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, tuple) and getattr(found, "_fields", None) == fields):
        raise _Refused(f"holds a record {module}.{qualname}{fields}, which is not there: import first what defines it")
    return found

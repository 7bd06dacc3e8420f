"""What nodes and options are made of: a node where a node is asked for, numbers in their range, sizes of at least one.

A class says it of its fields once, `static(must=whole(1))` or `setting(default=1.0, must=number(above=0.0))`, and every one
that is made is looked over. Values that are not known yet, inside jit, pass.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

Must = Callable[[Any, str], None]


def describe(value: Any) -> str:
    """What came, in a few words, for an error."""
    if isinstance(value, type):
        return f"the class {value.__name__} (write {value.__name__}(...), an instance)"
    if value is None:
        return "None"
    if isinstance(value, (str, bytes)):
        return f"the string {value[:40]!r}"
    if isinstance(value, (bool, int, float, complex)):
        return f"{value!r}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    return f"{type(value).__name__}"


def check_kind(value: Any, kind: str, name: str, example: str) -> None:
    """An object with the method `kind`; a class in the place of its instance is not one."""
    if isinstance(value, type) or not hasattr(value, kind):
        raise TypeError(f"{name}: expected {example}; got {describe(value)}")


def check_node(value: Any, name: str, single: bool = False) -> None:
    """A node; `single` where a plate, which has components already, will not do."""
    check_kind(value, "expect", name, "a node such as jem.Gaussian()")
    if jax.tree_util.all_leaves([value]):
        raise TypeError(f"{name}: {type(value).__name__} is no node yet: decorate its class with @jem.author.node")
    if single and hasattr(value, "size"):
        raise TypeError(
            f"{name}: expected one node; got a plate, {type(value).__name__}, of {value.size} components; put it in a "
            "jem.Mixture first"
        )


def check_child(value: Any, name: str) -> None:
    """As `check_node`, of one node."""
    check_node(value, name, single=True)


def check_components(components: Any, num_components: int | None, name: str, letter: str = "K") -> int | None:
    """None where `components` is a plate, else how often to repeat it; raises where the two do not fit together."""
    check_node(components, f"{name}: {'emission' if name == 'HMM' else 'components'}")
    plates = getattr(components, "size", None)
    kind = type(components).__name__
    if plates is not None:
        if num_components not in (None, plates):
            raise ValueError(f"{name}: {num_components} components asked for, but the plate has {plates}; leave the number out")
        return None
    if not isinstance(num_components, (int, np.integer)) or isinstance(num_components, bool) or num_components < 1:
        raise ValueError(
            f"{name}: the number of components must be an integer of at least 1; got {num_components!r}; {kind} is a single "
            f"node, so write {name}({kind}(...), {letter})"
        )
    return int(num_components)


def a(kind: str, example: str, optional: bool = False) -> Must:
    """An object with the method or field `kind`; None too where `optional`."""

    def must(value: Any, name: str) -> None:
        if not (optional and value is None):
            check_kind(value, kind, name, example)

    return must


def an_instance(kind: Any, example: str) -> Must:
    """An instance of a class, or of one of several (a union)."""

    def must(value: Any, name: str) -> None:
        if not isinstance(value, kind):
            raise TypeError(f"{name}: expected {example}; got {describe(value)}")

    return must


def whole(least: int = 1) -> Must:
    """A Python integer of at least `least`."""

    def must(value: Any, name: str) -> None:
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}; got {describe(value)}")

    return must


def columns(value: Any, name: str) -> None:
    """None, or a tuple of numbers of columns, 0 at least."""
    if value is None:
        return
    if not isinstance(value, tuple):
        raise TypeError(f"{name}: expected a tuple of columns, (0, 2) for the first and the third; got {describe(value)}")
    for one in value:
        whole(0)(one, name)


def number(least: float | None = None, above: float | None = None, most: float | None = None, finite: bool = True) -> Must:
    """A real number, or an array of them, in a range."""
    words = [] if least is None else [f">= {least:g}"]
    words += [] if above is None else [f"> {above:g}"]
    words += [] if most is None else [f"<= {most:g}"]
    expected = " and ".join(words) or "finite"

    def must(value: Any, name: str) -> None:
        if isinstance(value, (Tracer, jax.ShapeDtypeStruct)) or type(value) is object:
            return
        try:
            values = np.asarray(value)
        except ValueError:  # lists of several lengths
            values = np.asarray(None)
        if values.dtype.kind not in "iuf":
            raise TypeError(f"{name}: expected a number, {expected}; got {describe(value)}")
        wrong = ~np.isfinite(values) if finite else np.isnan(values)
        wrong |= values < (-np.inf if least is None else least)
        wrong |= values <= (-np.inf if above is None else above)
        wrong |= values > (np.inf if most is None else most)
        if wrong.any():
            raise ValueError(f"{name} must be {expected}; got {values[wrong].flat[0]}")

    return must


def wholes(least: int = 0) -> Must:
    """A whole number, or an array of them, of at least `least`."""
    in_range = number(least=least)

    def must(value: Any, name: str) -> None:
        in_range(value, name)
        if isinstance(value, (Tracer, jax.ShapeDtypeStruct)) or type(value) is object:
            return
        values = np.asarray(value)
        if (values != np.floor(values)).any():
            raise ValueError(f"{name} must be whole; got {values[values != np.floor(values)].flat[0]}")

    return must


def check_level(value: Any, name: str) -> None:
    """The probability with which an interval covers: between 0 and 1."""
    if not isinstance(value, Tracer) and not (np.ndim(value) == 0 and 0 < value < 1):
        raise ValueError(f"{name} must lie between 0 and 1; got {describe(value)}; pass 0.95 for 95 percent")


def optional(must: Must) -> Must:
    """As `must`, or None."""
    return lambda value, name: None if value is None else must(value, name)


def check_fields(self: Any) -> None:
    """Runs what the fields of a node or an option `must` be."""
    for field in dataclasses.fields(self):
        must = field.metadata.get("must")
        if must is not None:
            must(getattr(self, field.name), f"{type(self).__name__}: {field.name}")


def check_option(value: Any, kind: str, name: str, example: str) -> None:
    """A solver, a stopping rule, a schedule or an adjoint at the door: of its kind, what is in it too, and one number a field.

    Args:
        value: what came.
        kind: the method that makes it one.
        name: of the argument.
        example: what to write.
    """
    check_kind(value, kind, name, example)
    if not dataclasses.is_dataclass(value):
        return
    for field in dataclasses.fields(value):
        inside, place = getattr(value, field.name), f"{name}.{field.name}"
        if field.name == "solver":
            check_option(inside, kind, place, example)
        elif field.name == "rules":
            for rule in inside:
                check_option(rule, kind, place, example)
        elif "must" in field.metadata and np.shape(inside) != ():
            raise ValueError(f"{place}: expected one number; got shape {np.shape(inside)}")

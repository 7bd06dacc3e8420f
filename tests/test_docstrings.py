"""Public docstrings have the parts that CONTRIBUTING.md asks for: which, depends on what they are of."""

import enum
import inspect
import re
from typing import Any, NamedTuple

import pytest
from jax import Array

import jem
from jem.author import Node, Rule, Solver

FULL = {"args", "equation", "example", "raises", "source"}
PARTS = {
    "function": {*FULL, "returns"},
    "node": FULL,
    "solver": FULL,
    "rule": FULL - {"raises"},  # what they cause is CONVERGED
    "choice": {"args", "example"},  # supports, forms, spaces, schedules, starts, structures, methods: how, not what
    "contract": {"use"},
    "record": {"shapes"},
    "enum": {"members"},
    "error": set(),
}
TOKEN = r"(?:[A-Za-z](?:_\w)?|\d+|\w+_steps)(?: [-+] 1)?|\.\.\."
SHAPE = re.compile(rf"\((?:(?:{TOKEN})(?:, (?:{TOKEN}))*,?)?\)|\bscalars?\b")
EQUATION = re.compile(r"`[^`]*(?: = |~|\^| [-+*/|<] |<=|argmax|max_|E_q|sum_)[^`]*`|^    .* = ", flags=re.M)
STATUS = re.compile(r"\b(?:NONFINITE|DEGENERATE|DECREASED|MAX_STEPS|STUCK|REGULAR|SINGULAR|status)\b")
NAMESPACES = {*re.findall(r"^from jem import (\w+) as", inspect.getsource(jem), flags=re.M)} - {"datasets"}
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example", "Source")

# What is not there, and why: parts, names of what lacks them, the reason.
EXCUSED = (
    ({"equation", "source"}, "no mathematics of its own", """jem.bind jem.use_cores jem.explain jem.save jem.load
     jem.init jem.num_parameters jem.sweep jem.Frozen jem.constrain
     jem.unconstrain jem.flat_rows jem.sequences jem.table jem.author.node jem.author.static jem.author.setting"""),
    ({"equation", "source"}, "rules put together by `and`, by `or`", "jem.stop.AllOf jem.stop.AnyOf"),
    ({"equation"}, "that of `jem.fit`", "jem.fit_restarts"),
    ({"source"}, "a definition that is nobody's own", """jem.log_prob jem.sample jem.OneOf jem.Product jem.Stack
     jem.rows_with_moments jem.stop.NeverStop jem.stop.RelativeGain jem.testing.check_node"""),
    ({"raises"}, "refuses nothing: from NaN comes NaN", """jem.author.cholesky jem.author.solve_lower
     jem.author.falling_root jem.rotations.promax jem.rotations.varimax"""),
    ({"raises"}, "refuses fields out of the ranges that they are said to have, and nothing else", """jem.durations.Categorical
     jem.durations.NegativeBinomial jem.durations.Poisson jem.author.node jem.author.static jem.author.setting"""),
    ({"raises"}, "ends as the solver inside of it does", "jem.solvers.Anderson jem.solvers.SQUAREM"),
    ({"returns"}, "writes a file", "jem.save"),
    ({"example"}, "its example is BlackJAX's, which is not installed with jem", "jem.solvers.MonteCarlo"),
)  # fmt: skip


def sections(doc: str) -> dict[str, str]:
    """Text under each heading of a docstring; what stands before the first is under ""."""
    pieces = re.split(rf"^({'|'.join(SECTIONS)}):", doc, flags=re.M)
    return dict(zip(["", *pieces[1::2]], pieces[::2], strict=True))


def entries(text: str) -> dict[str, str]:
    """What `Args:` or `Attributes:` say of each name."""
    pieces = re.split(r"^    (\*{0,2}[\w, ]+): ", text, flags=re.M)
    listed = zip(pieces[1::2], pieces[2::2], strict=True)
    return {name.strip("* "): said for names, said in listed for name in names.split(",")}


def kind(thing) -> str:
    if inspect.isfunction(thing):
        return "function"
    for name, base in {"record": tuple, "enum": enum.Enum, "error": Exception}.items():
        if issubclass(thing, base):
            return name
    if thing.__name__ in vars(jem.author):
        return "contract"
    kinds = {"node": Node, "solver": Solver, "rule": Rule, "choice": object}
    return next(name for name, base in kinds.items() if issubclass(thing, base))


def arguments(thing) -> dict[str, str]:
    """Names of what it is called with, and their annotations."""
    return {name: str(given.annotation) for name, given in inspect.signature(thing).parameters.items()}


def lacking(thing) -> set[str]:
    """Which of the parts that it must have a docstring lacks; an argument or a field is named."""
    doc, of = inspect.getdoc(thing) or "", kind(thing)
    part = sections(doc)
    said = entries(part.get("Args", "") + part.get("Attributes", ""))
    order = [SECTIONS.index(name) for name in part if name]
    lacks = set() if order == sorted(order) else {"order"}
    if "args" in PARTS[of]:
        for name, annotation in arguments(thing).items():
            array = "Callable" not in annotation and re.search(r"\bArray\b", annotation) and name != "key"
            if name not in said or array and not SHAPE.search(said[name]):
                lacks.add(name)
    if "returns" in PARTS[of]:
        array = re.search(r"\bArray\b", str(inspect.signature(thing).return_annotation))
        if not part.get("Returns") or array and not SHAPE.search(part["Returns"]):
            lacks.add("returns")
    if "shapes" in PARTS[of]:
        arrays = {name for name in thing._fields if re.search(r"\bArray\b", str(inspect.get_annotations(thing).get(name)))}
        scalars = re.search(r"\bscalars?\b", part[""], flags=re.I)  # said of all fields at once
        if said:
            lacks |= {n for n in thing._fields if n not in said}
            lacks |= {n for n in arrays & said.keys() if not scalars and not SHAPE.search(said[n])}
        elif len(SHAPE.findall(doc)) < len(arrays):
            lacks.add("shapes")
    found = {
        "equation": EQUATION.search(part[""] + part.get("Returns", "")),
        "example": ">>>" in part.get("Example", ""),
        "raises": "Raises" in part or STATUS.search(doc),
        "source": re.search(r"\(\d{4}\)", part.get("Source", "")),
        "use": "rite " in doc or "Subclasses" in doc or ">>>" in doc,
        "members": of == "enum" and all(re.search(rf"\b{name}\b", doc) for name in thing.__members__),
    }
    return lacks | {name for name, there in found.items() if name in PARTS[of] and not there}


def public() -> dict[str, Any]:
    """Every public function and class by the name that users call it, data sets apart."""
    modules = {name: getattr(jem, name) for name in NAMESPACES} | {"uncertainty.resample": jem.uncertainty.resample}
    found = {f"jem.{name}": thing for name, thing in vars(jem).items() if not name.startswith("_")}
    for space, module in modules.items():
        own = {name: thing for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__}
        found |= {f"jem.{space}.{name}": thing for name, thing in (own or vars(module)).items() if not name.startswith("_")}
    found |= {f"{on}.{name}": thing for on, cls in found.items() if inspect.isclass(cls) and issubclass(cls, Node)
              for name, thing in vars(cls).items() if inspect.isclass(thing) and issubclass(thing, tuple)}  # fmt: skip
    return {name: thing for name, thing in found.items() if inspect.isfunction(thing) or inspect.isclass(thing)}


def test_every_public_docstring_has_its_parts():
    """Of whatever is public, and no excuse is for what is there by now."""
    excused: dict[str, set[str]] = {}
    for parts, _, names in EXCUSED:
        for name in names.split():
            excused[name] = excused.get(name, set()) | parts
    found = {name: lacking(thing) for name, thing in public().items()}
    assert len(found) > 150
    assert {name: parts for name, parts in found.items() if parts} == excused


class Whole(NamedTuple):
    """Two fields.

    Attributes:
        mean: (D,) the mean.
        child: those of the child, a tree.
    """

    mean: Array
    child: Any


class Partial(NamedTuple):
    """Two fields, the mean of which is an array (mean)."""

    mean: Array
    child: Any


def whole(x: Array, key: Array) -> Array:
    """Twice x, `y = 2 x`.

    Args:
        x: (N,) numbers.
        key: a typed PRNG key.

    Returns:
        (N,) numbers.

    Raises:
        ValueError: no numbers.

    Example:
        >>> 2 * 1
        2

    Source: Nobody (1900), Nowhere 1.
    """
    return 2 * x


def spoilt(fn, old: str, new: str):
    """A function of the same signature whose docstring is another."""

    def other(x: Array, key: Array) -> Array:
        return fn(x, key)

    doc = inspect.getdoc(fn) or ""  # without indentation, as Python 3.13 keeps it
    assert old in doc
    other.__doc__ = doc.replace(old, new)
    return other


@pytest.mark.parametrize(
    ("thing", "lacks"),
    [
        (Whole, set()),
        (Partial, {"shapes"}),
        (whole, set()),
        (spoilt(whole, "x: (N,)", "x:"), {"x"}),
        (spoilt(whole, "key: a", "seed: a"), {"key"}),
        (spoilt(whole, "Returns:\n    (N,) numbers.", "Returns:\n    Numbers."), {"returns"}),
        (spoilt(whole, "`y = 2 x`", "`y`"), {"equation"}),
        (spoilt(whole, "Raises:", "Notes:"), {"raises"}),
        (spoilt(whole, ">>> ", ""), {"example"}),
        (spoilt(whole, "(1900)", ""), {"source"}),
        (spoilt(whole, "Source:", "Attributes:"), {"order", "source"}),
        (spoilt(whole, inspect.getdoc(whole) or "", ""), {"x", "key", "returns", "equation", "raises", "example", "source"}),
    ],
)
def test_a_part_that_is_missing_is_found(thing, lacks):
    assert lacking(thing) == lacks

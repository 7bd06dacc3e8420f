"""The pages of the reference, read off jem's source, so that no public name is left out: a part of `jem` or a room each."""

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# The names of `jem` itself, by the part of the package that they are from; every other room is a page of its own.
PARTS = {
    "fit": ("Fitting", ("doors", "engine")),
    "ask": ("After the fit", ("ask", "io", "coordinates")),
    "families": ("Families", ("families",)),
    "combine": ("Models of models", ("combine",)),
    "hidden": ("Hidden variables", ("latents",)),
    "data": ("Data", ("data", "series", "tables")),
}
NESTED = {"uncertainty.resample": "jem.ask.resample"}  # a room within a room, and its module
BESIDE = ("plot", "sklearn")  # imported by themselves
# Pages of nodes, solvers and rules, whose methods are the contract's, shown once in jem.author; these few are for users.
CONTRACT = ("families", "combine", "hidden", "laws", "durations", "solvers", "stop", "schedules", "spaces", "forms")
ASKED = ["params", "smooth", "filter", "forecast", "simulate"]


class Name(NamedTuple):
    """A public name and the module that defines it."""

    name: str
    module: str


class Page(NamedTuple):
    """A page: its title, what it says first, and the names it shows, each with the full name of what it is."""

    title: str
    says: str
    names: list[tuple[str, str]]
    members: list[str] | None = None


def source(module: str) -> Path:
    """The file of a module of jem's."""
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def rooms() -> dict[str, str]:
    """The modules of the surface by the name that follows `jem.`."""
    inner = re.findall(r"^from jem import (\w+) as", source("jem").read_text(), flags=re.M)
    return dict(sorted({**{room: f"jem.{room}" for room in (*inner, *BESIDE)}, **NESTED}.items()))


def public(module: str) -> list[Name]:
    """What a room offers, in the order of the alphabet: what it imports as itself, modules apart, and what it defines."""
    found = []
    for item in ast.parse(source(module).read_text()).body:
        if isinstance(item, ast.ImportFrom):
            found += [Name(alias.name, item.module or "") for alias in item.names if alias.asname == alias.name]
        elif isinstance(item, (ast.FunctionDef, ast.ClassDef)) and not item.name.startswith("_"):
            found.append(Name(item.name, module))
    return sorted((f for f in found if not source(f"{f.module}.{f.name}").exists()), key=lambda f: f.name.lower())


def records(name: Name) -> list[tuple[str, str]]:
    """What hangs on a class, `Params` and its like, with the full names of what these are."""
    found = []
    for cls in ast.parse(source(name.module).read_text()).body:
        for item in cls.body if isinstance(cls, ast.ClassDef) and cls.name == name.name else []:
            match item:
                case ast.Assign(targets=[ast.Name(id=on)], value=ast.Name(id=record)) if on[0].isupper():
                    found.append((on, f"{name.module}.{record}"))
    return found


def shown(room: str, names: list[Name]) -> list[tuple[str, str]]:
    """Names as a user says them, with the records on them, and the full names of what they are."""
    found = []
    for name in names:
        full = f"{room}.{name.name}"
        where = full if source(room).exists() else f"{name.module}.{name.name}"
        found += [(full, where), *((f"{full}.{on}", record) for on, record in records(name))]
    return found


@functools.cache
def pages() -> dict[str, Page]:
    """All pages by their place in the site."""
    found = {}
    for place, (title, parts) in PARTS.items():
        here = [name for name in public("jem") if name.module.split(".")[1] in parts]
        found[f"reference/{place}.md"] = Page(title, "", shown("jem", here), ASKED if place in CONTRACT else None)
    for room, module in rooms().items():
        says = (ast.get_docstring(ast.parse(source(module).read_text())) or "").partition("\n")[0]
        names = shown(f"jem.{room}", public(module))
        found[f"reference/jem.{room}.md"] = Page(f"jem.{room}", says, names, ASKED if room in CONTRACT else None)
    return found


def text(page: Page) -> str:
    """A page for mkdocstrings."""
    blocks = []
    for on, of in page.names:
        lines = [f"heading: {on}", f"toc_label: {on.removeprefix('jem.')}"]
        if page.members is not None and on == of:  # records show all that they can say
            lines.append(f"members: {page.members}")
        blocks.append("\n      ".join([f"::: {of}\n    options:", *lines]))
    return "\n\n".join([f"# {page.title}", page.says, *blocks])


def not_shown(html: str, page: Page) -> list[str]:
    """Names of which the page, as it came out, lacks the docstring."""
    headed = re.split(r'<h2 id="([^"]+)"', html)
    under = dict(zip(headed[1::2], headed[2::2], strict=True))
    return [on for on, of in page.names if '<div class="doc doc-contents' not in (s := under.get(of, "")) or "<p>" not in s]

"""The site: every public name is on a page of its reference, and what is not shown there is found."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import jem

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
SHOWN = [name for page in reference.pages().values() for name, _ in page.names]


def surface() -> set[str]:
    """What users can say, as it is at run time; the rooms that are imported by themselves apart."""
    found = set()
    for room in ("", *reference.rooms()):
        if room not in reference.BESIDE:
            module = jem
            for part in filter(None, room.split(".")):
                module = getattr(module, part)
            named = {n: v for n, v in vars(module).items() if not n.startswith("_") and not inspect.ismodule(v)}
            if room in ("datasets", "testing", "uncertainty.resample"):  # which hold what they import beside what they offer
                named = {n: v for n, v in named.items() if getattr(v, "__module__", "") == module.__name__}
            found |= {".".join(filter(None, ("jem", room, name))) for name in named}
    return found


def test_no_public_name_is_left_out():
    beside = {name for name in SHOWN if name.split(".")[1] in reference.BESIDE}
    assert surface() <= {*SHOWN} and len(SHOWN) == len({*SHOWN})
    assert len(surface()) > 200 and len(beside) > 15


def test_records_are_shown_after_what_they_hang_on():
    extra = {*SHOWN} - surface() - {name for name in SHOWN if name.split(".")[1] in reference.BESIDE}
    assert {"jem.Gaussian.Params", "jem.Mixture.Posterior"} <= extra
    assert all(SHOWN[SHOWN.index(name) - 1].startswith(name.rpartition(".")[0]) for name in extra)


@pytest.mark.parametrize("module", ["plot", "sklearn"])
def test_rooms_imported_by_themselves_are_read_too(module):
    names = {name.name for name in reference.public(f"jem.{module}")}
    assert names & {"clusters", "GaussianMixture"}


def test_what_a_page_does_not_show_is_found():
    page = reference.Page("Two", "", [("jem.A", "jem.A"), ("jem.A.Params", "jem.a.AParams"), ("jem.B", "jem.B")])
    whole = '<h2 id="{}"></h2><div class="doc doc-contents first"><p>Said.</p></div>'
    assert reference.not_shown("".join(map(whole.format, ("jem.A", "jem.a.AParams", "jem.B"))), page) == []
    assert reference.not_shown(whole.format("jem.A") + '<h2 id="jem.B"></h2>', page) == ["jem.A.Params", "jem.B"]


def test_every_page_is_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"([\w-]+\.md)$", config, flags=re.M))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= named

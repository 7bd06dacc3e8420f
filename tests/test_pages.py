"""Every Python block of the pages in docs/ runs, page by page from the top, and prints what stands under it."""

import contextlib
import io
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import matplotlib
import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", flags=re.M | re.S)
ELSEWHERE = {"authors": "test_authors.py", "gallery": "test_gallery.py", "sklearn": "test_estimators.py"}
FRESH = {"scaling", "float32"}  # they set what is read when JAX starts
PAGES = {path.stem: blocks for path in sorted(DOCS.glob("*.md")) if (blocks := BLOCK.findall(path.read_text()))}
HERE = sorted(PAGES.keys() - ELSEWHERE.keys() - FRESH)


def printed(blocks: list[str], space: dict) -> list[str]:
    """What each block prints, run one after the other."""
    said = []
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(block, space)
        said.append(out.getvalue())
    return said


def held_against(page: str, said: list[str]) -> None:
    """A block prints what the page says, in the same words; one that says nothing is under no text."""
    for (code, expected), out in zip(PAGES[page], said, strict=True):
        assert alike(out, expected), f"docs/{page}.md prints\n{out}\nfor\n{code}"


def alike(out: str, expected: str) -> bool:
    """The same words and, but for a thousandth, the same numbers; counts of steps and lanes are as rounding has it."""
    counts = re.search(r"\b(steps|lanes)\b", expected)
    got, want = (re.findall(r"[^\s\[\](),]+", text) for text in (out, expected))
    return len(got) == len(want) and all(a == b or near(a, b, bool(counts)) for a, b in zip(got, want))


def near(a: str, b: str, counts: bool) -> bool:
    """Two numbers that are nearly one, or two counts."""
    if a.isdigit() and b.isdigit():
        return counts
    try:
        return math.isclose(float(a), float(b), rel_tol=1e-3, abs_tol=1e-3)
    except ValueError:
        return False


def test_pages_that_are_run_elsewhere_are_there():
    assert all((ROOT / "tests" / file).exists() and PAGES[page] for page, file in ELSEWHERE.items())
    assert len(HERE) >= 8 and PAGES.keys() >= FRESH


@pytest.mark.parametrize("page", HERE)
def test_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"), matplotlib.rc_context({"backend": "agg"}):
        held_against(page, printed([code for code, _ in PAGES[page]], {"__name__": page}))


@pytest.mark.parametrize("page", sorted(FRESH))
def test_a_page_runs_in_a_process_of_its_own(page, tmp_path):
    mark = "-- end of a block --"
    script = "".join(f"{code}\nprint({mark!r})\n" for code, _ in PAGES[page])
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    held_against(page, done.stdout.split(f"{mark}\n")[:-1])


@pytest.mark.parametrize(
    ("out", "expected", "holds"),
    [
        ("after 9 steps\n[[0.12 3.]]\n", "after 10 steps\n[[0.1201  3.]]\n", True),
        ("after 9 steps: CONVERGED", "after 9 steps: STUCK", False),
        ("9 rows", "8 rows", False),
        ("(272, 2)", "(273, 2)", False),
        ("-1130.26", "-1132.26", False),
        ("CONVERGED", "STUCK", False),
        ("1", "", False),
    ],
)
def test_what_is_alike(out, expected, holds):
    assert alike(out, expected) == holds


def test_a_page_that_says_something_else_is_found():
    space = {}
    assert printed(["a = 1 + 1\n", "print(a)\n"], space) == ["", "2\n"] and space["a"] == 2
    with pytest.raises(AssertionError, match="docs/start.md prints"):
        held_against("start", ["3\n"] * len(PAGES["start"]))

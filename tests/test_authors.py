"""The page for authors: its examples are files that run, and are what the page shows."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
FILES = sorted((DOCS / "authors").glob("*.py"))
PRINTS = {"family": "CONVERGED", "density": "(2, 3)", "latent": "CONVERGED", "law": "(4, 200)", "solver": "CONVERGED"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_runs_and_is_on_the_page(path, capsys):
    assert f"```python\n{path.read_text()}```\n" in (DOCS / "authors.md").read_text()
    runpy.run_path(str(path))
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == PRINTS[path.stem]
    checked = [line for line in printed if line.startswith("('form'")]
    assert all("fisher" in line and "ascent" in line for line in checked)
    assert len(checked) == (path.stem in ("family", "density", "latent"))

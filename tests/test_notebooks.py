"""Every notebook runs from its first cell to its last, and is kept with what it prints and draws (`notebooks/store.py`)."""

import importlib.util
import os
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("ipykernel")
pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
spec = importlib.util.spec_from_file_location("store", ROOT / "notebooks/store.py")
store = importlib.util.module_from_spec(spec)
spec.loader.exec_module(store)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def said(notebook):
    """The kinds of what each cell puts out."""
    kind = lambda out: (out.output_type, out.get("name"), *sorted(out.get("data", {})))
    return [{kind(out) for out in cell.outputs} for cell in code(notebook)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    kept = nbformat.read(path, as_version=4)
    assert "you will be able to" in kept.cells[0].source
    assert [cell.execution_count for cell in code(kept)] == list(range(1, len(code(kept)) + 1))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    assert said(store.executed(path)) == said(kept)  # of the same kinds; numbers are as the machine rounds them
    assert "stderr" not in str(said(kept))  # no warning reaches the reader


def test_there_is_a_notebook():
    assert NOTEBOOKS

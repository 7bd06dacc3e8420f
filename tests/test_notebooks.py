"""Every notebook runs from its first cell to its last, and is kept without outputs."""

import os
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("ipykernel")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "you will be able to" in notebook.cells[0].source
    assert [cell.outputs for cell in code if cell.outputs or cell.execution_count] == []

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    said = [out for cell in code for out in cell.outputs if out.get("name") == "stderr"]
    assert said == []  # no warning reaches the reader


def test_there_is_a_notebook():
    assert NOTEBOOKS

"""Runs notebooks from the first cell to the last, and keeps what they print and draw: `python notebooks/store.py [NAME ..]`."""

import sys
from pathlib import Path

import nbclient
import nbformat

HERE = Path(__file__).resolve().parent


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, run beside itself; an error in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    options = dict(timeout=900, record_timing=False, coalesce_streams=True, resources={"metadata": {"path": str(path.parent)}})
    return nbclient.NotebookClient(notebook, **options).execute()


if __name__ == "__main__":
    for path in [HERE / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        notebook = executed(path)
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
        nbformat.write(notebook, path)
        print(path.name, flush=True)

"""The gallery: its page says what its code is, every model has its picture, and the code draws it."""

import importlib.util
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest

import jem

DOCS = Path(__file__).resolve().parent.parent / "docs"
spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
gallery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery)
ENTRIES = {entry.name: entry for entry in gallery.ENTRIES}
MODELS = ("Mixture", "HMM", "LDS", "FactorAnalysis", "Density", "Linear", "GLM", "Missing", "Censored", "OneOf", "Tied")


def test_the_page_is_that_of_the_code():
    assert (DOCS / "gallery.md").read_text() == gallery.page()
    assert all((DOCS / "images" / f"{name}.png").stat().st_size > 2000 for name in ENTRIES)
    missing = [name for name in MODELS if f"jem.{name}(" not in gallery.page() and hasattr(jem, name)]
    assert not missing


@pytest.mark.parametrize("name", ENTRIES)
def test_the_code_draws(name, tmp_path):
    with jax.numpy_rank_promotion("allow"):
        gallery.draw(ENTRIES[name], tmp_path / "picture.png")
    assert plt.imread(tmp_path / "picture.png").std() > 0.02

"""The package as a whole: what it imports and when, what it declares, and that its front page tells the truth."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()

FOUNDATION = {"tree", "settings", "reading", "checks", "data", "series"}
MODEL_LAYERS = [FOUNDATION, {"kernels"}, {"node"}, {"coordinates", "composite"}, {"families"}, {"parts", "plates"}, {"latents"}]
MODELS = {"families", "parts", "plates", "latents"}
ABOVE = {"asking", "fit", "inference", "selection", "streaming", "uncertainty"}
OUTSIDE = {"__init__", "__main__", "cli"}  # these may import anything


def allowed_imports(part: str) -> set[str]:
    """The parts of jem that a part may import, itself included."""
    if part in ABOVE:
        return {*ABOVE, "engine", *set().union(*MODEL_LAYERS)}
    if part == "engine":
        return {"engine", "coordinates", "node", "kernels", *FOUNDATION}
    if part == "datasets":
        return {"datasets"}
    depth = next(i for i, layer in enumerate(MODEL_LAYERS) if part in layer)
    return set().union(*MODEL_LAYERS[: depth + 1])


def imported_modules(path: Path, package: str = "jem") -> set[str]:
    """Full names of the modules a file imports, wherever in the file; `from jem import x` counts as jem.x."""
    modules = set()
    for item in ast.walk(ast.parse(path.read_text())):
        if isinstance(item, ast.Import):
            modules |= {alias.name for alias in item.names}
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, f"{path}: relative import"
            names = [f"{package}.{alias.name}" for alias in item.names] if item.module == package else [item.module]
            modules |= {name for name in names if name}
    return modules


def parts(package: Path) -> dict[Path, str]:
    """Each file of the package with the part it belongs to: a folder or a module at the top."""
    return {p: p.relative_to(package).parts[0].removesuffix(".py") for p in sorted(package.rglob("*.py"))}


def forbidden_imports(package: Path) -> list[str]:
    """Every import that goes up or sideways, as "part: module"."""
    found = []
    for path, part in parts(package).items():
        if part in OUTSIDE:
            continue
        for module in imported_modules(path):
            if module.split(".")[0] == "jem" and [*module.split("."), ""][1] not in allowed_imports(part):
                found.append(f"{path.relative_to(package)}: {module}")
    return found


def test_imports_go_down_only():
    assert forbidden_imports(ROOT / "jem") == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("engine/loop.py", "from jem.latents.mixture import Mixture"),
        ("latents/mixture.py", "from jem.engine import loop"),
        ("latents/mixture.py", "from jem import fit"),
        ("kernels/chain.py", "import jem"),
        ("families/poisson.py", "from jem.plates import Stack"),
        ("datasets/__init__.py", "from jem import tree"),
    ],
)
def test_the_walk_sees_an_import_that_goes_up(tmp_path, file, line):
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(f"def f():\n    {line}\n")
    assert len(forbidden_imports(tmp_path)) == 1


def test_what_is_imported_is_declared():
    """jax runs everything, on jaxlib; optax is what users hand to `jem.GEM`. Extras are imported where they are used."""
    files = parts(ROOT / "jem")
    imported = {module.split(".")[0] for path in files for module in imported_modules(path)}
    assert "jax" in imported
    assert not imported & {"chex", "jaxlib", "optax"}


def test_import_is_light():
    script = """
import sys, jax
before = dict(jax.config.values)
import jem, jem.datasets
from jax._src import xla_bridge
print([name for name in ("optax", "chex", "typer", "rich", "scipy.stats") if name in sys.modules],
      list(xla_bridge._backends), before == dict(jax.config.values))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[] [] True"


def test_declared_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"jax", "jaxlib", "optax"}
    assert project["requires-python"] == ">=3.11"
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def test_ci_runs_the_commands_of_the_readme():
    run_it, test_it = (block.strip() for block in blocks("bash")[:2])
    assert "\n" not in run_it and "\n" not in test_it  # .ci/run reads one line for each
    assert run_it.startswith("python3 -m venv") and run_it.endswith("python -m jem")
    assert "pip install -e '.[test]'" in test_it and "python -m pytest" in test_it
    extract = re.search(r"^mapfile .*<\((awk .*README\.md)\)$", (ROOT / ".ci/run").read_text(), flags=re.M)
    assert extract
    lines = subprocess.run(["bash", "-c", extract[1]], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert lines.splitlines()[:2] == [run_it, test_it]


def test_example_of_the_readme_prints_what_it_says():
    code = blocks("python")[0]
    assert len(code.strip().splitlines()) <= 10
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == blocks("text")[0]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

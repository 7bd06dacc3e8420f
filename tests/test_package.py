"""The package as a whole: what it imports and when, what it declares, and that its front page tells the truth."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import jem

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()

FOUNDATION = {"backend", "documented", "series_checks", "tree", "settings", "reading", "checks", "data", "series", "tables"}
MODEL_LAYERS = [FOUNDATION, {"kernels"}, {"node"}, {"coordinates", "composite"}, {"families"}, {"combine"}, {"latents"}]
MODELS = {"families", "combine", "latents"}
ABOVE = {"ask", "doors", "io", "testing"}
NAMESPACES = {
    "adjoints", "author", "covariance", "durations", "forms", "laws", "priors", "rotations", "schedules", "solvers", "spaces",
    "starts", "stop", "supports", "uncertainty",
}  # fmt: skip
OUTSIDE = {"__init__", "__main__", "cli", "plot", "sklearn", *NAMESPACES}  # these may import anything


def allowed_imports(part: str) -> set[str]:
    """The parts of jem that a part may import, itself included."""
    if part in ABOVE:
        return {*ABOVE, "engine", *set().union(*MODEL_LAYERS)}
    if part == "engine":
        return {"engine", "coordinates", "node", "kernels", *FOUNDATION}
    if part == "datasets":
        return {"datasets"}
    if part in ("estimators", "plots"):
        return {"", part}  # the surface, as users see it
    depth = next(i for i, layer in enumerate(MODEL_LAYERS) if part in layer)
    return set().union(*MODEL_LAYERS[: depth + 1])


def imported_modules(path: Path, package: str = "jem") -> set[str]:
    """Full names of the modules a file imports, wherever in the file; `from jem import y` counts as `y` of jem."""
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
        ("engine/loop.py", "from jem.latents.mixture.mixture import Mixture"),
        ("latents/mixture/mixture.py", "from jem.engine import loop"),
        ("latents/mixture/mixture.py", "from jem.doors import fit"),
        ("kernels/chain.py", "import jem"),
        ("families/poisson.py", "from jem.combine.stack import Stack"),
        ("datasets/__init__.py", "from jem import tree"),
        ("estimators/base.py", "from jem.doors.fit import fit"),
    ],
)
def test_the_walk_sees_an_import_that_goes_up(tmp_path, file, line):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(f"def f():\n    {line}\n")
    assert len(forbidden_imports(tmp_path)) == 1


def test_what_is_imported_is_declared():
    """jax runs everything, on jaxlib; optax is what users hand to `jem.solvers.GEM`. Extras are where they are used."""
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
heavy = ("optax", "chex", "typer", "rich", "scipy.stats", "sklearn", "jem.estimators", "matplotlib",
         "narwhals", "pandas", "polars", "pyarrow", "arviz")
print([name for name in heavy if name in sys.modules],
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


PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
PAGES += [str(p.relative_to(ROOT)) for p in ROOT.glob("jem/*/README.md")]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert links or page in ("docs/coming-from-r.md", "docs/censored.md", "jem/kernels/README.md")
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def public(module) -> dict[str, object]:
    """What a namespace offers, modules apart."""
    return {n: v for n, v in vars(module).items() if not n.startswith("_") and not inspect.ismodule(v)}


def test_the_surface():
    """A screen of names in `jem`; all others in namespaces that say what they are for, each name in one place."""
    names = public(jem)
    assert len(names) <= 90
    assert {n for n, v in vars(jem).items() if inspect.ismodule(v)} >= {*NAMESPACES, "datasets"}
    seen = {id(value): name for name, value in names.items()}
    for namespace in sorted(NAMESPACES):
        module = getattr(jem, namespace)
        assert f"`jem.{namespace}`" in README, namespace
        for name, value in public(module).items():
            assert id(value) not in seen, f"{namespace}.{name} is {seen[id(value)]} too"
            seen[id(value)] = f"{namespace}.{name}"
            assert inspect.getdoc(value), f"{namespace}.{name} has no docstring"


def test_records_are_on_their_nodes():
    """The parameters of every node that has a record of its own are `Node.Params`."""
    for cls in (jem.Bernoulli, jem.Categorical, jem.FactorAnalysis, jem.Gaussian, jem.HMM, jem.LDS, jem.Mixture, jem.Poisson,
                jem.StudentT, jem.laws.Cells, jem.laws.Durations, jem.durations.Poisson):  # fmt: skip
        assert cls.Params._fields and cls.Params.__doc__


def test_every_name_spoken_of_exists():
    """What docs, docstrings, messages, tests, notebooks and benches call by its full name is found there."""
    missing = set()
    for path in [p for kind in ("*.md", "*.py", "*.ipynb") for p in ROOT.rglob(kind) if not {".venv", "cases"} & set(p.parts)]:
        for name in re.findall(r"(?<![\w./\"'@-])jem((?:\.[A-Za-z]\w*)+)", path.read_text()):
            found = jem
            for part in name.removesuffix(".py").removesuffix(".md").split(".")[1:]:
                if inspect.ismodule(found) and not hasattr(found, part) and find_spec(f"{found.__name__}.{part}"):
                    break
                found = getattr(found, part, None)
                if found is None:
                    missing.add(f"{path.relative_to(ROOT)}: jem{name}")
                if not (inspect.ismodule(found) or inspect.isclass(found)):
                    break
    assert missing == set()


def test_every_method_says_what_it_does():
    """Its own docstring or that of its contract, which it inherits."""
    bare = {
        f"{namespace}.{cls.__name__}.{name}"
        for namespace in ("", *sorted(NAMESPACES))
        for cls in public(getattr(jem, namespace) if namespace else jem).values() if inspect.isclass(cls)
        for name, member in vars(cls).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)) and not member.__doc__
    }  # fmt: skip
    assert bare == set()

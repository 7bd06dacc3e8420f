"""The command: what it prints and writes; a mistake of the user costs one line and leaves nothing behind."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal

import jax
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import jem
from jem import datasets
from jem.cli import command as cli
from jem.cli import data, start
from jem.cli.models import MODELS
from jem.combine.named import MCLUST
from jem.datasets.table import TableError, read_table, read_words

NUMBERS = "a,b\n1,2\n3,4\n5,7\n"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Programs of other processes go to a folder of the test's; this process keeps to itself."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(cli, "keep_programs", lambda: None)
    yield folder
    jem.use_cores(1)


def run(capsys, *arguments):
    """The exit code and the lines of stderr and stdout."""
    code = cli.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.err.splitlines(), output.out


def fit_error(capsys, tmp_path, *arguments):
    """The one line that a failing `fit` prints, after checking that it is one, and that no file appeared."""
    before = sorted(tmp_path.rglob("*"))
    code, errors, printed = run(capsys, "fit", *arguments)
    assert (code, printed, len(errors)) == (2, "", 1), errors
    assert sorted(tmp_path.rglob("*")) == before
    return errors[0]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["is empty"]),
        ("\n\n", ["is empty"]),
        ("a,b\n", ["no rows"]),
        ("a,b\n1,2\n3,x\n", ["row 2 (line 3)", "column 'b'", "'x' is not a number"]),
        ("a,kind\n1,setosa\n3,virginica\n", ["row 1 (line 2)", "column 'kind'", "'setosa' is not a number"]),
        ("a,b\n1,2\n\n3,\n", ["row 2 (line 4)", "column 'b'", "an empty cell"]),
        ("1,2\n3,NaN\n", ["row 2 (line 2)", "column 2", "NaN is not a finite number"]),
        ("NA,2\n3,4\n", ["row 1 (line 1)", "column 1", "NA is not a finite number"]),
        ("a;b\n1;2\n-inf;4\n", ["row 2 (line 3)", "column 'a'", "-inf is not a finite number"]),
        ("a,b\n1,2\n3\n", ["row 2 (line 3)", "1 cells, expected 2"]),
        ("a,b\nfirst,1,2\nsecond,3,4\n", ["row 1 (line 2)", "3 cells under 2 column names"]),
        (b"a,b\n\xff\xfe,1\n", ["UTF-8"]),
        (b"1,2\n3,4\n5,\xff\n", ["UTF-8"]),
        ("a,b\n1,2\n3,4,5\n", ["row 2 (line 3)", "3 cells, expected 2"]),
        ("a\n" + "1" * 200_000 + "x\n", ["CSV"]),
    ],
)
def test_bad_csv(capsys, tmp_path, content, parts):
    path = tmp_path / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = fit_error(capsys, tmp_path, path, "--model", "dirichlet", "-k", 2, "--out", tmp_path / "fit.npz")
    assert all(part in line for part in [str(path), *parts]), line


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.array([[1.0, 2.0], [3.0, np.nan]]), "row 2, column 2: nan is not finite"),
        (np.array([["a", "b"]]), "expected real numbers"),
        (np.array([[1, None]], dtype=object), "is not an array of numbers"),
        (np.zeros((2, 2, 2)), "found (2, 2, 2)"),
        (np.zeros((0, 2)), "no rows"),
        (None, "is empty"),
    ],
)
def test_bad_npy(capsys, tmp_path, array, part):
    path = tmp_path / "x.npy"
    path.touch() if array is None else np.save(path, array)
    assert part in fit_error(capsys, tmp_path, path, "--model", "dirichlet", "--out", tmp_path / "fit.npz")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["{x}", "-k", "4"], "K = 4 exceeds the number of rows, N = 3"),
        (["{x}", "-k", "2..8"], "K = 8 exceeds the number of rows, N = 3"),
        (["{x}", "-k", "0"], "-k 0: expected"),
        (["{x}", "-k", "3..2"], "-k 3..2: expected"),
        (["{x}", "-k", "2-8"], "-k 2-8: expected"),
        (["{x}", "-k", "1..1000000000000"], "K = 1000000000000 exceeds the number of rows, N = 3"),
        (["{x}", "-k", "9" * 5000], "expected a number of components"),
        (["{x}", "-k", "2", "--seed", str(2**70)], "seed"),
        (["{x}", "-k", "2", "--seed", "-1"], "seed"),
        (["{x}", "-k", "2", "--max-steps", str(2**31)], "--max-steps 2147483648: the objective of every step"),
        (["{x}", "-k", "2", "--restarts", "10000000000"], "--restarts 10000000000"),
        (["{x}", "-k", "2", "--tol", "nan"], "tol"),
        (["{x}", "-k", "2", "--tol", "inf"], "--tol inf: expected"),
        (["{x}", "-k", "2", "--model", "gmm-round"], "expected one of gmm, gmm-diag"),
        (["{x}", "-k", "2", "--dtype", "float16"], "expected float32 or float64"),
        (["{x}", "-k", "2", "--columns", "a,c"], "no column 'c'; the columns are a, b"),
        (["{x}", "-k", "2", "--restarts", "0"], "restarts"),
        (["{x}", "-k", "2", "--seed", "one"], "seed"),
        (["{x}", "-k", "2", "--epochs", "3"], "epochs"),
        (["{x}", "-k", "2", "--out", "{dir}/fit.csv"], "expected a name ending in .npz"),
        (["{x}", "-k", "2", "--out", "{dir}/nowhere/fit.npz"], "cannot be written"),
        (["{x}", "-k", "2", "--out", "{dir}/folder.npz"], "is a directory"),
        (["{x}", "-k", "2", "--model", "bernoulli"], "x.csv"),
        (["{x}", "-k", "2", "--model", "linear"], "--model linear: is a regression; say its inputs"),
        (["{x}", "-k", "2", "--inputs", "a"], "--inputs a: gmm takes no inputs"),
        (["{x}", "-k", "2", "--model", "binomial"], "--model binomial: say of how many trials"),
        (["{x}", "-k", "2", "--trials", "3"], "--trials 3: gmm has no trials"),
        (["{x}", "-k", "2", "--sequence", "a"], "--sequence a: gmm is of rows; take a chain"),
        (["{x}", "-k", "1", "--model", "lds", "--labels", "a"], "--labels a: lds has no components"),
        (["{x}", "-k", "2", "--labels", "b"], "--labels b: there are 8 components in it"),
        (["{x}", "-k", "2", "--labels", "c"], "no column 'c'; the columns are a, b"),
        (["{x}", "-k", "2", "--weights", "a,b"], "no column 'a,b'"),
        (["{x}", "-k", "2", "--columns", "a", "--weights", "b", "--model", "hmm-poisson"], "a sequence has one weight"),
        (["{x}", "-k", "1", "--model", "fa", "--columns", "a"], "num_factors"),
        (["{half}", "-k", "1", "--model", "lca", "--columns", "a,b"], "column 'b': 0.5 is no category"),
        (["{half}", "-k", "1", "--model", "lds", "--columns", "a", "--sequence", "c"], "row 2, column 'c': the row is of no"),
        (["{half}", "-k", "1", "--columns", "a", "--labels", "b"], "row 1, column 'b': 0.5 is no label"),
        (["{half}", "-k", "1", "--columns", "a", "--weights", "c"], "column 'c': 'x' is not a number"),
        (["{dir}/absent.csv", "-k", "2"], "no such file"),
        (["{dir}/folder.csv", "-k", "2"], "cannot be read"),
        (["{dir}/x.txt", "-k", "2"], "unknown extension '.txt'"),
        ([], "FILE"),
    ],
)
def test_bad_arguments(capsys, tmp_path, arguments, part):
    (tmp_path / "x.csv").write_text(NUMBERS)
    (tmp_path / "x.txt").write_text(NUMBERS)
    (tmp_path / "half.csv").write_text("a,b,c\n1,0.5,x\n2,1,\n")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "folder.csv").mkdir()
    given = [argument.format(x=tmp_path / "x.csv", half=tmp_path / "half.csv", dir=tmp_path) for argument in arguments]
    assert part in fit_error(capsys, tmp_path, *given)


def test_a_header_that_claims_more_than_the_file(capsys, tmp_path):
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)})
        file.write(bytes(240))
    assert "is not an array of numbers" in fit_error(capsys, tmp_path, path)


def test_value_beyond_float32(capsys, tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3,1e300\n5,7\n")
    line = fit_error(capsys, tmp_path, tmp_path / "x.csv", "-k", 1, "--dtype", "float32")
    assert "row 2, column 'b'" in line and "--dtype float64" in line


@pytest.mark.parametrize(
    ("content", "columns", "names", "x"),
    [
        ("a,b\n1,2\n3,4\n", [], ["a", "b"], [[1, 2], [3, 4]]),
        ("1,2\n3,4\n", [], ["1", "2"], [[1, 2], [3, 4]]),
        ("\ufeffa;b\n1;2\n\n3;4\n", [], ["a", "b"], [[1, 2], [3, 4]]),
        ('"first, one"\tb\n"1"\t2\n', [], ["first, one", "b"], [[1, 2]]),
        ("a,kind,b\n1,setosa,2\n3,virginica,4\n", ["b", "1"], ["b", "a"], [[2, 1], [4, 3]]),
        ("a\n1\n2\n", [], ["a"], [[1], [2]]),
        ("a,b\n 1 , 2e0\n", [], ["a", "b"], [[1, 2]]),
    ],
)
def test_read_csv(tmp_path, content, columns, names, x):
    path = tmp_path / "x.csv"
    path.write_text(content, encoding="utf-8")
    got, got_names = read_table(path, columns)
    assert got_names == names
    np.testing.assert_array_equal(got, np.asarray(x, float))


def test_read_npy(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3))
    x, names = read_table(tmp_path / "x.npy")
    assert (x.tolist(), x.dtype, names) == ([[0], [1], [2]], np.float64, ["1"])
    with pytest.raises(TableError, match="no column '2'"):
        read_table(tmp_path / "x.npy", ["2"])


def test_fit_chooses_and_writes(capsys, tmp_path):
    x = datasets.old_faithful()
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header="eruptions,waiting", comments="")
    out = tmp_path / "fit.npz"
    code, errors, printed = run(
        capsys, "fit", tmp_path / "x.csv", "--model", "gmm-tied", "-k", "2..3", "--restarts", 8, "--out", out
    )
    assert (code, errors) == (0, [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit.npz", "x.csv"]
    with np.load(out) as saved:
        fit = dict(saved)
    # mclust finds EEE with three components to be the best of these by BIC, and stops at -1126.326, 0.01 below the maximum.
    assert fit["weights"].shape == (3,) and fit["mean"].shape == (3, 2) and fit["covariance"].shape == (3, 2, 2)
    assert fit["weights"].dtype == np.float64
    assert abs(fit["log_likelihood"] + 1126.316) < 0.01
    assert fit["sweep_num_components"].tolist() == [2, 3] and fit["bic"] == fit["sweep_bic"].min()
    assert fit["columns"].tolist() == ["eruptions", "waiting"] and fit["labels"].shape == (272,)
    for k in range(3):
        np.testing.assert_allclose(x[fit["labels"] == k].mean(0), fit["mean"][k], rtol=0.1)
    assert " best\n" in printed and f"{fit['log_likelihood']:.4f}" in printed


RNG = np.random.default_rng(0)
FIRST = RNG.random((60, 1)) < 0.5
POSITIVE = RNG.gamma(3, np.where(FIRST, 1, 4), (60, 3))
DIRECTIONS = RNG.standard_normal((60, 3)) + np.where(FIRST, 3, -3)
ROWS = {
    "reals": RNG.standard_normal((60, 3)) + 4 * FIRST,
    "positive": POSITIVE,
    "counts": RNG.poisson(np.where(FIRST, 2, 9), (60, 3)),
    "bits": RNG.random((60, 3)) < np.where(FIRST, 0.1, 0.8),
    "fractions": RNG.beta(2, np.where(FIRST, 2, 6), (60, 3)),
    "shares": POSITIVE / POSITIVE.sum(1, keepdims=True),
    "directions": DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=1, keepdims=True),
}
OF = {
    "positive": ["exponential", "gamma", "inverse-gamma", "inverse-gaussian", "log-normal", "rayleigh", "weibull"],
    "counts": ["poisson", "negative-binomial", "geometric", "binomial", "beta-binomial", "multinomial", "dirichlet-multinomial",
               "categorical", "lca"],
    "bits": ["bernoulli"], "fractions": ["beta"], "shares": ["dirichlet"], "directions": ["von-mises-fisher"],
}  # fmt: skip


def rows_for(model):
    """Rows that the model of this name takes."""
    family = model.removeprefix("hmm-").removeprefix("glm-")
    return ROWS[next((rows for rows, names in OF.items() if family in names), "reals")]


def options_for(model):
    """What must be said beside its name."""
    kind = MODELS[model]
    return [*["--inputs", "3"] * kind.inputs, *["--trials", "40"] * kind.trials, *["--sequence", "2"] * (kind.units == "steps")]


def test_every_model_takes_its_data(tmp_path):
    """Each name makes a node, for which a start is made of data of its kind; cells that may be missing may."""
    for name, kind in MODELS.items():
        if name in ("hmm-dirichlet", "hmm-von-mises-fisher") or name[2:] in MCLUST:
            continue  # of which no column can be the sequence; made as those of Gaussians
        x, steps = np.array(rows_for(name), float), kind.units == "steps"
        if steps:
            x[:, 1] = np.repeat([0, 1], 30)
        x[4, 0] = np.nan if kind.holes else x[4, 0]
        np.save(tmp_path / "x.npy", x)
        found = data.read(
            str(tmp_path / "x.npy"), name, weights="", labels="", dtype="float32", factors=1, trials=40 if kind.trials else 0,
            columns="1,2" if kind.inputs and not steps else "", inputs="3" if kind.inputs else "",
            sequence="2" if steps else "",
        )  # fmt: skip
        k = 1 if kind.sizes == "1" else 2
        cli.check(kind, "x.npy", found, [k])
        node = kind.make(k, found.shape)
        jax.eval_shape(lambda key, x: jem.init(node, key, x), jax.random.key(0), found.data)


FITTED = ("VEI", "lca", "linear", "fa", "hmm-poisson", "lds")


@pytest.mark.parametrize("model", FITTED)
def test_models_fit(capsys, tmp_path, model):
    """A mixture of every kind, a chain, what has no components: parameters by name, and what is hidden of each row."""
    x = np.array(rows_for(model), float)
    if MODELS[model].units == "steps":
        x[:, 1] = np.arange(60) % 2  # the steps of two sequences, by turns
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "fit.npz"
    sizes = [] if MODELS[model].sizes == "1" else ["-k", 2]
    options = ["--model", model, *sizes, "--restarts", 3, "--dtype", "float32", "--max-steps", 20, "--out", out]
    code, errors, printed = run(capsys, "fit", tmp_path / "x.npy", *options, *options_for(model))
    assert (code, errors) == (0, [])
    with np.load(out) as saved:
        fit = dict(saved)
    hidden = {"fa": "factors", "lds": "states"}.get(model, "labels")
    assert len(fit[hidden]) == 60 and fit["model"] == model
    if hidden == "labels":  # as the rows were made
        agree = np.mean(fit["labels"] == FIRST[:, 0])
        assert max(agree, 1 - agree) > (0.9 if model not in ("linear", "lca") else 0.5)
    want = {
        "VEI": {"mean", "covariance"}, "lca": {"1.probs", "2.probs", "3.probs"}, "linear": {"coef", "intercept", "covariance"},
        "fa": {"mean", "loadings", "noise"}, "hmm-poisson": {"initial", "transition.probs", "emission.rate"},
        "lds": {"A", "C", "m0", "chol_Q", "chol_R"},
    }[model]  # fmt: skip
    assert want <= set(fit) and "whitening" not in fit
    assert ("component 1" in printed) == ("weights" in fit)
    assert "2 sequences" in printed or MODELS[model].units == "rows"


def test_missing_cells_weights_and_labels(capsys, tmp_path):
    """Of a CSV and a Parquet file alike; weight 0 removes a row, whatever label it has."""
    x = np.round(ROWS["reals"][:, :2], 3)
    cells = [[f"{v}" for v in row] for row in x]
    cells[3][1], cells[7][0] = "", "NA"
    known = ["far" if first else "near" for first in FIRST[:, 0]]
    known[10:] = [""] * 50
    weights = np.where(np.arange(60) == 5, 0, 1)
    lines = [",".join([*row, label, str(w)]) for row, label, w in zip(cells, known, weights, strict=True)]
    (tmp_path / "x.csv").write_text("\n".join(["a,b,known,w", *lines]))
    held = [[None if cell in ("", "NA") else float(cell) for cell in column] for column in zip(*cells, strict=True)]
    columns = dict(zip("ab", held, strict=True)) | {"known": [label or None for label in known], "w": weights}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    fits = []
    for name in ("x.csv", "x.parquet"):
        options = ["-k", 2, "--restarts", 2, "--weights", "w", "--labels", "known", "--out", tmp_path / "fit.npz"]
        code, errors, printed = run(capsys, "fit", tmp_path / name, *options)
        assert (code, errors) == (0, []) and "a, b; 2 cells missing; 10 labels" in printed
        fits.append(dict(np.load(tmp_path / "fit.npz")))
    assert fits[0]["label_names"].tolist() == ["far", "near"]
    assert (fits[0]["labels"][:10] == ~FIRST[:10, 0]).all()
    np.testing.assert_array_equal(fits[0]["mean"], fits[1]["mean"])
    assert fits[0]["log_likelihood"] == fits[1]["log_likelihood"]


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"a": ["x", "y"]}, "column 'a': string is no type of numbers"),
        ({"a": [1.0, float("inf")]}, "row 2, column 'a': inf is not finite"),
        ({"a": [1.0, None]}, "row 2, column 'a': nan is not finite"),
        (None, "is not a table in Parquet"),
        ({"a": []}, "no rows"),
    ],
)
def test_bad_parquet(capsys, tmp_path, columns, part):
    path = tmp_path / "x.parquet"
    path.write_text("no such thing") if columns is None else parquet.write_table(pyarrow.table(columns), path)
    assert part in fit_error(capsys, tmp_path, path, "--model", "dirichlet", "-k", 1)


def test_read_parquet(monkeypatch, tmp_path):
    """Whole numbers, truth and decimals are floats; without pyarrow it says what to install."""
    columns = {"a": [1, 2], "yes": [True, None], "money": [Decimal("1.5"), Decimal("2.5")], "who": ["x", None]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    x, names = read_table(tmp_path / "x.parquet", without=["who"], holes=True)
    np.testing.assert_array_equal(x, [[1, 1, 1.5], [2, np.nan, 2.5]])
    assert names == ["a", "yes", "money"] and read_words(tmp_path / "x.parquet", "who") == ["x", ""]
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(TableError, match=r"pip install 'jem\[tables\]'"):
        read_table(tmp_path / "x.parquet")


def test_models_are_listed(capsys):
    code, errors, printed = run(capsys, "models")
    assert (code, errors) == (0, []) and {line.split()[0] for line in printed.splitlines()[1:]} == set(MODELS)


def test_no_command_fits_old_faithful():
    done = subprocess.run([sys.executable, "-m", "jem"], capture_output=True, text=True, check=True)
    printed = done.stdout
    assert "Mixture(Gaussian(), 2)" in printed and "256 restarts" in printed
    # mclust, VVV with two components: -1130.264 and weights 0.644, 0.356.
    assert "log-likelihood   -1130.26" in printed
    assert {"weight 0.3559", "weight 0.6441"} == {line[-13:] for line in printed.splitlines() if "weight" in line}
    for name in ("lanes", "BIC", "mean", "covariance", "time to compile", "time to fit"):
        assert name in printed


def test_interrupted_write_leaves_the_old_file(monkeypatch, tmp_path):
    path = tmp_path / "fit.npz"
    path.write_bytes(b"old")

    def half_write(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half_write)
    with pytest.raises(KeyboardInterrupt):
        cli.write_npz(path, {"weights": np.ones(2)})
    assert [p.name for p in tmp_path.iterdir()] == ["fit.npz"] and path.read_bytes() == b"old"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_fit_ends_at_once(tmp_path, number):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20_000, 8)))
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import jem.cli, runpy; print('ready', flush=True); runpy.run_module('jem', run_name='__main__')"
    )
    options = "fit x.npy -k 8 --tol 0 --max-steps 1000000 --out fit.npz".split()
    with subprocess.Popen(
        [sys.executable, "-c", script, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(2)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "jem: interrupted\n")
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


SCRIPT = """
import sys
from collections import Counter
from jax import monitoring
seen = Counter()
monitoring.register_event_listener(lambda event, **more: seen.update([event.removeprefix("/jax/compilation_cache/")]))
from jem.cli import main
code = main(sys.argv[1:])
print(code, seen["cache_hits"], seen["cache_misses"])
"""


def count(*arguments):
    """The exit code, and the programs found and not found in the cache, of the command in a process of its own."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    assert not done.stderr
    return tuple(int(word) for word in done.stdout.split()[-3:])


def test_a_second_process_compiles_nothing(own_cache, tmp_path):
    (tmp_path / "x.csv").write_text(NUMBERS)
    arguments = ["fit", str(tmp_path / "x.csv"), "-k", "1", "--restarts", "2", "--max-steps", "3"]
    code, hits, misses = count(*arguments)
    assert code == 0 and misses > 0
    assert count(*arguments) == (0, hits + misses, 0)


def test_when_programs_are_kept(monkeypatch, capsys, own_cache, tmp_path):
    """Unless told not to; where a folder cannot be made, or another was chosen, all stays as it is."""
    asked = []
    monkeypatch.setattr(cli, "keep_programs", lambda: asked.append(True))
    (tmp_path / "x.csv").write_text(NUMBERS)
    arguments = ["fit", tmp_path / "x.csv", "-k", "1", "--restarts", "1", "--max-steps", "1", "--cores", "1"]
    run(capsys, *arguments, "--no-cache")
    assert not asked
    run(capsys, *arguments)
    assert asked
    before = dict(jax.config.values)
    shutil.rmtree(own_cache)
    own_cache.touch()
    start.keep_programs()
    assert dict(jax.config.values) == before
    own_cache.unlink()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        start.keep_programs()
        assert not own_cache.exists()
    finally:
        jax.config.update("jax_compilation_cache_dir", before["jax_compilation_cache_dir"])


@pytest.mark.parametrize("missing", ["typer", "rich", "platformdirs"])
def test_without_the_extra(monkeypatch, capsys, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    for name in list(sys.modules):
        if name.split(".")[:2] == ["jem", "cli"] or name.startswith(f"{missing}."):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("jem", run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"jem: the command needs {missing}: pip install 'jem[cli]'\n"

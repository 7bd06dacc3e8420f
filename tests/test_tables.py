"""Tables of pandas, polars and Arrow at the doors: their numbers are those of arrays, names are kept, the rest is refused."""

import datetime
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import jax
import jax.numpy as jnp
import narwhals
import numpy as np
import pandas
import polars
import pyarrow
import pytest

import jem
import jem.plot
from jem.sklearn import GaussianMixture

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = {"size": [1.0, 2.5, 9.0, 8.0, 2.0, 7.0], "count": [1, 2, 7, 9, 2, 8]}
X = np.array(list(COLUMNS.values()), float).T
MODEL = jem.Gaussian()
START = MODEL.params([4.0, 5.0], [[9.0, 1.0], [1.0, 9.0]])
MIXTURE, ONE = jem.Mixture(MODEL, 1), jem.Mixture.Params(jnp.ones(1), jax.tree.map(lambda a: a[None], START))
KINDS = {
    "pandas": pandas.DataFrame,
    "nullable": lambda columns: pandas.DataFrame(columns).convert_dtypes(),
    "pandas of arrow": lambda columns: pandas.DataFrame(columns).convert_dtypes(dtype_backend="pyarrow"),
    "polars": polars.DataFrame,
    "arrow": pyarrow.table,
}
DOORS = {
    "fit": lambda x: jem.fit(MODEL, START, x).params,
    "fit_restarts": lambda x: jem.fit_restarts(MODEL, jax.random.key(0), x, num_restarts=2).params,
    "stream": lambda x: jem.fit_stream(MODEL, START, [x], total_weight=6).params,
    "sweep": lambda x: jem.sweep({"a": MODEL}, jax.random.key(0), x, num_restarts=2).rows[0].bic,
    "cross_validate": lambda x: jem.cross_validate(MODEL, jax.random.key(0), x, num_folds=2, num_restarts=2).log_likelihood,
    "init": lambda x: jem.init(MODEL, jax.random.key(0), x),
    "log_prob": lambda x: jem.log_prob(MODEL, START, x),
    "infer": lambda x: jem.infer(MODEL, START, x),
    "bic": lambda x: jem.bic(MODEL, START, x),
    "standard_errors": lambda x: jem.standard_errors(MODEL, START, x).errors,
    "bootstrap": lambda x: jem.bootstrap(MODEL, jax.random.key(0), START, x, num_replicates=3).params,
    "sequences": lambda x: jem.sequences(x, lengths=[4, 2]).values,
    "several sequences": lambda x: jem.sequences([x, x]).values,
    "labelled": lambda x: jem.log_prob(MIXTURE, ONE, jem.Labelled(x, np.zeros(6, int))),
    "censored": lambda x: jem.Interval.right(x, np.zeros(6, bool)).lower,
}


def same(got, want):
    """Two trees are equal, bit for bit."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("door", DOORS)
def test_a_table_at_every_door(door):
    """It is the array of its columns, whose it is."""
    want = DOORS[door](X)
    kinds = KINDS.values() if door == "log_prob" else [KINDS["polars"]]
    for make in kinds:
        same(DOORS[door](make(COLUMNS)), want)
    same(DOORS[door](jem.table(KINDS["arrow"](COLUMNS))), want)


@pytest.mark.parametrize("kind", KINDS)
def test_what_columns_are(kind):
    """Null is NaN, truth 0 or 1, whole numbers stay whole; one column is (N,), a column of nothing all NaN."""
    frame = KINDS[kind]({"a": [1, None, 3], "b": [0.5, None, 1.5], "yes": [True, False, True], "may": [True, None, False],
                         "none": [None, None, None], "whole": [1, 2, 3]})  # fmt: skip
    nan = np.nan
    x = jem.table(frame).values
    np.testing.assert_array_equal(x, [[1, 0.5, 1, 1, nan, 1], [nan, nan, 0, nan, nan, 2], [3, 1.5, 1, 0, nan, 3]])
    assert jem.table(frame, "whole").values.dtype.kind == "i" and jem.table(frame, ["yes"]).values.dtype == bool
    assert jem.table(frame, "b").columns == "b" and jem.table(frame, ["b", "a"]).columns == ("b", "a")
    pair = np.zeros(6), np.eye(6)
    given = jem.log_prob(jem.Missing(MODEL), MODEL.params(*pair), frame)
    same(given, jem.log_prob(jem.Missing(MODEL), MODEL.params(*pair), x))
    with pytest.raises(ValueError, match="x: nan in row 0, column 4.*jem.Missing"):
        jem.log_prob(MODEL, MODEL.params(*pair), frame)


def test_weights_and_parts_of_tables():
    """Columns by themselves: weights, outputs and inputs, numbers that are no floats."""
    frame = polars.DataFrame(COLUMNS)
    same(jem.bic(MODEL, START, frame, frame["size"]), jem.bic(MODEL, START, X, X[:, 0]))
    line = jem.Linear()
    x = [jem.Given(frame[["size"]], frame[["count"]]), jem.Given(X[:, :1], X[:, 1:])]
    same(*(jem.init(line, jax.random.key(0), one) for one in x))
    assert jem.table(pandas.DataFrame(X)).columns == ("0", "1")
    assert jem.table(pandas.DataFrame({"a": [Decimal("1.5"), None]})).values[0] == 1.5
    narrow = polars.DataFrame({"a": [1.0, 2.0], "b": [3, None]}, schema={"a": polars.Float32, "b": polars.Int8})
    assert jem.table(narrow.select("a")).values.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_text_dates_and_categories(kind):
    """Refused by their names, with what to do; codes where they are asked for."""
    day = datetime.date(2024, 5, 1)
    columns = {"size": [1.0, 2.0, 3.0], "kind": ["long", None, "wide"], "day": [day, day, datetime.date(2024, 4, 1)]}
    frame = KINDS[kind](columns)
    words = r"'kind' \(text\), 'day' \(.*date.*codes=\('kind',\).*columns=\["
    with pytest.raises(TypeError, match=f"^x: expected columns of numbers; got {words}"):
        jem.fit(MODEL, START, frame)
    with pytest.raises(TypeError, match="'day'"):
        jem.table(frame, codes=True)
    found = jem.table(frame, ["size", "kind"], codes=True)
    np.testing.assert_array_equal(found.values, [[1, 0], [2, np.nan], [3, 1]])
    assert found.levels == {"kind": ("long", "wide")}
    assert jem.table(frame, "day", codes="day").values.tolist() == [1, 1, 0]


def test_the_order_of_categories():
    """Theirs, where they have one, with those that do not occur."""
    levels = ["small", "middle", "large"]
    frames = [
        pandas.DataFrame({"a": pandas.Categorical(["large", "small"], categories=levels)}),
        pandas.DataFrame({"a": pandas.Categorical(["large", "small"], categories=levels, ordered=True)}),
        polars.DataFrame({"a": ["large", "small"]}, schema={"a": polars.Enum(levels)}),
    ]
    for frame in frames:
        found = jem.table(frame, "a", codes=True)
        assert (found.values.tolist(), found.levels["a"]) == ([2, 0], tuple(levels))
    found = jem.table(polars.DataFrame({"a": ["large", "small"]}, schema={"a": polars.Categorical}), "a", codes=True)
    assert (found.values.tolist(), found.levels["a"]) == ([0, 1], ("large", "small"))


def test_a_product_of_columns():
    """Its parts are columns by their names."""
    frame = polars.DataFrame({**COLUMNS, "kind": list("abbbac")})
    x = jem.table(frame, {"place": ["size", "count"], "kind": "kind"}, codes=True)
    model = jem.Product(place=jem.Gaussian(), kind=jem.Categorical(len(x.levels["kind"])))
    fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x).check()
    np.testing.assert_allclose(fit.params["kind"].probs, [1 / 3, 1 / 2, 1 / 6], rtol=1e-6)
    assert x.columns == {"place": ("size", "count"), "kind": "kind"}
    with pytest.raises(ValueError, match=r"jem.table\(frame, {'kind': \[columns\]"):
        jem.fit(model, fit.params, frame.drop("kind"))
    with pytest.raises(TypeError, match="parts"):
        np.asarray(x)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jem.table([1, 2]), "frame: expected a table"),
        (lambda: jem.table(pandas.DataFrame()), "no columns"),
        (lambda: jem.table(pandas.DataFrame(X, columns=["a", "a"])), "come twice"),
        (lambda: jem.table(polars.DataFrame(COLUMNS), ["size", "weight"]), "no column 'weight'; the columns are size, count"),
        (lambda: jem.table(polars.DataFrame(COLUMNS), codes=["kind"]), "no column 'kind'"),
        (lambda: jem.log_prob(MODEL, START, polars.LazyFrame(COLUMNS)), r"LazyFrame; call .collect\(\) first"),
        (lambda: jem.table(polars.LazyFrame(COLUMNS)), "expected a table"),
        (lambda: jem.log_prob(MODEL, START, polars.DataFrame({"a": [[1.0, 2.0]]})), r"'a' \(List"),
        (lambda: jem.log_prob(MODEL, START, polars.DataFrame({"a": [b"x"]})), r"'a' \(Binary"),
        (lambda: jem.log_prob(MODEL, START, pandas.DataFrame({"a": [1.0, "x"]})), r"'a' \(Python objects, as the string 'x'"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


@pytest.mark.parametrize("kind", KINDS)
def test_imputed_tables_are_tables(kind):
    """Of their kind, in their order, with what was seen as it was."""
    frame = KINDS[kind]({"size": [1.0, None, 3.0], "count": [1, 2, 3]})
    got = jem.impute(jem.Missing(MODEL), START, frame)
    assert type(got) is type(frame)
    want = np.asarray(jem.impute(jem.Missing(MODEL), START, jem.table(frame).values))
    np.testing.assert_allclose(jem.table(got).values, want, rtol=1e-6)
    np.testing.assert_array_equal(jem.table(got, "count").values, [1, 2, 3])
    assert jem.table(got, "count").values.dtype.kind == "i"
    assert jem.impute(jem.Missing(MODEL), START, jem.table(frame)).columns == ("size", "count")


def test_the_index_of_pandas_is_kept():
    frame = pandas.DataFrame({0: [1.0, np.nan, 3.0], 1: [1.0, 2.0, 3.0]}, index=[7, 5, 3])
    got = jem.impute(jem.Missing(MODEL), START, frame)
    assert got.index.tolist() == [7, 5, 3] and got.columns.tolist() == [0, 1] and got.loc[3, 0] == 3.0
    assert np.isfinite(got.loc[5, 0])


def test_names_in_pictures_and_estimators():
    frame = polars.DataFrame(COLUMNS)
    ax = jem.plot.clusters(MIXTURE, ONE, frame, columns=(1, 0))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("count", "size")
    assert jem.plot.clusters(MIXTURE, ONE, X).get_xlabel() == "column 0"
    assert jem.plot.density(MIXTURE, ONE, jem.table(frame)).get_ylabel() == "count"
    for kind in ("pandas", "polars"):
        fitted = GaussianMixture(1, random_state=0).fit(KINDS[kind](COLUMNS))
        assert fitted.feature_names_in_.tolist() == ["size", "count"]


def test_without_narwhals(monkeypatch):
    """What it is needed for says so; of pandas plain columns go without."""
    monkeypatch.setitem(sys.modules, "narwhals.stable.v2", None)
    monkeypatch.setattr("jem.reading.can_read", lambda: False)
    same(jem.log_prob(MODEL, START, pandas.DataFrame(COLUMNS)), jem.log_prob(MODEL, START, X))
    for call in (lambda: jem.table(polars.DataFrame(COLUMNS)), lambda: jem.log_prob(MODEL, START, pyarrow.table(COLUMNS))):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'jem\[tables\]'"):
            call()
    assert narwhals.__version__


def test_arrays_import_no_narwhals():
    """A door that gets no table looks for none."""
    asked = "jem.log_prob(jem.Poisson(), jem.Poisson.Params([1.0]), [[1], [2]])"
    script = f"import sys, jem; {asked}; print('narwhals' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"

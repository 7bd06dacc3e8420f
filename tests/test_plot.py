"""Pictures: each is drawn, holds what it should, and refuses what it cannot draw."""

import inspect

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from test_docstrings import lacking

import jem
import jem.plot
from jem.plots.canvas import COLOURS

PICTURES = {name: thing for name, thing in vars(jem.plot).items() if inspect.isfunction(thing)}
MODEL = jem.Mixture(jem.Gaussian(), 2)
X = jem.datasets.old_faithful().astype("float32")


@pytest.fixture(autouse=True)
def closed():
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fits():
    return jem.fit_restarts(MODEL, jax.random.key(0), X, num_restarts=4)


@pytest.fixture(scope="module")
def params(fits):
    return fits.best().params


def inked(ax, tmp_path):
    """The picture as it is written to a file: width, height and colours, of which some are not white."""
    ax.figure.savefig(tmp_path / "picture.png", dpi=120)
    pixels = plt.imread(tmp_path / "picture.png")[..., :3]
    assert pixels.shape[0] > 120 and pixels.shape[1] > 400
    assert (pixels < 0.9).any(-1).mean() > 0.005
    return pixels


def has_colour(pixels, number):
    return (np.abs(pixels - np.array(to_rgb(COLOURS[number]))).max(-1) < 0.25).any()


@pytest.mark.parametrize("name", PICTURES)
def test_docstrings_are_whole(name):
    assert lacking(PICTURES[name]) - {"equation"} == set()


def test_trace_and_optima(fits, tmp_path):
    lanes = fits._replace(status=fits.status.at[3].set(1))  # one that ran out of steps
    ax = jem.plot.trace(lanes)
    assert len(ax.lines) == 4
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0] == "optimum 1" and labels[-1] == "not converged"
    for line in ax.lines:
        assert np.all(np.diff(line.get_xdata()) == 1) and np.all(np.asarray(line.get_ydata()) > 0)
    assert has_colour(inked(ax, tmp_path), 0)
    ax = jem.plot.optima(lanes)
    assert sum(bar.get_width() for bar in ax.patches) == 4
    assert ax.get_yticklabels()[-1].get_text() == "MAX_STEPS"
    inked(ax, tmp_path)
    one = jax.tree.map(lambda leaf: leaf[0], fits)
    assert len(jem.plot.trace(one).lines) == 1


def test_bound_is_below_and_touches(tmp_path):
    start = jem.init(MODEL, jax.random.key(1), X)
    start = start._replace(components=start.components._replace(mean=start.components.mean + jnp.array([[0.5, -8.0]])))
    ax = jem.plot.bound(MODEL, start, X, num_steps=3)
    above, below = (np.asarray(line.get_ydata()) for line in ax.lines[:2])
    room = 1e-5 * np.abs(above).max()
    assert np.all(below <= above + room) and np.allclose(below[::2], above[::2])
    assert np.all(np.diff(above) >= -room) and np.all(np.diff(below) >= -room)
    assert below[1] < above[1] - room
    assert has_colour(inked(ax, tmp_path), 0)


def test_clusters(params, tmp_path):
    ax = jem.plot.clusters(MODEL, params, X)
    assert len(ax.patches) == 4 and sum(len(c.get_offsets()) for c in ax.collections) == len(X)
    # An ellipse is as far out as it says: by the first column's deviation at its rightmost point.
    rightmost = max(v[0] for v in ax.patches[1].get_verts())  # two deviations of component 0
    means = np.asarray(ax.transData.transform([np.asarray(params.components.mean[0])]))
    deviation = float(jnp.sqrt(params.components.covariance[0, 0, 0]))
    right = ax.transData.transform([[float(params.components.mean[0, 0]) + 2 * deviation, 0.0]])
    assert rightmost == pytest.approx(right[0, 0], abs=0.02 * abs(right[0, 0] - means[0, 0]))
    pixels = inked(ax, tmp_path)
    assert has_colour(pixels, 0) and has_colour(pixels, 1)
    holed = X.copy()
    holed[0, 0] = np.nan
    jem.plot.clusters(jem.Mixture(jem.Missing(jem.Gaussian()), 2), params, holed)


def test_densities(params, tmp_path):
    ax = jem.plot.density(MODEL, params, X)
    assert has_colour(inked(ax, tmp_path), 0)
    counts = np.array([[0.0], [1.0], [1.0], [3.0], [9.0], [12.0]], "float32")
    model = jem.Mixture(jem.Poisson(), 2)
    two = jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Poisson.Params(jnp.array([[1.0], [10.0]])))
    ax = jem.plot.density(model, two, counts)
    whole, *parts = (np.asarray(line.get_ydata()) for line in ax.lines)
    assert len(whole) == 13
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)
    inked(ax, tmp_path)


def test_responsibilities(params, tmp_path):
    ax = jem.plot.responsibilities(MODEL, params, X)
    pixels = inked(ax, tmp_path)
    assert has_colour(pixels, 0) and has_colour(pixels, 1)


def test_sequences(tmp_path):
    chain = jem.HMM(jem.Poisson(), 2)
    x = jem.sequences([np.array([[1.0], [0.0], [9.0]], "float32"), np.array([[8.0], [1.0]], "float32")])
    sure = jnp.array([[0.9, 0.1], [0.1, 0.9]])
    transition = jem.init(chain, jax.random.key(0), x).transition._replace(probs=sure)
    params = jem.HMM.Params(jnp.array([0.5, 0.5]), transition, jem.Poisson.Params(jnp.array([[0.5], [9.0]])))
    ax = jem.plot.states(chain, params, x, sequence=1)
    assert len(ax.lines[0].get_xdata()) == 2 and len(ax.patches) == 2
    inked(ax, tmp_path)
    with pytest.raises(ValueError, match="sequence: expected one from 0 to 1; got 2"):
        jem.plot.states(chain, params, x, sequence=2)
    with pytest.raises(TypeError, match=r"signal: expected a jem.LDS"):
        jem.plot.signal(chain, params, x)


def test_answers(fits, params, tmp_path):
    found = jem.standard_errors(MODEL, params, X)
    ax = jem.plot.intervals(found, numbers=[2, 4], names=["first", "second"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["first", "second"]
    ends = [float(end.components.mean[0, 0]) for end in found.interval(0.95)]
    assert list(ax.lines[0].get_xdata()) == pytest.approx(ends)
    inked(ax, tmp_path)
    unknown = found._replace(errors=jax.tree.map(lambda e: e * jnp.nan, found.errors))
    assert all(line.get_fillstyle() == "none" for line in jem.plot.intervals(unknown).lines)
    table = jem.sweep({"a": MODEL, "b": jem.Mixture(jem.Gaussian(), 2)}, jax.random.key(0), X, num_restarts=4)
    ax = jem.plot.selection(table)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]
    inked(ax, tmp_path)


def test_axes_are_the_callers(fits, params):
    _, (left, right) = plt.subplots(1, 2)
    assert jem.plot.trace(fits, ax=left) is left and jem.plot.clusters(MODEL, params, X, ax=right) is right
    assert len(plt.get_fignums()) == 1
    with pytest.raises(TypeError, match="ax: expected matplotlib Axes"):
        jem.plot.trace(fits, ax=plt.figure())


@pytest.mark.parametrize(
    "draw, error, message",
    [
        (lambda f, p: jem.plot.trace(p), TypeError, "trace: fits: expected a jem.Fit"),
        (lambda f, p: jem.plot.clusters(MODEL, p, X, columns=(0, 2)), ValueError, "expected a column from 0 to 1; got 2"),
        (lambda f, p: jem.plot.selection(f), TypeError, "selection: table: expected what jem.sweep returns; got Fit"),
        (lambda f, p: jem.plot.intervals(p), TypeError, "intervals: found: expected jem.standard_errors or jem.bootstrap"),
        (lambda f, p: jem.plot.pairs(f), TypeError, "pairs: found: expected what jem.bootstrap returns"),
        (lambda f, p: jem.plot.bound(MODEL, p, X, num_steps=0), ValueError, "expected an integer of at least 1; got 0"),
        (lambda f, p: jem.plot.density(MODEL, p, np.ones((4, 3))), ValueError, "expected one or two features; got 3"),
        (lambda f, p: jem.plot.responsibilities(jem.Gaussian(), jem.init(jem.Gaussian(), jax.random.key(0), X), X), TypeError,
         "responsibilities: expected a mixture"),
    ],
)  # fmt: skip
def test_what_is_refused(fits, params, draw, error, message):
    with pytest.raises(error, match=message):
        draw(fits, params)

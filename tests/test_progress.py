"""Progress: a fit in pieces has the answer of a fit in one, says where it stands, and can be ended on the way."""

import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem.doors.progress import described

Status = jem.Status
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(np.where(RNG.random((40, 1)) < 0.5, 2.0, 6.0), (40, 2))
MODEL = jem.Mixture(jem.Poisson(), 2)
START = jem.Mixture.Params(jnp.array([0.4, 0.6]), jem.Poisson.Params(jnp.array([[2.0, 3.0], [4.0, 3.0]])))
ENDLESS = {"stop": jem.stop.RelativeGain(0.0), "solver": jem.solvers.EM(), "max_steps": 3000}


def same(got, want):
    """Two trees are equal, bit for bit."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


def restarts(progress=None, **options):
    return jem.fit_restarts(MODEL, jax.random.key(0), COUNTS, num_restarts=5, progress=progress, **options)


WAYS = {
    "fit": lambda progress: jem.fit(MODEL, START, COUNTS, progress=progress),
    "in turn": lambda progress: restarts(progress, batch_size=2, solver=jem.solvers.EM()),
    "halving": lambda progress: restarts(progress, schedule=jem.schedules.Halving(first=3, keep=2)),
    "stochastic": lambda progress: restarts(progress, solver=jem.solvers.Stochastic(jax.random.key(2)), max_steps=20),
    "chain": lambda progress: jem.fit_restarts(
        jem.HMM(jem.Poisson(), 2), jax.random.key(1), jem.sequences(COUNTS, [25, 15]), num_restarts=2, progress=progress
    ),
    "bootstrap": lambda progress: jem.bootstrap(MODEL, jax.random.key(3), START, COUNTS, num_replicates=20, progress=progress),
    "sweep": lambda progress: jem.sweep(
        {"1": jem.Poisson(), "2": MODEL}, jax.random.key(4), COUNTS, num_restarts=2, progress=progress
    ).fits,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_answer_is_the_same(way):
    seen = []
    same(WAYS[way](seen.append), WAYS[way](None))
    assert seen and seen[-1].num_running == 0
    assert all(b.seconds > a.seconds for a, b in zip(seen, seen[1:], strict=False))
    names = ["1", "2"] if way == "sweep" else ["bootstrap"] if way == "bootstrap" else ["fit"]
    assert list(dict.fromkeys(report.task for report in seen)) == names


@pytest.mark.parametrize("num", [5, 1])
def test_over_cores(monkeypatch, num):
    """Lanes, or the rows of large data, over two devices."""
    monkeypatch.setattr("jem.doors.cores._LARGE", 10)
    jem.use_cores(2)
    try:
        run = lambda progress: jem.fit_restarts(  # noqa: E731
            MODEL, jax.random.key(0), COUNTS[:39], num_restarts=num, max_steps=3, progress=progress
        )
        same(run(lambda report: None), run(None))
    finally:
        jem.use_cores(1)


def test_what_is_said():
    seen = []
    fits = restarts(seen.append, **ENDLESS | {"max_steps": 400})
    assert [type(report) for report in seen] == [jem.Report] * len(seen) and len(seen) > 3
    assert {(report.task, report.num_lanes) for report in seen} == {("fit", 5)}
    assert seen[-1].num_steps == fits.num_steps.max() and np.isclose(seen[-1].objective, fits.objective.max())
    steps = [report.num_steps for report in seen]
    assert steps == sorted(steps) and steps[0] == 1


def interrupt_after(num, how=None):
    """A function that lets so many reports pass, and is interrupted in the next."""
    seen = []

    def tell(report):
        seen.append(report)
        if len(seen) > num:
            signal.raise_signal(signal.SIGINT) if how else None
            raise KeyboardInterrupt

    return tell, seen


@pytest.mark.parametrize("how", ["raised", "signal"])
def test_an_interrupt_returns_what_there_is(monkeypatch, how):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        tell, seen = interrupt_after(1, how == "signal")
        fit = jem.fit(MODEL, START, COUNTS, progress=tell, **ENDLESS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen) == 2 and fit.status == Status.MAX_STEPS and fit.num_steps == seen[-1].num_steps < 3000
    assert fit.objective == fit.trace[fit.num_steps - 1] and fit.trace.shape == (3001,)
    assert np.isnan(fit.trace[fit.num_steps :]).all()
    again = jem.fit(MODEL, START, COUNTS, **ENDLESS | {"max_steps": int(fit.num_steps) - 1})
    np.testing.assert_allclose(fit.objective, again.objective, rtol=1e-6)
    assert str(fit).startswith("MAX_STEPS")


def test_interrupted_restarts():
    """Lanes that wait have not begun, and do not win; those that ended are as they were."""
    tell, seen = interrupt_after(1)
    fits = restarts(tell, batch_size=2, **ENDLESS)
    assert (fits.status == Status.MAX_STEPS).all() and fits.num_steps.tolist()[2:] == [0, 0, 0]
    assert jnp.isfinite(fits.best().objective) and fits.best().num_steps == seen[-1].num_steps
    with pytest.raises(jem.FitError, match="MAX_STEPS"):
        fits.check()


def test_interrupted_sweeps_folds_and_replicates():
    assert list(WAYS["sweep"](interrupt_after(0)[0])) == ["1"]
    tell, seen = interrupt_after(0)
    with pytest.raises(KeyboardInterrupt):
        options = {"num_folds": 2, "num_restarts": 2, "max_steps": 5}
        jem.cross_validate(MODEL, jax.random.key(0), COUNTS, progress=tell, **options)
    assert seen[0].task == "fold 1 of 2"
    found = WAYS["bootstrap"](interrupt_after(0)[0])
    whole = WAYS["bootstrap"](None)
    same(jax.tree.map(lambda leaf: leaf[:8], found), jax.tree.map(lambda leaf: leaf[:8], whole))
    assert found.status.shape == (20,) and (found.status[8:] == Status.MAX_STEPS).all() and not found.ok[8:].any()
    assert not found.num_steps[8:].any() and (np.asarray(found.params.weights[8:]) == np.asarray(START.weights)).all()


@pytest.mark.parametrize(
    ("call", "words", "error"),
    [
        (lambda say: jax.jit(lambda x: jem.fit(MODEL, START, x, progress=say))(COUNTS), "fit: progress: inside", ValueError),
        (lambda say: jax.jit(lambda: restarts(say))(), "fit_restarts: progress: inside jit", ValueError),
        (lambda say: jax.grad(lambda w: jem.fit(MODEL, START, COUNTS, weights=w, progress=say).bound)(jnp.ones(40)),
         "inside jit, vmap or grad", ValueError),
        (lambda say: jem.fit(MODEL, START, COUNTS, progress="bar"), "fit: progress: expected True, or a function", TypeError),
        (lambda say: jem.fit(MODEL, START, COUNTS, progress=say, adjoint=jem.adjoints.Unrolled(), max_steps=3), "Unrolled",
         ValueError),
    ],
)  # fmt: skip
def test_what_is_refused(call, words, error):
    seen = []
    with pytest.raises(error, match=words):
        call(seen.append)
    assert seen == []


def test_a_bar_on_the_terminal(monkeypatch, capsys):
    pytest.importorskip("rich")
    same(jem.fit(MODEL, START, COUNTS, progress=True), WAYS["fit"](False))
    printed = capsys.readouterr()
    assert "fit: " in printed.err and "objective" in printed.err and not printed.out
    assert described(jem.Report("K=3", 12, -1234.5, 3, 8, 2.0)) == "K=3: 12 steps, objective -1234.5, 5 of 8 ended"
    assert described(jem.Report("fit", 12, -1234.5, 1, 1, 2.0)) == "fit: 12 steps, objective -1234.5"
    assert described(jem.Report("bootstrap", 40, float("nan"), 60, 100, 2.0)) == "bootstrap: 40 of 100"
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jem\[cli\]'"):
        jem.fit(MODEL, START, COUNTS, progress=True)

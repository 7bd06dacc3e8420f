"""Many starts are many fits: whatever the batch, the schedule says honestly what it gave up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem import Status
from jem.composite import Wrapper
from jem.data import to_units
from jem.engine import loop, program
from jem.engine.task import Task
from jem.node import node

NUM = 12
MODEL = jem.Mixture(jem.Gaussian(jem.Diagonal()), 3, seeding=jem.RandomResponsibilities())
PLAIN = {"solver": jem.EM(), "stop": jem.RelativeGain(), "max_steps": 300}  # rounding does not grow along its path


@pytest.fixture(scope="module")
def problem():
    """Data with several optima, the starts, and every start's fit on its own."""
    with jax.enable_x64(True):
        x = jnp.asarray(jem.datasets.old_faithful())[::3]
        keys = jax.random.split(jax.random.key(1), NUM)
        starts = [jem.init(MODEL, k, x) for k in keys]
        alone = [jem.fit(MODEL, s, x, **PLAIN) for s in starts]
        return x, jax.tree.map(lambda *leaves: np.stack(leaves), *alone)


def restarts(x, **options):
    return jem.fit_restarts(MODEL, jax.random.key(1), x, num_restarts=NUM, **PLAIN, **options)


@pytest.mark.parametrize("batch_size", [None, 1, 5, NUM])
def test_batches_change_nothing(x64, problem, batch_size):
    x, alone = problem
    fits = restarts(x, batch_size=batch_size)
    np.testing.assert_array_equal(fits.status, alone.status)
    np.testing.assert_array_equal(fits.num_steps, alone.num_steps)
    np.testing.assert_allclose(fits.rate, alone.rate, rtol=1e-4)  # a ratio of gains, which are small differences
    fits, alone = [f._replace(status=0, rate=0, probes=0) for f in (fits, alone)]
    for got, want in zip(jax.tree.leaves(fits), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8)
    assert len(set(alone.num_steps.tolist())) > 3  # lanes end at different times: slots are handed on


def test_the_best_and_the_optima(x64, problem):
    x, alone = problem
    fits = restarts(x)
    assert set(fits.status.tolist()) == {Status.CONVERGED}
    assert float(fits.best().limit) == float(fits.limit.max())
    assert fits.best().trace.shape == (301,)
    assert 1 < fits.num_optima() < NUM
    assert fits.check() is fits


def test_starts_are_those_of_init(x64, problem):
    """A lane's trace begins at the objective of `jem.init` with its key; weights reach the starts too."""
    x, alone = problem
    bound = jem.bind(MODEL, x)
    start = jem.init(MODEL, jax.random.split(jax.random.key(1), NUM)[4], x)
    objective = jem.e_step(MODEL, start, x)[1] + bound.log_prior(start)
    np.testing.assert_allclose(restarts(x).trace[4, 0], objective, rtol=1e-12)


def test_halving(x64, problem):
    x, alone = problem
    fits = restarts(x, schedule=jem.Halving(first=4, keep=3))
    kept = np.flatnonzero(fits.status != Status.SCREENED)
    assert len(kept) == 3
    assert set(fits.status[kept].tolist()) == {Status.CONVERGED}
    # those that were finished are what they are without the schedule
    np.testing.assert_allclose(fits.objective[kept], alone.objective[kept], rtol=1e-12)
    np.testing.assert_array_equal(fits.num_steps[kept], alone.num_steps[kept])
    # the others stand where the rungs 4, 8 left them: worse than those kept at that point
    gone = np.setdiff1d(np.arange(NUM), kept)
    assert set(np.sum(np.isfinite(np.asarray(fits.trace)[gone]), 1).tolist()) == {5, 9}
    assert alone.trace[gone, 4].max() < max(alone.trace[kept, 4].max(), alone.trace[kept, 8].max())
    assert fits.check() is fits  # screened lanes are no failure


@pytest.mark.parametrize("batch_size", [1, NUM])
@pytest.mark.parametrize("schedule", [jem.PruneByLimit(), jem.MergeDuplicates()], ids=lambda s: type(s).__name__)
def test_screening(x64, problem, schedule, batch_size):
    """Lanes that go end below the best or beside it; all others end as without the schedule; the best stays."""
    x, alone = problem
    fits = restarts(x, schedule=schedule, batch_size=batch_size)
    gone = np.asarray(fits.status) == Status.SCREENED
    assert 0 < gone.sum() < NUM
    np.testing.assert_array_equal(np.asarray(fits.status)[~gone], Status.CONVERGED)
    np.testing.assert_allclose(np.asarray(fits.objective)[~gone], alone.objective[~gone], rtol=1e-8)
    assert (np.asarray(fits.num_steps)[gone] <= alone.num_steps[gone]).all()
    assert (np.asarray(fits.objective)[gone] <= alone.objective[gone] + 1e-9).all()
    assert float(fits.best().objective) == pytest.approx(alone.objective.max(), rel=1e-6)


@node
class Poisoned(Wrapper):
    """A node whose start from one key is NaN."""

    child: Wrapper
    bad: jax.Array

    def init(self, key, x, weights):
        poison = jnp.where(jnp.all(jax.random.key_data(jax.random.clone(key)) == self.bad), jnp.nan, 1.0)
        return jax.tree.map(lambda p: p * poison, self.child.init(key, x, weights))

    def bind(self, x, weights):
        return Poisoned(self.child.bind(x, weights), self.bad)


def test_one_failing_lane_touches_no_other(x64, problem):
    """One start is NaN."""
    x, alone = problem
    bad = jax.random.key_data(jax.random.split(jax.random.key(1), NUM))[3]
    fits = jem.fit_restarts(Poisoned(MODEL, bad), jax.random.key(1), x, num_restarts=NUM, **PLAIN)
    assert np.flatnonzero(fits.status == Status.NONFINITE).tolist() == [3]
    others = np.delete(np.arange(NUM), 3)
    np.testing.assert_allclose(fits.objective[others], alone.objective[others], rtol=1e-12)
    assert np.isfinite(fits.best().objective)
    with pytest.raises(jem.FitError, match=r"NONFINITE.*\[restarts 3; 1 of 12\]"):
        fits.check()


@pytest.mark.parametrize("seeding", [jem.KMeansPlusPlus(), jem.RandomResponsibilities(1.0)], ids=lambda s: type(s).__name__)
def test_starts_differ_and_are_usable(seeding):
    x = jnp.asarray(jem.datasets.old_faithful(), jnp.float32)
    model = jem.Mixture(jem.Gaussian(), 3, seeding=seeding)
    starts = [jem.init(model, jax.random.key(i), x) for i in range(3)]
    for start in starts:
        assert np.isfinite(jem.e_step(model, start, x)[1])
    means = np.stack([s.components.mean for s in starts])
    assert (np.ptp(means, 0) > 0).any()


def test_seeding_finds_clear_clusters(dtype):
    """k-means++ on far clusters of equal scatter takes one unit of each, whatever their weights and order."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((60, 2)) + 50.0 * np.stack([np.arange(60) % 4, (np.arange(60) % 4) ** 2], 1), dtype)
    units = to_units(x)
    node, weights = jem.Gaussian(), jnp.asarray(rng.uniform(0.1, 2, 60), dtype)
    seed_fn = jax.jit(lambda key: jem.KMeansPlusPlus().responsibilities(key, node, units, weights, 4))
    for seed in range(5):
        r = seed_fn(jax.random.key(seed))
        blocks = np.asarray(r.argmax(0)).reshape(-1, 4)
        assert (blocks == blocks[0]).all() and len(set(blocks[0].tolist())) == 4


def test_seeding_never_draws_a_row_of_no_weight():
    x = jnp.concatenate([jnp.zeros((30, 2)), 1e3 * jnp.ones((30, 2))])
    weights = jnp.concatenate([jnp.ones(30), jnp.zeros(30)])
    model = jem.Mixture(jem.Gaussian(), 2)
    for seed in range(5):
        start = jem.init(model, jax.random.key(seed), x, weights)
        np.testing.assert_allclose(start.components.mean, 0, atol=1e-6)


def test_bad_arguments():
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match="num_restarts must be an integer of at least 1; got 0"):
        jem.fit_restarts(MODEL, jax.random.key(0), x, num_restarts=0)
    with pytest.raises(ValueError, match="batch_size must be an integer"):
        jem.fit_restarts(MODEL, jax.random.key(0), x, num_restarts=2, batch_size=0.5)
    with pytest.raises(ValueError, match=r"key must be a typed key, jax.random.key\(seed\); got 0"):
        jem.fit_restarts(MODEL, 0, x, num_restarts=2)


def test_starts_that_are_given(x64):
    """The same lanes as from a key, each as `fit` from its start alone; bad ones are refused by name."""
    x = jem.datasets.old_faithful()
    model = jem.Mixture(jem.Gaussian(), 2)
    starts = jax.vmap(lambda key: jem.init(model, key, x))(jax.random.split(jax.random.key(0), 4))
    got = jem.fit_restarts(model, None, x, starts=starts, max_steps=40)
    want = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=4, max_steps=40)
    np.testing.assert_allclose(got.objective, want.objective, rtol=1e-12)
    assert got.probes.shape == want.probes.shape and got.num_optima() == want.num_optima()
    one = jem.fit(model, jax.tree.map(lambda leaf: leaf[2], starts), x, max_steps=40)
    assert float(one.objective) == pytest.approx(float(got.objective[2]), rel=1e-12) and one.num_steps == got.num_steps[2]
    held = jem.fit_restarts(jem.Frozen(model, "weights"), None, x, starts=starts, max_steps=40)  # each its own
    np.testing.assert_array_equal(held.params.weights, starts.weights)
    bad = starts._replace(weights=starts.weights.at[3, 0].set(2.0))
    for call, words in (
        (lambda: jem.fit_restarts(model, None, x), "num_restarts is missing"),
        (lambda: jem.fit_restarts(model, jax.random.key(0), x, starts=starts), "there are 4 starts; pass key=None"),
        (lambda: jem.fit_restarts(model, None, x, starts=starts, num_restarts=5), "leave num_restarts out"),
        (lambda: jem.fit_restarts(model, None, x, starts=jem.init(model, jax.random.key(0), x)), "one leading axis|shape"),
        (lambda: jem.fit_restarts(model, None, x, starts=bad), r"starts.weights.*row 3"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("num_slots", [5, NUM])
def test_a_run_is_left_and_taken_up(x64, problem, num_slots):
    """5 + 5 turns are 10, bit for bit, and from there to the end they are the run."""
    x, alone = problem
    weights = jnp.ones(len(x))
    model = MODEL.bind(to_units(x), weights)
    starts = jax.vmap(lambda key: model.init(key, to_units(x), weights))(jax.random.split(jax.random.key(1), NUM))
    rest = jem.FinishAll(), jem.ImplicitAdjoint()
    task = Task(model, x, weights, PLAIN["solver"], PLAIN["stop"], *rest, max_steps=300, slots=num_slots, mesh=None)
    shared = lambda starts: program.laid_out(task, starts, jnp.sum(weights))[0]
    begin = jax.jit(lambda starts: loop.begin(shared(starts), starts, jnp.arange(NUM), num_slots))
    go_on = jax.jit(lambda state, num: loop.go_on(shared(starts), state, 300, num))
    five, ten = (go_on(begin(starts), num) for num in (5, 10))
    assert sorted(set(five.table.num_steps.tolist())) == ([5] if num_slots == NUM else [0, 5])
    end = go_on(go_on(five, 5), 10**6)
    for got, want in ((go_on(five, 5), ten), (end, go_on(begin(starts), 10**6))):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not (end.slots != NUM).any()
    np.testing.assert_array_equal(end.table.num_steps, alone.num_steps)
    np.testing.assert_allclose(end.trace, alone.trace, rtol=1e-8)

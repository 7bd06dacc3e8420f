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
MODEL = jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 3, seeding=jem.starts.RandomResponsibilities())
PLAIN = {"solver": jem.solvers.EM(), "stop": jem.stop.RelativeGain(), "max_steps": 300}  # rounding does not grow along its path


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
    fits = restarts(x, schedule=jem.schedules.Halving(first=4, keep=3))
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
@pytest.mark.parametrize(
    "schedule", [jem.schedules.PruneByLimit(), jem.schedules.MergeDuplicates()], ids=lambda s: type(s).__name__
)
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


@pytest.mark.parametrize(
    "seeding", [jem.starts.KMeansPlusPlus(), jem.starts.RandomResponsibilities(1.0)], ids=lambda s: type(s).__name__
)
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
    seed_fn = jax.jit(lambda key: jem.starts.KMeansPlusPlus().responsibilities(key, node, units, weights, 4))
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
    rest = jem.schedules.FinishAll(), jem.adjoints.Implicit()
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


CALLS = []


@node
class Counting(Wrapper):
    """Counts E-steps as they are made."""

    child: Wrapper

    def infer(self, params, x):
        jax.debug.callback(lambda _: CALLS.append(1), params.weights)  # once a lane, as the weights are each lane's
        return self.child.infer(params, x)


def num_e_steps(fn, *args):
    jax.block_until_ready(fn(*args))
    jax.effects_barrier()
    CALLS.clear()
    jax.block_until_ready(fn(*args))
    jax.effects_barrier()
    return len(CALLS)


def test_mapped_fits_do_not_wait_for_the_slowest(x64):
    """Of as many rows as fill a cache lanes go one by one: eight fits make the E-steps of eight, not of eight slow ones."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.poisson(np.where(np.arange(20_000) % 2, 3.0, 6.0))[:, None], jnp.float64)
    model = Counting(jem.Mixture(jem.Poisson(), 2))
    fit = lambda p: jem.fit(model, p, x, solver=jem.solvers.EM(), stop=jem.stop.RelativeGain(1e-6), max_steps=60)
    start = jem.Mixture.Params(jnp.full(2, 0.5), jem.Poisson.Params(jnp.array([[1.0], [20.0]])))
    slow = fit(start)
    quick = fit(slow.params).params
    starts = jax.tree.map(lambda a, b: jnp.stack([b, b, a, b, b, b, b, b]), start, quick)
    one_slow, one_quick = num_e_steps(fit, start), num_e_steps(fit, quick)
    assert one_slow > 4 * one_quick
    mapped = jax.vmap(fit)(starts)
    assert num_e_steps(jax.vmap(fit), starts) <= one_slow + 7 * one_quick
    assert int(mapped.num_steps[2]) == int(slow.num_steps)
    assert float(mapped.objective[2]) == pytest.approx(float(slow.objective), rel=1e-12)
    weights = jnp.ones((8, len(x)))  # the control: with data of its own every fit has a loop of its own
    options = {"solver": jem.solvers.EM(), "stop": jem.stop.RelativeGain(1e-6), "max_steps": 60}
    weighted = lambda p, w: jem.fit(model, p, x, weights=w, **options)
    assert num_e_steps(jax.vmap(weighted), starts, weights) >= 6 * one_slow


@pytest.fixture(scope="module")
def few():
    """Counts from two Poissons, four starts, the fit from each alone, and its derivative in the data."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(1).poisson([[2.0], [9.0]] * 20), jnp.float64)
        rates = jnp.array([[1.0, 8.0], [4.0, 5.0], [9.0, 2.0], [6.0, 20.0]])
        starts = jem.Mixture.Params(jnp.full((4, 2), 0.5), jem.Poisson.Params(rates[:, :, None]))
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], starts) for i in range(4)]
        fits = jax.tree.map(lambda *leaves: np.stack(leaves), *[counted(start, x) for start in each])
        return x, starts, fits, np.stack([jax.grad(smaller)(x, start) for start in each])


COUNTS = jem.Mixture(jem.Poisson(), 2)


def counted(start, x, **options):
    return jem.fit(COUNTS, start, x, max_steps=60, **options)


def smaller(x, start, **options):
    return jnp.min(counted(start, x, **options).params.components.rate)


def test_mapped_fits_are_the_fits(x64, few):
    """Over the starts, a part of them, the starts twice; with mapped data inside."""
    x, starts, alone, _ = few
    mapped = jax.vmap(counted, (0, None))
    fits = jax.jit(mapped)(starts, x)
    for a, b in zip(jax.tree.leaves(fits._replace(rate=0)), jax.tree.leaves(alone._replace(rate=0)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)
    assert len(set(alone.num_steps.tolist())) > 1
    pairs = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), starts)
    twice = jax.vmap(mapped, (0, None))(pairs, x)
    np.testing.assert_allclose(twice.objective.reshape(-1), alone.objective, rtol=1e-12)
    rates = jax.vmap(lambda c: counted(jem.Mixture.Params(starts.weights[0], c), x))(starts.components)
    np.testing.assert_allclose(rates.objective, alone.objective, rtol=1e-12)
    both = jnp.stack([x, x + 1])
    inside = jax.vmap(jax.vmap(counted, (None, 0)), (0, None))(starts, both)
    np.testing.assert_allclose(inside.objective[:, 0], alone.objective, rtol=1e-12)


def test_derivatives_of_mapped_fits(x64, few):
    """Mapped and differentiated in both orders, and through the steps themselves."""
    x, starts, _, slopes = few
    np.testing.assert_allclose(jax.vmap(jax.grad(smaller), (None, 0))(x, starts), slopes, rtol=1e-6)
    dots = jnp.cos(jnp.arange(len(x)))[:, None]
    along = jax.jvp(lambda x: jax.vmap(smaller, (None, 0))(x, starts), (x,), (dots,))[1]
    np.testing.assert_allclose(along, (slopes * dots[None]).sum((1, 2)), rtol=1e-6)
    total = jax.grad(lambda x: jnp.sum(jax.vmap(smaller, (None, 0))(x, starts)))(x)
    np.testing.assert_allclose(total, slopes.sum(0), rtol=1e-6)
    unrolled = lambda x, start: smaller(x, start, adjoint=jem.adjoints.Unrolled())
    each = jax.vmap(jax.grad(unrolled), (None, 0))(x, starts)
    total = jax.grad(lambda x: jnp.sum(jax.vmap(unrolled, (None, 0))(x, starts)))(x)
    np.testing.assert_allclose(total, each.sum(0), rtol=1e-9)


def test_mapped_restarts_are_the_restarts(x64, few):
    """A schedule that compares the lanes of one fit never sees those of another."""
    x, starts, _, _ = few
    pairs = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), starts)
    for schedule in (jem.schedules.FinishAll(), jem.schedules.Halving(first=2, keep=1)):
        options = {"schedule": schedule, "solver": jem.solvers.EM()}
        restarts = lambda p, options=options: jem.fit_restarts(COUNTS, None, x, starts=p, **options)
        mapped = jax.vmap(restarts)(pairs)
        for i in range(2):
            fits = restarts(jax.tree.map(lambda leaf, i=i: leaf[i], pairs))
            np.testing.assert_array_equal(mapped.status[i], fits.status)
            np.testing.assert_allclose(mapped.objective[i], fits.objective, rtol=1e-12)

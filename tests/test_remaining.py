"""The default stop: what is left of a climb is known before it says that it has converged."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import ZOO

import jem
from jem import Status
from jem.composite import Wrapper
from jem.node import replaced


def gap(fits, node, x, **options):
    """What a long climb from the end of each lane still gains."""
    run = lambda p: jem.fit(node, p, x, stop=jem.stop.Remaining(1e-10), max_steps=2000, **options)
    more = jax.jit(jax.vmap(run))(fits.params)
    return np.asarray(more.objective - more.trace[:, 0])


@pytest.mark.parametrize(("size", "distance", "num"), [(2, 1.5, 30), (3, 2.5, 20)])
def test_starts_beside_a_saddle(x64, size, distance, num):
    """All components equal but for noise of 1e-1 to 1e-4: gains shrink there, and grow again."""
    rng = np.random.default_rng(size)
    x = jnp.asarray(rng.normal(size=(600, 2)) + distance * rng.integers(0, size, (600, 1)) * np.array([1.0, 0.3]))
    node = jem.Mixture(jem.Gaussian(), size)
    mean, noise = jnp.mean(x, 0), 10.0 ** -rng.integers(1, 5, num)
    places = np.asarray(mean) + noise[:, None, None] * rng.normal(size=(num, size, 2))
    whole = jem.init(jem.Mixture(jem.Gaussian(), 1), jax.random.key(0), x).components.whitening
    starts = jem.Mixture.Params(
        jnp.full((num, size), 1 / size),
        jem.Gaussian.Params(jnp.asarray(places), jnp.broadcast_to(whole, (num, size, *whole.shape[1:]))),
    )
    fits = jax.jit(jax.vmap(lambda p: jem.fit(node, p, x)))(starts)
    left = gap(fits, node, x)
    sure = np.asarray(fits.status) == Status.CONVERGED
    assert sure.mean() > 0.9 and left[sure].max() < 2e-3


def shrunk(start, sizes):
    """Starts whose components differ by a share of what they do, (R, ...)."""
    field = "components" if hasattr(start, "components") else "emission"

    def near(leaf):
        middle = jnp.mean(leaf, 0, keepdims=True)
        return jnp.stack([middle + size * (leaf - middle) for size in sizes])

    whole = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(sizes), *leaf.shape)), start)
    return whole._replace(**{field: jax.tree.map(near, getattr(start, field))})


@pytest.mark.parametrize("name", ["hmm_of_mixtures", "mixture_poisson"])
@pytest.mark.parametrize("solver", [jem.solvers.Anderson(), jem.solvers.SQUAREM()], ids=lambda s: type(s).__name__)
def test_starts_beside_saddles_of_every_kind(name, solver, x64):
    """As ten steps looked back on do not show: 13 and 63 nats short with the hidden chain."""
    row = next(row for row in ZOO if row.name == name)
    x = jnp.asarray(row.rows(np.random.default_rng(7), "float64"))
    starts = shrunk(jem.init(row.node, jax.random.key(0), x), 10.0 ** -np.arange(1, 7))
    fits = jax.jit(jax.vmap(lambda p: jem.fit(row.node, p, x, solver=solver)))(starts)
    sure = np.asarray(fits.status) == Status.CONVERGED
    assert sure.sum() >= 3 and gap(fits, row.node, x)[sure].max() < 2e-3


def test_a_plateau_in_many_dimensions(x64):
    """Five components of 74 free coordinates that overlap: beside a saddle ten steps see no way up, 6.2 nats below the end."""
    rng, node = np.random.default_rng(2), jem.Mixture(jem.Gaussian(), 5)
    centres = rng.normal(size=(5, 4))
    x = jnp.asarray(centres[rng.integers(0, 5, 2500)] + rng.normal(size=(2500, 4)))
    fit = jem.fit(node, jem.init(node, jax.random.key(0), x), x)
    assert fit.converged and gap(jax.tree.map(lambda a: a[None], fit), node, x)[0] < 2e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_probability_on_its_way_back(dtype):
    """Early steps drive one cell of the first state to next to nothing; later ones bring it back, unseen by gains and score."""
    rng = np.random.default_rng(4)
    z = [0]
    for _ in range(599):
        z.append(z[-1] if rng.random() < 0.9 else rng.integers(0, 3))
    x = (1.5 * np.array(z) + rng.normal(size=600))[None, :, None]
    with jax.enable_x64(dtype == "float64"):
        node, x = jem.HMM(jem.Gaussian(), 3), jnp.asarray(x, dtype)
        fit = jem.fit(node, jem.init(node, jax.random.key(0), x), x)
        assert fit.status == Status.CONVERGED
        assert float(fit.log_likelihood) == pytest.approx(-988.4872, abs=2e-3)


@jem.author.node
class Stubborn(jem.Poisson):
    """Its M-step never moves the second rate."""

    def maximize(self, params, stats):
        new = super().maximize(params, stats)
        return new._replace(rate=new.rate.at[1].set(params.rate[1]))


def test_a_parameter_that_no_step_moves(x64):
    x = jnp.asarray(np.random.default_rng(0).poisson(3.0, (50, 2)), float)
    fit = jem.fit(Stubborn(), jem.Poisson.Params(jnp.array([1.0, 1.0])), x)
    assert fit.status == Status.STUCK
    with pytest.raises(jem.FitError, match="STUCK: the steps do not move"):
        fit.check()


def test_means_at_their_last_digit_are_not_stuck():
    """Far from zero a mean ends between two numbers of float32, where the score has a slope and no step moves it any more."""
    model, x = jem.Mixture(jem.Gaussian(), 2), jem.datasets.old_faithful().astype("float32") + np.float32(65536)
    start = jem.init(model, jax.random.key(0), x)
    away = start._replace(components=start.components._replace(mean=start.components.mean + 1))
    fit = jem.fit(model, away, x).check()
    assert fit.status == Status.CONVERGED and fit.log_likelihood == pytest.approx(-1129.98, abs=5e-3)


@jem.author.node
class Broken(jem.Poisson):
    """Statistics that are NaN, or an M-step that is."""

    where: str = jem.author.static(default="stats")

    def expect(self, params, posterior, x, weights):
        stats = super().expect(params, posterior, x, weights)
        return jax.tree.map(lambda s: s * jnp.nan, stats) if self.where == "stats" else stats

    def maximize(self, params, stats):
        return jax.tree.map(lambda p: p * jnp.nan, params) if self.where == "params" else super().maximize(params, stats)


@pytest.mark.parametrize("where", ["stats", "params"])
@pytest.mark.parametrize(
    "solver", [jem.solvers.EM(), jem.solvers.Anderson(), jem.solvers.SQUAREM()], ids=lambda s: type(s).__name__
)
def test_what_is_not_finite(where, solver):
    """Neither statistics nor parameters that are NaN are the end of a climb; the start is kept."""
    x = jnp.asarray(np.random.default_rng(0).poisson(3.0, (50, 2)), jnp.float32)
    start = jem.Poisson.Params(jnp.array([1.0, 1.0]))
    for stop in (jem.stop.Remaining(), jem.stop.RelativeGain()):
        fit = jem.fit(replaced(Broken(), where=where), start, x, solver=solver, stop=stop)
        assert fit.status == Status.NONFINITE
        np.testing.assert_array_equal(fit.params.rate, start.rate)


def test_slow_climbs_end_at_their_end(cases, x64):
    """Deaths in the Times, where plain EM takes two thousand steps: at default settings, and with EM alone."""
    case = json.loads((cases / "poisson_mixture_times.json").read_text())
    p, *rates = case["init"]["p_lambda1_lambda2"]
    start = jem.Mixture.Params(jnp.array([p, 1 - p]), jem.Poisson.Params(jnp.array(rates)[:, None]))
    args = jem.Mixture(jem.Poisson(), 2), start, jnp.arange(10.0)[:, None]
    best, weights = case["expected"]["loglik"]["value"], jnp.array(case["data"]["freq"], float)
    for solver, most in ((jem.solvers.Anderson(), 40), (jem.solvers.SQUAREM(), 200), (jem.solvers.EM(), 3000)):
        fit = jem.fit(*args, weights=weights, solver=solver, max_steps=3000)
        assert fit.converged and fit.num_steps <= most
        assert -1e-9 < best - fit.log_likelihood < 2e-3
        assert fit.remaining < 1e-3


def test_a_tolerance_is_in_nats(x64):
    """A tighter one leaves less, as the forecast says."""
    x = jnp.asarray(jem.datasets.old_faithful())
    model = jem.Mixture(jem.Gaussian(), 3)
    start = jem.init(model, jax.random.key(0), x)
    fits = [jem.fit(model, start, x, solver=jem.solvers.EM(), stop=jem.stop.Remaining(tol)) for tol in (1e-1, 1e-3, 1e-5, 1e-9)]
    left = np.array([float(fits[-1].objective - fit.objective) for fit in fits[:-1]])
    assert (left < 2 * np.array([1e-1, 1e-3, 1e-5])).all() and left[0] > left[1] > left[2]
    for fit, true in zip(fits, left):
        assert true / 5 < fit.remaining < 5 * true


def test_equal_heights(x64):
    """Data that look the same from both sides have two optima of one height; relabelled components are one."""
    rng = np.random.default_rng(1)
    middle, side = 0.4 * rng.normal(size=(40, 1)), 3.0 + 0.4 * rng.normal(size=(80, 1))
    x = jnp.asarray(np.concatenate([middle, -middle, side, -side]))
    model = jem.Mixture(jem.Gaussian(), 2)
    fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=24)
    best = np.asarray(fits.objective) > float(fits.best().objective) - 1e-2
    means = np.sort(np.asarray(fits.params.components.mean[..., 0]), 1)[best & np.asarray(fits.converged)]
    kinds = len(np.unique(means.round(1), axis=0))
    assert kinds == 2
    top = jax.tree.map(lambda a: a[best], fits)
    assert top.num_optima() == kinds


def rows(shape, draw):
    return jnp.asarray(np.stack([draw(np.random.default_rng(seed)).reshape(shape) for seed in range(60)]))


RANDOM = {
    "factor": (jem.FactorAnalysis(2), (50, 6), lambda rng: rng.normal(size=(50, 6)) + rng.normal(size=(50, 1)), "float64"),
    "bernoulli": (jem.Mixture(jem.Bernoulli(), 2), (40, 4), lambda rng: (rng.random((40, 4)) < 0.1) * 1.0, "float32"),
    "poisson": (jem.Mixture(jem.Poisson(), 2), (50, 2), lambda rng: rng.poisson(0.3, (50, 2)) * 1.0, "float64"),
}


@pytest.mark.parametrize("name", RANDOM)
def test_sixty_random_problems(name, x64):
    """Many components for little structure: saddles, ridges, cells that come back from nothing. None ends short of its end."""
    model, shape, draw, dtype = RANDOM[name]
    x = rows(shape, draw).astype(dtype)
    starts = jax.vmap(lambda key, x: jem.init(model, key, x))(jax.random.split(jax.random.key(0), len(x)), x)
    fits = jax.jit(jax.vmap(lambda start, x: jem.fit(model, start, x)))(starts, x)
    exact = jax.tree.map(lambda p: p.astype(jnp.float64), (fits.params, x))
    long = jax.jit(jax.vmap(lambda s, x: jem.fit(model, s, x, stop=jem.stop.Remaining(1e-9), max_steps=3000)))(*exact)
    left = np.asarray(long.objective - long.trace[:, 0])
    assert np.mean(fits.converged) > 0.9
    assert left[np.asarray(fits.converged)].max() < 2e-3


@pytest.mark.parametrize("cell", ["rate", "probability", "other side"])
def test_what_vanished_comes_back(cell, x64):
    """A rate or a probability next to its bound that EM multiplies at every step: nothing is gained until it counts."""
    rng = np.random.default_rng(0)
    group = np.arange(60) % 2  # told apart by the second column; the first is alike in both
    if cell == "rate":
        family, params, tiny = jem.Poisson(), jem.Poisson.Params, 1e-30
        x, leaf = rng.poisson(np.stack([np.full(60, 0.5), 1 + 20.0 * group], 1)) * 1.0, np.array([[tiny, 1.0], [0.5, 20.0]])
    else:
        family, params, tiny = jem.Bernoulli(), jem.Bernoulli.Params, 1e-30
        x = np.stack([rng.random(60) < 0.3, *(rng.random((3, 60)) < 0.1 + 0.8 * group)], 1) * 1.0
        leaf = np.array([[tiny, 0.1, 0.1, 0.1], [0.3, 0.9, 0.9, 0.9]])
        if cell == "other side":
            x, leaf = 1 - x, 1 - np.maximum(leaf, 1e-15)
    model = jem.Mixture(family, 2)
    start = jem.Mixture.Params(jnp.array([0.5, 0.5]), params(jnp.asarray(leaf)))
    fit = jem.fit(model, start, jnp.asarray(x))
    long = jem.fit(model, start, jnp.asarray(x), solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=3000)
    assert fit.converged
    assert fit.objective > long.objective - 2e-3


def test_weights_categories_and_transitions_come_back(x64):
    """The same of the cells of every simplex: the weight of a component, a category of one, a move of a chain."""
    rng, tiny = np.random.default_rng(0), 1e-50
    group = np.arange(60) % 2
    count, kind = jnp.asarray(rng.poisson(1 + 20.0 * group)[:, None] * 1.0), jnp.asarray(rng.integers(0, 2, 60))
    rates = jem.Poisson.Params(jnp.array([[1.0], [20.0]]))
    weight = jem.Mixture(jem.Poisson(), 2), jem.Mixture.Params(jnp.array([tiny, 1.0]), rates), count
    category = jem.Mixture(jem.Product(count=jem.Poisson(), kind=jem.Categorical(2)), 2)
    x = {"count": count, "kind": kind}
    begun = jem.init(category, jax.random.key(0), x)
    parts = {"count": rates, "kind": jem.Categorical.Params(jnp.array([[tiny, 1.0], [0.5, 0.5]]))}
    parts = type(begun.components)(**parts) if hasattr(begun.components, "_fields") else parts
    chain = jem.HMM(jem.Poisson(), 2)
    moves = jem.laws.Cells.Params(jnp.array([[1 - tiny, tiny], [0.3, 0.7]]))
    told = jem.HMM.Params(jnp.array([0.5, 0.5]), moves, rates)
    cases = weight, (category, begun._replace(components=parts), x), (chain, told, count[None])
    for model, start, data in cases:
        fit = jem.fit(model, start, data)
        long = jem.fit(model, start, data, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=1000)
        assert fit.converged
        assert fit.objective > long.objective - 2e-3
        assert long.objective > long.trace[1] + 1  # there is something to come back for


def test_parameters_with_nothing_in_places(x64):
    """A tree of which a part is None, as of a network whose functions are kept apart: it is no parameter, and nothing rises."""
    x = jnp.asarray(np.random.default_rng(0).normal(2.0, 1.0, 30))
    model = jem.Density(lambda p, u: -0.5 * (u - p["mean"]) ** 2, {"mean": jnp.array(0.0), "function": None})
    fit = jem.fit(model, model.start, x, solver=jem.solvers.GEM(optax.lbfgs, linesearch=None))
    assert fit.converged and fit.params["function"] is None
    np.testing.assert_allclose(fit.params["mean"], x.mean(), atol=1e-3)
    mixed = jem.Mixture(model, 2)
    adam = jem.solvers.GEM(optax.adam, learning_rate=0.1)
    found = jem.fit_restarts(mixed, jax.random.key(0), x, num_restarts=2, solver=adam, max_steps=5)
    assert np.isfinite(found.objective).all()


@jem.author.node
class Kinked(Wrapper):
    """Its Q has no derivative where the statistics were gathered."""

    child: Any

    def expected_log_prob(self, params, stats, old):
        gone = sum(jnp.sum(a - b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(old), strict=True))
        return self.child.expected_log_prob(params, stats, old) + jnp.sqrt(0 * gone**2)


def test_a_score_that_is_never_finite_says_nothing(x64):
    """No point is known then, and no climb has ended: it was CONVERGED after one step."""
    x = jnp.arange(10.0)[:, None]
    start = jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Poisson.Params(jnp.array([[1.0], [2.0]])))
    fit = jem.fit(Kinked(jem.Mixture(jem.Poisson(), 2)), start, x, max_steps=30)
    assert fit.status == Status.MAX_STEPS and fit.remaining == jnp.inf

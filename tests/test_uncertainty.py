"""Standard errors, intervals and influence beside closed forms, refits and peers; and where there are none, that it is said."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize, stats

import jem
from jem.ask.density import log_volume
from jem.kernels import support

pytestmark = pytest.mark.usefixtures("x64")
COUNTS = jnp.array([[1.0], [4.0], [2.0], [7.0], [3.0]])
FIRST_RATE = lambda p: p.rate[0]


def poisson_mixture(num=150):
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.poisson(np.where(rng.random(num) < 0.4, 1.0, 6.0))[:, None], float)
    model = jem.Mixture(jem.Poisson(), 2)
    start = jem.Mixture.Params(jnp.array([0.4, 0.6]), jem.Poisson.Params(jnp.array([[1.0], [6.0]])))
    return model, x, jem.fit(model, start, x, stop=jem.stop.RelativeGain(0), max_steps=3000).params


def test_gaussian():
    """The mean's errors, and by the delta method those of the covariance; the upper half of a factor is held."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((40, 2)) @ [[1.0, 0.5], [0.0, 2.0]])
    model = jem.Gaussian(prior=None)
    params = jem.fit(model, model.params(jnp.zeros(2), jnp.eye(2)), x).params
    found = jem.standard_errors(model, params, x).check()
    cov = np.cov(x.T, bias=True)
    np.testing.assert_allclose(found.errors.mean, np.sqrt(np.diag(cov) / 40), rtol=1e-9)
    assert float(found.errors.whitening[0, 1]) == 0
    whole = jem.uncertainty.delta_method(lambda p: p.covariance, model, params, x).check()
    want = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / 40)
    np.testing.assert_allclose(whole.errors, want, rtol=1e-8)
    np.testing.assert_allclose(whole.covariance[1], whole.covariance[2], rtol=1e-9)  # a symmetric matrix moves as one
    low, high = found.interval(0.9)
    np.testing.assert_allclose(high.mean - low.mean, 2 * stats.norm.ppf(0.95) * found.errors.mean, rtol=1e-9)


def test_what_is_not_identified_has_no_error():
    """Two components that are one: neither their rates nor their shares, but the mean of both."""
    model = jem.Mixture(jem.Poisson(), 2)
    mean = jnp.mean(COUNTS)
    params = jem.Mixture.Params(jnp.array([0.3, 0.7]), jem.Poisson.Params(jnp.array([[1.0], [1.0]]) * mean))
    found = jem.standard_errors(model, params, COUNTS)
    assert int(found.status) in (jem.uncertainty.InformationStatus.SINGULAR, jem.uncertainty.InformationStatus.NOT_AT_MAXIMUM)
    assert np.isnan(found.errors.weights).all()
    whole = jem.uncertainty.delta_method(lambda p: p.weights @ p.components.rate[:, 0], model, params, COUNTS)
    assert float(whole.errors) == pytest.approx(float(jnp.sqrt(mean / len(COUNTS))), rel=1e-6)
    assert int(whole.num_flat) > 0
    with pytest.raises(jem.FitError):
        whole.check()


def test_away_from_the_maximum_it_is_said():
    found = jem.uncertainty.information(jem.Poisson(), jem.Poisson.Params(jnp.array([5.0])), COUNTS)
    assert int(found.status) == jem.uncertainty.InformationStatus.NOT_AT_MAXIMUM
    assert float(found.distance) == pytest.approx(abs(17 - 25) / np.sqrt(25), rel=1e-9)  # score over its deviation


def test_what_a_fit_leaves_is_no_distance():
    """A twentieth of a standard error from the maximum is at it, and the errors are those there; half of one is not."""
    mean = jnp.mean(COUNTS)
    near, far = [jem.Poisson.Params(mean[None] + share * jnp.sqrt(mean / 5)) for share in (0.05, 0.5)]
    found = jem.standard_errors(jem.Poisson(), near, COUNTS).check()
    assert float(found.errors.rate[0]) == pytest.approx(float(jnp.sqrt(mean / 5)), rel=1e-3)
    ends = jem.uncertainty.profile_interval(FIRST_RATE, jem.Poisson(), near, COUNTS).check()
    at_it = jem.uncertainty.profile_interval(FIRST_RATE, jem.Poisson(), jem.Poisson.Params(mean[None]), COUNTS)
    np.testing.assert_allclose([ends.low, ends.high, ends.estimate], [at_it.low, at_it.high, mean], rtol=1e-3)
    for ask in (
        lambda: jem.standard_errors(jem.Poisson(), far, COUNTS),
        lambda: jem.uncertainty.profile_interval(FIRST_RATE, jem.Poisson(), far, COUNTS),
        lambda: jem.uncertainty.influence(jem.Poisson(), far, COUNTS),
        lambda: jem.uncertainty.leave_one_out(jem.Poisson(), far, COUNTS),
    ):
        found = ask()
        assert int(found.status) == jem.uncertainty.InformationStatus.NOT_AT_MAXIMUM
        with pytest.raises(jem.FitError, match="NOT_AT_MAXIMUM"):
            found.check()
    ends = jem.uncertainty.profile_interval(FIRST_RATE, jem.Poisson(), far, COUNTS)
    assert np.isnan([ends.low, ends.high]).all() and not ends.found.any()


# Stouffer and Toby's four items, 216 people: counts of the patterns 1111, 1110, .., 0000 (Goodman 1974, table 1).
PATTERNS = np.array([[a, b, c, d] for a in (1.0, 0) for b in (1.0, 0) for c in (1.0, 0) for d in (1.0, 0)])
PEOPLE = np.array([42.0, 23, 6, 25, 6, 24, 7, 38, 1, 4, 1, 6, 2, 9, 2, 20])
RIDGES = {
    "two classes, two items": (2, PATTERNS[::4, :2], PEOPLE.reshape(4, 4).sum(1), (1e-6, 1e-12)),
    "three classes, four items": (3, PATTERNS, PEOPLE, (1e-9, 1e-12)),
}


@pytest.mark.parametrize("name", RIDGES)
def test_ridges_that_a_fit_stopped_beside(name):
    """More parameters than cells, or a design that does not tell them apart: no errors, however tight or loose the fit."""
    size, x, weights, tolerances = RIDGES[name]
    x, weights = jnp.asarray(x), jnp.asarray(weights)
    model = jem.Mixture(jem.Bernoulli(), size)
    start = jem.init(model, jax.random.key(1), x, weights)
    for tol in tolerances:
        params = jem.fit(
            model, start, x, weights=weights, stop=jem.stop.RelativeGain(tol), max_steps=20_000, solver=jem.solvers.EM()
        ).params
        found = jem.standard_errors(model, params, x, weights)
        assert int(found.status) == jem.uncertainty.InformationStatus.SINGULAR and int(found.num_flat) >= 1
        assert np.isnan(found.errors.weights).all()


PAIRS = np.array([[1.0, 1], [0, 1], [1, 1], [0, 1]])
BITS = jem.LogJoint(
    lambda p, x, z: jnp.sum(jax.scipy.special.xlogy(x, p) + jax.scipy.special.xlogy(1 - x, 1 - p)), jem.spaces.Finite(1),
    np.array([0.5, 0.9]), supports=jem.supports.Interval(),
)  # fmt: skip
RATES = jem.Density(lambda p, x: jnp.sum(jax.scipy.stats.poisson.logpmf(x, p)), np.ones(2), supports=jem.supports.Positive())
EDGES = {
    "bernoulli 1": (jem.Bernoulli(), jem.Bernoulli.Params(np.array([0.5, 1.0])), PAIRS, [0.25, np.nan]),
    "bernoulli near 1": (jem.Bernoulli(), jem.Bernoulli.Params(np.array([0.5, 1 - 1e-15])), PAIRS, [0.25, np.nan]),
    "bernoulli 0": (jem.Bernoulli(), jem.Bernoulli.Params(np.array([0.5, 0.0])), PAIRS * np.array([1, 0]), [0.25, np.nan]),
    "poisson": (jem.Poisson(), jem.Poisson.Params(np.array([0.5, 0.0])), PAIRS * np.array([1, 0]), [8**-0.5, np.nan]),
    "poisson alone": (jem.Poisson(), jem.Poisson.Params(np.zeros(1)), np.zeros((3, 1)), [np.nan]),
    "categorical": (
        jem.Categorical(3), jem.Categorical.Params(np.array([0.5, 0.5, 0.0])), np.array([0, 1, 0, 1]), [0.25, 0.25, np.nan]
    ),
    "log-joint": (BITS, np.array([0.5, 1.0]), PAIRS, [0.25, np.nan]),
    "density": (RATES, np.array([0.5, 0.0]), PAIRS * np.array([1, 0]), [8**-0.5, np.nan]),
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_at_the_very_edge(name):
    """No error for what lies there, and the right one for all else, as a little inside of it."""
    model, params, x, want = EDGES[name]
    params, x = jax.tree.map(jnp.asarray, (params, x))
    found = jem.standard_errors(model, params, x)
    assert int(found.status) == jem.uncertainty.InformationStatus.BOUNDARY
    np.testing.assert_allclose(jax.tree.leaves(found.errors)[0], want, rtol=1e-5)


def test_one_component_is_no_edge():
    params = jem.Mixture.Params(jnp.ones(1), jem.Poisson.Params(jnp.mean(COUNTS)[None, None]))
    found = jem.standard_errors(jem.Mixture(jem.Poisson(), 1), params, COUNTS).check()
    assert found.errors.weights.tolist() == [0.0]
    assert float(found.errors.components.rate[0, 0]) == pytest.approx(float(jnp.sqrt(jnp.mean(COUNTS) / 5)))


def test_no_batched_lapack_call():
    """Under vmap one matrix at a time: several at once can wait for each other for ever on a CPU."""

    def many(x):
        found = jem.uncertainty.information(
            jem.Poisson(), jem.Poisson.Params(jnp.mean(x, 0)), x, method=jem.uncertainty.Sandwich()
        )
        return found.matrix, found.rate

    data = jnp.asarray(np.stack([np.tile(COUNTS, (1, 2)) + np.arange(2.0) * k for k in range(3)]))
    calls = [line for line in jax.jit(jax.vmap(many)).lower(data).as_text().splitlines() if "lapack" in line]
    assert calls and not any("tensor<3x" in line for line in calls)


def test_louis_for_a_gate():
    """Beside Oakes' identity, which takes another route to the same matrix."""
    gate = jem.Mixture(jem.Poisson(), 2, weights=jem.laws.Gate(lambda p, u: p * u, np.ones(2)))
    params = jem.Mixture.Params(jnp.ones(2), jem.Poisson.Params(jnp.array([[1.0], [6.0]])))
    got, want = (
        jem.uncertainty.information(gate, params, jem.Given(COUNTS, COUNTS), method=m)
        for m in (jem.uncertainty.Louis(), jem.uncertainty.Oakes())
    )
    np.testing.assert_allclose(got.matrix, want.matrix, rtol=1e-5, atol=1e-4)


def test_routes_that_need_what_a_model_has_not():
    with pytest.raises(TypeError, match="Louis: needs a mixture"):
        jem.uncertainty.information(jem.Poisson(), jem.Poisson.Params(jnp.array([3.0])), COUNTS, method=jem.uncertainty.Louis())
    model = jem.Density(lambda p, x: -0.5 * jnp.sum((x - p) ** 2), jnp.zeros(1))
    with pytest.raises(TypeError, match="SupplementedEM: needs an M-step"):
        jem.uncertainty.information(model, jnp.array([3.4]), COUNTS, method=jem.uncertainty.SupplementedEM())


def test_profile_interval():
    """Ends at which the likelihood ratio is what the quantile says, and none where the likelihood does not fall so far."""
    params = jem.Poisson.Params(jnp.array([3.4]))
    found = jem.uncertainty.profile_interval(lambda p: p.rate[0], jem.Poisson(), params, COUNTS, confidence=0.9)
    log_likelihood = lambda rate: stats.poisson.logpmf(COUNTS, rate).sum()
    gap = lambda rate: 2 * (log_likelihood(3.4) - log_likelihood(rate)) - stats.chi2.ppf(0.9, 1)
    assert float(found.low) == pytest.approx(optimize.brentq(gap, 0.5, 3.4), rel=1e-6)
    assert float(found.high) == pytest.approx(optimize.brentq(gap, 3.4, 12), rel=1e-6)

    model, x, params = poisson_mixture()
    low = lambda p: p.components.rate[0, 0]
    found = jem.uncertainty.profile_interval(low, model, params, x)
    assert bool(found.found.all())
    top = jem.log_prob(model, params, x).sum()
    for side, end in enumerate((found.low, found.high)):
        # With the rate held at the end, the others' maximum lies half a quantile lower.
        at_end = jax.tree.map(lambda leaf: leaf[side], found.params)
        held = jem.Mixture(jem.OneOf(jem.Frozen(jem.Poisson()), jem.Poisson()))
        start = at_end._replace(components=tuple(jem.Poisson.Params(r) for r in at_end.components.rate))
        fit = jem.fit(held, start, x, stop=jem.stop.RelativeGain(1e-13), max_steps=3000)
        assert float(fit.params.components[0].rate[0]) == pytest.approx(float(end))
        assert 2 * float(top - fit.log_likelihood) == pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-5)


def test_influence_and_leave_one_out():
    """Beside refits with a row's weight changed, and without a row."""
    model, x, params = poisson_mixture()
    options = {"solver": jem.solvers.EM(), "stop": jem.stop.NeverStop(), "max_steps": 3000}
    refit = jax.jit(lambda w: jem.fit(model, params, x, weights=w, **options).params)
    found, left_out = jem.uncertainty.influence(model, params, x), jem.uncertainty.leave_one_out(model, params, x)
    ones = jnp.ones(len(x))
    for n in (0, int(jnp.argmax(x[:, 0]))):
        up, down = refit(ones.at[n].add(1e-3)), refit(ones.at[n].add(-1e-3))
        for a, b, got in zip(*map(jax.tree.leaves, (up, down, found.derivatives)), strict=True):
            np.testing.assert_allclose(got[n], (a - b) / 2e-3, rtol=1e-3, atol=1e-6)
        without = jem.log_prob(model, refit(ones.at[n].set(0)), x)[n]
        within = jem.log_prob(model, params, x)[n]
        assert float(left_out.log_density[n]) == pytest.approx(float(without), abs=0.1 * abs(float(without - within)) + 1e-4)
    assert 1 < float(left_out.num_effective) < 6
    share = jem.uncertainty.influence(model, params, x, fn=lambda p: p.weights[0])
    np.testing.assert_allclose(share.derivatives, found.derivatives.weights[:, 0], atol=1e-12)


MATRIX = np.array([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 0.7]])
SCALE = np.sqrt(np.diag(MATRIX))
VOLUMES = {
    "positive": (support.Positive(), np.array([0.3, 2.0]), lambda v: v),
    "interval": (support.Interval(-1.0, 3.0), np.array([0.3, 2.0]), lambda v: v),
    "simplex": (support.Simplex(), np.array([0.2, 0.5, 0.3]), lambda v: v[:-1]),
    "factor": (jem.supports.CholeskyFactor(), np.linalg.cholesky(MATRIX), lambda v: v[np.tril_indices(3)]),
    "definite": (jem.supports.PositiveDefinite(), MATRIX, lambda v: v[np.tril_indices(3)]),
    "correlation": (jem.supports.Correlation(), MATRIX / np.outer(SCALE, SCALE), lambda v: v[np.tril_indices(3, -1)]),
    "cells": (support.HeldCells(np.array([True, False]), support.Positive()), np.array([0.3, 2.0]), lambda v: v[1:]),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_volume(name):
    """The volume element beside the determinant of the Jacobian; both are known up to a constant."""
    where, value, free_part = VOLUMES[name]

    @jem.author.node
    class Point(jem.author.Node):
        def supports(self, params):
            return where

    value = jnp.asarray(value)
    free = where.unconstrain(value)

    @jax.jit
    def gap(there):
        jacobian = jax.jacfwd(lambda f: free_part(where.constrain(f, value)))(there)
        return log_volume(Point(), there, value) - jnp.linalg.slogdet(jacobian)[1]

    gaps = [float(gap(free + move * jnp.linspace(-1, 1.5, free.size))) for move in (0.0, 0.3)]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-10)


def test_log_density_for_optax():
    """Without the volume it is what a fit climbs: an optimiser of optax comes to the same place."""
    model, x, params = poisson_mixture()
    density = jem.uncertainty.log_density(model, params, x, volume=False)
    optimizer = optax.lbfgs()
    value = lambda free: -density(free)

    @jax.jit
    def climb(free):
        def step(carry, _):
            free, state = carry
            loss, grad = optax.value_and_grad_from_state(value)(free, state=state)
            updates, state = optimizer.update(grad, state, free, value=loss, grad=grad, value_fn=value)
            return (optax.apply_updates(free, updates), state), None

        return jax.lax.scan(step, (free, optimizer.init(free)), None, length=40)[0][0]

    found = density.params(climb(jax.tree.map(lambda f: f + 0.3, density.initial)))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def gamma_density():
    """A rate whose posterior is a gamma distribution of shape 3 + 17 and scale 1 / (1 + 5)."""
    model = jem.Poisson(shape=3.0, inverse_scale=1.0)
    return jem.uncertainty.log_density(model, jem.Poisson.Params(jnp.array([19 / 6])), COUNTS)


def test_blackjax():
    blackjax = pytest.importorskip("blackjax")
    density = gamma_density()
    sampler = blackjax.nuts(density, step_size=0.5, inverse_mass_matrix=jnp.full(1, 0.05))

    @jax.jit
    def draw(key):
        step = lambda state, key: (lambda new: (new, density.params(new.position).rate[0]))(sampler.step(key, state)[0])
        return jax.lax.scan(step, sampler.init(density.initial), jax.random.split(key, 2000))[1]

    rates = np.asarray(draw(jax.random.key(0)))
    assert rates.mean() == pytest.approx(20 / 6, abs=0.1)
    assert rates.std() == pytest.approx(np.sqrt(20) / 6, abs=0.1)


@pytest.mark.filterwarnings("ignore")
def test_numpyro():
    infer = pytest.importorskip("numpyro.infer")
    density = gamma_density()
    sampler = infer.MCMC(
        infer.NUTS(potential_fn=lambda free: -density(free)), num_warmup=200, num_samples=1000, progress_bar=False
    )
    with jax.debug_key_reuse(False):  # numpyro splits keys its own way
        sampler.run(jax.random.PRNGKey(0), init_params=density.initial)
    rates = np.asarray(jax.vmap(density.params)(sampler.get_samples()).rate)
    assert rates.mean() == pytest.approx(20 / 6, abs=0.15)
    assert rates.std() == pytest.approx(np.sqrt(20) / 6, abs=0.15)


def test_functions_that_rotations_do_not_move(x64):
    """Loadings rotate freely; the covariance they make and the noise do not: their errors are regular."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(8, 2))
    x = jnp.asarray(rng.normal(size=(400, 2)) @ loadings.T + rng.normal(size=(400, 8)))
    model = jem.FactorAnalysis(2)
    params = jem.fit(model, jem.init(model, jax.random.key(0), x), x, stop=jem.stop.Remaining(1e-9)).check().params
    assert jem.standard_errors(model, params, x).status == jem.uncertainty.InformationStatus.SINGULAR
    assert (
        jem.uncertainty.delta_method(lambda p: p.loadings, model, params, x).status
        == jem.uncertainty.InformationStatus.SINGULAR
    )
    noise = jem.uncertainty.delta_method(lambda p: p.whitening[:, 0] ** -2, model, params, x).check()
    made = jem.uncertainty.delta_method(lambda p: p.loadings @ p.loadings.T, model, params, x).check()
    assert np.isfinite(noise.covariance).all() and np.isfinite(made.covariance).all()
    assert (np.asarray(noise.errors) > np.sqrt(2 / 400) * np.asarray(noise.estimate)).all()  # more than with known factors
    with pytest.raises(TypeError, match="delta_method: fn must return numbers; got the string 'none'"):
        jem.uncertainty.delta_method(lambda p: "none", model, params, x)


def test_a_profile_at_the_edge():
    """At an exact zero the standard errors say BOUNDARY, and so does the profile."""
    x = np.array([[1.0, 0.0]] * 10 + [[0.0, 0.0]] * 5)
    params = jem.Bernoulli.Params(jnp.array([2 / 3, 0.0]))
    errors = jem.standard_errors(jem.Bernoulli(), params, x)
    profile = jem.uncertainty.profile_interval(lambda p: p.probs[0], jem.Bernoulli(), params, x)
    assert errors.status == profile.status == jem.uncertainty.InformationStatus.BOUNDARY
    assert 0 < profile.low < 2 / 3 < profile.high < 1


def log_odds(p, u):
    return jax.nn.log_sigmoid((2 * u["y"] - 1) * (p[0] + p[1] * u["x"]))


def log_rate(p, u):
    return u["y"] * (p[0] + p[1] * u["x"]) - jnp.exp(p[0] + p[1] * u["x"])


ENDLESS = {
    "half of the classes": (log_odds, [0, 1] * 10 + [1] * 20, [False, True]),
    "separated classes": (log_odds, [0] * 20 + [1] * 20, [True, True]),
    "a group of zeros": (log_rate, [2, 4] * 10 + [0] * 20, [False, True]),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_maximum_has_no_error(name, x64):
    """The curvature falls as the estimate runs away: wherever it is asked, what runs has no error, and the rest has its own."""
    log_prob, y, runs = ENDLESS[name]
    data = {"x": jnp.repeat(jnp.array([0.0, 1.0]), 20), "y": jnp.array(y, float)}
    model = jem.Density(log_prob, jnp.zeros(2))
    fit = jem.fit(model, model.start, data, solver=jem.solvers.GEM(optax.lbfgs, linesearch=None))
    found = jem.standard_errors(model, fit.params, data)
    assert fit.status == jem.Status.DEGENERATE
    assert found.status == jem.uncertainty.InformationStatus.SINGULAR
    np.testing.assert_array_equal(np.isnan(found.errors), runs)
    if not runs[0]:
        first = jem.uncertainty.delta_method(lambda p: p[0], model, fit.params, data).check()
        assert first.errors == pytest.approx(float(found.errors[0]))
    with pytest.raises(jem.FitError, match="SINGULAR"):
        found.check()

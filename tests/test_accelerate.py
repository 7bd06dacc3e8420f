"""Accelerated EM reaches the same maximum in fewer evaluations, never falls, and says honestly when it is there."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem import Status
from jem.engine.solvers.accelerate import Accelerator
from jem.engine.step import EM
from jem.engine.stop import rounding

ACCELERATORS = [jem.solvers.Anderson(), jem.solvers.SQUAREM()]
names = lambda solver: type(solver).__name__  # noqa: E731


def assert_never_falls(trace, total_weight):
    """Along each trace, up to what rounding may do; the difference taken here is rounded too."""
    trace = np.asarray(trace)
    fall = np.diff(trace) / np.asarray(rounding(jnp.asarray(trace[..., 1:]), jnp.asarray(total_weight, trace.dtype)))
    assert np.nanmin(fall) >= -1.1


def first_within(trace, best, gap):
    """The step at which a trace comes within `gap` of `best`."""
    near = np.asarray(trace) >= best - gap
    assert near.any()
    return int(np.argmax(near))


@pytest.fixture
def times(cases, x64):
    """Deaths in the Times: model, start, data, weights, and the maximum."""
    case = json.loads((cases / "poisson_mixture_times.json").read_text())
    p, *rates = case["init"]["p_lambda1_lambda2"]
    start = jem.Mixture.Params(jnp.array([p, 1 - p]), jem.Poisson.Params(jnp.array(rates)[:, None]))
    freq = jnp.array(case["data"]["freq"], float)
    return jem.Mixture(jem.Poisson(), 2), start, jnp.arange(10.0)[:, None], freq, case["expected"]["loglik"]["value"]


@pytest.mark.parametrize(("solver", "most"), [(ACCELERATORS[0], 25), (ACCELERATORS[1], 150)], ids=["Anderson", "SQUAREM"])
def test_times_from_its_start(times, solver, most):
    """The case says: fewer than about 150 evaluations; plain EM takes 1,700 to 1e-11."""
    model, start, x, freq, best = times
    fit = jem.fit(model, start, x, weights=freq, solver=solver, stop=jem.stop.Residual(1e-8))
    assert fit.status == Status.CONVERGED
    assert abs(float(fit.log_likelihood) - best) < 1e-8
    assert fit.num_steps + 1 <= most
    assert first_within(fit.trace, best, 2e-5) <= most  # KERNELS.md F counts to 1e-8 of the objective
    assert_never_falls(fit.trace, freq.sum())


@pytest.mark.parametrize("solver", ACCELERATORS, ids=names)
def test_times_from_a_hundred_starts(times, solver):
    model, _, x, freq, best = times
    rng = np.random.default_rng(0)
    rates = jem.Poisson.Params(jnp.asarray(rng.uniform(0.2, 6, (100, 2, 1))))
    starts = jem.Mixture.Params(jnp.asarray(rng.dirichlet([1, 1], 100)), rates)
    run = lambda start: jem.fit(model, start, x, weights=freq, solver=solver, stop=jem.stop.Residual(1e-8))  # noqa: E731
    fits = jax.jit(jax.vmap(run))(starts)
    assert set(fits.status.tolist()) == {Status.CONVERGED}
    np.testing.assert_allclose(fits.log_likelihood, best, rtol=0, atol=1e-8)
    assert_never_falls(fits.trace, freq.sum())
    assert np.median(fits.num_steps) < {"Anderson": 40, "SQUAREM": 200}[names(solver)]


def overlapping(seed):
    """Three Gaussians in two dimensions that overlap."""
    rng = np.random.default_rng(seed)
    centres = 1.3 * rng.normal(size=(3, 2))
    return jnp.asarray(np.concatenate([c + rng.normal(size=(500, 2)) for c in centres]))


def test_overlapping_mixture(x64):
    """A quarter of EM's evaluations, to 1e-8 of the objective, by either."""
    x = overlapping(1)
    model = jem.Mixture(jem.Gaussian(prior=None), 3)
    start = jem.init(model, jax.random.key(1), x)
    slow, *fast = [
        jem.fit(model, start, x, solver=s, stop=jem.stop.Residual(1e-8), max_steps=3000) for s in (EM(), *ACCELERATORS)
    ]
    assert slow.converged and all(f.converged for f in fast)
    needed = first_within(slow.trace, slow.objective, 1e-8 * abs(slow.objective))
    for fit in fast:
        np.testing.assert_allclose(fit.objective, slow.objective, rtol=1e-12)
        assert first_within(fit.trace, slow.objective, 1e-8 * abs(slow.objective)) <= needed / 4
        assert_never_falls(fit.trace, len(x))


def test_factor_analysis_that_em_does_not_finish(x64):
    """One factor too many: after 60,000 steps EM is not within 1e-8; Anderson is, after 150 to 400: rounding decides."""
    rng = np.random.default_rng(2)
    loadings, noise = rng.normal(size=(10, 2)), rng.uniform(0.2, 1, 10)
    x = jnp.asarray(rng.normal(size=(300, 2)) @ loadings.T + rng.normal(size=(300, 10)) * np.sqrt(noise))
    model = jem.FactorAnalysis(3)
    start = jem.init(model, jax.random.key(2), x)
    slow = jem.fit(model, start, x, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=60_000)
    fast = jem.fit(model, start, x, solver=jem.solvers.Anderson(), stop=jem.stop.RelativeGain(1e-12), max_steps=1000)
    close = 1e-8 * abs(fast.objective)
    assert fast.converged
    assert slow.objective < fast.objective - close
    assert_never_falls(fast.trace, len(x))


@jem.author.node
class Timid(Accelerator):
    """Extrapolates backwards, almost all the way: accepted or not, such a step gains next to nothing."""

    solver: Any = EM()

    def init(self, model, params, total, lane):
        return jem.solvers.SQUAREM().init(model, params, total, lane)

    def step(self, model, seen, state):
        proposal, inner = self.solver.step(model, seen, state.inner)
        image = proposal.candidate
        nearby = jax.tree.map(lambda p, q: p + 1e-12 * (q - p), seen.params, image)
        go = (state.plain > 0) & ~seen.close
        candidate = jax.tree.map(lambda p, q: jnp.where(go, p, q), nearby, image)
        plain = jnp.where(go, 0, 1)
        return proposal._replace(candidate=candidate, plain=plain, retries=go), state._replace(inner=inner, plain=plain)


def test_a_small_gain_of_an_extrapolated_step_is_not_convergence(x64):
    """Steps that go nowhere make the lane ask for a plain one; it ends where EM itself gains no more."""
    x = overlapping(2)
    model, stop = jem.Mixture(jem.Gaussian(), 3), jem.stop.RelativeGain(1e-6)
    start = jem.init(model, jax.random.key(2), x)
    for solver in (Timid(), *ACCELERATORS):
        fit = jem.fit(model, start, x, solver=solver, stop=stop, max_steps=3000)
        assert fit.converged
        bound = jem.bind(model, x)
        after = jem.m_step(bound, fit.params, jem.e_step(model, fit.params, x)[0])
        gain = jem.e_step(model, after, x)[1] + bound.log_prior(after) - fit.objective
        assert gain <= 1e-6 * abs(fit.objective)
    assert fit.num_steps > 10


@jem.author.node
class Wild(Accelerator):
    """Every other step is far too long."""

    solver: Any = EM()

    def init(self, model, params, total, lane):
        return jem.solvers.SQUAREM().init(model, params, total, lane)

    def step(self, model, seen, state):
        proposal, inner = self.solver.step(model, seen, state.inner)
        image, known = proposal.candidate, state.ahead.candidate
        back = (state.plain == 0) & ~seen.accepted
        go = (state.plain > 0) & ~seen.close
        far = jax.tree.map(lambda p, q: p + 1e3 * (q - p), seen.params, image)
        image = jax.tree.map(lambda i, b: jnp.where(back, b, i), image, known)
        candidate = jax.tree.map(lambda f, i: jnp.where(go, f, i), far, image)
        plain, ahead = jnp.where(go, 0, 1), state.ahead._replace(candidate=image)
        proposal = proposal._replace(candidate=candidate, image=image, plain=plain, retries=go)
        return proposal, state._replace(inner=inner, ahead=ahead, plain=plain)


def test_refused_steps_are_counted_and_are_not_convergence(x64):
    """A refusal changes nothing but the count: the path is that of EM, however loose the rule."""
    x = overlapping(2)
    model = jem.Mixture(jem.Gaussian(), 3)
    start = jem.init(model, jax.random.key(2), x)
    plain = jem.fit(model, start, x, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=20)
    wild = jem.fit(model, start, x, solver=Wild(), stop=jem.stop.NeverStop(), max_steps=40)
    assert wild.num_refusals == 20
    np.testing.assert_allclose(wild.trace[::2], plain.trace, rtol=1e-12)
    np.testing.assert_array_equal(wild.trace[1::2], wild.trace[:-1:2])  # refused: where it was
    loose = jem.fit(model, start, x, solver=Wild(), stop=jem.stop.RelativeGain(1e-4), max_steps=200)
    gains = np.diff(np.asarray(plain.trace)) / np.abs(np.asarray(plain.trace)[1:])
    assert loose.converged and loose.num_steps == 2 * np.argmax(gains <= 1e-4) + 2  # where EM would have stopped


@pytest.mark.parametrize("solver", ACCELERATORS, ids=names)
def test_nothing_to_move(solver):
    """A model all of whose parameters are held has no coordinates at all."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2)), jnp.float32)
    model = jem.Frozen(jem.Gaussian())
    fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, solver=solver)
    assert fit.converged and fit.num_steps == 1

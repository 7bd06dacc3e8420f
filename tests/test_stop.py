"""Stopping rules stop where they say, in both dtypes; the rate and the forecast are what the rest of the climb does."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import build

import jem
from jem import Status
from jem.coordinates import ravel

RULES = {
    "gain": jem.stop.RelativeGain(1e-8),
    "aitken": jem.stop.Aitken(1e-8),
    "change": jem.stop.ParameterChange(1e-5),
    "residual": jem.stop.Residual(1e-5),
}
plain = functools.partial(jem.fit, solver=jem.solvers.EM())


@pytest.fixture
def times(cases, x64):
    """Deaths in the Times: the case, and the arguments of a fit."""
    case = json.loads((cases / "poisson_mixture_times.json").read_text())
    p, *rates = case["init"]["p_lambda1_lambda2"]
    start = jem.Mixture.Params(jnp.array([p, 1 - p]), jem.Poisson.Params(jnp.array(rates)[:, None]))
    args = jem.Mixture(jem.Poisson(), 2), start, jnp.arange(10.0)[:, None]
    return (
        case["expected"],
        args,
        {"weights": jnp.array(case["data"]["freq"], float), "max_steps": 4000, "solver": jem.solvers.EM()},
    )


@jem.author.node
class Move(jem.author.Rule):
    """Stops where (p, l1, l2) moves by no more than `tol`: a rule of a user's."""

    tol: float

    def converged(self, progress):
        new, old = [jnp.concatenate([p.weights[:1], p.components.rate[:, 0]]) for p in (progress.params, progress.previous)]
        return (jnp.sum((new - old) ** 2) <= self.tol**2) & (progress.num_steps > 0)


def test_a_rule_of_the_users_own(times):
    """The published iteration counts of plain EM are those of this rule."""
    expected, args, options = times
    for name, tol in (("em_iterations_tol1e7", 1e-7), ("em_iterations_tol1e8", 1e-8)):
        fit = jem.fit(*args, stop=Move(tol), **options)
        assert fit.converged
        assert abs(int(fit.num_steps) - expected[name]["value"]) <= expected[name]["atol"]


def test_rate_and_forecast(times):
    """After 400 of some 2,000 steps the rate is known, and how many more it takes by each rule, to a tenth."""
    expected, args, options = times
    largest = max(expected["em_rate_eigenvalues"]["value"])
    for rule in (RULES["aitken"], RULES["change"], jem.stop.AllOf(RULES["gain"], RULES["residual"])):
        full = jem.fit(*args, stop=rule, **options)
        part = jem.fit(*args, stop=rule, **{**options, "max_steps": 400})
        assert full.converged and full.steps_left == 0
        if full.num_steps <= 400:
            continue
        assert part.status == Status.MAX_STEPS
        assert part.num_steps + part.steps_left == pytest.approx(float(full.num_steps), rel=0.1)
        assert part.rate == pytest.approx(largest, abs=4e-4)
        with pytest.raises(jem.FitError, match=rf"about {int(part.steps_left)} more would do \(rate of convergence 0.99"):
            part.check()
    done = jem.fit(*args, stop=jem.stop.Residual(1e-8), **options)
    assert done.rate == pytest.approx(largest, abs=3e-4)
    never = jem.fit(*args, stop=jem.stop.NeverStop(), **{**options, "max_steps": 20})
    assert np.isnan(never.steps_left)
    accelerated = jem.fit(*args, stop=jem.stop.Residual(1e-8), **{**options, "solver": jem.solvers.Anderson()})
    assert np.isnan(accelerated.rate)


def test_what_is_left(times):
    """A small gain says little about what is left; Aitken's limit does, and stops within its tolerance."""
    expected, args, options = times
    best, tol = expected["loglik"]["value"], 1e-7
    gain = jem.fit(*args, stop=jem.stop.RelativeGain(tol), **options)
    limit = jem.fit(*args, stop=jem.stop.Aitken(tol), **options)
    assert gain.converged and limit.converged
    assert best - gain.objective > 20 * tol * abs(best)
    assert best - limit.objective < 1.1 * tol * abs(best)


@pytest.fixture(scope="module")
def faithful():
    """A fit that takes some dozens of steps: every rule alone, in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(jem.datasets.old_faithful())[::2]
        model = jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 3)
        start = jem.init(model, jax.random.key(3), x)
        alone = {name: plain(model, start, x, stop=rule) for name, rule in RULES.items()}
        return (model, start, x), alone


def test_any_and_all(x64, faithful):
    args, alone = faithful
    steps = {name: int(fit.num_steps) for name, fit in alone.items()}
    assert all(fit.converged for fit in alone.values()) and len(set(steps.values())) > 2
    assert plain(*args, stop=jem.stop.AnyOf(*RULES.values())).num_steps == min(steps.values())
    assert plain(*args, stop=jem.stop.AllOf(*RULES.values())).num_steps == max(steps.values())


def test_rules_say_what_they_measure(x64, faithful):
    """The measure is at most 1 at the step they stop at, and was not at the one before."""
    (model, start, x), alone = faithful
    gains = np.diff(np.asarray(alone["gain"].trace)[: int(alone["gain"].num_steps) + 1])
    assert gains[-2] > 1e-8 * abs(alone["gain"].objective) >= gains[-1]
    path = [start]
    for _ in range(max(int(alone[name].num_steps) for name in ("residual", "change")) + 1):
        path.append(jem.em_step(model, path[-1], x)[0])

    def change(step):
        pairs = zip(jax.tree.leaves(path[step - 1]), jax.tree.leaves(path[step]), strict=True)
        return max(float(jnp.max(jnp.abs(p - q) / (1 + jnp.abs(p)))) for p, q in pairs)

    def residual(step):
        here, there = [ravel(model, p) for p in path[step : step + 2]]
        return float(jnp.linalg.norm(there - here) / (1 + jnp.linalg.norm(here)))

    last = int(alone["change"].num_steps)
    assert change(last - 1) > 1e-5 >= change(last)
    last = int(alone["residual"].num_steps)
    assert residual(last - 1) > 1e-5 >= residual(last)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("mixture_full", jem.stop.RelativeGain(0.0)),
        ("mixture_poisson", jem.stop.Aitken(0.0)),
        ("hmm_categorical", jem.stop.AnyOf(jem.stop.ParameterChange(0.0), jem.stop.Residual(0.0))),
    ],
)
def test_a_tolerance_of_zero_ends_at_the_rounding_level(name, rule):
    """In float32: neither for ever, nor far from where float64 goes."""
    model = build(name, "float32")
    start = jem.init(model.row.node, jax.random.key(0), model.x)
    fit = plain(model.row.node, start, model.x, stop=rule, max_steps=3000)
    assert fit.status in (Status.CONVERGED, Status.DEGENERATE)
    more = plain(model.row.node, fit.params, model.x, stop=jem.stop.NeverStop(), max_steps=50)
    assert more.objective - fit.objective < 1e-4 * abs(fit.objective)


def test_a_rule_must_say_when():
    @jem.author.node
    class Mine(jem.author.Rule):
        pass

    x = jnp.ones((4, 1))
    with pytest.raises(TypeError, match="Mine does not define converged"):
        jem.fit(jem.Poisson(), jem.Poisson.Params(jnp.ones(1)), x, stop=Mine())

"""Densities of a user's own: a fit that says CONVERGED lies within 2e-3 nats of the maximum, whatever the rule."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from jax.scipy.special import gammaln
from scipy import stats

import jem

ADAM, LBFGS = jem.solvers.GEM(optax.adam, learning_rate=0.01), jem.solvers.GEM(optax.lbfgs, linesearch=None)
SHORT = 2e-3  # nats


def log_poisson(b, u):
    eta = u["x"] @ b
    return u["y"] * eta - jnp.exp(eta) - gammaln(u["y"] + 1)


def log_gamma(p, x):
    k, m = p["shape"], p["mean"]
    return k * jnp.log(k / m) + (k - 1) * jnp.log(x) - k * x / m - gammaln(k)


def log_t(p, x):
    nu, z = p["nu"], (x - p["mean"]) / p["scale"]
    constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * jnp.log(nu * jnp.pi) - jnp.log(p["scale"])
    return constant - (nu + 1) / 2 * jnp.log1p(z**2 / nu)


def log_inverse(p, u):
    """Gamma regression with the inverse link."""
    return log_gamma({"shape": p["shape"], "mean": 1 / (u["row"] @ p["beta"])}, u["y"])


ONE = jnp.ones(())
GAMMA = jem.Density(log_gamma, {"shape": ONE, "mean": ONE}, supports=jem.supports.Positive())
REAL_AND_POSITIVE = {"mean": jem.supports.Real(), "scale": jem.supports.Positive(), "nu": jem.supports.Positive()}


@pytest.mark.parametrize(
    "rule", [jem.stop.Remaining(), jem.stop.RelativeGain(1e-10), jem.stop.Aitken(1e-8)], ids=["left", "gain", "limit"]
)
@pytest.mark.parametrize("solver", [ADAM, LBFGS], ids=["adam", "lbfgs"])
def test_columns_of_very_different_scales(x64, solver, rule):
    """Poisson regression on columns about 1, 300 and 20,000, against Newton's method on standardised ones."""
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(60), rng.normal(300, 100, 60), rng.normal(2e4, 1e4, 60)])
    y = rng.poisson(np.exp(x @ [0.5, 2e-3, 3e-5])).astype(float)
    z, b = np.column_stack([x[:, 0], (x[:, 1:] - x[:, 1:].mean(0)) / x[:, 1:].std(0)]), np.array([np.log(y.mean()), 0, 0])
    for _ in range(30):
        mean = np.exp(z @ b)
        b = b + np.linalg.solve(z.T * mean @ z, z.T @ (y - mean))
    model = jem.Density(log_poisson, jnp.zeros(3))
    fit = jem.fit(model, model.start, {"x": x, "y": y}, solver=solver, stop=rule, max_steps=400)
    best = stats.poisson.logpmf(y, np.exp(z @ b)).sum()
    assert fit.status == jem.Status.CONVERGED
    assert best - SHORT < stats.poisson.logpmf(y, np.exp(x @ np.asarray(fit.params))).sum() < best + 1e-9


@pytest.mark.parametrize("solver", [ADAM, LBFGS], ids=["adam", "lbfgs"])
def test_degrees_of_freedom_without_a_maximum(x64, solver):
    """Uniform data: the best of all t densities is the normal one."""
    x = np.random.default_rng(0).uniform(-10, 10, 60)
    start = {"mean": 0 * ONE, "scale": ONE, "nu": 5 * ONE}
    fit = jem.fit(jem.Density(log_t, start, supports=REAL_AND_POSITIVE), start, x, solver=solver)
    best = stats.norm.logpdf(x, x.mean(), x.std()).sum()
    p = {name: float(value) for name, value in fit.params.items()}
    far, z = p["nu"] > 1e7, (x - p["mean"]) / p["scale"]  # beyond it scipy's t is rounding
    got = np.sum(stats.norm.logpdf(z) if far else stats.t.logpdf(z, p["nu"])) - 60 * np.log(p["scale"])
    assert fit.status in (jem.Status.DEGENERATE, jem.Status.MAX_STEPS) or got > best - SHORT


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_a_shape_without_a_maximum(x64, noise):
    """All values alike, to the last digits: the likelihood of a gamma density has no bound, or one that rounding hides."""
    x = 5 * (1 + noise * np.random.default_rng(0).normal(size=40))
    fit = jem.fit(GAMMA, GAMMA.start, x, solver=LBFGS, max_steps=200)
    assert fit.status != jem.Status.CONVERGED


def test_a_mixture_reaches_its_last_digit(x64):
    """Two gamma densities with a line search, at the default stop and on to the end."""
    rng = np.random.default_rng(3)
    x = np.r_[rng.gamma(5, 2, 80), rng.gamma(30, 1.2, 70)]
    model = jem.Mixture(GAMMA, 2)
    start = jem.Mixture.Params(jnp.array([0.5, 0.5]), {"shape": jnp.array([2.0, 9.0]), "mean": jnp.array([8.0, 30.0])})
    fit = jem.fit(model, start, x, solver=jem.solvers.GEM(optax.lbfgs))

    def loss(z):
        w, k, m = 1 / (1 + np.exp(-z[0])), np.exp(z[1:3]), np.exp(z[3:])
        terms = stats.gamma.logpdf(x[:, None], k, scale=m / k) + np.log([w, 1 - w])
        return -np.logaddexp(*terms.T).sum()

    c, w = fit.params.components, np.asarray(fit.params.weights)
    at = np.r_[np.log(w[0] / w[1]), np.log(np.asarray(c["shape"])), np.log(np.asarray(c["mean"]))]
    best = -scipy.optimize.minimize(loss, at, options={"gtol": 1e-7}).fun
    assert fit.status == jem.Status.CONVERGED
    assert best - SHORT < float(fit.objective) < best + 1e-9


@pytest.mark.parametrize("lot", ["lot1", "lot2"])
def test_gamma_regression_in_float32(cases, lot):
    """A shape of 539 on nine rows: what the parameters of float32 are worth in float64."""
    case = json.loads((cases / "gamma_glm_clotting.json").read_text())
    u, y = np.array(case["data"]["u"], float), np.array(case["data"][lot], float)
    row = np.column_stack([np.ones_like(u), np.log(u)])
    where = {"beta": jem.supports.Real(), "shape": jem.supports.Positive()}
    model = jem.Density(log_inverse, {"beta": jnp.array([0.02, 0.005]), "shape": ONE}, supports=where)
    data = {"row": row.astype(np.float32), "y": y.astype(np.float32)}
    fit = jem.fit(model, model.start, data, solver=LBFGS)
    k, mean = float(fit.params["shape"]), 1 / (row @ np.asarray(fit.params["beta"], float))
    got, best = stats.gamma.logpdf(y, k, scale=mean / k).sum(), case["expected"][f"{lot}_inverse_loglik"]["value"]
    assert fit.status == jem.Status.CONVERGED
    assert got == pytest.approx(best, abs=SHORT)


@pytest.mark.parametrize("law", [jem.Gaussian(), jem.StudentT()], ids=["normal", "t"])
def test_missing_cells_at_the_default_stop(x64, law):
    """Cells missing in a mixture of products: nothing is gained by a long climb."""
    rng = np.random.default_rng(0)
    x = rng.standard_t(3, size=(120, 2)) + 3 * (np.arange(120)[:, None] % 2)
    x[rng.random(x.shape) < 0.25] = np.nan
    model, data = jem.Mixture(jem.Product(a=jem.Missing(law), b=jem.Missing(law)), 2), {"a": x[:, :1], "b": x[:, 1:]}
    fit = jem.fit(model, jem.init(model, jax.random.key(0), data), data)
    on = jem.fit(model, fit.params, data, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=3000)
    assert fit.status == jem.Status.CONVERGED
    assert float(on.objective) - float(fit.objective) < SHORT

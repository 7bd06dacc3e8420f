"""Families of which only a window is seen: densities against scipy, fits against direct maximisation, hurdle models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import gammaln

import jem

LAWS = {
    "gaussian": (jem.Gaussian(), jem.Gaussian.Params(np.array([1.0]), np.array([[2.0]])), stats.norm(1, 0.5), (0.5, 1.8)),
    "exponential": (jem.Exponential(), jem.Exponential.Params(np.array([0.7])), stats.expon(scale=1 / 0.7), (0.4, None)),
    "weibull": (
        jem.Weibull(),
        jem.Weibull.Params(np.array([1.5]), np.array([1.7])),
        stats.weibull_min(1.7, scale=1.5),
        (None, 2.0),
    ),
    "poisson": (jem.Poisson(), jem.Poisson.Params(np.array([1.2])), stats.poisson(1.2), (1, None)),
}


def seen(name, num=40):
    """Draws that lie in the window, and the log-probability of it."""
    _, _, law, (lower, upper) = LAWS[name]
    draws = law.rvs(num * 8, random_state=np.random.default_rng(0)).astype(float)
    low, high = -np.inf if lower is None else lower, np.inf if upper is None else upper
    below = low - 1 if name == "poisson" else low
    return draws[(draws >= low) & (draws <= high)][:num, None], np.log(law.cdf(high) - law.cdf(below))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LAWS)
def test_density_and_fishers_identity(name):
    family, params, law, ends = LAWS[name]
    model, params = jem.Truncated(family, *ends), jax.tree.map(jnp.asarray, params)
    x, log_window = seen(name)
    want = (law.logpmf if name == "poisson" else law.logpdf)(x[:, 0]) - log_window
    np.testing.assert_allclose(jem.log_prob(model, params, x), want, rtol=1e-10, atol=1e-10)
    units, weights = jnp.asarray(x.T), jnp.asarray(np.random.default_rng(1).random(len(x)))
    statistics = model.expect(params, model.infer(params, units)[0], units, weights)
    slope = jax.grad(lambda p: model.infer(p, units)[1] @ weights)(params)
    q = jax.grad(lambda p: model.expected_log_prob(p, statistics, params))(params)
    for a, b in zip(jax.tree.leaves(q), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_fit_is_the_direct_maximum():
    x, _ = seen("gaussian", 200)
    lower, upper = LAWS["gaussian"][3]
    model = jem.Truncated(jem.Gaussian(), lower, upper)
    fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, stop=jem.stop.Remaining(1e-8)).check()

    def loss(v):
        law = stats.norm(v[0], np.exp(v[1]))
        return -np.sum(law.logpdf(x)) + len(x) * np.log(law.cdf(upper) - law.cdf(lower))

    best = optimize.minimize(loss, [1.0, -1.0], method="BFGS")
    assert float(fit.log_likelihood) == pytest.approx(-best.fun, abs=1e-6)


@pytest.mark.usefixtures("x64")
def test_hurdle_model():
    """Zeros by themselves, and the others by a zero-truncated law with inputs."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=(150, 1))
    y = rng.poisson(np.exp(0.4 + 0.5 * u)) * (rng.random((150, 1)) < 0.7)
    some = y[:, 0] > 0
    model = jem.Mixture(jem.OneOf(jem.Point(0.0), jem.Truncated(jem.Poisson(), lower=1)))
    hurdle = jem.fit(model, jem.init(model, jax.random.key(0), y), y).check()
    assert float(hurdle.params.weights[0]) == pytest.approx(np.mean(~some), abs=1e-6)
    regression = jem.Truncated(jem.GLM(jem.Poisson()), lower=1)
    x = jem.Given(y[some], u[some])
    fit = jem.fit(regression, jem.init(regression, jax.random.key(0), x), x, stop=jem.stop.Remaining(1e-8)).check()

    def loss(v):
        eta = v[0] + v[1] * u[some]
        return -np.sum(y[some] * eta - np.exp(eta) - gammaln(y[some] + 1) - np.log(-np.expm1(-np.exp(eta))))

    best = optimize.minimize(loss, [0.0, 0.0], method="BFGS")
    assert float(fit.log_likelihood) == pytest.approx(-best.fun, abs=1e-6)
    _, like = jem.sample(regression, jax.random.key(0), fit.params, like=x)
    assert np.min(like.outputs) >= 1


def test_what_is_outside():
    model = jem.Truncated(jem.Poisson(), lower=1)
    params = jem.Poisson.Params(jnp.array([0.1]))
    assert np.isneginf(jem.log_prob(model, params, [[0], [2]])).tolist() == [True, False]
    _, x = jem.sample(model, jax.random.key(0), params, 20)
    assert np.min(x) >= 1
    with pytest.raises(ValueError, match="Truncated: x must have one column"):
        jem.log_prob(model, jem.Poisson.Params(jnp.ones(2)), [[1, 2]])

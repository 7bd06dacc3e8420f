"""The family to copy is a family like any other: scipy agrees with it, and a mixture of it recovers what was drawn."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jem

RATES = np.array([0.2, 3.0])
X = np.random.default_rng(0).exponential(1 / RATES, (50, 2)).astype(np.float32)


def test_log_density_is_scipys():
    log_prob = jem.log_prob(jem.Exponential(), jem.Exponential.Params(jnp.asarray(RATES, jnp.float32)), X)
    np.testing.assert_allclose(log_prob, stats.expon(scale=1 / RATES).logpdf(X).sum(1), rtol=1e-5, atol=1e-5)


def test_m_step_is_scipys_estimate():
    start = jem.Exponential.Params(jnp.ones(2))
    fitted = jem.em_step(jem.Exponential(), start, X)[0].rate
    scales = [stats.expon.fit(column, floc=0)[1] for column in X.T]
    np.testing.assert_allclose(fitted, 1 / np.array(scales), rtol=1e-5)


def test_prior_is_a_pseudo_observation():
    # Gamma(2, inverse_scale) on the rate: one more waiting time, of length inverse_scale.
    start = jem.Exponential.Params(jnp.ones(1))
    with_prior = jem.em_step(jem.Exponential(shape=2.0, inverse_scale=7.0), start, X[:, :1])[0]
    with_row = jem.em_step(jem.Exponential(), start, np.append(X[:, :1], [[7.0]], 0).astype(np.float32))[0]
    np.testing.assert_allclose(with_prior.rate, with_row.rate, rtol=1e-5)


def test_no_weight_keeps_the_old_rate():
    start = jem.Exponential.Params(jnp.array([5.0]))
    empty = jem.Exponential().expect(start, (), jnp.ones((1, 3)), jnp.zeros(3))
    assert jem.Exponential().maximize(start, empty).rate == 5.0


def test_samples_follow_the_density():
    _, x = jem.sample(jem.Exponential(), jax.random.key(1), jem.Exponential.Params(jnp.asarray(RATES, jnp.float32)), 4000)
    for column, rate in zip(np.asarray(x, float).T, RATES):
        assert stats.kstest(column, stats.expon(scale=1 / rate).cdf).pvalue > 1e-3


def test_mixture_of_two():
    truth = jem.Mixture.Params(jnp.array([0.3, 0.7]), jem.Exponential.Params(jnp.array([[0.1], [5.0]])))
    model = jem.Mixture(jem.Exponential(), 2)
    _, x = jem.sample(model, jax.random.key(0), truth, 4000)
    fits = jem.fit_restarts(model, jax.random.key(1), x, num_restarts=4).check()
    best = fits.best()
    order = np.argsort(best.params.components.rate[:, 0])
    np.testing.assert_allclose(best.params.weights[order], truth.weights, atol=0.03)
    np.testing.assert_allclose(best.params.components.rate[order], truth.components.rate, rtol=0.1)
    assert np.all(np.diff(np.asarray(fits.trace), axis=1)[np.isfinite(fits.trace[:, 1:])] > -1e-5 * abs(best.objective))
    assert jem.num_parameters(model, best.params) == 3


def test_a_value_outside_the_support_is_named():
    with pytest.raises(ValueError, match="Exponential: x must be > 0; got 0.0 in row 1, column 0"):
        jem.log_prob(jem.Exponential(), jem.Exponential.Params(jnp.ones(1)), np.array([[1.0], [0.0]], np.float32))


@pytest.mark.parametrize("page", ["families", "engine"])
def test_code_of_the_readmes_runs(page, capsys):
    text = (Path(jem.__file__).parent / page / "README.md").read_text()
    code = [block for block in re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S) if "jem" in block]
    exec("\n".join(code), {})
    printed = {"families": "VVE 2 (2, 1)", "engine": "CONVERGED 1 True"}
    assert " ".join(capsys.readouterr().out.split()) == printed[page]

"""Densities of counts, small and large, in both dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jem
from jem.kernels.counts import poisson_log_prob, xlogy_ratio

log_prob = jax.jit(poisson_log_prob)
RATES = (1e-8, 0.3, 5.0, 15.0, 40.0, 1e3, 1e6, 1e7)


@pytest.mark.parametrize("rate", RATES)
def test_poisson(rate, x64, dtype):
    """Beside scipy, whose own terms cancel in float64; in float32 to what rounding does to `x - rate`."""
    x = np.unique(np.r_[0, 1, 15, 16, 17, np.round(rate + np.sqrt(rate) * np.array([-4, -1, 0, 1, 4])), np.round(3 * rate)])
    x = x[x >= 0]
    rate = np.asarray(rate, dtype).astype(float)
    got = log_prob(jnp.asarray(x, dtype), jnp.asarray(rate, dtype))
    assert got.dtype == dtype
    near = np.abs(x - rate) <= 5 * np.sqrt(rate) + 1
    want = stats.poisson.logpmf(x, rate)
    ours = 50 * jnp.finfo(dtype).eps * np.maximum(np.sqrt(rate), 1)
    theirs = 60 * np.finfo(float).eps * rate
    np.testing.assert_allclose(got[near], want[near], atol=ours + theirs, rtol=4 * jnp.finfo(dtype).eps)
    np.testing.assert_allclose(got, want, atol=ours + theirs, rtol=10 * jnp.finfo(dtype).eps)


def test_bounds(x64):
    """Nothing counted where nothing is expected is certain; anything else is impossible. Slopes are finite."""
    np.testing.assert_array_equal(log_prob(jnp.array([0.0, 3.0, 0.0]), jnp.array([0.0, 0.0, 2.0])), [0, -np.inf, -2])
    slope = jax.jit(jax.grad(lambda rate: poisson_log_prob(jnp.array([0.0, 3.0, 20.0]), rate).sum()))
    np.testing.assert_allclose(slope(jnp.array([2.0, 2.0, 5.0])), [-1, 0.5, 3], rtol=1e-12)
    assert np.isfinite(slope(jnp.zeros(3))).all()
    assert xlogy_ratio(jnp.array(0.0), jnp.array(0.0), jnp.array(0.0)) == 0


@pytest.mark.parametrize("scale", [1e6, 1e7])
def test_large_counts_fit(scale, x64, dtype):
    """Rates of millions: no fit ends with a fall that only rounding made, and the densities are those of the data."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.poisson([[[scale]], [[1.01 * scale]]], (2, 60, 2)).reshape(120, 2), dtype)
    model = jem.Mixture(jem.Poisson(), 2)
    fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x)
    assert fit.converged
    want = stats.poisson.logpmf(np.asarray(x, float), np.asarray(fit.params.components.rate, float)[:, None]).sum(-1)
    want = np.logaddexp(*(want + np.log(np.asarray(fit.params.weights, float))[:, None])).sum()
    np.testing.assert_allclose(fit.log_likelihood, want, rtol=2e-4 if dtype == "float32" else 1e-9)

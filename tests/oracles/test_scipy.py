"""Log-densities of every family against scipy.stats, and what they are made of against scipy.special, in both dtypes."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jem
from jem.kernels.gaussian import digamma_gap, log_gamma_gap

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3)) * [1.0, 3.0, 0.2] + [0.0, 5.0, -1.0]
MEAN = np.array([0.3, 4.0, -0.9])
ROOT = RNG.standard_normal((3, 5))
COVARIANCE = {
    jem.covariance.Full(): ROOT @ ROOT.T / 5,
    jem.covariance.Diagonal(): np.array([1.5, 4.0, 0.1]),
    jem.covariance.Spherical(): 2.5,
}
DENSE = {
    jem.covariance.Full(): COVARIANCE[jem.covariance.Full()],
    jem.covariance.Diagonal(): np.diag([1.5, 4.0, 0.1]),
    jem.covariance.Spherical(): 2.5 * np.eye(3),
}
COUNTS = RNG.poisson(4.0, (40, 2))
BITS = RNG.integers(0, 2, (40, 4))


def check(node, params, x, want, dtype):
    """Log-densities agree to rounding, relative to their size."""
    got = np.asarray(jem.log_prob(node, params, jnp.asarray(x)))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=200 * np.finfo(dtype).eps, atol=200 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    "structure", [jem.covariance.Full(), jem.covariance.Diagonal(), jem.covariance.Spherical()], ids=lambda s: type(s).__name__
)
def test_gaussian(structure, dtype):
    node = jem.Gaussian(structure)
    params = node.params(MEAN, COVARIANCE[structure])
    np.testing.assert_allclose(params.covariance, DENSE[structure], rtol=1e-5, atol=1e-6)
    x = X.astype(dtype)
    check(node, params, x, stats.multivariate_normal(MEAN, DENSE[structure]).logpdf(x.astype(float)), dtype)


@pytest.mark.parametrize("df", [0.7, 4.0, 300.0])
@pytest.mark.parametrize("structure", [jem.covariance.Full(), jem.covariance.Spherical()], ids=lambda s: type(s).__name__)
def test_student_t(structure, df, dtype):
    node = jem.StudentT(structure)
    params = node.params(MEAN, COVARIANCE[structure], df)
    x = X.astype(dtype)
    want = stats.multivariate_t(MEAN, DENSE[structure], df).logpdf(x.astype(float))
    got = np.asarray(jem.log_prob(node, params, jnp.asarray(x)))
    assert got.dtype == dtype
    # Float32 too, though gammaln((df + D) / 2) and gammaln(df / 2) have most of their digits in common.
    np.testing.assert_allclose(got, want, rtol=0, atol=200 * np.finfo(dtype).eps)


def test_poisson(dtype):
    rate = np.array([0.5, 7.0])
    params = jem.Poisson.Params(jnp.asarray(rate, dtype))
    check(jem.Poisson(), params, COUNTS, stats.poisson(rate).logpmf(COUNTS).sum(1), dtype)


def test_poisson_of_rate_zero(dtype):
    got = jem.log_prob(jem.Poisson(), jem.Poisson.Params(jnp.zeros(1, dtype)), jnp.array([[0], [2]]))
    np.testing.assert_allclose(got, [0, -np.inf], atol=4 * np.finfo(dtype).eps)


def test_bernoulli(dtype):
    probs = np.array([0.01, 0.3, 0.5, 0.999])
    params = jem.Bernoulli.Params(jnp.asarray(probs, dtype))
    probs = np.asarray(params.probs, float)  # as they are rounded, since log(1 - p) sees it
    check(jem.Bernoulli(), params, BITS, stats.bernoulli(probs).logpmf(BITS).sum(1), dtype)


def test_bernoulli_on_the_boundary(dtype):
    got = jem.log_prob(jem.Bernoulli(), jem.Bernoulli.Params(jnp.array([0, 1], dtype)), jnp.array([[0, 1], [1, 1], [0, 0]]))
    np.testing.assert_array_equal(got, [0, -np.inf, -np.inf])


def test_categorical(dtype):
    probs, x = np.array([0.2, 0.0, 0.5, 0.3]), np.array([0, 2, 3, 3, 1])
    params = jem.Categorical.Params(jnp.asarray(probs, dtype))
    with np.errstate(divide="ignore"):
        check(jem.Categorical(4), params, x, stats.multinomial(1, probs).logpmf(np.eye(4)[x]), dtype)


def test_mixture_and_product(dtype):
    """By composition: the log of the sum over components of the products over parts."""
    node = jem.Mixture(jem.Product(count=jem.Poisson(), bit=jem.Bernoulli()), 2)
    weights, rate, probs = np.array([0.25, 0.75]), RNG.uniform(1, 9, (2, 2)), RNG.uniform(0.25, 0.75, (2, 4))
    weights, rate, probs = (np.asarray(a, dtype).astype(float) for a in (weights, rate, probs))
    parts = {
        "count": jem.Poisson.Params(jnp.asarray(rate, dtype)),
        "bit": jem.Bernoulli.Params(jnp.asarray(probs, dtype)),
    }
    want = np.log(
        sum(
            w * stats.poisson(r).pmf(COUNTS).prod(1) * stats.bernoulli(p).pmf(BITS).prod(1)
            for w, r, p in zip(weights, rate, probs, strict=True)
        )
    )
    x = {"count": jnp.asarray(COUNTS), "bit": jnp.asarray(BITS)}
    got = jem.log_prob(node, jem.Mixture.Params(jnp.asarray(weights, dtype), parts), x)
    np.testing.assert_allclose(got, want, rtol=200 * np.finfo(dtype).eps)


def test_gaps_between_gamma_functions_and_logarithms(dtype):
    """From 20 on to the dtype's digits, below to those of the terms; scipy's differences lose some of float64's."""
    a = np.array([0.03, 0.5, 1.0, 5.0, 19.9, 20.0, 20.1, 60.0, 400.0])
    tol = max(8 * np.finfo(dtype).eps, 1e-12)
    got, want = digamma_gap(jnp.asarray(a, dtype)), np.log(a) - special.digamma(a)
    np.testing.assert_array_less(np.abs(got - want) / np.where(a < 20, 1 + np.abs(np.log(a)), 1), tol)
    got, want = log_gamma_gap(jnp.asarray(a, dtype)), a * np.log(a) - a - special.gammaln(a)
    np.testing.assert_array_less(np.abs(got - want) / np.where(a < 20, 1 + np.abs(a * np.log(a)), 1), tol)
    np.testing.assert_allclose(digamma_gap(jnp.asarray([1e3, 5e3], dtype)), [5.000833333e-04, 1.000033333e-04], rtol=1e-6)

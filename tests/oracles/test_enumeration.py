"""Mixtures by brute force: every one of the K^N assignments, in numpy."""

import itertools

import jax.numpy as jnp
import numpy as np
from scipy import stats

import jem

K, N = 3, 5
RNG = np.random.default_rng(0)
ASSIGNMENTS = np.array(list(itertools.product(range(K), repeat=N)))  # (K^N, N)
PI = np.array([0.2, 0.5, 0.3])


def enumerate_assignments(log_density):
    """Log-likelihood, posterior probability of every assignment, and of z_n = k, from log p(x_n | k) (N, K)."""
    joint = (np.log(PI)[ASSIGNMENTS] + log_density[np.arange(N), ASSIGNMENTS]).sum(1)
    log_likelihood = np.logaddexp.reduce(joint)
    p = np.exp(joint - log_likelihood)
    marginal = np.stack([[p[ASSIGNMENTS[:, n] == k].sum() for k in range(K)] for n in range(N)])
    return log_likelihood, p, marginal


def check(model, params, x, log_density, statistics):
    """Log-likelihood, responsibilities and counts; returns ours and the enumerated expectation of `statistics(x, z)`."""
    log_likelihood, p, marginal = enumerate_assignments(log_density)
    posterior, log_prob = jem.infer(model, params, x)
    np.testing.assert_allclose(float(log_prob.sum()), log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(posterior.responsibilities, marginal, atol=1e-12)
    stats_, got = jem.e_step(model, params, x)
    np.testing.assert_allclose(float(got), log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(stats_.weights, marginal.sum(0), atol=1e-12)
    want = sum(q * statistics(np.eye(K)[z]) for q, z in zip(p, ASSIGNMENTS, strict=True))
    return stats_.components, want


def test_poisson(x64):
    x, rate = RNG.poisson(4.0, (N, 2)), RNG.uniform(1, 8, (K, 2))
    params = jem.Mixture.Params(jnp.asarray(PI), jem.Poisson.Params(jnp.asarray(rate)))
    density = stats.poisson.logpmf(x[:, None, :], rate).sum(-1)
    got, want = check(jem.Mixture(jem.Poisson(), K), params, x, density, lambda hot: hot.T @ x)
    np.testing.assert_allclose(got.sums[0], want, rtol=1e-12)


def test_gaussian(x64):
    """Expected moments about the old mean, in old whitened coordinates, are those of the assignments."""
    x, mean = RNG.standard_normal((N, 2)), RNG.standard_normal((K, 2))
    root = RNG.standard_normal((K, 2, 4))
    covariance = root @ np.swapaxes(root, 1, 2)
    node = jem.Gaussian(prior=None)
    params = jem.Mixture.Params(jnp.asarray(PI), node.params(mean, covariance))
    density = np.stack([stats.multivariate_normal(m, c).logpdf(x) for m, c in zip(mean, covariance, strict=True)], 1)
    z = np.einsum("kij,nkj->nki", np.asarray(params.components.whitening), x[:, None] - mean)
    second = lambda hot: np.einsum("nk,nki,nkj->kij", hot, z, z)
    model = jem.Mixture(node, K)
    got, want = check(model, params, x, density, second)
    np.testing.assert_allclose(got.moments.second, want, atol=1e-11)
    # and one step from there is the weighted mean and covariance of the enumerated responsibilities
    new, _ = jem.em_step(model, params, x)
    r = enumerate_assignments(density)[2]
    means = (r.T @ x) / r.sum(0)[:, None]
    np.testing.assert_allclose(new.components.mean, means, rtol=1e-10)
    for k in range(K):
        d = x - means[k]
        np.testing.assert_allclose(new.components.covariance[k], (r[:, k, None] * d).T @ d / r[:, k].sum(), rtol=1e-7)


def test_mixture_of_mixtures_is_a_flat_mixture(x64):
    """Two levels are one with the products of the weights."""
    x = RNG.poisson(4.0, (N, 1))
    inner, outer = np.array([[0.3, 0.7], [0.6, 0.4]]), np.array([0.45, 0.55])
    rate = RNG.uniform(1, 8, (2, 2, 1))
    nested = jem.Mixture.Params(
        jnp.asarray(outer), jem.Mixture.Params(jnp.asarray(inner), jem.Poisson.Params(jnp.asarray(rate)))
    )
    flat = jem.Mixture.Params(
        jnp.asarray((outer[:, None] * inner).ravel()), jem.Poisson.Params(jnp.asarray(rate.reshape(4, 1)))
    )
    deep, shallow = jem.Mixture(jem.Mixture(jem.Poisson(), 2), 2), jem.Mixture(jem.Poisson(), 4)
    np.testing.assert_allclose(jem.log_prob(deep, nested, x), jem.log_prob(shallow, flat, x), rtol=1e-13)
    (new_deep, _), (new_flat, _) = jem.em_step(deep, nested, x), jem.em_step(shallow, flat, x)
    np.testing.assert_allclose(new_deep.components.components.rate.reshape(4, 1), new_flat.components.rate, rtol=1e-12)
    weights = new_deep.weights[:, None] * new_deep.components.weights
    np.testing.assert_allclose(weights.ravel(), new_flat.weights, rtol=1e-12)


def test_labels_are_impossible_assignments_left_out(x64):
    """Known components: the sum runs over the assignments that agree with them."""
    x, rate = RNG.poisson(4.0, (N, 1)), RNG.uniform(1, 8, (K, 1))
    labels = np.array([2, -1, 0, -1, -1])
    params = jem.Mixture.Params(jnp.asarray(PI), jem.Poisson.Params(jnp.asarray(rate)))
    density = stats.poisson.logpmf(x[:, None, :], rate).sum(-1)
    density[(labels[:, None] >= 0) & (labels[:, None] != np.arange(K))] = -np.inf
    data = jem.Labelled(jnp.asarray(x), jnp.asarray(labels))
    check(jem.Mixture(jem.Poisson(), K), params, data, density, lambda hot: hot.T @ x)

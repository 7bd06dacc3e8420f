"""From the same start: scikit-learn's parameters after any number of steps, and at convergence."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import jem

K = 3
KINDS = {
    "full": jem.Mixture(jem.Gaussian(prior=None), K),
    "diag": jem.Mixture(jem.Gaussian(jem.covariance.Diagonal(), None), K),
    "spherical": jem.Mixture(jem.Gaussian(jem.covariance.Spherical(), None), K),
    "tied": jem.Mixture(jem.Tied(jem.Gaussian(prior=None), K, "whitening")),
}


def data():
    """Three clusters in three dimensions, on different scales."""
    rng = np.random.default_rng(1)
    centres = np.array([[0, 0, 0], [6, 2, -4], [0, 8, 4]])
    x = rng.standard_normal((300, 3)) @ rng.standard_normal((3, 3)) + centres[rng.integers(0, 3, 300)]
    return x * [1.0, 10.0, 0.1] + [0.0, 100.0, 0.0]


def start(kind, x):
    """Weights, means and precisions as scikit-learn wants them, and the same start for jem."""
    rng = np.random.default_rng(2)
    weights, means = rng.dirichlet(np.full(K, 5.0)), x[rng.choice(len(x), K, replace=False)]
    variance = x.var(0)
    covariance = {
        "full": np.stack([np.diag(variance)] * K),
        "tied": np.diag(variance),
        "diag": np.stack([variance] * K),
        "spherical": np.full(K, variance.mean()),
    }[kind]
    precision = np.linalg.inv(covariance) if kind in ("full", "tied") else 1 / covariance
    leaf = KINDS[kind].components.child
    if kind == "tied":
        components = jem.Gaussian.Params(jnp.asarray(means), leaf.params(means[0], covariance).whitening)
    else:
        components = leaf.params(means, covariance)
    return (weights, means, precision), jem.Mixture.Params(jnp.asarray(weights), components)


def run_sklearn(kind, x, begin, steps):
    """The same number of EM steps by scikit-learn."""
    weights, means, precisions = begin
    peer = GaussianMixture(
        K, covariance_type=kind, tol=0, reg_covar=0, max_iter=steps, weights_init=weights, means_init=means,
        precisions_init=precisions, init_params="random", random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # tol=0 asks for it
        return peer.fit(x)


def dense(kind, peer):
    """scikit-learn's covariances as matrices."""
    c, dim = peer.covariances_, peer.means_.shape[1]
    if kind in ("full", "tied"):
        return c
    return np.stack([np.diag(v) if kind == "diag" else v * np.eye(dim) for v in c])


def assert_same(kind, params, peer, x):
    """Parameters to 1e-6, features in units of their largest value."""
    scale = np.abs(x).max(0)
    mean, covariance = np.asarray(params.components.mean), np.asarray(params.components.covariance)
    np.testing.assert_allclose(params.weights, peer.weights_, rtol=1e-6)
    np.testing.assert_allclose(mean / scale, peer.means_ / scale, atol=1e-6)
    np.testing.assert_allclose(
        covariance / np.outer(scale, scale), dense(kind, peer) / np.outer(scale, scale), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("kind", KINDS)
def test_same_parameters(x64, kind):
    x = data()
    begin, params = start(kind, x)
    steps = params
    for count in range(1, 8):
        steps, _ = jem.em_step(KINDS[kind], steps, x)
        if count in (1, 7):
            assert_same(kind, steps, run_sklearn(kind, x, begin, count), x)

    fit = jem.fit(KINDS[kind], params, x, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=400)
    assert (fit.status, fit.num_steps) == (jem.Status.MAX_STEPS, 400)
    peer = run_sklearn(kind, x, begin, 400)
    assert_same(kind, fit.params, peer, x)
    assert float(fit.log_likelihood) == pytest.approx(peer.score(x) * len(x), rel=1e-10)
    assert np.ptp(np.asarray(fit.trace)[-20:]) < 1e-9 * abs(float(fit.objective))  # both have converged

    fit = jem.fit(KINDS[kind], params, x, stop=jem.stop.RelativeGain(1e-14), max_steps=400).check()
    assert_same(kind, fit.params, peer, x)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_criteria_and_posteriors(x64, kind):
    x = data()
    begin, params = start(kind, x)
    peer, model = run_sklearn(kind, x, begin, 7), KINDS[kind]
    for _ in range(7):
        params, _ = jem.em_step(model, params, x)
    assert jem.num_parameters(model, params) == peer._n_parameters()
    np.testing.assert_allclose(float(jem.bic(model, params, x)), peer.bic(x), rtol=1e-9)
    np.testing.assert_allclose(float(jem.aic(model, params, x)), peer.aic(x), rtol=1e-9)
    posterior, log_prob = jem.infer(model, params, x)
    np.testing.assert_allclose(posterior.responsibilities, peer.predict_proba(x), atol=1e-7)
    np.testing.assert_allclose(log_prob, peer.score_samples(x), rtol=1e-7)

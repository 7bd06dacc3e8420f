"""Factor analysis beside scikit-learn, R's factanal and the closed form of probabilistic PCA."""

import json

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as Peer

import jem
from jem.kernels.factor import promax, varimax
from jem.latents.linear.factor import FactorAnalysis, rows_with_moments

LONG = {"stop": jem.stop.RelativeGain(1e-13), "max_steps": 20_000}


def closed_form(covariance, factors):
    """Maximum likelihood of probabilistic PCA: `L = U (lambda - sigma^2)^(1/2)`; Tipping and Bishop (1999), eq. 7 and 8."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[factors:].mean()
    return vectors[:, :factors] * np.sqrt(values[:factors] - noise), noise


def rows(num=500, dim=10, factors=3):
    """Rows from a factor analysis with noise of many sizes."""
    rng = np.random.default_rng(0)
    loadings = rng.standard_normal((dim, factors)) * np.array([2.0, 1.0, 0.7])
    noise = rng.uniform(0.3, 1.5, dim)
    return rng.standard_normal((num, factors)) @ loadings.T + noise * rng.standard_normal((num, dim)) + 3


def test_optimum_is_scikit_learns(x64):
    x = rows()
    peer = Peer(3, tol=1e-10, max_iter=10_000, svd_method="lapack").fit(x)
    fit = jem.fit_restarts(FactorAnalysis(3, prior=None), jax.random.key(0), x, num_restarts=3, **LONG)
    assert fit.converged.all() and fit.num_optima() == 1
    best = fit.best()
    np.testing.assert_allclose(float(best.log_likelihood), peer.score(x) * len(x), rtol=1e-9)
    np.testing.assert_allclose(best.params.noise, peer.noise_variance_, rtol=1e-3)
    np.testing.assert_allclose(best.params.covariance, peer.get_covariance(), atol=1e-3)
    at_peer = FactorAnalysis(3).params(peer.mean_, peer.components_.T, peer.noise_variance_)
    posterior, log_prob = jem.infer(FactorAnalysis(3), at_peer, x)
    np.testing.assert_allclose(posterior.mean, peer.transform(x), atol=1e-10)
    np.testing.assert_allclose(log_prob, peer.score_samples(x), rtol=1e-10)


@pytest.mark.parametrize("factors", [1, 3, 9])
def test_probabilistic_pca_is_the_closed_form(x64, factors):
    x = rows()
    loadings, noise = closed_form(np.cov(x.T, ddof=0), factors)
    fit = jem.fit_restarts(
        FactorAnalysis(factors, jem.covariance.Spherical(), None), jax.random.key(0), x, num_restarts=2, **LONG
    ).best()
    np.testing.assert_allclose(fit.params.noise, np.full(10, noise), rtol=1e-4)
    np.testing.assert_allclose(fit.params.loadings @ fit.params.loadings.T, loadings @ loadings.T, atol=1e-3)
    exact = FactorAnalysis(factors, jem.covariance.Spherical()).params(x.mean(0), loadings, noise)
    at_exact = jem.log_prob(FactorAnalysis(factors, jem.covariance.Spherical()), exact, x).sum()
    np.testing.assert_allclose(float(fit.log_likelihood), float(at_exact), rtol=1e-9)
    # scikit-learn divides by N - 1: its density at its own parameters.
    peer = PCA(factors).fit(x)
    scaled, noise = closed_form(np.cov(x.T), factors)
    theirs = FactorAnalysis(factors, jem.covariance.Spherical()).params(x.mean(0), scaled, noise)
    log_prob = jem.log_prob(FactorAnalysis(factors, jem.covariance.Spherical()), theirs, x)
    np.testing.assert_allclose(log_prob, peer.score_samples(x), rtol=1e-8)
    # The closed form is a fixed point.
    again = jem.em_step(FactorAnalysis(factors, jem.covariance.Spherical(), None), exact, x)[0]
    np.testing.assert_allclose(again.loadings, exact.loadings, atol=1e-10)


@pytest.mark.parametrize("prior", [None, jem.priors.InverseWishart(1e-5)])
def test_fa_ability(x64, cases, prior):
    case = json.loads((cases / "fa_ability.json").read_text())
    covariance, num = np.array(case["data"]["cov"]), case["data"]["n"]
    deviation = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(deviation, deviation)
    x, weights = rows_with_moments(np.zeros(6), correlation, num)
    for factors in (1, 2):
        want = {k[3:]: v for k, v in case["expected"].items() if k.startswith(f"k{factors}_")}
        model = FactorAnalysis(factors, prior=prior)
        fit = jem.fit_restarts(model, jax.random.key(0), x, weights=weights, num_restarts=2).best()  # as it comes
        assert fit.converged
        p = fit.params
        objective = -2 / num * float(fit.log_likelihood) - 6 * np.log(2 * np.pi) - np.linalg.slogdet(correlation)[1] - 6
        implied = np.asarray(p.covariance)
        bartlett = (num - 1 - (2 * 6 + 5) / 6 - 2 * factors / 3) * objective
        got = {
            "uniquenesses": 1 - p.communalities,
            "loglik": float(fit.log_likelihood),
            "objective": objective,
            "implied_correlation_offdiag_sum": implied.sum() - np.trace(implied),
            "bartlett_chisq": bartlett,
        }
        assert set(got) == set(want)
        for name, value in got.items():
            np.testing.assert_allclose(value, want[name]["value"], atol=want[name]["atol"], err_msg=name)
    check_published_rotations(p.loadings)


def check_published_rotations(loadings):
    """What R prints for example(ability.cov), factors=2, with varimax and promax; it leaves out what is below 0.1."""
    small = np.nan
    for rotate, published in (
        (varimax, [[0.499, 0.543], [0.156, 0.622], [0.206, 0.860], [0.109, 0.468], [0.956, 0.182], [0.785, 0.225]]),
        (promax, [[0.364, 0.470], [small, 0.671], [small, 0.932], [small, 0.508], [1.023, small], [0.811, small]]),
    ):
        got = np.asarray(rotate(loadings).loadings)
        got = got * np.sign(got.sum(0))
        got = got[:, np.argsort(-got[4])]
        shown = np.isfinite(published)
        # R stops rotating at a relative gain of 1e-5.
        np.testing.assert_allclose(got[shown], np.array(published)[shown], atol=0.004)
        assert (np.abs(got[~shown]) < 0.1).all()


def test_ppca_iris(x64, cases):
    case = json.loads((cases / "ppca_iris.json").read_text())
    x = np.array(case["data"]["X"])
    for factors in case["init"]["q"]:
        want = {k[3:]: v for k, v in case["expected"].items() if k.startswith(f"q{factors}_")}
        model = FactorAnalysis(factors, jem.covariance.Spherical())
        fit = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=2).best()  # as it comes
        assert fit.converged
        values = np.linalg.eigvalsh(fit.params.loadings.T @ fit.params.loadings)[::-1]
        got = {"sigma2": fit.params.noise[0], "loglik": fit.log_likelihood, "WtW_eigenvalues": values}
        assert set(got) == set(want)
        for name, value in got.items():
            np.testing.assert_allclose(value, want[name]["value"], atol=want[name]["atol"], err_msg=name)


def test_rows_with_moments(x64):
    x = rows(50, 4)
    mean, covariance = x.mean(0), np.cov(x.T, ddof=0)
    stand_in, weights = rows_with_moments(mean, covariance, 50)
    assert stand_in.shape == (5, 4)
    for model in (FactorAnalysis(1), jem.Gaussian(prior=None)):
        p = jem.init(model, jax.random.key(0), x)
        want = jem.e_step(model, p, x)
        got = jem.e_step(model, p, stand_in, weights)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="positive definite"):
        rows_with_moments(mean, -covariance, 50)

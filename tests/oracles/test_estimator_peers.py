"""Estimators beside scikit-learn's and hmmlearn's: the same answers from the same start, and from the same parameters."""

import warnings

import numpy as np
import pytest
import sklearn.decomposition
import sklearn.mixture
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import PoissonRegressor

import jem
from jem.sklearn import CategoricalHMM, FactorAnalysis, GaussianHMM, GaussianMixture, MixtureOfRegressions, PoissonHMM

K = 3


def data(name):
    """Rows of four columns."""
    x = getattr(datasets, f"load_{name}")().data
    return x if name == "iris" else PCA(4, whiten=True, random_state=0).fit_transform(x)


def begin(kind, x):
    """Weights, means and precisions for both to begin at."""
    means = x[[len(x) // 6, len(x) // 2, 5 * len(x) // 6]]
    precisions = {
        "full": np.stack([np.diag(1 / x.var(0))] * K),
        "tied": np.diag(1 / x.var(0)),
        "diag": np.stack([1 / x.var(0)] * K),
        "spherical": np.full(K, 1 / x.var(0).mean()),
    }[kind]
    return {"weights_init": np.full(K, 1 / K), "means_init": means, "precisions_init": precisions}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("iris", "full"), ("iris", "tied"), ("iris", "diag"), ("iris", "spherical"), ("wine", "full"), ("digits", "full")],
)
def test_same_mixture(name, kind):
    """Labels, log-likelihood, criteria and every attribute, from a start that leads both to one maximum."""
    x = data(name)
    settings = {"covariance_type": kind, "reg_covar": 0.0, **begin(kind, x)}
    ours = GaussianMixture(K, tol=1e-6, **settings).fit(x)
    peer = sklearn.mixture.GaussianMixture(K, tol=1e-12, max_iter=5000, init_params="random", **settings).fit(x)
    np.testing.assert_allclose(ours.score(x), peer.score(x), rtol=1e-6)
    assert (ours.predict(x) == peer.predict(x)).all()
    np.testing.assert_allclose([ours.bic(x), ours.aic(x)], [peer.bic(x), peer.aic(x)], rtol=1e-6)
    for attribute in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        got, want = getattr(ours, attribute), getattr(peer, attribute)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-3 * np.abs(want).max())
    drawn, labels = ours.sample(30)
    assert (drawn.shape, labels.shape) == ((30, 4), (30,))


def test_parameters_of_scikit_learn_are_taken():
    """A peer's parameters, set by hand, give its densities."""
    x = data("iris")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer = sklearn.mixture.GaussianMixture(K, random_state=0, max_iter=3).fit(x)
        ours = GaussianMixture(K, max_iter=0, random_state=0).fit(x)
    ours.weights_, ours.means_, ours.precisions_cholesky_ = peer.weights_, peer.means_, peer.precisions_cholesky_
    np.testing.assert_allclose(ours.score_samples(x), peer.score_samples(x), rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(x), peer.predict_proba(x), atol=1e-9)


def test_same_factors():
    """scikit-learn's log-likelihood, covariance and projections, these up to the factors' sign and turn."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((178, 2)) @ rng.standard_normal((2, 6))
    x += np.sqrt([0.5, 1.0, 1.5, 0.7, 0.9, 1.1]) * rng.standard_normal(x.shape)
    ours = FactorAnalysis(2, tol=1e-7).fit(x)
    peer = sklearn.decomposition.FactorAnalysis(2, tol=1e-12, max_iter=20000, svd_method="lapack").fit(x)
    np.testing.assert_allclose(ours.score(x), peer.score(x), rtol=1e-7)
    np.testing.assert_allclose(ours.get_covariance(), peer.get_covariance(), atol=1e-3)
    np.testing.assert_allclose(ours.get_precision(), np.linalg.inv(ours.get_covariance()), atol=1e-9)
    gram = lambda factors: factors @ factors.T
    np.testing.assert_allclose(gram(ours.transform(x)), gram(peer.transform(x)), atol=1e-2)
    turned = FactorAnalysis(2, tol=1e-7, rotation="varimax").fit(x)
    squares = lambda loadings: np.var(loadings**2, axis=1).sum()
    assert squares(turned.components_) > squares(ours.components_)
    np.testing.assert_allclose(turned.get_covariance(), ours.get_covariance(), rtol=1e-9)


def test_same_regression():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (250, 1))
    y = rng.poisson(np.exp(1 + x[:, 0]))
    ours = MixtureOfRegressions(family=jem.Poisson(), tol=1e-8).fit(x, y)
    peer = PoissonRegressor(alpha=0, tol=1e-10).fit(x, y)
    np.testing.assert_allclose(ours.predict(x), peer.predict(x), rtol=1e-4)


def chains(kind):
    """hmmlearn's and ours with the same parameters: those of the examples in its documentation."""
    hmm = pytest.importorskip("hmmlearn.hmm")
    transmat = np.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.3, 0.3, 0.4]])
    means, covars = np.array([[0.0, 0.0], [3.0, -3.0], [5.0, 10.0]]), np.tile(np.identity(2), (3, 1, 1))
    pair = {
        "gaussian": (hmm.GaussianHMM(3, "full"), GaussianHMM(3, "full")),
        "categorical": (hmm.CategoricalHMM(3), CategoricalHMM(3)),
        "poisson": (hmm.PoissonHMM(3), PoissonHMM(3)),
    }[kind]
    for chain in pair:
        chain.startprob_, chain.transmat_ = np.array([0.6, 0.3, 0.1]), transmat
        if kind == "gaussian":
            chain.means_, chain.covars_ = means, covars
        elif kind == "poisson":
            chain.lambdas_ = np.array([[1.0, 8.0], [4.0, 4.0], [9.0, 1.0]])
        else:
            chain.emissionprob_ = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    return pair


@pytest.mark.parametrize("kind", ["gaussian", "categorical", "poisson"])
def test_same_chain(kind):
    """Log-likelihood, states by both ways, and posteriors, of several sequences."""
    peer, ours = chains(kind)
    x, lengths = peer.sample(60, random_state=0)[0], [25, 5, 30]
    np.testing.assert_allclose(ours.score(x, lengths), peer.score(x, lengths), rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(x, lengths), peer.predict_proba(x, lengths), atol=1e-9)
    for algorithm in ("viterbi", "map"):
        got, want = (chain.decode(x, lengths, algorithm) for chain in (ours, peer))
        np.testing.assert_allclose(got[0], want[0], rtol=1e-9)
        assert (got[1] == want[1]).all()


def test_same_climb_of_a_chain():
    """From the same start to the same maximum, under the same prior on the covariances."""
    peer, ours = chains("gaussian")
    x = peer.sample(200, random_state=0)[0]
    begin = {name: getattr(peer, name) for name in ("startprob_", "transmat_", "means_")}
    peer.set_params(covariance_type="diag", init_params="", n_iter=3000, tol=1e-10)
    ours.set_params(covariance_type="diag", init_params="", tol=1e-7)
    for chain in (peer, ours):
        for name, value in begin.items():
            setattr(chain, name, value)
        chain.covars_ = np.ones((3, 2))
        chain.fit(x)
    np.testing.assert_allclose(ours.score(x), peer.score(x), rtol=1e-6)
    np.testing.assert_allclose(ours.means_, peer.means_, atol=1e-3)
    np.testing.assert_allclose(ours.covars_, peer.covars_, rtol=1e-3)
    assert ours.monitor_.converged and ours.bic(x) == pytest.approx(peer.bic(x), rel=1e-6)

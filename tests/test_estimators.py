"""Estimators: scikit-learn's own checks, precision, padding, weights, gaps, what is kept, what is said of an unfinished fit."""

import pickle
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import monitoring
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiers import ALL

import jem
from jem.estimators.base import padded_size
from jem.estimators.covariances import scatter_prior
from jem.sklearn import (
    CategoricalHMM,
    Estimator,
    FactorAnalysis,
    GaussianHMM,
    GaussianMixture,
    LatentClassAnalysis,
    MixtureOfRegressions,
    PoissonHMM,
    StudentTMixture,
)

NODE = jem.Mixture(jem.Gaussian(prior=scatter_prior(1e-6)), 1)  # that of `GaussianMixture()`: it compiles once
EVERY = [StudentTMixture(), LatentClassAnalysis(), FactorAnalysis(1), MixtureOfRegressions(ridge=1.0)]
REFUSED = "its data are fractions, which are no categories and are refused; scikit-learn's CategoricalNB cuts them off"
HMMS = [GaussianHMM(2), CategoricalHMM(2), PoissonHMM(2)]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [GaussianMixture(), Estimator(NODE, max_iter=100), *(EVERY if ALL else [])],
    expected_failed_checks=lambda estimator: (
        {"check_sample_weight_equivalence_on_dense_data": REFUSED} if isinstance(estimator, LatentClassAnalysis) else {}
    ),
)
def test_conventions(estimator, check):
    check(estimator)


def clusters(dtype=np.float64):
    """Two clusters in two dimensions, (60, 2)."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((60, 2)) + np.repeat([[0.0, 0.0], [6.0, 6.0]], 30, axis=0)).astype(dtype)


@pytest.mark.parametrize("estimator", [GaussianMixture(2), *EVERY, *HMMS], ids=lambda e: type(e).__name__)
def test_settings_are_kept_as_they_are(estimator):
    """Copies, pickles and settings are scikit-learn's, and nothing is fitted by making one."""
    copy = clone(estimator).set_params(tol=0.5)
    assert copy.get_params() == estimator.get_params() | {"tol": 0.5}
    assert pickle.loads(pickle.dumps(copy)).get_params() == copy.get_params()
    with pytest.raises(NotFittedError):
        estimator.predict(clusters()) if hasattr(estimator, "predict") else estimator.transform(clusters())
    with pytest.raises(ValueError, match="'tol' parameter of"):
        clone(estimator).set_params(tol=-1.0).fit(clusters(), clusters()[:, 0]) if isinstance(
            estimator, MixtureOfRegressions
        ) else clone(estimator).set_params(tol=-1.0).fit(clusters())


def test_results_have_the_precision_of_the_data():
    """Whatever `jax_enable_x64` is, and it stays what it is."""
    for wide in (False, True):
        with jax.enable_x64(wide):
            for dtype in (np.float32, np.float64):
                fitted = GaussianMixture(2, random_state=0).fit(clusters(dtype))
                results = fitted.means_, fitted.precisions_, fitted.score_samples(clusters(dtype))
                assert [result.dtype for result in results] == [dtype] * 3
                assert fitted.predict_proba(clusters(np.float64)).dtype == dtype
            assert jax.config.jax_enable_x64 == wide
    assert GaussianMixture(2, random_state=0).fit(clusters().round().astype(int)).means_.dtype == np.float64


def test_padding_is_exact():
    """One component has a closed form, whatever rows of weight 0 stand behind the data."""
    x = clusters()
    fitted = GaussianMixture(reg_covar=0.6).fit(x)
    np.testing.assert_allclose(fitted.means_[0], x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(fitted.covariances_[0], np.cov(x.T, bias=True) + 0.01 * np.eye(2), rtol=1e-5)
    assert len(fitted.score_samples(x)) == 60
    assert [padded_size(n) for n in (1, 32, 33, 1000, 1025, 1281, 10**6)] == [32, 32, 64, 1024, 1280, 1536, 2**20]


def test_fits_of_nearly_as_many_rows_share_a_program():
    x, compiled = clusters(), []
    mixture = GaussianMixture(2, random_state=0).fit(x)
    mixture.predict_proba(x)
    monitoring.register_event_duration_secs_listener(
        lambda event, _, **more: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    clone(mixture).set_params(tol=1e-2, reg_covar=1e-4).fit(x[5:]).predict_proba(x[:40])
    assert compiled == []
    clone(mixture).set_params(n_components=3).fit(x)  # the listener listens
    assert compiled


def test_search_in_a_pipeline():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), GaussianMixture(random_state=0)), {"gaussianmixture__n_components": [1, 2]}, cv=3
    )
    x = np.random.default_rng(1).permutation(clusters())
    search.fit(x)
    assert search.best_params_ == {"gaussianmixture__n_components": 2}
    assert len(set(search.predict(clusters())[:30])) == 1


def test_what_is_kept_depends_on_no_device():
    fitted = GaussianMixture(2, n_init=3, random_state=0).fit(clusters())
    kept = [*jax.tree.leaves((fitted.fit_, fitted.fits_)), fitted.means_, fitted.covariances_, fitted.precisions_cholesky_]
    assert {type(leaf) for leaf in kept} == {np.ndarray}
    assert fitted.fits_.status.shape == (3,) and fitted.fit_.objective == fitted.fits_.objective.max()
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(clusters()), fitted.predict_proba(clusters()))
    with jax.enable_x64(True):  # what was fitted goes on in jem
        bic = jem.bic(fitted.model_, fitted.fit_.params, clusters())
    np.testing.assert_allclose(fitted.bic(clusters()), bic, rtol=1e-9)


def test_an_unfinished_climb_is_said_and_goes_on():
    x = clusters()
    rough = GaussianMixture(2, max_iter=2, warm_start=True, random_state=0, init_params="random")
    with pytest.warns(ConvergenceWarning, match="MAX_STEPS: max_steps was reached"):
        rough.fit(x)
    assert not rough.converged_ and rough.n_iter_ == 2
    scores = [rough.score(x)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(20):
            scores.append(rough.fit(x).score(x))
    assert rough.converged_ and np.all(np.diff(scores) > -1e-9) and scores[-1] > scores[0]
    whole = GaussianMixture(2, random_state=0).fit(x)
    assert whole.converged_ and np.all(np.diff(whole.lower_bounds_) > -1e-9) and whole.lower_bound_ == whole.lower_bounds_[-1]
    np.testing.assert_allclose(scores[-1], whole.score(x), atol=1e-4)


def test_a_component_that_collapses():
    """The pseudo-scatter keeps it; where nothing does, the warning says so."""
    x = np.concatenate([clusters(), np.full((4, 2), 30.0)])
    kept = GaussianMixture(3, random_state=0, n_init=4).fit(x)
    np.testing.assert_allclose(np.linalg.det(kept.covariances_).min(), (1e-6 / 4) ** 2, rtol=1e-3)
    with pytest.warns(ConvergenceWarning, match="DEGENERATE: more than half of the variance"):
        GaussianMixture(reg_covar=0.0).fit(np.where([True, False], clusters(), 1.0))


def test_given_starts():
    x, means = clusters(), [[1.0, 0.0], [5.0, 6.0]]
    fitted = GaussianMixture(2, means_init=means, n_init=2, max_iter=0, random_state=0).fit(x)
    np.testing.assert_array_equal(fitted.fits_.params.components.mean, [means, means])
    for wrong in ({"means_init": [[0.0, 1.0]]}, {"weights_init": [0.5, 0.6]}, {"precisions_init": np.ones(2)}):
        with pytest.raises(ValueError, match=f"The parameter '{next(iter(wrong)).removesuffix('_init')}'"):
            GaussianMixture(2, **wrong).fit(x)
    evenly = GaussianMixture(2, init_params="random_from_data", max_iter=0, random_state=0).fit(x)
    np.testing.assert_allclose(evenly.weights_ @ evenly.means_, x.mean(0), atol=0.2)


def test_an_outlier_counts_less():
    x = np.concatenate([clusters()[:30], [[500.0, -500.0]]])
    fitted = StudentTMixture(df=3.0).fit(x)
    assert fitted.dfs_.tolist() == [3.0]
    np.testing.assert_allclose(fitted.means_, [x[:30].mean(0)], atol=0.2)
    drawn, labels = fitted.sample(50)
    assert drawn.shape == (50, 2) and set(labels) == {0}


def test_missing_cells():
    """Of Gaussians, Student-t and factors: the likelihood of what was seen, as jem says."""
    x = np.concatenate([clusters()[:40], clusters()[:40] ** 2], 1)
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    leaf = jem.Missing(jem.Gaussian())
    for model, node in (
        (GaussianMixture(2, random_state=0, reg_covar=0), jem.Mixture(leaf, 2)),
        (StudentTMixture(2, random_state=0), jem.Mixture(jem.Missing(jem.StudentT()), 2)),
        (FactorAnalysis(1, random_state=0), jem.Missing(jem.FactorAnalysis(1))),
    ):
        fitted = model.fit(x)
        with jax.enable_x64(True):
            want = np.asarray(jem.log_prob(node, fitted.fit_.params, x))
        np.testing.assert_allclose(fitted.score_samples(x), want, rtol=1e-9)
        assert fitted.score_samples(x[:3, :]).shape == (3,)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (2, 3, 4)])
def test_latent_classes(sizes):
    """Answers that are missing at random leave the classes where they are; binary items are a Bernoulli's."""
    rng = np.random.default_rng(3)
    classes = rng.integers(0, 2, 400)
    sharp = lambda m: np.where(rng.random(400) < 0.9, classes * (m - 1), rng.integers(0, m, 400))
    x = np.stack([sharp(m) for m in sizes], 1).astype(float)
    x[rng.random(x.shape) < 0.1] = np.nan
    fitted = LatentClassAnalysis(2, random_state=0, n_init=4).fit(x)
    assert [p.shape for p in fitted.category_probs_] == [(2, m) for m in sizes]
    np.testing.assert_allclose([p.sum(1) for p in fitted.category_probs_], 1.0)
    same = (fitted.predict(x) == classes).mean()
    assert max(same, 1 - same) > 0.93
    drawn, labels = fitted.sample(20)
    assert drawn.shape == (20, 3) and labels.shape == (20,) and (drawn < sizes).all()
    with pytest.raises(ValueError, match="Item 1 must be one of 0 .. "):
        fitted.predict([[0, 7, 0]])


def test_answers_have_weights():
    x, weights = np.array([[0, 1], [1, 1], [1, 0], [0, 0]]), [3, 1, 0, 1]
    fitted = LatentClassAnalysis().fit(x, sample_weight=weights)
    np.testing.assert_allclose(fitted.category_probs_, [[[0.8, 0.2]], [[0.2, 0.8]]])


def test_regressions():
    """Two Poisson regressions are told apart; predictions are the mixture's mean, per output."""
    rng = np.random.default_rng(4)
    x, second = rng.uniform(-1, 1, (250, 1)), rng.random(250) < 0.4
    y = rng.poisson(np.exp(np.where(second, 3 - x[:, 0], 1 + x[:, 0])))
    fitted = MixtureOfRegressions(2, family=jem.Poisson(), random_state=0, n_init=4).fit(x, y)
    order = fitted.intercept_.argsort()
    np.testing.assert_allclose(fitted.intercept_[order], [1, 3], atol=0.2)
    np.testing.assert_allclose(fitted.coef_[order, 0], [1, -1], atol=0.25)
    each = np.exp(x @ fitted.coef_.T + fitted.intercept_)
    np.testing.assert_allclose(fitted.predict(x), each @ fitted.weights_)
    assert ((fitted.responsibilities(x, y).argmax(1) == order[1]) == second).mean() > 0.85
    assert fitted.log_density(x, y).shape == (250,)
    with pytest.raises(ValueError, match="Poisson: x must hold integers"):
        fitted.fit(x, y - 0.5)


def test_regression_of_one_component_is_least_squares():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((60, 2))
    y = x @ [[1.0, -1.0], [0.5, 2.0]] + [3.0, 4.0] + 0.1 * rng.standard_normal((60, 2))
    fitted = MixtureOfRegressions().fit(x, y)
    want = np.linalg.lstsq(np.column_stack([x, np.ones(60)]), y, rcond=None)[0]
    np.testing.assert_allclose(fitted.coef_[0], want[:2].T, rtol=1e-8)
    np.testing.assert_allclose(fitted.predict(x), np.column_stack([x, np.ones(60)]) @ want, rtol=1e-8)
    assert fitted.score(x, y) > 0.98


def test_chain_by_hand():
    """Parameters that are set are used as they stand; several sequences are those one by one."""
    chain = PoissonHMM(2)
    chain.startprob_, chain.transmat_, chain.lambdas_ = [0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]], [[1.0], [9.0]]
    x = np.array([0, 1, 2, 9, 8, 1, 10, 9, 2])[:, None]
    np.testing.assert_allclose(chain.score(x, [5, 4]), chain.score(x[:5]) + chain.score(x[5:]))
    parts = [chain.decode(part) for part in (x[:5], x[5:])]
    log_prob, states = chain.decode(x, [5, 4])
    np.testing.assert_allclose(log_prob, parts[0][0] + parts[1][0])
    assert states.tolist() == [*parts[0][1], *parts[1][1]] == [0, 0, 0, 1, 1, 0, 1, 1, 0]
    assert chain.predict_proba(x, [5, 4]).argmax(1).tolist() == states.tolist()
    for lengths in ([4, 4], [9.0], [0, 9], []):
        with pytest.raises(ValueError, match="lengths must"):
            chain.score(x, lengths)
    with pytest.raises(ValueError, match="Unknown decoder"):
        chain.decode(x, algorithm="best")
    drawn, states = chain.sample(7, random_state=0, currstate=1)
    assert drawn.shape == (7, 1) and states.shape == (7,) and states[0] == 1


def test_chain_holds_what_it_is_told_and_takes_gaps():
    rng = np.random.default_rng(6)
    states = np.repeat([0, 1, 0, 1], 25)
    x = rng.poisson(np.array([[2.0, 5.0], [12.0, 1.0]])[states]).astype(float)
    x[rng.random(x.shape) < 0.1] = np.nan
    free = PoissonHMM(2, random_state=0).fit(x, [60, 40])
    assert free.monitor_.converged and free.monitor_.iter == free.n_iter_ == len(free.monitor_.history) - 1
    order = free.lambdas_[:, 0].argsort()
    np.testing.assert_allclose(free.lambdas_[order], [[2, 5], [12, 1]], rtol=0.25)
    assert (free.predict(x) == order[states]).mean() > 0.97
    held = PoissonHMM(2, params="t", init_params="t", random_state=0)
    held.startprob_, held.lambdas_ = np.array([0.5, 0.5]), np.array([[2.0, 5.0], [12.0, 1.0]])
    held.fit(x, [60, 40])
    assert held.startprob_.tolist() == [0.5, 0.5] and held.lambdas_.tolist() == [[2.0, 5.0], [12.0, 1.0]]
    assert np.all(np.diag(held.transmat_) > 0.85)


def test_sequences_have_weights():
    x = np.random.default_rng(7).poisson(np.repeat([2, 9], 20))[:, None]
    weighted = PoissonHMM(1).fit(x, [20, 20], sample_weight=[1, 2])
    np.testing.assert_allclose(weighted.lambdas_, [[(x[:20].sum() + 2 * x[20:].sum()) / 60]])


def test_any_node_has_an_estimator():
    x = np.column_stack([clusters()[:, 0], np.repeat([0, 2], 30)])
    node = jem.Mixture(jem.Product(size=jem.Gaussian(), kind=jem.Categorical(3)), 2)
    fitted = Estimator(node, columns={"size": [0], "kind": 1}, random_state=0).fit(x)
    assert len(set(fitted.predict(x)[:30])) == 1 and fitted.predict_proba(x).shape == (60, 2)
    assert fitted.sample(5)["kind"].shape == (5,)
    assert not hasattr(Estimator(jem.Gaussian()), "predict_proba")
    assert clone(fitted).node == node


def test_the_page_runs():
    page = (Path(__file__).resolve().parent.parent / "docs/sklearn.md").read_text()
    exec(page.split("```python\n")[1].split("```")[0], {})


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "jem.sklearn")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jem\[sklearn\]'"):
        __import__("jem.sklearn")

"""The reference cases that mixtures answer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import ALL

import jem

MOST = 9
KINDS = ("VVV", "EEE", "VVI", "VII")
OF_PARTS = ("VEI", "VEE", "EVE", "VVE", "VEV", *(("EII", "EEI", "EVI", "EEV", "EVV") if ALL else ()))


def mixture(kind, size):
    """Without a prior."""
    return jem.Mixture(jem.covariance.mclust(kind, size, jem.Gaussian(prior=None)))


def load(cases, name):
    return json.loads((cases / f"{name}.json").read_text())


def values(expected, name):
    return np.array(expected[name]["value"])


@jax.jit
def m_step_first(model, x, responsibilities):
    """The M-step from given responsibilities (K, N); the origin of the first statistics is the data's own moments."""
    spread = jnp.ones_like(responsibilities)  # over all rows, so that every component starts at their moments
    components = model.components.init(jax.random.key(0), x.T, spread)
    stats = model.components.expect(components, (), x.T, responsibilities)
    counts = jnp.sum(responsibilities, 1)
    return jem.Mixture.Params(counts / jnp.sum(counts), model.components.maximize(components, stats))


def fit_from_labels(kind, size, x, labels):
    """EM to the end from hard labels 0 .. K - 1."""
    # One program for every K: the components above K are empty, and left out.
    start = m_step_first(mixture(kind, MOST), x, jnp.asarray(np.eye(MOST)[labels].T))
    first = lambda leaf: leaf[:size]
    shapes = jax.eval_shape(mixture(kind, 2).init, jax.random.key(0), x.T, jnp.ones(len(x)))
    most = jax.eval_shape(mixture(kind, 3).init, jax.random.key(0), x.T, jnp.ones(len(x)))
    start = jax.tree.map(lambda leaf, a, b: leaf if a.shape == b.shape else first(leaf), start, shapes, most)
    return jem.fit(mixture(kind, size), start, x, stop=jem.stop.RelativeGain(1e-13), max_steps=20_000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "most"), [("gmm_faithful", 5), ("gmm_iris", MOST)])
def test_gaussian_mixtures(x64, cases, name, most, kind):
    case = load(cases, name)
    x = jnp.asarray(case["data"]["X"])
    rows = [r for r in case["expected"]["fits"]["value"] if r["model"] == kind]
    assert [r["K"] for r in rows] == list(range(1, most + 1))
    for row in rows if ALL else [rows[0], rows[1], rows[-1]]:
        labels = case["init"]["labels"].get(str(row["K"]), [1] * len(x))
        fit = fit_from_labels(kind, row["K"], x, np.array(labels) - 1).check()
        log_likelihood, count = float(fit.log_likelihood), jem.num_parameters(mixture(kind, row["K"]), fit.params)
        assert log_likelihood == pytest.approx(row["loglik"], abs=case["expected"]["fits"]["atol"]), row
        assert count == row["df"], row
        assert 2 * log_likelihood - count * np.log(len(x)) == pytest.approx(row["bic"], abs=3e-4), row
        want = case["expected"]["parameters"]["value"].get(f"{kind},{row['K']}")
        if want is not None:
            check_parameters(fit.params, want, case["expected"]["parameters"]["rtol"])


@pytest.mark.parametrize("size", range(1, MOST + 1) if ALL else [2])
@pytest.mark.parametrize("kind", OF_PARTS)
@pytest.mark.parametrize("name", ["gmm_faithful", "gmm_iris"] if ALL else ["gmm_iris"])
def test_gaussian_mixtures_of_parts(x64, cases, name, kind, size):
    """As users fit them: from the labels, with the defaults. Of VVE the case knows what a good fit has at least."""
    case = load(cases, name)
    expected = case["expected"]
    rows = [r for r in expected["fits"]["value"] + expected["vve"]["value"] if (r["model"], r["K"]) == (kind, size)]
    if not rows:
        pytest.skip(f"{name} has no maximum of {kind} with {size} components")
    (row,), x = rows, jnp.asarray(case["data"]["X"])
    labels = np.array(case["init"]["labels"].get(str(size), [1] * len(x))) - 1
    start = m_step_first(mixture(kind, size), x, jnp.asarray(np.eye(size)[labels].T))
    fit = jem.fit(mixture(kind, size), start, x).check()
    assert jem.num_parameters(mixture(kind, size), fit.params) == row["df"]
    if kind == "VVE":
        assert float(fit.log_likelihood) > row["loglik_at_least"] - 1e-3
    else:
        assert float(fit.log_likelihood) == pytest.approx(row["loglik"], abs=1e-3)  # the default stops within 1e-3 nats
    want = expected["parameters"]["value"].get(f"{kind},{size}")
    if want is not None:
        check_parameters(fit.params, want, expected["parameters"]["rtol"])


def check_parameters(params, want, rtol):
    """Parameters up to the order of the components."""
    size = len(want["weights"])
    mean = np.asarray(params.components.mean)
    order = [int(np.argmin(((mean - m) ** 2).sum(1))) for m in want["means"]]
    assert sorted(order) == list(range(size))
    covariance = np.broadcast_to(params.components.covariance, (size, mean.shape[1], mean.shape[1]))
    np.testing.assert_allclose(np.asarray(params.weights)[order], want["weights"], rtol=rtol)
    np.testing.assert_allclose(mean[order], want["means"], rtol=rtol)
    np.testing.assert_allclose(covariance[order], want["covariances"], rtol=rtol)


def test_bic_is_mclusts_with_the_sign_turned(x64, cases):
    case = load(cases, "gmm_faithful")
    x = jnp.asarray(case["data"]["X"])
    row = next(r for r in case["expected"]["fits"]["value"] if (r["model"], r["K"]) == ("VVV", 2))
    model = mixture("VVV", 2)
    fit = fit_from_labels("VVV", 2, x, np.array(case["init"]["labels"]["2"]) - 1)
    assert float(jem.bic(model, fit.params, x)) == pytest.approx(-row["bic"], abs=3e-4)


def times(cases):
    """The London Times deaths: case, model, values 0 .. 9, frequencies, start."""
    case = load(cases, "poisson_mixture_times")
    p, first, second = case["init"]["p_lambda1_lambda2"]
    start = jem.Mixture.Params(jnp.array([p, 1 - p]), jem.Poisson.Params(jnp.array([[first], [second]])))
    freq = jnp.asarray(case["data"]["freq"], float)
    return case["expected"], jem.Mixture(jem.Poisson(), 2), jnp.arange(len(freq))[:, None], freq, start


def as_vector(params):
    """(p, lambda1, lambda2)."""
    return jnp.stack([params.weights[0], params.components.rate[0, 0], params.components.rate[1, 0]])


def test_poisson_mixture(x64, cases):
    expected, model, x, freq, start = times(cases)
    at_start = float(jem.e_step(model, start, x, freq)[1])
    assert at_start == pytest.approx(expected["loglik_at_start"]["value"], abs=1e-8)
    fit = jem.fit(model, start, x, weights=freq, stop=jem.stop.RelativeGain(0), max_steps=20_000).check()
    assert float(fit.log_likelihood) == pytest.approx(expected["loglik"]["value"], abs=expected["loglik"]["atol"])
    np.testing.assert_allclose(as_vector(fit.params), values(expected, "mle"), atol=expected["mle"]["atol"])


def test_poisson_mixture_iterates(x64, cases):
    """The published EM path: its first steps, and how many it takes to stand still."""
    expected, model, x, freq, start = times(cases)

    def step(params, _):
        new, _ = jem.em_step(model, params, x, freq)
        return new, as_vector(new)

    path = np.asarray(jax.jit(lambda p: jax.lax.scan(step, p, None, length=2600)[1])(start))
    path = np.concatenate([np.asarray(as_vector(start))[None], path])
    first = values(expected, "em_first_iterates")
    np.testing.assert_allclose(path[: len(first)], first, rtol=0, atol=expected["em_first_iterates"]["atol"])
    moves = np.linalg.norm(np.diff(path, axis=0), axis=1)
    for name, tolerance in [("em_iterations_tol1e7", 1e-7), ("em_iterations_tol1e8", 1e-8)]:
        assert abs(int(np.argmax(moves <= tolerance)) + 1 - expected[name]["value"]) <= expected[name]["atol"]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_latent_classes(x64, cases, size):
    """Global maxima over random starts, several probabilities on the boundary."""
    case = load(cases, "lca_carcinoma")
    x, counts = jnp.asarray(case["data"]["patterns"]) - 1, jnp.asarray(case["data"]["counts"], float)
    model = jem.Mixture(jem.Bernoulli(), size, seeding=jem.starts.RandomResponsibilities(1.0))
    fits = jem.fit_restarts(
        model, jax.random.key(size), x, weights=counts, num_restarts=64, stop=jem.stop.RelativeGain(1e-10), max_steps=20_000
    )
    best, expected = fits.check().best(), case["expected"]
    assert float(best.log_likelihood) == pytest.approx(expected[f"K{size}_loglik"]["value"], abs=1e-4)
    order = np.argsort(-np.asarray(best.params.weights))
    np.testing.assert_allclose(best.params.weights[order], values(expected, f"K{size}_class_shares_sorted"), atol=0.002)
    probs = np.asarray(best.params.components.probs)[order]
    assert np.isfinite(probs).all()
    if size != 2:  # the two classes are equally large to three digits: no order to compare in
        np.testing.assert_allclose(probs, values(expected, f"K{size}_prob_category2_sorted"), atol=0.005)
    at_best = np.mean(np.asarray(fits.log_likelihood) > float(best.log_likelihood) - 1e-3)
    share = expected[f"K{size}_share_of_random_starts_at_best"]
    assert at_best == pytest.approx(share["value"], abs=share["atol"])

"""Standard errors of the reference cases, by every route that knows the model, and none where there are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from test_logjoint_cases import blood_groups, check, herds, linkage, load, mites

import jem

pytestmark = pytest.mark.usefixtures("x64")
EXACT = jem.uncertainty.Oakes(), jem.uncertainty.Hessian(), jem.uncertainty.SupplementedEM()


def agree(values):
    for value in values[1:]:
        np.testing.assert_allclose(value, values[0], rtol=2e-6)


def test_linkage(cases):
    """Louis's own example: 435.3 in complete data, 57.8 of it missing, and the rate of convergence."""
    case, model = load(cases, "linkage_multinomial"), linkage(closed=True)
    pi, counts = jnp.array(case["expected"]["mle"]["value"]), jnp.asarray(case["data"]["counts"], float)
    found = [jem.standard_errors(model, pi, jnp.arange(4), counts, method=m).check() for m in EXACT]
    agree([float(f.errors) for f in found])
    check(case, "standard_error", found[0].errors)
    seen = jem.uncertainty.information(model, pi, jnp.arange(4), counts).check()
    logit = (pi * (1 - pi)) ** 2  # of the free coordinate, and the parameter is asked about
    check(case, "observed_information", seen.matrix[0, 0] / logit)
    check(case, "complete_information", seen.complete[0, 0] / logit)
    check(case, "missing_information", seen.missing[0, 0] / logit)
    check(case, "convergence_rate", seen.rate)


def test_blood_groups(cases):
    case, model = load(cases, "abo_clarke"), blood_groups(closed=True)
    x, counts = jnp.arange(4), jnp.array([case["data"][g] for g in ("A", "B", "AB", "O")], float)
    step = jax.jit(lambda p: jax.lax.fori_loop(0, 60, lambda _, p: jem.em_step(model, p, x, counts)[0], p))
    mle = step(model.start)
    found = [jem.standard_errors(model, mle, x, counts, method=m).check() for m in EXACT]
    agree([f.errors for f in found])
    check(case, "standard_errors", found[0].errors)
    np.testing.assert_allclose(found[0].covariance @ jnp.ones(3), 0, atol=1e-12)  # the frequencies sum to one


def test_poisson_mixture(cases):
    """The four routes on a slow climb, and the two that rest on the scores of the units."""
    case = load(cases, "poisson_mixture_times")
    freq = jnp.asarray(case["data"]["freq"], float)
    x, model = jnp.arange(len(freq))[:, None], jem.Mixture(jem.Poisson(), 2)
    p, first, second = case["init"]["p_lambda1_lambda2"]
    start = jem.Mixture.Params(jnp.array([p, 1 - p]), jem.Poisson.Params(jnp.array([[first], [second]])))
    params = jem.fit(model, start, x, weights=freq, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=8000).params
    ask = lambda method: jem.standard_errors(model, params, x, freq, method=method).check()
    vector = lambda f: np.r_[f.errors.weights[0], f.errors.components.rate[:, 0]]
    found = [vector(ask(m)) for m in (*EXACT, jem.uncertainty.Louis())]
    agree(found)
    check(case, "standard_errors", found[0])
    assert float(jem.uncertainty.information(model, params, x, freq).rate) == pytest.approx(
        case["expected"]["em_rate_eigenvalues"]["value"][0], abs=1e-4
    )
    scores, both = vector(ask(jem.uncertainty.OPG())), vector(ask(jem.uncertainty.Sandwich()))
    np.testing.assert_allclose(scores, found[0], rtol=0.1)  # the model fits
    # Between outer products and the observed information: A^-1 B A^-1, scalar for scalar.
    unit = jem.uncertainty.information(model, params, x, freq)
    outer = jem.uncertainty.information(model, params, x, freq, method=jem.uncertainty.OPG()).matrix
    want = np.linalg.solve(unit.matrix, np.linalg.solve(unit.matrix, outer).T)
    covariance = np.linalg.inv(jem.uncertainty.information(model, params, x, freq, method=jem.uncertainty.Sandwich()).matrix)
    np.testing.assert_allclose(covariance, want, rtol=1e-6)
    assert (both < scores).all()


def test_mites(cases):
    """By quadrature over a real vector, with the score of the E-step and with second derivatives of the likelihood."""
    case = load(cases, "negbin_mites")
    params = {name: jnp.array(case["expected"][name]["value"]) for name in ("k", "mean")}
    counts = jnp.asarray(case["data"]["counts"], float)
    found = [jem.standard_errors(mites(), params, jnp.arange(8.0), counts, method=m).check() for m in EXACT[:2]]
    for one in found:
        check(case, "standard_errors", [one.errors["mean"], one.errors["k"]])


def test_herds(cases):
    case = load(cases, "glmm_cbpp")
    sizes, incidence = np.zeros((15, 4)), np.zeros((15, 4))
    for herd, period, size, count in zip(*(case["data"][n] for n in ("herd", "period", "size", "incidence")), strict=True):
        sizes[herd - 1, period - 1], incidence[herd - 1, period - 1] = size, count
    params = {name: jnp.array(case["expected"][name]["value"]) for name in ("beta", "sigma")}
    model = herds(jem.spaces.GaussHermite(1, 61, adaptive=False))
    found = jem.standard_errors(model, params, {"cases": incidence, "size": sizes}).check()
    check(case, "se_beta", found.errors["beta"])


def censored(p, x):
    z = (x["log_hours"] - p["beta"] @ x["row"]) / jnp.exp(p["log_sigma"])
    return jnp.where(x["failed"], norm.logpdf(z) - p["log_sigma"], norm.logsf(z))


def test_motors(cases):
    case = load(cases, "censored_motorette")
    celsius, hours, failed = (jnp.asarray(case["data"][n], float) for n in ("temp_C", "hours", "failed"))
    row = jnp.stack([jnp.ones_like(celsius), 1000 / (celsius + 273.2)], 1)
    expected = case["expected"]
    params = {"beta": jnp.array(expected["beta"]["value"]), "log_sigma": jnp.log(expected["sigma"]["value"])}
    model = jem.Density(censored, params)
    x = {"row": row, "log_hours": jnp.log10(hours), "failed": failed > 0}
    found = jem.standard_errors(model, params, x).check()
    check(case, "se_beta_logsigma", [*found.errors["beta"], found.errors["log_sigma"]])


def test_no_false_standard_errors_at_the_edge(cases):
    """The chain of the earthquakes starts in its first state for certain; a transition never happens."""
    case = load(cases, "hmm_earthquakes_free")
    x = jnp.asarray(case["data"]["counts"], float).reshape(1, -1, 1)
    first = case["init"]["3"]
    moves, rates = jem.laws.Cells.Params(jnp.array(first["A"])), jem.Poisson.Params(jnp.array(first["lambda"])[:, None])
    start = jem.HMM.Params(jnp.array(first["pi"]), moves, rates)
    model = jem.HMM(jem.Poisson(), 3)
    params = jem.fit(model, start, x, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=3000).params
    found = jem.standard_errors(model, params, x)
    assert int(found.status) == jem.uncertainty.InformationStatus.BOUNDARY
    assert np.isnan(found.errors.initial).all()
    never = np.asarray(params.transition.probs) < 1e-10
    assert never.sum() == 1
    np.testing.assert_array_equal(np.isnan(found.errors.transition.probs), never)
    assert (np.asarray(found.errors.emission.rate) > 0.5).all() and np.isfinite(found.errors.emission.rate).all()
    with pytest.raises(jem.FitError, match="BOUNDARY"):
        found.check()

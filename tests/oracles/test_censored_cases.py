"""The reference cases of which intervals are known, at the defaults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_logjoint_cases import load
from test_written_cases import check, columns

import jem

pytestmark = pytest.mark.usefixtures("x64")


def fitted(model, x):
    """A fit from the model's own start."""
    return jem.fit(model, jem.init(model, jax.random.key(0), x), x).check()


def test_motors(cases):
    case = load(cases, "censored_motorette")
    celsius, hours, failed = columns(case, "temp_C", "hours", "failed")
    x = jem.Given(jem.Interval.right(jnp.log10(hours)[:, None], failed == 0), 1000 / (celsius + 273.2)[:, None])
    model = jem.Censored(jem.Linear())
    fit = fitted(model, x)
    check(case, "loglik", fit.log_likelihood)
    check(case, "beta", jnp.append(fit.params.intercept, fit.params.coef))
    check(case, "sigma", jnp.sqrt(fit.params.covariance[0, 0]))
    errors = jem.standard_errors(model, fit.params, x).errors
    want = case["expected"]["se_beta_logsigma"]["value"]
    assert float(errors.coef[0, 0]) == pytest.approx(want[1], abs=1e-3)
    assert float(errors.whitening[0, 0] / fit.params.whitening[0, 0]) == pytest.approx(want[2], abs=1e-3)


@pytest.mark.parametrize("law", ["lognormal", "exponential"])
def test_survival(cases, law):
    case = load(cases, "survival_ovarian")
    time, dead, age, rx = columns(case, "time", "dead", "age", "rx")
    inputs, alive = jnp.stack([age, rx], 1), dead == 0
    if law == "lognormal":
        x = jem.Given(jem.Interval.right(jnp.log(time)[:, None], alive), inputs)
        fit = fitted(jem.Censored(jem.Linear()), x)
        check(case, "lognormal_loglik", fit.log_likelihood - jnp.sum(jnp.where(alive, 0, jnp.log(time))))
        check(case, "lognormal_scale", jnp.sqrt(fit.params.covariance[0, 0]))
    else:
        # An exponential law is a gamma law of shape one.
        x = jem.Given(jem.Interval.right(time[:, None], alive), inputs)
        model = jem.Censored(jem.Frozen(jem.GLM(jem.Gamma()), concentration=[1.0]))
        fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, stop=jem.stop.Remaining(1e-9)).check()
        check(case, "exponential_loglik", fit.log_likelihood)
    # The log-likelihood is flat: at the defaults a fit is within 0.05 standard errors of its maximum, a case within 1e-4.
    want, error = (np.array(case["expected"][f"{law}_{what}"]["value"])[:3] for what in ("beta", "se"))
    np.testing.assert_array_less(np.abs(np.append(fit.params.intercept, fit.params.coef[0]) - want), 0.05 * error)


@pytest.mark.parametrize("arm", ["radiation", "radiation_chemo"])
def test_cosmesis(cases, arm):
    """Turnbull's distribution: masses of the cells between all ends that there are; most of them are 0."""
    case = load(cases, "turnbull_cosmesis")
    left, right = (np.array([np.inf if v is None else v for v in case["data"][arm][end]], float) for end in ("left", "right"))
    ends = np.unique(np.concatenate([left, right]))
    model = jem.Censored(jem.Categorical(len(ends) - 1))
    fit = fitted(model, jem.Interval(np.searchsorted(ends, left), np.searchsorted(ends, right) - 1))
    check(case, f"{arm}_loglik", fit.log_likelihood)
    some = np.asarray(fit.params.probs) > 1e-6
    check(case, f"{arm}_mass", fit.params.probs[some])
    support = np.stack([ends[:-1][some], ends[1:][some]], 1)
    np.testing.assert_array_equal(support, np.where(np.isinf(support), -1, case["expected"][f"{arm}_support"]["value"]))


def test_hurdle_of_salamanders(cases):
    """Whether there are any, and how many there are: two regressions."""
    case = load(cases, "zero_counts_salamanders")
    y, mined, cover = columns(case, "count", "mined", "DOP")
    some = np.asarray(y > 0)
    any_ = jem.Given((y > 0)[:, None].astype(float), mined[:, None])
    number = jem.Given(y[some][:, None], jnp.stack([mined, cover], 1)[some])
    fits = [fitted(jem.GLM(jem.Bernoulli()), any_), fitted(jem.Truncated(jem.GLM(jem.Poisson()), lower=1), number)]
    check(case, "hurdle_poisson_loglik", sum(fit.log_likelihood for fit in fits))
    zero, count = (jnp.append(fit.params.intercept, fit.params.coef) for fit in fits)
    check(case, "hurdle_poisson_zero_beta", zero)
    check(case, "hurdle_poisson_count_beta", count)

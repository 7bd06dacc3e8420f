"""The reference cases of regressions by ready families, with the defaults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_logjoint_cases import load
from test_written_cases import TO_THE_END, check, columns

import jem

pytestmark = pytest.mark.usefixtures("x64")


def fit(case, name, model, x, start=None):
    """The fit, as near to the case's log-likelihood as CONVERGED says; then to its digits."""
    start = jem.init(model, jax.random.key(0), x) if start is None else start
    got = jem.fit(model, start, x).check()
    assert float(got.log_likelihood) == pytest.approx(case["expected"][name]["value"], abs=2e-3)
    got = jem.fit(model, got.params, x, stop=TO_THE_END)
    check(case, name, got.log_likelihood)
    return got.params


def line(params, at=0):
    """Intercept and coefficients of one output, (p + 1,), or of each component's."""
    return jnp.concatenate([params.intercept[..., at, None], params.coef[..., at, :]], -1)


@pytest.mark.parametrize("lot", ["lot1", "lot2"])
def test_clotting_times(cases, lot):
    case = load(cases, "gamma_glm_clotting")
    u, y = columns(case, "u", lot)
    params = fit(case, f"{lot}_log_loglik", jem.GLM(jem.Gamma()), jem.Given(y[:, None], jnp.log(u)[:, None]))
    check(case, f"{lot}_log_beta", line(params))
    check(case, f"{lot}_log_shape", params.concentration[0])


@pytest.mark.parametrize("nu", ["8", "_free"])
def test_stack_loss(cases, nu):
    case = load(cases, "t_regression_stackloss")
    u, y = columns(case, "x", "y")
    model = jem.Linear(jem.StudentT(df=2.0 if nu == "_free" else float(nu)))
    params = fit(case, f"nu{nu}_loglik", model if nu == "_free" else jem.Frozen(model, "df"), jem.Given(y[:, None], u))
    check(case, f"nu{nu}_beta", line(params))
    check(case, f"nu{nu}_scale", jnp.sqrt(params.covariance[0, 0]))


def test_two_parabolas(cases):
    case = load(cases, "mixreg_npreg")
    u, y = columns(case, "x", "y")
    x, model = jem.Given(y[:, None], jnp.stack([u, u**2], 1)), jem.Mixture(jem.Linear(), 2)
    best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8).best()
    params = fit(case, "loglik", model, x, best.params)
    order = jnp.argsort(line(params.components)[:, 0])
    check(case, "weights", params.weights[order])
    check(case, "beta", line(params.components)[order])
    check(case, "sigma", jnp.sqrt(params.components.covariance[order, 0, 0]))


def test_patents(cases):
    case = load(cases, "poisson_regmix_patent")
    y, u = columns(case, "patents", "lgRD")
    x, model = jem.Given(y[:, None], u[:, None]), jem.Mixture(jem.GLM(jem.Poisson()), 3)
    best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8).best()
    params = fit(case, "constant_loglik", model, x, best.params)
    order = np.argsort(line(params.components)[:, 0])
    check(case, "constant_weights", params.weights[order])
    check(case, "constant_beta", line(params.components)[order])


def test_gated_patents(cases):
    """Weights that a covariate of their own drives."""
    case = load(cases, "poisson_regmix_patent")
    y, *inputs = columns(case, "patents", "lgRD", "RDS")
    model = jem.Mixture(jem.GLM(jem.Poisson(), columns=(0,)), 3, weights=jem.laws.Logistic(columns=(1,)))
    x = jem.Given(y[:, None], jnp.stack(inputs, 1))
    gate, beta = np.array(case["init"]["gated_gate"]), np.array(case["init"]["gated_beta"])
    components = jax.vmap(model.components.child.params)(beta[:, None, 1:], beta[:, :1])
    params = fit(case, "gated_loglik", model, x, model.Params(model.weights.params(gate[:, 1:], gate[:, 0]), components))
    check(case, "gated_beta", line(params.components))
    check(case, "gated_gate", jnp.c_[params.weights.intercept, params.weights.coef])


def inflated(family, weights=None, columns=None):
    """Zeros beside a regression of counts."""
    return jem.Mixture(jem.OneOf(jem.GLM(family, columns=columns), jem.Point(0.0)), weights=weights)


def test_biochemists(cases):
    case = load(cases, "zip_biochemists")
    y, *inputs = columns(case, "art", "fem", "mar", "kid5", "phd", "ment")
    x = jem.Given(y[:, None], jnp.stack(inputs, 1))
    params = fit(case, "full_loglik", inflated(jem.Poisson(), jem.laws.Logistic()), x)
    check(case, "full_count_coef", line(params.components[0]))
    check(case, "full_zero_coef", jnp.append(params.weights.intercept, params.weights.coef))
    params = fit(case, "count_only_loglik", inflated(jem.Poisson()), x)
    check(case, "count_only_coef", jnp.append(line(params.components[0]), jnp.log(params.weights[1] / params.weights[0])))


@pytest.mark.parametrize("name", ["zi_poisson", "zi_negbin", "hurdle_poisson", "hurdle_negbin"])
def test_salamanders(cases, name):
    case = load(cases, "zero_counts_salamanders")
    y, *inputs = columns(case, "count", "mined", "DOP")
    x = jem.Given(y[:, None], jnp.stack(inputs, 1))
    some = jem.GLM(jem.NegativeBinomial() if "negbin" in name else jem.Poisson())
    some = jem.Truncated(some, lower=1) if "hurdle" in name else some
    model = jem.Mixture(jem.OneOf(some, jem.Point(0.0)), weights=jem.laws.Logistic(columns=(0,)))
    params = fit(case, f"{name}_loglik", model, x)
    check(case, f"{name}_count_beta", line(params.components[0]))
    sign = -1 if "hurdle" in name else 1  # of a hurdle the case has the odds of a count above zero
    check(case, f"{name}_zero_beta", sign * jnp.append(params.weights.intercept, params.weights.coef))
    if "negbin" in name:
        check(case, f"{name}_theta", params.components[0].concentration[0])

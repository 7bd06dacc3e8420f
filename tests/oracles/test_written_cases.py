"""The reference cases whose models are written by hand, as one density or log-joint each.

Fitted with the defaults they come as near to the maximum as CONVERGED says; then they go on, by the same rule, to the digits
of the case. Variants of a model are told apart by a number beside the row, so that each function is compiled once.
"""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.special import gammaln
from jax.scipy.stats import logistic, norm
from test_logjoint_cases import load

import jem

SOLVER = jem.solvers.GEM(optax.lbfgs, linesearch=None)
TO_THE_END = dataclasses.replace(inspect.signature(jem.fit).parameters["stop"].default, tol=1e-11)
pytestmark = pytest.mark.usefixtures("x64")


def check(case, name, got):
    """The quantity of a case, to its own tolerance."""
    want = case["expected"][name]
    np.testing.assert_allclose(got, want["value"], rtol=want.get("rtol", 0), atol=want.get("atol", 0), err_msg=name)


def columns(case, *names):
    return [jnp.asarray(case["data"][name], float) for name in names]


def fit(case, name, model, x, start=None, **options):
    """The fit of a case; `name` is that of its log-likelihood."""
    want, start = case["expected"][name]["value"], model.start if start is None else start
    got = jem.fit(model, start, x, solver=SOLVER, **options).check()
    assert float(got.log_likelihood) == pytest.approx(want, abs=2e-3)
    got = jem.fit(model, got.params, x, solver=SOLVER, stop=TO_THE_END, **options)
    check(case, name, got.log_likelihood)
    return got


# Regressions ---------------------------------------------------------------------------------------


def gamma_regression(p, u):
    eta = p["beta"] @ u["row"]
    mean, k = jnp.where(u["inverse"], 1 / eta, jnp.exp(eta)), p["shape"]
    return k * jnp.log(k / mean) - gammaln(k) + (k - 1) * jnp.log(u["y"]) - k * u["y"] / mean


@pytest.mark.parametrize("lot", ["lot1", "lot2"])
@pytest.mark.parametrize("link", ["inverse", "log"])
def test_gamma_regression(cases, lot, link):
    case = load(cases, "gamma_glm_clotting")
    u, y = columns(case, "u", lot)
    x = {"row": jnp.stack([jnp.ones_like(u), jnp.log(u)], 1), "y": y, "inverse": jnp.full(len(u), link == "inverse")}
    beta = jnp.array([0.02, 0.005] if link == "inverse" else [3.0, 0.0])
    where = {"beta": jem.supports.Real(), "shape": jem.supports.Positive()}
    model = jem.Density(gamma_regression, {"beta": beta, "shape": jnp.array(1.0)}, supports=where)
    got = fit(case, f"{lot}_{link}_loglik", model, x)
    check(case, f"{lot}_{link}_beta", got.params["beta"])
    check(case, f"{lot}_{link}_shape", got.params["shape"])
    if link == "inverse":
        errors = jem.standard_errors(model, got.params, x).check().errors
        check(case, f"{lot}_{link}_se_beta", errors["beta"])
        check(case, f"{lot}_{link}_se_shape", errors["shape"])


def student_regression(p, u):
    nu = jnp.where(u["nu"] > 0, u["nu"], p["nu"])
    z = (u["y"] - p["beta"] @ u["row"]) / p["scale"]
    constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * jnp.log(nu * jnp.pi) - jnp.log(p["scale"])
    return constant - (nu + 1) / 2 * jnp.log1p(z**2 / nu)


@pytest.mark.parametrize("nu", ["8", "4", "3", "2", "1.1", "_free"])
def test_student_regression(cases, nu):
    case = load(cases, "t_regression_stackloss")
    rows, y = columns(case, "x", "y")
    given = 0.0 if nu == "_free" else float(nu)
    x = {"row": jnp.concatenate([jnp.ones((len(y), 1)), rows], 1), "y": y, "nu": jnp.full(len(y), given)}
    start = {"beta": jnp.array([-40.0, 0.8, 0.8, -0.1]), "scale": jnp.array(2.0), "nu": jnp.array(3.0)}
    where = {"beta": jem.supports.Real(), "scale": jem.supports.Positive(), "nu": jem.supports.Positive()}
    got = fit(case, f"nu{nu}_loglik", jem.Density(student_regression, start, supports=where), x)
    check(case, f"nu{nu}_beta", got.params["beta"])
    check(case, f"nu{nu}_scale", got.params["scale"])
    if nu == "_free":
        check(case, "nu_free_nu", got.params["nu"])


def beta_binomial(p, u):
    mu, rest = p["mu"][u["group"]], 1 / p["rho"] - 1
    a, b = mu * rest, (1 - mu) * rest
    log_beta = lambda a, b: gammaln(a) + gammaln(b) - gammaln(a + b)
    ways = gammaln(u["n"] + 1) - gammaln(u["r"] + 1) - gammaln(u["n"] - u["r"] + 1)
    return ways + log_beta(u["r"] + a, u["n"] - u["r"] + b) - log_beta(a, b)


@pytest.mark.parametrize("name", ["common", "by_group"])
def test_beta_binomial(cases, name):
    """One probability for all is the first of four, the others of which no row has."""
    case = load(cases, "beta_binomial_lirat")
    r, n, group = columns(case, "R", "N", "grp")
    x = {"r": r, "n": n, "group": (group - 1 if name == "by_group" else 0 * group).astype(int)}
    start = {"mu": jnp.full(4, 0.5), "rho": jnp.array(0.5)}
    got = fit(case, f"{name}_loglik", jem.Density(beta_binomial, start, supports=jem.supports.Interval()), x)
    check(case, f"{name}_mu", got.params["mu"] if name == "by_group" else got.params["mu"][0])
    check(case, f"{name}_rho", got.params["rho"])


# Censoring: the upper bound of what was not seen is infinite ----------------------------------------


def log_motors(p, u):
    sigma = jnp.exp(p["log_sigma"])
    z = (u["low"] - p["beta"] @ u["row"]) / sigma
    return jnp.where(jnp.isinf(u["high"]), norm.logsf(z), norm.logpdf(z) - p["log_sigma"])


def test_motors(cases):
    case = load(cases, "censored_motorette")
    celsius, hours, failed = columns(case, "temp_C", "hours", "failed")
    row = jnp.stack([jnp.ones_like(celsius), 1000 / (celsius + 273.2)], 1)
    low = jnp.log10(hours)
    start = {"beta": jnp.zeros(2), "log_sigma": jnp.array(0.0)}
    model = jem.Density(log_motors, start, nonfinite_ok=True)
    got = fit(case, "loglik", model, {"row": row, "low": low, "high": jnp.where(failed > 0, low, jnp.inf)})
    check(case, "beta", got.params["beta"])
    check(case, "sigma", jnp.exp(got.params["log_sigma"]))


def log_survival(p, u):
    scale = jnp.where(u["kind"] == 3, 1.0, p["scale"])
    z = (jnp.log(u["time"]) - p["beta"] @ u["row"]) / scale
    gumbel = lambda z: (z - jnp.exp(z), -jnp.exp(z))
    laws = [gumbel, lambda z: (norm.logpdf(z), norm.logsf(z)), lambda z: (logistic.logpdf(z), jax.nn.log_sigmoid(-z)), gumbel]
    density, survival = jax.lax.switch(u["kind"], laws, z)
    return jnp.where(u["dead"], density - jnp.log(scale * u["time"]), survival)


LAWS = ["weibull", "lognormal", "loglogistic", "exponential"]


@pytest.mark.parametrize("law", LAWS)
def test_survival(cases, law):
    case = load(cases, "survival_ovarian")
    time, dead, age, rx = columns(case, "time", "dead", "age", "rx")
    x = {"row": jnp.stack([jnp.ones_like(age), age, rx], 1), "time": time, "dead": dead > 0}
    x["kind"] = jnp.full(len(time), LAWS.index(law))
    start = {"beta": jnp.array([7.0, 0.0, 0.0]), "scale": jnp.array(1.0)}
    model = jem.Density(log_survival, start, supports={"beta": jem.supports.Real(), "scale": jem.supports.Positive()})
    got = fit(case, f"{law}_loglik", model, x)
    check(case, f"{law}_beta", got.params["beta"])
    if law != "exponential":
        check(case, f"{law}_scale", got.params["scale"])


# More zeros than there should be -------------------------------------------------------------------


def log_count(y, log_mean, theta, negbin):
    """Poisson, or negative binomial of variance `mu + mu^2 / theta`."""
    both = jnp.logaddexp(jnp.log(theta), log_mean)
    clumped = gammaln(y + theta) - gammaln(theta) + theta * (jnp.log(theta) - both) + y * (log_mean - both)
    return jnp.where(negbin, clumped, y * log_mean - jnp.exp(log_mean)) - gammaln(y + 1)


def zero_counts(p, u):
    log_mean, logit = p["count"] @ u["row"], p["zero"] @ u["zero_row"]
    law = lambda y: log_count(y, log_mean, p["theta"], u["negbin"])
    none, some = jax.nn.log_sigmoid(-logit), jax.nn.log_sigmoid(logit)
    inflated = jnp.where(u["y"] == 0, jnp.logaddexp(some, none + law(0.0)), none + law(u["y"]))
    hurdle = jnp.where(u["y"] == 0, none, some + law(u["y"]) - jnp.log(-jnp.expm1(law(0.0))))
    return jnp.where(u["hurdle"], hurdle, inflated)


def zero_model(num, num_zero):
    start = {"count": jnp.zeros(num), "zero": jnp.zeros(num_zero), "theta": jnp.array(1.0)}
    return jem.Density(
        zero_counts,
        start,
        supports={"count": jem.supports.Real(), "zero": jem.supports.Real(), "theta": jem.supports.Positive()},
    )


@pytest.mark.parametrize("name", ["zi_poisson", "hurdle_poisson", "zi_negbin", "hurdle_negbin"])
def test_salamanders(cases, name):
    case = load(cases, "zero_counts_salamanders")
    y, mined, cover = columns(case, "count", "mined", "DOP")
    one = jnp.ones_like(y)
    x = {"y": y, "row": jnp.stack([one, mined, cover], 1), "zero_row": jnp.stack([one, mined], 1)}
    x |= {"hurdle": jnp.full(len(y), "hurdle" in name), "negbin": jnp.full(len(y), "negbin" in name)}
    got = fit(case, f"{name}_loglik", zero_model(3, 2), x)
    check(case, f"{name}_count_beta", got.params["count"])
    check(case, f"{name}_zero_beta", got.params["zero"])
    if "negbin" in name:
        check(case, f"{name}_theta", got.params["theta"])


@pytest.mark.parametrize("name", ["const", "count_only", "full"])
def test_biochemists(cases, name):
    case = load(cases, "zip_biochemists")
    y, *rest = columns(case, "art", "fem", "mar", "kid5", "phd", "ment")
    row = jnp.stack([jnp.ones_like(y), *rest], 1)
    first = row.at[:, 1:].set(0)
    x = {"y": y, "row": first if name == "const" else row, "zero_row": row if name == "full" else first}
    x |= {"hurdle": jnp.zeros(len(y), bool), "negbin": jnp.zeros(len(y), bool)}
    got = fit(case, f"{name}_loglik", zero_model(6, 6), x)
    count, zero = got.params["count"], got.params["zero"]
    if name == "full":
        check(case, "full_count_coef", count)
        check(case, "full_zero_coef", zero)
    else:
        check(case, f"{name}_coef", jnp.append(count[:1] if name == "const" else count, zero[0]))


# Directions ----------------------------------------------------------------------------------------


def von_mises(p, t):
    normaliser = jnp.log(2 * jnp.pi * jax.scipy.special.i0e(p["kappa"])) + p["kappa"]
    return p["kappa"] * jnp.cos(t - p["direction"]) - normaliser


def turtles(kappa, direction):
    start = {"direction": jnp.array(direction), "kappa": jnp.array(kappa)}
    return jem.Density(von_mises, start, supports={"direction": jem.supports.Real(), "kappa": jem.supports.Positive()})


def test_turtles(cases):
    case = load(cases, "vonmises_turtles")
    (degrees,) = columns(case, "deg")
    t = jnp.deg2rad(degrees)
    model = turtles(1.0, 0.0)
    got = fit(case, "loglik", model, t)
    check(case, "mean_direction", got.params["direction"])
    check(case, "kappa", got.params["kappa"])
    errors = jem.standard_errors(model, got.params, t).check().errors
    check(case, "se_mu_kappa", [errors["direction"], errors["kappa"]])


def test_two_directions_of_turtles(cases):
    case = load(cases, "vonmises_turtles")
    (degrees,) = columns(case, "deg")
    first = {n: jnp.array(case["init"][f"mixture_{n}"]) for n in ("weights", "mean_direction", "kappa")}
    start = jem.Mixture.Params(first["weights"], {"direction": first["mean_direction"], "kappa": first["kappa"]})
    got = fit(case, "mixture_loglik", jem.Mixture(turtles(1.0, 0.0), 2), jnp.deg2rad(degrees), start)
    check(case, "mixture_weights", got.params.weights)
    check(case, "mixture_mean_direction", got.params.components["direction"])
    check(case, "mixture_kappa", got.params.components["kappa"])


# Mixtures of regressions ---------------------------------------------------------------------------


def poisson_regression(beta, u):
    eta = beta[0] + beta[1] * u["log_rd"]
    return u["y"] * eta - jnp.exp(eta) - gammaln(u["y"] + 1)


def patents(cases):
    case = load(cases, "poisson_regmix_patent")
    y, log_rd, share = columns(case, "patents", "lgRD", "RDS")
    return case, {"y": y, "log_rd": log_rd}, share[:, None]


def test_patents(cases):
    """From starts that know nothing but the data."""
    case, x, _ = patents(cases)
    model = jem.Mixture(jem.Density(poisson_regression, jnp.zeros(2)), 3)
    best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8, solver=SOLVER).best()
    got = fit(case, "constant_loglik", model, x, best.params)
    order = jnp.argsort(got.params.components[:, 0])
    check(case, "constant_weights", got.params.weights[order])
    check(case, "constant_beta", got.params.components[order])


def test_gated_patents(cases):
    case, x, share = patents(cases)
    logits = lambda gate, u: jnp.append(0.0, gate[:, 0] + gate[:, 1] * u[0])
    gate, beta = jnp.array(case["init"]["gated_gate"]), [[-2.6, 1.59], [0.5, 0.88], [1.96, 0.67]]
    model = jem.Mixture(jem.Density(poisson_regression, jnp.zeros(2)), 3, weights=jem.laws.Gate(logits, gate))
    start = jem.Mixture.Params(gate, jnp.array(beta))
    got = fit(case, "gated_loglik", model, jem.Given(x, share), start)
    check(case, "gated_beta", got.params.components)
    check(case, "gated_gate", got.params.weights)


def normal_regression(p, u):
    return norm.logpdf(u["y"], p["beta"] @ u["row"], p["sigma"])


def test_two_parabolas(cases):
    case = load(cases, "mixreg_npreg")
    x, y = columns(case, "x", "y")
    start = {"beta": jnp.zeros(3), "sigma": jnp.array(1.0)}
    leaf = jem.Density(normal_regression, start, supports={"beta": jem.supports.Real(), "sigma": jem.supports.Positive()})
    rows = {"row": jnp.stack([jnp.ones_like(x), x, x**2], 1), "y": y}
    model = jem.Mixture(leaf, 2)
    best = jem.fit_restarts(model, jax.random.key(0), rows, num_restarts=4, solver=SOLVER).best()
    got = fit(case, "loglik", model, rows, best.params)
    order = jnp.argsort(got.params.components["beta"][:, 0])
    check(case, "weights", got.params.weights[order])
    check(case, "beta", got.params.components["beta"][order])
    check(case, "sigma", got.params.components["sigma"][order])


# Hidden effects and missing cells ------------------------------------------------------------------


def log_batch(p, y, z):
    return jnp.sum(norm.logpdf(y, p["mean"] + p["between"] * z[0], p["within"])) + norm.logpdf(z[0])


def test_dyestuff(cases):
    case = load(cases, "oneway_dyestuff")
    (y,) = columns(case, "y")
    start = {"mean": jnp.array(1500.0), "between": jnp.array(30.0), "within": jnp.array(30.0)}
    where = {"mean": jem.supports.Real(), "between": jem.supports.Positive(), "within": jem.supports.Positive()}
    got = fit(case, "loglik", jem.LogJoint(log_batch, jem.spaces.GaussHermite(1, 9), start, supports=where), y.reshape(6, 5))
    check(case, "mean", got.params["mean"])
    check(case, "var_between", got.params["between"] ** 2)
    check(case, "var_within", got.params["within"] ** 2)


def log_rasch(p, u, z):
    slope = jnp.where(u["given"] > 0, u["given"], p["slope"])
    return jnp.sum(jax.nn.log_sigmoid((2 * u["y"] - 1) * (p["d"] + slope * z[0]))) + norm.logpdf(z[0])


@pytest.mark.parametrize("name", ["rasch", "rasch1"])
def test_rasch(cases, name):
    case = load(cases, "irt_lsat6")
    y, counts = columns(case, "patterns", "counts")
    model = jem.LogJoint(log_rasch, jem.spaces.GaussHermite(1, 21), {"d": jnp.zeros(5), "slope": jnp.array(0.5)})
    got = fit(case, f"{name}_loglik", model, {"y": y, "given": jnp.full(len(y), float(name == "rasch1"))}, weights=counts)
    check(case, f"{name}_intercepts", got.params["d"])
    if name == "rasch":
        check(case, "rasch_common_slope", got.params["slope"])


def log_tree(p, x):
    """The second given the first where both were seen."""
    seen = ~jnp.isnan(x[1])
    first, slope = jnp.sqrt(p["S"][0, 0]), p["S"][0, 1] / p["S"][0, 0]
    mean, left = p["m"][1] + slope * (x[0] - p["m"][0]), jnp.sqrt(p["S"][1, 1] - slope * p["S"][0, 1])
    second = norm.logpdf(jnp.where(seen, x[1], mean), mean, left)
    return norm.logpdf(x[0], p["m"][0], first) + jnp.where(seen, second, 0)


def test_apples(cases):
    """A cell that is missing is NaN, and the density knows what to do with it."""
    case = load(cases, "missing_apple")
    x = jnp.asarray(np.array(case["data"]["X"], float))
    start = {"m": jnp.array([15.0, 45.0]), "S": 100 * jnp.eye(2)}
    where = {"m": jem.supports.Real(), "S": jem.supports.PositiveDefinite()}
    got = fit(case, "loglik", jem.Density(log_tree, start, supports=where, nonfinite_ok=True), x)
    check(case, "mean", got.params["m"])
    check(case, "cov", got.params["S"])

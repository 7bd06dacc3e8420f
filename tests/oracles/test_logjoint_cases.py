"""Eight models from their log-joints alone, each in at most fifteen lines, beside hand-written nodes and the reference cases.

Each function below is all that a user writes: it returns the model. The first test counts their lines.
"""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.special import gammaln
from jax.scipy.stats import norm, poisson

import jem

TIGHT = jem.stop.RelativeGain(1e-13)
pytestmark = pytest.mark.usefixtures("x64")


def gaussian_mixture(size, dim):
    def log_joint(p, x, z):
        r = p["whitening"][z] @ (x - p["mean"][z])
        log_det = jnp.sum(jnp.log(jnp.diagonal(p["whitening"][z])))
        return jnp.log(p["weights"][z]) + log_det - 0.5 * r @ r - 0.5 * dim * jnp.log(2 * jnp.pi)

    start = {"weights": jnp.ones(size) / size, "mean": jnp.zeros((size, dim)), "whitening": jnp.stack([jnp.eye(dim)] * size)}
    where = {"weights": jem.supports.Simplex(), "mean": jem.supports.Real(), "whitening": jem.supports.CholeskyFactor()}
    return jem.LogJoint(log_joint, jem.spaces.Finite(size), start, supports=where)


def poisson_hmm(size):
    def log_joint(p, x, z):
        return poisson.logpmf(x[0], p["rate"][z])

    start = {"initial": jnp.ones(size) / size, "move": jnp.ones((size, size)) / size, "rate": 1.0 + jnp.arange(size)}
    where = {"initial": jem.supports.Simplex(), "move": jem.supports.Simplex(), "rate": jem.supports.Positive()}
    chain = jem.spaces.ChainOf(size, lambda p: jnp.log(p["initial"]), lambda p: jnp.log(p["move"]))
    return jem.LogJoint(log_joint, chain, start, supports=where)


def two_coins(closed=False):
    def log_joint(theta, heads, z):
        return jnp.log(0.5) + heads * jnp.log(theta[z]) + (10 - heads) * jnp.log1p(-theta[z])

    def statistics(heads, z):
        return heads, 10.0

    ways = {"statistics": statistics, "maximize": lambda s: s[0] / s[1]} if closed else {}
    return jem.LogJoint(log_joint, jem.spaces.Finite(2), jnp.array([0.6, 0.5]), supports=jem.supports.Interval(), **ways)


def blood_groups(closed=False):
    genes = jnp.array([[0, 0], [0, 2], [1, 1], [1, 2], [0, 1], [2, 2]])  # AA AO BB BO AB OO
    group, hybrid = jnp.array([0, 0, 1, 1, 2, 3]), jnp.array([0, 1, 0, 1, 1, 0])

    def log_joint(p, x, z):
        return jnp.sum(jnp.log(p[genes[z]])) + hybrid[z] * jnp.log(2.0) + jnp.where(x == group[z], 0, -jnp.inf)

    def maximize(count):
        alleles = jnp.zeros(3).at[genes].add(count[:, None])
        return alleles / jnp.sum(alleles)

    ways = {"statistics": lambda x, z: jnp.ones(()), "maximize": maximize} if closed else {}
    start = jnp.array([0.3, 0.2, 0.5])
    return jem.LogJoint(
        log_joint, jem.spaces.Finite(6), start, supports=jem.supports.Simplex(), observations=jnp.arange(4), **ways
    )


def linkage(closed=False):
    cell = jnp.array([0, 0, 1, 2, 3])  # the first is the sum of two hidden ones

    def log_joint(pi, x, z):
        probs = jnp.array([0.5, 0, 0.25, 0.25, 0]) + jnp.array([0, 0.25, -0.25, -0.25, 0.25]) * pi
        return jnp.log(probs[z]) + jnp.where(x == cell[z], 0, -jnp.inf)

    def maximize(count):
        return (count[1] + count[4]) / jnp.sum(count[1:])

    ways = {"statistics": lambda x, z: jnp.ones(()), "maximize": maximize} if closed else {}
    return jem.LogJoint(
        log_joint, jem.spaces.Finite(5), jnp.array(0.5), supports=jem.supports.Interval(), observations=jnp.arange(4), **ways
    )


def item_response(space):
    def log_joint(p, y, z):
        return jnp.sum(jax.nn.log_sigmoid((2 * y - 1) * (p["d"] + p["a"] * z))) + norm.logpdf(z[0])

    return jem.LogJoint(log_joint, space, {"a": jnp.ones(5), "d": jnp.zeros(5)})


def mites():
    def log_joint(p, x, z):  # z is the logarithm of the rate, which is Gamma(k, k / mean)
        rate = jnp.exp(z[0])
        log_gamma = p["k"] * jnp.log(p["k"] / p["mean"]) + p["k"] * z[0] - p["k"] / p["mean"] * rate - gammaln(p["k"])
        return x * z[0] - rate - gammaln(x + 1) + log_gamma

    start = {"k": jnp.array(1.0), "mean": jnp.array(1.0)}
    return jem.LogJoint(log_joint, jem.spaces.GaussHermite(1, 100), start, supports=jem.supports.Positive())


def herds(space):
    def log_joint(p, x, z):  # x: cases and sizes of a herd in four periods, size 0 where it was not visited
        eta = p["beta"][0] + jnp.append(0.0, p["beta"][1:]) + p["sigma"] * z
        return jnp.sum(x["cases"] * eta - x["size"] * jnp.logaddexp(0, eta)) + norm.logpdf(z[0])

    start = {"beta": jnp.zeros(4), "sigma": jnp.array(1.0)}
    return jem.LogJoint(log_joint, space, start, supports={"beta": jem.supports.Real(), "sigma": jem.supports.Positive()})


MODELS = [gaussian_mixture, poisson_hmm, two_coins, blood_groups, linkage, item_response, mites, herds]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_fifteen_lines(make):
    lines = [line for line in inspect.getsource(make).splitlines()[1:] if line.strip()]
    assert len(lines) <= 15


def load(cases, name):
    return json.loads((cases / f"{name}.json").read_text())


def check(case, name, got):
    want = case["expected"][name]
    np.testing.assert_allclose(got, want["value"], rtol=0, atol=want["atol"], err_msg=name)


def fit(model, x, start=None, weights=None, solver=None, tol=1e-12, stop=None, **options):
    solver = jem.solvers.GEM(optax.lbfgs, linesearch=None) if solver is None else solver
    weights = None if weights is None else jnp.asarray(weights, float)
    start = model.start if start is None else start
    stop = jem.stop.RelativeGain(tol) if stop is None else stop
    result = jem.fit(model, start, x, weights=weights, solver=solver, stop=stop, **options)
    return result if options else result.check()


def test_gaussian_mixture():
    x = jem.datasets.old_faithful()
    node = jem.Mixture(jem.Gaussian(prior=None), 2)
    start = jem.init(node, jax.random.key(0), x)
    want = jem.fit(node, start, x, stop=TIGHT).check()
    model = gaussian_mixture(2, 2)
    as_dict = lambda p: {"weights": p.weights, "mean": p.components.mean, "whitening": p.components.whitening}
    first = as_dict(start)
    np.testing.assert_allclose(jem.log_prob(model, first, x), jem.log_prob(node, start, x), rtol=1e-12)
    got = fit(model, x, first, tol=1e-14)
    assert got.log_likelihood == pytest.approx(float(want.log_likelihood), rel=1e-10)
    for name, value in as_dict(want.params).items():
        np.testing.assert_allclose(got.params[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_poisson_hmm():
    x = jem.datasets.earthquakes()[1].astype(float).reshape(1, -1, 1)
    node = jem.HMM(jem.Poisson(), 2)
    moves = jem.laws.Cells.Params(jnp.array([[0.8, 0.2], [0.2, 0.8]]))
    start = jem.HMM.Params(jnp.array([0.5, 0.5]), moves, jem.Poisson.Params(jnp.array([[15.0], [25]])))
    model = poisson_hmm(2)
    first = {"initial": start.initial, "move": start.transition.probs, "rate": start.emission.rate[:, 0]}
    np.testing.assert_allclose(jem.log_prob(model, first, x), jem.log_prob(node, start, x), rtol=1e-12)
    want = jem.fit(node, start, x, stop=TIGHT).check()
    got = fit(model, x, first)
    assert got.log_likelihood == pytest.approx(float(want.log_likelihood), abs=1e-5)
    np.testing.assert_allclose(got.params["rate"], want.params.emission.rate[:, 0], rtol=1e-4)
    np.testing.assert_allclose(got.params["move"], want.params.transition.probs, atol=1e-4)


@pytest.mark.parametrize("closed", [False, True], ids=["gradient", "closed form"])
def test_two_coins(cases, closed):
    case, model = load(cases, "coins_do_batzoglou"), two_coins(closed)
    x = jnp.asarray(case["data"]["heads"], float)
    posterior, _ = jem.infer(model, model.start, x)
    check(case, "first_responsibilities_A", posterior.probs[:, 0])
    if closed:
        for steps in (1, 10):
            early = jem.fit(model, model.start, x, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=steps)
            check(case, f"theta_after_{steps}", early.params)
    check(case, "theta_converged", fit(model, x, tol=1e-14, solver=jem.solvers.EM() if closed else None).params)


@pytest.mark.parametrize("closed", [False, True], ids=["gradient", "closed form"])
def test_blood_groups(cases, closed):
    case, model = load(cases, "abo_clarke"), blood_groups(closed)
    x, weights = jnp.arange(4), [case["data"][group] for group in ("A", "B", "AB", "O")]
    if closed:
        path = [model.start]
        for _ in range(5):
            path.append(jem.em_step(model, path[-1], x, jnp.asarray(weights, float))[0])
        check(case, "em_first_iterates", path)
    got = fit(model, x, weights=weights, solver=jem.solvers.EM() if closed else None)
    check(case, "mle", got.params)
    check(case, "loglik_kernel", got.log_likelihood)


@pytest.mark.parametrize("closed", [False, True], ids=["gradient", "closed form"])
def test_linkage(cases, closed):
    case, model = load(cases, "linkage_multinomial"), linkage(closed)
    x, counts = jnp.arange(4), case["data"]["counts"]
    if closed:
        path = [model.start]
        for _ in range(8):
            path.append(jem.em_step(model, path[-1], x, jnp.asarray(counts, float))[0])
        check(case, "em_iterates", path)
    thirty_steps = {"solver": jem.solvers.EM(), "stop": jem.stop.NeverStop(), "max_steps": 30}
    got = fit(model, x, weights=counts, **thirty_steps if closed else {"solver": jem.solvers.GEM(optax.lbfgs), "tol": 1e-15})
    np.testing.assert_allclose(got.params, case["expected"]["mle"]["value"], rtol=0, atol=1e-9 if closed else 1e-7)
    check(case, "loglik_kernel", got.log_likelihood + sum(counts) * np.log(4))


@pytest.mark.parametrize(
    "space", [jem.spaces.GaussHermite(1, 61, adaptive=False), jem.spaces.GaussHermite(1, 21)], ids=["fixed", "adaptive"]
)
def test_item_response(cases, space):
    case = load(cases, "irt_lsat6")
    got = fit(item_response(space), jnp.asarray(case["data"]["patterns"], float), weights=case["data"]["counts"], tol=1e-11)
    check(case, "2pl_loglik", got.log_likelihood)
    check(case, "2pl_intercepts", got.params["d"])
    check(case, "2pl_slopes", got.params["a"])


def test_mites(cases):
    case = load(cases, "negbin_mites")
    got = fit(mites(), jnp.arange(8.0), weights=case["data"]["counts"], tol=1e-11)
    check(case, "loglik", got.log_likelihood)
    check(case, "mean", got.params["mean"])
    check(case, "k", got.params["k"])


def test_herds(cases):
    case = load(cases, "glmm_cbpp")
    sizes, incidence = np.zeros((15, 4)), np.zeros((15, 4))
    for herd, period, size, count in zip(*(case["data"][n] for n in ("herd", "period", "size", "incidence")), strict=True):
        sizes[herd - 1, period - 1], incidence[herd - 1, period - 1] = size, count
    got = fit(herds(jem.spaces.GaussHermite(1, 25)), {"cases": incidence, "size": sizes}, tol=1e-11)
    check(case, "loglik_without_constants", got.log_likelihood)
    check(case, "beta", [got.params["beta"][0], *got.params["beta"][1:]])
    check(case, "sigma", got.params["sigma"])

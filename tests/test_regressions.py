"""Regressions as families: least squares and reweighted least squares in NumPy, the laws, compositions, and what has no top."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem.node import SEPARATED

N = 120
rng = np.random.default_rng(0)
U = rng.standard_normal((N, 2)) * [1, 2] + [0, 3]
ONES = np.c_[U, np.ones(N)]
ETA = U @ [0.5, -0.3] + 0.2
NOISE = rng.standard_normal((N, 2)) @ [[1, 0.5], [0, 0.6]]
X = jem.Given(U @ [[1.0, -2.0], [0.3, 0.7]] + [1, -2] + NOISE, U)
WEIGHTS = np.arange(N) % 3 * 1.0
COVARIANCES = {"full": jem.covariance.Full(), "diagonal": jem.covariance.Diagonal(), "spherical": jem.covariance.Spherical()}
GLMS = {
    "poisson": (jem.Poisson(), rng.poisson(np.exp(ETA))),
    "bernoulli": (jem.Bernoulli(), rng.random(N) < 1 / (1 + np.exp(-ETA))),
    "binomial": (jem.Binomial(10), rng.binomial(10, 1 / (1 + np.exp(-ETA)))),
    "gamma": (jem.Gamma(), rng.gamma(3.0, np.exp(ETA) / 3)),
    "negative_binomial": (jem.NegativeBinomial(), rng.poisson(np.exp(ETA) * rng.gamma(1.5, 1 / 1.5, N))),
}


def fitted(model, x, weights=None, **options):
    return jem.fit(model, jem.init(model, jax.random.key(0), x, weights), x, weights=weights, **options).check()


def least_squares(ridge=0.0):
    """Coefficients (3, 2), the intercept last, and the covariance of what is left, of weighted rows."""
    w = np.diag(WEIGHTS)
    gram = ONES.T @ w @ ONES + ridge * np.diag([1, 1, 0])
    coef = np.linalg.solve(gram, ONES.T @ w @ X.outputs)
    left = X.outputs - ONES @ coef
    return coef, left.T @ w @ left / WEIGHTS.sum()


@pytest.mark.parametrize("structure", COVARIANCES)
def test_least_squares(structure, x64):
    """In one step, whatever the structure; a row of weight 0 may hold anything."""
    outputs = np.where(WEIGHTS[:, None] > 0, X.outputs, np.nan)
    found = fitted(jem.Linear(jem.Gaussian(COVARIANCES[structure])), jem.Given(outputs, U), WEIGHTS)
    coef, covariance = least_squares()
    assert int(found.num_steps) <= 2
    np.testing.assert_allclose(found.params.coef, coef[:2].T, rtol=1e-10)
    np.testing.assert_allclose(found.params.intercept, coef[2], rtol=1e-10)
    kept = {"full": covariance, "diagonal": np.diag(np.diag(covariance)), "spherical": np.trace(covariance) / 2 * np.eye(2)}
    np.testing.assert_allclose(found.params.covariance, kept[structure], rtol=1e-10, atol=1e-14)


def test_ridge(x64):
    """The coefficients are those of ridge regression; a prior as strong as you like leaves the intercept."""
    np.testing.assert_allclose(fitted(jem.Linear(ridge=2.0), X, WEIGHTS).params.coef, least_squares(2.0)[0][:2].T, rtol=1e-10)
    strong = fitted(jem.Linear(ridge=1e9), X, WEIGHTS).params
    np.testing.assert_allclose(strong.coef, 0, atol=1e-6)
    np.testing.assert_allclose(strong.intercept, np.average(X.outputs, axis=0, weights=WEIGHTS), atol=1e-5)


def test_inputs_far_from_zero():
    """In float32, about their centre, nothing is lost."""
    far = jem.Given(X.outputs.astype(np.float32), (U + [1e4, -3e4]).astype(np.float32))
    found = fitted(jem.Linear(), far).params
    coef = np.linalg.lstsq(ONES, X.outputs, rcond=None)[0]
    np.testing.assert_allclose(found.coef, coef[:2].T, atol=2e-3)  # the inputs themselves lose 1e-3
    left = X.outputs - ONES @ coef
    np.testing.assert_allclose(found.covariance, left.T @ left / N, rtol=1e-2)


@pytest.mark.parametrize("field", ["coef", "level"])
def test_what_is_held(field, x64):
    """The rest is at its maximum: the slope vanishes along it."""
    free = fitted(jem.Linear(), X).params
    value = getattr(free, field) + 0.3
    start = free._replace(**{field: value})
    model = jem.Frozen(jem.Linear(), field)
    found = jem.fit(model, start, X, stop=jem.stop.Remaining(1e-12)).check().params
    slope = jax.grad(lambda p: jnp.sum(jem.log_prob(jem.Linear(), p, X)))(found)
    np.testing.assert_allclose(getattr(found, field), value, rtol=1e-12)
    np.testing.assert_allclose(slope.coef if field == "level" else slope.level, 0, atol=1e-4)


@pytest.mark.parametrize("name", GLMS)
def test_reweighted_least_squares(name, x64):
    """The slope of the likelihood vanishes; of integer weights it is that of rows repeated."""
    family, y = GLMS[name]
    x, model = jem.Given(y[:, None].astype(float), U), jem.GLM(family)
    found = fitted(model, x, WEIGHTS, stop=jem.stop.Remaining(1e-12))
    eta = U @ found.params.coef[0] + found.params.intercept[0]
    mean = {"bernoulli": 1 / (1 + np.exp(-eta)), "binomial": 10 / (1 + np.exp(-eta))}.get(name, np.exp(eta))
    size = found.params.concentration
    variance = {"gamma": lambda: mean, "negative_binomial": lambda: 1 + mean / size[0]}.get(name, lambda: 1)()
    away = (y - mean) * WEIGHTS / variance
    np.testing.assert_allclose(ONES.T @ away, 0, atol=1e-4)
    rows = np.repeat(np.arange(N), WEIGHTS.astype(int))
    again = jem.log_prob(model, found.params, jem.Given(x.outputs[rows], U[rows])).sum()
    np.testing.assert_allclose(found.log_likelihood, again, rtol=1e-12)
    assert int(found.num_steps) < (25 if name == "negative_binomial" else 15)


@pytest.mark.parametrize("name", ["poisson", "gamma"])
def test_plain_steps_climb(name, x64):
    """From far away, where a Newton step would overshoot, and to the end in a few."""
    family, y = GLMS[name]
    x, model = jem.Given(y[:, None].astype(float), U), jem.GLM(family, ridge=1e-3)
    start = jem.init(model, jax.random.key(0), x)._replace(coef=jnp.array([[-3.0, 2.0]]))
    found = jem.fit(model, start, x, solver=jem.solvers.EM()).check()
    gains = np.diff(found.trace[: int(found.num_steps) + 1])
    assert (gains > -1e-9 * abs(found.objective)).all()
    np.testing.assert_allclose(found.objective, fitted(model, x).objective, rtol=1e-6)


@pytest.mark.parametrize("solver", [jem.solvers.EM(), jem.solvers.Anderson()], ids=["EM", "Anderson"])
def test_groups_that_an_input_separates(solver, x64):
    """There is no maximum, and the status says so; with a prior there is."""
    x, model = jem.Given((U[:, :1] > 0).astype(float), U), jem.GLM(jem.Bernoulli())
    found = jem.fit(model, jem.init(model, jax.random.key(0), x), x, solver=solver)
    assert found.status == jem.Status.DEGENERATE and found.cause == SEPARATED
    with pytest.raises(jem.FitError, match="ridge="):
        found.check()
    assert 1 < float(fitted(jem.GLM(jem.Bernoulli(), ridge=0.1), x).params.coef[0, 0]) < 20


CHECKED = {
    "linear": (jem.Linear(ridge=0.5), X),
    "student": (jem.Linear(jem.StudentT(jem.covariance.Diagonal())), X),
    **{name: (jem.GLM(family, ridge=0.5), jem.Given(y[:, None].astype(float), U)) for name, (family, y) in GLMS.items()},
}


@pytest.mark.parametrize("name", CHECKED)
def test_laws(name, x64):
    model, x = CHECKED[name]
    done = jem.testing.check_node(model, jem.init(model, jax.random.key(0), x), x)
    assert {"fisher", "ascent", "additive", "sample"} <= set(done)


def test_a_mixture_of_experts(x64):
    """Inputs choose the component, and are its inputs too."""
    gen = np.random.default_rng(1)
    u = gen.uniform(-2, 2, (600, 1))
    first = gen.random((600, 1)) < 1 / (1 + np.exp(-3 * u))
    y = np.where(first, 1 + 2 * u, -1 - u) + 0.3 * gen.standard_normal((600, 1))
    gate = jem.laws.Gate(lambda g, u: jnp.append(0.0, g[0] + g[1] * u[0]), jnp.array([0.0, -1.0]))
    x, experts = jem.Given(y, u), jem.Mixture(jem.Linear(), 2)
    model = jem.Mixture(jem.Linear(), 2, weights=gate)
    best = jem.fit_restarts(experts, jax.random.key(0), x, num_restarts=4).best()
    start = jem.Mixture.Params(jnp.array([0.0, -1.0]), best.params.components)
    found = jem.fit(model, start, x, solver=jem.solvers.GEM(optax_lbfgs())).check()
    assert float(found.log_likelihood) > float(best.log_likelihood) + 50
    np.testing.assert_allclose(np.sort(found.params.components.coef[:, 0, 0]), [-1, 2], atol=0.1)
    drawn = jem.sample(model, jax.random.key(0), found.params, like=x)[1]
    assert drawn.outputs.shape == y.shape and jnp.all(drawn.inputs == u)


def optax_lbfgs():
    import optax

    return optax.lbfgs


def test_a_switching_regression(x64):
    """The state of a chain chooses the line; sequences of unequal lengths."""
    gen = np.random.default_rng(2)
    u = gen.standard_normal((6, 50, 1))
    state = np.cumsum(gen.random((6, 50, 1)) < 0.05, 1) % 2
    y = np.where(state == 0, 2 * u, 1 - u) + 0.2 * gen.standard_normal(u.shape)
    x = jem.Sequences(jem.Given(y, u), jnp.array([50, 40, 50, 30, 50, 50]))
    model = jem.HMM(jem.Linear(), 2)
    best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=4).best().check()
    np.testing.assert_allclose(np.sort(best.params.emission.coef[:, 0, 0]), [-1, 2], atol=0.1)
    assert jem.decode(model, best.params, x)[0].shape == (6, 50)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (jem.Linear(), X.outputs, "Linear: x must be jem.Given"),
        (jem.GLM(), X.outputs, "GLM: x must be jem.Given"),
        (jem.GLM(), jem.Given(X.outputs, U), "Poisson"),
        (jem.Linear(), jem.Given(X.outputs, U[:, 0]), "inputs"),
    ],
)
def test_what_the_door_says(model, x, message):
    with pytest.raises(ValueError, match=message):
        jem.init(model, jax.random.key(0), x)


def test_no_such_family():
    with pytest.raises(TypeError, match="family must be one of jem.Poisson"):
        jem.GLM(jem.Gaussian())
    with pytest.raises(TypeError, match="noise"):
        jem.Linear(jem.Poisson())
    with pytest.raises(TypeError, match="like="):
        jem.sample(jem.GLM(), jax.random.key(0), jem.GLM().params([[1.0]], [0.0]), 3)

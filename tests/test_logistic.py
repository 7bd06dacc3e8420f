"""Categories, offsets, sharing and holding in regressions; logistic weights and logistic transitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

import jem
from jem.node import SEPARATED

N = 150
rng = np.random.default_rng(0)
U = rng.standard_normal((N, 2)) * [1, 2] + [0, 3]
ONES = np.c_[np.ones(N), U]
LOGITS = ONES @ np.array([[0.0, 0.2, -1.0], [0.0, 0.5, -0.2], [0.0, -0.3, 0.4]])
CHOICES = (np.exp(LOGITS - np.logaddexp.reduce(LOGITS, 1, keepdims=True)).cumsum(1) < rng.random((N, 1))).sum(1)
KIND = rng.integers(0, 2, N)
COUNTS = rng.poisson(np.exp(U @ [0.3, -0.2] + np.where(KIND, 2.0, -0.5)))
X = jem.Given(COUNTS[:, None].astype(float), U)
CLOSE = jem.stop.Remaining(1e-10)


def fitted(model, x, weights=None, **options):
    return jem.fit(model, jem.init(model, jax.random.key(0), x, weights), x, weights=weights, **options).check()


def line(params):
    """Intercepts and coefficients (D, p + 1)."""
    return np.c_[params.intercept, params.coef]


def test_multinomial_logistic(x64):
    """The maximum of a log-likelihood written in NumPy; counts of each category are its rows put together."""
    found = fitted(jem.GLM(jem.Categorical(3)), jem.Given(CHOICES, U), stop=CLOSE)

    def falls(b):
        eta = np.c_[np.zeros(N), ONES @ b.reshape(2, 3).T]
        log = eta - np.logaddexp.reduce(eta, 1, keepdims=True)
        hot = np.eye(3)[CHOICES]
        return -np.sum(hot * log), -((hot - np.exp(log))[:, 1:].T @ ONES).ravel()

    best = minimize(falls, np.zeros(6), jac=True, method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(found.log_likelihood, -best.fun, rtol=1e-10)
    np.testing.assert_allclose(line(found.params), best.x.reshape(2, 3), atol=1e-5)
    few = U[:10]
    tables = np.stack([np.bincount(c, minlength=3) for c in CHOICES.reshape(10, 15)]).astype(float)
    rows = jem.Given(np.repeat(np.tile(np.arange(3), 10), tables.astype(int).ravel()), np.repeat(few, 15, 0))
    counts = fitted(jem.GLM(jem.Multinomial()), jem.Given(tables, few), stop=CLOSE).params
    np.testing.assert_allclose(line(counts), line(fitted(jem.GLM(jem.Categorical(3)), rows, stop=CLOSE).params), atol=1e-6)


def test_an_exposure(x64):
    """An offset is added as it is: the rate of each unit of exposure."""
    exposure = rng.gamma(2.0, 1.0, N)
    y = rng.poisson(exposure * np.exp(0.3 * U[:, 0]))[:, None].astype(float)
    found = fitted(jem.GLM(jem.Poisson(), offset=True), jem.Given(y, np.c_[U[:, :1], np.log(exposure)]), stop=CLOSE).params
    assert found.coef.shape == (1, 1)
    mean = exposure * np.exp(found.intercept[0] + U[:, 0] * found.coef[0, 0])
    np.testing.assert_allclose(np.c_[np.ones(N), U[:, 0]].T @ (y[:, 0] - mean), 0, atol=1e-5)


@pytest.mark.parametrize("field", ["coef", "level"])
def test_what_is_held(field, x64):
    """What is held stays, and along the rest the slope vanishes, of predictors that hang together too."""
    x, free = jem.Given(CHOICES, U), jem.GLM(jem.Categorical(3))
    start = jem.init(free, jax.random.key(0), x)
    start = start._replace(**{field: getattr(start, field) + 0.1})
    found = jem.fit(jem.Frozen(free, field), start, x, stop=CLOSE).check().params
    slope = jax.grad(lambda p: jnp.sum(jem.log_prob(free, p, x)))(found)
    np.testing.assert_array_equal(getattr(found, field), getattr(start, field))
    np.testing.assert_allclose(slope.coef if field == "level" else slope.level, 0, atol=1e-3)


SHARED = {
    "noise": (jem.Linear(), ("whitening",), jem.Given(np.log(X.outputs + 1), U)),
    "coefficients": (jem.GLM(jem.Poisson()), ("coef",), X),
    "sizes": (jem.GLM(jem.NegativeBinomial()), ("coef", "concentration"), X),
    "categories": (jem.GLM(jem.Categorical(3), ridge=0.5), ("coef",), jem.Labelled(jem.Given(CHOICES, U), KIND)),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_is_shared(name, x64):
    """Nothing is left to climb in what is shared and what is not, and plain steps climb."""
    node, fields, x = SHARED[name]
    model = jem.Mixture(jem.Tied(node, 2, *fields))
    start = jem.init(model, jax.random.key(0), x)
    found = jem.fit(model, start, x, stop=CLOSE).check()
    shared = getattr(found.params.components, fields[0])
    assert shared.shape == getattr(start.components, fields[0]).shape and shared.shape[0] != 2 or name == "categories"

    def objective(p):
        return jnp.sum(jem.log_prob(model, p, x)) + model.log_prior(p)

    slope = jax.grad(objective)(found.params).components
    np.testing.assert_allclose(slope.coef, 0, atol=2e-3)
    np.testing.assert_allclose(slope.level, 0, atol=2e-3)
    plain = jem.fit(model, start, x, solver=jem.solvers.EM(), max_steps=10)
    assert np.all(np.diff(plain.trace[:10]) > -1e-9)


def experts():
    """Two lines, and an input that says which of them it is."""
    gen = np.random.default_rng(1)
    u = gen.uniform(-2, 2, (300, 1))
    y = np.where(gen.random((300, 1)) < 1 / (1 + np.exp(-3 * u)), 1 + 2 * u, -1 - u) + 0.3 * gen.standard_normal((300, 1))
    return jem.Given(y, u)


def test_logistic_weights_are_a_linear_gate(x64):
    """As high as along gradients; the laws; labels, draws and hard EM as of any weights."""
    x, model = experts(), jem.Mixture(jem.Linear(), 2, weights=jem.laws.Logistic())
    found = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=4, stop=CLOSE).best().check()
    law = found.params.weights
    gate = jem.laws.Gate(lambda g, u: jnp.append(0.0, g[0] + g[1] * u[0]), jnp.array([0.0, 1.0]))
    start = jem.Mixture.Params(jnp.array([law.intercept[0], law.coef[0, 0]]), found.params.components)
    other = jem.Mixture(jem.Linear(), 2, weights=gate)
    np.testing.assert_allclose(jem.log_prob(model, found.params, x), jem.log_prob(other, start, x), rtol=1e-10)
    moved = start._replace(weights=start.weights + 0.2)
    climbed = jem.fit(other, moved, x, solver=jem.solvers.GEM(optax.lbfgs)).check()
    np.testing.assert_allclose(climbed.log_likelihood, found.log_likelihood, atol=2e-3)
    assert {"fisher", "ascent", "additive"} <= set(jem.testing.check_node(model, found.params, x))
    (labels, _), drawn = jem.sample(model, jax.random.key(0), found.params, like=x)
    assert np.mean(np.asarray(labels)[np.asarray(x.inputs[:, 0] * law.coef[0, 0] > 3)]) > 0.9
    assert drawn.outputs.shape == (300, 1)
    hard = jem.fit(model, found.params, x, solver=jem.solvers.Hard())
    assert hard.status in (jem.Status.CONVERGED, jem.Status.MAX_STEPS) and np.isfinite(hard.log_likelihood)


def test_components_change_places(x64):
    """The weights of three components, in another order, are those of the components in that order."""
    law = jem.laws.Logistic()
    params = law.params(rng.standard_normal((2, 2)), rng.standard_normal(2))
    order = jnp.array([2, 0, 1])
    want = law.infer(params, U.T)[1][order]
    np.testing.assert_allclose(law.infer(law.permute(params, order), U.T)[1], want, rtol=1e-12)


def test_weights_that_an_input_separates(x64):
    u = np.repeat([-1.0, 1.0], 20)[:, None] + 0.01 * np.arange(40)[:, None]
    x = jem.Given(50 * np.sign(u) + np.sin(9 * u), u)
    model = jem.Mixture(jem.Gaussian(), 2, weights=jem.laws.Logistic())
    found = jem.fit(model, jem.init(model, jax.random.key(0), x), x)
    assert found.status == jem.Status.DEGENERATE and found.cause == SEPARATED
    held = jem.Mixture(jem.Gaussian(), 2, weights=jem.laws.Logistic(ridge=1.0))
    assert 0.5 < abs(float(fitted(held, x).params.weights.coef[0, 0])) < 10


def switching():
    """Counts of sequences whose inputs move the state and the counts."""
    gen = np.random.default_rng(3)
    u, state = gen.standard_normal((20, 30, 1)), np.zeros((20, 30, 1), int)
    for t in range(1, 30):
        leans = np.where(state[:, t - 1] == 0, -1 + 2 * u[:, t], 1.5 + u[:, t])
        state[:, t] = gen.random((20, 1)) < 1 / (1 + np.exp(-leans))
    return jem.Given(gen.poisson(np.exp(0.3 + 1.5 * state + 0.3 * u)).astype(float), u)


def test_logistic_transitions_are_driven_ones(x64):
    """The density is that of a driven chain, whose emissions may take inputs too; more is climbed than without inputs."""
    x = switching()
    model = jem.HMM(jem.GLM(jem.Poisson()), 2, transition=jem.laws.LogisticCells())
    found = fitted(model, jem.Sequences(x, jnp.array([30, 20] * 10)))
    law = found.params.transition
    start = {"a": law.intercept[..., 0], "b": law.coef[..., 0, 0]}
    logits = lambda p, u: jnp.stack([jnp.zeros(2), p["a"] + p["b"] * u[0]], 1)  # noqa: E731
    driven = jem.HMM(jem.GLM(jem.Poisson()), 2, transition=jem.laws.Driven(logits, start))
    same = found.params._replace(transition=start)
    np.testing.assert_allclose(jem.log_prob(model, found.params, x), jem.log_prob(driven, same, x), rtol=1e-10)
    free = fitted(jem.HMM(jem.GLM(jem.Poisson()), 2), jem.Sequences(x, jnp.array([30, 20] * 10)))
    assert float(found.log_likelihood) > float(free.log_likelihood) + 20
    np.testing.assert_allclose(np.sort(np.abs(law.coef).ravel()), [1, 2], atol=0.5)
    path, drawn = jem.sample(model, jax.random.key(0), found.params, like=x)
    assert path.shape == (20, 30) and drawn.inputs.shape == x.inputs.shape
    assert jem.decode(model, found.params, x)[0].shape == (20, 30)


def test_parts_and_components_see_the_inputs_they_take(x64):
    """Of a unit with outputs of two kinds, and of components of which only one is a regression."""
    x = experts()
    parts = jem.Given({"y": x.outputs, "kind": np.arange(300) % 2}, x.inputs)
    model = jem.Mixture(jem.Product(y=jem.Linear(), kind=jem.Categorical(2)), 2)
    found = jem.fit_restarts(model, jax.random.key(0), parts, num_restarts=4).best().check()
    np.testing.assert_allclose(np.sort(found.params.components["y"].coef.ravel()), [-1, 2], atol=0.2)
    drawn = jem.sample(model, jax.random.key(0), found.params, like=parts)[1]
    assert drawn.outputs["kind"].shape == (300,) and np.array_equal(drawn.inputs, x.inputs)
    model = jem.Mixture(jem.OneOf(jem.Linear(), jem.Gaussian()))
    params = fitted(model, x).params
    line, blob = params.components
    own = jem.log_prob(jem.Linear(), line, x), jem.log_prob(jem.Gaussian(), blob, x.outputs)
    want = np.logaddexp(*(np.log(w) + lp for w, lp in zip(params.weights, own, strict=True)))
    np.testing.assert_allclose(jem.log_prob(model, params, x), want, rtol=1e-12)
    assert jem.sample(model, jax.random.key(0), params, like=x)[1].outputs.shape == (300, 1)
    with pytest.raises(ValueError, match="columns"):
        jem.init(jem.Linear(columns=(0, 3)), jax.random.key(0), x)
    with pytest.raises(TypeError, match="tuple of columns"):
        jem.GLM(columns=[0])


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (jem.GLM(jem.Categorical(2)), jem.Given(CHOICES, U), "Categorical"),
        (jem.GLM(offset=True), jem.Given(X.outputs, U[:, :0]), "offset=True"),
        (jem.Mixture(jem.Gaussian(), 2, weights=jem.laws.Logistic()), X.outputs, "jem.Given"),
        (jem.HMM(jem.Poisson(), 2, transition=jem.laws.LogisticCells()), np.ones((2, 5, 1)), "jem.Given"),
    ],
)
def test_what_the_door_says(model, x, message):
    with pytest.raises(ValueError, match=message):
        jem.init(model, jax.random.key(0), x)

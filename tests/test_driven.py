"""Chains and mixtures with parts that have no closed form: stationary starts, driven transitions, gates, networks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jem
from jem.kernels.stationary import stationary

LBFGS = jem.solvers.GEM(optax.lbfgs, linesearch=None)


# A stationary start --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5])
def test_stationary_distribution(x64, size):
    matrix = jnp.asarray(np.random.default_rng(size).dirichlet(np.full(size, 0.3), size))
    pi = stationary(matrix)
    np.testing.assert_allclose(pi @ matrix, pi, atol=1e-15)
    assert float(jnp.sum(pi)) == pytest.approx(1)
    hardly = jnp.array([[1 - 1e-14, 1e-14], [1e-16, 1.0]])  # to full precision where the eigenvector is ill-conditioned
    np.testing.assert_allclose(stationary(hardly), [1e-2 / 1.01, 1 / 1.01], rtol=1e-12)


def test_earthquakes(x64):
    """Zucchini and MacDonald (2009), table 3.1: three stationary states, -log L = 329.4603."""
    x = jem.datasets.earthquakes()[1].astype(float).reshape(1, -1, 1)
    model = jem.HMM(jem.Poisson(), 3, initial=jem.laws.Stationary())
    fit = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=3, solver=LBFGS, stop=jem.stop.RelativeGain(1e-10)).best()
    assert fit.log_likelihood == pytest.approx(-329.4603, abs=1e-4)
    np.testing.assert_allclose(np.sort(fit.params.emission.rate[:, 0]), [13.146, 19.721, 29.714], atol=2e-3)
    np.testing.assert_allclose(np.sort(model.law(fit.params)[0]), [0.1519, 0.4045, 0.4436], atol=2e-4)
    assert jem.num_parameters(model, fit.params) == 9
    assert jem.decode(model, fit.params, x)[1] < fit.log_likelihood
    assert jem.predict(model, fit.params, x, 2).shape == (1, 2, 3)


# Driven transitions ----------------------------------------------------------------------------------------------------


def logits(params, u):
    return params["constant"] + params["slope"] @ u


def driven_data(num=3, length=4, seed=0):
    rng = np.random.default_rng(seed)
    return jem.Given(
        jnp.asarray(rng.poisson(3.0, (num, length, 1)), float), jnp.asarray(rng.standard_normal((num, length, 2)))
    )


def driven_model():
    start = {"constant": jnp.array([[1.0, 0.0], [0.0, 1.5]]), "slope": jnp.arange(8.0).reshape(2, 2, 2) / 8}
    return jem.HMM(jem.Poisson(), 2, transition=jem.laws.Driven(logits, start))


def path_log_prob(model, params, y, u, path):
    """Log-probability of one sequence with one path, term by term."""
    rate = np.asarray(params.emission.rate[:, 0])
    matrices = [np.asarray(jax.nn.log_softmax(logits(params.transition, v), -1)) for v in u]
    total = np.log(params.initial[path[0]])
    for t, state in enumerate(path):
        count = float(y[t, 0])
        total += count * np.log(rate[state]) - rate[state] - float(jax.scipy.special.gammaln(count + 1))
        total += matrices[t][path[t - 1], state] if t else 0.0
    return float(total)


def test_driven_chain_by_enumeration(x64):
    """Log-likelihoods, posteriors and best paths of short sequences, of unequal lengths, over all paths."""
    x, model = driven_data(), driven_model()
    lengths = jnp.array([4, 2, 3])
    data = jem.Sequences(x, lengths)
    params = jem.init(model, jax.random.key(1), data)._replace(emission=jem.Poisson.Params(jnp.array([[2.0], [4.0]])))
    posterior, log_prob = jem.infer(model, params, data)
    best, best_log_prob = jem.decode(model, params, data)
    for s in range(3):
        length = int(lengths[s])
        paths = list(itertools.product(range(2), repeat=length))
        logs = np.array([path_log_prob(model, params, x.outputs[s], x.inputs[s], p) for p in paths])
        assert float(log_prob[s]) == pytest.approx(np.logaddexp.reduce(logs), rel=1e-12)
        q = np.exp(logs - np.logaddexp.reduce(logs))
        for t in range(length):
            one = sum(w for w, p in zip(q, paths, strict=True) if p[t] == 1)
            assert float(posterior.smoothed[s, t, 1]) == pytest.approx(one, abs=1e-12)
        assert tuple(best[s, :length].tolist()) == paths[int(np.argmax(logs))]
        assert float(best_log_prob[s]) == pytest.approx(logs.max(), rel=1e-12)


@jax.jit
def slopes(model, params, x, stats, free):
    """Gradients of Q and of the log-likelihood in free coordinates."""
    at = lambda f: jem.constrain(model, f, params)
    q = jax.grad(lambda f: model.expected_log_prob(at(f), stats, params))(free)
    return q, jax.grad(lambda f: jnp.sum(jem.log_prob(model, at(f), x)))(free)


def test_driven_chain_climbs_by_fisher(x64):
    """The gradient of Q at old is that of the log-likelihood; without inputs the chain is an ordinary one."""
    x, model = driven_data(20, 5), driven_model()
    params = jem.init(model, jax.random.key(1), x)
    free = jem.unconstrain(model, params)
    stats, _ = jem.e_step(model, params, x)
    q, score = slopes(model, params, x, stats, free)
    for got, want in zip(jax.tree.leaves(q), jax.tree.leaves(score), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-10)
    idle = jem.Given(x.outputs, jnp.zeros_like(x.inputs))
    plain = jem.HMM(jem.Poisson(), 2)
    matrix = jax.nn.softmax(params.transition["constant"], -1)
    same = jem.HMM.Params(params.initial, jem.laws.Cells.Params(matrix), params.emission)
    np.testing.assert_allclose(jem.log_prob(model, params, idle), jem.log_prob(plain, same, x.outputs), rtol=1e-12)
    fit = jem.fit(model, params, x, solver=LBFGS, stop=jem.stop.NeverStop(), max_steps=15)
    assert (np.diff(fit.trace) > -1e-12 * abs(fit.trace[0])).all() and fit.trace[-1] > fit.trace[0]


def test_driven_data_is_checked():
    with pytest.raises(ValueError, match="x must be jem.Given"):
        jem.init(driven_model(), jax.random.key(0), np.ones((2, 3, 1), np.float32))
    wrong = jem.HMM(jem.Poisson(), 3, transition=jem.laws.Driven(logits, driven_model().transition.child.start))
    with pytest.raises(ValueError, match=r"logits must return an array of shape \(3, 3\)"):
        jem.init(wrong, jax.random.key(0), driven_data())


# Gates and networks ------------------------------------------------------------------------------------------------------


def gate(params, u):
    return params["constant"] + params["slope"] @ u


def test_gated_mixture(x64):
    """Fisher's identity, and the same model as a log-joint; means in closed form, the gate by gradient."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal((80, 1))
    y = np.where(rng.random((80, 1)) < 1 / (1 + np.exp(-3 * u)), 2.0, -1.0) + 0.5 * rng.standard_normal((80, 1))
    x = jem.Given(jnp.asarray(y), jnp.asarray(u))
    start = {"constant": jnp.zeros(2), "slope": jnp.zeros((2, 1))}
    model = jem.Mixture(jem.Gaussian(prior=None), 2, weights=jem.laws.Gate(gate, start))
    params = jem.init(model, jax.random.key(0), x)
    free = jem.unconstrain(model, params)
    stats, _ = jem.e_step(model, params, x)
    q, score = slopes(model, params, x, stats, free)
    for got, want in zip(jax.tree.leaves(q), jax.tree.leaves(score), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-9)
    one = jem.fit(model, params, x, solver=LBFGS, stop=jem.stop.NeverStop(), max_steps=1)
    closed = jem.em_step(model, params, x)[0]
    np.testing.assert_allclose(one.params.components.mean, closed.components.mean, rtol=1e-12)
    fit = jem.fit(model, params, x, solver=LBFGS, stop=jem.stop.RelativeGain(1e-10)).check()
    order = np.argsort(fit.params.components.mean[:, 0])
    np.testing.assert_allclose(np.asarray(fit.params.components.mean)[order, 0], [-1, 2], atol=0.25)
    slope = fit.params.weights["slope"][order[1], 0] - fit.params.weights["slope"][order[0], 0]
    assert 1.5 < float(slope) < 6
    assert jem.num_parameters(model, params) == 8


def test_emissions_by_a_network():
    """One function gives the densities of all states, and sees inputs of its own."""
    rng = np.random.default_rng(0)
    x = {
        "y": jnp.asarray(rng.standard_normal((4, 6)), jnp.float32),
        "u": jnp.asarray(rng.standard_normal((4, 6, 2)), jnp.float32),
    }

    def log_emission(params, x):
        hidden = jnp.tanh(params["first"] @ x["u"])
        return -0.5 * (x["y"] - params["second"] @ hidden) ** 2 - 0.5 * jnp.log(2 * jnp.pi)

    start = {"first": 0.5 * jnp.ones((3, 2)), "second": 0.5 * jnp.ones((2, 3))}
    model = jem.HMM(jem.Density(log_emission, start, size=2, features=lambda x: x["y"][None]))
    fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=2, solver=LBFGS, stop=jem.stop.NeverStop(), max_steps=8)
    trace = np.asarray(fits.trace)
    assert (np.diff(trace) > -1e-5 * np.abs(trace[:, :1])).all() and (trace[:, -1] > trace[:, 0] + 0.1).all()


# Spaces ----------------------------------------------------------------------------------------------------------------------


def test_spaces_agree(x64):
    """Two hidden coins at once: as one set of pairs, and as two that are independent given x."""
    probs = jnp.array([[0.2, 0.6], [0.3, 0.9]])

    def pairs(p, x, z):
        z = jnp.stack([z["a"], z["b"]])
        return jnp.sum(jnp.log(0.5) + jnp.where(x == 1, jnp.log(p[jnp.arange(2), z]), jnp.log1p(-p[jnp.arange(2), z])))

    def terms(p, x, z):
        return jnp.log(0.5) + jnp.where(x == 1, jnp.log(p[:, z]), jnp.log1p(-p[:, z]))

    x = jnp.array([[0, 1], [1, 1], [0, 0]])
    both = jem.LogJoint(pairs, jem.spaces.Finite.product(a=2, b=2), probs, supports=jem.supports.Interval())
    apart = jem.LogJoint(terms, jem.spaces.Independent(2, 2), probs, supports=jem.supports.Interval())
    np.testing.assert_allclose(jem.log_prob(both, probs, x), jem.log_prob(apart, probs, x), rtol=1e-13)
    one, two = (jem.e_step(m, probs, x)[0].local for m in (both, apart))
    np.testing.assert_allclose(one.gradient, two.gradient, rtol=1e-12)
    assert jem.infer(apart, probs, x)[0].probs.shape == (3, 2, 2)


@pytest.mark.parametrize("dim", [1, 3])
def test_quadrature_of_a_normal(x64, dim):
    """y | z ~ N(A z + b, I), z ~ N(0, I): exact, with a centre and a scale of its own for every unit."""
    rng = np.random.default_rng(dim)
    a, y = jnp.asarray(rng.standard_normal((3, dim))), jnp.asarray(3 * rng.standard_normal((4, 3)))

    def log_joint(p, y, z):
        r = y - p @ z
        return -0.5 * (r @ r + z @ z) - 0.5 * (3 + dim) * jnp.log(2 * jnp.pi)

    model = jem.LogJoint(log_joint, jem.spaces.GaussHermite(dim, 3), a)
    covariance = np.eye(3) + np.asarray(a) @ np.asarray(a).T
    want = [
        -0.5 * r @ np.linalg.solve(covariance, r) - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1] for r in np.asarray(y)
    ]
    np.testing.assert_allclose(jem.log_prob(model, a, y), want, rtol=1e-10)


def test_values_of_a_space_are_checked():
    with pytest.raises(ValueError, match="values must have one leading axis"):
        jem.spaces.Finite({"a": np.arange(2), "b": np.arange(3)})


def test_inputs_labels_and_lengths_in_any_order(x64):
    """`Given` around labels or lengths is `Given` within them, for a gate, driven transitions and a state-space model."""
    rng = np.random.default_rng(0)
    y, u = rng.poisson(3.0, (5, 6, 1)).astype(float), rng.standard_normal((5, 6, 1))
    lengths, states = jnp.array([6, 2, 4, 6, 3]), np.where(np.arange(6) == 1, 1, -1) * np.ones((5, 1), int)
    driven = jem.HMM(jem.Poisson(), 2, transition=jem.laws.Driven(lambda p, u: p * u[0], np.ones((2, 2))))
    lds = jem.LDS(1, 1, 1)
    gate = jem.Mixture(jem.Poisson(), 2, weights=jem.laws.Gate(lambda p, u: p * u, np.ones(2)))
    known = jnp.array([0, -1, 1, -1, -1])
    for model, within, around in (
        (gate, jem.Labelled(jem.Given(y[:, 0], u[:, 0]), known), jem.Given(jem.Labelled(y[:, 0], known), u[:, 0])),
        (lds, jem.Sequences(jem.Given(y, u), lengths), jem.Given(jem.Sequences(y, lengths), u)),
        (
            driven,
            jem.Labelled(jem.Sequences(jem.Given(y, u), lengths), states),
            jem.Given(jem.Sequences(jem.Labelled(y, states), lengths), u),
        ),
    ):
        params = jem.init(model, jax.random.key(0), within)
        np.testing.assert_array_equal(jem.log_prob(model, params, within), jem.log_prob(model, params, around))
    labelled = jem.Labelled(jem.Given(y[:, 0], u[:, 0]), known)
    posterior, _ = jem.infer(gate, jem.init(gate, jax.random.key(0), labelled), labelled)
    np.testing.assert_array_equal(posterior.responsibilities[jnp.array([0, 2])], jnp.eye(2))

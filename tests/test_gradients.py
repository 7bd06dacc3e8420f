"""No gradient is NaN where the value is finite: zero probabilities, empty components, lost lanes, a network in training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jem
from jem.composite import Wrapper
from jem.node import replaced

A = jnp.array
DIAGONAL = jem.Gaussian(jem.covariance.Diagonal(), None)


def mixture(weights, *components):
    return jem.Mixture.Params(A(weights), jax.tree.map(lambda *leaves: jnp.stack(leaves), *components))


def zeros():
    """By name: model, parameters with exact zeros, data, and by hand the gradient of the sum of `log_prob`."""
    probs, rates = jem.Categorical.Params, jem.Poisson.Params
    three, poisson = jem.Categorical(3), jem.Poisson()
    either = jem.OneOf(jem.Stack(poisson, 2), jem.Frozen(poisson))
    chain = jem.HMM.Params(A([1.0, 0.0]), jem.laws.Cells().params([[0.5, 0.5], [0.0, 1.0]]), probs(A([[0.0, 1.0], [0.5, 0.5]])))
    return {
        "categorical": (three, probs(A([0.0, 0.25, 0.75])), A([1, 2, 1]), [[0, 8, 4 / 3]]),
        "poisson": (poisson, rates(A([0.0, 2.0])), A([[0.0, 1.0], [0.0, 3.0]]), [[-2, 0]]),
        "bernoulli": (jem.Bernoulli(), jem.Bernoulli.Params(A([0.0, 1.0, 0.5])), A([[0, 1, 1], [0, 1, 0]]), [[-2, 2, 0]]),
        "weight": (
            jem.Mixture(poisson, 2), mixture([0.0, 1.0], rates(A([1.0])), rates(A([3.0]))), A([[1.0], [2.0]]),
            [[0, 2], [[0], [-1]]],
        ),
        "components": (
            jem.Mixture(three, 2), mixture([0.5, 0.5], probs(A([0.0, 0.5, 0.5])), probs(A([0.5, 0.5, 0.0]))), A([0, 1, 2]),
            [[3, 3], [[0, 1, 2], [2, 1, 0]]],
        ),
        "one of": (
            jem.Mixture(either), jem.Mixture.Params(A([0.0, 0.5, 0.5]), (rates(A([[0.0], [3.0]])), rates(A([1.0])))),
            A([[0.0], [2.0]]), None,
        ),
        "impossible": (jem.Mixture(three, 2), mixture([1.0, 0.0], *[probs(A([0.0, 0.5, 0.5]))] * 2), A([0, 1, 2]), None),
        "chain": (jem.HMM(jem.Categorical(2), 2), chain, A([[1, 0, 1, 0, 0]]), None),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["categorical", "poisson", "bernoulli", "weight", "components", "one of", "impossible", "chain"]
)
def test_a_zero_probability_has_a_finite_gradient(x64, name):
    model, params, x, want = zeros()[name]
    total = lambda p: jnp.sum(jem.log_prob(model, p, x))
    got = jax.jit(jax.grad(total))(params)
    forwards = jax.jit(lambda p: jax.jvp(total, (p,), (got,))[1])(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    np.testing.assert_allclose(forwards, sum(np.sum(leaf**2) for leaf in jax.tree.leaves(got)), rtol=1e-12)
    for leaf, hand in zip(jax.tree.leaves(got), want or [], strict=bool(want)):
        np.testing.assert_allclose(leaf, hand, atol=1e-12)


@jem.author.node
class From(Wrapper):
    """A model that starts at one of several given parameters, as the key says."""

    child: jem.Mixture
    starts: Any  # leading axis: which

    def bind(self, x, weights):
        return replaced(self, child=self.child.bind(x, weights))

    def init(self, key, x, weights):
        index = jax.random.randint(key, (), 0, self.starts.weights.shape[0])
        return jax.tree.map(lambda leaf: leaf[index], self.starts)


def test_what_is_lost_or_empty_has_no_say_in_the_others(x64):
    """The derivative of the winner and of every sound or empty lane is the difference of fits, and of a lost one zero."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(np.r_[rng.normal(0, 1, 15), rng.normal(5, 1, 15)][:, None])
    at = lambda weights, *means: mixture(weights, *(DIAGONAL.params([m], [2.0]) for m in means))
    starts = [
        at([0.5, 0.5], 0.0, 5.0), at([1 - 1e-19, 1e-19], 2.0, 90.0), at([1.0, 0.0], 2.0, 9.0), at([1.0, jnp.nan], 0.0, 5.0)
    ]  # fmt: skip
    model = From(jem.Mixture(DIAGONAL, 2), jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts))
    options = dict(num_restarts=8, solver=jem.solvers.EM(), stop=jem.stop.RelativeGain(1e-13), max_steps=300)

    @jax.jit
    def answers(x):
        fits = jem.fit_restarts(model, jax.random.key(1), x, **options)
        best = fits.best()
        return {"each": fits.objective, "best": best.objective, "means": best.params.components.mean}, fits

    slopes, fits = jax.jit(jax.jacrev(answers, has_aux=True))(x)
    status = np.asarray(fits.adjoint.status)
    first = np.asarray(fits.params.components.mean[:, 1, 0])
    want = np.where(np.isnan(fits.params.weights[:, 1]), jem.adjoints.AdjointStatus.FAILED, jem.adjoints.AdjointStatus.SOLVED)
    assert set(first.round()) == {5, 9, 90}
    np.testing.assert_array_equal(status, np.where(first > 6, jem.adjoints.AdjointStatus.SINGULAR, want))
    assert (np.asarray(fits.status)[first > 6] == jem.Status.DEGENERATE).all() and jem.adjoints.AdjointStatus.FAILED in status

    direction, h = rng.standard_normal(x.shape), 1e-5
    ends = [answers(x + s * direction)[0] for s in (h, -h)]
    for name, slope in slopes.items():
        got = np.tensordot(slope, direction, 2)
        change = (np.asarray(ends[0][name]) - ends[1][name]) / (2 * h)
        lost = (status == jem.adjoints.AdjointStatus.FAILED) if name == "each" else np.zeros(np.shape(change), bool)
        np.testing.assert_allclose(got, np.where(lost, 0, change), atol=1e-6)


def test_an_encoder_outlives_a_component():
    """A network before a mixture: a component that holds rows at first loses them all on the way."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((24, 3)), jnp.float32)
    network = {"in": 0.5 * rng.standard_normal((3, 4)), "out": 0.5 * rng.standard_normal((4, 1)), "to": np.array([2.0])}
    network = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), network)
    model = jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 2)
    start = mixture([0.5, 0.5], DIAGONAL.params([0.0], [1.0]), DIAGONAL.params([3.0], [0.01]))
    optimiser = optax.adam(0.05)

    def loss(network):
        rows = jnp.tanh(x @ network["in"]) @ network["out"] + network["to"][None, :]
        fit = jem.fit(model, start, rows, solver=jem.solvers.EM(), stop=jem.stop.RelativeGain(1e-6), max_steps=30)
        return jnp.mean(rows**2) - 0.01 * fit.log_likelihood / 24, fit

    def train(state, _):
        network, momentum = state
        (value, fit), slope = jax.value_and_grad(loss, has_aux=True)(network)
        update, momentum = optimiser.update(slope, momentum)
        return (optax.apply_updates(network, update), momentum), (value, fit.params.weights[1], fit.status)

    begin = (network, optimiser.init(network))
    (network, _), (values, weight, status) = jax.jit(lambda s: jax.lax.scan(train, s, None, length=100))(begin)
    assert np.isfinite(values).all() and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(network))
    assert weight[0] > 0.1 and weight[-1] == 0 and status[-1] == jem.Status.DEGENERATE
    assert values[-1] < 0.1 * values[0]


CONSTANT = {
    "full": jem.Gaussian(),
    "diagonal": jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 2),
    "factor": jem.FactorAnalysis(1),
    "student": jem.StudentT(),
    "LDS": jem.LDS(1, 2),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_column_has_a_finite_gradient(name):
    """Its deviation is 0, where a root has no slope: the lane beside it keeps its own derivative."""
    model, rng = CONSTANT[name], np.random.default_rng(0)
    sound = rng.standard_t(3, (40, 2))
    sound = sound + np.cumsum(0.5 * rng.standard_normal((40, 1)), 0) if name == "LDS" else sound
    pair = jnp.asarray(np.stack([np.c_[sound[:, 0], np.ones(40)], sound]), jnp.float32)
    rows = (lambda x: x[None]) if name == "LDS" else (lambda x: x)
    start = jem.init(model, jax.random.key(0), rows(pair[1]))

    def total(x):
        fit = jem.fit(model, start, rows(x), max_steps=200)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(fit.params)), (fit.status, fit.adjoint.status)

    slopes, (status, _) = jax.jit(jax.vmap(jax.grad(total, has_aux=True)))(pair)
    alone, (_, adjoint) = jax.jit(jax.grad(total, has_aux=True))(pair[1])
    assert status[0] != jem.Status.CONVERGED
    assert np.isfinite(slopes).all()
    if adjoint == jem.adjoints.AdjointStatus.SOLVED:
        np.testing.assert_allclose(slopes[1], alone, rtol=1e-2, atol=1e-2 * float(jnp.abs(alone).max()))
        assert np.abs(alone).max() > 0
    else:
        assert name in ("LDS", "factor")  # a rotation is free, or the climb unfinished

"""Every question asked of one sequence answers rightly, or refuses; and draws are like the data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jem
from jem.ask.align import labelled_part
from jem.data import to_units
from jem.uncertainty import InformationStatus, Sandwich, resample

key = lambda: jax.random.key(0)
MODEL = jem.HMM(jem.Poisson(), 2)
MOVES = jem.laws.Cells.Params(jnp.array([[0.9, 0.1], [0.2, 0.8]]))
PARAMS = jem.HMM.Params(jnp.array([0.5, 0.5]), MOVES, jem.Poisson.Params(jnp.array([[1.0], [8.0]])))
X = jem.sample(jem.HMM(jem.Poisson(), 2, length=60), key(), PARAMS, 1)[1].astype(float)
UNITS = {
    "Weights": lambda x, w: jem.bootstrap(MODEL, key(), PARAMS, x, w, num_replicates=2),
    "Rows": lambda x, w: jem.bootstrap(MODEL, key(), PARAMS, x, num_replicates=2, replicates=resample.Rows()),
    "Sandwich": lambda x, w: jem.standard_errors(MODEL, PARAMS, x, w, method=Sandwich()),
    "OPG": lambda x, w: jem.uncertainty.information(MODEL, PARAMS, x, w, method=jem.uncertainty.OPG()),
    "leave_one_out": lambda x, w: jem.uncertainty.leave_one_out(MODEL, PARAMS, x, w),
}


@pytest.mark.parametrize("name", UNITS)
def test_what_needs_several_units_refuses(name):
    """One row, or one that counts; the way out is named."""
    with pytest.raises(ValueError, match=f"{name}: needs units.*use .*jem"):
        UNITS[name](X, None)
    if name != "Rows":
        with pytest.raises(ValueError, match=f"{name}: needs units"):
            UNITS[name](jnp.concatenate([X, X]), jnp.array([1.0, 0.0]))


def test_inside_jit_it_is_a_status():
    both, weights = jnp.concatenate([X, X])[:, :6], jnp.array([1.0, 0.0])
    found = jax.jit(lambda w: jem.bootstrap(MODEL, key(), PARAMS, both, w, num_replicates=2, max_steps=2))(weights)
    assert (found.status == jem.Status.NONFINITE).all() and np.isnan(found.standard_errors().initial).all()
    rates = jem.Poisson.Params(jnp.array([2.0]))
    errors = jax.jit(lambda w: jem.standard_errors(jem.Poisson(), rates, jnp.array([[2], [2]]), w, method=Sandwich()))
    assert int(errors(weights).status) == InformationStatus.NONFINITE and np.isnan(errors(weights).errors.rate).all()


def test_number_of_observations():
    """BIC's N: steps that were seen, by the weight of their sequence; the cells of a table by their weight."""
    penalty = lambda *a: float(jem.bic(*a) - jem.aic(*a)) / jem.num_parameters(*a[:2]) + 2
    assert penalty(MODEL, PARAMS, X) == pytest.approx(np.log(60), rel=1e-5)
    holed = X.at[0, 10:20].set(jnp.nan)
    assert penalty(MODEL, PARAMS, holed) == pytest.approx(np.log(50), rel=1e-5)
    ragged = jem.Sequences(jnp.concatenate([X, X]), jnp.array([60, 5]))
    assert penalty(MODEL, PARAMS, ragged, jnp.array([1.0, 2.0])) == pytest.approx(np.log(70), rel=1e-5)
    table = jem.Poisson.Params(jnp.array([2.0])), jnp.array([[1], [4]]), jnp.array([9, 3])
    assert penalty(jem.Poisson(), *table) == pytest.approx(np.log(12), rel=1e-5)
    count = lambda node, x: node.num_observations(to_units(x)).tolist()
    nan = jnp.nan
    cells = jnp.array([[[1.0, nan], [nan, nan], [0.0, 2.0]], [[1.0, 1.0], [2.0, 1.0], [0.0, nan]]])
    assert count(jem.LDS(1, 2), cells) == [2, 3]
    assert count(jem.Mixture(jem.LDS(1, 2), 2), jem.Sequences(cells, jnp.array([2, 1]))) == [1, 1]
    part = jem.Missing(jem.Gaussian())
    assert count(jem.Product(a=part, b=part), {"a": jnp.array([[nan], [1.0]]), "b": jnp.array([[nan], [nan]])}) == [0, 1]
    parts = jem.HMM(jem.Product(a=part, b=part), 2)
    assert count(parts, {"a": jnp.array([[[nan], [1.0]]]), "b": jnp.array([[[2.0], [nan]]])}) == [2]
    gate = jem.Mixture(jem.Poisson(), 2, weights=jem.laws.Gate(lambda p, u: p * u, np.ones(2)))
    assert count(gate, jem.Given(jnp.ones((3, 1)), jnp.ones((3, 1)))) == [1, 1, 1]
    space = jem.spaces.ChainOf(2, lambda p: p[:2], lambda p: jnp.zeros((2, 2)))
    assert count(jem.LogJoint(lambda p, x, z: x[0], space, np.zeros(2)), ragged) == [60, 5]


def test_a_sweep_of_chains():
    """By BIC, with the steps as N: one state is not enough, and ICL is not defined."""
    models = {k: jem.HMM(jem.Poisson(), k) for k in (1, 2)}
    table = jem.sweep(models, key(), X, num_restarts=2, max_steps=30)
    assert table.best() == 2 and np.isnan([row.icl for row in table.rows]).all()


def test_replicates_are_like_the_data():
    """The errors of one sequence from replicates of its length, close to those of the information."""
    params = jem.fit(MODEL, PARAMS, X, stop=jem.stop.RelativeGain(1e-6)).params
    found = jem.bootstrap(
        MODEL, key(), params, X, num_replicates=100, replicates=resample.FromModel(), stop=jem.stop.RelativeGain(1e-5),
        max_steps=60,
    )
    want = jem.standard_errors(MODEL, params, X).errors.emission.rate
    np.testing.assert_allclose(found.standard_errors().emission.rate, want, rtol=0.35)
    assert float(jnp.abs(jem.uncertainty.influence(MODEL, params, X).derivatives.emission.rate).max()) < 0.05


def gaps(x):
    return [np.isnan(leaf).tolist() for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def test_draws_like_data():
    """Lengths, inputs and gaps are those of the data; labels that are known are drawn, and stay known."""
    rng = np.random.default_rng(0)
    ragged = jem.sequences([np.ones((4, 1)), np.ones((2, 1))])
    ragged = ragged._replace(values=ragged.values.at[0, 1].set(jnp.nan))
    path, drawn = jem.sample(MODEL, key(), PARAMS, like=ragged)
    assert path.shape == (2, 4) and drawn.lengths.tolist() == [4, 2] and gaps(drawn) == gaps(ragged)
    assert jem.sample(MODEL, key(), PARAMS, 3, like=ragged)[1].lengths.tolist() == [4, 2, 4]
    labels = jnp.array([[0, -1, 1, -1], [1, 1, -1, -1]])
    path, drawn = jem.sample(MODEL, key(), PARAMS, like=jem.Labelled(ragged, labels))
    assert (drawn.labels == jnp.where(labels >= 0, path, -1)).all() and drawn.values.lengths.tolist() == [4, 2]

    stay = jem.HMM(jem.Poisson(), 2, initial=jem.laws.Stationary())
    assert gaps(jem.sample(stay, key(), PARAMS._replace(initial=()), like=ragged)[1]) == gaps(ragged)
    inputs = jnp.asarray(rng.choice([-1.0, 1.0], (2, 40, 1)))
    moves = jem.laws.Driven(lambda p, u: p + 20 * u[0] * jnp.array([[1.0, -1.0], [1.0, -1.0]]), np.zeros((2, 2)))
    law = jem.HMM(jem.Poisson(), 2, transition=moves)
    driven = jem.Sequences(jem.Given(jnp.ones((2, 40, 1)), inputs), jnp.array([40, 3]))
    path, drawn = jem.sample(law, key(), PARAMS._replace(transition=jnp.zeros((2, 2))), like=driven)
    assert (drawn.values.inputs == inputs).all() and drawn.lengths.tolist() == [40, 3]
    assert (path[0, 1:] == jnp.where(inputs[0, 1:, 0] > 0, 0, 1)).all()  # the input decides

    gate = jem.Mixture(jem.Poisson(), 2, weights=jem.laws.Gate(lambda p, u: p * u, np.array([20.0, -20.0])))
    rows = jem.Given(jnp.ones((40, 1)), inputs[0])
    (labels, _), drawn = jem.sample(gate, key(), jem.Mixture.Params(gate.weights.child.start, PARAMS.emission), like=rows)
    assert (labels == jnp.where(inputs[0, :, 0] > 0, 0, 1)).all() and (drawn.inputs == rows.inputs).all()
    for node, params in ((gate, jem.Mixture.Params(gate.weights.child.start, PARAMS.emission)), (law, PARAMS)):
        with pytest.raises(TypeError, match="like=x"):
            jem.sample(node, key(), params, 3)

    walk = jem.LDS(1, 1, 1, fixed={"A": [[1]], "C": [[1]], "B": [[1]]})
    series = jem.Sequences(jem.Given(jnp.ones((2, 5, 1)).at[0, 2].set(jnp.nan), 1e4 * jnp.ones((2, 5, 1))), jnp.array([5, 4]))
    drawn = jem.sample(walk, key(), walk.params(), like=series)[1]
    assert gaps(drawn) == gaps(series) and float(drawn.values.outputs[1, 3, 0]) > 2e4

    mixture = jem.Mixture(jem.Missing(jem.Gaussian()), 2)
    params = jem.init(jem.Mixture(jem.Gaussian(), 2), key(), [[0.0], [9.0]])
    known = jem.Labelled(jnp.array([[0.0], [jnp.nan], [1.0], [2.0]]), jnp.array([0, 1, -1, 1]))
    (labels, _), drawn = jem.sample(mixture, key(), params, like=known)
    assert gaps(drawn) == gaps(known) and (drawn.labels == jnp.where(known.labels >= 0, labels, -1)).all()
    sets = known._replace(labels=jnp.array([[True, False], [False, True], [True, True], [False, True]]))
    (labels, _), drawn = jem.sample(mixture, key(), params, like=sets)
    assert labels[jnp.array([0, 1, 3])].tolist() == [0, 1, 1] and (drawn.labels == sets.labels).all()


def test_draws_of_another_form_are_refused():
    """A user's sampler draws one unit of a length of its own."""
    model = jem.Density(lambda p, x: -jnp.sum((x - p) ** 2), np.zeros(()), sample=lambda k, p: jax.random.normal(k, (3,)))
    assert jem.sample(model, key(), jnp.zeros(()), like=jnp.zeros((2, 3)))[1].shape == (2, 3)
    with pytest.raises(ValueError, match="the model draws units"):
        jem.sample(model, key(), jnp.zeros(()), like=jnp.zeros((2, 4)))


def test_chains_and_gates_are_put_in_order_where_they_have_none():
    """Replicates of a stationary chain are aligned; where a gate, inputs or held cells name the components, nothing moves."""
    stays = jem.HMM(jem.Poisson(), 2, initial=jem.laws.Stationary())
    assert labelled_part(stays) is stays
    start = PARAMS._replace(initial=())
    mixed = stays.permute(start, jnp.array([1, 0]))
    assert mixed.initial == () and mixed.transition.probs[0, 0] == 0.8 and mixed.emission.rate[0, 0] == 8
    gate = jem.Mixture(jem.Poisson(), 2, weights=jem.laws.Gate(lambda p, u: p * u, np.ones(2)))
    held = jem.HMM(jem.Poisson(), 2, transition=jem.laws.Cells(fixed=[[jnp.nan, jnp.nan], [0.0, 1.0]]))
    for model in (gate, held, jem.Frozen(jem.Mixture(jem.Poisson(), 2), "weights")):
        assert labelled_part(model) is None


@pytest.mark.parametrize("kind", ["gate", "stationary"])
def test_bootstrap_where_no_components_are_put_in_order(kind):
    """A gate and a chain that starts where it stays: replicates by gradient steps, with errors that are finite."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=(80, 1))
    y = rng.poisson(np.where(rng.random((80, 1)) < 1 / (1 + np.exp(-2 * u)), 9.0, 2.0))
    gated = jem.Mixture(jem.Poisson(), 2, weights=jem.laws.Gate(lambda p, u: jnp.stack([p[0] * u[0], 0.0]), np.ones(1)))
    model, x, replicates = {
        "gate": (gated, jem.Given(y * 1.0, u), resample.Weights()),
        "stationary": (jem.HMM(jem.Poisson(), 2, initial=jem.laws.Stationary()), X, resample.FromModel()),
    }[kind]
    solver = jem.solvers.GEM(optax.lbfgs, linesearch=None)
    params = jem.fit(model, jem.init(model, key(), x), x, solver=solver).check().params
    found = jem.bootstrap(model, key(), params, x, num_replicates=4, replicates=replicates, solver=solver, max_steps=60)
    errors = jax.tree.leaves(found.standard_errors())
    assert all(np.isfinite(leaf).all() for leaf in errors) and max(float(leaf.max()) for leaf in errors) > 1e-3


def test_a_ratio_test_of_chains():
    """One state against two, by draws of the data's own length."""
    test = jem.uncertainty.likelihood_ratio_test(
        jem.HMM(jem.Poisson(), 1), MODEL, key(), X, num_replicates=9, num_restarts=2, max_steps=60
    )
    assert test.p_value <= 0.2 and np.isfinite(test.statistic)

"""The bootstrap: refits in one program, labels in order, and a test of the number of components."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import jem
from jem.ask.align import align, memberships
from jem.data import to_units
from jem.kernels.matching import match

pytestmark = pytest.mark.usefixtures("x64")
REPLICATES = {"rows": jem.uncertainty.resample.Rows(), "model": jem.uncertainty.resample.FromModel()}


@pytest.mark.parametrize("size", [1, 2, 7])
def test_matching(size):
    """The optimum, as scipy finds it; integer costs have ties."""
    rng = np.random.default_rng(size)
    costs = np.concatenate([rng.standard_normal((40, size, size)), rng.integers(0, 3, (40, size, size))])
    for cost, got in zip(costs, np.asarray(jax.jit(jax.vmap(match))(costs)), strict=True):
        assert sorted(got) == list(range(size))
        best = cost[linear_sum_assignment(cost)].sum()
        assert cost[np.arange(size), got].sum() == pytest.approx(best, abs=1e-12)


@pytest.fixture(scope="module")
def fitted():
    """A mixture of three rates, and its fit."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.poisson(rng.choice([1.0, 8.0, 25.0], 300))[:, None], float)
        model = jem.Mixture(jem.Poisson(), 3)
        start = jem.Mixture.Params(jnp.ones(3) / 3, jem.Poisson.Params(jnp.array([[1.0], [8.0], [25.0]])))
        return model, x, jem.fit(model, start, x, stop=jem.stop.RelativeGain(1e-12)).params


@pytest.mark.parametrize("name", REPLICATES)
def test_standard_errors(fitted, name):
    """Close to those of the information, and labels in the order of the fit."""
    model, x, params = fitted
    found = jem.bootstrap(model, jax.random.key(0), params, x, num_replicates=300, replicates=REPLICATES[name])
    assert found.status.shape == (300,) and bool(found.ok.all())
    assert (np.diff(found.params.components.rate[:, :, 0], axis=1) > 0).all()
    want = jem.standard_errors(model, params, x).check().errors
    for a, b in zip(jax.tree.leaves(found.standard_errors()), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.25)
    low, high = found.interval(0.95)
    assert bool((low.components.rate < params.components.rate).all() & (params.components.rate < high.components.rate).all())


def test_a_replicate_is_a_fit_of_its_own(fitted):
    """One replicate, and the fit of its weights outside of the program; whatever the batch."""
    model, x, params = fitted
    found, alone = [
        jem.bootstrap(model, jax.random.key(3), params, x, num_replicates=5, batch_size=size).params.components.rate
        for size in (5, 1)
    ]
    np.testing.assert_allclose(found, alone, rtol=1e-9)
    _, weights = jem.uncertainty.resample.Weights().draw(jax.random.split(jax.random.key(3), 5)[2], model, params, x, None)
    assert float(jnp.sum(weights)) == pytest.approx(len(x))
    again = jem.fit(model, params, x, weights=weights).params.components.rate
    np.testing.assert_allclose(found[2], again, rtol=1e-9)


def test_labels_are_put_in_order(fitted):
    """Every permutation of a mixture's components and of a chain's states is undone."""
    model, x, params = fitted
    units, weights = to_units(x), jnp.ones(len(x))
    reference = memberships(model, params, units, weights)
    undo = jax.jit(lambda order: align(model, model.permute(params, order), reference, units, weights))
    for order in itertools.permutations(range(3)):
        back = undo(jnp.array(order))
        for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(a, b)
    chain = jem.HMM(jem.Poisson(), 3)
    moves = jem.laws.Cells.Params(jnp.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.4, 0.6]]))
    start = jem.HMM.Params(jnp.array([0.5, 0.3, 0.2]), moves, params.components)
    steps, one = to_units(x[:60].reshape(6, 10, 1)), jnp.ones(6)
    mixed = chain.permute(start, jnp.array([2, 0, 1]))
    assert not np.array_equal(mixed.transition.probs, moves.probs)
    back = align(chain, mixed, memberships(chain, start, steps, one), steps, one)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(start), strict=True):
        np.testing.assert_array_equal(a, b)


def test_number_of_components():
    """Two components are found where there are two; where there is one, the second is not worth its while."""
    rng = np.random.default_rng(0)
    both = jnp.asarray(rng.poisson(np.where(rng.random(80) < 0.5, 1.0, 7.0))[:, None], float)
    single = jnp.asarray(rng.poisson(4.0, 80)[:, None], float)
    test = lambda x: jem.uncertainty.likelihood_ratio_test(
        jem.Poisson(), jem.Mixture(jem.Poisson(), 2), jax.random.key(0), x, num_replicates=99, num_restarts=2
    )
    found, not_found = test(both), test(single)
    assert float(found.p_value) == pytest.approx(0.01)
    assert float(not_found.p_value) > 0.05
    assert np.median(found.replicates) < 2 < float(found.statistic)


def test_rows_with_weights_are_not_drawn(fitted):
    model, x, params = fitted
    for way in (jem.uncertainty.resample.FromModel(), jem.uncertainty.resample.Rows()):
        with pytest.raises(ValueError, match="repeat the rows"):
            jem.bootstrap(model, jax.random.key(0), params, x, jnp.ones(len(x)), num_replicates=2, replicates=way)

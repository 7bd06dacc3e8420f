"""`maximize` returns valid parameters for any statistics, and an empty component keeps its old value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coordinates import check_valid
from zoo import NUM, ZOO, build, e_step, maximize

import jem
from jem import tree
from jem.combine.stack import Stack

# A prior with pseudo-counts of its own moves an empty component to its mode.
INFORMATIVE = {
    *("mixture_missing_bits", "mixture_strong_prior", "mixture_poisson_prior", "mixture_bernoulli_prior", "mixture_rayleigh"),
}


def weight_vectors(model):
    """Weights of every awkward kind: few rows, one row, tiny, huge, and both at once."""
    rng = np.random.default_rng(5)
    info = jnp.finfo(model.weights.dtype)
    one = np.eye(NUM)[3]
    some = rng.random(NUM) < 0.1
    return {
        "one row": one,
        "a part of one row": 1e-3 * one,
        "few rows": some * rng.random(NUM),
        "tiny": rng.random(NUM) * float(info.tiny) * 4,
        "below eps": rng.random(NUM) * float(info.eps) ** 2,
        "huge": rng.random(NUM) * 1e15,
        "tiny and huge": np.where(some, 1e12, 1e-12),
    }


def test_valid_for_any_weights(model):
    for name, weights in weight_vectors(model).items():
        stats, _ = e_step(model.node, model.params, model.units, jnp.asarray(weights, model.weights.dtype))
        params = model.params
        for _ in range(3):  # what collapses goes on collapsing
            params = maximize(model.node, params, stats)
            try:
                check_valid(params)
            except AssertionError as error:
                raise AssertionError(f"weights: {name}") from error
            stats, _ = e_step(model.node, params, model.units, jnp.asarray(weights, model.weights.dtype))


def test_nothing_seen_keeps_the_old_value(model):
    stats, _ = e_step(model.node, model.params, model.units, model.weights)
    params = maximize(model.node, model.params, tree.zeros_like(stats))
    check_valid(params)
    if model.row.name not in INFORMATIVE:
        for got, old in zip(jax.tree.leaves(params), jax.tree.leaves(model.params), strict=True):
            np.testing.assert_array_equal(got, old)


FREE = [r for r in ZOO if isinstance(r.node, jem.Mixture) and isinstance(r.node.weights, jem.laws.Free)]
STACKED = [r.name for r in FREE if type(r.node.components) is Stack]


@pytest.mark.parametrize("name", [n for n in STACKED if n not in INFORMATIVE])
def test_empty_component_keeps_its_old_value(name, dtype):
    """One component among others: statistics of zero for the first, ordinary ones for the rest."""
    model = build(name, dtype)
    stats, _ = e_step(model.node, model.params, model.units, model.weights)
    stats = jax.tree.map(lambda s: s.at[0].set(0), stats)
    params = maximize(model.node, model.params, stats)
    check_valid(params)
    first, old = (jax.tree.map(lambda leaf: leaf[0], p.components) for p in (params, model.params))
    for got, want in zip(jax.tree.leaves(first), jax.tree.leaves(old), strict=True):
        np.testing.assert_array_equal(got, want)
    assert params.weights[0] < 1e-20 or "weights" in model.row.held

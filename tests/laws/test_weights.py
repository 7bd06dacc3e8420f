"""An integer weight repeats the row; weight 0 removes it, even where it holds NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coordinates import check_valid
from zoo import NUM, assert_close

import jem
from jem.node import Node, node

REPEATS = np.random.default_rng(3).permutation(np.repeat([0, 1, 2, 3], NUM // 4))


def spoil(leaf):
    """The rows of weight 0 replaced by what no model can take."""
    bad = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else False if leaf.dtype == bool else 99
    gone = jnp.asarray(REPEATS == 0).reshape((-1,) + (1,) * (leaf.ndim - 1))
    return jnp.where(gone, jnp.asarray(bad, leaf.dtype), leaf)


def weighted_and_repeated(x, dtype):
    """Spoilt data with weights, and the same data with its rows repeated."""
    return (jax.tree.map(spoil, x), jnp.asarray(REPEATS, dtype)), jax.tree.map(lambda a: jnp.repeat(a, REPEATS, 0), x)


def test_statistics(model):
    (x, weights), repeated = weighted_and_repeated(model.x, model.weights.dtype)
    got = jem.e_step(model.row.node, model.params, x, weights)
    assert_close(got, jem.e_step(model.row.node, model.params, repeated), model.eps)


def test_step_with_data_scaled_prior(model):
    """The M-step too: what a node binds from the data counts rows by their weights."""
    (x, weights), repeated = weighted_and_repeated(model.x, model.weights.dtype)
    got = jem.em_step(model.row.node, model.params, x, weights)
    assert_close(got, jem.em_step(model.row.node, model.params, repeated), model.eps, ulps=512)


def test_start_from_spoilt_rows(model):
    """A start looks at rows that count only; rows of no weight are not even seen by the seeding."""
    (x, weights), _ = weighted_and_repeated(model.x, model.weights.dtype)
    check_valid(jem.init(model.row.node, jax.random.key(0), x, weights))


@node
class Counting(Node):
    """Breaks the law: counts rows, not weights."""

    child: Node

    def infer(self, params, x):
        return self.child.infer(params, x)

    def expect(self, params, posterior, x, weights):
        return self.child.expect(params, posterior, x, (weights > 0).astype(weights.dtype))


def test_control_a_node_that_counts_rows(x64):
    x, rate = jnp.asarray(np.random.default_rng(0).poisson(3.0, (NUM, 1))), jem.PoissonParams(jnp.array([3.0]))
    (x, weights), repeated = weighted_and_repeated(x, float)
    got = jem.e_step(jem.Poisson(), rate, x, weights)
    assert_close(got, jem.e_step(jem.Poisson(), rate, repeated), 2e-16)
    got = jem.e_step(Counting(jem.Poisson()), rate, x, weights)
    with pytest.raises(AssertionError, match="count"):
        assert_close(got, jem.e_step(Counting(jem.Poisson()), rate, repeated), 2e-16)

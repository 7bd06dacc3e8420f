"""An integer weight repeats the row; weight 0 removes it, even where it holds NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import NUM, assert_close, build, e_step_chunks

from jem.composite import Wrapper
from jem.data import to_units
from jem.node import node

HALF = NUM // 2
REPEATS = np.random.default_rng(3).permutation(np.repeat([0, 2, 3, 3], HALF // 4))  # NUM in all
WEIGHTS = np.concatenate([REPEATS, np.zeros(HALF)])


def spoil(leaf):
    """The rows of weight 0 replaced by what no model can take."""
    bad = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else False if leaf.dtype == bool else 99
    gone = jnp.asarray(WEIGHTS == 0).reshape((-1,) + (1,) * (leaf.ndim - 1))
    return jnp.where(gone, jnp.asarray(bad, leaf.dtype), leaf)


def assert_weights_repeat(model):
    """What a node binds and gathers from spoilt rows with weights, and from the rows repeated."""
    weights = jnp.asarray(WEIGHTS, model.weights.dtype)
    spoilt = jax.tree.map(spoil, model.x)
    repeated = jax.tree.map(lambda a: jnp.repeat(a[:HALF], REPEATS, 0), model.x)
    got, want = (
        (model.node.bind(to_units(x), w), e_step_chunks(model.node, model.params, x, w))
        for x, w in [(spoilt, weights), (repeated, jnp.ones_like(weights))]
    )
    assert_close(got, want, model.eps)


def test_weights_repeat_rows(model):
    assert_weights_repeat(model)


@node
class Counting(Wrapper):
    """Breaks the law: counts rows, not weights."""

    child: Wrapper

    def expect(self, params, posterior, x, weights):
        return self.child.expect(params, posterior, x, (weights > 0).astype(weights.dtype))

    def bind(self, x, weights):
        return self


def test_control_a_node_that_counts_rows(x64):
    model = build("mixture_poisson", "float64")
    with pytest.raises(AssertionError, match="weights"):
        assert_weights_repeat(model._replace(node=Counting(model.node)))

"""The law of the impossible: minus infinity, never NaN; no statistics of it, and none of it in anything else's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import assert_close, build, e_step

import jem

ROWS = ["mixture_categorical", "mixed_product", "hmm_categorical"]


def forbid(params):
    """The same parameters, category 0 impossible everywhere."""

    def close(p):
        if not isinstance(p, jem.Categorical.Params):
            return p
        probs = p.probs.at[..., 0].set(0)
        return jem.Categorical.Params(probs / jnp.sum(probs, -1, keepdims=True))

    return jax.tree.map(close, params, is_leaf=lambda p: isinstance(p, jem.Categorical.Params))


@pytest.mark.parametrize("name", ROWS)
def test_impossible(dtype, name):
    m = build(name, dtype)
    params = forbid(m.params)
    symbols = m.units["kind"] if isinstance(m.units, dict) else m.units
    never = np.asarray(symbols == 0).reshape(-1, symbols.shape[-1]).any(0)
    assert never.any() and not never.all()
    posterior, log_prob = jax.jit(m.node.infer)(params, m.units)
    np.testing.assert_array_equal(np.isneginf(log_prob), never)
    assert np.isfinite(np.asarray(log_prob)[~never]).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(posterior))
    stats, total = e_step(m.node, params, m.units, m.weights)
    assert total == -jnp.inf
    without, some = e_step(m.node, params, m.units, jnp.where(never, 0, m.weights))
    assert jnp.isfinite(some)
    assert_close(stats, without, m.eps)

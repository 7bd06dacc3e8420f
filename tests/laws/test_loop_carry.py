"""Parameters keep tree structure, shapes and dtypes through the M-step and through a bind."""

import jax
import jax.numpy as jnp
import pytest
from zoo import NUM

import jem
from jem.composite import Wrapper
from jem.engine.step import e_step_chunk
from jem.node import node


def assert_same_form(got, want):
    """Same structure, shapes, dtypes; and none that gives way in the next sum."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, False)


def one_step(node, params, units, weights):
    """Parameters after one step."""
    return node.maximize(params, e_step_chunk(node, params, units, weights)[0])


def test_step_keeps_the_form(model):
    assert_same_form(jax.eval_shape(one_step, model.node, model.params, model.units, model.weights), model.params)


def test_start_has_the_form(model):
    start = jax.eval_shape(model.node.init, jax.random.key(0), model.units, model.weights)
    assert jax.tree.structure(start) == jax.tree.structure(model.params)
    assert [(s.shape, s.dtype) for s in jax.tree.leaves(start)] == [
        (p.shape, p.dtype) for p in jax.tree.leaves(model.params)
    ]


def test_scores_have_the_dtype(model):
    """Log-densities, Q and the prior are of the data's dtype, x64 or not."""

    def scores(node, params, units, weights):
        stats, log_likelihood = e_step_chunk(node, params, units, weights)
        return log_likelihood, node.expected_log_prob(params, stats, params), node.log_prior(params)

    out = jax.eval_shape(scores, model.node, model.params, model.units, model.weights)
    assert {(s.shape, s.dtype) for s in out} == {((), model.weights.dtype)}


def test_binding_twice_changes_nothing(model):
    again = jax.eval_shape(lambda n, u, w: n.bind(u, w), model.node, model.units, model.weights)
    assert jax.tree.structure(again) == jax.tree.structure(model.node)


@node
class Growing(Wrapper):
    """Breaks the law: parameters come back with an axis more."""

    child: Wrapper

    def maximize(self, params, stats):
        return jax.tree.map(lambda leaf: leaf[None], self.child.maximize(params, stats))


def test_control_a_node_whose_params_grow():
    params, units = jem.Poisson.Params(jnp.array([3.0])), jnp.ones((1, NUM))
    with pytest.raises(AssertionError):
        assert_same_form(jax.eval_shape(one_step, Growing(jem.Poisson()), params, units, jnp.ones(NUM)), params)

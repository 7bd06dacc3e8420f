"""grad of Q(. | old) at old = grad of the weighted log-likelihood at old."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coordinates import from_free, to_free
from zoo import build

import jem
from jem.engine.step import e_step_chunk
from jem.families.student_t import StudentTPosterior
from jem.node import Node, node


@jax.jit
def gradients(model, params, units, weights):
    """Both gradients, in free coordinates."""

    def q(free, stats):
        return model.expected_log_prob(from_free(params, free), stats, params)

    def log_likelihood(free):
        return e_step_chunk(model, from_free(params, free), units, weights)[1]

    free, stats = to_free(params), e_step_chunk(model, params, units, weights)[0]
    return jax.grad(q)(free, stats), jax.grad(log_likelihood)(free)


def assert_same_gradient(pair, eps, ulps=256):
    """Entries agree within roundings of the largest entry: the terms of the sums are of that size."""
    got, want = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(g)]) for g in pair)
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(got, want, rtol=0, atol=ulps * eps * np.abs(want).max())


def test_gradient_of_q_is_the_score(model):
    assert_same_gradient(gradients(model.node, model.params, model.units, model.weights), model.eps)


@node
class Unscaled(Node):
    """Breaks the law: a Student-t whose posterior forgets that far units weigh less."""

    child: Node

    def infer(self, params, x):
        posterior, log_prob = self.child.infer(params, x)
        return StudentTPosterior(jnp.ones_like(posterior.scale), posterior.log_scale), log_prob

    def expect(self, params, posterior, x, weights):
        return self.child.expect(params, posterior, x, weights)

    def expected_log_prob(self, params, stats, old):
        return self.child.expected_log_prob(params, stats, old)


def test_control_a_wrong_posterior(x64):
    model = build("student_t", "float64")
    with pytest.raises(AssertionError):
        assert_same_gradient(gradients(Unscaled(jem.StudentT()), model.params, model.units, model.weights), model.eps)

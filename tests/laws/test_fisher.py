"""grad of Q(. | old) at old = grad of the weighted log-likelihood at old."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coordinates import from_free, to_free
from zoo import build

from jem.engine.step import e_step_chunk
from jem.families.student_t import StudentTPosterior
from jem.node import Wrapper, node


@jax.jit
def gradients(model, params, units, weights):
    """Both gradients, in free coordinates, (2,) at each entry."""
    stats = e_step_chunk(model, params, units, weights)[0]

    def both(free):
        there = from_free(params, free)
        return jnp.stack([model.expected_log_prob(there, stats, params), e_step_chunk(model, there, units, weights)[1]])

    return jax.jacfwd(both)(to_free(params))


def assert_fisher(model):
    """Entries agree within roundings of the largest entry: the terms of the sums are of that size."""
    both = gradients(model.node, model.params, model.units, model.weights)
    got, want = np.concatenate([np.asarray(g, float).reshape(2, -1) for g in jax.tree.leaves(both)], axis=1)
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(got, want, rtol=0, atol=256 * model.eps * np.abs(want).max())


def test_gradient_of_q_is_the_score(model):
    assert_fisher(model)


@node
class Unscaled(Wrapper):
    """Breaks the law: a Student-t whose posterior forgets that far units weigh less."""

    child: Wrapper

    def infer(self, params, x):
        posterior, log_prob = self.child.infer(params, x)
        return StudentTPosterior(jnp.ones_like(posterior.scale), posterior.log_scale), log_prob


def test_control_a_wrong_posterior(x64):
    model = build("student_t", "float64")
    with pytest.raises(AssertionError):
        assert_fisher(model._replace(node=Unscaled(model.node)))

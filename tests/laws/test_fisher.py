"""grad of Q(. | old) at old = grad of the weighted log-likelihood at old."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coordinates import from_free, noise_like, to_free
from zoo import build

from jem.composite import Wrapper
from jem.engine.step import e_step_chunk
from jem.families.student_t import StudentTPosterior
from jem.node import node


@jax.jit
def slopes(model, params, units, weights, direction):
    """Slopes of Q and of the log-likelihood along a direction in free coordinates."""
    stats = e_step_chunk(model, params, units, weights)[0]

    def both(free):
        there = from_free(params, free)
        return model.expected_log_prob(there, stats, params), e_step_chunk(model, there, units, weights)[1]

    return jax.jvp(both, (to_free(params),), (direction,))[1]


def assert_fisher(model):
    """Slopes along random directions agree; their terms are of the size of the total weight, or of the largest slope."""
    directions = [noise_like(np.random.default_rng(seed), model.params, 1.0) for seed in range(4)]
    both = [slopes(model.node, model.params, model.units, model.weights, d) for d in directions]
    got, want = np.asarray(both, float).T
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(got, want, rtol=0, atol=64 * model.eps * max(float(model.weights.sum()), np.abs(want).max()))


def test_gradient_of_q_is_the_score(model):
    assert_fisher(model)


@node
class Unscaled(Wrapper):
    """Breaks the law: a Student-t whose posterior forgets that far units weigh less."""

    child: Wrapper

    def infer(self, params, x):
        posterior, log_prob = self.child.infer(params, x)
        return StudentTPosterior(jnp.ones_like(posterior.scale), posterior.gap), log_prob


def test_control_a_wrong_posterior(x64):
    model = build("student_t", "float64")
    with pytest.raises(AssertionError):
        assert_fisher(model._replace(node=Unscaled(model.node)))

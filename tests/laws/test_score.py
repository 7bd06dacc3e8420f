"""The score's derivative, of which the derivatives of a fit and the information are made, is the change of the score.

Along one direction in free coordinates, data and weights at once, through all that is relative to the data.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import ZOO, build

from jem.coordinates import ravel
from jem.engine.score import level, start_of, target

# What is not 0 or 1, or no count, cannot be, and an observation whose ends move apart is none: such a slope means nothing.
DISCRETE = {
    "mixture_bernoulli",
    "mixture_bernoulli_prior",
    "mixture_missing_bits",
    "mixture_poisson",
    "mixture_poisson_prior",
    "mixture_of_hmms",
    "hmm_durations",
    *("mixture_negative_binomial", "mixture_zero_inflated", "mixture_geometric", "mixture_binomial", "mixture_beta_binomial"),
    *("mixture_multinomial", "mixture_dirichlet_multinomial", "mixture_glm", "tied_glm", "hmm_logistic"),
    *("mixture_censored", "mixture_censored_gamma"),
}
STEP = 1e-5


def slopes(m, score=lambda found: found.score):
    """The score's derivative, and the central difference."""
    rng = np.random.default_rng(1)
    size = 0.0 if m.row.name in DISCRETE else 1.0
    direction = jax.tree.map(lambda a: size * rng.standard_normal(a.shape), m.x)
    change = jnp.asarray(rng.uniform(-1, 1, m.weights.shape))

    turn = rng.standard_normal(jax.eval_shape(lambda p: ravel(m.row.node, p), m.params).shape)

    def at(z, h):
        move = lambda a, d: a + h * d if jnp.issubdtype(a.dtype, jnp.floating) else a
        t = target(m.row.node, jax.tree.map(move, m.x, direction), m.weights + h * change, m.params)
        return score(level(t, start_of(t) + z * turn))

    program = jax.jit(lambda z, h: jax.jvp(at, (z, h), (1.0, 1.0)))
    ends = [program(h, h)[0] for h in (STEP, -STEP)]
    return program(0.0, 0.0)[1], (ends[0] - ends[1]) / (2 * STEP)


@pytest.mark.parametrize("model", [row.name for row in ZOO])
def test_derivative_of_the_score(x64, model):
    got, want = slopes(build(model, "float64"))
    np.testing.assert_allclose(got / (1 + np.abs(want)), want / (1 + np.abs(want)), atol=1e-6)


def test_the_law_sees_what_is_not_differentiated(x64):
    """The control: a hundredth of the score held is a hundredth of its derivative missing."""
    held, want = slopes(build("mixture_poisson", "float64"), lambda f: 0.99 * f.score + 0.01 * jax.lax.stop_gradient(f.score))
    np.testing.assert_allclose(held, 0.99 * want, rtol=1e-6)
    assert np.max(np.abs(held - want)) > 1e-3

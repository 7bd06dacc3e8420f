"""stats(a) + stats(b) = stats(a and b), and an E-step in chunks is the whole one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import NUM, assert_close, build, e_step, e_step_chunks

from jem import tree
from jem.composite import Wrapper
from jem.engine.stream import fold, lay_out
from jem.latents.mixture.mixture import MixtureStats
from jem.node import node


def assert_additive(model):
    """The rows split in two by their weights."""
    first = np.random.default_rng(1).random(NUM) < 0.5
    args = model.node, model.params, model.units
    parts = [e_step(*args, jnp.where(mask, model.weights, 0)) for mask in (first, ~first)]
    assert_close(tree.add(*parts), e_step(*args, model.weights), model.eps)


def test_parts_add_up(model):
    assert_additive(model)


def test_chunks_add_up(model):
    whole = e_step(model.node, model.params, model.units, model.weights)
    assert_close(e_step_chunks(model.node, model.params, model.x, model.weights), whole, model.eps)


@node
class Averaged(Wrapper):
    """Breaks the law: counts divided by their total."""

    child: Wrapper

    def expect(self, params, posterior, x, weights):
        stats = self.child.expect(params, posterior, x, weights)
        return MixtureStats(stats.weights / jnp.sum(weights), stats.components)


def test_control_averages_do_not_add_up(x64):
    model = build("mixture_poisson", "float64")
    with pytest.raises(AssertionError, match="weights"):
        assert_additive(model._replace(node=Averaged(model.node)))


def test_a_long_sum_in_float32():
    """Chunks carry their rounding errors along: many terms sum as well as the number can be written."""
    x = jnp.full((2**20, 1), 0.1, jnp.float32)
    total = jax.jit(lambda x, w: fold(lambda u, w: u[0, 0] * w[0], lay_out(x, w, 4)))(x, jnp.ones(2**20))
    assert float(total) == pytest.approx(2**18 * float(x[0, 0]), rel=6e-8)
    plain = jax.jit(lambda x: jax.lax.scan(lambda s, u: (s + u[0], None), jnp.zeros(()), x[: 2**18])[0])(x)
    assert float(plain) != pytest.approx(2**18 * float(x[0, 0]), rel=1e-5)  # the control

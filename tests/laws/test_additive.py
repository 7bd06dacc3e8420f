"""stats(a) + stats(b) = stats(a and b), and an E-step in chunks is the whole one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import NUM, assert_close, e_step

import jem
from jem import tree
from jem.engine.step import e_step_chunk
from jem.engine.stream import fold, lay_out
from jem.latents.mixture import MixtureStats
from jem.node import Node, node


@jax.jit
def e_step_parts(model, params, units, weights):
    """The sum of the E-steps of two halves."""
    parts = [slice(None, NUM // 2), slice(NUM // 2, None)]
    return tree.add(
        *(e_step_chunk(model, params, jax.tree.map(lambda u, p=p: u[..., p], units), weights[p]) for p in parts)
    )


@jax.jit
def e_step_chunks(model, params, x, weights):
    """The engine's E-step, 24 + 24 + 16 rows."""
    return fold(lambda x, w: e_step_chunk(model, params, x, w), lay_out(x, weights, 24))


def test_halves_add_up(model):
    whole = e_step(model.node, model.params, model.units, model.weights)
    assert_close(e_step_parts(model.node, model.params, model.units, model.weights), whole, model.eps)


def test_chunks_add_up(model):
    whole = e_step(model.node, model.params, model.units, model.weights)
    assert_close(e_step_chunks(model.node, model.params, model.x, model.weights), whole, model.eps)


@node
class Averaged(Node):
    """Breaks the law: counts divided by their total."""

    child: Node

    def infer(self, params, x):
        return self.child.infer(params, x)

    def expect(self, params, posterior, x, weights):
        stats = self.child.expect(params, posterior, x, weights)
        return MixtureStats(stats.counts / jnp.sum(weights), stats.components)


def test_control_averages_do_not_add_up(x64):
    x = jnp.asarray(np.random.default_rng(0).poisson(3.0, (NUM, 1)))
    broken = Averaged(jem.Mixture(jem.Poisson(), 2))
    params = jem.MixtureParams(jnp.array([0.5, 0.5]), jem.PoissonParams(jnp.array([[1.0], [4.0]])))
    whole = e_step(broken, params, x.T, jnp.ones(NUM))
    with pytest.raises(AssertionError, match="counts"):
        assert_close(e_step_parts(broken, params, x.T, jnp.ones(NUM)), whole, 2e-16)


def test_a_long_sum_in_float32():
    """Chunks carry their rounding errors along: a million terms sum as well as the numbers can be written."""
    x = jnp.full((2**20, 1), 0.1, jnp.float32)
    total = jax.jit(lambda x, w: fold(lambda u, w: u[0, 0] * w[0], lay_out(x, w, 4)))(x, jnp.ones(2**20))
    assert float(total) == pytest.approx(2**18 * float(x[0, 0]), rel=6e-8)
    plain = jax.jit(lambda x: jax.lax.scan(lambda s, u: (s + u[0], None), jnp.zeros(()), x[: 2**18])[0])(x)
    assert float(plain) != pytest.approx(2**18 * float(x[0, 0]), rel=1e-5)  # the control

"""`jem.testing.check_node`: models of every kind pass; each way to break a law is called by its name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import build

import jem
from jem.author import Wrapper, node
from jem.coordinates import ravel, unravel
from jem.latents.mixture.mixture import MixtureStats

ALL = ("form", "additive", "weights", "fisher", "ascent", "total", "recentre", "sample")
SOUND = {
    "mixture_full": ALL,
    "student_t": ALL,
    "mixed_product": ALL,
    "hmm_categorical": ALL,
    "mixture_laplace": tuple(law for law in ALL if law not in ("ascent", "recentre", "sample")),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_nodes(x64, name):
    model = build(name, "float64")
    assert jem.testing.check_node(model.row.node, model.params, model.x, model.weights) == SOUND[name]


@pytest.mark.parametrize("name", ["gaussian", "student_t", "mixture_full", "tied", "hmm_additive", "mixture_factor"])
def test_a_slope_compiled_is_the_slope(x64, name):
    """Of the log-density of each of many units: what a compiler makes of it is what it says."""
    model = build(name, "float64")
    many = jax.tree.map(lambda leaf: jnp.tile(leaf, 64), model.units)
    z = ravel(model.node, model.params)
    direction = jnp.asarray(np.random.default_rng(0).standard_normal(z.shape))

    def slope(h):
        log_prob = lambda h: model.node.infer(unravel(model.node, z + h * direction, model.params), many)[1]
        return jax.jvp(log_prob, (h,), (1.0,))[1]

    each = slope(0.0)
    np.testing.assert_allclose(jax.jit(slope)(0.0), each, rtol=0, atol=1e-9 * np.abs(each).max())
    ends = [model.node.infer(unravel(model.node, z + h * direction, model.params), many)[1] for h in (1e-5, -1e-5)]
    np.testing.assert_allclose(each, (ends[0] - ends[1]) / 2e-5, rtol=0, atol=1e-6 * np.abs(each).max())


@node
class Broken(Wrapper):
    """A wrapper that breaks a law."""

    child: Wrapper


@node
class Growing(Broken):
    def maximize(self, params, stats):
        return jax.tree.map(lambda leaf: leaf[None], self.child.maximize(params, stats))


@node
class Averaged(Broken):
    def expect(self, params, posterior, x, weights):
        stats = self.child.expect(params, posterior, x, weights)
        return MixtureStats(stats.weights / jnp.sum(weights), stats.components)


@node
class Counting(Broken):
    def expect(self, params, posterior, x, weights):
        return self.child.expect(params, posterior, x, (weights > 0).astype(weights.dtype))


@node
class Unscaled(Broken):
    def expect(self, params, posterior, x, weights):
        return self.child.expect(params, posterior, x, 2 * weights)


@node
class Overshooting(Broken):
    def maximize(self, params, stats):
        new = self.child.maximize(params, stats)
        return jax.tree.map(lambda a, b: jnp.abs(a + 2.5 * (b - a)), params, new)


@node
class Dividing(Broken):
    def maximize(self, params, stats):
        total = jnp.sum(jax.tree.leaves(stats)[0])
        return jax.tree.map(lambda leaf: leaf * (total / total), self.child.maximize(params, stats))


@node
class Unmoved(Broken):
    def recentre(self, stats, old, new):
        return stats


@node
class Elsewhere(Broken):
    def sample_like(self, key, params, x):
        latents, new = self.child.sample_like(key, params, x)
        return latents, jax.tree.map(lambda leaf: leaf + 1, new)


@pytest.mark.parametrize(
    ("cls", "name", "law"),
    [
        (Growing, "mixture_poisson", "form"),
        (Averaged, "mixture_poisson", "additive"),
        (Counting, "mixture_poisson", "weights"),
        (Unscaled, "mixture_poisson", "fisher"),
        (Overshooting, "mixture_poisson", "ascent"),
        (Dividing, "mixture_poisson", "total"),
        (Unmoved, "mixture_full", "recentre"),
        (Elsewhere, "mixture_poisson", "sample"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_broken_laws_are_named(x64, cls, name, law):
    model = build(name, "float64")
    with pytest.raises(AssertionError, match=f"{cls.__name__} breaks the law '{law}'"):
        jem.testing.check_node(cls(model.row.node), model.params, model.x, model.weights)


@node
class Skewed(Broken):
    def expected_log_prob(self, params, stats, old):
        return self.child.expected_log_prob(params, stats, old) + jnp.sum(params.weights**2)


def test_the_leaf_is_named(x64):
    model = build("mixture_poisson", "float64")
    with pytest.raises(AssertionError, match=r"'fisher': along \.weights, slopes of Q are") as error:
        jem.testing.check_node(Skewed(model.row.node), model.params, model.x, model.weights)
    assert ".components" not in str(error.value)

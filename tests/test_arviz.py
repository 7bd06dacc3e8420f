"""Draws to ArviZ: names, dimensions, values, and what is left out."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem.ask.bootstrap import Bootstrap
from jem.io.arviz import arrays_of, arviz, to_arviz

MODEL = jem.Mixture(jem.Poisson(), 2)
COUNTS = jnp.array([[1.0], [2.0], [0.0], [9.0], [8.0], [11.0]])
PARAMS = jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Poisson.Params(jnp.array([[1.0], [9.0]])))


def test_a_bootstrap():
    """Replicates that converged, as ArviZ's own mean and deviation see them."""
    found = jem.bootstrap(MODEL, jax.random.key(0), PARAMS, COUNTS, num_replicates=30)
    found = found._replace(status=found.status.at[3].set(jem.Status.MAX_STEPS))
    data = to_arviz(found, dims={"components.rate": ["component", "column"]}, coords={"component": ["low", "high"]})
    rate = data.posterior["components.rate"]
    assert rate.dims == ("chain", "draw", "component", "column") and rate.sizes["draw"] == int(found.ok.sum()) < 30
    np.testing.assert_array_equal(rate.values[0], np.asarray(found.params.components.rate)[np.asarray(found.ok)])
    table = arviz.summary(data, kind="stats", round_to="none")
    deviations = found.standard_errors().components.rate[:, 0]
    np.testing.assert_allclose(table.loc["components.rate[low, 0]", "sd"], deviations[0], rtol=1e-5)


def test_draws_of_what_is_hidden():
    keys = jax.random.split(jax.random.key(1), 12)
    drawn = jax.vmap(lambda key: jem.sample_posterior(MODEL, key, PARAMS, COUNTS))(keys)
    labels = to_arviz(None, latents=drawn).posterior["latents"]
    assert labels.shape == (1, 12, 6) and labels.dtype.kind == "i"
    np.testing.assert_array_equal(labels.values[0], drawn)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * 12), PARAMS)
    assert set(arrays_of(many, {"z": drawn})) == {"weights", "components.rate", "z"}


@pytest.mark.parametrize(
    ("draws", "words"),
    [
        (None, "expected a jem.bootstrap"),
        (1.0, "draws: expected an array of numbers"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, "as many draws of each; got {'a': 3, 'b': 4}"),
        ({"a": np.array(["x"])}, "a: expected an array of numbers"),
        (Bootstrap(PARAMS, jnp.ones(2, int), jnp.zeros(2), jnp.zeros(2)), "no replicate of the bootstrap converged"),
    ],
)
def test_what_is_refused(draws, words):
    with pytest.raises((TypeError, ValueError), match=words):
        to_arviz(draws)


def test_jem_imports_no_arviz():
    script = "import sys, jem; print('arviz' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

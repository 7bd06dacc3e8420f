"""Converged means converged: a fit that says so at its default settings has next to nothing left to climb."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import ZOO, build

import jem
from jem import Status
from jem.engine.step import gradient_fields

LEFT = 2e-3  # nats
STEPS = 600
CLIMBED = (Status.CONVERGED, Status.MAX_STEPS)
GRADIENT = jem.solvers.GEM(optax.lbfgs, linesearch=None)
SINGLE = ("gaussian", "mixture_full", "mixture_poisson", "mixture_bernoulli", "hmm", "factor")  # in float32 too
OTHERWISE = {"mixture_laplace": Status.MAX_STEPS}  # its maximum is at a kink, where no slope vanishes


def double(values):
    """The same in float64."""
    wide = lambda a: jnp.asarray(np.asarray(a), np.float64 if a.dtype.kind == "f" else a.dtype)
    return jax.tree.map(lambda a: wide(np.asarray(a)), values)


def climb(name, dtype, **options):
    """A fit, and what a long climb in float64 from its end still gains."""
    with jax.enable_x64(dtype == "float64"):
        model = build(name, dtype)
        node, start = model.row.node, jem.init(model.row.node, jax.random.key(0), model.x)
        if gradient_fields(node, start):
            options = {"solver": GRADIENT, **options}
        fit = jax.tree.map(np.asarray, jem.fit(node, start, model.x, max_steps=STEPS, **options))
    with jax.enable_x64(True):
        options["stop"] = jem.stop.Remaining(1e-9)
        more = jem.fit(node, double(fit.params), double(model.x), max_steps=STEPS, **options)
        assert more.status in CLIMBED  # one that failed says nothing of what was left
        return fit, float(more.objective - more.trace[0])


@pytest.mark.parametrize("model", [row.name for row in ZOO])
def test_converged_means_converged(model):
    fit, left = climb(model, "float64")
    assert fit.status == OTHERWISE.get(model, Status.CONVERGED)
    assert left < LEFT or fit.status != Status.CONVERGED
    assert fit.remaining < 1e-3 or fit.status != Status.CONVERGED


@pytest.mark.parametrize("model", SINGLE)
def test_in_single_precision(model):
    fit, left = climb(model, "float32")
    assert fit.converged and left < LEFT


def test_gains_would_fail():
    """The control: a stop on gains ends the same climbs short."""
    short = [
        climb(name, "float64", solver=jem.solvers.EM(), stop=jem.stop.RelativeGain(1e-4))[1]
        for name in ("mixture_full", "factor")
    ]
    assert max(short) > LEFT

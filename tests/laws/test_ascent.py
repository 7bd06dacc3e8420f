"""The M-step maximises Q + log prior, and the objective never falls along a fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coordinates import perturb
from zoo import ZOO, build, e_step, maximize, q_function, start_form

import jem
from jem.composite import Wrapper
from jem.engine.step import gradient_fields
from jem.node import keep_units, node

STEPS = 24
PLAIN = {"solver": jem.solvers.EM(), "stop": jem.stop.NeverStop(), "max_steps": STEPS - 1}


def rounding(value, model):
    """What rounding may do to an objective of this model."""
    return 32 * model.eps * max(abs(value), float(model.weights.sum()))


def objective(node, params, stats, old):
    """Q + log prior."""
    return sum(map(float, q_function(keep_units(node), params, stats, old)))


def check_m_step(node, model):
    """`maximize` climbs from where the statistics were gathered, and no point around it is higher."""
    for seed in range(3):
        old = perturb(np.random.default_rng(seed), model.params, 0.3)
        new = maximize(node, old, e_step(node, old, model.units, model.weights)[0])
        stats, _ = e_step(keep_units(node), old, model.units, model.weights)
        before, after = (objective(node, p, stats, old) for p in (old, new))
        assert after >= before - rounding(before, model)
        for size in (0.3, 0.03):
            near = perturb(np.random.default_rng(seed), new, size, model.row.held)
            assert objective(node, near, stats, old) <= after + rounding(after, model)


def check_trace(node, model):
    """No step goes down."""
    params, trace = model.params, []
    for _ in range(STEPS):
        stats, log_likelihood = e_step(node, params, model.units, model.weights)
        trace.append(float(log_likelihood) + float(q_function(node, params, stats, params)[1]))
        params = maximize(node, params, stats)
    assert np.isfinite(trace).all()
    assert (np.diff(trace) >= -rounding(trace[0], model)).all(), np.diff(trace)
    assert trace[-1] > trace[0]
    return trace


def test_m_step_is_the_maximum(model):
    check_m_step(model.node, model)


def test_the_objective_never_falls(model):
    check_trace(model.node, model)


CLOSED = [row.name for row in ZOO if not gradient_fields(row.node, start_form(row.name))]


@pytest.mark.parametrize("model", CLOSED)
def test_a_fit_is_those_steps(model):
    """The engine's trace, in the default dtype; it binds the node itself."""
    model = build(model, "float32")
    fit = jem.fit(model.row.node, model.params, model.x, weights=model.weights, **PLAIN)
    assert fit.num_steps == STEPS - 1
    trace = check_trace(model.node, model)
    np.testing.assert_allclose(fit.trace, trace, rtol=0, atol=8 * rounding(trace[0], model))


@node
class Overshooting(Wrapper):
    """Breaks the law: goes twice as far as the M-step, and a little more."""

    child: Wrapper

    def maximize(self, params, stats):
        return jax.tree.map(lambda old, new: old + 2.2 * (new - old), params, self.child.maximize(params, stats))

    def bind(self, x, weights):
        return self


def test_control_an_m_step_that_overshoots(x64):
    model = build("gaussian_no_prior", "float64")
    model = model._replace(params=jem.Gaussian.Params(model.params.mean, jnp.eye(2) / 2))
    broken = Overshooting(model.node)
    with pytest.raises(AssertionError):
        check_m_step(broken, model)
    fit = jem.fit(broken, model.params, model.x, weights=model.weights, solver=jem.solvers.EM(), max_steps=STEPS)
    assert fit.status == jem.Status.DECREASED
    assert float(fit.objective) == np.nanmax(fit.trace)

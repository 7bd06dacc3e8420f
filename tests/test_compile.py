"""Values never recompile: new data of the same shape, tolerances, priors and starts run the program there is."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, **__: COMPILED.append(name) if name.endswith("backend_compile_duration") else None
)
STEPS = 12


class Counter:
    """Number of compilations inside a with block."""

    def __enter__(self):
        self.before = len(COMPILED)
        return self

    def __exit__(self, *_):
        self.count = len(COMPILED) - self.before


def data(seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((50, 2)), jnp.float32)


def model(strength=1e-3, concentration=1.0):
    family = jem.Gaussian(jem.Diagonal(), jem.InverseWishart(strength))
    return jem.Mixture(family, 2, concentration=concentration, seeding=jem.RandomResponsibilities())


def test_the_counter_counts():
    """The control: a new shape, and a new static argument, do compile."""
    with Counter() as counter:
        jax.jit(lambda x: x + 1)(jnp.zeros(17))
    assert counter.count > 0
    start = jem.init(model(), jax.random.key(0), data(0))
    jem.fit(model(), start, data(0), max_steps=STEPS)
    with Counter() as counter:
        jem.fit(model(), start, data(0), max_steps=STEPS + 1)
    assert counter.count > 0


def test_fit_compiles_once():
    starts = [jem.init(model(), jax.random.key(k), data(k)) for k in range(3)]
    inputs = [data(k) for k in range(3)]
    run = sys.modules["jem.fit"]._fit
    jem.fit(model(), starts[0], inputs[0], max_steps=STEPS)
    programs = run._cache_size()
    with Counter() as counter:
        for x, start in zip(inputs, starts, strict=True):
            for stop in (jem.RelativeGain(), jem.RelativeGain(1e-3)):
                for node in (model(), model(0.1), model(0.1, 2.0)):
                    jem.fit(node, start, x, stop=stop, max_steps=STEPS)
    assert counter.count == 0
    assert run._cache_size() == programs


def test_weights_compile_once():
    start, weights = jem.init(model(), jax.random.key(0), data(0)), [jnp.full(50, w) for w in (1.0, 2.0)]
    jem.fit(model(), start, data(0), weights=weights[0], max_steps=STEPS)
    with Counter() as counter:
        jem.fit(model(), start, data(1), weights=weights[1], max_steps=STEPS)
    assert counter.count == 0


@pytest.mark.parametrize("schedule", [jem.FinishAll(), jem.PruneByLimit()], ids=lambda s: type(s).__name__)
def test_restarts_compile_once(schedule):
    keys, inputs = [jax.random.key(k) for k in range(3)], [data(k) for k in range(3)]
    changed = schedule if isinstance(schedule, jem.FinishAll) else jem.PruneByLimit(safety=5.0, first=3)
    jem.fit_restarts(model(), keys[0], inputs[0], num_restarts=4, schedule=schedule, max_steps=STEPS).best()
    with Counter() as counter:
        for k in (1, 2):
            fits = jem.fit_restarts(
                model(0.1), keys[k], inputs[k], num_restarts=4, schedule=changed, stop=jem.RelativeGain(1e-4), max_steps=STEPS
            )
            fits.best()
    assert counter.count == 0


def test_questions_compile_once():
    node, inputs = model(), [data(k) for k in range(3)]
    starts = [jem.init(node, jax.random.key(k), inputs[k]) for k in range(3)]
    questions = [
        lambda p, x: jem.log_prob(node, p, x),
        lambda p, x: jem.infer(node, p, x),
        lambda p, x: jem.e_step(node, p, x),
        lambda p, x: jem.em_step(node, p, x),
        lambda p, x: jem.elbo(node, p, x, posterior_at=starts[0]),
        lambda p, x: jem.bic(node, p, x),
        lambda p, x: jem.sample(node, jax.random.key(0), p, 5),
    ]
    for ask in questions:
        ask(starts[0], inputs[0])
    with Counter() as counter:
        for ask in questions:
            ask(starts[1], inputs[1])
            ask(starts[2], inputs[2])
    assert counter.count == 0


def test_python_numbers_and_arrays_are_one_program():
    """A prior strength as a Python float, a NumPy scalar or an array of no axes: at most one program each, then none."""
    start = jem.init(model(), jax.random.key(0), data(0))
    strengths = [0.1, np.float32(0.1), jnp.float32(0.1)]
    fits = [jem.fit(model(s), start, data(0), max_steps=STEPS) for s in strengths]
    assert len({float(f.objective) for f in fits}) == 1
    with Counter() as counter:
        for strength in strengths:
            jem.fit(model(2 * strength), start, data(1), max_steps=STEPS)
    assert counter.count <= 1  # doubling an array is a program of its own

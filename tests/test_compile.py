"""Values never recompile: new data of the same shape, tolerances, priors and starts run the program there is."""

import copy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiers import ALL
from zoo import ZOO

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
    family = jem.Gaussian(jem.covariance.Diagonal(), jem.priors.InverseWishart(strength))
    return jem.Mixture(family, 2, concentration=concentration, seeding=jem.starts.RandomResponsibilities())


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
    run = sys.modules["jem.doors.fit"]._fit
    jem.fit(model(), starts[0], inputs[0], stop=jem.stop.RelativeGain(), max_steps=STEPS)
    programs = run._cache_size()
    with Counter() as counter:
        for x, start in zip(inputs, starts, strict=True):
            for stop in (jem.stop.RelativeGain(), jem.stop.RelativeGain(1e-3)):
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


@pytest.mark.parametrize("schedule", [jem.schedules.FinishAll(), jem.schedules.PruneByLimit()], ids=lambda s: type(s).__name__)
def test_restarts_compile_once(schedule):
    keys, inputs = [jax.random.key(k) for k in range(3)], [data(k) for k in range(3)]
    changed = schedule if isinstance(schedule, jem.schedules.FinishAll) else jem.schedules.PruneByLimit(safety=5.0, first=3)
    options = {"num_restarts": 4, "stop": jem.stop.RelativeGain(), "max_steps": STEPS}
    jem.fit_restarts(model(), keys[0], inputs[0], schedule=schedule, **options).best()
    with Counter() as counter:
        for k in (1, 2):
            fits = jem.fit_restarts(
                model(0.1),
                keys[k],
                inputs[k],
                num_restarts=4,
                schedule=changed,
                stop=jem.stop.RelativeGain(1e-4),
                max_steps=STEPS,
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


def structure(value):
    """What a compiled program is looked up by: the tree with its static fields, and the form of its leaves."""
    leaves, treedef = jax.tree.flatten(value)
    return treedef, [(np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]


MASK = [[True, False], [False, False]]
BUILT = {
    **{row.name: (lambda node=row.node: copy.deepcopy(node)) for row in ZOO},
    "held cells": lambda: density(MASK),
    "held cells on the device": lambda: density(jnp.array(MASK)),
    "held probabilities": lambda: jem.Density(
        uniform, np.full(3, 1 / 3), supports=jem.supports.Simplex(np.array([True, False, False]))
    ),
    "bounds": lambda: jem.Density(uniform, np.full(3, 1 / 3), supports=jem.supports.Interval(np.zeros(3), np.ones(3))),
    "fixed transition": lambda: jem.HMM(jem.Poisson(), 2, transition=jem.laws.Cells(fixed=np.array([[np.nan] * 2, [0, 1.0]]))),
    "driven": lambda: jem.HMM(jem.Gaussian(), 2, transition=jem.laws.Driven(uniform, np.zeros((2, 2)))),
    "restarts": lambda: [getattr(jem.schedules, n)() for n in ("Halving", "MergeDuplicates", "PruneByLimit", "FinishAll")],
    "rules": lambda: [getattr(jem.stop, n)() for n in ("RelativeGain", "Aitken", "ParameterChange", "Residual", "NeverStop")],
    "solvers": lambda: [getattr(jem.solvers, n)() for n in ("EM", "Anderson", "SQUAREM", "Hard", "Annealed", "Online")],
    "drawn": lambda: jem.solvers.Stochastic(jax.random.key(0)),
    "gradient steps": lambda: (jem.solvers.GEM(optax.adam, learning_rate=0.1), jem.solvers.GEM(optax.lbfgs, linesearch=None)),
    "adjoints": lambda: (jem.adjoints.Implicit(), jem.adjoints.Unrolled(), jem.adjoints.Implicit(tol=1e-6)),
    "routes": lambda: [getattr(jem.uncertainty, n)() for n in ("Oakes", "Louis", "Sandwich", "OPG", "SupplementedEM")],
}  # fmt: skip


def uniform(params, x):
    return jnp.sum(params) + 0 * jnp.sum(x)


def spread_out(params, x):
    """Normal, with one mean that stays where it is."""
    return -0.5 * jnp.sum((x - params[0]) ** 2 * jnp.exp(params[1])) + 0.5 * jnp.sum(params[1])


def density(mask):
    return jem.Mixture(jem.Density(spread_out, np.zeros((2, 2)), supports=jem.supports.HeldCells(np.array(mask))), 2)


@pytest.mark.parametrize("name", BUILT)
def test_what_is_built_anew_is_the_same_program(name):
    """Over the zoo, and over all that has a static field: equal and of one hash, whoever made it."""
    one, other = structure(BUILT[name]()), structure(BUILT[name]())
    assert one == other and hash(one[0]) == hash(other[0])


@pytest.mark.parametrize(
    "value", [form(np.array([False, True])) for form in (jem.supports.Simplex, jem.supports.HeldCells)], ids=["p", "x"]
)
def test_supports_with_other_cells_are_other_programs(value):
    """The control; and what is held is held, whatever becomes of the array that said so."""
    mask = np.array([False, True])
    same = type(value)(mask)
    mask[0] = True
    assert same == value != type(value)(mask) and hash(same) == hash(value)


ANEW = ["held cells", "fixed transition"] + ([row.name for row in ZOO] if ALL else ["lds_level"])


@pytest.mark.parametrize("name", ANEW)
def test_a_model_built_anew_compiles_nothing(name):
    """With other data, from one start and from many; JEM_ALL_ROWS=1 runs the zoo."""
    rows = {row.name: row.rows for row in ZOO}.get(name, lambda rng, _: jnp.asarray(rng.poisson(4.0, (64, 3, 1)), jnp.float32))
    x = [rows(np.random.default_rng(seed), "float32") for seed in (0, 1)]
    x = [jax.tree.map(lambda leaf: leaf[:, 0], v) if name == "held cells" else v for v in x]
    solver = jem.solvers.GEM(optax.adam, learning_rate=0.01) if name == "held cells" else jem.solvers.EM()
    options = dict(solver=solver, stop=jem.stop.RelativeGain(1e-3), max_steps=3)
    fits = jem.fit_restarts(BUILT[name](), jax.random.key(0), x[0], num_restarts=2, **options).best()
    jem.fit(BUILT[name](), fits.params, x[0], **options)
    with Counter() as counter:
        fits = jem.fit_restarts(BUILT[name](), jax.random.key(1), x[1], num_restarts=2, **options).best()
        jem.fit(BUILT[name](), fits.params, x[1], **options)
    assert counter.count == 0

"""One table: solvers around solvers, stopping rules, models, and ways to run. Every pair of entries meets at least once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import build

import jem
from jem import Status
from jem.engine.stop import rounding

CALM = 6  # steps of a noisy phase
ACCELERATORS = {
    "plain": lambda s: s,
    "anderson": lambda s: jem.solvers.Anderson(s),
    "squarem": lambda s: jem.solvers.SQUAREM(s),
}
VARIANTS = {
    "em": jem.solvers.EM(),
    "annealed": jem.solvers.Annealed(steps=CALM),
    "hard": jem.solvers.Hard(),
    "stochastic": jem.solvers.Stochastic(jax.random.key(11), steps=CALM),
    "online": jem.solvers.Online(num_batches=4),
    "incremental": jem.solvers.Incremental(4),
}
RULES = {
    "gain": jem.stop.RelativeGain(1e-7),
    "aitken": jem.stop.Aitken(1e-6),
    "both": jem.stop.AllOf(
        jem.stop.RelativeGain(1e-7), jem.stop.AnyOf(jem.stop.ParameterChange(1e-4), jem.stop.Residual(1e-4))
    ),
}
MODELS = ("mixture_poisson", "tied_spherical", "hmm_categorical")
WAYS = ("jit", "vmap", "restarts")
AXES = (tuple(ACCELERATORS), tuple(VARIANTS), tuple(RULES), MODELS, WAYS)
MAX_STEPS = 300


def every_pair(axes):
    """Few rows in which every two entries of different axes occur together: greedy, the same every time."""
    left = {((i, a), (j, b)) for (i, p), (j, q) in itertools.combinations(enumerate(axes), 2) for a in p for b in q}
    everything = list(itertools.product(*axes))
    rows = []
    while left:
        pairs = lambda row: left & set(itertools.combinations(enumerate(row), 2))  # noqa: E731
        best = max(everything, key=lambda row: len(pairs(row)))
        left -= pairs(best)
        rows.append(best)
    return rows


TABLE = every_pair(AXES)


def test_the_table_is_small_and_complete():
    assert len(TABLE) < 25
    for (i, p), (j, q) in itertools.combinations(enumerate(AXES), 2):
        assert {(row[i], row[j]) for row in TABLE} == set(itertools.product(p, q))


@pytest.mark.parametrize("row", TABLE, ids="-".join)
def test_crossing(x64, row):
    accelerator, variant, rule, name, way = row
    model = build(name, "float64")
    node, x, solver = model.row.node, model.x, ACCELERATORS[accelerator](VARIANTS[variant])
    options = {"weights": model.weights, "solver": solver, "stop": RULES[rule], "max_steps": MAX_STEPS}
    if way == "restarts":
        fits = jem.fit_restarts(node, jax.random.key(0), x, num_restarts=3, **options)
    else:
        starts = [model.random(k) for k in range(2)]
        starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
        run = jax.vmap if way == "vmap" else lambda fn: lambda s: jax.lax.map(fn, s)
        fits = jax.jit(run(lambda start: jem.fit(node, start, x, **options)))(starts)

    assert set(fits.status.tolist()) <= {Status.CONVERGED, Status.DEGENERATE, Status.MAX_STEPS}
    # The chain's data have no structure: a slow climb may go on, and plain EM says for how long.
    on = np.asarray(fits.status) == Status.MAX_STEPS
    assert not on.any() or name == "hmm_categorical"
    assert not (on & ~(np.asarray(fits.steps_left) > 0)).any() or "gains" not in solver.traits
    assert np.isfinite(fits.objective).all()
    noisy = {"annealed": CALM, "stochastic": CALM, "online": 2}.get(variant, 0)
    slack = np.asarray(rounding(fits.objective, jnp.sum(model.weights)))[:, None]
    falls = np.diff(np.asarray(fits.trace), axis=1)[:, noisy:] < -slack
    assert not falls.any()
    assert (np.asarray(fits.bound) <= np.asarray(fits.log_likelihood) + slack[:, 0]).all() or variant == "incremental"
    for lane in range(len(fits.status)):
        one = jax.tree.map(lambda leaf: leaf[lane], fits)
        if one.status == Status.CONVERGED:
            exact = jem.e_step(node, one.params, x, model.weights)[1]
            np.testing.assert_allclose(one.log_likelihood, exact, rtol=1e-9)
            assert one.steps_left == 0

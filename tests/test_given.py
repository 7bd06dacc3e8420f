"""What a door cannot see ends in a status; what is given holds; a check looks where the data are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile import COUNTS, HMM, HMM_START, KEY, KEYS, MIXTURE, REALS, START, G, raises

import jem
from jem import Status
from jem.checks import found
from jem.composite import Wrapper
from jem.node import node

# Inside jit nothing raises: what a door would refuse ends in a status.

INSIDE = {
    "poisson": (jem.Poisson(), jem.Poisson.Params(jnp.array([2.0])), [[[1.0], [2.0]], [[0.5], [2.0]], [[-1.0], [2.0]]]),
    "bernoulli": (jem.Bernoulli(), jem.Bernoulli.Params(jnp.array([0.4])), [[[1.0], [0.0]], [[0.5], [0.0]], [[2.0], [0.0]]]),
    "categorical": (
        jem.Categorical(3), jem.Categorical.Params(jnp.ones(3) / 3), [[0.0, 1.0], [3.0, 1.0], [-1.0, 1.0], [0.5, 1.0]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INSIDE)
def test_values_inside_jit(name):
    """The first data set is sound, and stays so beside the others."""
    model, params, batch = INSIDE[name]
    log_prob = jax.jit(jax.vmap(lambda x: jem.log_prob(model, params, x)))(jnp.asarray(batch))
    np.testing.assert_array_equal(jnp.isfinite(log_prob[:, 0]), np.arange(len(batch)) == 0)
    assert (log_prob[1:, 0] == -jnp.inf).all() and jnp.isfinite(log_prob[:, 1]).all()
    status = jax.jit(jax.vmap(lambda x: jem.fit(model, params, x, max_steps=5).status))(jnp.asarray(batch))
    assert status.tolist() == [Status.CONVERGED] + [Status.NONFINITE] * (len(batch) - 1)


def test_weights_inside_jit():
    weights = jnp.array([[1.0, 1.0, 0.0], [1.0, -1.0, 1.0], [1.0, jnp.nan, 1.0], [0.0, 0.0, 0.0], [1.0, jnp.inf, 1.0]])
    x = jnp.array([[1.0], [4.0], [9.0]])
    fit = jax.jit(jax.vmap(lambda w: jem.fit(jem.Poisson(), jem.Poisson.Params(jnp.array([2.0])), x, weights=w, max_steps=5)))
    assert fit(weights).status.tolist() == [Status.CONVERGED] + [Status.NONFINITE] * 4


def test_labels_inside_jit():
    """A label that is none allows no component."""
    labels = jnp.array([[0, -1, 1, -1, -1, 1], [0, 5, 1, 1, -1, 1], [0, -7, 1, 1, -1, 1]])
    x = jnp.asarray(REALS[:, :1].round())
    model, start = jem.Mixture(jem.Poisson(), 2), COUNTS
    fit = jax.jit(jax.vmap(lambda y: jem.fit(model, start, jem.Labelled(x, y), max_steps=60).status))(labels)
    assert fit.tolist() == [Status.CONVERGED, Status.NONFINITE, Status.NONFINITE]


def test_gradients_at_an_impossible_category():
    """A probability of zero has a finite gradient, whether its category occurs or not."""
    total = lambda p, x: jem.log_prob(jem.Categorical(3), jem.Categorical.Params(p), x).sum()  # noqa: E731
    p = jnp.array([0.0, 0.25, 0.75])
    np.testing.assert_allclose(jax.grad(total)(p, jnp.array([1, 2, 2])), [0.0, 4.0, 8 / 3], rtol=1e-6)
    assert jnp.isfinite(jax.grad(total)(p, jnp.array([0, 1, 2]))).all()


# What Frozen holds is given.

FREE = jem.Frozen(MIXTURE, "weights")
UNKNOWN = {
    "fields": FREE,
    "all": jem.Mixture(jem.OneOf(G, jem.Frozen(G))),
    "inside": jem.Mixture(jem.Frozen(G, "mean"), 2),
    "nested": jem.Frozen(jem.Mixture(jem.Frozen(G, "mean"), 2), weights=[0.5, 0.5]),
    "tied": jem.Mixture(jem.Tied(jem.Frozen(G, "mean"), 2, "whitening")),
    "part": jem.Mixture(jem.Product(a=jem.Frozen(G, "mean"), b=G), 2),
    "one of two": jem.Frozen(jem.StudentT(), "df", "mean"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_restarts_do_not_hold_what_is_random(what):
    x = {"a": REALS, "b": REALS} if what == "part" else REALS
    call = lambda: jem.fit_restarts(UNKNOWN[what], KEY, x, num_restarts=2)  # noqa: E731
    raises(call, ["random start", r"jem.Frozen\(node, weights=\[0.5, 0.5\]\)", "jem.fit"])


def test_a_value_that_is_given():
    """Every restart has it, whatever its start is, and a start that has another one is refused."""
    share = jnp.array([0.3, 0.7])
    model = jem.Frozen(MIXTURE, weights=share)
    many = jem.fit_restarts(model, next(KEYS), REALS, num_restarts=3)
    np.testing.assert_array_equal(many.params.weights, jnp.broadcast_to(share, (3, 2)))
    assert jem.num_parameters(model, many.best().params) == 10
    raises(lambda: jem.fit(model, START, REALS), [r"params.weights: jem.Frozen was given \[0.3.*got \[0.5"])
    inside = jax.jit(lambda start: jem.fit(model, start, REALS))(START)
    np.testing.assert_array_equal(inside.params.weights, share)
    centre = jem.Mixture(jem.Frozen(G, mean=[1.0, 2.0]), 2)  # every copy has it
    start = jem.init(centre, next(KEYS), REALS)
    np.testing.assert_array_equal(start.components.mean, [[1.0, 2.0]] * 2)
    np.testing.assert_array_equal(jem.fit(centre, start, REALS).params.components.mean, [[1.0, 2.0]] * 2)
    each = jem.Mixture(jem.Frozen(jem.Stack(G, 2), mean=REALS[[0, 3]]))  # each has its own
    np.testing.assert_array_equal(jem.init(each, next(KEYS), REALS).components.mean, REALS[[0, 3]])
    whole = jem.Frozen(MIXTURE, components=START.components)
    np.testing.assert_array_equal(jem.init(whole, next(KEYS), REALS).components.mean, START.components.mean)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (jem.Frozen(MIXTURE, weights=[0.5, 0.25, 0.25]), [r"Frozen: weights has shape \(2,\); the value given has \(3,\)"]),
        (jem.Frozen(MIXTURE, wieghts=[0.5, 0.5]), ["Frozen: Mixture has no field 'wieghts'; its fields are"]),
        (jem.Frozen(MIXTURE, components=[0.0]), ["Frozen: components has the structure"]),
        (jem.Frozen(G, mean=REALS), [r"Frozen: mean has shape \(2,\); the value given has \(6, 2\)"]),
    ],
)  # fmt: skip
def test_values_that_do_not_fit(model, words):
    raises(lambda: jem.init(model, KEY, REALS), words)


def test_frozen_density_of_an_array():
    """Parameters without names are held whole."""
    held = jem.Frozen(jem.Density(lambda p, x: -0.5 * jnp.sum((x - p) ** 2), jnp.zeros(2)))
    start = jem.init(held, next(KEYS), REALS)
    fit = jem.fit(held, start, REALS, max_steps=3)
    np.testing.assert_array_equal(fit.params, start)
    assert jem.num_parameters(held, start) == 0


@node
class Plain(Wrapper):
    """A node around a node that changes nothing."""

    child: Any


def test_a_wrapper_is_its_child():
    """What it does not write is the child's: the scale of the data, a plate's size, a chain's questions."""
    assert jem.bind(Plain(G), REALS).child.scale is not None
    assert jem.Mixture(Plain(jem.Stack(G, 3))).components.size == 3
    x = jem.sequences([[[1], [2], [9], [8]]])
    params, held = jem.init(HMM, next(KEYS), x), jem.Frozen(HMM, "initial")
    for question, args in {jem.decode: (), jem.predict: (2,)}.items():
        jax.tree.map(np.testing.assert_array_equal, question(held, params, x, *args), question(HMM, params, x, *args))
    raises(lambda: jem.decode(jem.Frozen(G), G.params([0.0, 0.0], np.eye(2)), REALS), ["Frozen has no decode"])


def test_hard_em_of_a_gate_and_of_a_chain_that_stays():
    """The rule sets their variables as it does a mixture's and a chain's."""
    gate = jem.Mixture(G, 2, weights=jem.laws.Gate(lambda p, u: jnp.stack([p[0] * u[0], 0.0]), jnp.zeros(1)))
    x = jem.Given(REALS, np.zeros((6, 1)))
    start = jem.Mixture.Params(jnp.zeros(1), START.components)
    frozen = jem.Frozen(gate, "weights")
    hard = jem.fit(frozen, start, x, solver=jem.solvers.Hard(), max_steps=20)
    want = jem.fit(jem.Frozen(MIXTURE, "weights"), START, REALS, solver=jem.solvers.Hard(), max_steps=20)
    np.testing.assert_allclose(hard.params.components.mean, want.params.components.mean, rtol=1e-5)
    stays = jem.Frozen(jem.HMM(HMM.emission, initial=jem.laws.Stationary()), "transition")
    y = jem.sequences([[[1], [2], [9], [8], [1], [0]]])
    begin = jem.HMM.Params((), jem.laws.Cells().params([[0.5, 0.5], [0.5, 0.5]]), HMM_START.emission)
    fit = jem.fit(stays, begin, y, solver=jem.solvers.Hard(), max_steps=20)
    np.testing.assert_allclose(fit.params.emission.rate, [[4 / 4], [17 / 2]], rtol=1e-5)


# One check, on the device that holds the data.


def _size(a):
    return a.size if isinstance(a, jax.Array) else 0


def test_one_scalar_comes_back(monkeypatch):
    """No array of the size of the data is fetched from a device where nothing is wrong."""
    fetched, fetch = [], np.asarray
    monkeypatch.setattr(np, "asarray", lambda a, *r, **k: fetched.append(_size(a)) or fetch(a, *r, **k))
    large = jnp.asarray(np.random.default_rng(0).poisson(3, (500, 2)), jnp.float32)
    labels = jnp.zeros(500, jnp.int32)
    weights = jnp.ones(500)
    for model, x in {jem.Poisson(): large, MIXTURE: jem.Labelled(large, labels), HMM: large[:, :, None]}.items():
        jem.checks.check_data(model, x, weights)
    assert max(fetched, default=0) < 500
    np.asarray(large)
    assert max(fetched) == 1000  # the control: it is seen


def test_checks_inside_a_trace():
    """Data that are known while something else is traced are looked at."""
    x = jnp.array([[0.5]])
    with pytest.raises(ValueError, match="got 0.5 in row 0"):
        jax.jit(lambda rate: jem.log_prob(jem.Poisson(), jem.Poisson.Params(rate), x))(jnp.ones(1))
    assert not found(jnp.isnan, jnp.zeros(2))

"""Models that users write: what they may contain and be given, what is said where they are wrong, and where they start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.special import gammaln
from jax.scipy.stats import expon, norm

import jem
from jem.data import to_units
from jem.kernels.seeding import climb, draw_units

SOLVER = jem.solvers.GEM(optax.lbfgs, linesearch=None)
key = functools.partial(jax.random.key, 0)


def square(value, mean):
    return -0.5 * jnp.sum((value - mean) ** 2)


@functools.cache
def rows(num=30):
    rng = np.random.default_rng(0)
    real = lambda *shape: rng.normal(size=(num, *shape)).astype(np.float32)
    return {"x": real(2), "table": real(3), "j": rng.integers(0, 3, num).astype(np.int32)}


# What a function may contain -----------------------------------------------------------------------

FORMS = {
    "softmax": lambda p, u: jax.nn.log_softmax(p[:, None] * u["x"][0])[u["j"], 0],
    "own table": lambda p, u: square(u["table"][u["j"]], p),
    "parameter by row": lambda p, u: square(u["x"][0], p[u["j"]]),
    "two indices": lambda p, u: square(jnp.outer(p, p)[u["j"], u["j"]], u["x"][0]),
    "clip": lambda p, u: square(u["x"][0], jnp.take(p, u["j"] + 1, mode="clip")),
    "fill": lambda p, u: square(u["x"][0], p.at[u["j"] + 1].get(mode="fill", fill_value=0.0)),
    "along": lambda p, u: square(jnp.take_along_axis(u["table"], u["j"][None], 0), p[0]),
    "one hot": lambda p, u: square(u["x"], jax.nn.one_hot(u["j"], 3) @ p),
    "switch": lambda p, u: jax.lax.switch(u["j"], [lambda k=k: square(u["x"], p[k]) for k in range(3)]),
    "cond": lambda p, u: jax.lax.cond(u["j"] > 0, lambda: square(u["x"], p[0]), lambda: square(u["x"], p[1])),
    "scan": lambda p, u: jax.lax.scan(lambda sum, pair: (sum + square(*pair), None), 0.0, (u["table"], p))[0],
    "ordinal": lambda p, u: jnp.log(jnp.diff(jax.nn.sigmoid(jnp.array([-9.0, 0, 1, 9]) + p[0]))[u["j"]]),
    "jitted": jax.jit(lambda p, u: square(u["x"][0], p[u["j"]])),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_pass_the_door(name):
    jem.Density(FORMS[name], np.zeros(3, np.float32)).validate(rows())


def test_a_joint_density_passes_the_door():
    joint = lambda p, u, z: FORMS["own table"](p[z], u) + FORMS["parameter by row"](p[z], u)
    jem.LogJoint(joint, jem.spaces.Finite(2), np.zeros((2, 3), np.float32)).validate(rows())
    with pytest.raises(ValueError, match="looks outside an array"):
        jem.LogJoint(joint, jem.spaces.Finite(3), np.zeros((2, 3), np.float32)).validate(rows())


def test_softmax_regression_fits(x64):
    """Without a covariate the probabilities are the frequencies; with one the score is zero."""
    x = rows()
    model = jem.Density(lambda p, u: jax.nn.log_softmax(p @ u["x"])[u["j"]], jnp.zeros((3, 2)))
    one = {"x": np.stack([np.ones(30), np.zeros(30)], 1), "j": x["j"]}
    free = jem.fit(model, model.start, one, solver=SOLVER, stop=jem.stop.RelativeGain(1e-12))
    np.testing.assert_allclose(jax.nn.softmax(free.params[:, 0]), np.bincount(x["j"]) / 30, atol=1e-4)
    got = jem.fit(
        model, model.start, {"x": x["x"].astype(float), "j": x["j"]}, solver=SOLVER, stop=jem.stop.RelativeGain(1e-12)
    )
    chance = jax.nn.softmax(x["x"] @ got.params.T, axis=1)
    np.testing.assert_allclose(x["x"].T @ (np.eye(3)[x["j"]] - chance), 0, atol=1e-3)


def test_an_index_outside_is_found_in_any_row():
    """The row with the largest integer is tried too, wherever it is."""
    x = dict(rows(), j=np.where(np.arange(30) == 23, 3, rows()["j"]).astype(np.int32))
    with pytest.raises(ValueError, match="looks outside an array"):
        jem.log_prob(jem.Density(FORMS["parameter by row"], jnp.zeros(3)), jnp.zeros(3), x)


# What it may be given ------------------------------------------------------------------------------


def censored(p, u):
    """A waiting time, known or at least `lo`."""
    return jnp.where(jnp.isinf(u["hi"]), expon.logsf(u["lo"], scale=p), expon.logpdf(u["lo"], scale=p))


TIMES = {"lo": np.array([1.0, 2.0, 4.0, 3.0]), "hi": np.array([1.0, 2.0, np.inf, np.inf])}


def waiting(**options):
    return jem.Density(censored, np.array(1.0), supports=jem.supports.Positive(), **options)


def test_infinite_bounds(x64):
    """Deaths over total time, in closed form; in a product the other parts are still looked at."""
    got = jem.fit(waiting(nonfinite_ok=True), jnp.array(1.0), TIMES, solver=SOLVER).check()
    np.testing.assert_allclose(got.params, 10 / 2, rtol=2e-2)
    with pytest.raises(ValueError, match=r"\['hi'\]: inf in row 2.*Missing.*nonfinite_ok=True"):
        jem.fit(waiting(), jnp.array(1.0), TIMES, solver=SOLVER)
    both = jem.Product(time=waiting(nonfinite_ok=True), size=jem.Gaussian())
    sizes = np.array([[0.1], [0.5], [np.nan], [0.3]])
    for model in (both, jem.Mixture(both, 2), jem.Frozen(both, "size")):
        with pytest.raises(ValueError, match=r"\['size'\]: nan in row 2"):
            jem.init(model, key(), {"time": TIMES, "size": sizes})


def seen_normal(p, x):
    """A normal of the cells that are not NaN."""
    ok = ~jnp.isnan(x)
    return jnp.sum(jnp.where(ok, norm.logpdf(jnp.where(ok, x, 0.0), p["mean"], p["scale"]), 0))


def careless_normal(p, x):
    """The same, with a slope of NaN."""
    return jnp.sum(jnp.where(jnp.isnan(x), 0, norm.logpdf(x, p["mean"], p["scale"])))


NORMAL = {"mean": np.zeros(2, np.float32), "scale": np.ones(2, np.float32)}
WHERE = {"mean": jem.supports.Real(), "scale": jem.supports.Positive()}


def normal(fn, **options):
    return jem.Density(fn, NORMAL, supports=WHERE, nonfinite_ok=True, **options)


def holes(num=60):
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(num, 2)) + 4 * (np.arange(num)[:, None] % 2)).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = np.nan
    return x


def test_cells_that_a_density_takes_as_missing():
    x = holes()
    got = jem.fit(normal(seen_normal), normal(seen_normal).start, x, solver=SOLVER, stop=jem.stop.RelativeGain(1e-7))
    np.testing.assert_allclose(got.params["mean"], np.nanmean(x, 0), atol=0.05)
    with pytest.raises(ValueError, match=r"gradient of careless_normal.*harmless number"):
        jem.log_prob(normal(careless_normal), NORMAL, x)
    model = jem.Mixture(normal(seen_normal), 2)
    fits = jem.fit_restarts(model, key(), x, num_restarts=4, solver=SOLVER)
    assert np.isfinite(fits.objective).all()
    np.testing.assert_allclose(np.sort(fits.best().params.components["mean"], 0), [[0, 0], [4, 4]], atol=0.6)
    chain = jem.HMM(normal(seen_normal), 2)  # a step of which one cell is missing is not a missing step
    steps = jem.init(chain, key(), x.reshape(2, 30, 2))
    whole = jem.log_prob(jem.HMM(jem.Missing(normal(seen_normal)), 2), steps, np.nan_to_num(x).reshape(2, 30, 2))
    assert np.isfinite(jem.log_prob(chain, steps, x.reshape(2, 30, 2))).all() and np.isfinite(whole).all()


def test_a_function_that_makes_the_start_does_not_see_missing_rows():
    x = holes()
    start = lambda key, x, weights: {"mean": jnp.mean(x, 0), "scale": jnp.std(x, 0)}
    law = lambda p, x: jnp.sum(norm.logpdf(x, p["mean"], p["scale"]))
    jem.HMM(jem.Density(law, start, supports=WHERE), 2).validate(x.reshape(2, 30, 2))


# What is said where it is wrong --------------------------------------------------------------------

X = np.array([[0.5], [1.0], [2.0]], np.float32)
ONE, MINUS = {"m": np.ones(1, np.float32)}, {"m": -np.ones(1, np.float32)}


def gamma(p, x):
    return jnp.sum(p["k"] * jnp.log(p["k"] / p["m"]) - gammaln(p["k"]) + (p["k"] - 1) * jnp.log(x) - p["k"] * x / p["m"])


def gammas(k=1.0, **options):
    return jem.Density(gamma, {"k": np.float32(k), "m": np.float32(1)}, supports=jem.supports.Positive(), **options)


def branching(p, x):
    return -x[0] if x[0] > 0 else -p["m"][0]


def through_numpy(p, x):
    return jnp.sum(np.log(x) * p["m"])


zero = np.array([[1.0], [0.0], [2.0]], np.float32)
law = lambda p, x: -jnp.sum((x - p["m"]) ** 2)
WRONG = {
    "no parameters": (lambda: jem.Density(law, {}), "start holds no parameters; got {}"),
    "no start": (lambda: jem.Density(law, None), "start holds no parameters; got None"),
    "text": (lambda: jem.Density(law, {"m": "one"}), r"start\['m'\] must be an array of real numbers; got 'one'"),
    "no function": (lambda: jem.Density(1.0, ONE), "log_prob must be a function of .params, x.; got float 1.0"),
    "a class": (lambda: jem.Density(jem.Gaussian, ONE), "log_prob must be a function of .params, x.; got Gaussian"),
    "arguments": (lambda: jem.Density(lambda x: x, ONE), r"called with 2 arguments, \(params, x\); .*<lambda>\(x\) does not"),
    "three": (lambda: jem.LogJoint(law, jem.spaces.Finite(2), ONE), r"called with 3 arguments, \(params, x, z\)"),
    "prior": (lambda: jem.Density(law, ONE, log_prior=lambda: 0.0), r"log_prior is called with 1 argument, \(params\)"),
    "space": (lambda: jem.LogJoint(lambda p, x, z: 0.0, 2, ONE), r"space must say what.*got 2; write jem.spaces.Finite\(2\)"),
    "support": (
        lambda: jem.Density(law, ONE, supports={"m": jem.supports.Positive}),
        r"supports\['m'\].*the class Positive; write",
    ),
    "supports": (
        lambda: jem.Density(law, ONE, supports={"n": jem.supports.Real()}),
        "supports must have the structure of start",
    ),
    "size": (lambda: jem.Density(law, ONE, size=0), "size must be the number of densities.*got 0"),
    "outside": (lambda: jem.Density(law, MINUS, supports=jem.supports.Positive()), r"start\['m'\] holds -1.*outside Positive"),
    "not finite": (lambda: jem.Density(law, {"m": np.full(1, np.nan, np.float32)}), r"start\['m'\] must be finite; got nan"),
    "vector": (lambda: jem.Density(lambda p, x: x * p["m"], ONE), r"a scalar.*float32 of shape \(1,\); sum over"),
    "complex": (lambda: jem.Density(lambda p, x: jnp.sum(x) * 1j, ONE), r"a scalar, shape \(\), real numbers.*complex64"),
    "integer": (lambda: jem.Density(lambda p, x: jnp.array(1), ONE), "real numbers, for one unit; got int32"),
    "bool": (lambda: jem.Density(lambda p, x: x[0] > 0, ONE), "real numbers, for one unit; got bool"),
    "nothing": (lambda: jem.Density(lambda p, x: None, ONE), "real numbers, for one unit; got NoneType: None"),
    "pair": (lambda: jem.Density(lambda p, x: (x[0], x[0]), ONE), "real numbers, for one unit; got tuple"),
    "vector prior": (lambda: jem.Density(law, ONE, log_prior=lambda p: p["m"]), r"must return a scalar.*of shape \(1,\)"),
    "branch": (lambda: jem.Density(branching, ONE), "branching asks for the value of an array.*jnp.where, jax.lax.cond"),
    "numpy": (lambda: jem.Density(through_numpy, ONE), "through_numpy asks for the value of an array.*jax.numpy"),
    "zero and one": (gammas, "gamma is NaN at the node's start, in row 1; the row holds a 0.*xlogy", zero),
    "zero": (lambda: gammas(2.0), "log density gamma is -inf in row 1 at the start: choose a start with positive.*xlogy", zero),
    "no branch": (lambda: jem.Density(lambda p, x: jnp.sum(x + jnp.sqrt(p["m"] - 1)), ONE), "not finite at the node's start$"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(what):
    make, message, *x = WRONG[what]
    with pytest.raises(ValueError, match=message):
        jem.log_prob(make(), ONE, *(x or [X]))


# Closed forms that users write ---------------------------------------------------------------------


def coins(theta, heads, z):
    return jnp.log(0.5) + heads * jnp.log(theta[z]) + (10 - heads) * jnp.log1p(-theta[z])


def two_coins(start, maximize):
    ways = {"statistics": lambda heads, z: (heads, 10.0), "maximize": maximize}
    return jem.LogJoint(coins, jem.spaces.Finite(2), np.array(start, np.float32), supports=jem.supports.Interval(), **ways)


HEADS = np.array([5.0, 9.0, 8.0, 4.0, 7.0], np.float32)


def test_a_start_on_the_edge_needs_no_gradient():
    """EM takes no gradient steps: a coin that never shows heads explains nothing, and the other everything."""
    model = two_coins([0.0, 0.5], lambda s: s[0] / s[1])
    got = jem.fit(model, model.start, HEADS)
    np.testing.assert_allclose(got.params, [0, 0.66], atol=1e-4)
    stats = model.expect(got.params, model.infer(got.params, HEADS)[0], HEADS, jnp.ones(5))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(stats))


BROKEN = {
    "nan": lambda s: jnp.nan * s[0] / s[1],
    "a root": lambda s: s[0] / s[1] + 0 * jnp.sqrt(-s[0]),
    "later": lambda s: jnp.where(s[0] > 0.75 * s[1], jnp.nan, s[0] / s[1]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_maximize_that_gives_nan_is_not_converged(name):
    model = two_coins([0.6, 0.5], BROKEN[name])
    assert jem.fit(model, model.start, HEADS).status == jem.Status.NONFINITE


def test_an_empty_value_keeps_what_it_had():
    """No weight, no heads, no tosses: 0 / 0 is nothing there, alone or beside others."""
    model = two_coins([0.3, 0.6], lambda s: s[0] / s[1])
    params = jnp.asarray(model.start)
    posterior, _ = model.infer(params, HEADS)
    stats = model.expect(params, posterior, HEADS, jnp.zeros(5))
    np.testing.assert_array_equal(model.maximize(params, stats), params)
    half = stats._replace(own=(jnp.array([0.0, 7.0]), jnp.array([0.0, 10.0])))
    np.testing.assert_allclose(model.maximize(params, half), [0.3, 0.7], rtol=1e-6)


# Where it starts -----------------------------------------------------------------------------------


@functools.cache
def two_gammas():
    """150 waiting times of mean 54 and deviation 5, and 150 of 82 and 6."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.gamma((54 / 5) ** 2, 25 / 54, 150), rng.gamma((82 / 6) ** 2, 36 / 82, 150)])
    return x.astype(np.float32)[:, None]


def log_pair(p, x, z):
    return jnp.log(p["w"][z]) + gamma({"k": p["k"][z], "m": p["m"][z]}, x)


def pair():
    start = {"w": np.full(2, 0.5, np.float32), "k": np.ones(2, np.float32), "m": np.ones(2, np.float32)}
    return jem.LogJoint(
        log_pair,
        jem.spaces.Finite(2),
        start,
        supports={"w": jem.supports.Simplex(), "k": jem.supports.Positive(), "m": jem.supports.Positive()},
    )


def chain_of_gammas():
    start = {"p": np.full((2, 2), 0.5, np.float32), "k": np.ones(2, np.float32), "m": np.ones(2, np.float32)}
    move = lambda p: jnp.log(p["p"])
    space = jem.spaces.ChainOf(2, lambda p: jnp.log(jnp.full(2, 0.5)), move)
    where = {"p": jem.supports.Simplex(), "k": jem.supports.Positive(), "m": jem.supports.Positive()}
    return jem.LogJoint(lambda p, x, z: gamma({"k": p["k"][z], "m": p["m"][z]}, x), space, start, supports=where)


GUESSED = {
    "mixture": (lambda: jem.Mixture(gammas(), 2), lambda p: p.components["m"]),
    "chain": (lambda: jem.HMM(gammas(), 2), lambda p: p.emission["m"]),
    "joint": (pair, lambda p: p["m"]),
    "joint chain": (chain_of_gammas, lambda p: p["m"]),
}


@pytest.mark.parametrize("kind", GUESSED)
def test_starts_look_at_the_data(kind):
    """From a start at 1, means near 54 and 82 on most restarts, before a single step of EM."""
    make, means = GUESSED[kind]
    x = two_gammas()[None] if "chain" in kind else two_gammas()
    starts = jax.vmap(lambda key: jem.init(make(), key, x))(jax.random.split(key(), 8))
    near = np.abs(np.sort(means(starts), 1) - [54, 82]).max(1) < 6
    assert near.sum() >= 6


def test_restarts_find_two_gammas():
    fits = jem.fit_restarts(jem.Mixture(gammas(), 2), key(), two_gammas(), num_restarts=8, solver=SOLVER)
    best = float(np.max(fits.objective))
    assert (np.asarray(fits.objective) > best - 1).sum() >= 5


def test_starts_of_every_kind_of_data_are_finite():
    """Dicts, integers, NaN, weights of zero, more units than are drawn, a group of nobody."""
    law = lambda p, u: square(u["x"], p["m"]) + jax.nn.log_softmax(p["c"])[u["j"]]
    model = jem.Density(law, {"m": np.zeros(2, np.float32), "c": np.zeros(3, np.float32)})
    x = {name: np.concatenate([a] * 10) for name, a in rows().items()}
    for weights in (np.ones(300), (np.arange(300) < 7), np.zeros(300)):
        start = model.init(key(), to_units(x), jnp.asarray(weights, jnp.float32))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(start))
    start = jem.init(jem.Mixture(normal(seen_normal), 3), key(), holes())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(start))
    gate = jem.Density(lambda p, u: jax.nn.log_softmax(p * u), np.zeros(3, np.float32), size=3, spread=0.0)
    np.testing.assert_array_equal(jem.init(gate, key(), np.ones(5, np.float32)), np.zeros(3))


def test_a_climb_is_safe():
    """Up a badly scaled quadratic; not into NaN; nowhere where there is nothing to see."""
    hill = lambda z: -jnp.sum(jnp.array([1.0, 1e-4]) * (z - jnp.array([3.0, 500.0])) ** 2)
    np.testing.assert_allclose(climb(hill, jnp.zeros(2), 60), [3, 500], rtol=0.05)
    edge = lambda z: jnp.sum(jnp.where(z < 2, z, jnp.nan))
    assert 1 < float(climb(edge, jnp.zeros(1))[0]) < 2
    np.testing.assert_array_equal(climb(lambda z: jnp.sum(z) * jnp.nan, jnp.zeros(2)), np.zeros(2))


def test_units_are_drawn_by_their_weight():
    x, weights = jnp.arange(1000.0), jnp.where(jnp.arange(1000) < 500, 3.0, 1.0)
    some, w = draw_units(key(), x, weights)
    assert float(jnp.sum(w)) == pytest.approx(1) and some.shape == (256,)
    assert float(jnp.mean(some < 500)) == pytest.approx(0.75, abs=0.01)
    everything, w = draw_units(key(), x[:5], weights[:5])
    np.testing.assert_array_equal(everything, x[:5])

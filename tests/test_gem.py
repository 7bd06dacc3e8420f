"""Generalised EM: equal to closed forms where there are any, safe where steps are too long, honest where nothing can move."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import build

import jem
from jem.engine.runaway import outward, recession

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, **__: COMPILED.append(name) if name.endswith("backend_compile_duration") else None
)
LBFGS = jem.solvers.GEM(optax.lbfgs, linesearch=None)


def log_laplace(params, x):
    """Of one unit x (D,)."""
    return jnp.sum(-jnp.abs(x - params["mean"]) / params["scale"] - jnp.log(2 * params["scale"]))


def log_normal(params, x):
    """Of one unit x (D,)."""
    z = (x - params["mean"]) / params["scale"]
    return jnp.sum(-0.5 * z**2 - jnp.log(params["scale"]) - 0.5 * jnp.log(2 * jnp.pi))


WHERE = {"mean": jem.supports.Real(), "scale": jem.supports.Positive()}


def leaf(log_prob, dim=1, **options):
    return jem.Density(log_prob, {"mean": jnp.zeros(dim), "scale": jnp.ones(dim)}, supports=WHERE, **options)


def close(got, want, tol):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol, err_msg=jax.tree_util.keystr(path))


# Closed forms --------------------------------------------------------------------------------------


def latent_class():
    """Three answers of two classes of people."""
    rng = np.random.default_rng(2)
    kind = rng.integers(0, 2, 200)
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    x = {name: jnp.asarray([rng.choice(3, p=probs[k]) for k in kind], jnp.int32) for name in "abc"}
    model = jem.Mixture(jem.Product(**{name: jem.Categorical(3) for name in "abc"}), 2)
    return model, jem.init(model, jax.random.key(0), x, jnp.ones(200)), x, jnp.ones(200)


@pytest.mark.parametrize("name", ["mixture_no_prior", "mixture_poisson", "latent_class", "hmm_categorical"])
def test_equals_the_closed_form(x64, name):
    """Everything by gradient from the statistics, against the M-steps in closed form; from not far off the optimum."""
    if name == "latent_class":
        node, params, x, weights = latent_class()
    else:
        row = build(name, "float64")
        node, params, x, weights = row.row.node, row.params, row.x, row.weights
    args = {"weights": weights, "max_steps": 4000}
    params = jem.fit(node, params, x, solver=jem.solvers.EM(), stop=jem.stop.RelativeGain(1e-5), **args).params
    want = jem.fit(node, params, x, solver=jem.solvers.EM(), stop=jem.stop.RelativeGain(1e-15), **args)
    got = jem.fit(node, params, x, stop=jem.stop.RelativeGain(1e-15), solver=LBFGS, **args).check()
    assert got.objective == pytest.approx(float(want.objective), rel=1e-9)
    close(got.params, want.params, 1e-6)


def test_a_leaf_equals_the_family_it_writes_out(x64):
    """A mixture of normal densities written by hand, weights in closed form and the rest by gradient."""
    x = jem.datasets.old_faithful()[:, :1]
    node = jem.Mixture(jem.Gaussian(prior=None), 2)
    params = node.components.child.params(jnp.array([[2.0], [4.5]]), jnp.array([[[0.1]], [[0.2]]]))
    want = jem.fit(node, jem.Mixture.Params(jnp.array([0.5, 0.5]), params), x, stop=jem.stop.RelativeGain(1e-15)).check()
    model = jem.Mixture(leaf(log_normal), 2)
    start = jem.Mixture.Params(jnp.array([0.5, 0.5]), {"mean": jnp.array([[2.0], [4.5]]), "scale": jnp.array([[0.3], [0.4]])})
    fit = jem.fit(model, start, x, stop=jem.stop.RelativeGain(1e-15), solver=LBFGS).check()
    np.testing.assert_allclose(fit.params.weights, want.params.weights, atol=1e-6)
    np.testing.assert_allclose(fit.params.components["mean"], want.params.components.mean, rtol=1e-6)
    np.testing.assert_allclose(fit.params.components["scale"][:, 0] ** 2, want.params.components.covariance[:, 0, 0], rtol=1e-6)
    assert fit.log_likelihood == pytest.approx(float(want.log_likelihood), rel=1e-12)


# The safeguard -------------------------------------------------------------------------------------

FAR = {
    "adam": lambda **o: jem.solvers.GEM(optax.adam, learning_rate=1e3, **o),
    "sgd": lambda **o: jem.solvers.GEM(optax.sgd, learning_rate=1e6, **o),
    "several steps": lambda **o: jem.solvers.GEM(optax.adam, learning_rate=1e3, num_steps=3, **o),
    "refused at once": lambda **o: jem.solvers.GEM(optax.adam, learning_rate=1e3, num_halvings=0, **o),
}


def falls(fit):
    """How far the trace ever falls."""
    trace = np.asarray(fit.trace)[np.isfinite(fit.trace)]
    return -min(0.0, np.diff(trace).min(initial=0.0)) / max(1.0, abs(trace[0]))


CASES = [("statistics", "adam"), ("statistics", "refused at once"), *(("units", how) for how in FAR)]


@functools.cache
def two_groups(kind):
    """A model known by its statistics or by its units, with data, a start far off and the best fit; under x64."""
    x, weights = jem.datasets.old_faithful()[:, :1], jnp.array([0.5, 0.5])
    if kind == "statistics":
        model = jem.Mixture(jem.Poisson(), 2)
        x, start = np.round(10 * x), jem.Mixture.Params(weights, jem.Poisson.Params(jnp.array([[10.0], [50.0]])))
    else:
        model = jem.Mixture(leaf(log_laplace), 2)
        start = jem.Mixture.Params(weights, {"mean": jnp.array([[1.0], [5.0]]), "scale": jnp.ones((2, 1))})
    return model, x, start, float(jem.fit(model, start, x, solver=LBFGS, max_steps=300).objective)


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_a_far_too_large_learning_rate(x64, kind, how):
    """With the safeguard the objective never falls and the fit arrives."""
    model, x, start, best = two_groups(kind)
    safe = jem.fit(model, start, x, solver=FAR[how](), max_steps=300)
    assert falls(safe) < 1e-14
    assert safe.status in (jem.Status.CONVERGED, jem.Status.MAX_STEPS)
    first = float(safe.trace[0])
    assert float(safe.objective) - first > 0.9 * (best - first)
    assert safe.num_refusals > 0 if how == "refused at once" else safe.num_refusals <= 1


@pytest.mark.parametrize("kind", ["statistics", "units"])
def test_without_the_safeguard_it_falls(x64, kind):
    """The control: the same rate, steps taken as they come; the objective falls, and the status says so."""
    model, x, start, best = two_groups(kind)
    bold = jem.fit(model, start, x, solver=FAR["adam"](safeguard=False), max_steps=300)
    assert bold.status in (jem.Status.DECREASED, jem.Status.NONFINITE, jem.Status.DEGENERATE)
    assert float(bold.objective) < best - 1


def test_a_refused_step_is_not_convergence(x64):
    """Where every step is refused the lane runs out of steps, refusals counted, and does not say that it has converged."""
    x = jem.datasets.old_faithful()[:, :1]
    model = leaf(log_laplace)
    fit = jem.fit(model, model.start, x, solver=jem.solvers.GEM(optax.sgd, learning_rate=1e12, num_halvings=0), max_steps=10)
    assert fit.status == jem.Status.MAX_STEPS
    assert fit.num_refusals == 11  # the last one is made when the steps are used up
    assert float(fit.objective) == float(fit.trace[0])


def test_a_direction_that_leads_down_is_replaced(x64):
    """An optimiser that ascends the loss: the gradient takes over."""
    x = jem.datasets.old_faithful()[:, :1]
    model = leaf(log_normal)
    fit = jem.fit(
        model, model.start, x, solver=jem.solvers.GEM(optax.sgd, learning_rate=-0.1), stop=jem.stop.RelativeGain(1e-12)
    ).check()
    np.testing.assert_allclose(fit.params["mean"], x.mean(0), rtol=1e-3)


# Steps that know their scale, and say what they show ------------------------------------------------


def log_gamma(params, x):
    """Gamma density in shape and mean, of one unit x ()."""
    k, m = params["shape"], params["mean"]
    return k * jnp.log(k / m) + (k - 1) * jnp.log(x) - k * x / m - jax.scipy.special.gammaln(k)


GAMMA = jem.Density(log_gamma, {"shape": jnp.ones(()), "mean": 100 * jnp.ones(())}, supports=jem.supports.Positive())
ADAM = {rate: jem.solvers.GEM(optax.adam, learning_rate=rate) for rate in (0.0, 1e-12, 0.1)}


def log_linear(params, u):
    """Regression with normal errors."""
    z = (u["y"] - u["x"] @ params["slope"]) / params["scale"]
    return -0.5 * z**2 - jnp.log(params["scale"]) - 0.5 * jnp.log(2 * jnp.pi)


@pytest.mark.parametrize("solver", [ADAM[0.1], LBFGS], ids=["adam", "lbfgs"])
def test_raw_columns(x64, solver):
    """Least squares with columns as they come: where it says that it has arrived it has, and it arrives."""
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(50), rng.normal(60, 9, 50), rng.normal(20, 3, 50), rng.normal(86, 5, 50)])
    y = x @ [-40, 0.7, 1.3, -0.15] + 3 * rng.normal(size=50)
    start, where = (
        {"slope": jnp.zeros(4), "scale": jnp.ones(())},
        {"slope": jem.supports.Real(), "scale": jem.supports.Positive()},
    )
    fit = jem.fit(jem.Density(log_linear, start, supports=where), start, {"x": x, "y": y}, solver=solver, max_steps=200).check()
    rest = y - x @ np.linalg.lstsq(x, y)[0]
    best = -25 * (1 + np.log(2 * np.pi * np.mean(rest**2)))
    assert best - 1e-3 < fit.objective < best + 1e-9


@pytest.mark.parametrize("rate", [0.0, 1e-12])
def test_a_step_of_no_length_is_not_convergence(x64, rate):
    x = np.random.default_rng(0).gamma(3.0, 30.0, 60)
    assert jem.fit(GAMMA, GAMMA.start, x, solver=ADAM[rate], max_steps=30).status == jem.Status.MAX_STEPS
    wide = jem.Density(lambda p, x: -jnp.sum((x - p) ** 2), jnp.zeros(70))  # more coordinates than a metric has
    fit = jem.fit(wide, wide.start, np.ones((5, 70)), solver=ADAM[rate], max_steps=30)
    assert fit.status == jem.Status.MAX_STEPS


def test_schedules_that_are_zero_for_a_while(x64):
    """A warm-up from zero leaves the start; one that ends at zero on the way does not say that it has arrived."""
    x = np.random.default_rng(0).gamma(3.0, 30.0, 60)
    best = jem.fit(GAMMA, GAMMA.start, x, solver=ADAM[0.1], max_steps=300).check().objective
    up, down = optax.linear_schedule(0.0, 0.1, 20), optax.linear_schedule(0.02, 0.0, 5)
    fit = jem.fit(GAMMA, GAMMA.start, x, solver=jem.solvers.GEM(optax.adam, learning_rate=up), max_steps=300).check()
    assert fit.objective == pytest.approx(float(best), abs=1e-3)
    short = jem.fit(GAMMA, GAMMA.start, x, solver=jem.solvers.GEM(optax.adam, learning_rate=down), max_steps=300)
    assert short.status == jem.Status.MAX_STEPS
    assert short.objective < best - 0.1


def test_the_top_is_reached_to_the_last_digit(x64):
    """Where rounding hides what a step gains its slope decides: no refusals for ever, and no fall where there is none."""
    x = np.random.default_rng(0).gamma(300, 1 / 3, 60)
    fit = jem.fit(GAMMA, GAMMA.start, x, solver=LBFGS, stop=jem.stop.RelativeGain(1e-14)).check()
    assert fit.num_steps < 30
    assert fit.num_refusals < 5
    np.testing.assert_allclose(fit.params["mean"], x.mean(), rtol=1e-9)


def test_float32_sees_slopes_where_it_sees_no_gain():
    """A shape of 300: log-densities are differences of thousands."""
    x = np.random.default_rng(0).gamma(300, 1 / 3, 60)
    fit = jem.fit(GAMMA, GAMMA.start, x.astype(np.float32), solver=LBFGS).check()
    ratio = np.log(x.mean()) - np.log(x).mean()  # log k - digamma(k) = ratio, nearly 1 / 2k + 1 / 12k^2
    np.testing.assert_allclose(fit.params["shape"], (3 + np.sqrt(9 + 12 * ratio)) / (12 * ratio), rtol=1e-2)


@pytest.mark.parametrize("solver", [LBFGS, jem.solvers.GEM(optax.sgd, learning_rate=30.0)], ids=["lbfgs", "sgd"])
def test_steps_into_nan_recover(x64, solver):
    """A rate on the real line, NaN below zero: steps halved there do not end the climb."""
    x = np.random.default_rng(0).exponential(1 / 50, 40)
    model = jem.Density(lambda rate, x: jnp.log(rate) - rate * x, jnp.array(0.01))
    fit = jem.fit(model, model.start, x, solver=solver, max_steps=300).check()
    np.testing.assert_allclose(fit.params, 1 / x.mean(), rtol=1e-2)


@pytest.mark.parametrize(("last", "recedes"), [(1.0, 1.0), (0.0, 0.0)], ids=["separated", "one apart"])
def test_a_top_that_recedes(x64, last, recedes):
    """Logistic regression, all of one group alike or all but one: the slope along the Newton step tells which has a top."""
    x = np.repeat([0.0, 1.0], 20)
    y = np.r_[np.arange(20) % 2, np.ones(19), last]
    model = jem.Density(lambda b, u: jax.nn.log_sigmoid((2 * u["y"] - 1) * (b[0] + b[1] * u["x"])), jnp.zeros(2))
    data = {"x": x, "y": y}
    fit = jem.fit(model, model.start, data, solver=LBFGS, stop=jem.stop.NeverStop(), max_steps=6)
    score = jax.grad(lambda b: jnp.sum(jem.log_prob(model, b, data)))
    step = jnp.linalg.solve(-jax.jacfwd(score)(fit.params), score(fit.params))
    step = outward(model, fit.params, step)
    got = recession(lambda t: score(fit.params + t * step) @ step, score(fit.params) @ step)
    assert got == pytest.approx(recedes, abs=0.2)


def log_logistic(params, u):
    return jax.nn.log_sigmoid((2 * u["y"] - 1) * (params["level"] + params["slope"] * u["group"]))


LOGISTIC = jem.Density(log_logistic, {"level": jnp.zeros(()), "slope": jnp.zeros(())})


ZERO, ONE = np.zeros(20), np.ones(20)
CLASSES = {  # of the two halves of a logistic regression on a group's indicator
    "regular": (np.arange(20) % 2, np.r_[np.ones(15), np.zeros(5)], jem.Status.CONVERGED),
    "one half separated": (np.arange(20) % 2, ONE, jem.Status.DEGENERATE),
    "both": (ZERO, ONE, jem.Status.DEGENERATE),
}


@pytest.mark.parametrize("name", CLASSES)
def test_separated_classes_are_told(dtype, name):
    first, second, status = CLASSES[name]
    x = {"group": np.r_[ZERO, ONE].astype(dtype), "y": np.r_[first, second].astype(dtype)}
    fit = jem.fit(LOGISTIC, LOGISTIC.start, x, solver=LBFGS)
    assert fit.status == status
    if status == jem.Status.DEGENERATE:
        with pytest.raises(jem.FitError, match=r"rises for ever.*params\['slope'\]"):
            fit.check()


def test_what_may_run_away():
    """Real numbers and growing positive ones; a probability or a rate at 0 is an answer."""
    where = {"a": jem.supports.Interval(), "b": jem.supports.Positive(), "c": jem.supports.Real()}
    model = jem.Density(lambda p, x: x * p["a"], {name: jnp.full(1, 0.5) for name in where}, supports=where)
    assert outward(model, model.start, jnp.array([5.0, -5.0, -5.0])).tolist() == [0, 0, -5]
    assert outward(model, model.start, jnp.array([5.0, 5.0, 5.0])).tolist() == [0, 5, 5]


def test_plain_em_refuses_what_it_cannot_fit():
    model = jem.Mixture(leaf(log_laplace), 2)
    with pytest.raises(ValueError, match=r"components\['mean'\].*solver=jem.solvers.GEM"):
        jem.fit_restarts(model, jax.random.key(0), np.ones((5, 1), np.float32), num_restarts=2)


# Optimisers x models x transformations -------------------------------------------------------------

OPTIMISERS = {
    "adam": jem.solvers.GEM(optax.adam, learning_rate=0.05),
    "lbfgs": jem.solvers.GEM(optax.lbfgs),
    "chain": jem.solvers.GEM(lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate, momentum=0.9)), rate=0.5),
    "schedule": jem.solvers.GEM(
        optax.adam, learning_rate=optax.exponential_decay(0.1, 50, 0.5), num_steps=2, gradient_tol=1e-5
    ),
}
MODELS = ["mixture_poisson", "mixture_laplace", "logjoint"]  # from statistics, closed forms beside units, units alone
TABLE = [(name, optimiser) for name in MODELS for optimiser in OPTIMISERS if (name, optimiser) != ("mixture_poisson", "lbfgs")]


@pytest.mark.parametrize(("name", "optimiser"), TABLE)
def test_optimisers_and_models(name, optimiser):
    """Restarts climb with every optimiser, in every kind of model."""
    trace = np.asarray(restarts(name, optimiser), float)
    assert np.isfinite(trace).all()
    assert (np.diff(trace) > -2e-6 * np.abs(trace[:, :1])).all()
    assert (trace[:, -1] > trace[:, 0]).all()


@pytest.mark.parametrize("name", ["mixture_poisson", "mixture_laplace"])
def test_jit_and_vmap(name):
    """Lane by lane, restarts are the single fits, inside the caller's jit and under vmap."""
    model = build(name, "float32")
    node, x, weights = model.row.node, model.x, model.weights
    solver = OPTIMISERS["adam"]

    @jax.jit
    @jax.vmap
    def alone(key):
        start = jem.init(node, key, x, weights)
        return jem.fit(node, start, x, weights=weights, solver=solver, max_steps=8, stop=jem.stop.NeverStop()).trace

    np.testing.assert_allclose(alone(jax.random.split(jax.random.key(1), 2)), restarts(name, "adam"), rtol=2e-5)


@functools.cache
def restarts(name, optimiser):
    """Traces of two starts."""
    model = build(name, "float32")
    options = {"weights": model.weights, "solver": OPTIMISERS[optimiser], "max_steps": 8, "stop": jem.stop.NeverStop()}
    return jem.fit_restarts(model.row.node, jax.random.key(1), model.x, num_restarts=2, **options).trace


# Compilations and traces ---------------------------------------------------------------------------


def test_learning_rates_are_values():
    """Another rate, tolerance or start is the same program, and the user's function is not traced again."""
    calls = []

    def counted(params, x):
        calls.append(x.shape)
        return log_normal(params, x)

    x = np.asarray(np.random.default_rng(0).standard_normal((30, 2)), np.float32)
    model = jem.Mixture(leaf(counted, 2), 2)

    def run(rate):
        solver = jem.solvers.GEM(optax.adam, learning_rate=rate, gradient_tol=rate)
        jem.fit_restarts(model, jax.random.key(0), x + np.float32(rate), num_restarts=2, solver=solver, max_steps=3)

    run(0.1)
    compiled = len(COMPILED)
    run(0.01)
    run(0.5)
    assert len(COMPILED) == compiled
    assert len(calls) == 4  # at the door, where it is tried; in the loop, ahead of its end, and at the probe units
    run(jnp.float32(0.3))  # a program of its own, as an array is not weakly typed
    compiled = len(COMPILED)
    run(jnp.float32(0.2))
    assert len(COMPILED) == compiled
    assert len(calls) == 4


# Mixed models --------------------------------------------------------------------------------------


def test_closed_forms_and_gradients_in_one_model(x64):
    """Counts in closed form beside a hand-written density: the Poisson block takes its own M-step at every step."""
    rng = np.random.default_rng(0)
    x = {
        "size": rng.standard_normal((60, 1)) + 3 * (np.arange(60)[:, None] % 2),
        "count": rng.poisson(3.0, (60, 1)).astype(float),
    }
    model = jem.Mixture(jem.Product(size=leaf(log_normal), count=jem.Poisson()), 2)
    start = jem.init(model, jax.random.key(0), x)
    one = jem.fit(model, start, x, solver=LBFGS, max_steps=1, stop=jem.stop.NeverStop())
    closed = jem.em_step(model, start, x)[0]
    close(one.params.components["count"], closed.components["count"], 1e-12)
    close(closed.components["size"], start.components["size"], 0)
    assert np.abs(one.params.components["size"]["mean"] - start.components["size"]["mean"]).max() > 1e-3
    held = jem.Mixture(jem.Product(size=jem.Frozen(leaf(log_normal), "mean"), count=jem.Poisson()), 2)
    kept = jem.fit(held, start, x, solver=LBFGS, max_steps=3, stop=jem.stop.NeverStop())
    close(kept.params.components["size"]["mean"], start.components["size"]["mean"], 0)
    assert jem.num_parameters(held, start) == jem.num_parameters(model, start) - 2


def test_tied_leaves_share_their_parameters(x64):
    x = jem.datasets.old_faithful()[:, :1]
    model = jem.Mixture(jem.Tied(leaf(log_normal), 2, "scale"))
    start = jem.Mixture.Params(jnp.array([0.5, 0.5]), {"mean": jnp.array([[2.0], [4.5]]), "scale": jnp.array([0.4])})
    fit = jem.fit(model, start, x, solver=LBFGS, stop=jem.stop.RelativeGain(1e-13)).check()
    node = jem.Mixture(jem.Tied(jem.Gaussian(prior=None), 2, "whitening"))
    params = jem.Gaussian.Params(jnp.array([[2.0], [4.5]]), jnp.array([[2.5]]))
    want = jem.fit(node, jem.Mixture.Params(start.weights, params), x, stop=jem.stop.RelativeGain(1e-13)).check()
    np.testing.assert_allclose(1 / fit.params.components["scale"], want.params.components.whitening[0], rtol=1e-5)


def test_a_penalty_is_a_prior(x64):
    """Ridge on a mean, in closed form: `n mean / (n + strength)` at variance one."""
    x = jem.datasets.old_faithful()[:, :1]
    prior = lambda params: -0.5 * 100.0 * jnp.sum(params["mean"] ** 2)
    model = jem.Density(lambda params, x: jnp.sum(-0.5 * (x - params["mean"]) ** 2), {"mean": jnp.zeros(1)}, log_prior=prior)
    fit = jem.fit(model, model.start, x, solver=LBFGS, stop=jem.stop.RelativeGain(1e-14)).check()
    np.testing.assert_allclose(fit.params["mean"], x.sum(0) / (len(x) + 100), rtol=1e-6)
    assert float(fit.objective) < float(fit.log_likelihood)


# What is wrong is named ----------------------------------------------------------------------------

X = np.array([[0.5], [1.0], [2.0]], np.float32)


def vector_valued(params, x):
    """Forgets to sum."""
    return -jnp.abs(x - params["mean"])


def always_nan(params, x):
    """The logarithm of a negative number."""
    return jnp.sum(jnp.log(-jnp.abs(x) - params["mean"] ** 2))


def nan_slope(params, x):
    """Finite, with a slope that is not."""
    return jnp.sum(-jnp.abs(x)) - jnp.sum(jnp.sqrt(params["mean"] - params["mean"]))


def off_the_end(params, x, z):
    """Two rates for three values."""
    return jnp.sum(-params["mean"][z] * x)


def twice(params, x):
    """A probability too large by two."""
    return jnp.log(2.0) + jnp.where(x == 1, jnp.log(params["p"]), jnp.log1p(-params["p"]))


MEAN = {"mean": jnp.zeros(1)}
WRONG = {
    "shape": (lambda: jem.Density(vector_valued, MEAN), X, r"vector_valued must return a scalar.*got float32 of shape \(1,\)"),
    "nan": (lambda: jem.Density(always_nan, MEAN), X, "always_nan is NaN at the node's start, in row 0"),
    "slope": (lambda: jem.Density(nan_slope, MEAN), X, r"gradient of nan_slope.*\['mean'\] is not finite"),
    "support": (
        lambda: jem.LogJoint(off_the_end, jem.spaces.Finite(3), {"mean": jnp.ones(2)}), X, "off_the_end looks outside an array"
    ),
    "sum": (
        lambda: jem.Density(twice, {"p": jnp.array(0.5)}, observations=jnp.arange(2)), np.array([0, 1]),
        "probabilities that twice gives to all observations sum to 2",
    ),
    "integers": (lambda: jem.Density(vector_valued, {"mean": jnp.zeros(1, int)}), X, r"\['mean'\] must hold real numbers"),
    "chain": (
        lambda: jem.LogJoint(
            lambda p, x, z: -x[0], jem.spaces.ChainOf(2, lambda p: jnp.log(p["start"]), lambda p: jnp.zeros((2, 2))),
            {"start": jnp.ones(3)},
        ),
        X[None], r"must return an array of shape \(2,\)",
    ),
    "maximize": (
        lambda: jem.LogJoint(
            lambda p, x, z: -x[0] * p[z], jem.spaces.Finite(2), jnp.ones(2), statistics=lambda x, z: x, maximize=lambda s: s
        ),
        X, r"must return parameters of the shapes \(2,\); got \(2, 1\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_function_is_named(what):
    make, x, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        jem.fit_restarts(make(), jax.random.key(0), x, num_restarts=2, solver=LBFGS)


def test_an_error_inside_names_the_function():
    def broken(params, x):
        return jnp.sum(x @ jnp.ones((5, 2)))

    with pytest.raises(TypeError) as caught:
        jem.log_prob(jem.Density(broken, MEAN), MEAN, X)
    assert any("broken" in note for note in caught.value.__notes__)


def later_nan(params, x):
    """NaN once the mean has moved."""
    return jnp.sum(-jnp.abs(x - params["mean"])) + 0 * jnp.log(0.6 - params["mean"][0])


def test_nan_on_the_way_ends_the_lane_not_the_fit(x64):
    """Steps into NaN are shortened; where there is only NaN the status says so."""
    model = jem.Density(later_nan, {"mean": jnp.zeros(1)})
    fit = jem.fit(model, model.start, X.astype(float), solver=jem.solvers.GEM(optax.sgd, learning_rate=0.5), max_steps=50)
    assert np.isfinite(fit.objective) and fit.params["mean"] < 0.6
    inside = jem.fit(model, {"mean": jnp.array([0.7])}, X.astype(float), solver=LBFGS, max_steps=50)
    assert inside.status == jem.Status.NONFINITE


def test_wrong_solvers():
    with pytest.raises(ValueError, match="optimizer must be a function"):
        jem.solvers.GEM(0.1)
    with pytest.raises(ValueError, match="ready made"):
        jem.solvers.GEM(optax.adam(0.1), learning_rate=0.1)
    with pytest.raises(ValueError, match="num_steps must be an integer of at least 1"):
        jem.solvers.GEM(optax.adam, num_steps=0, learning_rate=0.1)
    with pytest.raises(ValueError, match="both or neither"):
        jem.LogJoint(off_the_end, jem.spaces.Finite(2), MEAN, maximize=lambda s: s)

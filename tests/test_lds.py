"""State-space models beside the joint Gaussian of all steps; padding, missing cells, fixed cells, forms, forecasts, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import jem
from jem.node import HELD

S, T, H = 3, 6, 2
LENGTHS = np.array([6, 5, 3])
MODELS = {
    "full": jem.LDS(2, 3, 1),
    "diagonal": jem.LDS(3, 2, 1, Q=jem.covariance.Diagonal(), R=jem.covariance.Diagonal(), P0=jem.covariance.Diagonal()),
}


def covariance(rng, dim, structure):
    """A random covariance, or variances where it is diagonal."""
    root = rng.normal(size=(dim, dim))
    full = root @ root.T + 0.1 * np.eye(dim)
    return full if isinstance(structure, jem.covariance.Full) else np.diag(full)


def random_params(model, seed=1):
    """Random parameters: nothing at its default."""
    rng = np.random.default_rng(seed)
    n, m, p = model.num_states, model.num_outputs, model.num_inputs
    return model.params(
        A=rng.normal(size=(n, n)) * 0.6, B=rng.normal(size=(n, p)), C=rng.normal(size=(m, n)), D=rng.normal(size=(m, p)),
        Q=covariance(rng, n, model.Q), R=covariance(rng, m, model.R), P0=covariance(rng, n, model.P0), m0=rng.normal(size=n),
    )  # fmt: skip


def random_data(model, seed=2):
    """Ragged sequences with a step and single cells missing, and inputs, H steps of them beyond the end."""
    rng = np.random.default_rng(seed)
    y, u = 2 * rng.normal(size=(S, T, model.num_outputs)), rng.normal(size=(S, T + H, model.num_inputs))
    y[0, 2, 1] = y[1, 3] = y[1, 4, 0] = np.nan
    return y, u


def joint(params, u):
    """Mean and covariance of all states (T, n), (T, n, T, n), by unrolling the recursion."""
    A, B, Q = (np.asarray(getattr(params, name)) for name in "ABQ")
    steps, n = len(u), len(A)
    mean, cov = np.zeros((steps, n)), np.zeros((steps, n, steps, n))
    mean[0], cov[0, :, 0] = params.m0, params.P0
    for t in range(1, steps):
        mean[t] = A @ mean[t - 1] + B @ u[t]
        for s in range(t):
            cov[t, :, s] = A @ cov[t - 1, :, s]
            cov[s, :, t] = cov[t, :, s].T
        cov[t, :, t] = A @ cov[t - 1, :, t - 1] @ A.T + Q
    return mean, cov


def condition(params, y, u):
    """Log-density of what is seen, and the states' mean and covariance given it."""
    mean, cov = joint(params, u)
    steps, n = mean.shape
    C, D, R = (np.asarray(getattr(params, name)) for name in "CDR")
    seen = ~np.isnan(y).reshape(-1)
    h, v = np.kron(np.eye(steps), C)[seen], cov.reshape(steps * n, steps * n)
    spread = h @ v @ h.T + np.kron(np.eye(steps), R)[np.ix_(seen, seen)]
    e = (y - mean @ C.T - u @ D.T).reshape(-1)[seen]
    log_prob = -0.5 * (e @ np.linalg.solve(spread, e) + np.linalg.slogdet(spread)[1] + len(e) * np.log(2 * np.pi))
    gain = np.linalg.solve(spread, h @ v).T
    return log_prob, mean + (gain @ e).reshape(steps, n), (v - gain @ h @ v).reshape(steps, n, steps, n)


def sequences_of(y, u, lengths=LENGTHS):
    """What a model with inputs takes."""
    return jem.Sequences(jem.Given(jnp.asarray(y), jnp.asarray(u)), jnp.asarray(lengths, jnp.int32))


@pytest.mark.parametrize("name", MODELS)
def test_brute_force(x64, name):
    model = MODELS[name]
    params, (y, u) = random_params(model), random_data(model)
    x, close = sequences_of(y, u[:, :T]), lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)
    smooth, filtered = model.smooth(params, x), model.filter(params, x)
    ends = np.stack([u[s, l : l + H] for s, l in enumerate(LENGTHS)])
    ahead, log_prob = model.forecast(params, x, H, ends), jem.log_prob(model, params, x)
    for s, l in enumerate(LENGTHS):
        want, mean, cov = condition(params, y[s, :l], u[s, :l])
        close(log_prob[s], want)
        close(smooth.mean[s, :l], mean)
        close(smooth.covariance[s, :l], [cov[t, :, t] for t in range(l)])
        close(smooth.lag_one[s, : l - 1], [cov[t + 1, :, t] for t in range(l - 1)])
        _, mean, cov = condition(params, y[s, : l - 1], u[s, : l - 1])
        close(filtered.mean[s, l - 2], mean[-1])
        close(filtered.covariance[s, l - 2], cov[-1, :, -1])
        longer = np.concatenate([y[s, :l], np.full((H, y.shape[-1]), np.nan)])
        _, mean, cov = condition(params, longer, u[s, : l + H])
        C, R = np.asarray(params.C), np.asarray(params.R)
        close(ahead.state_mean[s], mean[l:])
        close(ahead.mean[s], mean[l:] @ C.T + ends[s] @ np.asarray(params.D).T)
        close(ahead.covariance[s], [C @ cov[t, :, t] @ C.T + R for t in (l, l + 1)])
    assert np.isnan(smooth.mean[2, 3:]).all() and np.isnan(smooth.lag_one[2, 2:]).all()


def with_form(model, form):
    """The same model, run in another way."""
    fixed = {k: np.asarray(v) for k, v in model.fixed.items()}
    sizes = model.num_states, model.num_outputs, model.num_inputs
    return jem.LDS(*sizes, Q=model.Q, R=model.R, P0=model.P0, fixed=fixed, form=form)


def assert_same(got, want, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(jnp.max(jnp.abs(b), initial=0.0))))


def test_parallel_in_time_is_sequential(x64):
    model = jem.LDS(2, 2, 1, Q=jem.covariance.Diagonal(), R=jem.covariance.Diagonal())
    params, (y, u) = random_params(model), random_data(model)
    x = sequences_of(y, u[:, :T])
    parallel, sequential = (
        jem.e_step(with_form(model, f), params, x) for f in (jem.forms.Associative(), jem.forms.Sequential())
    )
    assert_same(parallel, sequential, 1e-11)


def test_steady_is_sequential_where_steady_and_elsewhere(x64):
    """Settled, not settled within the head, with a hole, ragged: one program for the four, and the answer of the other."""
    rng = np.random.default_rng(0)
    base = jem.LDS(2, 1)
    settled = base.params(A=[[0.9, 0.2], [-0.2, 0.8]], C=[[1.0, 0.3]], Q=[[0.5, 0.1], [0.1, 0.3]])
    slow = settled._replace(chol_Q=settled.chol_Q * 1e-3, A=0.9999 * jnp.eye(2))
    y = jnp.asarray(rng.normal(size=(2, 200, 1)))
    full = jnp.array([200, 200], jnp.int32)
    cases = {
        "settled": (settled, y, full),
        "slow": (slow, y, full),
        "hole": (settled, y.at[1, 90].set(jnp.nan), full),
        "same holes": (settled, y.at[:, 90].set(jnp.nan), full),
        "ragged": (settled, y, jnp.array([200, 120], jnp.int32)),
    }
    for name, (params, values, lengths) in cases.items():
        x = jem.Sequences(values, lengths)
        steady, sequential = (jem.e_step(with_form(base, f), params, x) for f in (jem.forms.Steady(60), jem.forms.Sequential()))
        try:
            assert_same(steady, sequential, 1e-10)
        except AssertionError as error:
            raise AssertionError(name) from error


def test_padding_and_order_change_nothing(x64):
    model = jem.LDS(1, 2, 1)
    params, (y, u) = random_params(model), random_data(model)
    u = u[:, :T]
    within = np.arange(T)[None, :, None] < LENGTHS[:, None, None]
    short = sequences_of(np.where(within, y, np.nan), np.where(within, u, 7.0))
    pad = lambda a, value: np.concatenate([a, np.full((S, 3, a.shape[-1]), value)], 1)
    long = sequences_of(pad(np.where(within, y, 1e9), np.nan), pad(u, 1e9))
    order, ones = np.array([2, 0, 1]), np.ones(S)
    want = jem.e_step(model, params, short, weights=ones)
    assert_same(jem.e_step(model, params, long, weights=ones), want, 1e-11)
    assert_same(jem.e_step(model, params, jax.tree.map(lambda a: a[order], short), weights=ones), want, 1e-11)
    # Two batches, the others of weight zero: sums of the parts.
    parts = [jem.e_step(model, params, short, weights=np.array(w)) for w in ([1.0, 0, 1], [0.0, 1, 0])]
    assert_same(jax.tree.map(jnp.add, *parts), want, 1e-11)


def test_a_missing_observation_takes_its_own_term_only(x64):
    """`log p(y) - log p(y without y_t)` is the density of y_t given all others."""
    model = jem.LDS(1, 1, fixed={"A": [[0.8]], "C": [[1.0]]})
    params = model.params(Q=[[0.5]], R=[[0.3]])
    y = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 1)))
    hole = y.at[0, 4].set(jnp.nan)
    s = model.smooth(params, hole)
    density = norm.logpdf(y[0, 4, 0], s.mean[0, 4, 0], np.sqrt(s.covariance[0, 4, 0, 0] + 0.3))
    log_prob = jem.log_prob(model, params, jnp.concatenate([y, hole]))
    np.testing.assert_allclose(log_prob[0] - log_prob[1], density, atol=1e-12)


def test_long_float32_sequence_agrees_with_float64():
    """Q of rank one and a diffuse start; the answer of float64 to the digits of float32."""
    n, m = 2, 1
    rng = np.random.default_rng(3)
    model = jem.LDS(n, m, form=jem.forms.Sequential())
    A, C = 0.98 * np.linalg.qr(rng.normal(size=(n, n)))[0], rng.normal(size=(m, n))
    q, y = rng.normal(size=(n, 1)), 100 + 10 * rng.normal(size=(1, 5000, m))
    found = {}
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            params = model.params(A=A, C=C, Q=q @ q.T, R=np.eye(m), P0=1e6 * np.eye(n))
            smooth, log_prob = model.smooth(params, jnp.asarray(y)), jem.log_prob(model, params, jnp.asarray(y))
            found[dtype] = np.asarray(smooth.mean), np.asarray(smooth.covariance), float(log_prob[0])
    (single, covariances, value), (double, _, exact) = found["float32"], found["float64"]
    assert abs(value / exact - 1) < 1e-6
    assert np.abs(single - double).max() < 1e-5 * np.abs(double).max()
    assert np.linalg.eigvalsh(covariances[0]).min() > 0


def test_fixed_cells_stay(x64):
    """A level that does not move and a wave, both hidden in noise."""
    nan = np.nan
    fixed = {"A": [[1, 0, 0], [0, nan, nan], [0, nan, nan]], "C": [[1, 1, 0]], "Q": [0, nan, nan]}
    model = jem.LDS(3, 1, Q=jem.covariance.Diagonal(), R=jem.covariance.Diagonal(), P0=jem.covariance.Diagonal(), fixed=fixed)
    t = np.arange(90)
    y = 3 + np.sin(t / 3) + 0.2 * np.random.default_rng(0).normal(size=t.size)
    fits = jem.fit_restarts(model, jax.random.key(0), y[None, :, None], num_restarts=2, max_steps=40)
    A, free = np.asarray(fits.params.A), np.isnan(np.asarray(model.fixed["A"]))
    assert (A[:, ~free] == np.asarray(model.fixed["A"])[~free]).all() and (np.abs(A[:, free]) > 0).all()
    deviations = np.asarray(fits.params.chol_Q)
    assert (deviations[:, 0] == 0).all() and (deviations[:, 1:] > 0).all()
    assert (np.asarray(fits.params.C) == np.asarray(model.fixed["C"])).all()
    assert np.nanmin(np.diff(np.asarray(fits.trace), axis=1)) > -1e-8
    assert jem.num_parameters(model, fits.best().params) == 4 + 0 + 2 + 1 + 3 + 3


def test_a_start_from_data_comes_near_the_truth(x64):
    rng = np.random.default_rng(1)
    params = jem.LDS(2, 2, 1).params(A=[[0.9, 0.3], [-0.3, 0.9]], C=[[1, 0], [1, 1]], D=[[3]] * 2, R=0.3 * np.eye(2))
    mean, cov = joint(params, np.zeros((60, 1)))
    states = rng.multivariate_normal(mean.reshape(-1), cov.reshape(mean.size, mean.size), 4).reshape(4, *mean.shape)
    y = states @ np.asarray(params.C).T + 3.0 + 0.3**0.5 * rng.normal(size=(4, 60, 2))
    y[:, 5, 1] = np.nan
    ones = np.ones((4, 60, 1))  # a constant input is an intercept
    fits = jem.fit_restarts(jem.LDS(2, 2, 1), jax.random.key(0), jem.Given(y, ones), num_restarts=2, max_steps=30)
    at_truth = sum(condition(params._replace(B=0 * params.B), y[s], ones[s])[0] for s in range(4))
    assert float(fits.best().log_likelihood) > at_truth
    assert np.nanmin(np.diff(np.asarray(fits.trace), axis=1)) > -1e-8


def test_a_mixture_of_models(x64):
    """Clusters of trajectories: the mixture's density is that of its components."""
    child = jem.LDS(1, 1)
    model = jem.Mixture(child, 2)
    components = [child.params(A=[[a]], C=[[1.0]], R=[[0.5]]) for a in (0.9, -0.7)]
    params = jem.Mixture.Params(jnp.array([0.3, 0.7]), jax.tree.map(lambda *a: jnp.stack(a), *components))
    y = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7, 1))).at[0, 2].set(jnp.nan)
    each = jnp.stack([jem.log_prob(child, p, y) for p in components])
    want = jax.scipy.special.logsumexp(each + jnp.log(params.weights)[:, None], axis=0)
    np.testing.assert_allclose(jem.log_prob(model, params, y), want, atol=1e-12)


def test_forecast_intervals_hold_what_they_say(x64):
    model = jem.LDS(2, 1, length=40)
    params = model.params(A=[[0.9, 0.3], [-0.3, 0.9]], C=[[1.0, 0.0]], Q=0.2 * np.eye(2), R=[[0.5]])
    y = jem.sample(model, jax.random.key(0), params, 2000)[1]
    ahead = jem.predict(model, params, y[:, :35], 5)
    low, high = ahead.interval(0.8)
    held = ((y[:, 35:] > low) & (y[:, 35:] < high)).mean((0, 2))
    np.testing.assert_allclose(held, 0.8, atol=0.03)  # three deviations of 2000 draws
    again = model.forecast(params, y[:, :35], 5)
    np.testing.assert_array_equal(ahead.mean, again.mean)


def test_samples_have_the_models_moments(x64):
    model = MODELS["diagonal"]
    params = random_params(model)
    u = random_data(model)[1][:1, :3]
    states, y = model.simulate(jax.random.key(0), params, jnp.tile(jnp.asarray(u), (20_000, 1, 1)))
    mean, cov = joint(params, u[0])
    C, D = np.asarray(params.C), np.asarray(params.D)
    deviation = np.sqrt(np.einsum("titi->ti", cov))
    assert (np.abs(states.mean(0) - mean) < 5 * deviation / 20_000**0.5).all()
    z = (np.asarray(states) - mean) / deviation
    correlation = cov / deviation[:, :, None, None] / deviation
    np.testing.assert_allclose(np.einsum("sti,suj->tiuj", z, z) / 20_000, correlation, atol=0.05)
    noise = np.asarray(y) - np.asarray(states) @ C.T - u @ D.T
    np.testing.assert_allclose((noise**2).mean((0, 1)) / np.diag(params.R), 1, atol=0.05)


# What EM alone cannot do

DIAGONAL = {"Q": jem.covariance.Diagonal(), "R": jem.covariance.Diagonal(), "P0": jem.covariance.Diagonal()}


@pytest.mark.parametrize("held", ["fixed", "frozen"])
def test_a_first_state_without_noise_moves(x64, held):
    """A constant in noise of variance one: the mean."""
    y = 5 + np.random.default_rng(0).normal(size=(2, 25, 1))
    if held == "fixed":
        cells = {"A": [[1]], "C": [[1]], "Q": [0], "P0": [0], "R": [1]}
        model = node = jem.LDS(1, 1, **DIAGONAL, fixed=cells)
        start = node.params()
    else:
        node = jem.LDS(1, 1)
        model, start = jem.Frozen(node, "A", "C", "chol_Q", "chol_P0", "chol_R"), node.params(C=[[1.0]], Q=[[0.0]], P0=[[0.0]])
    fit = jem.fit(model, start, y).check()
    np.testing.assert_allclose(fit.params.m0, y.mean(keepdims=True)[0, 0], rtol=1e-9)
    np.testing.assert_allclose(fit.log_likelihood, norm.logpdf(y, y.mean()).sum(), rtol=1e-9)


def test_a_trend_without_noise_is_the_regression(x64):
    """m0, the slope as an input's effect and the noise are free: least squares and its mean square."""
    t = np.arange(40.0)
    y = 2 + 0.3 * t + np.random.default_rng(1).normal(size=40)
    fixed = {"A": [[1]], "C": [[1]], "D": [[0]], "Q": [0], "P0": [0]}
    model = jem.LDS(1, 1, 1, **DIAGONAL, fixed=fixed)
    x = jem.Given(y[None, :, None], np.ones((1, 40, 1)))
    p = jem.fit(model, model.params(R=[4.0]), x).check().params
    slope, intercept = np.polyfit(t, y, 1)
    np.testing.assert_allclose([p.m0[0], p.B[0, 0]], [intercept, slope], rtol=1e-7)
    np.testing.assert_allclose(p.R[0, 0], np.mean((y - intercept - slope * t) ** 2), rtol=1e-5)


def test_restarts_leave_a_saddle(x64):
    """Murray (1977): twelve pairs, eight of them in part, with a saddle at correlation 0 and maxima at a half either way."""
    gap = np.nan
    pairs = [(1, 1), (1, -1), (-1, 1), (-1, -1)] + 2 * [(2, gap), (-2, gap), (gap, 2), (gap, -2)]
    fixed = {"A": [[0]], "C": [[0], [0]], "Q": [1], "P0": [1], "m0": [0]}
    model = jem.LDS(1, 2, Q=jem.covariance.Diagonal(), P0=jem.covariance.Diagonal(), fixed=fixed)
    x = np.array(pairs, float)[None]
    fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8, stop=jem.stop.RelativeGain(1e-10))
    assert fits.converged.all()
    R = np.asarray(fits.params.R)
    np.testing.assert_allclose(R[:, 0, 0], 8 / 3, rtol=1e-3)
    np.testing.assert_allclose(np.abs(R[:, 0, 1]) / R[:, 0, 0], 0.5, rtol=1e-2)
    assert len(set(np.sign(R[:, 0, 1]))) == 2


def test_noise_at_its_floor_is_told_apart(x64):
    """A sequence seen exactly is an answer; one of which nothing is uncertain has no maximum."""
    steps = np.random.default_rng(2).normal(size=60)
    walk = np.cumsum(steps)[None, :, None]
    model = jem.LDS(1, 1, **DIAGONAL, fixed={"A": [[1]], "C": [[1]], "m0": [0], "P0": [1]})
    exact = jem.fit(jem.Frozen(model, "chol_R"), model.params(R=[1e-26]), walk, max_steps=100)
    assert exact.status == jem.Status.CONVERGED
    np.testing.assert_allclose(exact.params.Q[0, 0], np.mean(steps[1:] ** 2), rtol=1e-3)
    flat = jem.fit(model, model.params(), np.full((1, 60, 1), 0.0), max_steps=400)
    assert flat.status == jem.Status.DEGENERATE and flat.cause == HELD


ONE = jem.LDS(1, 1)
PARAMS = {"C": [[1.0]]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jem.LDS(0, 1), "num_states must be an integer of at least 1"),
        (lambda: jem.LDS(2, 1, fixed={"A": [[1]]}), r"fixed\['A'\] must have shape \(2, 2\)"),
        (lambda: jem.LDS(1, 1, fixed={"Z": [[1]]}), "no entry 'Z'"),
        (lambda: jem.LDS(1, 1, fixed={"Q": [1]}), "can be fixed where it is diagonal"),
        (
            lambda: jem.LDS(1, 1, Q=jem.covariance.Diagonal(), fixed={"Q": [-1.0]}),
            "variances, finite and at least 0; got -1.0 at",
        ),
        (lambda: jem.LDS(1, 1, Q=jem.covariance.Spherical()), "Q must be jem.covariance.Full"),
        (lambda: ONE.params(), "C is missing"),
        (lambda: ONE.params(C=[[1.0]], R=[[0.0]]), "R must be positive definite"),
        (lambda: ONE.params(C=[[1.0]], A=[[np.nan]]), "A must be finite; got nan"),
        (lambda: jem.LDS(2, 1).params(C=[[1.0, 0.0]], Q=[[1.0, 0.5], [0.1, 1.0]]), "Q must be symmetric"),
        (lambda: jem.init(ONE, jax.random.key(0), jnp.zeros((2, 5))), r"for one output pass x\[..., None\]"),
        (lambda: jem.init(ONE, jax.random.key(0), jnp.zeros((2, 5, 3))), r"shape \(S, T, 1\); got \(2, 5, 3\)"),
        (lambda: jem.init(ONE, jax.random.key(0), jnp.zeros((0, 5, 1))), "no rows"),
        (lambda: jem.init(ONE, jax.random.key(0), jnp.zeros((1, 5, 1)).at[0, 3].set(jnp.inf)), "inf in row 0"),
        (lambda: jem.init(jem.LDS(1, 1, 2), jax.random.key(0), jnp.zeros((2, 5, 1))), "the model has 2 inputs"),
        (
            lambda: jem.log_prob(jem.LDS(1, 1, 1), None, jem.Given(jnp.zeros((1, 2, 1)), jnp.full((1, 2, 1), np.nan))),
            "inputs cannot be missing; got nan in sequence 0, step 0, input 0",
        ),
        (
            lambda: jem.init(ONE, jax.random.key(0), jem.Sequences(jnp.zeros((2, 3, 1)), jnp.array([3, 4], jnp.int32))),
            "length 4 of sequence 1; expected 1 .. 3",
        ),
        (lambda: ONE.forecast(ONE.params(**PARAMS), jnp.zeros((1, 4, 1)), 2, jnp.zeros((1, 2, 1))), "inputs must have shape"),
        (lambda: jem.predict(jem.Gaussian(), None, jnp.zeros((4, 1)), 2), "has no predict"),
    ],
)
def test_bad_input_names_the_place(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_process_noise_that_starts_at_next_to_nothing(x64):
    """EM multiplies it by almost one, and all else converges: it starts where a step moves it. Zero stays, and what is held."""
    rng = np.random.default_rng(0)
    y = (np.cumsum(0.3 * rng.normal(size=200)) + rng.normal(size=200))[None, :, None]
    fixed = {"A": [[1.0]], "C": [[1.0]]}
    model = jem.LDS(1, 1, Q=jem.covariance.Diagonal(), R=jem.covariance.Diagonal(), P0=jem.covariance.Diagonal(), fixed=fixed)
    start = lambda q: model.params(Q=[q], R=[1.0], P0=[1.0])
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(start(q) for q in (1e-20, 1e-8, 1e-2)))
    fits = jem.fit_restarts(model, None, y, starts=starts).check()
    np.testing.assert_allclose(fits.objective, np.max(fits.objective), atol=2e-3)
    still = jem.fit(model, start(0.0), y).check()
    assert still.params.Q == 0 and float(fits.objective[0] - still.objective) > 30
    assert float(still.objective) == pytest.approx(-0.5 * 200 * (np.log(2 * np.pi * y.var()) + 1), abs=0.01)  # a constant
    held = jem.fit(jem.Frozen(model, "chol_Q"), start(1e-20), y)
    np.testing.assert_array_equal(held.params.chol_Q, start(1e-20).chol_Q)

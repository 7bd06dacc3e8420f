"""What can go wrong ends in a status, keeps the last finite parameters, and touches nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coordinates import check_valid

import jem
from jem import Status

MODEL = jem.Mixture(jem.Gaussian(), 2)
STEPS = 60
fit = functools.partial(jem.fit, max_steps=STEPS)


def clusters(dtype, num=60):
    """Two clear clusters of correlated rows."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num, 2)) @ np.array([[1.0, 0.5], [0.0, 1.0]]) + 5.0 * (np.arange(num) % 2)[:, None]
    return jnp.asarray(x, dtype)


def guess(x, means=((0.0, 0.0), (4.0, 6.0))):
    """A start with unit covariances."""
    dtype = x.dtype
    eye = jnp.broadcast_to(jnp.eye(2, dtype=dtype), (2, 2, 2))
    return jem.Mixture.Params(jnp.array([0.5, 0.5], dtype), jem.Gaussian.Params(jnp.asarray(means, dtype), eye))


def test_ordinary_data_converges(dtype):
    """The control of everything below."""
    x = clusters(dtype)
    result = fit(MODEL, guess(x), x).check()
    assert result.status == Status.CONVERGED
    assert result.num_steps < STEPS
    np.testing.assert_array_equal(np.isfinite(result.trace), np.arange(STEPS + 1) <= result.num_steps)
    assert float(result.objective) == float(result.trace[result.num_steps])


def test_a_nan_row_is_named_at_the_door(dtype):
    x = clusters(dtype)
    with pytest.raises(ValueError, match=r"x: nan in row 3, column 1 \(2 such rows\).*weight 0"):
        fit(MODEL, guess(x), x.at[3, 1].set(jnp.nan).at[7].set(jnp.inf))
    with pytest.raises(ValueError, match=r"x: inf in row 7, column 0 \(1 such row\)"):
        jem.fit_restarts(MODEL, jax.random.key(0), x.at[7, 0].set(jnp.inf), num_restarts=2)


def test_a_nan_row_inside_jit(dtype):
    """Other data sets of the batch are untouched: exactly what they are without it."""
    x = clusters(dtype)
    batch = jnp.stack([x, x.at[3, 1].set(jnp.nan), x + 1, x.at[5].set(jnp.inf)])
    many = jax.jit(jax.vmap(lambda x: fit(MODEL, guess(x), x)))
    spoilt, clean = many(batch), many(jnp.stack([x, x, x + 1, x]))
    assert spoilt.status.tolist() == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED, Status.NONFINITE]
    for lane in (0, 2):
        for a, b in zip(jax.tree.leaves(spoilt), jax.tree.leaves(clean), strict=True):
            np.testing.assert_array_equal(a[lane], b[lane])
    for a, b in zip(jax.tree.leaves(spoilt.params), jax.tree.leaves(guess(x)), strict=True):
        np.testing.assert_array_equal(a[1], b)  # the last finite ones are the start


def test_a_nan_start(dtype):
    x = clusters(dtype)
    start = guess(x)
    result = fit(MODEL, start._replace(weights=start.weights * jnp.nan), x)
    assert result.status == Status.NONFINITE
    assert not result.converged
    with pytest.raises(jem.FitError, match="NONFINITE.*look for NaN"):
        result.check()


def test_rows_no_component_can_produce():
    """A likelihood of zero is not finite either."""
    params = jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Bernoulli.Params(jnp.zeros((2, 1))))
    assert fit(jem.Mixture(jem.Bernoulli(), 2), params, jnp.ones((4, 1))).status == Status.NONFINITE


DEGENERATE = {
    "all rows equal": lambda x: jnp.full_like(x, 3.0),
    "all rows zero": jnp.zeros_like,
    "a constant column": lambda x: x.at[:, 1].set(7.0),
    "duplicate columns": lambda x: x.at[:, 1].set(x[:, 0]),
    "two distinct rows": lambda x: jnp.where(x > 2.5, 1, jnp.zeros_like(x)),
}


ONE = [[1.0, 2.0]]
SINGLE = {
    "spherical": jem.Mixture(jem.Gaussian(jem.covariance.Spherical()), 2),
    "diagonal": jem.Gaussian(jem.covariance.Diagonal()),
    "full": jem.Mixture(jem.Gaussian(), 2),
    "student": jem.StudentT(jem.covariance.Spherical()),
    "factor": jem.FactorAnalysis(1, jem.covariance.Spherical()),
}


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("name", SINGLE)
def test_one_row_again_and_again(name, num):
    """Nothing varies, whatever the size of the columns: the floor of every structure is where its start and its steps end."""
    x = np.repeat(ONE, num, 0)
    result = jem.fit(SINGLE[name], jem.init(SINGLE[name], jax.random.key(0), x), x)
    assert result.status == Status.DEGENERATE
    assert np.isfinite(result.objective) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))


@pytest.mark.parametrize("what", DEGENERATE)
def test_data_without_spread(what, dtype):
    x = DEGENERATE[what](clusters(dtype))
    result = fit(MODEL, guess(x), x)
    assert result.status == Status.DEGENERATE
    assert np.isfinite(result.objective)
    check_valid(result.params)
    with pytest.raises(jem.FitError, match="DEGENERATE.*constant and duplicate columns"):
        result.check()


def test_an_empty_component(dtype):
    """It keeps its place, the other one gets everything, and the status says so."""
    x = clusters(dtype)
    start = guess(x, ((0.0, 0.0), (1e4, -1e4)))
    result = fit(MODEL, start, x)
    assert result.status == Status.DEGENERATE
    np.testing.assert_array_equal(result.params.weights, [1, 0])
    np.testing.assert_array_equal(result.params.components.mean[1], start.components.mean[1])
    np.testing.assert_allclose(result.params.components.mean[0], x.mean(0), rtol=1e-5)


def test_a_component_on_one_row(dtype):
    """The likelihood has no maximum there; the resolution of the numbers bounds it and the status tells."""
    x = clusters(dtype).at[0].set(40.0)
    result = fit(MODEL, guess(x, ((2.0, 2.0), (40.0, 40.0))), x)
    assert result.status == Status.DEGENERATE
    check_valid(result.params)
    np.testing.assert_allclose(result.params.components.mean[1], [40.0, 40.0], rtol=1e-6)


def test_as_many_components_as_rows(dtype):
    x = clusters(dtype, 4)
    model = jem.Mixture(jem.Gaussian(), 4)
    fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=3, max_steps=STEPS)
    assert set(fits.status.tolist()) <= {Status.DEGENERATE, Status.CONVERGED, Status.MAX_STEPS}
    assert fits.best().status == Status.DEGENERATE or float(fits.best().log_likelihood) < -4
    hard = jem.Mixture.Params(jnp.full(4, 0.25, dtype), jem.Gaussian.Params(x, jnp.stack([10 * jnp.eye(2, dtype=dtype)] * 4)))
    result = fit(model, hard, x)
    assert result.status == Status.DEGENERATE
    check_valid(result.params)


@pytest.mark.parametrize("prior", [None, jem.priors.InverseWishart()], ids=["no prior", "prior"])
def test_one_row(prior, dtype):
    x = clusters(dtype)[:1]
    model = jem.Mixture(jem.Gaussian(prior=prior), 1)
    result = fit(model, jem.init(model, jax.random.key(0), x), x)
    assert result.status == Status.DEGENERATE
    check_valid(result.params)
    np.testing.assert_array_equal(result.params.components.mean, x)


def test_one_component(dtype):
    """K = 1 is the closed form: one step, and one more to see that nothing changes."""
    x = clusters(dtype)
    model = jem.Mixture(jem.Gaussian(prior=None), 1)
    result = fit(model, jem.init(model, jax.random.key(0), x), x).check()
    assert result.num_steps <= 2
    np.testing.assert_array_equal(result.params.weights, [1])
    np.testing.assert_allclose(result.params.components.mean[0], np.mean(x, 0), rtol=1e-5)
    np.testing.assert_allclose(result.params.components.covariance[0], np.cov(x.T, bias=True), rtol=1e-4)


@pytest.mark.parametrize("power", [-100, 100])
def test_scales_of_1e30(power, dtype):
    """Data 2^100 = 1e30 times smaller or larger: the same steps, to rounding."""
    x, scale = clusters(dtype), jnp.asarray(2.0**power, dtype)
    start = guess(x)
    moved = start.components._replace(mean=start.components.mean * scale, whitening=start.components.whitening / scale)
    assert fit(MODEL, start._replace(components=moved), x * scale).status == Status.CONVERGED
    run = functools.partial(jem.fit, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=20)
    plain, scaled = run(MODEL, start, x), run(MODEL, start._replace(components=moved), x * scale)
    tight = 4 * jnp.finfo(dtype).eps * 2 * abs(power)  # a log-density carries log|W| of this size in its digits
    np.testing.assert_allclose(scaled.params.weights, plain.params.weights, rtol=tight)
    np.testing.assert_allclose(scaled.params.components.mean / scale, plain.params.components.mean, rtol=tight, atol=tight)
    whitening = scaled.params.components.whitening * scale
    np.testing.assert_allclose(whitening, plain.params.components.whitening, rtol=tight, atol=tight)
    shift = -x.size * power * np.log(2)
    assert float(scaled.log_likelihood) == pytest.approx(float(plain.log_likelihood) + shift, rel=float(tight))
    # and the door's own starts do as well
    assert jem.fit_restarts(MODEL, jax.random.key(0), x * scale, num_restarts=4, max_steps=STEPS).best().converged


def test_an_offset_of_1e4_in_float32():
    """mean/sd = 1e4: the float32 fit is the float64 one of the same numbers, up to what a float32 can write."""
    run = functools.partial(jem.fit, MODEL, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=20)
    x = clusters(jnp.float32) + jnp.float32(1e4)
    start = guess(x, ((1e4, 1e4), (1e4 + 4, 1e4 + 6)))
    single = run(start, x)
    x32, values = np.asarray(x), np.asarray(x, np.float64)
    with jax.enable_x64(True):
        x = jnp.asarray(values)
        double = run(guess(x, ((1e4, 1e4), (1e4 + 4, 1e4 + 6))), x)
        exact = run(guess(x), x - 1e4)
        want = jax.tree.map(np.asarray, double.params), np.asarray(double.params.components.covariance)
        np.testing.assert_allclose(want[1], exact.params.components.covariance, rtol=1e-9)
    written = 1e4 * np.finfo(np.float32).eps  # the spacing of float32 there, in standard deviations
    np.testing.assert_allclose(single.params.weights, want[0].weights, atol=written)
    np.testing.assert_allclose(single.params.components.mean, want[0].components.mean, atol=written, rtol=0)
    np.testing.assert_allclose(single.params.components.covariance, want[1], atol=2 * written)
    raw = np.mean(np.square(x32), 0) - np.mean(x32, 0) ** 2  # the control: moments about zero
    assert np.abs(raw / np.var(values, 0) - 1).max() > 0.05


def test_steps_run_out(dtype):
    x = clusters(dtype)
    start = guess(x)
    result = fit(MODEL, start, x, solver=jem.solvers.EM(), stop=jem.stop.NeverStop())
    assert (result.status, result.num_steps) == (Status.MAX_STEPS, STEPS)
    with pytest.raises(jem.FitError, match="MAX_STEPS: .*raise max_steps"):
        result.check()
    result = jem.fit(MODEL, start, x, max_steps=0)
    assert (result.status, result.num_steps) == (Status.MAX_STEPS, 0)
    np.testing.assert_array_equal(result.params.components.mean, start.components.mean)
    assert float(result.log_likelihood) == pytest.approx(float(jem.e_step(MODEL, start, x)[1]), rel=1e-6)


def test_every_status_has_prose():
    assert all(status.prose and not status.prose.endswith(".") for status in Status)
    assert [int(s) for s in Status] == [-1, 0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=jnp.ones(5)), r"shape \(N, D\); got shape \(5,\); for one feature pass x\[:, None\]"),
        (dict(x=jnp.ones((0, 2))), "no rows"),
        (dict(x={}), "empty"),
        (dict(weights=jnp.ones(3)), r"weights must have shape \(60,\)"),
        (dict(weights=-jnp.ones(60)), "weights must be finite and >= 0; got -1.0 in row 0"),
        (dict(weights=jnp.ones(60).at[9].set(jnp.nan)), "got nan in row 9"),
        (dict(weights=jnp.zeros(60)), "all zero"),
        (dict(max_steps=-1), "max_steps must be an integer of at least 0; got -1"),
        (dict(max_steps=1.5), "max_steps must be an integer"),
        (dict(params=guess(jnp.ones(1)).components), "expected the structure"),
        (
            dict(params=guess(jnp.ones(1))._replace(weights=jnp.ones(3) / 3)),
            r"params.weights: expected shape \(2,\).*got \(3,\)",
        ),
        (dict(x=jem.Labelled(jnp.ones((3, 2)), jnp.array([0, 2, 1]))), "label 2 in row 1; expected -1 .unknown. or 0 .. 1"),
        (dict(x=jem.Labelled(jnp.ones((3, 2)), jnp.zeros((3, 2), bool))), "row 0 allows no component"),
        (dict(x=jem.Labelled(jnp.ones((3, 2)), jnp.array([0, 1]))), "same number of rows"),
    ],
)
def test_the_door_says_what_is_wrong(change, message):
    x = clusters(jnp.float32)
    args = {"params": guess(x), "x": x, **change}
    with pytest.raises(ValueError, match=message):
        jem.fit(MODEL, args.pop("params"), args.pop("x"), **args)


def test_values_outside_of_the_support():
    poisson = jem.Poisson.Params(jnp.ones(1))
    with pytest.raises(ValueError, match="integers >= 0; got -2.0 in row 1, column 0"):
        jem.log_prob(jem.Poisson(), poisson, jnp.array([[1.0], [-2.0]]))
    with pytest.raises(ValueError, match="integers >= 0; got 0.5 in row 0, column 0"):
        jem.log_prob(jem.Poisson(), poisson, jnp.array([[0.5]]))
    with pytest.raises(ValueError, match=r"integers 0 .. 2; got 3 in row 2"):
        jem.log_prob(jem.Categorical(3), jem.Categorical.Params(jnp.ones(3) / 3), jnp.array([0, 1, 3]))
    with pytest.raises(ValueError, match="positive definite"):
        jem.Gaussian().params([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]])
    # a row of weight 0 may hold anything
    x, weights = jnp.array([[1.0], [-2.0]]), jnp.array([1.0, 0.0])
    assert jem.fit(jem.Poisson(), poisson, x, weights=weights).params.rate == 1


def test_restarts_name_what_failed():
    """A mesh of ways to end: the error lists each cause with its lanes; the best is among the good ones."""
    fits = jem.Fit(
        params=jnp.arange(5.0),
        status=jnp.array([Status.CONVERGED, Status.NONFINITE, Status.MAX_STEPS, Status.NONFINITE, Status.SCREENED]),
        num_steps=jnp.zeros(5, int),
        log_likelihood=jnp.array([-3.0, jnp.nan, -2.0, jnp.inf, -1.0]),
        objective=jnp.array([-3.0, jnp.nan, -2.0, jnp.inf, -1.0]),
        trace=jnp.zeros((5, 2)),
        num_refusals=jnp.zeros(5, int),
        bound=jnp.zeros(5),
        rate=jnp.full(5, jnp.nan),
        steps_left=jnp.array([0, 0, 40.0, 0, 0]),
    )
    with pytest.raises(jem.FitError) as error:
        fits.check()
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["MAX_STEPS", "NONFINITE"]
    assert "[restarts 1, 3; 2 of 5]" in str(error.value)
    assert "loosen stop; about 40 more would do [restarts 2; 1 of 5]" in str(error.value)
    assert float(fits.best().params) == 2
    assert float(jax.jit(lambda f: f.best())(fits).params) == 2
    broken = fits._replace(status=jnp.full(5, Status.NONFINITE))
    assert np.isfinite(broken.best().objective)  # even where nothing ended well
    assert fits.num_optima() == 1
    assert broken.num_optima() == 0

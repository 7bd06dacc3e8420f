"""Factor analysis: fits from moments and from rows, mixtures, ties, float32, boundaries; most laws are in the zoo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import jem
from jem import tree
from jem.engine.devices import compressed
from jem.engine.step import e_step_chunk
from jem.kernels.factor import basis, few_units
from jem.latents.linear.factor import FactorAnalysis, FactorParams

N, D, Q = 60, 5, 2
NOISE = {"diagonal": jem.covariance.Diagonal(), "spherical": jem.covariance.Spherical()}


def draw(rng, num=N, dim=D, factors=Q, noise=0.5):
    """Rows from a factor analysis, features of different scale and offset."""
    loadings = rng.standard_normal((dim, factors))
    x = rng.standard_normal((num, factors)) @ loadings.T + noise * rng.standard_normal((num, dim))
    return x * np.linspace(0.5, 2, dim) + np.linspace(-1, 1, dim)


def random_params(model, rng, dim=D, dtype=None):
    """Random parameters of a model."""
    noise = rng.uniform(0.3, 2.0, dim if isinstance(model.noise, jem.covariance.Diagonal) else ())
    p = model.params(rng.standard_normal(dim), rng.standard_normal((dim, model.num_factors)), noise)
    return jax.tree.map(lambda a: a.astype(dtype or a.dtype), p)


@pytest.fixture(params=list(NOISE))
def problem(request, dtype):
    """A bound model, data, weights and parameters, in both dtypes and with both kinds of noise."""
    rng = np.random.default_rng(1)
    x, weights = jnp.asarray(draw(rng), dtype), jnp.asarray(rng.uniform(0.2, 2.0, N), dtype)
    model = FactorAnalysis(Q, NOISE[request.param], jem.priors.InverseWishart(0.5))
    return jem.bind(model, x, weights), x, weights, random_params(model, rng, dtype=dtype)


def assert_close(got, want, ulps=256):
    """Leaves agree to `ulps` roundings of the largest entry of any, or of one."""
    scale = max(1.0, *(np.abs(b).max() for b in jax.tree.leaves(want)))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=ulps * float(jnp.finfo(b.dtype).eps) * scale)


# The density


def test_log_prob_is_scipys(problem):
    model, x, _, p = problem
    want = multivariate_normal(np.asarray(p.mean, float), np.asarray(p.covariance, float)).logpdf(np.asarray(x, float))
    np.testing.assert_allclose(jem.log_prob(model, p, x), want, rtol=200 * float(jnp.finfo(x.dtype).eps))


def test_posterior_is_that_of_the_joint_normal(x64):
    rng = np.random.default_rng(2)
    model = FactorAnalysis(Q)
    p, x = random_params(model, rng), jnp.asarray(draw(rng))
    gain = p.loadings.T @ jnp.linalg.inv(p.covariance)
    posterior, _ = jem.infer(model, p, x)
    np.testing.assert_allclose(posterior.mean, (x - p.mean[None]) @ gain.T, atol=1e-12)
    want = np.broadcast_to(np.eye(Q) - gain @ p.loadings, (N, Q, Q))
    np.testing.assert_allclose(posterior.covariance, want, atol=1e-12)


def test_samples_have_the_models_moments():
    model = FactorAnalysis(Q)
    p = random_params(model, np.random.default_rng(0))
    f, x = jem.sample(model, jax.random.key(1), p, 40_000)
    assert f.shape == (40_000, Q)
    scale = np.sqrt(np.diag(p.covariance))
    np.testing.assert_allclose(np.asarray(x).mean(0), p.mean, atol=0.03 * scale.max())
    np.testing.assert_allclose(np.cov(np.asarray(x).T), p.covariance, atol=0.05 * scale.max() ** 2)


# The M-step; the zoo has the other laws


def test_m_step_is_the_maximum(problem):
    model, x, weights, p = problem
    stats = jax.jit(e_step_chunk)(model, p, x.T, weights)[0]
    objective = jax.jit(lambda new: model.expected_log_prob(new, stats, p) + model.log_prior(new))
    new = jax.jit(model.maximize)(p, stats)
    best = objective(new)
    rounding = 64 * float(jnp.finfo(x.dtype).eps) * abs(float(best))
    assert best > objective(p)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        move = lambda a: a * jnp.asarray(np.exp(0.05 * rng.standard_normal(a.shape)), a.dtype)
        assert objective(jax.tree.map(move, new)) <= best + rounding


def test_fit_never_falls(problem):
    model, x, weights, p = problem
    for data, w in ((x, weights), (x[:D], weights[:D])):  # the second is too short to be compressed
        fit = jem.fit(model, p, data, weights=w, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=40)
        trace = np.asarray(fit.trace, float)
        assert fit.status != jem.Status.DECREASED
        assert (np.diff(trace) >= -64 * float(jnp.finfo(x.dtype).eps) * np.abs(trace).max()).all()
        assert trace[-1] > trace[0]


# From moments


@pytest.mark.parametrize("noise", list(NOISE))
def test_compressed_fit_is_the_fit_from_rows(x64, noise):
    rng = np.random.default_rng(4)
    x, weights = draw(rng, 400), np.where(rng.random(400) < 0.2, 0.0, rng.uniform(0.2, 2.0, 400))
    x[weights == 0] = np.nan
    model = FactorAnalysis(Q, NOISE[noise])
    start = jem.init(model, jax.random.key(0), x, weights)
    options = {"weights": weights, "solver": jem.solvers.EM(), "stop": jem.stop.NeverStop(), "max_steps": 30}
    short = jem.fit(model, start, x, **options)
    # One component of a mixture is the same model, gathered row by row.
    wrap = lambda t: jax.tree.map(lambda a: a[None], t)
    rows = jem.fit(jem.Mixture(model, 1), jem.Mixture.Params(jnp.ones(1), wrap(start)), x, **options)
    np.testing.assert_allclose(short.trace, rows.trace, rtol=1e-12)
    np.testing.assert_allclose(short.log_likelihood, rows.log_likelihood, rtol=1e-12)
    for a, b in zip(wrap(short.params), rows.params.components):
        np.testing.assert_allclose(a, b, atol=1e-9)
    fewer, mass = compressed(jem.bind(model, x, weights), jnp.asarray(x), jnp.asarray(weights), None)
    assert fewer.deviation.shape == (D + 1, D)
    np.testing.assert_allclose(mass.sum(), weights.sum(), rtol=1e-14)
    restarts = jem.fit_restarts(model, jax.random.key(7), x, num_restarts=2, weights=weights)
    first = jem.init(model, jax.random.split(jax.random.key(7), 2)[0], x, weights)
    np.testing.assert_allclose(restarts.trace[0, 0], jem.fit(model, first, x, weights=weights).trace[0], rtol=1e-10)


def test_row_sharded_fit_is_the_fit(x64):
    x, weights = draw(np.random.default_rng(5), 200), np.random.default_rng(6).uniform(0.0, 2.0, 200)
    model = FactorAnalysis(Q)
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    put = lambda a: jax.device_put(a, NamedSharding(mesh, P("rows")))
    options = {"num_restarts": 2, "solver": jem.solvers.EM(), "stop": jem.stop.NeverStop(), "max_steps": 10}
    alone = jem.fit_restarts(model, jax.random.key(1), x, weights=weights, **options)
    sharded = jem.fit_restarts(model, jax.random.key(1), put(x), weights=put(weights), **options)
    np.testing.assert_allclose(sharded.trace, alone.trace, rtol=1e-10)
    np.testing.assert_allclose(sharded.params.covariance, alone.params.covariance, rtol=1e-8)


def test_few_units_have_the_moments(dtype):
    rng = np.random.default_rng(0)
    root, mean = rng.standard_normal((20, 12)) / 4, rng.standard_normal(20)
    for s in (root @ root.T, np.eye(20), np.zeros((20, 20)), np.ones((20, 20))):
        units = np.asarray(few_units(jnp.asarray(mean, dtype), jnp.asarray(s, dtype)), float)
        np.testing.assert_allclose(units.mean(1), mean, atol=50 * float(jnp.finfo(dtype).eps))
        np.testing.assert_allclose(np.cov(units, ddof=0), s, atol=200 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("wrap", [lambda model: model, jem.Missing])
def test_float32_far_from_the_origin(wrap):
    """Mean over deviation a thousand: as good as the numbers allow, from moments and row by row."""
    x = (draw(np.random.default_rng(8), 4000, 8) + 1e3 * np.linspace(0.5, 2, 8)).astype(np.float32)
    model = wrap(FactorAnalysis(Q))
    with jax.enable_x64(True):
        start = jem.init(model, jax.random.key(0), x.astype(np.float64))
        exact = jem.fit(model, start, x.astype(np.float64), solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=60)
        want = np.asarray(exact.params.covariance)
    start = jax.tree.map(lambda a: np.asarray(a, np.float32), start)
    single = jem.fit(model, start, x, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=60)
    np.testing.assert_allclose(float(single.log_likelihood), float(exact.log_likelihood), rtol=2e-6)
    scale = np.sqrt(np.outer(np.diag(want), np.diag(want)))
    np.testing.assert_allclose(single.params.covariance / scale, want / scale, atol=2e-4)


def test_scale_of_the_data_does_not_matter(dtype):
    x = jnp.asarray(draw(np.random.default_rng(9), 100), dtype)
    unit = 2.0**60
    options = {"solver": jem.solvers.EM(), "stop": jem.stop.NeverStop(), "max_steps": 20}
    fits = []
    for data in (x, x * unit, x / unit):
        start = jem.init(FactorAnalysis(Q), jax.random.key(0), data)
        fits.append(jem.fit(FactorAnalysis(Q), start, data, **options))
    assert all(np.isfinite(f.log_likelihood) for f in fits)
    for fit, factor in zip(fits[1:], (unit, 1 / unit)):
        np.testing.assert_allclose(fit.params.communalities, fits[0].params.communalities, rtol=2e-3)
        shift = 100 * D * np.log(factor)
        np.testing.assert_allclose(fit.log_likelihood + shift, fits[0].log_likelihood, rtol=1e-4)


# Below and above other nodes


@pytest.mark.parametrize("noise", list(NOISE))
def test_mixture_of_factor_analysers(x64, noise):
    rng = np.random.default_rng(10)
    x = np.concatenate([draw(rng, 150), draw(rng, 100) + 6, draw(rng, 50) - 6])
    model = jem.Mixture(FactorAnalysis(Q, NOISE[noise]), 3)
    fits = jem.fit_restarts(
        model, jax.random.key(0), x, num_restarts=2, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=60
    )
    assert (fits.status == jem.Status.MAX_STEPS).all()
    assert (np.diff(fits.trace, axis=1) >= -1e-12 * np.abs(fits.trace[:, :1])).all()
    fit = fits.best()
    np.testing.assert_allclose(np.sort(fit.params.weights), [1 / 6, 1 / 3, 1 / 2], atol=0.01)
    p = fit.params
    log_joint = np.stack(
        [
            np.log(p.weights[k]) + multivariate_normal(p.components.mean[k], p.components.covariance[k]).logpdf(x)
            for k in range(3)
        ]
    )
    posterior, log_prob = jem.infer(model, p, x)
    np.testing.assert_allclose(log_prob, logsumexp(log_joint, axis=0), rtol=1e-10)
    np.testing.assert_allclose(posterior.responsibilities, np.exp(log_joint - logsumexp(log_joint, axis=0)).T, atol=1e-10)
    assert posterior.components.mean.shape == (300, 3, Q)


@pytest.mark.parametrize("fields", [("whitening",), ("loadings", "whitening"), ()])
def test_tied_m_step_is_the_maximum(x64, fields):
    rng = np.random.default_rng(11)
    x, weights = jnp.asarray(draw(rng, 80)), jnp.ones(80)
    model = jem.bind(jem.Mixture(jem.Tied(FactorAnalysis(Q, prior=jem.priors.InverseWishart(0.5)), 2, *fields)), x)
    old = jem.init(model, jax.random.key(0), x)

    @jax.jit
    def step(old):
        stats = e_step_chunk(model, old, x.T, weights)[0]
        new = model.maximize(old, stats)
        objective = lambda p: model.expected_log_prob(p, stats, old) + model.log_prior(p)
        return objective(old), *jax.value_and_grad(objective)(new)

    before, best, gradient = step(old)
    assert best > before
    assert max(float(jnp.abs(g).max()) for g in gradient.components) < 1e-9 * abs(best)
    fit = jem.fit(model, old, x, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=20)
    assert (np.diff(fit.trace) >= -1e-10 * abs(fit.trace[0])).all()


@pytest.mark.parametrize("field", FactorParams._fields)
def test_frozen_m_step_is_the_maximum_of_the_rest(x64, field):
    x = jnp.asarray(draw(np.random.default_rng(12)))
    child = FactorAnalysis(Q, prior=jem.priors.InverseWishart(0.5))
    model = jem.bind(jem.Frozen(child, field), x)
    old = random_params(child, np.random.default_rng(3))

    @jax.jit
    def step(old):
        stats = e_step_chunk(model, old, x.T, jnp.ones(N))[0]
        new = model.maximize(old, stats)
        return new, *jax.value_and_grad(lambda p: model.expected_log_prob(p, stats, old) + model.log_prior(p))(new)

    new, best, gradient = step(old)
    for name in FactorParams._fields:
        if name == field:
            np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
        else:
            assert float(jnp.abs(getattr(gradient, name)).max()) < 1e-9 * abs(best)


def test_what_is_not_closed_form_says_so():
    x = draw(np.random.default_rng(0)).astype(np.float32)
    model = jem.Mixture(jem.Tied(FactorAnalysis(Q), 2, "loadings"))
    with pytest.raises(ValueError, match="closed-form"):
        jem.fit_restarts(model, jax.random.key(0), x, num_restarts=1)


# Boundaries and bad input


def test_heywood_case_is_flagged(dtype):
    """Two equal features leave no noise: the likelihood has no bound, the fit ends finite and says so."""
    x = draw(np.random.default_rng(13), 300)
    x[:, 1] = 2 * x[:, 0]
    for model in (FactorAnalysis(Q), FactorAnalysis(D - 1, jem.covariance.Spherical(), None)):
        options = {"max_steps": 400, "solver": jem.solvers.EM(), "stop": jem.stop.NeverStop()}
        fit = jem.fit_restarts(model, jax.random.key(0), x.astype(dtype), num_restarts=1, **options)
        assert (fit.status == jem.Status.DEGENERATE).all(), fit.status
        assert tree.all_finite(fit.params) and np.isfinite(fit.objective).all()


def test_ordinary_fit_is_not_flagged(dtype):
    """Communalities of about 0.999. In float32 rounding keeps the climb some 0.3 nats below its end: it is not finished."""
    x = jnp.asarray(draw(np.random.default_rng(14), 300, noise=0.02), dtype)
    status = np.asarray(jem.fit_restarts(FactorAnalysis(Q), jax.random.key(0), x, num_restarts=2).status)
    assert np.isin(status, [jem.Status.CONVERGED] if dtype == "float64" else [jem.Status.CONVERGED, jem.Status.MAX_STEPS]).all()


def test_bad_input_is_named():
    x = np.ones((10, 3), np.float32)
    start = jem.init(FactorAnalysis(1), jax.random.key(0), x)
    with pytest.raises(ValueError, match="num_factors must be an integer"):
        FactorAnalysis(0)
    for model, text in [
        (FactorAnalysis(3), "fewer factors than features"),
        (FactorAnalysis(1, jem.covariance.Full()), "jem.covariance.Diagonal"),
    ]:
        with pytest.raises(ValueError, match=text):
            jem.fit(model, start, x)
    with pytest.raises(ValueError, match=r"shape \(N, D\)"):
        jem.fit(FactorAnalysis(1), start, x[:, 0])


def test_num_parameters():
    for noise, num in ((jem.covariance.Diagonal(), 6 + 6 * 2 - 1 + 6), (jem.covariance.Spherical(), 6 + 6 * 2 - 1 + 1)):
        model = FactorAnalysis(2, noise)
        p = random_params(model, np.random.default_rng(0), 6)
        assert jem.num_parameters(model, p) == num
        assert jem.num_parameters(jem.Frozen(model, "loadings"), p) == num - 11


def test_basis_is_orthonormal_at_any_communality(dtype):
    a = jnp.asarray(np.random.default_rng(0).standard_normal((20, 6)) * np.logspace(0, 6, 20)[:, None], dtype)
    b = basis(a.at[:, 1].set(a[:, 0]))
    stacked = np.concatenate([b.features, b.factors])
    np.testing.assert_allclose(stacked.T @ stacked, np.eye(6), atol=20 * float(jnp.finfo(dtype).eps))

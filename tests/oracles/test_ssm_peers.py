"""State-space models beside statsmodels, dynamax and pykalman, in float64, from the same start."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem

N, M, T = 3, 2, 40
FIELDS = ("A", "C", "Q", "R", "m0", "P0")


def problem():
    """A model, its parameters and one series."""
    rng = np.random.default_rng(5)
    root = lambda dim: np.eye(dim) + 0.3 * rng.normal(size=(dim, dim))
    cov = lambda dim: (lambda a: a @ a.T)(root(dim))
    model = jem.LDS(N, M)
    A = 0.9 * np.linalg.qr(rng.normal(size=(N, N)))[0]
    params = model.params(A=A, C=rng.normal(size=(M, N)), Q=cov(N), R=cov(M), m0=rng.normal(size=N), P0=cov(N))
    return model, params, np.array(jem.sample(jem.LDS(N, M, length=T), jax.random.key(0), params, 1)[1])


def after(model, params, y, steps):
    """Parameters after some EM steps, by name."""
    fit = jem.fit(model, params, y, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=steps)
    return {name: np.asarray(getattr(fit.params, name)) for name in FIELDS}


def test_smoother_is_statsmodels(x64):
    """With single cells, whole rows and the last step missing, and states without noise."""
    peer = pytest.importorskip("statsmodels.tsa.statespace.kalman_smoother")
    model, params, y = problem()
    params = params._replace(chol_Q=params.chol_Q.at[:, 1:].set(0))
    y[0, 3, 0] = y[0, 10:13] = y[0, 20, 1] = y[0, -1] = np.nan
    ssm = peer.KalmanSmoother(M, N, k_posdef=N)
    ssm["design"], ssm["transition"], ssm["selection"] = np.asarray(params.C), np.asarray(params.A), np.eye(N)
    ssm["obs_cov"], ssm["state_cov"] = np.asarray(params.R), np.asarray(params.Q)
    ssm.initialize_known(np.asarray(params.m0), np.asarray(params.P0))
    ssm.bind(np.asfortranarray(y[0].T))
    want = ssm.smooth()
    got = model.smooth(params, y)
    assert abs(float(jem.log_prob(model, params, y)[0]) - want.llf_obs.sum()) < 1e-9
    np.testing.assert_allclose(got.mean[0], want.smoothed_state.T, atol=1e-9)
    np.testing.assert_allclose(got.covariance[0], np.moveaxis(want.smoothed_state_cov, -1, 0), atol=1e-9)
    np.testing.assert_allclose(got.lag_one[0], np.moveaxis(want.smoothed_state_autocov, -1, 0)[:-1], atol=1e-9)
    np.testing.assert_allclose(model.filter(params, y).mean[0], want.filtered_state.T, atol=1e-9)


def test_em_is_pykalmans(x64):
    peer = pytest.importorskip("pykalman")
    model, params, y = problem()
    names = dict(zip(FIELDS, (
        "transition_matrices", "observation_matrices", "transition_covariance", "observation_covariance",
        "initial_state_mean", "initial_state_covariance",
    ), strict=True))  # fmt: skip
    start = {names[name]: np.asarray(getattr(params, name)) for name in FIELDS}
    found = peer.KalmanFilter(em_vars=list(names.values()), **start).em(y[0], n_iter=4)
    for name, value in after(model, params, y, 4).items():
        np.testing.assert_allclose(value, getattr(found, names[name]), atol=1e-6, err_msg=name)


def test_em_is_dynamaxs(x64):
    precision = jax.config.jax_default_matmul_precision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = pytest.importorskip("dynamax.linear_gaussian_ssm")
        jax.config.update("jax_default_matmul_precision", precision)  # its import sets it for the whole process
        model, params, y = problem()
        theirs = peer.LinearGaussianSSM(N, M, has_dynamics_bias=False, has_emissions_bias=False)
        start, props = theirs.initialize(
            initial_mean=params.m0, initial_covariance=params.P0, dynamics_weights=params.A, dynamics_covariance=params.Q,
            emission_weights=params.C, emission_covariance=params.R,
        )  # fmt: skip
        with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
            found, values = theirs.fit_em(start, props, jnp.asarray(y), num_iters=4, verbose=False)
    np.testing.assert_allclose(jem.log_prob(model, params, y)[0], values[0], atol=1e-8)
    d, e, i = found.dynamics, found.emissions, found.initial
    want = dict(zip(FIELDS, (d.weights, e.weights, d.cov, e.cov, i.mean, i.cov), strict=True))
    for name, value in after(model, params, y, 4).items():
        np.testing.assert_allclose(value, want[name], atol=1e-6, err_msg=name)

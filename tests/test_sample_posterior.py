"""Draws of what is hidden: their frequencies, means and covariances are the posterior's; missing cells of a state space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem

NUM = 4000
rng = np.random.default_rng(0)


def draws(model, params, x, num=NUM):
    return jax.vmap(lambda key: jem.sample_posterior(model, key, params, x))(jax.random.split(jax.random.key(0), num))


def test_labels(x64):
    """As often as the responsibilities say; labels that are known are kept."""
    model = jem.Mixture(jem.Gaussian(), 3)
    components = jax.vmap(jem.Gaussian().params)(np.array([[0.0], [1.0], [3.0]]), np.array([[[1.0]], [[0.5]], [[2.0]]]))
    params = jem.Mixture.Params(jnp.array([0.5, 0.3, 0.2]), components)
    x = jem.Labelled(jnp.array([[0.5], [1.5], [2.0], [9.0]]), jnp.array([-1, -1, 1, -1]))
    labels = draws(model, params, x)
    want = jem.infer(model, params, x)[0].responsibilities
    share = np.stack([(labels == k).mean(0) for k in range(3)], 1)
    np.testing.assert_allclose(share, want, atol=5 * np.sqrt(0.25 / NUM))
    assert (labels[:, 2] == 1).all() and labels.dtype == jnp.int32


def test_paths(x64):
    """Jointly: pairs of states are as often as they are expected; -1 beyond an end."""
    model = jem.HMM(jem.Poisson(), 2)
    rates = jem.Poisson.Params(jnp.array([[1.0], [3.0]]))
    params = jem.HMM.Params(jnp.array([0.6, 0.4]), jem.laws.Cells.Params(jnp.array([[0.8, 0.2], [0.3, 0.7]])), rates)
    x = jem.Sequences(jnp.array([[[1], [4], [2], [0]], [[5], [1], [9], [9]]]), jnp.array([4, 2]))
    paths = np.asarray(draws(model, params, x))
    smoothed = np.asarray(jem.infer(model, params, x)[0].smoothed)
    np.testing.assert_allclose((paths[:, 0] == 1).mean(0), smoothed[0, :, 1], atol=0.04)
    assert (paths[:, 1, 2:] == -1).all() and (paths[:, 1, :2] >= 0).all()
    pairs = jem.e_step(model, params, x)[0].transition
    moves = lambda p, i, j: ((p[:, :-1] == i) & (p[:, 1:] == j)).sum(1).mean()  # noqa: E731
    seen = [[moves(paths[:, 0], i, j) + moves(paths[:, 1, :2], i, j) for j in (0, 1)] for i in (0, 1)]
    np.testing.assert_allclose(seen, pairs, atol=0.08)


def test_factors_inside_a_mixture(x64):
    """Means and covariances of the factors of the component that is drawn."""
    model = jem.Mixture(jem.FactorAnalysis(1), 2)
    x = rng.standard_normal((60, 3)) @ np.array([[1.0, 0.8, 0], [0, 0.5, 0], [0, 0, 0.7]]) + 3 * (np.arange(60) % 2)[:, None]
    params = jem.fit(model, jem.init(model, jax.random.key(0), x), x, max_steps=20).params
    labels, factors = draws(model, params, x)
    posterior = jem.infer(model, params, x)[0]
    np.testing.assert_allclose((labels == 1).mean(0), posterior.responsibilities[:, 1], atol=0.05)
    own = jem.infer(jem.FactorAnalysis(1), jax.tree.map(lambda leaf: leaf[0], params.components), x)[0]
    row = int(np.argmax(posterior.responsibilities[:, 0]))
    mine = np.asarray(factors)[np.asarray(labels)[:, row] == 0, row, 0]
    np.testing.assert_allclose(mine.mean(), own.mean[row, 0], atol=0.05)
    np.testing.assert_allclose(mine.var(), own.covariance[row, 0, 0], rtol=0.1)


def dense(params, y):
    """Mean and covariance of (states, observations) of one sequence given the cells that were seen."""
    steps, n, num = len(y), len(params.A), y.shape[1]
    q, r, p0 = (np.asarray(c @ c.T) for c in (params.chol_Q, params.chol_R, params.chol_P0))
    a, c = np.asarray(params.A), np.asarray(params.C)
    mean, cov = [np.asarray(params.m0)], np.zeros((steps * n, steps * n))
    spread = p0
    for t in range(steps):
        if t:
            mean.append(a @ mean[-1])
            spread = a @ spread @ a.T + q
        for s in range(t, steps):
            block = np.linalg.matrix_power(a, s - t) @ spread
            cov[s * n : (s + 1) * n, t * n : (t + 1) * n] = block
            cov[t * n : (t + 1) * n, s * n : (s + 1) * n] = block.T
    loading = np.kron(np.eye(steps), c)
    both = np.block([[cov, cov @ loading.T], [loading @ cov, loading @ cov @ loading.T + np.kron(np.eye(steps), r)]])
    centre = np.r_[np.concatenate(mean), loading @ np.concatenate(mean)]
    seen = np.r_[np.zeros(steps * n, bool), ~np.isnan(y).ravel()]
    gain = both[:, seen] @ np.linalg.inv(both[np.ix_(seen, seen)])
    given = centre + gain @ (y.ravel()[seen[steps * n :]] - centre[seen])
    return given, both - gain @ both[seen], steps * n, num


@pytest.mark.parametrize("structure", [jem.covariance.Full(), jem.covariance.Diagonal()], ids=["full", "diagonal"])
def test_trajectories_and_missing_cells(structure, x64):
    """Draws have the smoother's means and covariances; missing cells their expectation given the rest, or draws."""
    model = jem.LDS(2, 2, R=structure)
    noise = np.array([[0.5, 0.3], [0.3, 0.6]]) if structure == jem.covariance.Full() else np.array([0.5, 0.6])
    params = model.params(A=[[0.9, 0.2], [-0.1, 0.8]], C=[[1.0, 0.3], [0.0, 1.0]], Q=0.3 * np.eye(2), R=noise)
    y = rng.standard_normal((2, 4, 2))
    y[0, 1, 0] = y[0, 2] = y[1, 0, 1] = np.nan
    x = jem.Sequences(jnp.asarray(y), jnp.array([4, 3]))
    matrix = params._replace(chol_R=jnp.asarray(np.linalg.cholesky(noise if noise.ndim == 2 else np.diag(noise))))
    mean, cov, num, _ = dense(matrix, y[0])
    paths = np.asarray(draws(model, params, x))
    np.testing.assert_allclose(paths[:, 0].reshape(NUM, -1).mean(0), mean[:num], atol=0.06)
    np.testing.assert_allclose(np.cov(paths[:, 0].reshape(NUM, -1).T), cov[:num, :num], atol=0.06)
    assert np.isnan(paths[:, 1, 3]).all() and np.isfinite(paths[:, 1, :3]).all()
    full = np.asarray(jem.impute(model, params, x).values)
    np.testing.assert_allclose(full[0].ravel(), mean[num:], rtol=1e-9)
    np.testing.assert_array_equal(full[~np.isnan(y)], y[~np.isnan(y)])
    one = lambda key: jem.impute(model, params, x, key=key).values[0]  # noqa: E731
    filled = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(1), NUM))).reshape(NUM, -1)
    np.testing.assert_allclose(filled.mean(0), mean[num:], atol=0.06)
    np.testing.assert_allclose(np.cov(filled.T), cov[num:, num:], atol=0.06)


def test_what_has_nothing_hidden():
    assert jem.sample_posterior(jem.Poisson(), jax.random.key(0), jem.Poisson.Params(jnp.array([1.0])), [[1], [2]]) == ()
    with pytest.raises((TypeError, ValueError), match="key"):
        jem.sample_posterior(jem.Poisson(), 0, jem.Poisson.Params(jnp.array([1.0])), [[1], [2]])

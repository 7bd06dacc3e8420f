"""Rotations of factor loadings: the varimax maximum, and what no rotation changes."""

import jax
import jax.numpy as jnp
import numpy as np

import jem
from jem import tree
from jem.kernels.factor import promax, varimax


def varimax_by_svd(loadings, tolerance=0.0):
    """R's `varimax`: normalised, ascent by the polar factor of the gradient. Source: R, stats/R/factanal.R."""
    length = np.sqrt((loadings**2).sum(1, keepdims=True))
    x = loadings / length
    matrix, d = np.eye(x.shape[1]), 0.0
    for _ in range(2000):
        z = x @ matrix
        u, s, vt = np.linalg.svd(x.T @ (z**3 - z * (z**2).mean(0)))
        matrix, past, d = u @ vt, d, s.sum()
        if d < past * (1 + tolerance):
            break
    return loadings @ matrix


def up_to_order(loadings):
    """Columns with positive sums, the largest first."""
    loadings = loadings * np.sign(loadings.sum(0))
    return loadings[:, np.argsort(-(loadings**2).sum(0))]


def criterion(loadings):
    """The varimax criterion of normalised loadings."""
    squares = (loadings / np.sqrt((loadings**2).sum(1, keepdims=True))) ** 2
    return squares.var(0).sum()


def test_varimax_is_the_maximum(x64):
    for seed in range(3):
        loadings = np.random.default_rng(seed).standard_normal((12, 4)) * np.array([2, 1, 1, 0.5])
        rotation = jax.jit(varimax)(jnp.asarray(loadings))
        np.testing.assert_allclose(rotation.matrix.T @ rotation.matrix, np.eye(4), atol=1e-13)
        np.testing.assert_allclose(rotation.loadings, loadings @ rotation.matrix, atol=1e-13)
        reference = varimax_by_svd(loadings)
        assert criterion(np.asarray(rotation.loadings)) >= criterion(reference) - 1e-12 or seed
        if abs(criterion(np.asarray(rotation.loadings)) - criterion(reference)) < 1e-9:
            np.testing.assert_allclose(up_to_order(np.asarray(rotation.loadings)), up_to_order(reference), atol=1e-5)


def test_rotations_keep_the_fit(dtype):
    rng = np.random.default_rng(15)
    x = jnp.asarray(rng.standard_normal((200, 2)) @ rng.standard_normal((2, 5)) + 0.5 * rng.standard_normal((200, 5)), dtype)
    model = jem.FactorAnalysis(2)
    p = jem.init(model, jax.random.key(0), x)
    tolerance = 64 * float(jnp.finfo(dtype).eps)
    want = p.loadings @ p.loadings.T
    v, o = varimax(p.loadings), promax(p.loadings)
    np.testing.assert_allclose(v.loadings @ v.loadings.T, want, atol=tolerance * abs(want).max())
    np.testing.assert_allclose(o.loadings @ o.correlation @ o.loadings.T, want, atol=tolerance * abs(want).max())
    np.testing.assert_allclose(jnp.diagonal(o.correlation), np.ones(2), atol=tolerance)
    log_prob = jem.log_prob(model, p._replace(loadings=v.loadings), x)
    np.testing.assert_allclose(log_prob, jem.log_prob(model, p, x), rtol=tolerance)


def test_rotations_of_nothing_to_rotate(dtype):
    for loadings in (jnp.ones((4, 1), dtype), jnp.zeros((4, 2), dtype), jnp.ones((4, 2), dtype)):
        rotation = varimax(loadings)
        assert tree.all_finite(rotation)
        np.testing.assert_allclose(rotation.loadings @ rotation.loadings.T, loadings @ loadings.T, atol=1e-5)

"""Free coordinates: a bijection for every support, and as many of them as a model has free parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import ZOO, build, start_form

import jem
from jem.ask.room import room_of_support
from jem.kernels import support

MATRIX = np.array([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 0.7]])
CASES = {
    "real": (support.Real(), np.array([-1.0, 2.0]), 2),
    "held": (support.Held(), np.array([-1.0, 2.0]), 0),
    "positive": (support.Positive(), np.array([1e-3, 2.0]), 2),
    "interval": (support.Interval(0.05, 1e4), np.array([0.06, 4.0, 9e3]), 3),
    "simplex": (support.Simplex(), np.array([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]]), 4),
    "simplex_held": (support.Simplex(np.array([True, False, False])), np.array([0.2, 0.5, 0.3]), 2),
    "simplex_zero": (support.Simplex(), np.array([0.0, 0.6, 0.4]), 2),
    "cholesky": (jem.supports.CholeskyFactor(), np.linalg.cholesky(MATRIX), 6),
    "definite": (jem.supports.PositiveDefinite(), np.stack([MATRIX, 1e-4 * np.eye(3)]), 12),
    "correlation": (jem.supports.Correlation(), MATRIX / np.sqrt(np.diag(MATRIX)[:, None] * np.diag(MATRIX)), 3),
    "proportions": (jem.supports.UnitProduct(), np.array([[4.0, 0.5, 0.5], [1e-3, 1e2, 10.0]]), 4),
    "orientation": (jem.supports.Orientation(), np.stack([np.linalg.qr(MATRIX)[0], np.eye(3)[[1, 2, 0]], -np.eye(3)]), 9),
    "cells": (support.HeldCells(np.array([[True, False], [False, False]])), np.array([[1.0, 2.0], [3.0, 4.0]]), 3),
}
ROTATIONS = {
    **{"factor": 1, "factor_spherical_no_prior": 1, "factor_missing": 1, "mixture_factor": 2, "tied_factor": 1},
    "mixture_directions": 2,
}


@pytest.mark.parametrize("name", CASES)
def test_round_trip(name, dtype):
    where, value, size = CASES[name]
    value = jnp.asarray(value, dtype)
    free = jax.jit(where.unconstrain)(value)
    assert free.size == size
    back = jax.jit(where.constrain)(free, value)
    np.testing.assert_allclose(back, value, rtol=300 * jnp.finfo(dtype).eps, atol=30 * jnp.finfo(dtype).eps)
    assert (np.asarray(back) == 0)[np.asarray(value) == 0].all()


@pytest.mark.parametrize("name", CASES)
def test_every_point_is_valid(name, dtype):
    where, value, _ = CASES[name]
    value = jnp.asarray(value, dtype)
    rng = np.random.default_rng(3)
    shape = jax.eval_shape(where.unconstrain, value).shape
    got = jax.jit(where.constrain)(jnp.asarray(rng.normal(size=shape, scale=2.0), dtype), value)
    again = jax.jit(lambda got: where.constrain(where.unconstrain(got), value))(got)
    got = np.asarray(got, float)
    np.testing.assert_allclose(again, got, rtol=2e-4 if dtype == "float32" else 1e-10)
    if "simplex" in name:
        np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-6)
        assert (got >= 0).all()
    if name == "simplex_held":
        assert got[0] == value[0]
    if name == "interval":
        assert (got > 0.05).all() and (got < 1e4).all()
    if name in ("definite", "correlation"):
        assert (np.linalg.eigvalsh(got) > 0).all()
    if name == "correlation":
        np.testing.assert_allclose(np.diag(got), 1, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_rounded_values_are_exact_again(name, x64):
    """Values of float32 lie where they may to its last place, after `exact` to that of float64, and no further off."""
    where, value, _ = CASES[name]
    rounded = np.float32(value).astype(float)
    exact = where.exact(jnp.asarray(rounded))
    np.testing.assert_array_equal(where.exact(jnp.asarray(rounded)[None])[0], exact)
    np.testing.assert_allclose(exact, rounded, rtol=1e-6)
    again = where.constrain(where.unconstrain(exact), exact)
    np.testing.assert_allclose(again, exact, rtol=1e-13, atol=1e-14)
    if "simplex" in name:
        assert abs(exact.sum(-1) - 1).max() < 1e-15
    if name == "simplex_held":
        assert exact[0] == rounded[0]


@pytest.mark.parametrize("name", [row.name for row in ZOO])
def test_zoo(name):
    """Coordinates of the right number that come back to the same parameters; supports batch over leading axes."""
    params = build(name, "float32").params
    node = next(r for r in ZOO if r.name == name).node
    free = jax.jit(lambda p: jem.unconstrain(node, p))(params)
    rotations = ROTATIONS.get(name, 0)  # turning two factors changes nothing, nor does the length of a direction
    assert sum(f.size for f in jax.tree.leaves(free)) == jem.num_parameters(node, start_form(name)) + rotations
    back = jax.jit(lambda f: jem.constrain(node, f, params))(free)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


def test_a_node_without_supports_says_what_to_do():
    @jem.author.node
    class Mine(jem.author.Node):
        pass

    with pytest.raises(TypeError, match="Mine does not define supports"):
        jem.unconstrain(Mine(), ())


@pytest.mark.parametrize(
    ("where", "value", "want"),
    [
        (support.Positive(), [0.0, 2.0], [0, 2]),
        (support.Interval(-1.0, 3.0), [-1.0, 3.0], [-1, 3]),
        (support.Simplex(), [[1e-70, 1.0]], [[0, 1]]),
        (jem.supports.CholeskyFactor(), [[[0.0, 0.0], [-3.0, 2.0]]], [[[0, 0], [-3, 2]]]),
        (support.HeldCells(np.array([True, False]), support.Positive()), [[0.0, 0.0]], [[0, 0]]),
    ],
)
def test_inside(where, value, want):
    """What lies at the very edge has finite coordinates a little inside of it, and comes back from there."""
    value = jnp.asarray(value)
    inner = where.inside(value)
    np.testing.assert_allclose(inner, want, atol=1e-5)
    free = where.unconstrain(inner)
    assert np.isfinite(free).all()
    np.testing.assert_allclose(where.constrain(free, inner), inner, rtol=1e-5, atol=1e-30)
    assert where.fault(np.asarray(value)) is None


def test_a_cell_that_is_what_the_others_leave_has_no_edge():
    """The only free cell of a row is one by itself: no probability that has come to its edge."""
    value = jnp.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    _, held = room_of_support(jem.supports.Simplex(np.array([[True, False, True], [False, True, False]])), value)
    np.testing.assert_array_equal(held, [[True, True, True], [False, True, False]])

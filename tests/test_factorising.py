"""Families on `Factorising`: missing cells, edges, priors, and one that a user writes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.scipy.special import i0e, i1e
from scipy import stats

import jem
from jem.families.factorising import Factorising
from jem.kernels.roots import falling_root

rng = np.random.default_rng(0)
HOLES = rng.random((40, 3)) < 0.3
COUNTS = rng.poisson(4.0, (40, 3))
THREE = np.array([1.0, 3.0, 9.0])
FAMILIES = {
    "poisson": (jem.Poisson(shape=2.0, inverse_scale=0.5), jem.Poisson.Params, THREE, COUNTS),
    "many": (jem.Poisson(), jem.Poisson.Params, 1e3 * THREE, 500 * COUNTS),
    "bernoulli": (jem.Bernoulli(concentration=1.5), jem.Bernoulli.Params, THREE / 10, COUNTS > 3),
    "exponential": (jem.Exponential(2.0, 0.5), jem.Exponential.Params, THREE, rng.exponential(1.0, (40, 3))),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_missing_cells(name, x64):
    """A unit's density is that of the cells that are seen; statistics and starts are those of each column's own rows."""
    family, record, values, x = FAMILIES[name]
    params = record(jnp.asarray(values))
    holed = np.where(HOLES, np.nan, x)
    missing, leaf = jem.Missing(family), jax.tree.leaves(params)[0]
    one = lambda d: jax.tree.map(lambda p: p[d : d + 1], params)
    want = np.zeros(40)
    for d in range(3):
        rows = ~HOLES[:, d]
        want[rows] += jem.log_prob(family, one(d), x[rows, d : d + 1])
        step = jem.em_step(family, one(d), x[rows, d : d + 1])[0]
        np.testing.assert_allclose(jem.em_step(missing, params, holed)[0][0][d], step[0][0], rtol=1e-12)
    np.testing.assert_allclose(jem.log_prob(missing, params, holed), want, rtol=1e-12)
    assert jem.init(missing, jax.random.key(0), holed)[0].shape == leaf.shape
    drawn = jem.sample(missing, jax.random.key(0), params, like=holed)[1]
    np.testing.assert_array_equal(np.isnan(drawn), HOLES)


def test_a_latent_class_model_with_missing_answers(x64):
    """Its maximum is that of the observed cells: no answer counts as a no, and no row is lost."""
    truth = np.array([[0.1, 0.2, 0.9, 0.8, 0.3], [0.8, 0.9, 0.2, 0.1, 0.7]])
    x = (rng.random((3000, 5)) < truth[rng.integers(0, 2, 3000)]).astype(float)
    x[rng.random(x.shape) < 0.3] = np.nan
    best = jem.fit_restarts(jem.Mixture(jem.Missing(jem.Bernoulli()), 2), jax.random.key(0), x, num_restarts=4).check().best()
    probs = best.params.components.probs
    np.testing.assert_allclose(probs[jnp.argsort(probs[:, 0])], truth, atol=0.06)
    p, w = np.asarray(probs)[:, None, :], np.asarray(best.params.weights)[:, None]
    cells = np.where(np.isnan(x), 1, np.where(x == 1, p, 1 - p))
    assert float(best.log_likelihood) == pytest.approx(np.log((w * cells.prod(-1)).sum(0)).sum(), rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges(dtype):
    """A probability or rate of exactly 0 or 1 rules out, and says nothing else; its gradient is finite."""
    with jax.enable_x64(dtype == np.float64):
        p = jem.Bernoulli.Params(jnp.asarray([0.0, 1.0, 0.5], dtype))
        x = jnp.asarray([[0, 1, 1], [1, 1, 1], [0, 0, 1]], dtype)
        np.testing.assert_allclose(jem.log_prob(jem.Bernoulli(), p, x), [np.log(0.5), -np.inf, -np.inf], rtol=1e-6)
        slope = jax.grad(lambda p: jem.log_prob(jem.Bernoulli(), p, x)[0])(p)
        np.testing.assert_allclose(slope.probs, [-1, 1, 2], rtol=1e-6)
        rates = jem.Poisson.Params(jnp.asarray([0.0, 2.0], dtype))
        got = jem.log_prob(jem.Poisson(), rates, jnp.asarray([[0, 1], [1, 1]], dtype))
        np.testing.assert_allclose(got, [float(stats.poisson.logpmf(1, 2)), -np.inf], rtol=1e-6)
        nan = jem.Bernoulli.Params(jnp.full(3, jnp.nan, dtype))
        assert jnp.isnan(jem.Bernoulli().infer(nan, x.T)[1]).all()  # never mistaken for what cannot be


class VonMisesParams(NamedTuple):
    """Mean directions and concentrations (D,)."""

    place: Array
    kappa: Array


@jem.author.node
class VonMises(Factorising):
    """D independent angles, `p(x) = exp(kappa cos(x - place)) / (2 pi I_0(kappa))`."""

    def natural(self, params):
        return params.kappa * jnp.cos(params.place), params.kappa * jnp.sin(params.place)

    def statistics(self, x):
        return jnp.cos(x), jnp.sin(x)

    def log_normaliser(self, params):
        return jnp.log(2 * jnp.pi * i0e(params.kappa)) + params.kappa

    def from_means(self, means):
        length = jnp.sqrt(means[0] ** 2 + means[1] ** 2)
        gap = lambda log_kappa, length: length - i1e(jnp.exp(log_kappa)) / i0e(jnp.exp(log_kappa))
        return VonMisesParams(jnp.arctan2(means[1], means[0]), jnp.exp(falling_root(gap, -9.0, 9.0, length)))

    def supports(self, params):
        return params._replace(place=jem.supports.Real(), kappa=jem.supports.Positive())


def test_a_family_of_a_users_own(x64):
    """Scipy's density and fit, a mixture of it, missing cells, and errors that agree with the curvature."""
    x = stats.vonmises.rvs(3.0, 1.0, size=(500, 1), random_state=1)
    params = VonMisesParams(jnp.array([1.0]), jnp.array([3.0]))
    np.testing.assert_allclose(jem.log_prob(VonMises(), params, x), stats.vonmises.logpdf(x, 3.0, 1.0)[:, 0], rtol=1e-10)
    kappa, place, _ = stats.vonmises.fit(x, fscale=1)
    fit = jem.fit(VonMises(), params, x).check()
    np.testing.assert_allclose([fit.params.place[0], fit.params.kappa[0]], [place, kappa], rtol=1e-6)
    # The information of kappa is N (1 - A^2 - A / kappa), that of the place N kappa A.
    errors, k = jem.standard_errors(VonMises(), fit.params, x).check().errors, float(fit.params.kappa[0])
    a = float(i1e(k) / i0e(k))
    np.testing.assert_allclose(errors.kappa[0], 1 / np.sqrt(500 * (1 - a * a - a / k)), rtol=1e-5)
    np.testing.assert_allclose(errors.place[0], 1 / np.sqrt(500 * k * a), rtol=1e-5)
    both = np.concatenate([x, stats.vonmises.rvs(8.0, -2.0, size=(500, 1), random_state=2)])
    both[::7] = np.nan
    best = jem.fit_restarts(jem.Mixture(jem.Missing(VonMises()), 2), jax.random.key(0), both, num_restarts=4).check().best()
    np.testing.assert_allclose(np.sort(best.params.components.place[:, 0]), [-2, 1], atol=0.1)


@pytest.mark.parametrize("low", [-9.0, 0.5])
def test_a_root_and_its_derivative(low, x64):
    """Of `exp(z) = a`, and the end of the bracket where there is none, with derivative zero."""
    root = lambda a: falling_root(lambda z, a: a - jnp.exp(z), low, 9.0, a)
    for a in (0.2, 7.0):
        value, slope = jax.value_and_grad(root)(jnp.asarray(a))
        want = (np.log(a), 1 / a) if np.log(a) > low else (low, 0)
        np.testing.assert_allclose((value, slope), want, rtol=1e-9)


def test_a_column_that_nobody_saw(x64):
    """It starts as the others are, and no step moves it: no rate of zero that would rule out what comes."""
    x = np.where(np.arange(3) == 1, np.nan, COUNTS)
    bits = np.where(np.isnan(x), np.nan, x > 3)
    for family, data in ((jem.Bernoulli(), bits), (jem.Exponential(), x + 1), (jem.Poisson(), x)):
        fits = jem.fit_restarts(jem.Mixture(jem.Missing(family), 2), jax.random.key(0), data, num_restarts=2, max_steps=20)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fits.params))
        new = np.nan_to_num(data[:1], nan=1.0)
        assert np.isfinite(jem.log_prob(jem.Mixture(family, 2), fits.best().params, new)).all()


def test_missing_around_what_stands_around_a_family(x64):
    """Copies and held fields see the cells as the family does."""
    x = np.where(HOLES, np.nan, COUNTS)
    params = jem.Poisson.Params(jnp.asarray(THREE))
    want = jem.log_prob(jem.Missing(jem.Poisson()), params, x)
    np.testing.assert_array_equal(jem.log_prob(jem.Missing(jem.Frozen(jem.Poisson(), "rate")), params, x), want)
    both = jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Poisson.Params(jnp.stack([THREE, THREE + 1])))
    inside = jem.Mixture(jem.Stack(jem.Missing(jem.Poisson()), 2))
    around = jem.Mixture(jem.Missing(jem.Stack(jem.Poisson(), 2)))
    np.testing.assert_allclose(jem.log_prob(around, both, x), jem.log_prob(inside, both, x), rtol=1e-12)


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, -1.0, 0.5])
def test_what_cannot_be_inside_jit(junk, x64):
    """Under jit no door refuses it: minus infinity, and the other rows are untouched."""
    x = jnp.asarray(COUNTS, float).at[1, 0].set(junk)
    got = jax.jit(lambda x: jem.log_prob(jem.Poisson(), jem.Poisson.Params(jnp.asarray(THREE)), x))(x)
    assert got[1] == -jnp.inf and jnp.isfinite(got[jnp.arange(40) != 1]).all()
    bits = jem.Bernoulli.Params(jnp.asarray(THREE) / 10)
    got = jax.jit(lambda x: jem.log_prob(jem.Bernoulli(), bits, x))((x > 3).astype(float).at[1, 0].set(junk))
    assert got[1] == -jnp.inf and jnp.isfinite(got[jnp.arange(40) != 1]).all()


def test_what_an_author_may_get_wrong_is_said():
    """A member that returns one array in place of a tuple; rows in place of a matrix."""

    @jem.author.node
    class Bare(jem.Exponential):
        def natural(self, params):
            return -params.rate

    params = jem.Exponential.Params(jnp.ones(3))
    with pytest.raises(TypeError, match=r"Bare.natural must return a tuple of arrays, \(a,\) where it is one"):
        jem.log_prob(Bare(), params, np.ones((4, 3)))
    with pytest.raises(ValueError, match="Exponential: x must have rows"):
        jem.log_prob(jem.Exponential(), params, np.ones(4))

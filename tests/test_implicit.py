"""Derivatives of a fit: against finite differences, closed forms and the unrolled loop, and what it says when there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import ALL
from zoo import ZOO, build

import jem
from jem.kernels.krylov import solve_symmetric

# Each program takes seconds to compile: these by default, all rows with JEM_ALL_ROWS=1. What they are made of, the
# derivative of the score, is a law that every row obeys (laws/test_score.py).
QUICK = ("student_t", "mixture_poisson_prior", "mixture_categorical")
# Directions that the data say nothing about, or no maximum inside of the domain: these have no derivative.
FLAT = {"mixture_categorical", "tied_part", "factor", "factor_spherical_no_prior", "tied_factor"}
NOWHERE = {"mixture_factor", "lds", "lds_level", "mixture_of_hmms"}
SLOW = {"mixture_student_t": 80_000}  # its rate of convergence is 0.9999
NO_LOOP = {"mixed_product"}  # a probability reaches zero, where the derivative of the steps is 0 / 0
DISCRETE = {"mixture_bernoulli", "mixture_bernoulli_prior", "mixture_poisson", "mixture_poisson_prior", "mixture_of_hmms"}
NAMES = [row.name for row in ZOO if (ALL or row.name in QUICK) and row.name != "mixture_laplace"]  # which has a kink
STEP = 3e-5
slow = pytest.mark.skipif(not ALL, reason="compiles for long; JEM_ALL_ROWS=1 runs it")


def moved(x, direction, h):
    """Data with its real leaves moved."""
    return jax.tree.map(lambda a, d: a + h * d if jnp.issubdtype(a.dtype, jnp.floating) else a, x, direction)


@pytest.mark.parametrize("name", NAMES)
def test_zoo(x64, name):
    """In data and weights at once, under vmap: the central difference of the same fits, and the unrolled loop."""
    m, rng = build(name, "float64"), np.random.default_rng(1)
    size = 0.0 if name in DISCRETE else 1.0
    direction = jax.tree.map(lambda a: size * rng.standard_normal(a.shape), m.x)
    change = jnp.asarray(rng.uniform(-1, 1, m.weights.shape))

    def fit(h, start, **options):
        options = {"solver": jem.solvers.EM(), "stop": jem.stop.RelativeGain(), **options}
        return jem.fit(m.row.node, start, moved(m.x, direction, h), weights=m.weights + h * change, **options)

    slope = jax.jit(jax.vmap(lambda h: jax.jvp(lambda h: fit(h, m.params, max_steps=500), (h,), (1.0,))))
    fits, tangents = slope(jnp.array([0.0, STEP, -STEP]))
    status = {int(code) for code in fits.adjoint.status}
    if name in FLAT:
        assert status == {jem.adjoints.AdjointStatus.SINGULAR}
        return
    if name in NOWHERE:
        assert not status & {jem.adjoints.AdjointStatus.SOLVED}
        return
    assert status == {jem.adjoints.AdjointStatus.SOLVED}
    difference = lambda a: (a[1] - a[2]) / (2 * STEP)
    np.testing.assert_allclose(tangents.log_likelihood[0], difference(fits.log_likelihood), rtol=1e-5, atol=1e-5)
    loop = jem.adjoints.Unrolled()
    unrolled = jax.jit(
        lambda p: jax.jvp(
            lambda h: fit(h, p, max_steps=SLOW.get(name, 2000), stop=jem.stop.NeverStop(), adjoint=loop), (0.0,), (1.0,)
        )[1]
    )(m.params)
    leaves = zip(*map(jax.tree.leaves, (fits.params, tangents.params, unrolled.params)), strict=True)
    for value, tangent, by_steps in leaves:
        size = 1 + np.abs(difference(value))
        np.testing.assert_allclose(tangent[0] / size, difference(value) / size, atol=1e-5)
        if name not in NO_LOOP:
            np.testing.assert_allclose(tangent[0] / size, by_steps / size, atol=1e-5)


def closed_form(x, weights, strength):
    """Mean and covariance of a Gaussian under the default prior of this strength, which takes its scale from the data."""
    total = jnp.sum(weights)
    mean = weights @ x / total
    scatter = (x - mean[None, :]).T @ ((x - mean[None, :]) * weights[:, None])
    return mean, (scatter + strength * jnp.diag(jnp.diagonal(scatter)) / total) / (total + strength)


def fitted(x, weights, strength):
    model = jem.Gaussian(prior=jem.priors.InverseWishart(strength))
    start = jem.Gaussian.Params(jnp.zeros(2), jnp.eye(2))
    params = jem.fit(model, start, x, weights=weights).params
    return params.mean, params.covariance


def test_a_prior_relative_to_the_data_is_differentiated_too(x64):
    rng = np.random.default_rng(0)
    args = jnp.asarray(rng.standard_normal((7, 2)) @ [[1.0, 0.5], [0.0, 2.0]]), jnp.asarray(rng.uniform(0.5, 2, 7)), 3.0

    def scalar(fn):
        return jax.jit(jax.grad(lambda *a: (lambda m, c: m[0] - 2 * m[1] + jnp.sum(jnp.sin(c)))(*fn(*a)), (0, 1, 2)))

    got, want = scalar(fitted)(*args), scalar(closed_form)(*args)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def rate(x, weights, shape, start=2.0):
    """The posterior mode of a Poisson rate."""
    model = jem.Poisson(shape=shape, inverse_scale=0.5)
    return jem.fit(model, jem.Poisson.Params(jnp.array([start])), x[:, None], weights=weights).params.rate[0]


def mode(x, weights, shape):
    return (shape - 1 + weights @ x) / (0.5 + jnp.sum(weights))


def test_every_order_and_direction(x64):
    """First derivatives forwards and backwards, in scan and vmap, and second ones, of a fit with a closed form."""
    x, weights = jnp.array([1.0, 4.0, 2.0]), jnp.array([1.0, 0.5, 2.0])
    inputs = (0, 1, 2, 3)

    @jax.jit
    def derivatives(x, weights, shape, start):
        forwards, backwards = (d(rate, inputs)(x, weights, shape, start) for d in (jax.jacfwd, jax.jacrev))
        second = jax.hessian(rate, 1)(x, weights, shape, start)
        swept = jax.lax.scan(lambda c, s: (c, jax.grad(rate, 2)(x, weights, s, start)), 0, jnp.array([2.0, 3.0]))[1]
        return forwards, backwards, second, swept

    forwards, backwards, second, swept = derivatives(x, weights, 3.0, 2.0)
    want = jax.grad(mode, (0, 1, 2))(x, weights, 3.0)
    for a, b, c in zip(forwards, backwards, (*want, 0.0), strict=True):  # where it starts does not matter
        np.testing.assert_allclose(a, c, atol=1e-12)
        np.testing.assert_allclose(b, c, atol=1e-12)
    np.testing.assert_allclose(second, jax.hessian(mode, 1)(x, weights, 3.0), atol=1e-10)
    np.testing.assert_allclose(swept, want[2], atol=1e-12)


@pytest.fixture(scope="module")
def deaths():
    """Counts from two rates, a slow climb: the model and the data."""
    rng = np.random.default_rng(3)
    x = rng.poisson(np.where(rng.random(150) < 0.4, 1.0, 4.0))[:, None].astype(float)
    start = jem.Mixture.Params(np.array([0.3, 0.7]), jem.Poisson.Params(np.array([[0.7], [5.0]])))
    return x, start


def lower_rate(concentration, deaths, **options):
    """The lower rate of a Poisson mixture, and the fit."""
    x, start = deaths
    fit = jem.fit(jem.Mixture(jem.Poisson(), 2, concentration=concentration), start, x, **options)
    return fit.params.components.rate[0, 0], fit


def test_a_loose_stop_does_not_spoil_the_derivative(x64, deaths):
    loose = dict(stop=jem.stop.RelativeGain(1e-4))
    (value, fit), got = jax.jit(jax.value_and_grad(lambda c: lower_rate(c, deaths, **loose), has_aux=True))(3.0)
    assert fit.adjoint.check().status == jem.adjoints.AdjointStatus.SOLVED and fit.adjoint.error < 1e-9
    ends = [lower_rate(3.0 + h, deaths, stop=jem.stop.NeverStop(), max_steps=4000)[0] for h in (1e-4, -1e-4, 0.0)]
    assert float(got) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=1e-6)
    assert float(value) == pytest.approx(float(ends[2]), rel=1e-9)  # what a differentiated fit returns is polished
    plain, fit = lower_rate(3.0, deaths, **loose)
    assert abs(float(plain - value)) > 1e-3 and int(fit.adjoint.status) == jem.adjoints.AdjointStatus.NOT_TAKEN


def slope_by(deaths, **options):
    """The derivative of the lower rate by the concentration, backwards."""
    return jax.jit(jax.grad(lambda c: lower_rate(c, deaths, **options)[0]))


def test_the_unrolled_loop_and_products_alone_give_the_same(x64, deaths):
    want = float(slope_by(deaths)(3.0))
    steps = dict(max_steps=1500, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), adjoint=jem.adjoints.Unrolled())
    assert float(slope_by(deaths, **steps)(3.0)) == pytest.approx(want, rel=1e-6)
    assert float(slope_by(deaths, adjoint=jem.adjoints.Implicit(dense_limit=0))(3.0)) == pytest.approx(want, rel=1e-8)

    def rates(concentration):
        model = jem.Mixture(jem.Poisson(), 2, concentration=concentration)
        fits = jem.fit_restarts(model, jax.random.key(0), deaths[0], num_restarts=3)
        return jnp.sort(fits.params.components.rate[:, :, 0], 1), jnp.min(fits.best().params.components.rate)

    each, best = jax.jit(jax.jacfwd(rates))(3.0)  # of restarts each has its own
    np.testing.assert_allclose(each[:, 0], np.full(3, want), rtol=1e-8)
    assert float(best) == pytest.approx(want, rel=1e-8)


@slow
def test_second_order(x64, deaths):
    slope = slope_by(deaths)
    second = jax.jvp(slope, (3.0,), (1.0,))[1]
    assert float(second) == pytest.approx(float(slope(3.0 + 1e-4) - slope(3.0 - 1e-4)) / 2e-4, rel=1e-5)


def test_equal_components_are_said_to_be_flat(x64, deaths):
    """Two components that are one: what does not depend on how they share has a derivative, and the status says the rest."""
    x, _ = deaths
    start = jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Poisson.Params(jnp.array([[2.0], [2.0]])))
    weights = jnp.ones(len(x))

    def mean(weights):
        fit = jem.fit(jem.Mixture(jem.Poisson(), 2), start, x, weights=weights)
        return fit.params.weights @ fit.params.components.rate[:, 0], fit

    (value, fit), got = jax.jit(jax.value_and_grad(mean, has_aux=True))(weights)
    assert int(fit.adjoint.status) == jem.adjoints.AdjointStatus.SINGULAR and int(fit.adjoint.num_flat) > 0
    np.testing.assert_allclose(got, (x[:, 0] - float(value)) / len(x), atol=1e-10)
    with pytest.raises(jem.FitError, match="flat"):
        fit.adjoint.check()


@jem.author.node
class HalfLost(jem.Poisson):
    """Poisson counts, half of whose starts are not finite."""

    def init(self, key, x, weights):
        params = super().init(key, x, weights)
        lost = jax.random.bits(key, (), "uint32") % 2 == 0
        return jax.tree.map(lambda leaf: jnp.where(lost, jnp.nan, leaf), params)


def test_a_lost_lane_spoils_no_other(x64):
    x = jnp.array([[1.0], [4.0], [2.0]])

    def best(shape):
        fits = jem.fit_restarts(HalfLost(shape=shape, inverse_scale=0.5), jax.random.key(0), x, num_restarts=4)
        return fits.best().params.rate[0], fits

    (_, fits), got = jax.jit(jax.value_and_grad(best, has_aux=True))(3.0)
    lost = np.asarray(fits.status) == jem.Status.NONFINITE
    assert 0 < lost.sum() < 4
    assert set(np.asarray(fits.adjoint.status)[lost]) == {jem.adjoints.AdjointStatus.FAILED}
    assert float(got) == pytest.approx(1 / 3.5, rel=1e-12)


def test_a_fit_that_is_not_differentiated_costs_nothing_more(deaths):
    x, start = deaths
    x, start = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (x, start))
    text = jax.jit(lambda x: jem.fit(jem.Mixture(jem.Poisson(), 2), start, x).params).lower(x).as_text()
    slope = jax.jit(jax.grad(lambda x: jem.fit(jem.Mixture(jem.Poisson(), 2), start, x).log_likelihood)).lower(x).as_text()
    assert "syevd" not in text and "custom_call" not in text
    assert "syevd" in slope  # a control: the differentiated program takes the information apart


def test_a_solver_that_ends_elsewhere_is_refused(deaths):
    with pytest.raises(ValueError, match="stationary; got Hard"):
        jax.grad(lambda c: lower_rate(c, deaths, solver=jem.solvers.Hard())[0])(3.0)


@slow
def test_cells_that_the_model_holds(x64):
    """The value of a fixed transition is a hyper-parameter like any other."""
    x = jnp.asarray(np.random.default_rng(0).poisson(4.0, (20, 5, 1)), float)
    nan = jnp.nan

    def chain(stay):
        transition = jem.laws.Cells(fixed=jnp.array([[nan, nan], [1 - stay, stay]]))
        model = jem.HMM(jem.Poisson(shape=2.0, inverse_scale=0.5), 2, transition=transition, concentration=2.0)
        start = jem.HMM.Params(
            jnp.array([0.5, 0.5]),
            jem.laws.Cells.Params(jnp.array([[0.7, 0.3], [1 - stay, stay]])),
            jem.Poisson.Params(jnp.array([[2.0], [6.0]])),
        )
        return jem.fit(model, start, x, max_steps=3000)

    slope = jax.jit(jax.vmap(lambda s: jax.jvp(chain, (s,), (1.0,))))
    fits, tangents = slope(0.6 + jnp.array([0.0, 1e-5, -1e-5]))
    assert set(np.asarray(fits.adjoint.status)) == {jem.adjoints.AdjointStatus.SOLVED}
    for value, tangent in zip(jax.tree.leaves(fits.params), jax.tree.leaves(tangents.params), strict=True):
        np.testing.assert_allclose(tangent[0], (value[1] - value[2]) / 2e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [12, 9])
def test_minres(x64, rank):
    """Indefinite and singular systems: the pseudo-inverse, and what lies outside of the range."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    values = np.r_[rng.uniform(0.1, 3, rank) * np.where(np.arange(rank) % 3, 1, -1), np.zeros(12 - rank)]
    matrix, b = (q * values) @ q.T, rng.standard_normal(12)
    x, outside = jax.jit(lambda b: solve_symmetric(lambda v: jnp.asarray(matrix) @ v, b, 1e-12, 60))(jnp.asarray(b))
    np.testing.assert_allclose(x, np.linalg.pinv(matrix, rcond=1e-10) @ b, atol=1e-8)
    left = np.linalg.norm(q[:, rank:].T @ b) / np.linalg.norm(b)
    assert float(outside) == pytest.approx(left, abs=1e-8)

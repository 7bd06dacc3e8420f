"""Missing cells of Gaussian, Student-t and factor models: densities, fits and imputations against their integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jem

NUM, DIM = 60, 3
MEAN = np.array([0.5, -1.0, 2.0])
ROOT = np.array([[1.0, 0.0, 0.0], [0.8, 0.7, 0.0], [-0.5, 0.3, 1.2]])
VARIANCES = {"full": ROOT @ ROOT.T, "diagonal": np.array([1.0, 2.0, 0.5]), "spherical": np.array(1.5)}
VARIANCES["eigen"] = VARIANCES["full"]
STRUCTURES = {
    "full": jem.covariance.Full(),
    "diagonal": jem.covariance.Diagonal(),
    "spherical": jem.covariance.Spherical(),
    "eigen": jem.covariance.Eigen(),
}


def holes(x, share=0.3, seed=1):
    """x with cells missing, and all of the first row."""
    x = np.array(x)
    x[np.random.default_rng(seed).random(x.shape) < share] = np.nan
    x[0] = np.nan
    return x


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return holes(MEAN + rng.standard_normal((NUM, DIM)) @ ROOT.T)


def by_rows(density, x, mean, covariance):
    """The log-density of what is seen of each row, by the marginal's parameters."""
    def one(row):
        seen = ~np.isnan(row)
        return density(row[seen], mean[seen], covariance[np.ix_(seen, seen)]) if seen.any() else 0.0

    return np.array([one(row) for row in np.asarray(x, float)])


def normal(x, mean, covariance):
    return stats.multivariate_normal(mean, covariance).logpdf(x)


def conditional(row, mean, covariance):
    """What is not seen of a row by its mean given what is."""
    seen = ~np.isnan(row)
    gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    new = np.array(row)
    new[~seen] = mean[~seen] + gain @ (row[seen] - mean[seen])
    return new


def families(name):
    """A Gaussian and a Student-t of this structure, their parameters and densities."""
    full = np.diag(np.broadcast_to(VARIANCES[name], DIM)) if VARIANCES[name].ndim < 2 else VARIANCES[name]
    g, t = jem.Gaussian(STRUCTURES[name]), jem.StudentT(STRUCTURES[name])
    student = lambda x, m, s: stats.multivariate_t(m, s, 3.5).logpdf(x)  # noqa: E731
    yield g, g.params(MEAN, VARIANCES[name]), lambda x: by_rows(normal, x, MEAN, full)
    yield t, t.params(MEAN, VARIANCES[name], 3.5), lambda x: by_rows(student, x, MEAN, full)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", STRUCTURES)
def test_density_is_the_marginal(rows, name):
    for family, params, density in families(name):
        np.testing.assert_allclose(jem.log_prob(jem.Missing(family), params, rows), density(rows), rtol=1e-12, atol=1e-12)


def test_density_in_float32(rows):
    for family, params, density in families("full"):
        got = jem.log_prob(jem.Missing(family), params, rows.astype("float32"))
        np.testing.assert_allclose(got, density(rows), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_more_patterns_than_are_walked():
    rng = np.random.default_rng(0)
    root = np.tril(rng.standard_normal((7, 7))) + 2 * np.eye(7)
    x = holes(rng.standard_normal((150, 7)) @ root.T, 0.5)
    assert len(np.unique(np.isnan(x), axis=0)) > 16 + len(x) // 8
    g = jem.Gaussian()
    params = g.params(np.zeros(7), root @ root.T)
    want = by_rows(normal, x, np.zeros(7), root @ root.T)
    np.testing.assert_allclose(jem.log_prob(jem.Missing(g), params, x), want, rtol=1e-12, atol=1e-12)
    # The statistics too: a step is that of a few patterns at a time, which are walked.
    parts = [x[i : i + 10] for i in range(0, 150, 10)]
    whole = jem.e_step(jem.Missing(g), params, x)
    some = [jem.e_step(jem.Missing(g), params, part) for part in parts]
    for a, *each in zip(*(jax.tree.leaves(s) for s in (whole, *some)), strict=True):
        np.testing.assert_allclose(a, sum(each), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", [jem.Gaussian(), jem.StudentT()])
def test_derivatives(rows, family):
    """Of the log-likelihood: forward, backward, by Fisher's identity and by differences; and its curvature."""
    model, x = jem.Missing(family), jnp.asarray(rows.T)
    params = jem.init(model, jax.random.key(0), rows)
    flat, tree = jax.flatten_util.ravel_pytree(params)
    flat = flat + jnp.where(flat == 0, 0.1, 0)  # correlated
    flat = jax.flatten_util.ravel_pytree(tree(flat)._replace(whitening=jnp.tril(tree(flat).whitening)))[0]
    weights = jnp.asarray(np.random.default_rng(2).random(NUM))
    value = jax.jit(lambda v: model.infer(tree(v), x)[1] @ weights)
    stats = model.expect(tree(flat), model.infer(tree(flat), x)[0], x, weights)
    gradient = jax.grad(value)(flat)
    steps = 1e-5 * np.eye(len(flat))
    want = np.array([(value(flat + h) - value(flat - h)) / 2e-5 for h in steps])
    np.testing.assert_allclose(gradient, want, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(jax.jacfwd(value)(flat), gradient, rtol=1e-9, atol=1e-9)
    q = jax.grad(lambda v: model.expected_log_prob(tree(v), stats, tree(flat)))(flat)
    np.testing.assert_allclose(q, gradient, rtol=1e-9, atol=1e-9)
    curvature = np.array([(jax.grad(value)(flat + h) - jax.grad(value)(flat - h)) / 2e-5 for h in steps[:2]])
    np.testing.assert_allclose(jax.hessian(value)(flat)[:2], curvature, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_nothing_missing_is_no_change():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((NUM, DIM)) @ ROOT.T
    plain, wrapped = (jem.Mixture(part, 2) for part in (jem.Gaussian(), jem.Missing(jem.Gaussian())))
    start = jem.init(plain, jax.random.key(0), x)
    a, b = (jem.fit(model, start, x, max_steps=20) for model in (plain, wrapped))
    for got, want in zip(jax.tree.leaves(b.params), jax.tree.leaves(a.params), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_order_of_rows_does_not_matter(rows):
    model = jem.Mixture(jem.Missing(jem.Gaussian()), 2)
    start = jem.init(model, jax.random.key(0), rows)
    fits = [jem.fit(model, start, x, max_steps=20) for x in (rows, rows[::-1])]
    assert float(fits[0].log_likelihood) == pytest.approx(float(fits[1].log_likelihood), rel=1e-9)
    np.testing.assert_allclose(fits[0].params.components.mean, fits[1].params.components.mean, rtol=1e-6)


def test_float32_far_from_the_origin_with_cells_missing(rows):
    far = (rows + 1e4).astype("float32")
    model = jem.Missing(jem.Gaussian())
    near, there = (jem.fit(model, jem.init(model, jax.random.key(0), x), x).check() for x in (rows.astype("float32"), far))
    np.testing.assert_allclose(there.params.covariance, near.params.covariance, rtol=5e-3, atol=5e-3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("noise", [jem.covariance.Diagonal(), jem.covariance.Spherical()])
def test_factor_analysis(noise):
    rng = np.random.default_rng(0)
    loadings, variances, mean = rng.standard_normal((5, 2)), rng.random(5) + 0.3, rng.standard_normal(5)
    x = mean + rng.standard_normal((80, 2)) @ loadings.T + rng.standard_normal((80, 5)) * np.sqrt(variances)
    x, family = holes(x, 0.25), jem.FactorAnalysis(2, noise)
    model = jem.Missing(family)
    params = family.params(mean, loadings, variances if isinstance(noise, jem.covariance.Diagonal) else 0.7)
    covariance = np.asarray(params.covariance)
    want = by_rows(normal, x, mean, covariance)
    np.testing.assert_allclose(jem.log_prob(model, params, x), want, rtol=1e-12, atol=1e-12)
    some = np.array([conditional(row, mean, covariance) for row in x])
    np.testing.assert_allclose(jem.impute(model, params, x), some, rtol=1e-10, atol=1e-10)
    units, weights = jnp.asarray(x.T), jnp.asarray(rng.random(80))
    stats = model.expect(params, model.infer(params, units)[0], units, weights)
    gradient = jax.grad(lambda p: model.infer(p, units)[1] @ weights)(params)
    q = jax.grad(lambda p: model.expected_log_prob(p, stats, params))(params)
    for a, b in zip(q, gradient, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    fit = jem.fit(model, params, x)
    assert fit.log_likelihood > want.sum()


@pytest.mark.usefixtures("x64")
def test_around_a_mixture_is_around_its_components(rows):
    inside, around = jem.Mixture(jem.Missing(jem.Gaussian()), 2), jem.Missing(jem.Mixture(jem.Gaussian(), 2))
    rows = rows[~np.isnan(rows).all(1)]  # a row of which nothing was seen is hidden inside, and not there around
    params = jem.init(inside, jax.random.key(0), rows)
    for x in (rows, jem.Labelled(rows, jnp.where(jnp.arange(len(rows)) % 3 == 0, 1, -1))):
        a, b = (jem.fit(model, params, x, max_steps=5) for model in (inside, around))
        np.testing.assert_allclose(a.params.components.mean, b.params.components.mean, rtol=1e-9)
    jem.init(around, jax.random.key(0), rows)
    np.testing.assert_allclose(jem.impute(around, params, rows), jem.impute(inside, params, rows), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_impute_of_a_mixture(rows):
    """Each component's conditional means, by the responsibilities that the cells seen give."""
    g = jem.Gaussian()
    means, covariances = np.stack([MEAN, -MEAN]), np.stack([ROOT @ ROOT.T, np.eye(DIM)])
    model = jem.Mixture(jem.Missing(g), 2)
    params = jem.Mixture.Params(jnp.array([0.4, 0.6]), g.params(means, covariances))
    parts = np.stack([by_rows(normal, rows, m, s) for m, s in zip(means, covariances, strict=True)])
    share = np.array([[0.4], [0.6]]) * np.exp(parts)
    share = share / share.sum(0)
    each = np.stack([[conditional(row, m, s) for row in rows] for m, s in zip(means, covariances, strict=True)])
    want = np.einsum("kn,knd->nd", share, each)
    got = jem.impute(model, params, rows)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(np.asarray(got)[~np.isnan(rows)], rows[~np.isnan(rows)])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("wrapped", [True, False])
def test_impute_of_a_chain(wrapped):
    """By the smoothed states; whole steps that are missing are so without `Missing` too."""
    g, rng = jem.Gaussian(), np.random.default_rng(0)
    model = jem.HMM(jem.Missing(g) if wrapped else g, 2)
    x = rng.standard_normal((3, 5, 2))
    x[rng.random((3, 5)) < 0.3] = np.nan
    params = jem.init(model, jax.random.key(0), x)
    gamma = jem.infer(model, params, x)[0].smoothed
    want = np.where(np.isnan(x), jnp.einsum("stk,kd->std", gamma, params.emission.mean), x)
    np.testing.assert_allclose(jem.impute(model, params, x), want, rtol=1e-10, atol=1e-10)


def test_impute_of_independent_cells():
    x = {"count": np.array([[1.0, np.nan], [np.nan, 3.0]], "float32"), "kind": np.array([0, 2])}
    model = jem.Product(count=jem.Missing(jem.Poisson()), kind=jem.Categorical(3))
    params = {"count": jem.Poisson.Params(jnp.array([2.0, 5.0])), "kind": jem.Categorical.Params(jnp.array([0.5, 0.2, 0.3]))}
    got = jem.impute(model, params, x)
    np.testing.assert_array_equal(got["count"], [[1.0, 5.0], [2.0, 3.0]])
    np.testing.assert_array_equal(got["kind"], x["kind"])


def drawn(model, params, x, num=3000):
    """So many imputations, (num, N, D)."""
    keys = jax.random.split(jax.random.key(0), num)
    return np.asarray(jax.jit(jax.vmap(lambda key: jem.impute(model, params, x, key=key)))(keys))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["gaussian", "student_t", "factor"])
def test_draws_are_about_the_expectation(name):
    """Their mean is the imputation, and their covariance what is left of it given what was seen."""
    x = np.array([[0.3, np.nan, np.nan], [np.nan, -2.0, 1.0]])
    full = ROOT @ ROOT.T
    family = {"gaussian": jem.Gaussian(), "student_t": jem.StudentT(), "factor": jem.FactorAnalysis(1)}[name]
    if name == "factor":
        params = family.params(MEAN, np.array([[1.0], [0.5], [-0.8]]), np.array([0.5, 1.0, 0.3]))
        full = np.asarray(params.covariance)
    else:
        params = family.params(MEAN, full) if name == "gaussian" else family.params(MEAN, full, 9.0)
    model = jem.Missing(family)
    draws = drawn(model, params, x)
    want = np.asarray(jem.impute(model, params, x))
    for row, hole, seen in ((0, [1, 2], [0]), (1, [0], [1, 2])):
        inverse = np.linalg.inv(full[np.ix_(seen, seen)])
        left = full[np.ix_(hole, hole)] - full[np.ix_(hole, seen)] @ inverse @ full[np.ix_(seen, hole)]
        if name == "student_t":
            gap = x[row, seen] - MEAN[seen]
            left = left * (9 + gap @ inverse @ gap) / (9 + len(seen) - 2)
        error = np.sqrt(np.diag(left) / len(draws))
        assert np.all(np.abs(draws[:, row, hole].mean(0) - want[row, hole]) < 4 * error)
        np.testing.assert_allclose(np.cov(draws[:, row, hole].T).reshape(left.shape), left, rtol=0.15, atol=0.15 * left.max())
        np.testing.assert_array_equal(draws[:, row, seen], np.broadcast_to(x[row, seen], (len(draws), len(seen))))


def test_draws_of_a_mixture_and_a_chain_come_from_one_component():
    """Between components that are far apart nothing is drawn, though the expectation lies there."""
    parts = jem.Poisson.Params(jnp.array([[1.0, 1.0], [200.0, 200.0]]))
    x = np.array([[np.nan, np.nan], [np.nan, 190.0]], "float32")
    mixture, even = jem.Mixture(jem.Missing(jem.Poisson()), 2), jnp.array([0.5, 0.5])
    draws = drawn(mixture, jem.Mixture.Params(even, parts), x, 200)
    low, high = draws[:, 0] < 20, draws[:, 0] > 120
    assert np.all(low | high) and np.all(low[:, 0] == low[:, 1]) and 60 < low[:, 0].sum() < 140
    assert np.all(draws[:, 1, 0] > 120) and np.all(draws[:, 1, 1] == 190)
    chain = jem.HMM(jem.Missing(jem.Poisson()), 2)
    stay = jem.init(chain, jax.random.key(0), np.nan_to_num(x)[None]).transition._replace(probs=jnp.array([[1.0, 0], [0, 1.0]]))
    draws = drawn(chain, jem.HMM.Params(even, stay, parts), x[None], 50)
    assert np.all(draws[:, 0, 0] > 120)


MEANS = {  # the families whose mean no other test knows
    "bernoulli": (jem.Bernoulli(), {"probs": 0.3}),
    "binomial": (jem.Binomial(10), {"probs": 0.3}),
    "beta_binomial": (jem.BetaBinomial(10), {"probs": 0.3, "concentration": 4.0}),
    "geometric": (jem.Geometric(), {"probs": 0.3}),
    "negative_binomial": (jem.NegativeBinomial(), {"mean": 3.0, "size": 2.0}),
    "exponential": (jem.Exponential(), {"rate": 2.0}),
    "rayleigh": (jem.Rayleigh(), {"scale": 2.0}),
    "gamma": (jem.Gamma(), {"concentration": 3.0, "rate": 2.0}),
    "inverse_gamma": (jem.InverseGamma(), {"concentration": 5.0, "scale": 2.0}),
    "log_normal": (jem.LogNormal(), {"loc": 0.2, "scale": 0.3}),
    "weibull": (jem.Weibull(), {"scale": 2.0, "concentration": 1.5}),
    "inverse_gaussian": (jem.InverseGaussian(), {"loc": 2.0, "concentration": 3.0}),
    "beta": (jem.Beta(), {"concentration1": 2.0, "concentration0": 3.0}),
}


@pytest.mark.parametrize("name", MEANS)
def test_mean_is_that_of_draws(name):
    family, values = MEANS[name]
    params = family.Params(**{field: jnp.array([value]) for field, value in values.items()})
    x = np.asarray(family.sample(jax.random.key(0), params, 20_000)[1], float)[0]
    assert float(family.mean(params)[0]) == pytest.approx(x.mean(), abs=4 * x.std() / len(x) ** 0.5)


def test_a_key_is_a_key(rows):
    g = jem.Gaussian()
    with pytest.raises((TypeError, ValueError), match="key"):
        jem.impute(jem.Missing(g), g.params(MEAN, VARIANCES["full"]), rows.astype("float32"), key=0)


def test_what_has_no_mean_is_refused():
    x, directions = np.array([[1.0], [np.nan]], "float32"), jem.VonMises.Params(jnp.array([1.0]), jnp.array([2.0]))
    whole = jem.Missing(jem.Dirichlet())
    with pytest.raises(TypeError, match="Missing: values that are missing cannot be imputed"):
        jem.impute(whole, jem.Dirichlet.Params(jnp.array([1.0, 2.0])), np.array([[0.5, 0.5], [np.nan, 0.1]], "float32"))
    with pytest.raises(TypeError, match="VonMises: cells that are missing cannot be imputed"):
        jem.impute(jem.Missing(jem.VonMises()), directions, x)

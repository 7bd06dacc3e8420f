"""The doors: what they return, that they work inside every transformation, and that simulated truths come back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jem
from jem import Status

MODEL = jem.Mixture(jem.Gaussian(), 2)
STEPS = 30
run = functools.partial(jem.fit, MODEL, max_steps=STEPS)


@pytest.fixture(scope="module")
def faithful():
    """Data and a start, float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(jem.datasets.old_faithful())
        means = jnp.array([[2.0, 50.0], [4.5, 80.0]])
        whitening = jnp.broadcast_to(jnp.diag(jnp.array([1.0, 0.1])), (2, 2, 2))
        return x, jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Gaussian.Params(means, whitening))


def assert_same(got, want, rtol=1e-9):
    """All leaves of two trees."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


def test_what_a_fit_says(x64, faithful):
    x, start = faithful
    fit = run(start, x, solver=jem.solvers.EM(), stop=jem.stop.RelativeGain()).check()
    steps = int(fit.num_steps)
    assert fit.status == Status.CONVERGED
    assert jax.tree.structure(fit.params) == jax.tree.structure(start)
    # the log-likelihood and the objective are those of the parameters returned
    log_likelihood = jem.e_step(MODEL, fit.params, x)[1]
    np.testing.assert_allclose(fit.log_likelihood, log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(jem.log_prob(MODEL, fit.params, x).sum(), log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(fit.objective, log_likelihood + jem.bind(MODEL, x).log_prior(fit.params), rtol=1e-12)
    # the trace holds the objective at the start and after every step, then NaN
    assert fit.trace.shape == (STEPS + 1,)
    np.testing.assert_array_equal(np.isfinite(fit.trace), np.arange(STEPS + 1) <= steps)
    assert float(fit.trace[steps]) == float(fit.objective)
    # the rule was met at the last step and not before
    gains = np.diff(fit.trace[: steps + 1]) / max(abs(float(fit.objective)), len(x))
    assert gains[-1] <= 1e-6 < gains[:-1].min()


def test_a_fit_is_its_steps(x64, faithful):
    x, start = faithful
    weights = jnp.asarray(np.random.default_rng(0).uniform(0, 2, len(x)))
    params = start
    for _ in range(3):
        params, _ = jem.em_step(MODEL, params, x, weights)
    fit = run(start, x, weights=weights, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=3)
    assert_same(fit.params, params)
    stats_, _ = jem.e_step(MODEL, params, x, weights)
    assert_same(jem.m_step(jem.bind(MODEL, x, weights), params, stats_), jem.em_step(MODEL, params, x, weights)[0])


def test_tolerance(x64, faithful):
    """A smaller one takes more steps and gets higher; zero ends at rounding."""
    x, start = faithful
    fits = [run(start, x, stop=jem.stop.RelativeGain(tol), max_steps=300) for tol in (1e-4, 1e-8, 0.0)]
    assert [f.status for f in fits] == [Status.CONVERGED] * 3
    assert fits[0].num_steps < fits[1].num_steps < fits[2].num_steps < 300
    assert fits[0].objective < fits[1].objective <= fits[2].objective


def test_weights_and_their_scale(x64, faithful):
    """Weights repeat rows; rows of weight 0 may hold NaN; a common factor changes nothing but the prior's share."""
    x, start = faithful
    repeats = np.random.default_rng(1).integers(0, 3, len(x))
    weights = jnp.asarray(repeats, float)
    spoilt = jnp.where(jnp.asarray(repeats == 0)[:, None], jnp.nan, x)
    weighted = run(start, spoilt, weights=weights)
    assert_same(weighted, run(start, np.repeat(x, repeats, 0)), rtol=1e-7)
    model = jem.Mixture(jem.Gaussian(prior=None), 2)
    stop = jem.stop.RelativeGain(1e-9)  # nats are as many more as the weights are
    one, ten = (jem.fit(model, start, x, weights=weights * c, stop=stop, max_steps=STEPS) for c in (1, 10))
    assert one.num_steps == ten.num_steps
    assert_same(one.params, ten.params)
    np.testing.assert_allclose(10 * one.log_likelihood, ten.log_likelihood, rtol=1e-12)


FAMILIES = {
    "gaussian": (jem.Gaussian(), lambda rng: rng.standard_normal((40, 2))),
    "poisson": (jem.Poisson(), lambda rng: rng.poisson(3.0, (40, 2)).astype(float)),
    "bernoulli": (jem.Bernoulli(), lambda rng: rng.integers(0, 2, (40, 2)).astype(float)),
    "categorical": (jem.Categorical(3), lambda rng: rng.integers(0, 3, 40)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_starts_do_not_see_rows_of_no_weight(name):
    """Neither the start nor the seeding: what those rows hold changes nothing."""
    family, rows = FAMILIES[name]
    x = rows(np.random.default_rng(0))
    weights = (np.arange(40) % 3 > 0).astype(np.float32)
    spoilt = np.where((weights == 0).reshape((-1,) + (1,) * (x.ndim - 1)), np.nan if x.dtype == float else -5, x)
    model, key = jem.Mixture(family, 2), jax.random.key(0)
    fits = jem.fit_restarts(model, key, jnp.asarray(spoilt), weights=weights, num_restarts=2, max_steps=3)
    assert np.isfinite(fits.trace[:, 0]).all()
    assert not (fits.status == Status.NONFINITE).any()


def test_inside_jit(x64, faithful):
    x, start = faithful
    assert_same(jax.jit(run)(start, x), run(start, x))


def test_inside_vmap(x64, faithful):
    """Over data sets and starts: every lane is its own fit."""
    x, start = faithful
    data = jnp.stack([x, x[::-1] * 2, x + 3.0])
    starts = jax.tree.map(lambda p: jnp.stack([p, p, p]), start)
    many = jax.vmap(run)(starts, data)
    assert len(set(many.num_steps.tolist())) > 1
    for lane in range(3):
        assert_same(jax.tree.map(lambda leaf, lane=lane: leaf[lane], many), run(start, data[lane]))


def test_inside_vmap_over_hyper_parameters(x64, faithful):
    """Prior strengths and tolerances are values: one program sweeps them."""
    x, start = faithful

    def fit(strength):
        model = jem.Mixture(jem.Gaussian(prior=jem.priors.InverseWishart(strength)), 2)
        return jem.fit(model, start, x, max_steps=STEPS).params.components.covariance

    many = jax.vmap(fit)(jnp.array([0.0, 1.0, 100.0]))
    assert_same(many[1], fit(1.0))
    assert (jnp.diff(many[:, 1, 0, 0]) > 0).all()  # pulled towards the data's variance


def test_inside_jvp(x64, faithful):
    """Forward mode through the whole loop: the derivative of the fit is that of its steps, one after the other."""
    x, start = faithful
    moved = lambda shift: x + shift * jnp.sin(x)

    def fit(shift):
        return run(start, moved(shift), solver=jem.solvers.EM(), stop=jem.stop.NeverStop()).params

    def steps(shift):
        step = lambda params, _: (jem.em_step(MODEL, params, moved(shift))[0], None)
        return jax.lax.scan(step, start, None, length=STEPS)[0]

    (value, tangent), (want, want_tangent) = (jax.jvp(fn, (0.0,), (1.0,)) for fn in (fit, steps))
    assert_same(value, want)
    assert_same(tangent, want_tangent, rtol=1e-7)
    by_difference = jax.tree.map(lambda a, b: (a - b) / 2e-4, fit(1e-4), fit(-1e-4))
    for a, b in zip(jax.tree.leaves(tangent), jax.tree.leaves(by_difference), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max())


def test_inside_scan(x64, faithful):
    """Warm starts over a stream of data sets."""
    x, start = faithful
    data = jnp.stack([x, x + 0.1, x + 0.2])

    def step(params, x):
        fit = run(params, x)
        return fit.params, (fit.num_steps, fit.objective)

    params, (steps, objective) = jax.lax.scan(step, start, data)
    expected = start
    for lane in range(3):
        fit = run(expected, data[lane])
        expected = fit.params
        assert (steps[lane], pytest.approx(float(objective[lane]), rel=1e-12)) == (fit.num_steps, float(fit.objective))
    assert_same(params, expected)


def test_restarts_inside_jit_and_vmap(x64, faithful):
    x, _ = faithful
    model = jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 2, seeding=jem.starts.RandomResponsibilities())
    restarts = lambda x: jem.fit_restarts(model, jax.random.key(0), x, num_restarts=2, max_steps=STEPS).best()
    with jax.debug_key_reuse(False):  # JAX takes vmap of a scan over keys for a reuse of them, in 0.12 at least
        many = jax.jit(jax.vmap(restarts))(jnp.stack([x, 2 * x]))
    assert_same(jax.tree.map(lambda leaf: leaf[0], many.params), restarts(x).params)


def test_dtypes_follow_the_data(faithful):
    """With x64 on, float32 data give a float32 fit; integers give the default float."""
    with jax.enable_x64(True):
        x, start = faithful
        fit = run(start, x.astype(jnp.float32))
        assert {leaf.dtype.name for leaf in jax.tree.leaves((fit.params, fit.objective, fit.trace))} == {"float32"}
        model = jem.Mixture(jem.Poisson(), 2)
        counts = x.astype(jnp.int32)
        assert jem.init(model, jax.random.key(0), counts).weights.dtype == jnp.float64
    assert jem.init(model, jax.random.key(0), np.asarray(counts)).weights.dtype == jnp.float32


def test_student_t_recovers_its_degrees_of_freedom():
    """The estimate is near the truth, and its log-likelihood is above the truth's and above a Gaussian's."""
    rng = np.random.default_rng(0)
    for df in (3.0, 8.0):
        x = stats.multivariate_t([1.0, -2.0], [[2.0, 0.7], [0.7, 1.0]], df, seed=rng).rvs(4000).astype(np.float32)
        fit = jem.fit(jem.StudentT(), jem.init(jem.StudentT(), jax.random.key(0), x), x, max_steps=300).check()
        assert float(fit.params.df) == pytest.approx(df, rel=0.2)
        np.testing.assert_allclose(fit.params.mean, [1.0, -2.0], atol=0.1)
        np.testing.assert_allclose(fit.params.scale_matrix, [[2.0, 0.7], [0.7, 1.0]], atol=0.2)
        truth = stats.multivariate_t([1.0, -2.0], [[2.0, 0.7], [0.7, 1.0]], df).logpdf(x).sum()
        assert float(fit.log_likelihood) > truth
        assert float(fit.log_likelihood) > stats.multivariate_normal(x.mean(0), np.cov(x.T)).logpdf(x).sum()


def test_student_t_of_normal_data_ends_at_the_normal(dtype):
    """The objective hardly rises along the degrees of freedom: what is left of terms that cancel shows that it does."""
    x = np.random.default_rng(0).standard_normal((200, 1)).astype(dtype)
    fit = jem.fit(jem.StudentT(), jem.init(jem.StudentT(), jax.random.key(0), x), x).check()
    assert fit.params.df > 1000
    assert float(fit.log_likelihood) == pytest.approx(stats.norm(x.mean(), x.std()).logpdf(x.astype(float)).sum(), abs=0.01)


def test_labels_are_respected(x64, faithful):
    """Known rows stay where they are told, even against the data; with all labels known EM is the closed form."""
    x, start = faithful
    rng = np.random.default_rng(0)
    truth = (np.asarray(x)[:, 0] < 3).astype(int)  # short eruptions are component 1 here, whatever the start says
    labels = np.where(rng.random(len(x)) < 0.2, truth, -1)
    data = jem.Labelled(x, jnp.asarray(labels))
    fits = jem.fit_restarts(MODEL, jax.random.key(0), data, num_restarts=4, max_steps=100)
    params = fits.check().best().params
    posterior, _ = jem.infer(MODEL, params, data)
    np.testing.assert_array_equal(posterior.responsibilities.argmax(1)[labels >= 0], labels[labels >= 0])
    assert (posterior.responsibilities[labels == 0, 1] == 0).all()
    # the component numbers are the labels': in every lane, not up to a permutation
    assert (fits.params.components.mean[:, 1, 0] < fits.params.components.mean[:, 0, 0]).all()
    assert np.mean(np.asarray(posterior.responsibilities.argmax(1)) == truth) > 0.98

    model = jem.Mixture(jem.Gaussian(prior=None), 2)
    fit = jem.fit(model, start, jem.Labelled(x, jnp.asarray(truth)), max_steps=5).check()
    for k in (0, 1):
        rows = np.asarray(x)[truth == k]
        np.testing.assert_allclose(fit.params.weights[k], len(rows) / len(x), rtol=1e-12)
        np.testing.assert_allclose(fit.params.components.mean[k], rows.mean(0), rtol=1e-10)
        np.testing.assert_allclose(fit.params.components.covariance[k], np.cov(rows.T, bias=True), rtol=1e-8)


def test_label_sets(x64, faithful):
    """A bool row allows several components; the same as integers where it allows one or all."""
    x, start = faithful
    labels = np.where(np.arange(len(x)) % 5 == 0, np.arange(len(x)) % 2, -1)
    sets = (labels[:, None] == np.arange(2)) | (labels[:, None] < 0)
    by_set = run(start, jem.Labelled(x, jnp.asarray(sets)))
    assert_same(by_set, run(start, jem.Labelled(x, jnp.asarray(labels))))


def moments(x):
    """Mean and covariance."""
    return np.mean(x, 0), np.cov(np.asarray(x, float).T)


def test_samples_have_the_moments_of_the_model():
    """Each family within five standard errors, and a mixture's labels in the right shares."""
    num, keys = 40_000, iter(jax.random.split(jax.random.key(0), 5))
    mean, covariance = np.array([1.0, -2.0]), np.array([[2.0, 0.7], [0.7, 1.0]])
    error = 5 * np.sqrt(2 / num)
    _, x = jem.sample(jem.Gaussian(), next(keys), jem.Gaussian().params(mean, covariance), num)
    assert x.shape == (num, 2)
    np.testing.assert_allclose(moments(x)[0], mean, atol=error)
    np.testing.assert_allclose(moments(x)[1], covariance, atol=2 * error)
    u, x = jem.sample(jem.StudentT(), next(keys), jem.StudentT().params(mean, covariance, 12.0), num)
    assert u.shape == (num,)
    np.testing.assert_allclose(moments(x)[1], covariance * 12 / 10, atol=3 * error)
    _, x = jem.sample(jem.Poisson(), next(keys), jem.Poisson.Params(jnp.array([0.5, 9.0])), num)
    np.testing.assert_allclose(moments(x)[0], [0.5, 9.0], atol=3 * error)
    np.testing.assert_allclose(np.diag(moments(x)[1]), [0.5, 9.0], rtol=2 * error)
    _, x = jem.sample(jem.Bernoulli(), next(keys), jem.Bernoulli.Params(jnp.array([0.0, 0.3, 1.0])), num)
    np.testing.assert_allclose(moments(x)[0], [0, 0.3, 1], atol=error)
    _, x = jem.sample(jem.Categorical(3), next(keys), jem.Categorical.Params(jnp.array([0.2, 0.0, 0.8])), num)
    np.testing.assert_allclose(np.bincount(x, minlength=3) / num, [0.2, 0, 0.8], atol=error)


def test_a_mixture_is_sampled_by_composition():
    """Parts of a product and components of a mixture belong together; the labels say which."""
    num = 20_000
    model = jem.Mixture(jem.Product(place=jem.Gaussian(), kind=jem.Categorical(2)), 2)
    place = jem.Gaussian().params(np.array([[0.0], [9.0]]), np.ones((2, 1, 1)))
    kind = jem.Categorical.Params(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    params = jem.Mixture.Params(jnp.array([0.3, 0.7]), {"place": place, "kind": kind})
    (labels, _), x = jem.sample(model, jax.random.key(0), params, num)
    assert (x["place"].shape, x["kind"].shape) == ((num, 1), (num,))
    np.testing.assert_array_equal(x["kind"], labels)
    np.testing.assert_array_equal(x["place"][:, 0] > 4.5, labels == 1)
    assert np.mean(labels) == pytest.approx(0.7, abs=5 * np.sqrt(0.21 / num))
    other = jem.Mixture(jem.OneOf(jem.Stack(jem.Gaussian(), 2), jem.Gaussian(jem.covariance.Diagonal())))
    parts = place, jem.Gaussian(jem.covariance.Diagonal()).params([-9.0], [0.01])
    params = jem.Mixture.Params(jnp.array([0.2, 0.3, 0.5]), parts)
    (labels, _), x = jem.sample(other, jax.random.key(1), params, num)
    np.testing.assert_array_equal(np.digitize(x[:, 0], [-5, 4.5]), np.array([1, 2, 0])[labels])


def test_a_sample_is_fitted_back():
    """Simulate, fit, and find the parameters: the round trip of a latent class model."""
    truth = jem.Mixture.Params(
        jnp.array([0.35, 0.65]), jem.Bernoulli.Params(jnp.array([[0.9, 0.8, 0.7, 0.1, 0.2], [0.2, 0.1, 0.3, 0.8, 0.6]]))
    )
    model = jem.Mixture(jem.Bernoulli(), 2)
    _, x = jem.sample(model, jax.random.key(0), truth, 5000)
    best = jem.fit_restarts(model, jax.random.key(1), x, num_restarts=4).check().best()
    order = np.argsort(best.params.weights)
    np.testing.assert_allclose(best.params.weights[order], truth.weights, atol=0.04)
    np.testing.assert_allclose(best.params.components.probs[order], truth.components.probs, atol=0.05)


def test_sweep(x64, faithful):
    x, _ = faithful
    models = {f"K={k}": jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), k) for k in (1, 2, 3)}
    table = jem.sweep(models, jax.random.key(0), x, num_restarts=3, max_steps=300)
    assert [row.name for row in table.rows] == list(models) == list(table.fits)
    assert [row.num_parameters for row in table.rows] == [4, 9, 14]
    likelihoods = [row.log_likelihood for row in table.rows]
    assert likelihoods == sorted(likelihoods)
    for row in table.rows:
        params = table.fits[row.name].best().params
        assert row.log_likelihood == pytest.approx(float(jem.e_step(models[row.name], params, x)[1]), rel=1e-9)
        assert row.aic == pytest.approx(-2 * row.log_likelihood + 2 * row.num_parameters, rel=1e-12)
        assert row.bic == pytest.approx(-2 * row.log_likelihood + np.log(len(x)) * row.num_parameters, rel=1e-12)
        r = np.asarray(jem.infer(models[row.name], params, x)[0].responsibilities)
        entropy = -np.sum(r * np.log(np.where(r > 0, r, 1)))
        assert row.icl == pytest.approx(row.bic + 2 * entropy, rel=1e-9)
        assert row.status == Status.CONVERGED
    for criterion in ("aic", "bic", "icl"):
        assert table.best(criterion) == min(table.rows, key=lambda row: getattr(row, criterion)).name
    lines = str(table).splitlines()
    assert len(lines) == 4 and lines[2].split()[:2] == ["K=2", "9"]


COUNTS = {
    "full": (jem.Mixture(jem.Gaussian(), 3), 2 + 3 * (2 + 3)),
    "diagonal": (jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 3), 2 + 3 * 4),
    "spherical": (jem.Mixture(jem.Gaussian(jem.covariance.Spherical()), 3), 2 + 3 * 3),
    "tied": (jem.Mixture(jem.Tied(jem.Gaussian(), 3, "whitening")), 2 + 3 * 2 + 3),
    "all tied": (jem.Mixture(jem.Tied(jem.Gaussian(), 3)), 2 + 5),
    "student": (jem.Mixture(jem.StudentT(), 2), 1 + 2 * 6),
    "frozen df": (jem.Mixture(jem.Frozen(jem.StudentT(), "df"), 2), 1 + 2 * 5),
    "frozen weights": (jem.Frozen(jem.Mixture(jem.Gaussian(), 2), "weights"), 10),
    "frozen": (jem.Mixture(jem.OneOf(jem.Gaussian(), jem.Frozen(jem.Gaussian()))), 1 + 5),
    "nested": (jem.Mixture(jem.Mixture(jem.Gaussian(), 2), 2), 1 + 2 * 11),
    "one of": (jem.Mixture(jem.OneOf(jem.Stack(jem.Gaussian(), 2), jem.StudentT())), 2 + 10 + 6),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    model, count = COUNTS[name]
    x = jnp.zeros((2, 8))
    assert jem.num_parameters(model, jax.eval_shape(model.init, jax.random.key(0), x, jnp.ones(8))) == count

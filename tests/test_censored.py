"""Intervals in the place of values: log-probabilities and expectations against scipy, fits against direct maximisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, stats

import jem

INF = np.inf
A = np.array
GAUSS, STUDENT = jem.Gaussian(), jem.StudentT()
# Intervals of numbers > 0, of which all families of one column have some.
POSITIVE = [(0.5, INF), (0.0, 0.7), (0.9, 1.1), (2.0, 3.0), (3.0, INF), (1e-3, 2e-3), (0.2, 4.0), (1.3, 1.3)]
WHOLE = [(0, 2), (3, INF), (2, 7), (15, INF), (1, 1), (-INF, 4), (12, 14), (0, 0)]
LAWS = {
    "exponential": (jem.Exponential(), jem.Exponential.Params(A([1.3])), stats.expon(scale=1 / 1.3)),
    "rayleigh": (jem.Rayleigh(), jem.Rayleigh.Params(A([1.2])), stats.rayleigh(scale=1.2)),
    "log normal": (jem.LogNormal(), jem.LogNormal.Params(A([0.3]), A([0.8])), stats.lognorm(0.8, scale=np.exp(0.3))),
    "gamma": (jem.Gamma(), jem.Gamma.Params(A([2.5]), A([1.5])), stats.gamma(2.5, scale=1 / 1.5)),
    "weibull": (jem.Weibull(), jem.Weibull.Params(A([1.5]), A([0.7])), stats.weibull_min(0.7, scale=1.5)),
    "inverse gaussian": (jem.InverseGaussian(), jem.InverseGaussian.Params(A([1.5]), A([1.5])), stats.invgauss(1.0, scale=1.5)),
    "gaussian": (GAUSS, jem.Gaussian.Params(A([1.0]), A([[2.0]])), stats.norm(1, 0.5)),
    "student": (STUDENT, jem.StudentT.Params(A([1.0]), A([[2.0]]), A(2.5)), stats.t(2.5, 1, 0.5)),
    "poisson": (jem.Poisson(), jem.Poisson.Params(A([3.2])), stats.poisson(3.2)),
    "geometric": (jem.Geometric(), jem.Geometric.Params(A([0.2])), stats.geom(0.2, loc=-1)),
    "binomial": (jem.Binomial(20), jem.Binomial.Params(A([0.3])), stats.binom(20, 0.3)),
    "negative binomial": (
        jem.NegativeBinomial(),
        jem.NegativeBinomial.Params(A([4.0]), A([2.0])),
        stats.nbinom(2, 1 / 3),
    ),
}
COUNTS = ("poisson", "geometric", "binomial", "negative binomial")


def cells(pairs):
    """Rows of one cell from pairs of ends."""
    lower, upper = np.array(pairs, float).T
    return jem.Interval(lower[:, None], upper[:, None])


def chance(law, low, high):
    """log P of an interval, by the tail in which it lies."""
    if low == high:
        return law.logpdf(low) if hasattr(law.dist, "pdf") else law.logpmf(low)
    if not hasattr(law.dist, "pdf"):
        return np.log(np.sum(law.pmf(np.arange(max(low, 0), min(high, 400) + 1))))
    a, b = (law.logsf(low), law.logsf(high)) if low > law.median() else (law.logcdf(high), law.logcdf(low))
    return a + np.log1p(-np.exp(b - a)) if np.isfinite(b) else a


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LAWS)
def test_log_probability_is_scipys(name):
    family, params, law = LAWS[name]
    pairs = WHOLE if name in COUNTS else POSITIVE
    got = jem.log_prob(jem.Censored(family), params, cells(pairs))
    np.testing.assert_allclose(got, [chance(law, *pair) for pair in pairs], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LAWS)
def test_log_probability_in_float32(name):
    family, params, law = LAWS[name]
    pairs = WHOLE if name in COUNTS else POSITIVE
    x = jax.tree.map(lambda end: end.astype("float32"), cells(pairs))
    got = jem.log_prob(jem.Censored(family), jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), x)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [chance(law, *pair) for pair in pairs], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_tails(dtype, request):
    """Thirty deviations out, and a narrow interval there: values and derivatives."""
    if dtype == "float64":
        request.getfixturevalue("x64")
    tight = 1e-5 if dtype == "float32" else 1e-12
    x = jem.Interval(*(np.array(ends, dtype)[:, None] for ends in ([30, -INF, 30, 8], [INF, -30, 30.125, 9])))
    mean, w = jnp.zeros(1, dtype), jnp.ones((1, 1), dtype)
    tail, narrow = stats.norm.logsf(30), integrate.quad(lambda t: np.exp(-30 * t - t * t / 2), 0, 0.125)[0]
    between = stats.norm.logsf(8) + np.log1p(-np.exp(stats.norm.logsf(9) - stats.norm.logsf(8)))
    want = [tail, tail, np.log(narrow) + stats.norm.logpdf(30), between]
    value = lambda m, w: jem.log_prob(jem.Censored(GAUSS), jem.Gaussian.Params(m, w), x)  # noqa: E731
    np.testing.assert_allclose(value(mean, w), want, rtol=tight)
    hazard = np.exp(stats.norm.logpdf(30) - tail)  # of the tail; the slope in the mean, and that in 1 / deviation
    slopes = jax.jacfwd(value, (0, 1))(mean, w)
    np.testing.assert_allclose(slopes[0][:2, 0], [hazard, -hazard], rtol=tight)
    np.testing.assert_allclose(slopes[1][:2, 0, 0], [-30 * hazard] * 2, rtol=tight)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["gaussian", "log normal", "exponential", "rayleigh", "weibull", "poisson"])
def test_fishers_identity_and_expectations(name):
    """The statistics of intervals are expectations: Q has the likelihood's slope, by differences too."""
    family, params, law = LAWS[name]
    params = jax.tree.map(jnp.asarray, params)
    model, pairs = jem.Censored(family), (WHOLE if name in COUNTS else POSITIVE)
    x = jax.tree.map(jnp.transpose, jem.Interval(*map(jnp.asarray, cells(pairs))))
    weights = jnp.asarray(np.random.default_rng(0).random(len(pairs)))
    stats_ = model.expect(params, model.infer(params, x)[0], x, weights)
    value = jax.jit(lambda p: model.infer(p, x)[1] @ weights)
    flat, tree = jax.flatten_util.ravel_pytree(params)
    slope = jax.flatten_util.ravel_pytree(jax.grad(value)(params))[0]
    q = jax.flatten_util.ravel_pytree(jax.grad(lambda p: model.expected_log_prob(p, stats_, params))(params))[0]
    np.testing.assert_allclose(q, slope, rtol=1e-10, atol=1e-10)
    steps = 1e-5 * np.eye(len(flat))
    np.testing.assert_allclose(slope, [(value(tree(flat + h)) - value(tree(flat - h))) / 2e-5 for h in steps], rtol=1e-6)
    if name == "exponential":  # E[x | interval] itself
        inside = lambda low, high: integrate.quad(lambda t: t * law.pdf(t), low, min(high, 60))[0]  # noqa: E731
        mean = [inside(*pair) / np.exp(chance(law, *pair)) for pair in pairs[:-1]]
        np.testing.assert_allclose(stats_.sums[0][0], np.append(mean, 1.3) @ weights, rtol=1e-8)


def censor(x, kind):
    """Values as they are, rounded to halves, above 1 and below 0.3, by kind."""
    lower = np.choose(kind, [x, np.floor(2 * x) / 2, np.minimum(x, 1.0), np.where(x < 0.3, -INF, x)])
    return jem.Interval(lower, np.choose(kind, [x, np.floor(2 * x) / 2 + 0.5, np.where(x > 1.0, INF, x), np.maximum(x, 0.3)]))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["weibull", "gamma", "gaussian"])
def test_fit_is_the_direct_maximum(name):
    family, params, law = LAWS[name]
    rng = np.random.default_rng(0)
    x = censor(law.rvs((80, 1), random_state=rng), rng.integers(0, 4, (80, 1)))
    model = jem.Censored(family)
    fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, stop=jem.stop.Remaining(1e-10)).check()
    laws = {
        "weibull": lambda v: stats.weibull_min(np.exp(v[1]), scale=np.exp(v[0])),
        "gamma": lambda v: stats.gamma(np.exp(v[0]), scale=np.exp(-v[1])),
        "gaussian": lambda v: stats.norm(v[0], np.exp(v[1])),
    }
    pairs = [(low, high) for low, high in zip(x.lower[:, 0], x.upper[:, 0], strict=True)]
    loss = lambda v: -sum(chance(laws[name](v), *pair) for pair in pairs)  # noqa: E731
    best = optimize.minimize(loss, [0.1, 0.1], method="BFGS", options={"gtol": 1e-5})
    assert float(fit.log_likelihood) == pytest.approx(-best.fun, abs=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["gaussian", "gamma", "exponential"])
def test_slopes_in_the_ends(name):
    """`d log P / d upper = f(upper) / P`, and as much less for the lower end."""
    family, params, law = LAWS[name]
    total = lambda lower, upper: jnp.sum(jem.log_prob(jem.Censored(family), params, jem.Interval(lower, upper)))  # noqa: E731
    ends = A([[0.5, 2.0], [3.0, 3.5]])
    got = jax.grad(total, (0, 1))(*jnp.asarray(ends).T[:, :, None])
    log_prob = [chance(law, *pair) for pair in ends]
    for slope, end, sign in zip(got, ends.T, (-1, 1), strict=True):
        np.testing.assert_allclose(slope[:, 0], sign * np.exp(law.logpdf(end) - log_prob), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_several_columns_are_independent():
    """Of families with shares of points for each cell, as `Gamma`; missing cells say nothing."""
    x = jem.Interval(A([[0.5, jnp.nan], [1.0, 1.0], [0.2, 2.0]]), A([[INF, jnp.nan], [1.0, 1.2], [0.4, INF]]))
    both = jem.Gamma.Params(A([1.5, 2.0]), A([1.0, 0.8]))
    each = [jem.Gamma.Params(A([c]), A([r])) for c, r in zip(*both, strict=True)]
    parts = [jax.tree.map(lambda end, d=d: end[:, d : d + 1], x) for d in range(2)]
    model = jem.Censored(jem.Gamma())
    apart = sum(jem.log_prob(model, p, part) for p, part in zip(each, parts, strict=True))
    np.testing.assert_allclose(jem.log_prob(model, both, x), apart, rtol=1e-12)
    step = jem.em_step(model, both, x)[0].concentration
    alone = [jem.em_step(model, p, part)[0].concentration[0] for p, part in zip(each, parts, strict=True)]
    np.testing.assert_allclose(step, alone, rtol=1e-10)


def test_histogram():
    """Rows that are bins, with counts for weights."""
    edges = np.array([-INF, -1.0, 0.0, 1.0, 2.0, INF])
    counts = 1000 * np.diff(stats.norm(0.3, 1.2).cdf(edges))
    model = jem.Censored(jem.Gaussian())
    x = jem.Interval(edges[:-1, None], edges[1:, None])
    fit = jem.fit(model, jem.init(model, jax.random.key(0), x, weights=counts), x, weights=counts).check()
    assert float(fit.params.mean[0]) == pytest.approx(0.3, abs=0.01)
    assert float(fit.params.covariance[0, 0]) == pytest.approx(1.44, abs=0.03)


def test_groups_of_lifetimes():
    """A mixture of which half the rows are censored, with restarts; and as a part of a product."""
    rng = np.random.default_rng(0)
    first = rng.random(300) < 0.4
    time = np.where(first, rng.exponential(1.0, 300), 10 + rng.exponential(8.0, 300))[:, None]
    x = jem.Interval.right(np.minimum(time, 14.0), censored=time > 14.0)
    model = jem.Mixture(jem.Product(time=jem.Censored(jem.LogNormal()), kind=jem.Bernoulli()), 2)
    data = {"time": x, "kind": first[:, None].astype("float32")}
    best = jem.fit_restarts(model, jax.random.key(0), data, num_restarts=4).check().best()
    assert sorted(np.asarray(best.params.weights)) == pytest.approx([np.mean(first), 1 - np.mean(first)], abs=0.02)


def test_chain_of_detection_limits():
    """States of a chain, values below a limit not seen, sequences of two lengths."""
    rng = np.random.default_rng(0)
    states = np.repeat(rng.integers(0, 2, 24), 10)
    y = rng.normal(3.0 * states, 1.0)[:, None]
    x = jem.Interval.left(np.maximum(y, 0.5), censored=y < 0.5)
    series = jem.Sequences(jax.tree.map(lambda end: end.reshape(2, 120, 1), x), A([120, 90]))
    model = jem.HMM(jem.Censored(jem.Gaussian()), 2)
    best = jem.fit_restarts(model, jax.random.key(0), series, num_restarts=4).check().best()
    assert sorted(np.asarray(best.params.emission.mean[:, 0])) == pytest.approx([0.0, 3.0], abs=0.5)
    path, _ = jem.decode(model, best.params, series)
    high = int(np.argmax(best.params.emission.mean[:, 0]))
    assert np.mean((np.asarray(path)[0] == high) == (states[:120] == 1)) > 0.9


def test_constructors():
    y = np.array([[1.0], [2.0]])
    left = jem.Interval.left(y, censored=[True, False])
    assert left.lower.tolist() == [[-INF], [2.0]]
    assert left.upper.tolist() == y.tolist()
    assert jem.Interval.rounded(y, 0.5).lower.tolist() == [[0.75], [1.75]]
    assert jem.Interval.right([[3]], [[True]]).upper.tolist() == [[INF]]


def test_draws_are_data():
    model = jem.Censored(jem.Exponential())
    params = jem.Exponential.Params(A([1.0]))
    _, x = jem.sample(model, jax.random.key(0), params, 5)
    assert np.isfinite(jem.log_prob(model, params, x)).all()
    u = np.ones((5, 1), "float32")
    given = jem.Given(jem.Interval.right(u, np.ones(5, bool)), u)
    linear = jem.Linear().params([[1.0]], [0.0], [[1.0]])
    _, like = jem.sample(jem.Censored(jem.Linear()), jax.random.key(0), linear, like=given)
    assert np.isfinite(jem.log_prob(jem.Censored(jem.Linear()), linear, like)).all()


WRONG = {
    "no interval": (jem.Exponential(), np.ones((3, 1)), "x must be jem.Interval"),
    "crossed": (jem.Gaussian(), cells([(1.0, 0.0)]), "lower must be at most upper.* 1.0 and upper = 0"),
    "half": (jem.Gaussian(), jem.Interval(np.full((2, 1), np.nan), np.ones((2, 1))), "both ends of a missing cell must be NaN"),
    "shapes": (jem.Gaussian(), jem.Interval(np.ones((2, 1)), np.ones((2, 2))), "one shape"),
    "negative": (jem.Exponential(), cells([(-1.0, 2.0)]), "infinite or from 0.0 to inf; got lower = -1.0"),
    "beyond": (jem.Categorical(3), jem.Interval(np.array([0, 1]), np.array([2, 3])), "from 0.0 to 2.0"),
    "fraction": (jem.Poisson(), cells([(0.5, 2.0)]), "integers"),
    "zero": (jem.Exponential(), cells([(0.0, 0.0)]), "> 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_is_refused(name):
    family, x, message = WRONG[name]
    model = jem.Censored(family)
    with pytest.raises(ValueError, match=message):
        jem.init(model, jax.random.key(0), x)


def test_wrong_families_are_refused():
    x = cells([(0.0, 1.0), (1.0, 2.0)])
    with pytest.raises(TypeError, match="VonMises takes no intervals"):
        jem.init(jem.Censored(jem.VonMises()), jax.random.key(0), x)
    two = jem.Interval(np.zeros((3, 2)), np.ones((3, 2)))
    with pytest.raises(TypeError, match="columns with correlations take no intervals.*Diagonal"):
        jem.log_prob(jem.Censored(jem.Gaussian()), GAUSS.params([0.0, 0.0], np.eye(2)), two)
    with pytest.raises(TypeError, match="StudentT takes intervals of one column only"):
        jem.log_prob(jem.Censored(STUDENT), STUDENT.params([0.0, 0.0], np.eye(2), 3.0), two)


def test_impossible_inside_jit_is_minus_infinity():
    params = jem.Exponential.Params(A([1.0]))
    one = jax.jit(lambda x: jem.log_prob(jem.Censored(jem.Exponential()), params, x))
    x = jem.Interval(A([[2.0], [-3.0], [jnp.nan], [1.0]]), A([[1.0], [-1.0], [1.0], [2.0]]))
    assert np.isneginf(one(x)).tolist() == [True, True, True, False]

"""Families of continuous observations, each a row of a table: beside scipy, at the edges, and where they are narrow."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jem
from jem.coordinates import ravel, unravel
from jem.kernels.bessel import bessel_gap, log_bessel
from jem.kernels.gaussian import digamma_gap, log_gamma_gap
from jem.kernels.shapes import dirichlet_shape, log_gap

NUM = 200


class Unit:
    """Directions in three dimensions, as scipy has them, of one concentration or of several."""

    def __init__(self, mean, kappa):
        self.law = stats.vonmises_fisher(mean / np.linalg.norm(mean), float(kappa))

    def rvs(self, size, random_state):
        return self.law.rvs(size[0], random_state=random_state)

    def logpdf(self, x):
        return self.law.logpdf(x / np.linalg.norm(x, axis=-1, keepdims=True))


class Parts:
    """Proportions, as scipy has them: of what sums to one but for rounding, which tells in a narrow density."""

    def __init__(self, a):
        self.a = a

    def rvs(self, size, random_state):
        return stats.dirichlet(self.a).rvs(size[0], random_state=random_state)

    def logpdf(self, x):
        x = x / x.sum(-1, keepdims=True)
        return special.gammaln(self.a.sum()) + (special.xlogy(self.a - 1, x) - special.gammaln(self.a)).sum(-1)


class Case(NamedTuple):
    """A family, scipy's from the same parameters, ordinary and extreme parameters, what cannot be, and what is said of it."""

    node: Any
    twin: Any
    ordinary: tuple
    extremes: tuple[tuple, ...]
    never: Any
    message: str


POSITIVE = ([0.0, 1.0], "x must be > 0; got 0.0 in row 3, column 0")
WIDE, NARROW = ([0.02, 0.3], [3.0, 1e-3]), ([4e4, 1e6], [5e3, 2e5])
AT = np.array([0.6, 0.0, -0.8])
CASES = {
    "gamma": Case(jem.Gamma(), lambda c, r: stats.gamma(c, scale=1 / r), ([1.5, 8], [0.7, 3]), (WIDE, NARROW), *POSITIVE),
    "inverse_gamma": Case(
        jem.InverseGamma(),
        lambda c, s: stats.invgamma(c, scale=s),
        ([2.5, 8], [0.7, 3]),
        (([0.2, 0.5], [3, 1e-3]), NARROW),
        *POSITIVE,
    ),
    "log_normal": Case(
        jem.LogNormal(),
        lambda m, s: stats.lognorm(s, scale=np.exp(m)),
        ([-0.5, 2], [0.7, 1.3]),
        (([-5, 20], [10, 1e-2]), ([3, 0.1], [2e-3, 2e-3])),
        *POSITIVE,
    ),
    "weibull": Case(
        jem.Weibull(),
        lambda s, c: stats.weibull_min(c, scale=s),
        ([1.5, 8], [0.7, 3]),
        (([3, 2], [0.1, 0.3]), ([3, 1], [300, 50])),
        *POSITIVE,
    ),
    "inverse_gaussian": Case(
        jem.InverseGaussian(),
        lambda m, c: stats.invgauss(m / c, scale=c),
        ([1.5, 8], [0.7, 3]),
        (([3, 2], [0.01, 0.1]), ([3, 2], [3e4, 1e6])),
        *POSITIVE,
    ),
    "beta": Case(
        jem.Beta(),
        stats.beta,
        ([1.5, 8], [0.7, 3]),
        (([0.05, 0.3], [3, 0.2]), ([4e4, 1e5], [5e3, 3e5])),
        [1.0, 0.5],
        "x must be between 0 and 1, both excluded; got 1.0 in row 3, column 0",
    ),
    "von_mises": Case(
        jem.VonMises(),
        lambda m, k: stats.vonmises(k, m),
        ([1.5, -2], [0.7, 3]),
        (([1, 3], [0, 1e-4]), ([1, 3], [1e3, 1e5])),
        None,
        "",
    ),
    "exponential": Case(jem.Exponential(), lambda r: stats.expon(scale=1 / r), ([1.5, 8],), (([1e-6, 1e6],),), *POSITIVE),
    "rayleigh": Case(jem.Rayleigh(), lambda s: stats.rayleigh(scale=s), ([1.5, 8],), (([1e-6, 1e6],),), *POSITIVE),
    "dirichlet": Case(
        jem.Dirichlet(),
        Parts,
        ([1.5, 4, 0.8],),
        (([0.3, 0.2, 0.5],), ([1e5, 4e4, 3e5],)),
        [0.5, 0.2, 0.2],
        "x must be rows that sum to one; got .* in row 3",
    ),
    "von_mises_fisher": Case(
        jem.VonMisesFisher(),
        Unit,
        (AT, 3.0),
        ((AT, 1e-3), (AT, 1e4)),
        [0.5, 0.2, 0.2],
        "x must be rows of length one, .* in row 3",
    ),
}
MIDDLING = [name for name, case in CASES.items() if len(case.ordinary[0]) == 2 or name == "dirichlet"]

log_prob = jax.jit(lambda node, params, x: node.infer(params, x)[1])
init = jax.jit(lambda node, x, w: node.init(jax.random.key(0), x, w))
em_step = jax.jit(lambda node, params, x, w: node.maximize(params, node.expect(params, node.infer(params, x)[0], x, w)))


@jax.jit
def slope(node, at, params, x, w):
    """The gradient of Q at parameters, from statistics gathered at others."""
    stats = node.expect(params, node.infer(params, x)[0], x, w)
    return jax.grad(lambda z: node.expected_log_prob(unravel(node, z, at), stats, params))(ravel(node, at))


def record(case, values, dtype=float):
    """Parameters of a case."""
    return case.node.Params(*(jnp.asarray(v, dtype) for v in values))


def made(case, values, dtype=float):
    """Parameters and rows (N, D) that scipy drew from them, both of the dtype, in float64."""
    values = [np.asarray(v, dtype).astype(float) for v in values]
    twin = case.twin(*values)
    x = twin.rvs(size=(NUM, 2), random_state=1)
    tiny, top = np.finfo(np.float32).tiny, 1 - 2.0**-24
    x = np.clip(x, tiny, top) if case.twin is stats.beta else np.maximum(x, 1e-30) if "> 0" in case.message else x
    return values, np.asarray(x, dtype).astype(float), twin


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_density_is_scipys(case, x64):
    """At ordinary and extreme parameters: to rounding in float64; in float32 to what rounding of a narrow density's x does."""
    for values in (case.ordinary, *case.extremes):
        for dtype, eps in ((np.float64, 1e-10), (np.float32, 6e-6)):
            values, x, twin = made(case, values, dtype)
            params = record(case, values, dtype)
            want = twin.logpdf(x)
            want = want.sum(1) if want.ndim == 2 else want
            got = log_prob(case.node, params, jnp.asarray(x.T, dtype))
            assert got.dtype == dtype
            narrow = float(case.node.conditioning(params)) * len(x.T)
            atol = max(eps, 8 * jnp.finfo(dtype).eps * narrow) + 1e-15 * narrow**2  # scipy's own terms cancel
            np.testing.assert_allclose(got, want, rtol=eps, atol=atol)


def test_gradients_are_finite(case, x64):
    """Of the log-density, at every parameter and at what cannot be; that is minus infinity, and touches no other row."""
    for values in (case.ordinary, *case.extremes):
        values, x, _ = made(case, values)
        params = record(case, values)
        if case.never is not None:
            x[3] = case.never
        finite = np.arange(NUM) != (3 if case.never is not None else -1)
        got = np.asarray(log_prob(case.node, params, jnp.asarray(x.T)))
        assert np.isfinite(got[finite]).all() and (got[~finite] == -np.inf).all()
        w = jnp.ones(NUM)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(em_step(case.node, params, jnp.asarray(x.T), w)))
        assert np.isfinite(slope(case.node, params, params, jnp.asarray(x.T), w)).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_m_step_is_the_maximum(case, dtype, x64):
    """From wherever the statistics were gathered: no slope is left, and the parameters are those of the fit started there."""
    values, x, _ = made(case, case.ordinary, dtype)
    x, w = jnp.asarray(x.T, dtype), jnp.asarray(np.random.default_rng(0).uniform(0, 2, NUM), dtype)
    at = record(case, values, dtype)
    for away in (0.0, 0.3):
        old = unravel(case.node, ravel(case.node, at) + jnp.asarray(away, dtype), at)
        new = em_step(case.node, old, x, w)
        np.testing.assert_allclose(slope(case.node, new, old, x, w), 0, atol=2e3 * jnp.finfo(dtype).eps * NUM)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_narrow_data(case, dtype, x64):
    """The estimate has the digits that the data have: with parameters at the truth, it is within a few standard errors."""
    if not case.extremes[1:]:
        return
    values, x, _ = made(case, case.extremes[-1], dtype)
    params = record(case, values, dtype)
    for _ in range(3):
        params = em_step(case.node, params, jnp.asarray(x.T, dtype), jnp.ones(NUM, dtype))
    for name, got, want in zip(params._fields, params, values, strict=True):
        by = 1e-2 if name in ("loc", "mean_direction") or (name, type(case.node)) == ("scale", jem.Weibull) else 0.5
        np.testing.assert_allclose(got, want, rtol=by, atol=1e-2 if name in ("loc", "mean_direction") else 0)


ESTIMATES = {
    "gamma": lambda x: (lambda c, _, s: (c, 1 / s))(*stats.gamma.fit(x, floc=0)),
    "inverse_gamma": lambda x: (lambda c, _, s: (c, s))(*stats.invgamma.fit(x, floc=0)),
    "log_normal": lambda x: (lambda s, _, m: (np.log(m), s))(*stats.lognorm.fit(x, floc=0)),
    "weibull": lambda x: (lambda c, _, s: (s, c))(*stats.weibull_min.fit(x, floc=0)),
    "inverse_gaussian": lambda x: (lambda m, _, s: (m * s, s))(*stats.invgauss.fit(x, floc=0)),
    "beta": lambda x: stats.beta.fit(x, floc=0, fscale=1)[:2],
    "von_mises": lambda x: (lambda k, m, _: (m, k))(*stats.vonmises.fit(x, fscale=1)),
    "exponential": lambda x: (1 / stats.expon.fit(x, floc=0)[1],),
    "rayleigh": lambda x: (stats.rayleigh.fit(x, floc=0)[1],),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_are_scipys(name, x64):
    """Maximum likelihood, from a start of the data; rows of weight 0 say nothing, whatever they hold."""
    case = CASES[name]
    _, x, _ = made(case, case.ordinary)
    junk = np.where(np.arange(NUM) % 4 == 0, 1e3 * x.max(), x.T)
    w = jnp.where(jnp.arange(NUM) % 4 == 0, 0.0, 1.0)
    params = init(case.node, jnp.asarray(x.T), w)
    for _ in range(6 if name == "weibull" else 1):
        params = em_step(case.node, params, jnp.asarray(x.T if name == "beta" else junk), w)
    want = np.array([ESTIMATES[name](column) for column in x[np.arange(NUM) % 4 != 0].T])
    np.testing.assert_allclose(np.stack(params, -1), want, rtol=2e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_that_are_all_equal(case, dtype, x64):
    """The parameters stay finite, and are flagged where the density would shrink to a point; one row, and none, too."""
    values, x, _ = made(case, case.ordinary, dtype)
    x = jnp.asarray(np.repeat(x[:1], NUM, 0).T, dtype)
    for w in (np.ones(NUM), np.eye(NUM)[3], 1e-30 * np.eye(NUM)[3], np.zeros(NUM)):
        w = jnp.asarray(w, dtype)
        params = init(case.node, x, w)
        for _ in range(24):
            params = em_step(case.node, params, x, w)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
        assert np.isfinite(log_prob(case.node, params, x)).all()
    assert (case.node.degenerate(params, ()) > 0) == hasattr(case.node, "tightness")
    at = record(case, values, dtype)
    jax.tree.map(np.testing.assert_array_equal, em_step(case.node, at, x, w), at)


def test_draws_follow_the_density(case, x64):
    """In distribution, of each column; of unit vectors and proportions, in the mean of what the density is made of."""
    params = record(case, case.ordinary)
    x = np.asarray(jem.sample(case.node, jax.random.key(0), params, 2000)[1])
    twin = case.twin(*map(np.asarray, case.ordinary))
    if hasattr(twin, "cdf"):
        for d in range(2):
            own = [np.asarray(v)[d] for v in case.ordinary]
            column = own[0] + (x[:, d] - own[0] + np.pi) % (2 * np.pi) - np.pi if case.message == "" else x[:, d]
            assert stats.kstest(column, case.twin(*own).cdf).pvalue > 1e-3
    theirs = twin.rvs(size=(2000, 2), random_state=0)
    for t in (np.cos if case.message == "" else np.abs, np.square):
        ours, other = t(x).mean(0), t(theirs).mean(0)
        np.testing.assert_allclose(ours, other, atol=6 * t(theirs).std(0).max() / np.sqrt(1000))


def test_what_the_door_says(case):
    if case.never is None:
        return
    x = np.asarray(made(case, case.ordinary)[1])
    x[3] = case.never
    params = record(case, case.ordinary, np.float32)
    with pytest.raises(ValueError, match=f"{type(case.node).__name__}: {case.message}"):
        jem.log_prob(case.node, params, x.astype(np.float32))


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 4.0, 15.0, 49.0])
def test_bessel_functions(order, x64):
    """Beside scipy where it has digits, and as they are known where it has none."""
    k = np.r_[1e-6, 1e-3, 0.1, 0.99, 1.01, 5, 20, 100, 1e3, 1e6]
    value = special.ive(order, k)
    some = value > 1e-250
    log_of, gap_of = (jax.jit(lambda kappa, fn=fn: fn(order, kappa)) for fn in (log_bessel, bessel_gap))
    for dtype, eps in ((np.float64, 1e-13), (np.float32, 4e-6)):
        kappa = jnp.asarray(k, dtype)
        k = np.asarray(kappa, float)
        log = np.log(np.where(some, special.ive(order, k), 1)) - order * np.log(k)
        np.testing.assert_allclose(np.asarray(log_of(kappa))[some], log[some], rtol=eps, atol=eps)
        gap = np.asarray(gap_of(kappa), float)
        theirs = 1 - special.ive(order + 1, k) / np.where(some, value, 1)
        near = some & (k < 50)
        np.testing.assert_allclose(gap[near], theirs[near], rtol=200 * eps)
        np.testing.assert_allclose(gap[-1], (order + 0.5) / k[-1], rtol=1e-3)
        far = (order + 0.5) / k - (4 * order**2 - 1) / (8 * k * k)
        np.testing.assert_allclose(gap[-1], far[-1], rtol=eps + (order + 1) ** 3 / k[-1] ** 2)
    assert log_of(jnp.zeros(10))[0] == pytest.approx(-order * np.log(2) - special.gammaln(order + 1), rel=1e-13)


def test_gamma_functions(x64, dtype):
    """The gaps beside scipy, and the gap of a logarithm near and far from one."""
    a = np.asarray(np.r_[1e-6, 1e-3, 0.1, 1, 3, 7.99, 8, 12, 50, 1e3], dtype).astype(float)
    eps = jnp.finfo(dtype).eps
    np.testing.assert_allclose(
        log_gamma_gap(jnp.asarray(a, dtype)), a * np.log(a) - a - special.gammaln(a), atol=16 * eps + 1e-13, rtol=4 * eps
    )
    np.testing.assert_allclose(digamma_gap(jnp.asarray(a, dtype)), np.log(a) - special.digamma(a), rtol=32 * eps + 1e-12)
    u = np.asarray(np.r_[1e-20, 0.3, 0.9, 0.999, 1, 1.0001, 1.0999, 1.1001, 3, 1e10], dtype).astype(float)
    e = u - 1
    want = np.where(abs(e) < 1e-2, -(e**2) / 2 + e**3 / 3 - e**4 / 4 + e**5 / 5 - e**6 / 6, np.log(u) - e)
    np.testing.assert_allclose(log_gap(jnp.asarray(u, dtype), jnp.ones(10, dtype)), want, rtol=8 * eps)


def test_dirichlet_shape(x64, dtype):
    """From the expectations of a law: its parameters, small and large, whatever these refer to."""
    for a in ([0.01, 0.02], [1e-3, 5], [0.5, 300.0], [1e3, 5e3], [0.3, 0.2, 5, 80.0]):
        a = np.array(a)
        mean = a / a.sum()
        base = mean * np.exp(0.1 * np.cos(np.arange(len(a))))
        base = base / base.sum()
        away = mean / base - 1
        gap = special.digamma(a) - special.digamma(a.sum()) - np.log(base) - away
        got = jax.jit(dirichlet_shape)(*(jnp.asarray(v, dtype) for v in (base, away, gap)))
        np.testing.assert_allclose(got, a, rtol=1e-9 if dtype == "float64" else 1e-3)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *(("gamma", "concentration"), ("weibull", "concentration"), ("log_normal", "loc"), ("log_normal", "scale")),
        *(("inverse_gaussian", "loc"), ("von_mises", "loc"), ("von_mises", "concentration")),
    ],
)
def test_what_is_not_held_is_at_its_maximum(name, field, x64):
    """The slope of the likelihood vanishes along the other field, at a value of the held one that is not its maximum."""
    case = CASES[name]
    values, x, _ = made(case, case.ordinary)
    held = {field: 1.2 * getattr(record(case, values), field) + 0.1}
    node = jem.Frozen(case.node, **held)
    fit = jem.fit(node, jem.init(node, jax.random.key(0), x), x, stop=jem.stop.Remaining(1e-10)).check()
    np.testing.assert_allclose(getattr(fit.params, field), held[field], rtol=1e-12)
    slope = jax.grad(lambda p: jnp.sum(log_prob(case.node, p, x.T)))(fit.params)
    (other,) = set(fit.params._fields) - {field}
    np.testing.assert_allclose(getattr(slope, other), 0, atol=1e-3)
    assert float(jnp.min(jnp.abs(getattr(slope, field)))) > 0.1


def test_missing_cells(x64):
    """Each column is fitted to its own cells."""
    case = CASES["gamma"]
    x = np.array(made(case, case.ordinary)[1])
    x[np.random.default_rng(0).random(x.shape) < 0.2] = np.nan
    missing = jem.Missing(case.node)
    found = jem.fit(missing, jem.init(missing, jax.random.key(0), x), x).check().params
    for d in range(2):
        column = x[~np.isnan(x[:, d]), d : d + 1]
        alone = jem.fit(case.node, jax.tree.map(lambda p: p[d : d + 1], found), column).check().params
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_allclose(a[d], b[0], rtol=1e-4)


def test_a_box_beside_clusters(x64):
    """Noise is taken out of the clusters; the box is that of the data, or what is given."""
    gen = np.random.default_rng(0)
    x = np.r_[gen.standard_normal((100, 2)), gen.standard_normal((100, 2)) + 6, gen.uniform(-20, 30, (20, 2))]
    model = jem.Mixture(jem.OneOf(jem.Stack(jem.Gaussian(), 2), jem.Uniform()))
    found = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=4).best().check()
    clusters, box = found.params.components
    np.testing.assert_allclose(clusters.mean[np.argsort(clusters.mean[:, 0])], [[0, 0], [6, 6]], atol=0.4)
    np.testing.assert_array_equal(box.low, x.min(0))
    np.testing.assert_allclose(found.params.weights[2], 20 / 220, atol=0.03)
    assert jem.num_parameters(model, found.params) == 2 + 2 * 5
    given = jem.Uniform(low=-1.0, high=[3.0, 1.0])
    params = jem.init(given, jax.random.key(0), x)
    inside = stats.uniform(-1, 4).logpdf(x[:, 0]) + stats.uniform(-1, 2).logpdf(x[:, 1])
    np.testing.assert_allclose(jem.log_prob(given, params, x), inside, rtol=1e-12)
    drawn = jem.sample(given, jax.random.key(0), params, 500)[1]
    np.testing.assert_allclose(drawn.mean(0), [1, 0], atol=0.2)
    with pytest.raises(ValueError, match="low must be below high; got 3.0 and 1.0"):
        jem.init(jem.Uniform(low=3.0, high=1.0), jax.random.key(0), x)
    with pytest.raises(ValueError, match="one number or one a column"):
        jem.init(jem.Uniform(low=[0.0, 0.0, 0.0]), jax.random.key(0), x)

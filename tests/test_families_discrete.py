"""Families of counts: densities, M-steps, samplers, edges, doors, and reference fits."""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import gammaln, xlogy

import jem
from jem.kernels.counts import log_rising, tables

CASES = Path(__file__).parent / "cases"
NUM, TRIALS = 200, 30


class Law(NamedTuple):
    """A family, parameters of two kinds, scipy's log-density of rows, extreme parameters, and whether rows sum over columns."""

    node: Any
    params: Any
    log_prob: Any
    extremes: tuple
    rows: bool = False


def each(fn):
    """A density of cells, summed over the columns."""
    return lambda p, x: sum(fn(x[:, d], *(v[d] for v in p)) for d in range(x.shape[1]))


def log_rows(p, x):
    """Dirichlet-multinomial."""
    a, n = p.probs * p.concentration, x.sum(1)
    cells = gammaln(x + a) - gammaln(a) - gammaln(x + 1)
    s = a.sum()
    return cells.sum(1) + gammaln(n + 1) + gammaln(s) - gammaln(n + s)


B, G, N, M = jem.Binomial.Params, jem.Geometric.Params, jem.NegativeBinomial.Params, jem.Multinomial.Params
BB, DM = jem.BetaBinomial.Params, jem.DirichletMultinomial.Params
LAWS = {
    "binomial": Law(
        jem.Binomial(TRIALS),
        B(np.array([0.2, 0.6])),
        each(lambda x, p: stats.binom.logpmf(x, TRIALS, p)),
        (B(np.array([1e-7, 0.9999])), B(np.array([0.0, 1.0]))),
    ),
    "geometric": Law(
        jem.Geometric(),
        G(np.array([0.2, 0.6])),
        each(lambda x, p: stats.geom.logpmf(x + 1, p)),
        (G(np.array([1e-6, 0.9999])), G(np.array([0.5, 1.0]))),
    ),
    "negative_binomial": Law(
        jem.NegativeBinomial(),
        N(np.array([3.0, 12.0]), np.array([0.7, 5.0])),
        each(lambda x, m, r: gammaln(x + r) - gammaln(r) - gammaln(x + 1) - r * np.log1p(m / r) - x * np.log1p(r / m)),
        (N(np.array([1e-3, 1e4]), np.array([1e-3, 50.0])), N(np.array([5.0, 300.0]), np.array([1e-6, 15.999]))),
    ),
    "beta_binomial": Law(
        jem.BetaBinomial(TRIALS),
        BB(np.array([0.2, 0.6]), np.array([2.0, 6.0])),
        each(lambda x, p, s: stats.betabinom.logpmf(x, TRIALS, p * s, (1 - p) * s)),
        (BB(np.array([1e-3, 0.9]), np.array([1e-3, 100.0])), BB(np.array([0.5, 0.5]), np.array([1.0, 32.0]))),
    ),
    "multinomial": Law(
        jem.Multinomial(num_trials=TRIALS),
        M(np.array([0.3, 0.7])),
        lambda p, x: gammaln(x.sum(1) + 1) + (xlogy(x, p.probs) - gammaln(x + 1)).sum(1),
        (M(np.array([1e-6, 1 - 1e-6])), M(np.array([0.0, 1.0]))),
        rows=True,
    ),
    "dirichlet_multinomial": Law(
        jem.DirichletMultinomial(num_trials=TRIALS),
        DM(np.array([0.3, 0.7]), np.array(4.0)),
        log_rows,
        (DM(np.array([0.01, 0.99]), np.array(0.01)), DM(np.array([0.5, 0.5]), np.array(200.0))),
        rows=True,
    ),
}
EVERY = pytest.mark.parametrize("name", LAWS)


@jax.jit
def look(node, params, x, w):
    """All that is asked of a family at some parameters, in one program: x (2, NUM), w (NUM,).

    Log-densities, the M-step's parameters, Q before and after it, the slope of Q there, Q a little off, the score.
    """
    posterior, log_prob = node.infer(params, x)
    sums = node.expect(params, posterior, x, w)
    new = node.maximize(params, sums)
    free, back = jax.flatten_util.ravel_pytree(jem.unconstrain(node, new))
    q = lambda free: node.expected_log_prob(jem.constrain(node, back(free), new), sums, params)
    ways = 0.01 * jnp.concatenate([jnp.eye(len(free)), -jnp.eye(len(free))]).astype(free.dtype)
    around = jax.vmap(lambda way: q(free + way))(ways)
    z, there = jax.flatten_util.ravel_pytree(jem.unconstrain(node, params))
    used = lambda z: jnp.sum(jnp.where(w > 0, w * node.infer(jem.constrain(node, there(z), params), x)[1], 0))
    before = node.expected_log_prob(params, sums, params)
    return log_prob, new, (before, q(free), jax.grad(q)(free), around), jax.grad(used)(z)


def cast(params, dtype):
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), params)


@functools.cache
def draws(name):
    """4000 rows that the family draws itself; where it shares out totals, of 0 to 30 in the first and of 30 in the others."""
    law, params = LAWS[name], cast(LAWS[name].params, float)
    totals = np.where(np.arange(4000) < NUM, np.arange(4000) % (TRIALS + 1), TRIALS)
    like = jnp.asarray(np.stack([totals, 0 * totals]), float)
    return np.asarray(jax.jit(lambda key: law.node.sample_like(key, params, like)[1].T)(jax.random.key(1)), float)


def units(name, dtype=float):
    return jnp.asarray(draws(name)[:NUM].T, dtype)


@EVERY
def test_density(name, x64, dtype):
    """Beside scipy's, at ordinary and at extreme parameters."""
    law, x, w = LAWS[name], units(name, dtype), jnp.ones(NUM, dtype)
    for params in (law.params, *law.extremes):
        low = cast(params, dtype)
        exact = jax.tree.map(lambda a: np.asarray(a, float), low)
        with np.errstate(divide="ignore", invalid="ignore"):
            want = np.nan_to_num(law.log_prob(exact, draws(name)[:NUM]), nan=-np.inf, neginf=-np.inf)
        got = np.asarray(look(law.node, low, x, w)[0], float)
        some = np.isfinite(want)
        np.testing.assert_array_equal(got[~some], -np.inf)
        off = np.abs(got[some] - want[some]) / np.maximum(1, np.abs(want[some]))
        assert off.max(initial=0) < (1e-10 if dtype == "float64" else 1.5e-5), (params, off.max())


@EVERY
def test_m_step_is_the_maximum(name, x64):
    """Q is flat and lower around there, no step falls, and where they end the log-likelihood is flat."""
    law, x, w = LAWS[name], units(name), jnp.asarray(np.arange(NUM) % 3, float)
    new = cast(type(law.params)(*(v[::-1] if np.ndim(v) else v for v in law.params)), float)  # of the other column
    last = -np.inf
    for step in range(300):
        log_prob, new, (before, after, slope, around), score = look(law.node, new, x, w)
        if step == 0:
            np.testing.assert_allclose(slope, 0, atol=1e-8 * NUM)
            assert before < after and (around < after).all()
            assert float(before) == pytest.approx(float(log_prob @ w), rel=1e-12)
        assert log_prob @ w > last - 1e-9
        last = log_prob @ w
    np.testing.assert_allclose(score, 0, atol=1e-6 * NUM)


@EVERY
def test_sampler(name, x64):
    """Draws have the density's mean and deviation."""
    law, params = LAWS[name], cast(LAWS[name].params, float)
    if law.rows:
        grid = np.minimum(np.arange(NUM), TRIALS)[:, None] * [1, -1] + [0, TRIALS]
        some, p = np.arange(NUM) <= TRIALS, params
    else:  # of the first column: the other one has it too, and is its own
        largest = TRIALS if hasattr(law.node, "num_trials") else NUM - 1
        grid, some = np.stack([np.arange(NUM), np.zeros(NUM)], 1), np.arange(NUM) <= largest
        p = jax.tree.map(lambda v: jnp.stack([v[0], v[0]]), params)
    prob = np.where(some, np.exp(look(law.node, p, jnp.asarray(grid.T, float), jnp.ones(NUM))[0]), 0)
    prob = prob / (1 if law.rows else prob[0] ** 0.5)
    assert prob.sum() == pytest.approx(1, abs=1e-9)
    mean = prob @ grid[:, 0]
    deviation = np.sqrt(prob @ (grid[:, 0] - mean) ** 2)
    drawn = draws(name)[NUM:, 0]
    assert abs(drawn.mean() - mean) < 5 * deviation / np.sqrt(len(drawn))
    assert drawn.std() == pytest.approx(deviation, rel=0.12)


@EVERY
def test_weights(name, x64):
    """Whole ones repeat rows, and 0 removes whatever is there; without any the parameters stay."""
    law, params, x = LAWS[name], cast(LAWS[name].params, float), draws(name)[:NUM].copy()
    w = np.arange(NUM) % 2 * 2
    once, twice = x.copy(), np.repeat(x[w > 0], 2, axis=0)
    once[w == 0] = np.array([np.nan, -1.0])
    with_weights = look(law.node, params, jnp.asarray(once.T), jnp.asarray(w, float))[1]
    repeated = look(law.node, params, jnp.asarray(twice.T), jnp.ones(NUM))[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), with_weights, repeated)
    nothing = look(law.node, params, jnp.asarray(once.T), jnp.zeros(NUM))[1]
    jax.tree.map(np.testing.assert_array_equal, nothing, params)


@EVERY
def test_what_cannot_be(name, x64, dtype):
    """Minus infinity under jit, with the other rows' slopes finite."""
    law, bad = LAWS[name], np.array([np.nan, np.inf, -np.inf, -1.0, 0.5])
    x = units(name, dtype).at[0, :5].set(jnp.asarray(bad, dtype))
    log_prob, new, _, score = look(law.node, cast(law.params, dtype), x, jnp.asarray(np.arange(NUM) >= 5, dtype))
    assert (log_prob[:5] == -jnp.inf).all() and jnp.isfinite(log_prob[5:]).all()
    assert all(np.isfinite(leaf).all() for leaf in (score, *jax.tree.leaves(new)))
    edges = law.extremes[-1]
    assert np.isfinite(look(law.node, cast(edges, dtype), x, jnp.asarray(np.arange(NUM) == 5, dtype))[3]).all()


@EVERY
def test_doors(name):
    """Errors name the family, what was expected, and where the first bad value is."""
    node, x = LAWS[name].node, np.ones((3, 2), np.float32)
    for value in (-1.0, 0.5):
        x[2, 0] = value
        with pytest.raises(ValueError, match=rf"{type(node).__name__}: x must hold integers.*got {value} in row 2, column 0"):
            node.validate(jnp.asarray(x))
    with pytest.raises(ValueError, match=f"{type(node).__name__}: x must have rows"):
        node.validate(jnp.ones(3))


@EVERY
def test_all_rows_alike(name, x64):
    """In float32, zeros, or all as large as can be: finite, and no size beyond the largest."""
    law, w = LAWS[name], jnp.ones(NUM, "float32")
    for value in (0.0, float(TRIALS), 7.0):
        x, params = jnp.full((2, NUM), value, "float32"), cast(law.params, "float32")
        for _ in range(60):
            log_prob, params, *_ = look(law.node, params, x, w)
        assert all(np.isfinite(leaf).all() for leaf in (log_prob, *jax.tree.leaves(params)))
        for field in ("size", "concentration"):
            found = getattr(params, field, 1.0)
            assert np.max(found) <= 1.001e8
            if value == 7 and hasattr(params, field):
                assert (found > getattr(law.params, field)).all()


def test_a_fit_to_rows_alike():
    """Counts that vary less than a Poisson law's: the size ends at its bound, with a status that a fit may have."""
    x = np.full((NUM, 1), 7, np.float32)
    fit = jem.fit(jem.NegativeBinomial(), jem.init(jem.NegativeBinomial(), jax.random.key(0), x), x)
    assert fit.status in (jem.Status.CONVERGED, jem.Status.DEGENERATE)
    assert 1e4 < fit.params.size[0] <= 1.001e8
    assert float(fit.log_likelihood) == pytest.approx(NUM * stats.poisson.logpmf(7, 7), rel=1e-4)


def test_trials(x64):
    """One a column; what is more, or of another shape, is said."""
    node, p = jem.Binomial(np.array([3, 400])), B(jnp.array([0.2, 0.6]))
    x = np.array([[0, 250], [3, 239]])
    np.testing.assert_allclose(
        jem.log_prob(node, p, x), stats.binom.logpmf(x, np.array([3, 400]), np.array([0.2, 0.6])).sum(1), rtol=1e-11
    )
    for family in (jem.Binomial, jem.BetaBinomial):
        params = jem.init(family(400), jax.random.key(0), x)
        with pytest.raises(ValueError, match=rf"{family.__name__}: x must be at most num_trials; got 250 in row 0, column 1"):
            jem.log_prob(family(30), params, x)
        with pytest.raises(ValueError, match=r"num_trials must be one number or one a column, \(2,\); got \(3,\)"):
            jem.log_prob(family(np.array([400, 400, 400])), params, x)
        with pytest.raises(ValueError, match="num_trials must be whole; got 2.5"):
            family(2.5)
    assert jem.log_prob(jem.Binomial(3), p, jnp.array([[0.0, 1.0]])).shape == (1,)
    inside = jax.jit(lambda x: jem.log_prob(jem.Binomial(3), p, x))(jnp.array([[4.0, 1.0]]))
    assert inside[0] == -jnp.inf


def test_numbers_of_groups(x64, dtype):
    """Sums of `size / (size + j)`, the rest of x, and of `log(1 + j / size)`, over sizes from next to nothing to huge."""
    x = np.array([0, 1, 2, 15, 16, 40, 3000])
    size = np.array([1e-6, 1e-2, 1.0, 15.9, 16.1, 200.0, 1e5, 1e8])
    j = np.arange(3000)
    terms = lambda fn: np.stack([np.where(j < n, fn(j / size[:, None]), 0).sum(1) for n in x], 1)
    args = jnp.asarray(x, dtype)[None], jnp.asarray(size, dtype)[:, None]
    groups, rest = tables(*args)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(groups, terms(lambda r: 1 / (1 + r)), rtol=400 * eps)
    np.testing.assert_allclose(rest, terms(lambda r: r / (1 + r)), rtol=400 * eps, atol=400 * eps)
    np.testing.assert_allclose(log_rising(*args), terms(np.log1p), rtol=400 * eps, atol=400 * eps)


def test_binomial_estimate_and_prior(x64):
    """The share of successes, with those of the prior; of waiting times the same."""
    x = draws("binomial")[:NUM]
    new = jem.em_step(jem.Binomial(TRIALS, concentration=3.0), B(jnp.array([0.5, 0.5])), x)[0].probs
    np.testing.assert_allclose(new, (x.sum(0) + 2) / (NUM * TRIALS + 4), rtol=1e-12)
    x = draws("geometric")[:NUM]
    new = jem.em_step(jem.Geometric(), G(jnp.array([0.5, 0.5])), x)[0].probs
    np.testing.assert_allclose(new, 1 / (1 + x.mean(0)), rtol=1e-12)
    x = draws("multinomial")[:NUM]
    new = jem.em_step(jem.Multinomial(concentration=2.0), M(jnp.array([0.5, 0.5])), x)[0].probs
    np.testing.assert_allclose(new, (x.sum(0) + 1) / (x.sum() + 2), rtol=1e-12)


def test_held_fields(x64):
    """With the size held the mean is the data's; with the mean held the size is where the log-likelihood is flat."""
    x = draws("negative_binomial")[:NUM]
    start = N(jnp.array([2.0, 9.0]), jnp.array([2.0, 2.0]))
    held = jem.fit(jem.Frozen(jem.NegativeBinomial(), "size"), start, x).check().params
    np.testing.assert_allclose(held.mean, x.mean(0), rtol=1e-6)
    np.testing.assert_array_equal(held.size, start.size)
    model = jem.Frozen(jem.NegativeBinomial(), "mean")
    size = jem.fit(model, start, x, stop=jem.stop.Remaining(1e-10)).check().params.size
    for d in range(2):
        fn = lambda z: -float(LAWS["negative_binomial"].log_prob((start.mean[d : d + 1], np.exp([z])), x[:, d : d + 1]).sum())
        assert np.log(size[d]) == pytest.approx(optimize.minimize_scalar(fn, (-1, 1)).x, abs=1e-4)


def case(name):
    return json.loads((CASES / f"{name}.json").read_text())


def check(found, name, value):
    want = found["expected"][name]
    np.testing.assert_allclose(value, want["value"], rtol=want.get("rtol", 0), atol=want["atol"], err_msg=name)


CLOSE = jem.stop.Remaining(1e-10)


def test_mites(x64):
    """Bliss and Fisher (1953): leaves by their number of mites."""
    found, x = case("negbin_mites"), np.arange(8.0)[:, None]
    w = np.array(found["data"]["counts"], float)
    node = jem.NegativeBinomial()
    fit = jem.fit(node, jem.init(node, jax.random.key(0), x, weights=w), x, weights=w, stop=CLOSE).check()
    errors = jem.standard_errors(node, fit.params, x, weights=w).check().errors
    check(found, "loglik", fit.log_likelihood)
    check(found, "mean", fit.params.mean[0])
    check(found, "k", fit.params.size[0])
    check(found, "standard_errors", [errors.mean[0], errors.size[0]])


def test_litters(x64):
    """Moore and Tsiatis (1991): deaths and survivors of litters of several sizes, as two columns."""
    found = case("beta_binomial_lirat")
    died, born = (np.array(found["data"][c], float) for c in "RN")
    x, node = np.stack([died, born - died], 1), jem.DirichletMultinomial()
    fit = jem.fit(node, jem.init(node, jax.random.key(0), x), x, stop=CLOSE).check()
    check(found, "common_loglik", fit.log_likelihood)
    check(found, "common_mu", fit.params.probs[0])
    check(found, "common_rho", 1 / (1 + fit.params.concentration))
    check(found, "common_alpha_beta", fit.params.alpha)


def test_zero_inflation(x64):
    """Long (1990): the point and a Poisson law have the direct maximum, its errors, draws, and no restart that misses it."""
    found = case("zip_biochemists")
    x = np.array(found["data"]["art"], float)[:, None]
    model = jem.Mixture(jem.OneOf(jem.Point(0.0), jem.Poisson()))
    fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=4, stop=CLOSE).check()
    np.testing.assert_allclose(fits.log_likelihood, found["expected"]["const_loglik"]["value"], atol=1e-5)
    p = fits.best().params
    (point, rest), rate = p.weights, p.components[1].rate[0]
    check(found, "const_coef", [np.log(rate), np.log(point / rest)])
    assert jem.num_parameters(model, p) == 2

    def log_likelihood(z):
        q, r = jax.nn.sigmoid(z[0]), jnp.exp(z[1])
        return jnp.sum(jnp.where(x == 0, jnp.log(q + (1 - q) * jnp.exp(-r)), jnp.log1p(-q) + x * jnp.log(r) - r))

    direct = np.linalg.inv(-jax.hessian(log_likelihood)(jnp.stack([jnp.log(point / rest), jnp.log(rate)])))
    errors = jem.standard_errors(model, p, x).check().errors
    np.testing.assert_allclose(errors.weights, point * rest * np.sqrt(direct[0, 0]), rtol=1e-4)
    np.testing.assert_allclose(errors.components[1].rate, rate * np.sqrt(direct[1, 1]), rtol=1e-4)
    assert errors.components[0].value.shape == (1,) and not np.any(errors.components[0].value)
    drawn = jem.sample(model, jax.random.key(1), p, 4000)[1]
    assert jnp.mean(drawn == 0) == pytest.approx(np.mean(x == 0), abs=0.03)
    inside = jax.jit(lambda x: jem.log_prob(model, p, x))(jnp.array([[0.0], [2.0], [-1.0]]))
    assert jnp.isfinite(inside[:2]).all() and inside[2] == -jnp.inf


def test_point():
    """All or nothing, of whole rows; a value a column."""
    node, x = jem.Point(np.array([1.0, 2.0])), jnp.array([[1.0, 2.0], [1.0, 3.0]])
    p = jem.init(node, jax.random.key(0), x)
    np.testing.assert_array_equal(jem.log_prob(node, p, x), [0, -np.inf])
    np.testing.assert_array_equal(jem.sample(node, jax.random.key(0), p, 2)[1], [[1, 2], [1, 2]])
    with pytest.raises(ValueError, match=r"Point: value must be one number or one a column, \(3,\); got \(2,\)"):
        jem.log_prob(node, p, np.ones((2, 3)))


@pytest.mark.parametrize("name", ["negative_binomial", "beta_binomial"])
def test_missing_cells(name, x64):
    """A unit's density is that of the cells that are seen, and each column's step is that of its own rows."""
    law, x = LAWS[name], draws(name)[:NUM]
    params, holed = cast(law.params, float), np.where(np.arange(2 * NUM).reshape(NUM, 2) % 5 == 0, np.nan, draws(name)[:NUM])
    missing, seen = jem.Missing(law.node), np.isfinite(holed)
    step, want = jem.em_step(missing, params, holed)[0], np.zeros(NUM)
    for d in range(2):
        one = jax.tree.map(lambda p, d=d: p[d : d + 1], params)
        want[seen[:, d]] += jem.log_prob(law.node, one, x[seen[:, d], d : d + 1])
        own = jem.em_step(law.node, one, x[seen[:, d], d : d + 1])[0]
        jax.tree.map(lambda a, b, d=d: np.testing.assert_allclose(a[d], b[0], rtol=1e-12), step, own)
    np.testing.assert_allclose(jem.log_prob(missing, params, holed), want, rtol=1e-12)

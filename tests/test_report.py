"""What a fit says of itself when it is printed or explained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem

X = jem.datasets.old_faithful()
MODEL = jem.Mixture(jem.Gaussian(), 2)
pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(scope="module")
def fits():
    """Six lanes, three of which were not allowed to finish."""
    with jax.enable_x64(True):
        found = jem.fit_restarts(MODEL, jax.random.key(0), X, num_restarts=6)
        return found._replace(status=found.status.at[3:].set(jnp.array([1, 1, 2], found.status.dtype)))


def test_a_status_is_looked_up_by_an_array():
    for code in (jnp.int32(4), np.int32(4), 4):
        assert jem.Status(code) is jem.Status.DEGENERATE
    for wrong in (jnp.int32(99), 99, "4", None):
        with pytest.raises(ValueError, match="is not a valid Status"):
            jem.Status(wrong)


def test_one_fit(fits):
    """Its status in words, figures, and covariances in place of whitenings."""
    printed = str(fits.best())
    assert printed.startswith("CONVERGED after") and "the stopping rule was met" in printed
    assert "-1130.26396" in printed and "nats" in printed and "whitening" not in printed
    covariance = np.round(np.asarray(fits.best().params.components.covariance), 4)
    assert f"{covariance[0, 0, 0]:.2f}" in printed and "components.covariance" in printed


def test_restarts(fits):
    """Distinct optima, with the lanes that found them, and all who found none."""
    found = fits.optima()
    assert len(found.rows) == fits.num_optima() == 1
    assert found.rows[0].num_lanes == 3 and found.rows[0].objective == float(fits.objective[:3].max())
    assert found.others == {jem.Status.MAX_STEPS: 2, jem.Status.NONFINITE: 1}
    printed = str(fits)
    assert "6 restarts" in printed and "2 of the lanes ended as MAX_STEPS" in printed and "components.mean" in printed
    none = fits._replace(status=jnp.full(6, 1))
    assert not none.optima().rows and "no lane converged" in str(none)


def test_optima_are_in_order():
    """Of several, the highest is the first, and lanes add up."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(m, 0.5, (25, 1)) for m in (0, 4, 8, 12)])
    model = jem.Mixture(jem.Gaussian(jem.covariance.Spherical()), 3, seeding=jem.starts.RandomResponsibilities())
    many = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=32)
    rows = many.optima().rows
    assert len(rows) > 1 and sum(row.num_lanes for row in rows) == int(many.converged.sum())
    assert [row.objective for row in rows] == sorted((row.objective for row in rows), reverse=True)
    assert all(float(many.objective[row.lane]) == row.objective for row in rows)


def test_inside_jit(fits):
    """There are no values to speak of: the record as it is."""
    seen = []
    jax.jit(lambda fit: (seen.append(str(fit)), fit.objective)[1])(fits)
    assert seen[0].startswith("Fit(")


def test_causes():
    """What is degenerate, by its cause."""
    same = jem.fit(jem.Gaussian(), jem.init(jem.Gaussian(), jax.random.key(0), np.ones((20, 2))), np.ones((20, 2)))
    assert "DEGENERATE" in str(same) and "variance" in str(same).partition("\n")[0]
    short = jem.fit(MODEL, jem.init(MODEL, jax.random.key(0), X), X, max_steps=1)
    assert "MAX_STEPS after 1 steps" in str(short)


def test_explained(fits):
    """Restarts, members, and what is too small to be described."""
    with jax.enable_x64(True):
        words = jem.explain(MODEL, fits, X)
        assert "3 of 6 restarts found the best optimum" in words and "2 ended as MAX_STEPS." in words
        assert "of 272." in words and "standard errors" in words
        tiny = jem.explain(MODEL, fits.best(), X[:6])
        assert "Fewer members than" in tiny
        alone = jem.explain(jem.Poisson(), jem.fit(jem.Poisson(), jem.Poisson.Params(jnp.ones(1)), [[1], [4]]), [[1], [4]])
        assert "CONVERGED" in alone and "Members" not in alone
    with pytest.raises(ValueError, match="x"):
        jem.explain(MODEL, fits, X[:, 0])


def test_a_saddle_is_no_maximum():
    """Components that begin alike stay alike, and say CONVERGED; what is explained looks at the curvature."""
    coins, x = jem.Mixture(jem.Binomial(10), 2), jnp.array([[5.0], [9], [8], [4], [7]])
    words = [
        jem.explain(coins, jem.fit(coins, jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Binomial.Params(probs)), x), x)
        for probs in (jnp.array([[0.6], [0.6]]), jnp.array([[0.6], [0.5]]))
    ]
    assert "CONVERGED" in words[0] and "saddle" in words[0] and "standard errors" not in words[0]
    assert "CONVERGED" in words[1] and "saddle" not in words[1] and "standard errors" in words[1]


def test_what_the_data_do_not_tell_apart(x64):
    """Two coins of one toss each are one; loadings that may be turned are a convention and nothing is said of them."""
    coins, x = jem.Mixture(jem.Bernoulli(), 2), jnp.array([[0.0], [1], [1]])
    probs = jem.Bernoulli.Params(jnp.array([[0.3], [0.8]]))
    words = jem.explain(coins, jem.fit(coins, jem.Mixture.Params(jnp.array([0.5, 0.5]), probs), x), x)
    assert "2 of their directions change nothing" in words and "saddle" not in words
    factors, y = jem.FactorAnalysis(2), jem.datasets.iris()[0] @ np.random.default_rng(0).normal(size=(4, 6))
    y = y + np.random.default_rng(1).normal(size=y.shape)
    fit = jem.fit(factors, jem.init(factors, jax.random.key(0), y), y)
    assert "change nothing" not in jem.explain(factors, fit, y) and "saddle" not in jem.explain(factors, fit, y)

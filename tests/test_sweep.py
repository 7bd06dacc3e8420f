"""Numbers of components in one program: as the fits of each model alone; what is counted; cross-validation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_compile import Counter

import jem
from jem.ask import together
from jem.doors.fit import _fit_restarts

rng = np.random.default_rng(0)
X = np.r_[rng.standard_normal((60, 2)) * [1, 0.5] - 3, rng.standard_normal((90, 2)) * [0.7, 1] + 2]
SERIES = rng.poisson(np.where(np.cumsum(rng.random((20, 12, 1)) < 0.2, 1) % 2, 8.0, 2.0))
NUM = 4


def of(size):
    return {f"K={k}": jem.Mixture(jem.Gaussian(), k) for k in range(1, size + 1)}


def again(models, fits, x, **options):
    """Every lane ends where the model alone ends from there: nothing is left to climb."""
    for name, model in models.items():
        best = fits[name].best()
        more = jem.fit(model, best.params, x, **options)
        assert jax.tree.map(jnp.shape, best.params) == jax.tree.map(jnp.shape, more.params)
        np.testing.assert_allclose(best.log_likelihood, jnp.sum(jem.log_prob(model, best.params, x)), rtol=1e-9)
        if best.converged:
            assert float(more.objective - best.objective) < 2e-3


def test_mixtures_of_one_to_four_components(x64):
    models = of(4)
    table = jem.sweep(models, jax.random.key(0), X, num_restarts=NUM)
    assert table.best() == "K=2" and [row.status for row in table.rows][:2] == [jem.Status.CONVERGED] * 2
    again(models, table.fits, X)
    alone = jem.fit(models["K=1"], jem.init(models["K=1"], jax.random.key(0), X), X)
    np.testing.assert_allclose(table.fits["K=1"].log_likelihood, alone.log_likelihood, rtol=1e-9)
    likelihoods = [row.log_likelihood for row in table.rows]
    assert likelihoods == sorted(likelihoods)
    for row in table.rows:
        found = table.fits[row.name]
        assert (row.num_best, row.num_optima) == (found.optima().rows[0].num_lanes, found.num_optima())
        assert row.num_failed == int(np.sum(np.asarray(found.status) != 0)) and found.status.shape == (NUM,)


def test_one_program(x64):
    """A sweep over K compiles one fit, and a second one nothing; weights and restarts are values."""
    _fit_restarts.clear_cache()
    jem.sweep(of(3), jax.random.key(0), X, num_restarts=NUM, max_steps=20)
    with Counter() as counter:
        jem.sweep(of(3), jax.random.key(1), X + 1, num_restarts=NUM, max_steps=20)
    assert counter.count == 0 and _fit_restarts._cache_size() == 1


def test_chains(x64):
    models = {f"{k} states": jem.HMM(jem.Poisson(), k) for k in (2, 3)}
    table = jem.sweep(models, jax.random.key(0), SERIES, num_restarts=NUM)
    again(models, table.fits, SERIES)
    assert table.best() == "2 states"
    for name, k in (("2 states", 2), ("3 states", 3)):
        probs = table.fits[name].best().params.transition.probs
        np.testing.assert_allclose(probs.sum(1), np.ones(k), rtol=1e-9)
        assert [row.num_parameters for row in table.rows if row.name == name] == [k * k - 1 + k]


def test_what_a_door_refuses_is_refused_here():
    """What is held without being given, no restarts, no key; a row of weight 0 may hold anything."""
    held = {f"{k}": jem.Mixture(jem.Frozen(jem.Gaussian(), "mean"), k) for k in (1, 2)}
    with pytest.raises(ValueError, match="at a random start"):
        jem.sweep(held, jax.random.key(0), X, num_restarts=2)
    with pytest.raises(ValueError, match="num_restarts"):
        jem.sweep(of(2), jax.random.key(0), X, num_restarts=0)
    with pytest.raises((TypeError, ValueError), match="key"):
        jem.cross_validate(jem.Gaussian(), 0, X, num_folds=2, num_restarts=1)
    weights = np.ones(len(X))
    weights[:3] = 0
    rest = jem.cross_validate(jem.Gaussian(), jax.random.key(0), np.r_[np.full((3, 2), np.nan), X[3:]], num_folds=2,
                              num_restarts=1, weights=weights)  # fmt: skip
    assert np.isfinite(rest.total)


def test_what_goes_together():
    """What a number of components cannot be a value of has a program of its own."""
    models = {
        **{f"full {k}": jem.Mixture(jem.Gaussian(), k) for k in (1, 2)},
        **{f"diagonal {k}": jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), k) for k in (1, 2)},
        "prior": jem.Mixture(jem.Gaussian(), 3, concentration=2.0),
        "tied": jem.Mixture(jem.Tied(jem.Gaussian(), 2, "whitening")),
        "strong": jem.Mixture(jem.Gaussian(prior=jem.priors.InverseWishart(5.0)), 2),
        "family": jem.Gaussian(),
    }
    want = [["full 1", "full 2"], ["diagonal 1", "diagonal 2"], ["prior"], ["tied"], ["strong"], ["family"]]
    assert sorted(together.alike(models, X)) == sorted(want)
    labelled = jem.Labelled(X, np.full(len(X), -1))
    assert all(len(names) == 1 for names in together.alike(models, labelled))


def test_a_component_that_runs_away_is_named(x64):
    """A cause that names a leaf names it as the model alone does; the lanes of the other model are not touched."""
    x = np.r_[np.zeros(30), np.ones(3)][:, None] + 1e-3 * np.arange(33)[:, None] % 7
    models = {f"{k}": jem.Mixture(jem.NegativeBinomial(), k) for k in (1, 2)}
    counts = np.round(20 * x)
    table = jem.sweep(models, jax.random.key(0), counts, num_restarts=2)
    for name, model in models.items():
        alone = jem.fit_restarts(model, jax.random.key(0), counts, num_restarts=2)
        assert str(jem.Status(int(table.fits[name].best().status))) == str(jem.Status(int(alone.best().status)))


def test_cross_validation(x64):
    """The sum over folds of what each fit says of the rows it has not seen; two components rather than one."""
    one, two = (
        jem.cross_validate(jem.Mixture(jem.Gaussian(), k), jax.random.key(0), X, num_folds=3, num_restarts=2) for k in (1, 2)
    )
    assert two.total > one.total + 50 and two.log_likelihood.shape == (3,)
    np.testing.assert_allclose(two.total, two.log_likelihood.sum())
    fold = np.asarray(jax.random.permutation(jax.random.split(jax.random.key(0), 4)[0], len(X))) % 3
    rest = X[fold != 0]
    gaussian = jem.fit(jem.Gaussian(), jem.init(jem.Gaussian(), jax.random.key(0), rest), rest).params
    want = jnp.sum(jem.log_prob(jem.Gaussian(), gaussian, X[fold == 0]))
    np.testing.assert_allclose(one.log_likelihood[0], want, rtol=1e-4)
    assert 0 < one.standard_error < abs(one.total)
    for num, message in ((1, "num_folds"), (200, "at most the number of rows")):
        with pytest.raises(ValueError, match=message):
            jem.cross_validate(jem.Gaussian(), jax.random.key(0), X, num_folds=num, num_restarts=1)
    with pytest.raises(ValueError, match="independent"):
        jem.cross_validate(jem.HMM(jem.Poisson(), 2), jax.random.key(0), SERIES[:1], num_folds=2, num_restarts=1)

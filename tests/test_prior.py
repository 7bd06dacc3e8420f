"""No prior by default; what is degenerate and why; rounding of an ill-conditioned whitening; covariances as they are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem import Status
from jem.node import EMPTY, HELD

rng = np.random.default_rng(0)
a, b = rng.standard_normal((2, 200))
SINGULAR = {
    "a sum": np.stack([a, b, a + b], 1),
    "shares": rng.dirichlet(np.ones(3), 200),
    "an offset": np.stack([1e3 + a, b, 2 * a + 5 * b + 100], 1),
    "a constant": np.stack([a, b, 0 * a + 3], 1),
    "one hides": np.stack([a, b, 1e3 * a], 1),
}
KINDS = {"one": jem.Gaussian(), "student t": jem.StudentT(), "two": jem.Mixture(jem.Gaussian(), 2)}


@pytest.mark.parametrize("kind", KINDS)
def test_singular_data_are_degenerate(kind, dtype):
    """However the columns depend, the likelihood has no maximum; the control has one."""
    run = lambda x: jem.fit_restarts(KINDS[kind], jax.random.key(0), jnp.asarray(x, dtype), num_restarts=2, max_steps=400)
    for name, x in SINGULAR.items():
        fits = run(x)
        assert (fits.status == Status.DEGENERATE).all() and ((fits.cause & HELD) == HELD).all(), name
        assert np.isfinite(fits.objective).all()
    with pytest.raises(jem.FitError, match=r"DEGENERATE: more than half .*\[restarts 0, 1; 2 of 2\]"):
        fits.check()
    sound = run(np.stack([a, b, a + b + 0.01 * rng.standard_normal(200)], 1))
    assert not (sound.status == Status.DEGENERATE).any() and (sound.cause == 0).all()


def test_fewer_rows_than_columns(dtype):
    x = jnp.asarray(np.random.default_rng(1).standard_normal((12, 16)), dtype)
    fits = jem.fit_restarts(jem.Gaussian(), jax.random.key(0), x, num_restarts=1)
    assert fits.status[0] == Status.DEGENERATE and fits.cause[0] == HELD
    chosen = jem.Gaussian(prior=jem.priors.InverseWishart(4.0))
    assert jem.fit_restarts(chosen, jax.random.key(0), x, num_restarts=1).converged.all()


@pytest.mark.parametrize("noise", [1e-3, 1e-4])
def test_the_default_moves_nothing_that_is_tight(noise, x64):
    """The variance of a difference is the sample's, with neither a bias nor a fall that is only rounding."""
    for seed in range(20 if noise < 1e-3 else 4):
        z, e = np.random.default_rng(seed).standard_normal((2, 100))
        x = np.stack([z, z + noise * e], 1)
        fit = jem.fit_restarts(jem.Gaussian(), jax.random.key(seed), x, num_restarts=1).best()
        assert fit.status == Status.CONVERGED, seed
        c = fit.params.covariance
        np.testing.assert_allclose(c[0, 0] + c[1, 1] - 2 * c[0, 1], (x[:, 1] - x[:, 0]).var(), rtol=1e-5)


@pytest.mark.parametrize(
    "covariance",
    [jem.covariance.Full(), jem.covariance.Diagonal(), jem.covariance.Spherical()],
    ids=["full", "diagonal", "spherical"],
)
def test_the_default_moves_nothing_that_is_far(covariance, x64):
    """Two clusters of 500 rows, up to 10^7 deviations apart: each has its own variance."""
    z = 0.3 * np.random.default_rng(2).standard_normal((2, 500, 2))
    for apart in (210.0, 3e6):
        model = jem.Mixture(jem.Gaussian(covariance), 2)
        x = np.concatenate([z[0], z[1] + [apart, 0]])
        fit = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=2).best().check()
        p = fit.params.components
        got = np.asarray(p.covariance)[np.argsort(p.mean[:, 0])].trace(axis1=1, axis2=2)
        np.testing.assert_allclose(got, z.var(1).sum(-1), rtol=1e-3 * (2 / 500) ** 0.5)


def test_a_prior_that_was_chosen_is_no_degeneracy():
    x = np.random.default_rng(3).standard_normal((40, 2)) + 6 * (np.arange(40) % 2)[:, None]
    for strength in (1e-3, 8.0, 100.0):
        model = jem.Mixture(jem.Gaussian(prior=jem.priors.InverseWishart(strength)), 2)
        fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=2)
        assert fits.converged.all() and (fits.cause == 0).all()


def test_a_collapsed_lane_does_not_win():
    """A spike is higher than any answer."""
    x = jnp.asarray(np.random.default_rng(4).standard_normal((60, 1)))
    model = jem.Mixture(jem.Gaussian(), 2)
    family = jem.Gaussian()
    pair = lambda *p: jem.Mixture.Params(jnp.ones(2) / 2, jax.tree.map(lambda *s: jnp.stack(s), *p))
    spike = pair(family.params(x[0], [[1e-6]]), family.params([0.0], [[1.0]]))
    sound = pair(family.params([-1.0], [[1.0]]), family.params([1.0], [[1.0]]))
    fits = jax.vmap(lambda p: jem.fit(model, p, x, max_steps=3000))(jax.tree.map(lambda *s: jnp.stack(s), spike, sound))
    assert fits.status[0] == Status.DEGENERATE and fits.objective[0] > fits.objective[1]
    assert fits.best().cause == 0


def test_every_cause_has_its_text():
    """Empty and held up are told apart, and neither asks for what would not help."""
    x = np.random.default_rng(5).standard_normal((50, 2)).astype(np.float32)
    g = jem.Gaussian()
    far = jax.tree.map(lambda *p: jnp.stack(p), g.params([0.0, 0.0], np.eye(2)), g.params([1e4, 1e4], np.eye(2)))
    fit = jem.fit(jem.Mixture(g, 2), jem.Mixture.Params(jnp.ones(2) / 2, far), x)
    assert fit.cause == EMPTY
    with pytest.raises(jem.FitError, match="^DEGENERATE: nothing belongs to") as error:
        fit.check()
    assert "columns" not in str(error.value) and "stronger" not in str(error.value)


def test_causes_of_parts_add_up():
    """Composites and wrappers hand on what their parts say, and the worst conditioning."""
    flat, tight = np.array([[0.0, 0.0]] * 30), np.random.default_rng(6).standard_normal((30, 2))
    model = jem.bind(jem.Product(one=jem.Gaussian(), two=jem.Frozen(jem.Gaussian(), "mean")), {"one": flat, "two": tight})
    params = jem.init(model, jax.random.key(0), {"one": flat, "two": tight})
    stats = jem.e_step(model, params, {"one": flat, "two": tight})[0]
    assert model.degenerate(params, stats) == HELD and model.degenerate(params, stats).dtype == jnp.int32
    ill = jem.Gaussian().params([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0001]])
    assert 50 < jem.Gaussian().conditioning(ill) < 200
    assert model.conditioning({**params, "two": ill}) > 50


BAD = [[1.0, 0.9], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jem.Gaussian().params([0.0, 0.0], BAD), r"covariance must be symmetric; got 0.9 at \(0, 1\) and 0 across"),
        (lambda: jem.StudentT().params([0.0, 0.0], BAD, 3.0), "covariance must be symmetric"),
        (lambda: jem.Gaussian().params(np.zeros((2, 2)), [np.eye(2), BAD]), r"at \(1, 0, 1\)"),
        (lambda: jem.Gaussian().params([0.0, 0.0], [[1.0, np.nan], [np.nan, 1.0]]), "covariance must be finite"),
        (lambda: jem.priors.InverseWishart(-1), "strength must be >= 0; got -1"),
        (lambda: jem.priors.InverseWishart(np.inf), "strength must be >= 0; got inf"),
        (lambda: jem.priors.InverseWishart(deviation=-1), "deviation must be > 0; got -1"),
        (lambda: jem.priors.InverseWishart("weak"), "strength: expected a number, >= 0; got the string 'weak'"),
        (lambda: jem.StudentT(df=0), "df must be > 0; got 0"),
        (lambda: jem.Gaussian("diag"), r"covariance: expected jem.covariance.Full\(\), .*; got the string 'diag'"),
        (lambda: jem.StudentT(jem.covariance.Diagonal), "covariance: expected jem.covariance.Full"),
        (lambda: jem.Gaussian(prior=0.1), "prior: expected a jem.priors.InverseWishart"),
        (lambda: jem.init(jem.Gaussian(), jax.random.key(0), np.zeros((4, 0))), r"its shape is \(4, 0\)"),
    ],
)
def test_settings_that_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
    strength = jax.jit(lambda s: jem.priors.InverseWishart(s).strength)(2.0)  # a traced one is not looked at
    assert strength == 2

"""Chains keep every path that is possible, however improbable; what is impossible is minus infinity, and nothing is NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jem
from jem.kernels import chain
from jem.kernels.moves import Table
from jem.latents.chain.hmm import HMMParams

FORMS = (jem.forms.Sequential(), jem.forms.Blocks(3))
FORMS_OF_MANY = (jem.forms.Sequential(), jem.forms.Blocks())


def log_sum(a, axis):
    top = a.max(axis, keepdims=True)
    top = np.where(top == -np.inf, 0, top)
    return np.log(np.exp(a - top).sum(axis)) + np.squeeze(top, axis)


def oracle(initial, transition, log_e):
    """Log-likelihood (S,), smoothed (T, K, S) and summed pairs (K, K, S), in log space and double precision."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p, log_a, log_e = np.log(np.float64(initial)), np.log(np.float64(transition))[:, :, None], np.float64(log_e)
        alpha, beta = np.zeros_like(log_e), np.zeros_like(log_e)
        alpha[0] = log_p[:, None] + log_e[0]
        for t in range(1, len(log_e)):
            alpha[t] = log_sum(alpha[t - 1][:, None] + log_a, 0) + log_e[t]
        for t in range(len(log_e) - 2, -1, -1):
            beta[t] = log_sum(log_a + (log_e[t + 1] + beta[t + 1])[None], 1)
        total = log_sum(alpha[-1], 0)
        possible, z = total > -np.inf, np.where(total > -np.inf, total, 0)
        smoothed = np.where(possible, np.exp(alpha + beta - z), 0)
        pairs = [
            np.where(possible, np.exp(alpha[t][:, None] + log_a + (log_e[t + 1] + beta[t + 1])[None] - z), 0)
            for t in range(len(log_e) - 1)
        ]
        return total, smoothed, sum(pairs, np.zeros((*transition.shape, log_e.shape[2])))


def hostile(rng, states, steps, dtype):
    """A chain with zeros, tiny cells, emissions up to 1e5 nats apart, missing steps and known states."""
    transition = rng.dirichlet(np.ones(states), states)
    kind = rng.integers(4)
    if kind == 0:
        transition = np.triu(transition)
    if kind == 1:
        transition = transition * (rng.random((states, states)) < 0.5) + 0.3 * np.eye(states)
    if kind == 2:
        transition = transition**30
    transition = transition / transition.sum(1, keepdims=True)
    transition[transition < np.finfo(dtype).tiny] = 0
    initial = np.eye(states)[0] if rng.random() < 0.5 else rng.dirichlet(np.ones(states))
    shape = (steps, states, 2)
    log_e = -(10.0 ** rng.uniform(0, 5)) * rng.random(shape) * (rng.random(shape) < 0.7)
    log_e[rng.random(steps) < 0.2] = 0
    known = (rng.random((steps, 2)) < 0.05)[:, None] & (
        np.arange(states)[None, :, None] != rng.integers(0, states, (steps, 1, 2))
    )
    log_e[np.broadcast_to(known, shape)] = -np.inf
    return tuple(np.asarray(a, dtype) for a in (initial, transition, log_e))


@jax.jit
def every_way(initial, transition, log_e):
    """Each form, a matrix for every step, and the score."""
    steps, _, lanes = log_e.shape
    each = jnp.broadcast_to(jnp.log(transition)[None, :, :, None], (steps - 1, *transition.shape, lanes))
    total = lambda i, a, e: jnp.sum(jnp.maximum(chain.smooth(i, Table(a), e).log_normalizer, -1e30))
    forms = [chain.smooth(initial, Table(transition), log_e, form) for form in FORMS]
    driven = Table(jnp.exp(each), each)
    own = chain.smooth(initial, driven, log_e)
    counts = driven.counts(own.filtered, own.backward, own.rest, jnp.ones((steps, lanes)))
    return forms, own, counts, jax.grad(total, (0, 1, 2))(initial, transition, log_e)


@pytest.mark.parametrize(("states", "steps"), [(1, 1), (2, 1), (3, 30), (6, 20)])
def test_hostile_chains(dtype, states, steps):
    rng = np.random.default_rng(states)
    for _ in range(12):
        args = hostile(rng, states, steps, dtype)
        total, smoothed, pairs = oracle(*args)
        forms, driven, counts, score = every_way(*args)
        size = np.abs(np.where(np.isfinite(args[2]), args[2], 0)).max(initial=1)
        near = dict(rtol=0, atol=4 * float(np.finfo(dtype).eps) * (size * steps + 100))
        for s in (*forms, driven):
            np.testing.assert_array_equal(s.log_normalizer == -np.inf, total == -np.inf)
            np.testing.assert_allclose(s.log_normalizer, total, **near)
            np.testing.assert_allclose(s.smoothed, smoothed, **near)
        for s in forms:
            held = args[1][:, :, None] * np.einsum("tis,tjs->ijs", s.filtered[:-1], s.backward)
            np.testing.assert_allclose((held + s.rest) / steps, pairs / steps, **near)
        np.testing.assert_allclose(counts.sum(0) / steps, pairs / steps, **near)
        assert all(np.isfinite(g).all() for g in score)
        np.testing.assert_allclose(score[2], smoothed, **near)


def test_two_chains_in_one_take_turns(x64):
    """Two states that never meet: one explains the first half better by far, the other the second, in the end alike."""
    lean = 5.0 * np.where(np.arange(400) < 200, 1, -1)
    log_e = np.stack([lean, -lean], 1)[:, :, None] / 2
    args = [jnp.asarray(a, jnp.float32) for a in (np.array([0.5, 0.5]), np.eye(2), log_e)]
    forms, driven, _, score = every_way(*args)
    for s in (*forms, driven):
        np.testing.assert_allclose(s.log_normalizer, [0.0], atol=1e-4)
        np.testing.assert_allclose(s.smoothed, 0.5, atol=1e-4)
    for s in forms:  # neither message can be held in the middle, the pairs are
        np.testing.assert_allclose(
            np.eye(2) * (s.filtered[:-1, :, 0].T @ s.backward[:, :, 0]) + s.rest[:, :, 0], 199.5 * np.eye(2), atol=0.02
        )
    np.testing.assert_allclose(score[1].diagonal(), 199.5, rtol=1e-4)


def gaussians(means, deviation, dtype):
    stacked = [jem.Gaussian().params([float(m)], [[deviation**2]]) for m in means]
    return jax.tree.map(lambda *a: jnp.stack(a).astype(dtype), *stacked)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spike", [15.0, 80.0])
def test_the_only_path_survives_an_outlier(dtype, form, spike):
    y = np.zeros(60)
    y[1], y[40:] = spike, 10.0
    x = jnp.asarray(y, dtype)[None, :, None]
    model = jem.HMM(jem.Gaussian(), 2, form=form)
    params = HMMParams(
        jnp.array([1.0, 0.0], dtype),
        jem.laws.Cells.Params(jnp.array([[0.95, 0.05], [0.0, 1.0]], dtype)),
        gaussians([0, 10], 1, dtype),
    )
    log_e = -0.5 * (y[:, None] - np.array([0.0, 10.0])) ** 2 - 0.5 * np.log(2 * np.pi)
    total, smoothed, _ = oracle([1, 0], params.transition.probs, log_e[:, :, None])
    np.testing.assert_allclose(jem.log_prob(model, params, x), total, rtol=1e-6)
    np.testing.assert_allclose(jem.infer(model, params, x)[0].smoothed[0], smoothed[:, :, 0], atol=1e-5)
    after, _ = jem.em_step(model, params, x)
    np.testing.assert_allclose(after.transition.probs, [[39 / 40, 1 / 40], [0, 1]], atol=1e-5)
    np.testing.assert_allclose(after.emission.mean[:, 0], [spike / 40, 10.0], rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_three_states_in_a_row(x64, form):
    """Far apart, left by one in five steps: right is what every path summed in logarithms gives."""
    x = jnp.array([0.1, -0.2, 8.0, 0.3, 9.8, 10.1, 20.2, 19.9])[None, :, None]
    model = jem.HMM(jem.Gaussian(), 3, form=form)
    moves = jem.laws.Cells.Params(jnp.array([[0.8, 0.2, 0.0], [0.0, 0.8, 0.2], [0.0, 0.0, 1.0]]))
    params = HMMParams(jnp.array([1.0, 0.0, 0.0]), moves, gaussians([0, 10, 20], 0.5, "float64"))
    assert float(jem.log_prob(model, params, x)[0]) == pytest.approx(-134.398, abs=1e-3)
    fit = jem.fit(model, params, x, max_steps=20)
    assert fit.status != jem.Status.NONFINITE and fit.log_likelihood > -134.398


def test_fits_and_restarts_of_an_outlier(x64):
    """A fit goes on from there, and starts of its own find a way too."""
    y = np.zeros(60)
    y[1], y[40:] = 80.0, 10.0
    x = jnp.asarray(y)[None, :, None]
    model = jem.HMM(jem.Gaussian(prior=jem.priors.InverseWishart(0.1)), 2)
    moves = jem.laws.Cells.Params(jnp.array([[0.95, 0.05], [0.0, 1.0]]))
    fit = jem.fit(model, HMMParams(jnp.array([1.0, 0.0]), moves, gaussians([0, 10], 1, "float64")), x)
    assert fit.converged and fit.num_steps > 1
    fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=4)
    assert (np.asarray(fits.status) != jem.Status.NONFINITE).all()
    assert fits.best().objective > fit.objective - 1e-3


def coins(probs, dtype):
    return HMMParams(
        jnp.array([1.0, 0.0], dtype),
        jem.laws.Cells.Params(jnp.array([[0.5, 0.5], [0.5, 0.5]], dtype)),
        jem.Bernoulli.Params(probs),
    )


def test_two_groups_without_a_common_symbol(dtype):
    """The components of a mixture of chains: what one cannot produce is the other's, and counts nothing for the first."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(np.concatenate([rng.integers(0, 3, (6, 8)), rng.integers(3, 6, (5, 8))]), jnp.int32)
    model = jem.Mixture(jem.HMM(jem.Categorical(6), 2), 2)
    half = np.array(
        [[[0.5, 0.3, 0.2, 0, 0, 0], [0.2, 0.2, 0.6, 0, 0, 0]], [[0, 0, 0, 0.5, 0.3, 0.2], [0, 0, 0, 0.2, 0.2, 0.6]]]
    )
    both = lambda a: jnp.asarray(np.stack([a, a]), dtype)
    chains = HMMParams(
        both([0.6, 0.4]),
        jem.laws.Cells.Params(both([[0.9, 0.1], [0.2, 0.8]])),
        jem.Categorical.Params(jnp.asarray(half, dtype)),
    )
    params = jem.Mixture.Params(jnp.array([0.5, 0.5], dtype), chains)
    posterior, log_prob = jem.infer(model, params, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((posterior, log_prob)))
    np.testing.assert_array_equal(posterior.responsibilities[:, 0], [1.0] * 6 + [0.0] * 5)
    fit = jem.fit(model, params, x, max_steps=30)
    assert fit.status in (jem.Status.CONVERGED, jem.Status.MAX_STEPS)
    np.testing.assert_allclose(fit.params.weights, [6 / 11, 5 / 11], rtol=1e-5)
    fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=2, max_steps=30)
    assert (fits.status != jem.Status.NONFINITE).all()
    nowhere = jnp.asarray([[0, 3, 0, 0, 0, 0, 0, 0]], jnp.int32)
    assert jem.log_prob(model, params, nowhere)[0] == -jnp.inf
    gone = jem.e_step(model, params, jnp.concatenate([x[:1], nowhere]))[0]
    kept = jem.e_step(model, params, x[:1])[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gone, kept)


def test_impossible_sequences_have_no_posterior(dtype):
    model = jem.HMM(jem.Categorical(2), 2)
    params = HMMParams(
        jnp.array([1.0, 0.0], dtype),
        jem.laws.Cells.Params(jnp.array([[0.5, 0.5], [0.5, 0.5]], dtype)),
        jem.Categorical.Params(jnp.eye(2, dtype=dtype)),
    )
    x = jnp.array([[1, 0, 1, 0], [0, 1, 1, 0]], jnp.int32)
    posterior, log_prob = jem.infer(model, params, x)
    np.testing.assert_allclose(log_prob, [-np.inf, np.log(0.125)], rtol=1e-6)
    np.testing.assert_array_equal(posterior.smoothed[0], 0)
    np.testing.assert_array_equal(posterior.smoothed[1, :, 1], [0, 1, 1, 0])
    assert np.isfinite(jem.predict(model, params, x, 2)).all()
    stats, total = jem.e_step(model, params, x)
    assert total == -jnp.inf
    np.testing.assert_array_equal(stats.emission.counts, [[2, 0], [0, 2]])
    assert jem.decode(model, params, x)[1][0] == -jnp.inf
    assert jem.fit(model, params, x).status == jem.Status.NONFINITE
    score = jax.grad(lambda a: jnp.sum(jem.log_prob(model, params._replace(transition=jem.laws.Cells.Params(a)), x)))(
        params.transition.probs
    )
    np.testing.assert_allclose(score, [[0, 2], [2, 2]], rtol=1e-5)


def test_draws_keep_to_what_is_possible():
    """The state of e^-200 is the only one from which the end is reached."""
    log_e = jnp.zeros((6, 2, 1)).at[1, 1].set(-200.0).at[4, 0].set(-jnp.inf)
    s = chain.smooth(jnp.array([0.5, 0.5]), Table(jnp.eye(2)), log_e)
    path = chain.sample_posterior(jax.random.key(0), Table(jnp.eye(2)).log(), s.log_filtered)
    np.testing.assert_array_equal(path, 1)


@pytest.mark.parametrize("zeros", [False, True])
def test_a_million_steps_in_float32(zeros):
    rng = np.random.default_rng(1)
    transition = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.3, 0.0, 0.7]]) + (0 if zeros else 0.01)
    transition /= transition.sum(1, keepdims=True)
    log_e = np.float32(-4 * rng.random((200_000, 3, 1)))
    values = {}
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            args = [jnp.asarray(np.float32(a), dtype) for a in (np.ones(3) / 3, transition, log_e)]
            first, move, log = args[0], Table(args[1]), args[2]
            values[dtype] = [float(chain.smooth(first, move, log, form).log_normalizer[0]) for form in FORMS_OF_MANY]
    want = values["float64"][0]
    for got in (*values["float32"], *values["float64"]):
        assert abs(got / want - 1) < 1e-6


# What is held, empty, missing, or beyond the ends ----------------------------------------------------------


def test_zero_cells_stay_closed_under_a_prior(x64):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 20, 1)) + np.repeat([0.0, 4.0], 10)[None, :, None])
    model = jem.HMM(jem.Gaussian(prior=None), 2, transition=jem.laws.Cells(concentration=1.1), concentration=1.1)
    start = HMMParams(
        jnp.array([1.0, 0.0]), jem.laws.Cells.Params(jnp.array([[0.9, 0.1], [0.0, 1.0]])), gaussians([0, 4], 1, "float64")
    )
    fit = jem.fit(model, start, x, stop=jem.stop.RelativeGain(1e-12))
    assert fit.status == jem.Status.CONVERGED
    assert fit.params.initial[1] == 0 and fit.params.transition.probs[1, 0] == 0
    assert jem.fit(model, fit.params, x).status == jem.Status.CONVERGED
    held = jem.Mixture(jem.Gaussian(prior=None), 2, concentration=2.0)
    closed = jem.Mixture.Params(jnp.array([1.0, 0.0]), start.emission)
    after, _ = jem.em_step(held, closed, x[:, :, 0].reshape(-1, 1))
    np.testing.assert_array_equal(after.weights, [1.0, 0.0])
    assert jnp.isfinite(held.log_prior(closed))


def driven_model():
    law = {"constant": jnp.zeros((2, 2)), "slope": jnp.zeros((2, 2, 1))}
    moves = jem.laws.Driven(lambda p, u: p["constant"] + p["slope"] @ u, law, spread=0.0)
    return jem.HMM(jem.Poisson(), 2, transition=moves)


def gated_model():
    gate = {"constant": jnp.zeros(2), "slope": jnp.zeros((2, 1))}
    law = jem.laws.Gate(lambda p, u: p["constant"] + p["slope"] @ u, gate, spread=0.0)
    return jem.Mixture(jem.Missing(jem.Poisson()), 2, weights=law)


def test_states_and_experts_that_nobody_uses(x64):
    """Nothing belongs to the second state: as with an empty component, the answer is DEGENERATE."""
    counts = jnp.asarray(np.random.default_rng(0).poisson(2.0, (2, 12, 1)), float)
    emission = jem.Poisson.Params(jnp.array([[2.0], [500.0]]))
    plain = HMMParams(jnp.array([1.0, 0.0]), jem.laws.Cells.Params(jnp.array([[1.0, 0.0], [0.5, 0.5]])), emission)
    model = jem.HMM(jem.Poisson(), 2)
    assert jem.fit(model, plain, counts).status == jem.Status.DEGENERATE
    far = HMMParams(jnp.array([0.5, 0.5]), jem.laws.Cells.Params(jnp.full((2, 2), 0.5)), emission)
    assert model.degenerate(far, jem.e_step(model, far, counts)[0])  # a fit may bring it back
    x = jem.Given(counts, jnp.ones((2, 12, 1)))
    driven, gated = driven_model(), gated_model()
    at = far._replace(transition=driven.transition.child.start)
    stats = jem.e_step(driven, at, x)[0]
    np.testing.assert_allclose(stats.visits, [24, 0], atol=1e-12)
    assert driven.degenerate(at, stats) and not driven.degenerate(at, stats._replace(visits=jnp.ones(2)))
    rows = jem.Given(counts[0], jnp.ones((12, 1)))
    experts = jem.init(gated, jax.random.key(0), rows)._replace(components=emission)
    stats = jem.e_step(gated, experts, rows)[0]
    np.testing.assert_allclose(stats.weights.counts, [12, 0], atol=1e-12)
    assert gated.degenerate(experts, stats)
    for node, params, data, s in ((driven, at, x, jem.e_step(driven, at, x)[0]), (gated, experts, rows, stats)):
        with pytest.raises(TypeError, match="(Driven|Gate) does not define recentre"):
            node.recentre(s, params, params)
        with pytest.raises(TypeError, match="does not define recentre"):
            jem.fit(node, params, data, solver=jem.solvers.Online(2, solver=jem.solvers.GEM(optax.lbfgs, linesearch=None)))


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e30])
def test_nothing_is_seen_beyond_the_ends(x64, junk):
    rng = np.random.default_rng(0)
    y, u = rng.poisson(3.0, (3, 6, 1)).astype(float), rng.standard_normal((3, 6, 1))
    lengths = jnp.array([6, 2, 4], jnp.int32)
    beyond = np.arange(6)[None, :, None] >= np.asarray(lengths)[:, None, None]
    clean, dirty = (
        jem.Sequences(jem.Given(jnp.asarray(np.where(beyond, v, y)), jnp.asarray(np.where(beyond, v, u))), lengths)
        for v in (0.0, junk)
    )
    model = driven_model()
    params = jem.init(model, jax.random.key(0), clean)
    for ask in (jem.log_prob, jem.infer, jem.e_step, jem.decode):
        jax.tree.map(np.testing.assert_array_equal, ask(model, params, clean), ask(model, params, dirty))
    jax.tree.map(np.testing.assert_array_equal, params, jem.init(model, jax.random.key(0), dirty))
    score = jax.grad(lambda p: jnp.sum(jem.log_prob(model, p, dirty)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(score))
    symbols = jem.Sequences(jnp.asarray(np.where(beyond[..., 0], junk, 1.0)), lengths)
    coin = jem.HMM(jem.Categorical(3), 2)
    assert np.isfinite(jem.log_prob(coin, jem.init(coin, jax.random.key(0), symbols), symbols)).all()


def test_inputs_and_labels_are_checked():
    y, u = np.ones((2, 4, 1), np.float32), np.zeros((2, 4, 1), np.float32)
    u[1, 2] = np.nan
    with pytest.raises(ValueError, match="HMM: inputs cannot be missing; got nan in sequence 1, step 2"):
        jem.init(driven_model(), jax.random.key(0), jem.Given(jnp.asarray(y), jnp.asarray(u)))
    with pytest.raises(ValueError, match="Gate: inputs cannot be missing; got nan in row 2, column 0"):
        jem.init(gated_model(), jax.random.key(0), jem.Given(jnp.asarray(y[1]), jnp.asarray(u[1])))
    model, labels = jem.HMM(jem.Poisson(), 2), np.full((2, 4), -1, np.int32)
    params = jem.init(model, jax.random.key(0), y)
    labels[1, 3] = 2
    for data in (jem.Labelled(y, labels), jem.Labelled(jem.Sequences(y, np.array([4, 4])), labels)):
        with pytest.raises(ValueError, match=r"Labelled: label 2 in sequence 1, step 3; expected -1 \(unknown\) or 0 .. 1"):
            jem.log_prob(model, params, data)
    jem.log_prob(model, params, jem.Labelled(jem.Sequences(y, np.array([4, 3])), labels))
    with pytest.raises(ValueError, match=r"int32 labels must have shape \(2, 4\); got \(2, 3\)"):
        jem.log_prob(model, params, jem.Labelled(y, labels[:, :3]))
    with pytest.raises(ValueError, match="sequence 0, step 1 allows no component"):
        jem.log_prob(model, params, jem.Labelled(y, np.ones((2, 4, 2), bool) & (np.arange(4) != 1)[None, :, None]))
    inside = jax.jit(lambda x: jem.log_prob(model, params, x))(jem.Labelled(jnp.asarray(y), jnp.asarray(labels)))
    assert jnp.isfinite(inside[0]) and inside[1] == -jnp.inf


def test_a_density_starts_from_steps_that_are_seen():
    """The function that makes a start is given no missing step, at the door as in the fit."""

    def start(key, x, weights):
        return {"mean": jnp.sum(x * weights[:, None], 0) / jnp.sum(weights)}

    leaf = jem.Density(lambda p, x: -0.5 * jnp.sum((x - p["mean"]) ** 2) - 0.5 * jnp.log(2 * jnp.pi), start)
    x = np.random.default_rng(0).standard_normal((2, 6, 1)).astype(np.float32)
    x[0, 0], x[1, 3] = np.nan, np.nan
    for model in (jem.HMM(leaf, 2), jem.HMM(jem.Missing(leaf), 2)):
        assert jnp.isfinite(jem.init(model, jax.random.key(0), x).emission["mean"]).all()

"""Means that add up over the chains of a factorial model: brute force, least squares, what is held and what is empty."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jem
from jem.latents.chain.hmm import HMMStats
from jem.node import EMPTY

SIZES = (3, 2)
NUM = 6
SPACES = {"full": jem.covariance.Full(), "diagonal": jem.covariance.Diagonal(), "spherical": jem.covariance.Spherical()}
FULL = jem.covariance.Full()
STATES = np.array(list(itertools.product(*map(range, SIZES))))


def key(n=0):
    return jax.random.key(n)


def additive(covariance=FULL, prior=None):
    return jem.Additive(jem.Gaussian(covariance, prior), *SIZES)


def params(covariance=FULL, seed=0):
    rng = np.random.default_rng(seed)
    wanted = {"Full": [[1.0, 0.3], [0.3, 0.5]], "Diagonal": [1.0, 0.5], "Spherical": 0.7}[type(covariance).__name__]
    tables = [3 * rng.standard_normal((size, 2)) for size in SIZES]
    return additive(covariance).params(rng.standard_normal(2), tables, wanted)


def factorial(emission=None, **options):
    return jem.HMM(additive() if emission is None else emission, transition=jem.laws.Kronecker(*SIZES), **options)


def chain_params(emission=None):
    rng = np.random.default_rng(1)
    moves = tuple(jem.laws.Cells.Params(jnp.asarray(rng.dirichlet(np.ones(k), k))) for k in SIZES)
    return jem.HMM.Params(jnp.asarray(rng.dirichlet(np.ones(NUM))), moves, params() if emission is None else emission)


def test_means_add_up(x64):
    offset, tables = np.array([1.0, -1.0]), [np.arange(6.0).reshape(3, 2), np.array([[5.0, 1.0], [2.0, 2.0]])]
    p = additive().params(offset, tables, np.eye(2))
    want = [offset + tables[0][i] + tables[1][j] for i, j in STATES]
    np.testing.assert_allclose(additive().means(p), want)
    assert p.effects.shape == (3, 2) and p.covariance.tolist() == np.eye(2).tolist()
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), p)
    np.testing.assert_allclose(additive().means(both)[1], want)


def test_a_chain_by_enumeration(x64):
    """Every pair of paths of two chains: the likelihood, the states' posterior and the best path."""
    p, x = chain_params(), np.random.default_rng(2).standard_normal((2, 4, 2)) * 3
    law = stats.multivariate_normal(cov=np.asarray(p.emission.covariance))
    log_e = np.stack([law.logpdf(x - mean) for mean in np.asarray(additive().means(p.emission))], -1)  # (S, T, K)
    first, second = (np.log(np.asarray(move.probs)) for move in p.transition)
    moves = first[:, None, :, None] + second[None, :, None, :]
    moves = moves.reshape(NUM, NUM)
    paths = np.array(list(itertools.product(range(NUM), repeat=4)))
    joint = np.log(np.asarray(p.initial))[paths[:, 0]] + moves[paths[:, :-1], paths[:, 1:]].sum(1)
    joint = joint[None] + sum(log_e[:, t][:, paths[:, t]] for t in range(4))  # (S, paths)
    total = np.logaddexp.reduce(joint, 1)
    np.testing.assert_allclose(jem.log_prob(factorial(), p, x), total, rtol=1e-12)
    share = np.exp(joint - total[:, None])
    want = np.stack([[share[:, paths[:, t] == k].sum(1) for k in range(NUM)] for t in range(4)]).transpose(2, 0, 1)
    np.testing.assert_allclose(jem.infer(factorial(), p, x)[0].smoothed, want, atol=1e-12)
    best = jem.decode(factorial(), p, x)
    np.testing.assert_array_equal(best.states if hasattr(best, "states") else best[0], paths[joint.argmax(1)])


def test_equals_means_tied_by_hand(x64):
    """An ordinary chain over all combinations with the same means, covariance and moves."""
    p, x = chain_params(), np.random.default_rng(3).standard_normal((3, 5, 2)) * 3
    moves = jem.laws.Cells.Params(jnp.kron(*(move.probs for move in p.transition)))
    by_hand = jem.Gaussian.Params(additive().means(p.emission), p.emission.whitening)
    tied = jem.HMM(jem.Tied(jem.Gaussian(), NUM, "whitening"))
    want = jem.log_prob(tied, p._replace(transition=moves, emission=by_hand), x)
    np.testing.assert_allclose(jem.log_prob(factorial(), p, x), want, rtol=1e-13)


def by_least_squares(x, weights, old):
    """Fitted means (K, D) of what has weight, and the covariance, by weighted least squares on indicators of the levels."""
    design = np.concatenate([np.ones((NUM, 1)), STATES[:, :1] == 1, STATES[:, :1] == 2, STATES[:, 1:] == 1], 1)
    rows, y = np.repeat(design, len(x), 0), np.tile(x, (NUM, 1))
    w = weights.reshape(-1)
    coef = np.linalg.lstsq(rows * np.sqrt(w)[:, None], y * np.sqrt(w)[:, None], rcond=None)[0]
    rest = y - rows @ coef
    return design @ coef, (w[:, None] * rest).T @ rest / w.sum()


# Compiled once a node, whatever is empty.
expect = jax.jit(lambda node, p, x, weights: node.expect(p, (), x, weights))
maximize = jax.jit(lambda node, p, cells: node.maximize(p, cells))


@jax.jit
def slope(node, p, cells, old):
    """Of Q and the prior, in free coordinates."""
    at = lambda f: jem.constrain(node, f, p)
    return jax.grad(lambda f: node.expected_log_prob(at(f), cells, old) + node.log_prior(at(f)))(jem.unconstrain(node, p))


def cell_stats(node, p, empty=()):
    rng = np.random.default_rng(4)
    x, weights = 3 * rng.standard_normal((40, 2)) + 5, rng.random((NUM, 40)) ** 2
    weights[list(empty)] = 0
    return x, weights, expect(node, p, jnp.asarray(x.T), jnp.asarray(weights))


@pytest.mark.parametrize("empty", [(), (4,), (0, 1), (2, 3), (0, 2, 4), (0, 1, 2, 4), (1, 2, 4), (0, 1, 2, 3, 4)])
def test_m_step_is_least_squares(x64, empty):
    """Whatever combinations and levels are empty: what is not has the means and the covariance that fit best."""
    node, p = additive(), params()
    x, weights, cells = cell_stats(node, p, empty)
    new = maximize(node, p, cells)
    means, covariance = by_least_squares(x, weights, p)
    seen = [k for k in range(NUM) if k not in empty]
    np.testing.assert_allclose(node.means(new)[jnp.array(seen)], means[seen], atol=1e-9)
    np.testing.assert_allclose(new.covariance, covariance, atol=1e-9)
    assert np.isfinite(new.effects).all()


def test_what_is_empty_stays(x64):
    node, p = additive(), params()
    first = maximize(node, p, cell_stats(node, p, (0, 1))[2])  # the first level of the first factor
    np.testing.assert_array_equal(first.offset, p.offset)
    alone = jem.Additive(jem.Gaussian(prior=None), NUM)
    q = jem.Additive.Params(p.offset, jnp.arange(10.0).reshape(5, 2), p.whitening)
    for k in (0, 3):
        x, weights, cells = cell_stats(alone, q, (k,))
        new = maximize(alone, q, cells)
        np.testing.assert_allclose(alone.means(new)[k], alone.means(q)[k], atol=1e-12)
        own = (weights @ x / np.maximum(weights.sum(1), 1e-300)[:, None])[1 + k :]
        np.testing.assert_allclose(alone.means(new)[1 + k :], own, atol=1e-9)
        assert alone.degenerate(q, cells) == 1
    assert node.degenerate(p, cell_stats(node, p, (4,))[2]) == 0  # its levels are others' too


def test_a_combination_that_no_step_belongs_to(x64):
    """Its mean is known from its levels', and its moves from its chains': nothing is missing, unless a level is empty."""
    visits = {"combination": jnp.array([1.0, 2, 3, 1, 1, 0]), "level": jnp.array([1.0, 2, 3, 1, 0, 0])}
    told = lambda model, which: int(model.own_degenerate(None, HMMStats((), visits[which], (), ())))
    assert [told(factorial(), which) for which in visits] == [0, EMPTY]
    assert told(factorial(jem.Frozen(additive(), "whitening")), "combination") == 0
    assert told(factorial(jem.Stack(jem.Gaussian(), NUM)), "combination") == EMPTY
    assert told(jem.HMM(additive()), "combination") == EMPTY  # of free moves each row is its own


@pytest.mark.parametrize("rare", [1e-13, 1e-40])
def test_rare_levels_have_their_mean(x64, rare):
    """A level of next to no weight, the first one too, has the mean of its own."""
    node, p = additive(), params()
    for level in range(3):
        rng = np.random.default_rng(5)
        x, weights = 3 * rng.standard_normal((40, 2)) + 5, rng.random((NUM, 40)) ** 2
        weights[STATES[:, 0] == level] *= rare
        new = maximize(node, p, expect(node, p, jnp.asarray(x.T), jnp.asarray(weights)))
        scaled = weights.copy()
        scaled[STATES[:, 0] == level] /= rare
        others = STATES[:, 0] != level
        partner = by_least_squares(x, np.where(others[:, None], weights, 0), p)[0]
        gap = partner[1] - partner[0] if level else partner[3] - partner[2]  # of the second factor, without this level
        own = scaled[STATES[:, 0] == level]
        shift = own[1].sum() / own.sum()
        mean = (own.sum(0) @ x) / own.sum() - shift * gap
        np.testing.assert_allclose(node.means(new)[2 * level], mean, atol=1e-8)


HELD = [("offset",), ("effects",), ("whitening",), ("offset", "effects"), ("offset", "whitening")]


@pytest.mark.parametrize(("space", "held"), [*((space, ()) for space in SPACES), *(("full", held) for held in HELD)])
def test_what_is_held_is_given(x64, space, held):
    """The best of the other fields: no slope of Q along them, and what is held is where it was; whatever is empty."""
    node = additive(SPACES[space], jem.priors.InverseWishart(3.0, deviation=1.5))
    p = params(SPACES[space])
    for empty in ((), (0, 1), (0, 2, 4)):
        cells = cell_stats(node, p, empty)[2]
        new = maximize(jem.Frozen(node, *held) if held else node, p, cells)
        slopes = slope(node, new, cells, p)
        for name in p._fields:
            if name in held:
                np.testing.assert_array_equal(getattr(new, name), getattr(p, name))
            else:
                assert np.abs(getattr(slopes, name)).max() < 1e-9


def test_one_factor_is_tied(x64):
    """A plate of one factor is a tied Gaussian: the same climb, with the same number of parameters."""
    x = np.random.default_rng(6).standard_normal((60, 2)) + np.repeat([[0.0], [4.0], [9.0]], 20, 0)
    tied = jem.Mixture(jem.Tied(jem.Gaussian(), 3, "whitening"))
    one = jem.Mixture(jem.Additive(jem.Gaussian(), 3))
    start = jem.init(tied, key(), x)
    mean, whitening = start.components
    p = start._replace(components=jem.Additive.Params(mean[0], mean[1:] - mean[:1], whitening))
    fits = [jem.fit(m, q, x) for m, q in ((tied, start), (one, p))]
    assert float(fits[0].log_likelihood) == pytest.approx(float(fits[1].log_likelihood), abs=1e-5)
    np.testing.assert_allclose(one.components.means(fits[1].params.components), fits[0].params.components.mean, atol=1e-3)
    assert jem.num_parameters(one, p) == jem.num_parameters(tied, start)


@pytest.fixture(scope="module")
def recovered():
    """Some sequences of two chains, and fits from some starts."""
    with jax.enable_x64(True):
        p = chain_params(params(seed=3))
        moves = tuple(jem.laws.Cells.Params(0.8 * jnp.eye(k) + 0.2 * m.probs) for k, m in zip(SIZES, p.transition, strict=True))
        p = p._replace(transition=moves)
        x = jem.sample(factorial(length=80), key(1), p, 4)[1]
        model = factorial()
        fits = jem.fit_restarts(model, key(2), x, num_restarts=8, max_steps=200)
        return model, p, x, fits


def test_parameters_are_recovered(x64, recovered):
    model, p, x, fits = recovered
    best, truth = fits.best().check(), jem.fit(model, p, x)
    assert float(best.log_likelihood) == pytest.approx(float(truth.log_likelihood), abs=1e-2)
    assert best.log_likelihood > jnp.sum(jem.log_prob(model, p, x))
    errors = jem.standard_errors(model, truth.params, x).errors.emission  # some first states are at their boundary
    for name in ("offset", "effects"):
        far = (getattr(truth.params.emission, name) - getattr(p.emission, name)) / getattr(errors, name)
        assert np.abs(far).max() < 4


def test_free_coordinates_count(x64, recovered):
    model, p, x, _ = recovered
    moves = sum(k * (k - 1) for k in SIZES)
    assert jem.num_parameters(model, p) == NUM - 1 + moves + 2 + 3 * 2 + 3
    got = jem.bic(model, p, x)
    want = -2 * jnp.sum(jem.log_prob(model, p, x)) + jem.num_parameters(model, p) * np.log(320)
    np.testing.assert_allclose(got, want)


def test_chains_that_share_nothing(x64):
    """Two chains, each seen in a column of its own: an EM step of both together is that of each alone."""
    rng = np.random.default_rng(8)
    x = rng.integers(0, 2, (5, 6, 2)).astype(float)
    first = [jnp.asarray(rng.dirichlet(np.ones(k))) for k in SIZES]
    moves = [jem.laws.Cells.Params(jnp.asarray(rng.dirichlet(np.ones(k), k))) for k in SIZES]
    probs = [jnp.asarray(rng.uniform(0.1, 0.9, k)) for k in SIZES]
    both = jnp.stack([probs[c][STATES[:, c]] for c in range(2)], 1)
    laws = jem.laws.Free(), jem.laws.Free(jnp.array([2.0, 1.5]))
    model = jem.HMM(jem.Bernoulli(), NUM, initial=jem.laws.Outer(*SIZES, laws=laws), transition=jem.laws.Kronecker(*SIZES))
    p = jem.HMM.Params(tuple(first), tuple(moves), jem.Bernoulli.Params(both))
    new, total = jem.em_step(model, p, x)[0], 0.0
    for c, law in enumerate(laws):
        alone = jem.HMM(jem.Bernoulli(), SIZES[c], initial=law)
        q = jem.HMM.Params(first[c], moves[c], jem.Bernoulli.Params(probs[c][:, None]))
        want = jem.em_step(alone, q, x[:, :, c : c + 1])[0]
        np.testing.assert_allclose(new.initial[c], want.initial, atol=1e-12)
        np.testing.assert_allclose(new.transition[c].probs, want.transition.probs, atol=1e-12)
        total += jem.log_prob(alone, q, x[:, :, c : c + 1])
    np.testing.assert_allclose(jem.log_prob(model, p, x), total, rtol=1e-12)
    free = jem.HMM(jem.Bernoulli(), NUM, transition=jem.laws.Kronecker(*SIZES))
    assert jem.num_parameters(free, p._replace(initial=both[:, 0])) - jem.num_parameters(model, p) == NUM - 1 - 3


def test_what_an_additive_plate_takes():
    with pytest.raises(TypeError, match="Additive: child: expected a jem.Gaussian"):
        jem.Additive(jem.Poisson(), 3, 2)
    with pytest.raises(ValueError, match="Additive: give the number of levels of each factor"):
        jem.Additive(jem.Gaussian())
    with pytest.raises(ValueError, match="sizes must be an integer of at least 1; got 0"):
        jem.Additive(jem.Gaussian(), 3, 0)
    with pytest.raises(ValueError, match=r"effects must be a table .* \[\(3, 2\), \(2, 2\)\]; got \[\(3, 2\)\]"):
        additive().params(np.zeros(2), [np.zeros((3, 2))], np.eye(2))
    with pytest.raises(ValueError, match=r"initial: chains of \(2, 2\) states have 4 combinations; the emission has 6"):
        jem.HMM(additive(), initial=jem.laws.Outer(2, 2))
    with pytest.raises(ValueError, match="Outer: .* got 2 sizes and 1 laws"):
        jem.laws.Outer(3, 2, laws=[jem.laws.Free()])
    with pytest.raises(ValueError, match=r"chains of \(2, 2\) states have 4 combinations; the emission has 6"):
        jem.HMM(additive(), transition=jem.laws.Kronecker(2, 2))

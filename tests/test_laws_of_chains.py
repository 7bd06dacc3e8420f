"""Transition laws of chains against brute force, and every question asked of each."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import CASES
from scipy import stats

import jem
from jem.kernels import durations as tables

CASE = json.loads((CASES / "hsmm_durations.json").read_text())
LBFGS = jem.solvers.GEM(optax.lbfgs, linesearch=None)
LONGEST = 3
STAYS = {
    "categorical": jem.durations.Categorical(LONGEST),
    "poisson": jem.durations.Poisson(LONGEST),
    "negative binomial": jem.durations.NegativeBinomial(LONGEST),
}


def key(n=0):
    return jax.random.key(n)


def semi_markov(stays, num=3, **options):
    return jem.HMM(jem.Poisson(), num, transition=jem.laws.Durations(stays, **options))


def stay_params(name, num=3, longest=LONGEST):
    rng = np.random.default_rng(1)
    if name == "categorical":
        return jem.durations.Categorical.Params(jnp.asarray(rng.dirichlet(np.ones(longest), num)))
    if name == "poisson":
        return jem.durations.Poisson.Params(jnp.linspace(0.7, 2.0, num))
    return jem.durations.NegativeBinomial.Params(jnp.linspace(0.7, 2.0, num), jnp.linspace(0.6, 5.0, num))


def semi_params(name, num=3, longest=LONGEST):
    moves = np.random.default_rng(2).dirichlet(np.ones(num), num)
    moves = moves * (1 - np.eye(num)) if num > 1 else np.ones((1, 1))
    moves = jem.laws.Cells.Params(jnp.asarray(moves / moves.sum(1, keepdims=True)))
    laws = jem.laws.Durations.Params(moves, stay_params(name, num, longest))
    emission = jem.Poisson.Params(jnp.linspace(1.0, 7.0, num)[:, None])
    return jem.HMM.Params(jnp.arange(1.0, num + 1) / jnp.arange(1.0, num + 1).sum(), laws, emission)


take_maximum = jax.jit(lambda law, old, counts: law.maximize(old, counts))


# How long: tables, and their M-step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [1, 2, 5, 240])
def test_tables_of_durations(dtype, longest):
    """Against scipy: the last entry is a survival function, as good far out in the tail as elsewhere."""
    means, sizes = [1e-3, 0.5, 3.0, 20.0, 235.0, 400.0, 200.0], [1e4, 0.2, 1.0, 3.0, 0.3, 50.0, 1e-2]
    mean, size = jnp.asarray(means, dtype), jnp.asarray(sizes, dtype)
    for got, law in (
        (tables.log_poisson(mean, longest), [stats.poisson(m) for m in np.float64(mean)]),
        (
            tables.log_negative_binomial(mean, size, longest),
            [stats.nbinom(r, r / (r + m)) for m, r in zip(np.float64(mean), np.float64(size), strict=True)],
        ),
    ):
        want = np.array([np.append(one.logpmf(np.arange(longest - 1)), one.logsf(longest - 2)) for one in law])
        known = want > -600
        eps = 16 * longest * float(jnp.finfo(dtype).eps) + 1e-10
        np.testing.assert_allclose(np.asarray(got)[known], want[known], rtol=eps, atol=eps)
        np.testing.assert_allclose(jnp.exp(got).sum(1), 1, atol=eps)


@pytest.mark.parametrize("name", STAYS)
@pytest.mark.parametrize("outlast", [0.0, 4.0])
def test_durations_take_their_maximum(x64, name, outlast):
    # Spread out enough for a size that is not at its end.
    longest = 6
    law = dataclasses.replace(STAYS[name], longest=longest)
    old = stay_params(name, 2, longest)
    counts = jnp.asarray(np.random.default_rng(3).uniform(0.5, 1, (2, longest))).at[:, 0].set(6.0).at[:, -1].set(outlast)
    new = take_maximum(law, old, counts)
    support = law.supports(new)

    @jax.jit
    def values_and_slope(new):
        free = jax.tree.map(lambda s, p: s.unconstrain(p), support, new)
        at = lambda free: jax.tree.map(lambda s, f, p: s.constrain(f, p), support, free, new)
        slope = jax.grad(lambda free: law.expected_log_prob(at(free), counts, old))(free)
        return law.expected_log_prob(new, counts, old), law.expected_log_prob(old, counts, old), slope

    after, before, slope = values_and_slope(new)
    inside = name != "categorical" or outlast  # a probability at zero has its maximum at the edge
    for leaf in jax.tree.leaves(slope):
        assert not inside or np.abs(leaf).max() < 1e-6
    assert after > before
    np.testing.assert_array_equal(jax.tree.leaves(take_maximum(law, old, 0 * counts))[0], jax.tree.leaves(old)[0])


@pytest.mark.parametrize("longest", [2, 5, 20])
@pytest.mark.parametrize("name", ["poisson", "negative binomial"])
def test_stays_that_all_outlast(dtype, name, longest):
    """Nothing says how much longer: the more the better, and the step is finite and no fall."""
    law = dataclasses.replace(STAYS[name], longest=longest)
    old = jax.tree.map(lambda a: a.astype(dtype), stay_params(name, 2))
    counts = jnp.zeros((2, longest), dtype).at[:, -1].set(5.0)
    new = take_maximum(law, old, counts)
    assert jax.jit(law.expected_log_prob)(new, counts, old) > -1e-5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))


@pytest.mark.parametrize("name", STAYS)
def test_sequences_that_never_leave_a_state(x64, name):
    """With the states known, and with hard EM: two Poisson samples."""
    rows = np.repeat([[2.0], [90.0]], 12, 1)[..., None]
    want = stats.poisson(rows).logpmf(rows).sum() - 2 * np.log(2)
    model = semi_markov(dataclasses.replace(STAYS[name], longest=12), 2)
    start = jem.init(model, key(), rows)
    for x, solver in ((jem.Labelled(rows, np.repeat([[0], [1]], 12, 1)), jem.solvers.Anderson()), (rows, jem.solvers.Hard())):
        fit = jem.fit(model, start, x, solver=solver).check()
        assert float(fit.log_likelihood) == pytest.approx(want, abs=2e-3)


def test_stays_of_one_step(x64):
    """States that change at every step, one of which emits zeros: rates of next to nothing end the climb."""
    x = np.tile([0.0, 20.0], (3, 10))[..., None]
    for stays in (jem.durations.Poisson(5), jem.durations.NegativeBinomial(5)):
        fit = jem.fit(semi_markov(stays, 2), jem.init(semi_markov(stays, 2), key(), x), x).check()
        assert float(fit.log_likelihood) == pytest.approx(30 * stats.poisson(20).logpmf(20), abs=2e-3)


def test_sizes_keep_their_range(x64):
    """Stays far over D with moves to the same state say nothing of the size: no step takes it out of its range."""
    x = np.random.default_rng(1).poisson(np.repeat([1.0, 12.0], [30, 30]), (4, 60)).astype(float)[..., None]
    model = semi_markov(jem.durations.NegativeBinomial(2), 2, moves=jem.laws.Cells())
    fit = jem.fit(model, jem.init(model, key(), x), x, max_steps=300).check()
    assert (fit.params.transition.stays.size <= 1e4).all()


# Explicit durations: every way to cut a sequence into stays --------------------------------------------------------------


def segmentations(length, num):
    """All sequences of (state, duration) that fill `length` steps, neighbours different; the last may be cut off."""
    if length == 0:
        yield ()
        return
    for duration in range(1, length + 1):
        for rest in segmentations(length - duration, num):
            for state in range(num):
                if not rest or rest[0][0] != state:
                    yield ((state, duration), *rest)


def by_enumeration(params, stays, y, censored=True):
    """Log-probabilities of all segmentations of one sequence y, the sum of their terms, and the states (P, T) of each."""
    num = params.initial.shape[0]
    log_p = stays.log_probs(params.transition.stays)
    longest = log_p.shape[1]
    beyond = jnp.log(jnp.cumsum(jnp.exp(log_p)[:, ::-1], 1)[:, ::-1])  # P(d >= .)
    each = y[None] * jnp.log(params.emission.rate) - params.emission.rate - jax.scipy.special.gammaln(y + 1)[None]  # (K, T)
    cuts = [cut for cut in segmentations(y.shape[0], num) if max(d for _, d in cut) <= longest]
    paths = np.array([np.repeat(*zip(*cut, strict=True)) for cut in cuts])
    moves = [(p, a, b) for p, cut in enumerate(cuts) for (a, _), (b, _) in itertools.pairwise(cut)]
    ended = [(p, k, d - 1) for p, cut in enumerate(cuts) for k, d in (cut[:-1] if censored else cut)]
    going = [(p, k, d - 1) for p, cut in enumerate(cuts) for k, d in cut[-1:] if censored]
    logs = jnp.log(params.initial[paths[:, 0]]) + each[paths, np.arange(len(y))[None]].sum(1)
    move = params.transition.moves.probs
    for table, which in ((jnp.log(jnp.where(move > 0, move, 1)), moves), (log_p, ended), (beyond, going)):
        p, row, column = np.array(which, int).reshape(-1, 3).T
        logs = logs.at[p].add(table[row, column])
    return logs, paths


@pytest.mark.parametrize("name", STAYS)
@pytest.mark.parametrize("censored", [True, False])
def test_durations_by_enumeration(x64, name, censored):
    """Values, posteriors and gradients over all segmentations, of which the last may be cut off; no stay is over D."""
    model, params = semi_markov(STAYS[name], censored=censored), semi_params(name)
    y = jnp.array([0.0, 1.0, 6.0, 7.0])
    paths = by_enumeration(params, STAYS[name], y, censored)[1]
    each = lambda p: by_enumeration(p, STAYS[name], y, censored)[0]
    logs, want_slope = jax.jit(lambda p: (each(p), jax.grad(lambda p: jax.nn.logsumexp(each(p)))(p)))(params)
    posterior, log_prob = jem.infer(model, params, y[None, :, None])
    assert float(log_prob[0]) == pytest.approx(float(jax.nn.logsumexp(logs)), rel=1e-11)
    q = np.asarray(jax.nn.softmax(logs))
    want = np.array([[q[paths[:, t] == k].sum() for k in range(3)] for t in range(4)])
    np.testing.assert_allclose(posterior.smoothed[0], want, atol=1e-11)
    got = jax.jit(jax.grad(lambda p: jem.log_prob(model, p, y[None, :, None])[0]))(params)
    mask = 1 - jnp.eye(3)  # what is ruled out has no say
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want_slope), strict=True):
        a, b = (jnp.where(mask > 0, v, 0) if v.shape == (3, 3) else v for v in (a, b))
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("censored", [True, False])
def test_best_path_of_stays(x64, censored):
    """Viterbi against the best segmentation; a stay that is cut off is one of at least so long, whatever its length."""
    model, params = semi_markov(STAYS["categorical"], censored=censored), semi_params("categorical")
    for y in np.random.default_rng(0).poisson(3.0, (4, 4)).astype(float):
        logs, paths = by_enumeration(params, STAYS["categorical"], jnp.asarray(y), censored)
        best, log_prob = jem.decode(model, params, y[None, :, None])
        assert float(log_prob[0]) == pytest.approx(float(logs.max()), rel=1e-12)
        np.testing.assert_array_equal(best[0], paths[int(jnp.argmax(logs))])


def test_geometric_durations_are_an_ordinary_chain(x64):
    """Value, posterior, smoothing at gaps and unequal lengths, prediction; the chain's fit is reached too."""
    rng = np.random.default_rng(0)
    y = rng.poisson(np.repeat([1.0, 8.0, 1.0, 8.0], 5), (3, 20)).astype(float)[..., None]
    y[0, 4] = np.nan
    x = jem.Sequences(jnp.asarray(y), jnp.array([20, 13, 7]))
    leave = jnp.array([0.3, 0.2])
    chain = jem.HMM(jem.Poisson(), 2)
    matrix = jnp.array([[0.7, 0.3], [0.2, 0.8]])
    plain = jem.HMM.Params(jnp.array([0.4, 0.6]), jem.laws.Cells.Params(matrix), jem.Poisson.Params(jnp.array([[1.0], [7.0]])))
    stays = jem.durations.NegativeBinomial.Params((1 - leave) / leave, jnp.ones(2))
    laws = jem.laws.Durations.Params(jem.laws.Cells.Params(jnp.array([[0.0, 1.0], [1.0, 0.0]])), stays)
    model, params = semi_markov(jem.durations.NegativeBinomial(20), 2), plain._replace(transition=laws)
    np.testing.assert_allclose(jem.log_prob(model, params, x), jem.log_prob(chain, plain, x), rtol=1e-12)
    within = np.arange(20)[None, :] < np.asarray(x.lengths)[:, None]
    got, want = (jem.infer(m, p, x)[0].smoothed[within] for m, p in ((model, params), (chain, plain)))
    np.testing.assert_allclose(got, want, atol=1e-12)
    far = semi_markov(jem.durations.NegativeBinomial(120), 2)  # what is left of a stay must not end at the last cell
    np.testing.assert_allclose(jem.predict(far, params, x, 4), jem.predict(chain, plain, x, 4), atol=1e-10)
    for got, want in zip(jem.decode(model, params, x), jem.decode(chain, plain, x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_reference_case(x64):
    """Explicit durations: enumeration of all paths, and a fit that was found by direct maximisation elsewhere."""
    data, start, want = CASE["data"], CASE["init"], {k: v["value"] for k, v in CASE["expected"].items()}

    def params(initial, moves, rate, chance, size):
        chance, size = jnp.array(chance), jnp.array(size)
        stays = jem.durations.NegativeBinomial.Params(size * (1 - chance) / chance, size)
        laws = jem.laws.Durations.Params(jem.laws.Cells.Params(jnp.array(moves, float)), stays)
        return jem.HMM.Params(jnp.array(initial), laws, jem.Poisson.Params(jnp.array(rate)[:, None]))

    x, stays = jnp.array(data["short"], float)[None, :, None], jem.durations.NegativeBinomial(9)
    at = params(start["initial"], start["switch"], start["rate"], start["dur_p"], start["dur_r"])
    posterior, log_prob = jem.infer(semi_markov(stays), at, x)
    assert float(log_prob[0]) == pytest.approx(want["short_nb_censored_loglik"], abs=1e-9)
    np.testing.assert_allclose(posterior.smoothed[0], want["short_nb_censored_posterior"], atol=1e-8)
    ends = jem.HMM(jem.Poisson(), 3, transition=jem.laws.Durations(stays, censored=False))
    assert float(jem.log_prob(ends, at, x)[0]) == pytest.approx(want["short_nb_complete_loglik"], abs=1e-9)
    x, begin = jnp.array(data["long"], float)[None, :, None], start["long_start"]
    model = jem.Frozen(semi_markov(jem.durations.NegativeBinomial(240), 2), "initial")
    at = params([0.5, 0.5], [[0, 1], [1, 0]], begin["rate"], begin["dur_p"], begin["dur_r"])
    assert float(jem.log_prob(model, at, x)[0]) == pytest.approx(want["long_start_loglik"], abs=1e-8)
    fit = jem.fit(model, at, x).check()
    assert float(fit.log_likelihood) == pytest.approx(want["long_nb_loglik"], abs=1e-4)
    np.testing.assert_allclose(fit.params.emission.rate[:, 0], want["long_nb_rate"], atol=1e-3)
    np.testing.assert_allclose(1 + fit.params.transition.stays.mean, want["long_nb_mean_duration"], rtol=2e-3)
    np.testing.assert_allclose(fit.params.transition.stays.size, want["long_nb_dur_r"], rtol=0.03)


def test_durations_are_recovered(x64):
    """Simulated stays of 8 and of 3 steps: laws, moves and emissions within three standard errors."""
    stays = jem.durations.Poisson.Params(jnp.array([7.0, 2.0]))
    laws = jem.laws.Durations.Params(jem.laws.Cells.Params(jnp.array([[0.0, 1.0], [1.0, 0.0]])), stays)
    truth = jem.HMM.Params(jnp.array([0.5, 0.5]), laws, jem.Poisson.Params(jnp.array([[2.0], [6.0]])))
    model = semi_markov(jem.durations.Poisson(30), 2)
    _, x = jem.sample(model, key(), truth, like=jnp.ones((20, 60, 1)))
    fit = jem.fit_restarts(model, key(1), x, num_restarts=4).best().check()
    order = jnp.argsort(fit.params.emission.rate[:, 0])
    errors = jem.standard_errors(model, fit.params, x).errors
    got, off = (p.transition.stays.rate[order] for p in (fit.params, errors))
    assert (np.abs(got - truth.transition.stays.rate) < 3 * off).all()
    off = np.abs(fit.params.emission.rate[order] - truth.emission.rate) / errors.emission.rate[order]
    assert (off < 3).all() and (errors.transition.stays.rate < 1).all()


# Several chains side by side ----------------------------------------------------------------------------------------------


def factorial():
    rng = np.random.default_rng(0)
    matrices = tuple(jem.laws.Cells.Params(jnp.asarray(rng.dirichlet(np.ones(k), k))) for k in (3, 2))
    emission = jem.Poisson.Params(jnp.asarray(rng.uniform(1, 9, (6, 1))))
    model = jem.HMM(jem.Poisson(), 6, transition=jem.laws.Kronecker(3, 2))
    return model, jem.HMM.Params(jnp.asarray(rng.dirichlet(np.ones(6))), matrices, emission)


def test_factorial_chain_is_the_chain_of_all_combinations(x64):
    model, params = factorial()
    y = jnp.asarray(np.random.default_rng(1).poisson(4.0, (3, 7, 1)), float)
    x = jem.Sequences(y, jnp.array([7, 2, 5]))
    matrix = jnp.kron(*(p.probs for p in params.transition))
    plain, same = jem.HMM(jem.Poisson(), 6), params._replace(transition=jem.laws.Cells.Params(matrix))
    np.testing.assert_allclose(jem.log_prob(model, params, x), jem.log_prob(plain, same, x), rtol=1e-12)
    for ask in (jem.decode, lambda *a: jem.predict(*a, 3), lambda *a: jem.infer(*a)[0].smoothed):
        for a, b in zip(*(jax.tree.leaves(ask(m, p, x)) for m, p in ((model, params), (plain, same))), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)
    stats, _ = jem.e_step(model, params, x)
    pairs = jem.e_step(plain, same, x)[0].transition.reshape(3, 2, 3, 2)
    np.testing.assert_allclose(stats.transition[0], pairs.sum((1, 3)), atol=1e-12)
    np.testing.assert_allclose(stats.transition[1], pairs.sum((0, 2)), atol=1e-12)
    assert jem.num_parameters(model, params) == 5 + 6 + 2 + 6


def test_factorial_chain_by_enumeration(x64):
    """All paths of two chains, and gradients."""
    model, params = factorial()
    y = jnp.array([1.0, 8.0, 2.0])

    paths = np.array(list(itertools.product(range(6), repeat=3)))
    parts = np.unravel_index(paths, (3, 2))

    def total(params):
        rate = params.emission.rate[:, 0][paths]
        logs = jnp.log(params.initial[paths[:, 0]])
        logs += jnp.sum(y[None] * jnp.log(rate) - rate - jax.scipy.special.gammaln(y + 1)[None], 1)
        for law, path in zip(params.transition, parts, strict=True):
            logs += jnp.log(law.probs[path[:, :-1], path[:, 1:]]).sum(1)
        return jax.nn.logsumexp(logs)

    want, slope = jax.jit(jax.value_and_grad(total))(params)
    got, mine = jax.jit(jax.value_and_grad(lambda p: jem.log_prob(model, p, y[None, :, None])[0]))(params)
    assert float(got) == pytest.approx(float(want), rel=1e-12)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


# Every question of every law ------------------------------------------------------------------------------------------------


def driven():
    start = {"constant": jnp.array([[1.0, 0.0], [0.0, 1.5]]), "slope": jnp.arange(4.0).reshape(2, 2, 1) / 8}
    return jem.HMM(jem.Poisson(), 2, transition=jem.laws.Driven(lambda p, u: p["constant"] + p["slope"] @ u, start))


LAWS = {
    "cells": lambda: jem.HMM(jem.Poisson(), 2),
    "driven": driven,
    "categorical stays": lambda: semi_markov(jem.durations.Categorical(8), 2),
    "negative binomial stays": lambda: semi_markov(jem.durations.NegativeBinomial(8), 2),
    "kronecker": lambda: jem.HMM(jem.Poisson(), 4, transition=jem.laws.Kronecker(2, 2)),
}


def law_data(name):
    rng = np.random.default_rng(5)
    y = rng.poisson(np.repeat([1.0, 9.0, 1.0, 9.0], [3, 4, 2, 3]), (8, 12)).astype(float)[..., None]
    y = jem.Given(y, rng.standard_normal((8, 12, 1))) if name == "driven" else y
    return jem.Sequences(y, jnp.array([12, 12, 9, 12, 5, 12, 12, 7]))


@pytest.mark.parametrize("name", LAWS)
def test_every_solver_takes_every_law(x64, name):
    """Hard, annealed and stochastic EM: hard EM's bound never falls, the others end where EM ends; paths are drawn."""
    model, x = LAWS[name](), law_data(name)
    inner = LBFGS if name == "driven" else jem.solvers.EM()
    start = jem.init(model, key(), x)
    plain = jem.fit(model, start, x, solver=inner, max_steps=300)
    hard = jem.fit(model, start, x, solver=jem.solvers.Hard(inner), stop=jem.stop.NeverStop(), max_steps=15)
    path, best = jem.decode(model, hard.params, x)
    assert (np.diff(hard.trace) > -1e-9).all() and np.isfinite(hard.log_likelihood)
    assert float(hard.bound) == pytest.approx(float(best.sum()), rel=1e-9)
    assert ((path == -1) == (np.arange(12)[None] >= np.asarray(x.lengths)[:, None])).all()
    for solver in (jem.solvers.Annealed(steps=10, solver=inner), jem.solvers.Stochastic(key(2), steps=5, solver=inner)):
        fit = jem.fit(model, start, x, solver=solver, max_steps=300)
        assert float(fit.log_likelihood) > float(plain.log_likelihood) - 12 and np.isfinite(fit.log_likelihood)


@pytest.mark.parametrize("name", LAWS)
def test_every_question_of_every_law(x64, name):
    """Fisher's identity, draws, prediction, information by two routes, replicates."""
    model, x = LAWS[name](), law_data(name)
    start = jem.init(model, key(), x)
    rng = np.random.default_rng(0)
    free = jax.tree.map(lambda f: f + 0.1 * rng.standard_normal(f.shape), jem.unconstrain(model, start))
    at = lambda f: jem.constrain(model, f, start)
    params = at(free)

    @jax.jit
    def slopes(free):
        old = at(free)
        stats, _ = jem.e_step(model, old, x)
        q = jax.grad(lambda f: model.expected_log_prob(at(f), stats, old))(free)
        return q, jax.grad(lambda f: jnp.sum(jem.log_prob(model, at(f), x)))(free)

    q, score = slopes(free)
    for got, want in zip(jax.tree.leaves(q), jax.tree.leaves(score), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-8)
    path, drawn = jem.sample(model, key(1), params, like=x)
    assert path.max() < model.emission.size and jem.log_prob(model, params, drawn).shape == (8,)
    ahead = dict(inputs=np.zeros((8, 3, 1))) if name == "driven" else {}
    np.testing.assert_allclose(jem.predict(model, params, x, 3, **ahead).sum(-1), 1, atol=1e-12)
    routes = [
        jem.uncertainty.information(model, params, x, method=r).matrix
        for r in (jem.uncertainty.Hessian(), jem.uncertainty.Oakes())
    ]
    np.testing.assert_allclose(*routes, atol=1e-6 * np.abs(routes[0]).max())
    solver = LBFGS if name == "driven" else jem.solvers.EM()
    replicates = jem.bootstrap(model, key(3), params, x, num_replicates=2, max_steps=3, solver=solver)
    assert np.isfinite(replicates.objective).all()


@pytest.mark.parametrize("name", LAWS)
def test_draws_have_the_law_they_come_from(x64, name):
    """Paths drawn from the prior: first states and moves as often as the law says, by the E-step's own counts."""
    model = LAWS[name]()
    x = law_data(name)
    params = jem.init(model, key(), x)
    blank = jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a), 500, 0), x)
    path, _ = jem.sample(model, key(4), params, like=blank)
    values = jnp.full_like(jnp.asarray(law_data("cells").values), jnp.nan)  # nothing seen: the posterior is the prior
    unseen = x._replace(values=x.values._replace(outputs=values) if name == "driven" else values)
    want = jem.infer(model, params, unseen)[0].smoothed
    for s, length in enumerate(np.asarray(x.lengths)):
        mine = np.asarray(path).reshape(8, 500, 12)[s, :, :length]
        got = np.stack([(mine == k).mean(0) for k in range(model.emission.size)], -1)
        assert np.abs(got - np.asarray(want[s, :length])).max() < 5 * np.sqrt(0.25 / 500)


def test_draws_end_with_their_last_stay(x64):
    """Where the last stay ends with its sequence it does so in draws too."""
    model = semi_markov(STAYS["categorical"], censored=False)
    params = semi_params("categorical")
    stays = jem.durations.Categorical.Params(jnp.array([[0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
    params = params._replace(transition=params.transition._replace(stays=stays))
    _, x = jem.sample(model, key(), params, like=jem.Sequences(jnp.ones((50, 8, 1)), jnp.arange(50) % 6 + 3))
    assert np.isfinite(jem.log_prob(model, params, x)).all()


def test_laws_that_do_not_fit():
    stays, square = jem.durations.Poisson(5), np.full((3, 3), np.nan)
    for make in (lambda: jem.laws.Durations(stays, jem.laws.Kronecker(2, 2)), lambda: jem.laws.Durations(stays, np.eye(2))):
        with pytest.raises(TypeError, match=r"Durations: moves: expected a jem.laws.Cells"):
            make()
    for law in (
        jem.laws.Cells(square),
        jem.laws.Durations(stays, jem.laws.Cells(square)),
        jem.laws.Kronecker(2, laws=[jem.laws.Cells(square)]),
    ):
        with pytest.raises(ValueError, match=r"Cells: fixed must have shape \(K, K\) = \(2, 2\); got \(3, 3\)"):
            jem.HMM(jem.Poisson(), 2, transition=law)
    with pytest.raises(ValueError, match=r"Categorical: concentration must be .* shape \(D,\) = \(3,\); got \(5,\)"):
        jem.HMM(jem.Poisson(), 2, transition=jem.laws.Durations(jem.durations.Categorical(3, concentration=np.ones(5))))
    with pytest.raises(ValueError, match=r"chains of \(3, 2\) states have 6 combinations; the emission has 5"):
        jem.HMM(jem.Poisson(), 5, transition=jem.laws.Kronecker(3, 2))
    with pytest.raises(ValueError, match="2 sizes and 1 laws"):
        jem.laws.Kronecker(3, 2, laws=[jem.laws.Cells()])
    with pytest.raises(ValueError, match="with Durations transitions there is no law of one state"):
        jem.HMM(jem.Poisson(), 2, initial=jem.laws.Stationary(), transition=jem.laws.Durations(jem.durations.Poisson(5)))
    with pytest.raises(TypeError, match="expected a law of durations"):
        jem.laws.Durations(jem.Poisson())
    with pytest.raises(ValueError, match="longest must be an integer of at least 1"):
        jem.durations.Poisson(0)
    x = law_data("driven")
    params = jem.init(driven(), key(), x)
    with pytest.raises(ValueError, match=r"predict: expected inputs of the next 3 steps, shape \(8, 3, p\)"):
        jem.predict(driven(), params, x, 3)
    with pytest.raises(ValueError, match=r"predict: inputs must have shape .* = \(8, 3, p\); got \(8, 2, 1\)"):
        jem.predict(driven(), params, x, 3, np.zeros((8, 2, 1)))
    with pytest.raises(ValueError, match="predict: inputs cannot be missing; got nan in row 0"):
        jem.predict(driven(), params, x, 3, np.full((8, 3, 1), np.nan))

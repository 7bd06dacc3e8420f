"""Variants of EM: hard, tempered, drawn, online, incremental, Monte-Carlo, variational; each against an answer of its own."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import assert_close, build

import jem
from jem import Status
from jem.composite import Wrapper
from jem.data import to_units
from jem.engine.stop import rounding
from jem.kernels.assign import Drawn, Hardest, Tempered
from jem.node import assign

INFINITE = float("inf")


@pytest.fixture
def faithful(x64):
    """A mixture, a start, and rows in no order."""
    x = jax.random.permutation(jax.random.key(5), jnp.asarray(jem.datasets.old_faithful()))
    model = jem.Mixture(jem.Gaussian(), 2)
    return model, jem.init(model, jax.random.key(0), x), x


@pytest.fixture
def optimum(faithful):
    """Where EM goes."""
    return jem.fit(*faithful, stop=jem.stop.RelativeGain(1e-12))


# The rules, against enumeration of all paths.


@pytest.fixture
def chains(x64):
    """A hidden Markov model with sequences of unequal lengths, units last, and its joint log-density of every path."""
    model = jem.HMM(jem.Categorical(3), 2)
    rng = np.random.default_rng(0)
    x = jem.Sequences(jnp.asarray(rng.integers(0, 3, (3, 4))), jnp.array([4, 2, 1]))
    a, b = rng.dirichlet(np.ones(2), 2), rng.dirichlet(np.ones(3), 2)
    start = rng.dirichlet(np.ones(2))
    params = jem.HMM.Params(jnp.asarray(start), jem.laws.Cells.Params(jnp.asarray(a)), jem.Categorical.Params(jnp.asarray(b)))
    paths = []
    for values, length in zip(np.asarray(x.values), np.asarray(x.lengths), strict=True):
        table = {}
        for path in itertools.product(range(2), repeat=int(length)):
            p = start[path[0]] * np.prod([a[i, j] for i, j in itertools.pairwise(path)])
            table[path] = np.log(p * np.prod([b[z, v] for z, v in zip(path, values, strict=False)]))
        paths.append(table)
    return model, params, to_units(x), np.asarray(x.values), paths


def expected_counts(values, tables):
    """First states, transitions and emissions expected under `q(path)`, one table of probabilities a sequence."""
    first, pairs, emission = np.zeros(2), np.zeros((2, 2)), np.zeros((2, 3))
    for row, table in zip(values, tables, strict=True):
        for path, q in table.items():
            first[path[0]] += q
            for i, j in itertools.pairwise(path):
                pairs[i, j] += q
            for z, v in zip(path, row, strict=False):
                emission[z, v] += q
    return first, pairs, emission


@pytest.mark.parametrize("power", [0.3, 1.0, 2.0])
def test_tempered_chain(chains, power):
    model, params, x, values, paths = chains
    node = assign(model, Tempered(jnp.array(power)))
    posterior, value = node.infer(params, x)
    total = [np.logaddexp.reduce([power * l for l in table.values()]) for table in paths]
    np.testing.assert_allclose(value, np.array(total) / power, rtol=1e-12)
    q = [{z: np.exp(power * l - t) for z, l in table.items()} for table, t in zip(paths, total, strict=True)]
    stats = node.expect(params, posterior, x, jnp.ones(3))
    for got, want in zip((stats.initial, stats.transition, stats.emission.counts), expected_counts(values, q), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_hardest_chain(chains):
    model, params, x, values, paths = chains
    node = assign(model, Hardest())
    posterior, value = node.infer(params, x)
    best = [max(table, key=table.get) for table in paths]
    np.testing.assert_allclose(value, [table[z] for table, z in zip(paths, best, strict=True)], rtol=1e-12)
    stats = node.expect(params, posterior, x, jnp.ones(3))
    want = expected_counts(values, [{z: 1.0} for z in best])
    for got, counts in zip((stats.initial, stats.transition, stats.emission.counts), want, strict=True):
        np.testing.assert_allclose(got, counts, atol=1e-12)


def test_drawn_chain(chains):
    """Each draw is one path; on average the counts are those of the posterior."""
    model, params, x, _, _ = chains

    def draw(key):
        node = assign(model, Drawn(key))
        posterior, value = node.infer(params, x)
        return node.expect(params, posterior, x, jnp.ones(3)), value

    stats, value = jax.jit(lambda keys: jax.lax.map(draw, keys))(jax.random.split(jax.random.key(0), 4000))
    posterior, log_prob = model.infer(params, x)
    exact = model.expect(params, posterior, x, jnp.ones(3))
    np.testing.assert_allclose(value[0], log_prob, rtol=1e-12)
    for got, want in zip(jax.tree.leaves(stats), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(got, np.round(got), atol=1e-12)
        np.testing.assert_allclose(np.mean(got, 0), want, atol=4 * np.std(got) / np.sqrt(4000))


def test_nested_rules_bound_each_other(x64):
    """In a mixture of mixtures, hardest <= log p <= tempered below 1, and power 1 is exact."""
    model = build("mixture_of_mixtures", "float64")
    exact = model.node.infer(model.params, model.units)
    one = assign(model.node, Tempered(jnp.ones(()))).infer(model.params, model.units)
    assert_close(one, exact, model.eps)
    worth = [assign(model.node, r).infer(model.params, model.units)[1] for r in (Hardest(), Tempered(jnp.array(0.5)))]
    assert (worth[0] < exact[1]).all() and (exact[1] < worth[1]).all()


# Hard EM.


def test_hard_em_is_k_means(x64):
    """Spherical Gaussians of one variance and fixed equal weights: Lloyd's centres, step by step, to the same end."""
    x = jnp.asarray(jem.datasets.iris()[0])
    family = jem.Tied(jem.Gaussian(jem.covariance.Spherical(), prior=None), 3, "whitening")
    model = jem.Frozen(jem.Mixture(family), "weights")
    start = jem.init(model, jax.random.key(1), x)._replace(weights=jnp.ones(3) / 3)
    fit = jem.fit(model, start, x, solver=jem.solvers.Hard(), stop=jem.stop.RelativeGain(0.0))
    centres, rows = np.asarray(start.components.mean), np.asarray(x)
    for _ in range(int(fit.num_steps)):
        label = np.argmin(((rows[:, None] - centres[None]) ** 2).sum(-1), 1)
        centres = np.stack([rows[label == k].mean(0) for k in range(3)])
    assert fit.converged and fit.num_steps > 2
    np.testing.assert_allclose(fit.params.components.mean, centres, rtol=1e-10)
    np.testing.assert_array_less(fit.bound, fit.log_likelihood)
    np.testing.assert_allclose(fit.kl, fit.log_likelihood - fit.bound)
    assert np.nanmin(np.diff(fit.trace)) >= 0


def test_hard_em_of_a_chain_is_viterbi_training(x64):
    """Counts along the most probable paths, three times."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.integers(0, 3, (12, 6)))
    model = jem.HMM(jem.Categorical(3), 2)
    params = jem.init(model, jax.random.key(0), x)
    fit = jem.fit(model, params, x, solver=jem.solvers.Hard(), stop=jem.stop.NeverStop(), max_steps=3)
    for _ in range(3):
        path = np.asarray(jem.decode(model, params, x)[0])
        first, pairs, emission = expected_counts(np.asarray(x), [{tuple(z): 1.0} for z in path])
        share = [jnp.asarray(c / c.sum(-1, keepdims=True)) for c in (first, pairs, emission)]
        params = jem.HMM.Params(share[0], jem.laws.Cells.Params(share[1]), jem.Categorical.Params(share[2]))
    assert_close(fit.params, params, np.finfo(float).eps)


# Moving before all data are seen.


@pytest.mark.parametrize(
    "name",
    ["mixture_full", "mixture_diagonal", "tied_spherical", "mixture_student_t", "tied_student_t", "mixed_product", "one_of"],
)
def test_recentred_statistics(name, x64):
    """Statistics gathered about one place and moved to another are those gathered there under the same posterior."""
    model = build(name, "float64")
    node, old, new = model.node, model.params, model.random(1)
    posterior, _ = node.infer(old, model.units)
    about_old, about_new = [node.expect(p, posterior, model.units, model.weights) for p in (old, new)]
    moved = node.recentre(about_old, old, new)
    if name.startswith("tied"):  # of what is shared the sum over the components is known
        summed = lambda m: m._replace(second=jnp.sum(m.second, 0))
        moved, about_new = [
            s._replace(components=s.components._replace(moments=summed(s.components.moments))) for s in (moved, about_new)
        ]
    assert_close(moved, about_new, model.eps, 512)


def test_recentring_a_chain(x64):
    model = build("hmm", "float64")
    old, new = model.params, model.params._replace(emission=model.random(1).emission)
    posterior, _ = model.node.infer(old, model.units)
    about_old, about_new = [model.node.expect(p, posterior, model.units, model.weights) for p in (old, new)]
    assert_close(model.node.recentre(about_old, old, new), about_new, model.eps, 512)


def test_incremental(faithful, optimum):
    """The free energy never falls, and at the end it is the log-likelihood at EM's optimum."""
    fit = jem.fit(*faithful, solver=jem.solvers.Incremental(8), stop=jem.stop.RelativeGain(1e-12), max_steps=600)
    assert fit.converged
    np.testing.assert_allclose(fit.objective, optimum.objective, rtol=1e-10)
    np.testing.assert_allclose(fit.log_likelihood, fit.bound, rtol=1e-12)
    slack = rounding(fit.objective, 272.0)
    assert np.nanmin(np.diff(fit.trace)) >= -slack
    # a bound, and a proper one, on the way: not all blocks are fresh
    part = jem.fit(*faithful, solver=jem.solvers.Incremental(8), stop=jem.stop.NeverStop(), max_steps=5)
    model, _, x = faithful
    assert np.isnan(part.log_likelihood)
    assert part.bound < jem.log_prob(model, part.params, x).sum() - 1e-3


def test_online_then_em(faithful, optimum):
    fit = jem.fit(*faithful, solver=jem.solvers.Online(8), stop=jem.stop.RelativeGain(1e-12))
    assert fit.converged
    np.testing.assert_allclose(fit.objective, optimum.objective, rtol=1e-10)
    assert fit.num_steps >= 3  # two passes, and EM at the end


def test_online_over_a_stream(x64):
    """Two passes over batches of 100 come within 1e-3 of the log-likelihood of the full-batch optimum."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [3.0, 1.0], [-1.0, 3.0]])
    x = jnp.asarray(rng.normal(size=(6000, 2)) + centres[rng.integers(0, 3, 6000)])
    model = jem.Mixture(jem.Gaussian(), 3)
    start = jem.init(model, jax.random.key(0), x[:200])
    best = jem.fit(model, start, x, stop=jem.stop.RelativeGain(1e-9)).check().log_likelihood
    stream = (x[i : i + 100] for _ in range(2) for i in range(0, 6000, 100))
    got = jem.fit_stream(model, start, stream, total_weight=6000)
    assert got.finite and got.num_batches == 120
    found = jem.log_prob(model, got.params, x).sum()
    assert abs(found - best) < 1e-3 * abs(best)
    assert got.log_score < 2 * found  # the score is of predictions: never above what is known afterwards
    with pytest.raises(ValueError, match="batches is empty"):
        jem.fit_stream(model, start, iter(()), total_weight=1)


# E-steps that are not exact.


class DrawnMean(NamedTuple):
    """Mean () of the hidden values."""

    mean: jax.Array


@jem.author.node
class RandomEffect(jem.author.Node):
    """`z ~ N(mean, 1)`, `x | z ~ N(z, 1)`, without an `infer`: the maximum is the mean of x."""

    def expect(self, params, posterior, x, weights):
        return jnp.sum(weights), posterior @ weights, (posterior**2) @ weights

    def maximize(self, params, stats):
        return DrawnMean(stats[1] / stats[0])

    def expected_log_prob(self, params, stats, old):
        return -0.5 * (stats[2] - 2 * params.mean * stats[1] + params.mean**2 * stats[0])

    def recentre(self, stats, old, new):
        return stats

    def init(self, key, x, weights):
        return DrawnMean(jnp.zeros((), weights.dtype))

    def supports(self, params):
        return DrawnMean(jem.supports.Real())


def draw_effects(key, model, params, x):
    """From `p(z | x) = N((x + mean) / 2, 1 / 2)`."""
    return (x[0] + params.mean) / 2 + jax.random.normal(key, x[0].shape) * np.sqrt(0.5)


def test_monte_carlo_and_saem(x64):
    """The sampler's noise stays in Monte-Carlo EM and dies out in SAEM; neither is called converged by its gains."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 1))) + 3
    model, start = RandomEffect(), DrawnMean(jnp.zeros(()))
    noisy = jem.solvers.MonteCarlo(jax.random.key(0), draw_effects, num_draws=4)
    options = {"max_steps": 300, "stop": jem.stop.AnyOf(jem.stop.RelativeGain(1e-3), jem.stop.ParameterChange(1e-5))}
    alone = jem.fit(model, start, x, solver=noisy, **options)
    assert alone.status == Status.MAX_STEPS
    assert np.isnan(alone.log_likelihood) and np.isfinite(alone.objective)
    assert 1e-5 < abs(alone.params.mean - x.mean()) < 0.2
    averaged = jem.fit(model, start, x, solver=jem.solvers.SAEM(noisy), **options)
    assert averaged.num_steps > 25
    assert abs(averaged.params.mean - x.mean()) < 0.01


def test_stochastic(faithful, optimum):
    """Noise while it lasts, then EM's optimum; other keys and other lanes draw otherwise."""
    model, start, x = faithful
    fits = [
        jem.fit(*faithful, solver=jem.solvers.Stochastic(jax.random.key(k), steps=8), stop=jem.stop.RelativeGain(1e-12))
        for k in (0, 1)
    ]
    for fit in fits:
        assert fit.converged
        np.testing.assert_allclose(fit.objective, optimum.objective, rtol=1e-10)
    assert fits[0].trace[1:9].tolist() != fits[1].trace[1:9].tolist()
    saem = jem.solvers.SAEM(jem.solvers.Stochastic(jax.random.key(0), steps=INFINITE))
    fit = jem.fit(*faithful, solver=saem, stop=jem.stop.NeverStop(), max_steps=100)
    assert abs(fit.log_likelihood - optimum.log_likelihood) < 0.1


@jem.author.node
class OneStart(Wrapper):
    """A node that starts at the same place whatever the key."""

    child: jem.author.Node

    def init(self, key, x, weights):
        return self.child.init(jax.random.key(7), x, weights)

    def bind(self, x, weights):
        return OneStart(self.child.bind(x, weights))


def test_lanes_draw_for_themselves(x64):
    """From one start every lane goes its own way, and the same way when the lanes are split over devices."""
    x = jnp.asarray(jem.datasets.old_faithful())
    model = OneStart(jem.Mixture(jem.Gaussian(), 3))
    run = lambda x: jem.fit_restarts(  # noqa: E731
        model, jax.random.key(0), x, num_restarts=4, solver=jem.solvers.Stochastic(jax.random.key(1), steps=5), max_steps=12
    )
    fits = run(x)
    assert len({float(v) for v in fits.trace[:, 0]}) == 1 and len({float(v) for v in fits.trace[:, 3]}) == 4
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("lanes",))
    split = run(jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())))
    np.testing.assert_allclose(split.trace, fits.trace, rtol=1e-10)


def two_best(model, params, x):
    """q on the two most probable components, and its bound."""
    posterior, logits = model.log_joint(params, x)
    least = jax.lax.top_k(logits.T, 2)[0][:, 1]
    logits = jnp.where(logits >= least[None, :], logits, -jnp.inf)
    return jem.Mixture.Posterior(jax.nn.softmax(logits, axis=0), posterior), jax.nn.logsumexp(logits, axis=0)


def test_variational(x64):
    """The bound climbs and stays below the log-likelihood; the gap is KL(q || p), computed here."""
    x = jnp.asarray(jem.datasets.iris()[0])
    model = jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 4)
    start = jem.init(model, jax.random.key(0), x)
    fit = jem.fit(model, start, x, solver=jem.solvers.Variational(two_best, exact=True), stop=jem.stop.RelativeGain(1e-9))
    assert fit.converged and np.nanmin(np.diff(fit.trace)) > -1e-9
    np.testing.assert_allclose(fit.log_likelihood, jem.log_prob(model, fit.params, x).sum(), rtol=1e-10)
    bound = jem.bind(model, x)
    q = two_best(bound, fit.params, to_units(x))[0].responsibilities
    p = bound.infer(fit.params, to_units(x))[0].responsibilities
    kl = jnp.sum(jnp.where(q > 0, q * (jnp.log(jnp.where(q > 0, q, 1)) - jnp.log(p)), 0))
    np.testing.assert_allclose(fit.kl, kl, rtol=1e-6)
    assert kl > 1e-6
    unknown = jem.fit(model, start, x, solver=jem.solvers.Variational(two_best), stop=jem.stop.RelativeGain(1e-9))
    np.testing.assert_allclose(unknown.bound, fit.bound, rtol=1e-12)
    assert np.isnan(unknown.log_likelihood) and np.isnan(unknown.kl)


# Blocks.


def test_blocks_never_fall_and_meet_em(faithful, optimum):
    fit = jem.fit(*faithful, solver=jem.solvers.ECM("components", "weights"), stop=jem.stop.RelativeGain(1e-12))
    assert fit.converged and np.nanmin(np.diff(fit.trace)) > -1e-9
    np.testing.assert_allclose(fit.objective, optimum.objective, rtol=1e-10)


def test_what_cannot_be_done_says_so():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(30, 3)), jnp.float32)
    model = jem.FactorAnalysis(1)
    start = jem.init(model, jax.random.key(0), x)
    for solver in (jem.solvers.Annealed(), jem.solvers.Hard(), jem.solvers.Stochastic(jax.random.key(0))):
        with pytest.raises(ValueError, match=f"{type(solver).__name__}: FactorAnalysis has no discrete hidden variable"):
            jem.fit(model, start, x, solver=solver)
    for solver in (jem.solvers.Online(2), jem.solvers.Incremental(2)):
        with pytest.raises(TypeError, match="FactorAnalysis does not define recentre"):
            jem.fit(model, start, x, solver=solver)
    with pytest.raises(ValueError, match=r"ECM: the groups must hold each field .*'whitening'"):
        jem.fit(model, start, x, solver=jem.solvers.ECM("mean", "loadings"))
    wrong = jem.solvers.Variational(lambda model, params, x: (model.infer(params, x)[0], jnp.zeros(2)))
    with pytest.raises(ValueError, match="posterior must give one bound a unit"):
        jem.fit(model, start, x, solver=wrong)

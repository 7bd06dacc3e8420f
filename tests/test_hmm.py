"""Hidden Markov models: brute force over all paths, padding, missing steps, known states, both forms of the recursion."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem.kernels import chain
from jem.kernels.moves import Table

K, T, S = 3, 5, 2


def random_chain(seed=0, steps=T):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(K)), rng.dirichlet(np.ones(K), K), rng.random((steps, K, S)) + 0.05


def enumerate_paths(initial, transition, e):
    """Every path's joint probability (paths, S), and the paths."""
    paths = np.array(list(itertools.product(range(K), repeat=len(e))))
    p = initial[paths[:, 0]][:, None] * e[0][paths[:, 0]]
    for t in range(1, len(e)):
        p = p * transition[paths[:, t - 1], paths[:, t]][:, None] * e[t][paths[:, t]]
    return paths, p


@pytest.mark.parametrize("form", [jem.forms.Sequential(), jem.forms.Blocks(2), jem.forms.Blocks(3), jem.forms.Blocks()])
def test_smoothing_equals_enumeration(x64, form):
    initial, transition, e = random_chain()
    paths, p = enumerate_paths(initial, transition, e)
    total = p.sum(0)
    s = chain.smooth(jnp.asarray(initial), Table(jnp.asarray(transition)), jnp.log(e), form)
    gamma = np.stack([[(p * (paths[:, t] == k)[:, None]).sum(0) / total for k in range(K)] for t in range(T)])
    pairs = sum(
        np.array([[(p * ((paths[:, t - 1] == i) & (paths[:, t] == j))[:, None]).sum(0) for j in range(K)] for i in range(K)])
        for t in range(1, T)
    )
    counts = Table(jnp.asarray(transition)).counts(s.filtered, s.backward, s.rest, jnp.ones((T, S)))
    np.testing.assert_allclose(s.log_normalizer, np.log(total), atol=1e-13)
    np.testing.assert_allclose(s.smoothed, gamma, atol=1e-13)
    np.testing.assert_allclose(counts, (pairs / total).sum(-1), atol=1e-13)


def test_viterbi_equals_enumeration(x64):
    initial, transition, e = random_chain(1)
    paths, p = enumerate_paths(initial, transition, e)
    path, log_prob = chain.viterbi(jnp.log(initial), Table(transition).log(), jnp.log(e), jnp.ones((T, S), bool))
    np.testing.assert_array_equal(np.asarray(path).T, paths[p.argmax(0)])
    np.testing.assert_allclose(log_prob, np.log(p.max(0)), atol=1e-13)


def test_posterior_is_the_gradient_of_the_normaliser(x64):
    initial, transition, e = map(jnp.asarray, random_chain(2, 40))
    grad = jax.grad(lambda log_e: chain.smooth(initial, Table(transition), log_e).log_normalizer.sum())(jnp.log(e))
    np.testing.assert_allclose(grad, chain.smooth(initial, Table(transition), jnp.log(e)).smoothed, atol=1e-12)


@pytest.mark.parametrize("states", [4, 12])
def test_long_float32_chain_agrees_with_float64(states):
    rng = np.random.default_rng(3)
    initial, transition = rng.dirichlet(np.ones(states)), rng.dirichlet(np.ones(states), states)
    e = rng.random((20000, states, 1))
    results = {}
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            args = [jnp.asarray(a, dtype) for a in (initial, transition, np.log(e))]
            for form in (jem.forms.Sequential(), jem.forms.Blocks()):
                s = chain.smooth(args[0], Table(args[1]), args[2], form)
                results[dtype, form] = np.asarray(s.smoothed, np.float64), float(s.log_normalizer[0])
    gamma, value = results["float64", jem.forms.Sequential()]
    np.testing.assert_allclose(results["float64", jem.forms.Blocks()][0], gamma, atol=1e-11)
    for form in (jem.forms.Sequential(), jem.forms.Blocks()):
        assert np.abs(results["float32", form][0] - gamma).max() < 1e-5
        assert abs(results["float32", form][1] / value - 1) < 1e-6


def model_and_data(seed=0, num=4, steps=12):
    node = jem.HMM(jem.Gaussian(), 2, length=steps)
    params = jem.HMM.Params(
        jnp.array([0.6, 0.4]),
        jem.laws.Cells.Params(jnp.array([[0.8, 0.2], [0.3, 0.7]])),
        jem.Gaussian().params([[0.0], [2.0]], [[[1.0]], [[0.5]]]),
    )
    return node, params, jem.sample(node, jax.random.key(seed), params, num)[1]


def test_padding_changes_nothing(x64):
    node, params, x = model_and_data()
    lengths = jnp.array([12, 7, 1, 9], jnp.int32)
    junk = jnp.where(jnp.arange(12)[None, :, None] < lengths[:, None, None], x, jnp.nan)
    short = jem.Sequences(junk, lengths)
    long = jem.Sequences(jnp.concatenate([junk, jnp.full((4, 5, 1), 1e9)], 1), lengths)
    alone = [x[i : i + 1, : int(n)] for i, n in enumerate(lengths)]
    want = jnp.concatenate([jem.log_prob(node, params, a) for a in alone])
    for seqs in (short, long, jem.sequences([np.asarray(a[0]) for a in alone])):
        np.testing.assert_allclose(jem.log_prob(node, params, seqs), want, atol=1e-12)
    a, b = jem.fit(node, params, short, max_steps=5), jem.fit(node, params, long, max_steps=5)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, atol=1e-10), a.params, b.params)
    paths, log_joint = jem.decode(node, params, long)
    for i, one in enumerate(alone):
        path, value = jem.decode(node, params, one)
        n = int(lengths[i])
        np.testing.assert_array_equal(paths[i, :n], path[0])
        assert (np.asarray(paths[i, n:]) == -1).all()
        np.testing.assert_allclose(log_joint[i], value[0], atol=1e-12)


def test_a_missing_step_is_summed_out(x64):
    node = jem.HMM(jem.Categorical(2), 2)
    params = jem.HMM.Params(
        jnp.array([0.3, 0.7]),
        jem.laws.Cells.Params(jnp.array([[0.8, 0.2], [0.3, 0.7]])),
        jem.Categorical.Params(jnp.array([[0.9, 0.1], [0.4, 0.6]])),
    )
    values = [jnp.array([[0.0, m, 1.0, 1.0]]) for m in (0.0, 1.0, jnp.nan)]
    zero, one, missing = (jem.log_prob(node, params, v)[0] for v in values)
    np.testing.assert_allclose(missing, jnp.logaddexp(zero, one), atol=1e-13)


def test_missing_cells_of_a_product(x64):
    part = jem.Missing(jem.Gaussian(prior=None))
    node = jem.HMM(jem.Product(a=part, b=part), 2)
    rng = np.random.default_rng(0)
    x = {n: jnp.asarray(rng.standard_normal((2, 30, 1))) for n in "ab"}
    holes = {"a": x["a"].at[0, 3].set(jnp.nan), "b": x["b"].at[1, 4].set(jnp.nan)}
    params = jem.init(node, jax.random.key(0), x)
    base = jem.log_prob(node, params, holes)
    # The same sum, with the missing part's log-density taken out of the emissions by hand.
    flat = {n: x[n].reshape(60, 1) for n in "ab"}
    gauss = jem.Stack(jem.Gaussian(prior=None), 2)
    log_e = {n: np.array(gauss.infer(params.emission[n], flat[n].T)[1]).reshape(2, 2, 30) for n in "ab"}
    log_e["a"][:, 0, 3], log_e["b"][:, 1, 4] = 0, 0
    log_e = jnp.asarray(np.moveaxis(log_e["a"] + log_e["b"], (0, 1, 2), (1, 2, 0)))
    want = chain.smooth(params.initial, Table(params.transition.probs), log_e).log_normalizer
    np.testing.assert_allclose(base, want, atol=1e-12)


def test_known_states(x64):
    node, params, x = model_and_data(1, 3, 8)
    labels = jnp.full((3, 8), -1, jnp.int32).at[0, 2].set(1).at[2, :].set(0)
    posterior, log_prob = jem.infer(node, params, jem.Labelled(x, labels))
    assert float(posterior.smoothed[0, 2, 1]) == 1.0
    assert (np.asarray(posterior.smoothed[2, :, 0]) == 1.0).all()
    free = jem.log_prob(node, params, x)
    chance = jem.infer(node, params, x)[0].smoothed[0, 2, 1]
    np.testing.assert_allclose(log_prob[0], free[0] + jnp.log(chance), atol=1e-12)
    np.testing.assert_allclose(log_prob[1], free[1], atol=1e-12)


def test_fixed_and_forbidden_cells_survive_the_m_step(x64):
    nan = np.nan
    fixed = [[nan, nan, 0.0], [0.0, nan, nan], [0.0, 0.25, nan]]
    node = jem.HMM(jem.Gaussian(), 3, transition=jem.laws.Cells(fixed, concentration=1.5))
    x = model_and_data(2, 5, 30)[2]
    fit = jem.fit_restarts(node, jax.random.key(0), x, num_restarts=2, max_steps=30)
    probs = np.asarray(fit.params.transition.probs)
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-12)
    assert (probs[:, [0, 1, 2], [2, 0, 0]] == 0).all()
    np.testing.assert_allclose(probs[:, 2, 1], 0.25, atol=1e-12)
    trace = np.asarray(fit.trace)
    assert np.nanmin(np.diff(trace, axis=1)) > -1e-9
    assert jem.num_parameters(node, fit.best().params) == 2 + 2 + 3 * 2


def test_predict_powers_the_transition(x64):
    node, params, x = model_and_data(3, 2, 6)
    seqs = jem.Sequences(x, jnp.array([6, 4], jnp.int32))
    ahead = jem.predict(node, params, seqs, 3)
    last = jem.infer(node, params, x[1:, :4])[0].filtered[0, -1]
    for h in range(3):
        np.testing.assert_allclose(ahead[1, h], last @ np.linalg.matrix_power(params.transition.probs, h + 1), atol=1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jem.sequences([]), "the list is empty"),
        (lambda: jem.laws.Cells([[0.5, 0.6], [0.5, 0.5]]), "row 0 sum to 1.1"),
        (lambda: jem.laws.Cells().params([[0.5, 0.5], [0.9, 0.3]]), "must sum to one; got 1.2 in row 1"),
        (lambda: jem.laws.Cells().params([[0.5, 0.5], [1.2, -0.2]]), r"got -0.2\S* at \(1, 1\)"),
        (lambda: jem.init(jem.HMM(jem.Poisson(), 2), jax.random.key(0), jnp.zeros((0, 5, 1))), "no rows"),
        (lambda: jem.init(jem.HMM(jem.Poisson(), 2), jax.random.key(0), jnp.array([[[1], [-2]]])), "-2 in row 1, column 0"),
        (
            lambda: jem.init(jem.HMM(jem.Categorical(3), 2), jax.random.key(0), jnp.array([[1, 3]])),
            "integers 0 .. 2; got 3 in row 1",
        ),
        (
            lambda: jem.init(
                jem.HMM(jem.Poisson(), 2), jax.random.key(0), jem.Sequences(jnp.ones((2, 3, 1)), jnp.array([3, 4], jnp.int32))
            ),
            "length 4 of sequence 1; expected 1 .. 3",
        ),
        (lambda: jem.init(jem.HMM(jem.Poisson(), 2), jax.random.key(0), jnp.ones(5)), "for one sequence pass"),
    ],
)
def test_bad_input_names_the_place(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("num_states", [2, 3])
def test_earthquakes(x64, cases, num_states):
    case = json.loads((cases / "hmm_earthquakes_free.json").read_text())
    start, expected = case["init"][str(num_states)], case["expected"]
    x = jnp.asarray(case["data"]["counts"])[None, :, None]
    params = jem.HMM.Params(
        jnp.asarray(start["pi"]),
        jem.laws.Cells.Params(jnp.asarray(start["A"])),
        jem.Poisson.Params(jnp.asarray(start["lambda"], float)[:, None]),
    )
    fit = jem.fit(jem.HMM(jem.Poisson(), num_states), params, x, stop=jem.stop.RelativeGain(0.0), max_steps=5000).check()
    rates, probs = fit.params.emission.rate[:, 0], fit.params.transition.probs
    for name, got in (("loglik", fit.log_likelihood), ("A", probs), ("lambda", rates)):
        want = expected[f"m{num_states}_{name}"]
        np.testing.assert_allclose(got, want["value"], atol=want.get("atol", 1e-6), rtol=want.get("rtol", 0))


def test_speed_accuracy(x64, cases):
    case = json.loads((cases / "hmm_speed.json").read_text())
    start, expected, data = case["init"]["em_start"], case["expected"], case["data"]
    ends = np.cumsum(data["ntimes"])[:-1]
    parts = zip(np.split(np.array(data["rt"]), ends), np.split(np.array(data["correct"]), ends), strict=True)
    x = jem.sequences([{"rt": rt[:, None], "correct": c[:, None]} for rt, c in parts])
    node = jem.HMM(jem.Product(rt=jem.Gaussian(prior=None), correct=jem.Bernoulli()), 2)
    rt = jem.Gaussian().params(np.array(start["mu"])[:, None], np.array(start["sd"])[:, None, None] ** 2)
    emission = {"rt": rt, "correct": jem.Bernoulli.Params(jnp.asarray(start["p_correct"])[:, None])}
    params = jem.HMM.Params(jnp.asarray(start["pi"]), jem.laws.Cells.Params(jnp.asarray(start["A"])), emission)
    fit = jem.fit(node, params, x, stop=jem.stop.RelativeGain(0.0), max_steps=5000).check()
    got = {
        "loglik": fit.log_likelihood,
        "mu": fit.params.emission["rt"].mean[:, 0],
        "p_correct": fit.params.emission["correct"].probs[:, 0],
        "A": fit.params.transition.probs,
    }
    for name, value in got.items():
        want = expected[name]
        np.testing.assert_allclose(value, want["value"], atol=want.get("atol", 1e-6), rtol=want.get("rtol", 0))


def test_ice_cream_with_and_without_stop(x64, cases):
    case = json.loads((cases / "hmm_icecream.json").read_text())
    start, expected = case["init"], {k: v["value"] for k, v in case["expected"].items()}
    cones = jnp.asarray(case["data"]["cones"])[None] - 1
    a, b, stop = (np.array(start[n]) for n in ("A", "B", "stop"))
    # Stopping is a third state that emits a fourth symbol, once: structural zeros stay zero through EM.
    probs = np.block([[a, stop[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])
    symbols = np.block([[b, np.zeros((2, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])
    params = jem.HMM.Params(
        jnp.array([*start["pi"], 0.0]), jem.laws.Cells.Params(jnp.asarray(probs)), jem.Categorical.Params(jnp.asarray(symbols))
    )
    x = jnp.concatenate([cones, jnp.full((1, 1), 3)], 1)
    node = jem.HMM(jem.Categorical(4), 3)
    np.testing.assert_allclose(jem.log_prob(node, params, x)[0], expected["stop_loglik_iter0"], atol=1e-8)
    hot = jem.infer(node, params, x)[0].smoothed[0, :-1, 1]
    np.testing.assert_allclose(hot, expected["posterior_hot_iter0"], atol=1e-8)
    fit = jem.fit(node, params, x, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=10)
    np.testing.assert_allclose(fit.params.transition.probs[:2, :2], expected["stop_iter10_A"], atol=1e-8)
    np.testing.assert_allclose(fit.params.transition.probs[:2, 2], expected["stop_iter10_stop"], atol=1e-8)
    np.testing.assert_allclose(fit.params.emission.probs[:2, :3], expected["stop_iter10_B"], atol=1e-8)


@pytest.mark.parametrize("ask", [jem.fit, jem.log_prob, jem.infer, jem.e_step, jem.decode])
def test_rows_that_do_not_sum_to_one_are_named(ask):
    model, x = jem.HMM(jem.Poisson(), 2), np.array([[[1], [2], [9], [8]]])
    good = jem.init(model, jax.random.key(0), x)
    bad = good._replace(transition=jem.laws.Cells.Params(jnp.array([[0.5, 0.5], [0.5, 0.6]])))
    with pytest.raises(ValueError, match=r"params\.transition\.probs: .* sum to one; row 1 sums to 1\.1"):
        ask(model, bad, x)
    jem.log_prob(model, good, x)

"""Hidden Markov models beside hmmlearn and dynamax, in float64, from the same start."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem

K, STEPS = 3, 5


def problem(kind):
    """Two sequences, a start, and the node: emissions with full covariances, or categories."""
    rng = np.random.default_rng(2)
    initial, transition = rng.dirichlet(np.ones(K)), rng.dirichlet(4 * np.eye(K)[0] + 1, K)
    if kind == "gaussian":
        means, covariances = rng.normal(size=(K, 2)) * 2, np.tile(np.eye(2), (K, 1, 1))
        x = rng.normal(size=(2, 60, 2)) + means[rng.integers(0, K, (2, 60))]
        return jem.Gaussian(prior=None), x, initial, transition, (means + 0.3, covariances)
    return jem.Categorical(4), rng.integers(0, 4, (2, 60)), initial, transition, (rng.dirichlet(np.ones(4), K),)


def after(kind):
    """What jem has after some EM steps: first states, transitions, emissions; and the log-likelihood at the start."""
    leaf, x, initial, transition, emission = problem(kind)
    record = leaf.params(*emission) if kind == "gaussian" else jem.Categorical.Params(jnp.asarray(emission[0]))
    params = jem.HMM.Params(jnp.asarray(initial), jem.laws.Cells.Params(jnp.asarray(transition)), record)
    fit = jem.fit(jem.HMM(leaf, K), params, jnp.asarray(x), solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=STEPS)
    found = fit.params.emission
    parts = (found.mean, found.covariance) if kind == "gaussian" else (found.probs,)
    return (fit.params.initial, fit.params.transition.probs, *parts), float(fit.trace[0])


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, at hmmlearn
@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_em_is_hmmlearns(x64, kind):
    peer = pytest.importorskip("hmmlearn.hmm")
    _, x, initial, transition, emission = problem(kind)
    shared = {"n_iter": STEPS, "tol": -math.inf, "init_params": ""}
    if kind == "gaussian":
        flat = {"min_covar": 0.0, "covars_prior": 0.0, "covars_weight": 0.0}
        model = peer.GaussianHMM(K, covariance_type="full", **flat, **shared)
        model.means_, model.covars_ = emission
    else:
        model = peer.CategoricalHMM(K, n_features=4, **shared)
        model.emissionprob_ = emission[0]
    model.startprob_, model.transmat_ = initial, transition
    rows = x.reshape(120, -1)
    at_start = model.score(rows, [60, 60])
    model.fit(rows, [60, 60])
    parts = (model.means_, model.covars_) if kind == "gaussian" else (model.emissionprob_,)
    got, first = after(kind)
    np.testing.assert_allclose(first, at_start, rtol=1e-10)
    assert_same(got, (model.startprob_, model.transmat_, *parts))


def test_em_is_dynamaxs(x64):
    _, x, initial, transition, (probs,) = problem("categorical")
    precision = jax.config.jax_default_matmul_precision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = pytest.importorskip("dynamax.hidden_markov_model")
        jax.config.update("jax_default_matmul_precision", precision)  # its import sets it for the whole process
        model = peer.CategoricalHMM(
            K, 1, 4, initial_probs_concentration=1.0, transition_matrix_concentration=1.0, emission_prior_concentration=1.0
        )
        with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
            start, props = model.initialize(
                initial_probs=jnp.asarray(initial), transition_matrix=jnp.asarray(transition),
                emission_probs=jnp.asarray(probs)[:, None, :],
            )  # fmt: skip
            found, _ = model.fit_em(start, props, jnp.asarray(x)[..., None], num_iters=STEPS, verbose=False)
    got, _ = after("categorical")
    assert_same(got, (found.initial.probs, found.transitions.transition_matrix, found.emissions.probs[:, 0]))

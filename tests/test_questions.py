"""Every question looks at its parameters: wrong ones are refused by name, whatever is asked, and nothing raises inside jit."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem.engine.result import Fit

key = lambda: jax.random.key(0)
MODEL, CHAIN = jem.Mixture(jem.Bernoulli(), 2), jem.HMM(jem.Bernoulli(), 2)
X = jnp.asarray(np.random.default_rng(0).integers(0, 2, (12, 2)), float)
SERIES = X.reshape(2, 6, 2)
PROBS = jem.Bernoulli.Params(jnp.array([[0.2, 0.4], [0.7, 0.6]]))
GOOD = jem.Mixture.Params(jnp.array([0.4, 0.6]), PROBS)
MOVES = jem.laws.Cells.Params(jnp.array([[0.9, 0.1], [0.2, 0.8]]))
SPOKEN = jem.HMM.Params(jnp.array([0.4, 0.6]), MOVES, PROBS)
FIRST = lambda p: p.weights[0]

# What is asked of a mixture (params, x), and of a chain.
QUESTIONS = {
    "log_prob": lambda p, x: jem.log_prob(MODEL, p, x),
    "infer": lambda p, x: jem.infer(MODEL, p, x),
    "e_step": lambda p, x: jem.e_step(MODEL, p, x),
    "em_step": lambda p, x: jem.em_step(MODEL, p, x),
    "elbo": lambda p, x: jem.elbo(MODEL, p, x, posterior_at=GOOD),
    "elbo_at": lambda p, x: jem.elbo(MODEL, GOOD, x, posterior_at=p),
    "sample": lambda p, x: jem.sample(MODEL, key(), p, 3),
    "sample_like": lambda p, x: jem.sample(MODEL, key(), p, like=x),
    "aic": lambda p, x: jem.aic(MODEL, p, x),
    "bic": lambda p, x: jem.bic(MODEL, p, x),
    "icl": lambda p, x: jem.icl(MODEL, p, x),
    "standard_errors": lambda p, x: jem.standard_errors(MODEL, p, x),
    "delta_method": lambda p, x: jem.uncertainty.delta_method(FIRST, MODEL, p, x),
    "information": lambda p, x: jem.uncertainty.information(MODEL, p, x),
    "bootstrap": lambda p, x: jem.bootstrap(MODEL, key(), p, x, num_replicates=2),
    "influence": lambda p, x: jem.uncertainty.influence(MODEL, p, x),
    "leave_one_out": lambda p, x: jem.uncertainty.leave_one_out(MODEL, p, x),
    "profile_interval": lambda p, x: jem.uncertainty.profile_interval(FIRST, MODEL, p, x),
    "log_density": lambda p, x: jem.uncertainty.log_density(MODEL, p, x),
    "impute": lambda p, x: jem.impute(MODEL, p, x),
    "sample_posterior": lambda p, x: jem.sample_posterior(MODEL, key(), p, x),
    "marginal": lambda p, x: jem.marginal(MODEL, p, [0]),
    "condition": lambda p, x: jem.condition(MODEL, p, [0], [1.0]),
    "fit_stream": lambda p, x: jem.fit_stream(MODEL, p, [x], total_weight=12),
}
CHAIN_QUESTIONS = {
    "decode": lambda p, x: jem.decode(CHAIN, p, x),
    "predict": lambda p, x: jem.predict(CHAIN, p, x, 2),
}
ELSEWHERE = {"m_step", "num_parameters", "constrain", "unconstrain", "fit"}  # no data to look at; a start has its own door


def with_weights(*weights):
    return GOOD._replace(weights=jnp.array(weights))


def with_probs(probs):
    return GOOD._replace(components=jem.Bernoulli.Params(jnp.array(probs)))


def fit_of(params):
    return Fit(params, *(jnp.zeros(()) for _ in Fit._fields[1:]))


STACKED = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf, leaf]), GOOD)
WRONG = {
    "a fit": (fit_of(GOOD), "pass fit.params"),
    "restarts": (Fit(STACKED, *(jnp.zeros(3) for _ in Fit._fields[1:])), r"best\(\)"),
    "their parameters": (STACKED, r"one fit|best\(\)"),
    "three components": (jem.Mixture.Params(jnp.ones(3), jem.Bernoulli.Params(jnp.ones((3, 2)) / 2)), "params|posterior_at"),
    "another model": (jem.Poisson.Params(jnp.ones(2)), "params|posterior_at"),
    "nothing": (None, "params|posterior_at"),
    "weights of two": (with_weights(1.0, 1.0), "weights.*sum"),
    "a negative weight": (with_weights(-0.5, 1.5), "weights.*sum"),
    "a weight of NaN": (with_weights(0.5, np.nan), "weights.*NaN"),
    "a probability of 1.5": (with_probs([[0.2, 0.4], [0.7, 1.5]]), r"probs.*1\.5 at \(1, 1\)"),
    "a probability of NaN": (with_probs([[np.nan, 0.4], [0.7, 0.5]]), "probs.*NaN"),
}
ONE_FEATURE = with_probs([[0.2], [0.7]])


@pytest.mark.parametrize("question", QUESTIONS)
def test_wrong_parameters_are_refused(question):
    """By name, with what was expected; before anything is computed."""
    for name, (params, match) in WRONG.items():
        with pytest.raises(ValueError, match=match):
            QUESTIONS[question](params, X)
            pytest.fail(name)
    if question in ("sample", "marginal", "condition"):  # of no data
        return
    for params, x in ((GOOD, X[:, :1]), (ONE_FEATURE, X), (GOOD, jnp.concatenate([X, X], 1))):
        with pytest.raises(ValueError, match="probs.*expected shape"):
            QUESTIONS[question](params, x)


@pytest.mark.parametrize("question", CHAIN_QUESTIONS)
def test_wrong_parameters_of_a_chain(question):
    ask = CHAIN_QUESTIONS[question]
    for params in (
        fit_of(SPOKEN), jax.tree.map(lambda leaf: leaf[None], SPOKEN), GOOD, SPOKEN._replace(initial=jnp.array([1.0, 1.0])),
        SPOKEN._replace(transition=jem.laws.Cells.Params(jnp.ones((2, 2)))), SPOKEN._replace(emission=ONE_FEATURE.components),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="params"):
            ask(params, SERIES)


def test_every_question_is_in_the_table():
    """All that is public and takes parameters of a model."""
    found = {
        name for name, value in {**vars(jem), **vars(jem.uncertainty)}.items()
        if inspect.isfunction(value) and {"params", "node"} <= set(inspect.signature(value).parameters)
    }  # fmt: skip
    assert found - ELSEWHERE <= {*QUESTIONS, *CHAIN_QUESTIONS}
    for ask in (lambda p: jem.num_parameters(MODEL, p), lambda p: jem.m_step(MODEL, p, None)):
        with pytest.raises(ValueError, match="pass fit.params"):
            ask(fit_of(GOOD))


def test_inside_a_transformation_nothing_raises_but_shapes_do():
    ask = jax.jit(lambda p, x: jem.log_prob(MODEL, p, x))
    assert ask(with_weights(1.0, 1.0), X).shape == (12,)
    with pytest.raises(ValueError, match="expected shape"):
        ask(GOOD, X[:, :1])
    each = jax.vmap(lambda p: jem.log_prob(MODEL, p, X))(STACKED)
    np.testing.assert_allclose(each[1], jem.log_prob(MODEL, GOOD, X), rtol=1e-6)


def test_numbers_in_lists_are_arrays():
    params = jem.Mixture.Params([0.4, 0.6], jem.Bernoulli.Params([[0.2, 0.4], [0.7, 0.6]]))
    np.testing.assert_allclose(jem.log_prob(MODEL, params, X), jem.log_prob(MODEL, GOOD, X), rtol=1e-6)


def test_options_and_batches_of_a_stream():
    go = lambda batches, weight=24.0, exponent=0.6: jem.fit_stream(
        MODEL, GOOD, batches, total_weight=weight, exponent=exponent
    )
    for weight in (0, -1.0, np.nan, np.inf, [1.0, 2.0]):
        with pytest.raises(ValueError, match="total_weight"):
            go([X], weight)
    for exponent in (0.5, 1.1, np.nan, -1):
        with pytest.raises(ValueError, match="exponent"):
            go([X], exponent=exponent)
    for batches in (None, 3):
        with pytest.raises(ValueError, match="batches"):
            go(batches)
    for later in (X[:, :1], X.astype(int), {"a": X}):
        with pytest.raises(ValueError, match="batch 1"):
            go([X, later])
    assert bool(go([X, X[:5]]).finite)


def test_choosing_a_model():
    """Criteria that are not defined are NaN in the table and are not chosen by."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal((30, 3)))
    table = jem.sweep({"factor": jem.FactorAnalysis(1)}, key(), x, num_restarts=1, max_steps=3)
    assert np.isnan(table.rows[0].icl) and table.best("bic") == table.best("aic") == "factor" and "factor" in str(table)
    with pytest.raises(ValueError, match="icl is defined for none"):
        table.best("icl")
    with pytest.raises(ValueError, match="criterion must be one of"):
        table.best("status")
    for models in ({}, None):
        with pytest.raises(ValueError, match="at least one"):
            jem.sweep(models, key(), x, num_restarts=1)
    with pytest.raises(ValueError, match="icl: expected a mixture"):
        jem.icl(CHAIN, SPOKEN, SERIES)


def test_an_alternative_below_the_null_model():
    """It says so: the models are exchanged, or not nested."""
    x = jnp.array([[1], [2], [1], [9], [8], [9], [2], [8]])
    options = {"num_replicates": 2, "num_restarts": 2, "max_steps": 50}
    found = jem.uncertainty.likelihood_ratio_test(jem.Mixture(jem.Poisson(), 2), jem.Poisson(), key(), x, **options)
    assert int(found.status) == jem.uncertainty.TestStatus.NOT_ABOVE and np.isnan(found.p_value)
    with pytest.raises(jem.FitError, match="NOT_ABOVE"):
        found.check()
    with pytest.raises(ValueError, match="Bernoulli"):
        jem.uncertainty.likelihood_ratio_test(jem.Poisson(), jem.Bernoulli(), key(), x, **options)


def test_an_alternative_without_a_maximum():
    """Rows of one place each: every start of the alternative collapses onto one, and there is nothing to compare with."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 1)))
    models = jem.Mixture(jem.Gaussian(prior=None), 1), jem.Mixture(jem.Gaussian(prior=None), 8)
    found = jem.uncertainty.likelihood_ratio_test(*models, key(), x, num_replicates=2, num_restarts=2)
    assert int(found.status) == jem.uncertainty.TestStatus.FAILED and np.isnan(found.p_value)


@pytest.mark.parametrize("level", [95, 0, 1, -1, np.nan, np.array([0.9, 0.95])])
def test_levels_lie_between_zero_and_one(level):
    node, x = jem.Poisson(), jnp.array([[1], [4], [2]])
    params = jem.fit(node, jem.Poisson.Params(jnp.array([1.0])), x).params
    errors = jem.standard_errors(node, params, x)
    replicates = jem.bootstrap(node, key(), params, x, num_replicates=3)
    for ask in (
        errors.interval,
        replicates.interval,
        lambda level: jem.uncertainty.profile_interval(lambda p: p.rate[0], node, params, x, confidence=level),
    ):
        with pytest.raises(ValueError, match="must lie between 0 and 1"):
            ask(level)


LEVELS = jem.LDS(2, 1)
LEVELS_START = LEVELS.params(C=[[1.0, 0.5]])
STEPS = jnp.arange(6.0).reshape(1, 6, 1)
LEVEL_QUESTIONS = {
    "smooth": lambda p: LEVELS.smooth(p, STEPS),
    "filter": lambda p: LEVELS.filter(p, STEPS),
    "forecast": lambda p: LEVELS.forecast(p, STEPS, 2),
    "simulate": lambda p: LEVELS.simulate(key(), p, jnp.zeros((1, 4, 0))),
    "predict": lambda p: jem.predict(LEVELS, p, STEPS, 2),
}
LEVEL_WRONG = {
    "a fit": (fit_of(LEVELS_START), "params: expected.*Fit"),
    "another model": (GOOD, "params: expected the structure"),
    "another number of states": (jem.LDS(3, 1).params(C=np.ones((1, 3))), r"params.*expected shape \(2"),
    "another number of outputs": (jem.LDS(2, 3).params(C=np.ones((3, 2))), r"params.C: expected shape \(1, 2\)"),
    "a negative deviation": (LEVELS_START._replace(chol_R=-LEVELS_START.chol_R), "params.chol_R: .*at least 0"),
}


@pytest.mark.parametrize("what", LEVEL_WRONG)
@pytest.mark.parametrize("question", LEVEL_QUESTIONS)
def test_questions_about_states(question, what):
    params, words = LEVEL_WRONG[what]
    with pytest.raises(ValueError, match=words):
        LEVEL_QUESTIONS[question](params)
    assert LEVEL_QUESTIONS[question](LEVELS_START) is not None

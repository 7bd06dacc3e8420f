"""What the laws of chains say of data that do not suit them, and questions where a law could go wrong unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem

COUNTS = np.random.default_rng(0).poisson(np.repeat([1.0, 9.0], 3), (4, 6)).astype(float)[..., None]
INPUTS = np.random.default_rng(1).standard_normal((4, 6, 2))


def key(n=0):
    return jax.random.key(n)


def linear(params, u):
    return params["constant"] + params["slope"] @ u


def test_inputs_of_another_width():
    """As many columns as the law's function takes: said before anything is traced with them."""
    start = {"constant": jnp.eye(2), "slope": jnp.zeros((2, 2, 1))}
    chain = jem.HMM(jem.Poisson(), 2, transition=jem.laws.Driven(linear, start))
    good, bad = jem.Given(COUNTS, INPUTS[..., :1]), jem.Given(COUNTS, INPUTS)
    params = jem.init(chain, key(), good)
    for ask in (
        lambda: jem.init(chain, key(), bad),
        lambda: jem.fit(chain, params, bad),
        lambda: jem.log_prob(chain, params, bad),
        lambda: jem.sample(chain, key(), params, like=bad),
    ):
        with pytest.raises(ValueError, match="Driven: inputs must have p = 1 columns, as linear takes them .*; got 2"):
            ask()
    with pytest.raises(ValueError, match="predict: inputs must have p = 1 columns, as those so far; got 2"):
        jem.predict(chain, params, good, 3, np.zeros((4, 3, 2)))
    gate = jem.laws.Gate(linear, {"constant": jnp.zeros(2), "slope": jnp.zeros((2, 1))})
    with pytest.raises(ValueError, match="Gate: inputs must have p = 1 columns, as linear takes them .*; got 2"):
        jem.init(jem.Mixture(jem.Poisson(), 2, weights=gate), key(), jem.Given(COUNTS[:, 0], INPUTS[:, 0]))


def test_labels_that_no_stay_can_have():
    """A state that is known for longer than a stay can last is traced to the law's longest."""
    model = jem.HMM(jem.Poisson(), 2, transition=jem.laws.Durations(jem.durations.Poisson(3)))
    labels = np.tile([0, 0, 0, 1, 1, -1], (4, 1))
    jem.init(model, key(), jem.Labelled(COUNTS, labels))
    labels[2] = [1, 0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match="Durations: labels keep sequence 2 in state 0 for more than 3 steps, up to step 4"):
        jem.init(model, key(), jem.Labelled(COUNTS, labels))
    jem.init(model, key(), jem.Labelled(jem.Sequences(COUNTS, np.array([6, 6, 4, 6])), labels))  # beyond its end
    again = jem.HMM(jem.Poisson(), 2, transition=jem.laws.Durations(jem.durations.Poisson(3), moves=jem.laws.Cells()))
    params = jem.init(again, key(), COUNTS)
    assert np.isfinite(jem.log_prob(again, params, jem.Labelled(COUNTS, labels))).all()


ONE_STEP = {
    "driven": jem.HMM(
        jem.Poisson(), 2, transition=jem.laws.Driven(linear, {"constant": np.eye(2), "slope": np.zeros((2, 2, 2))})
    ),
    "durations": jem.HMM(jem.Poisson(), 2, transition=jem.laws.Durations(jem.durations.Categorical(3))),
    "several": jem.HMM(jem.Poisson(), 4, initial=jem.laws.Outer(2, 2), transition=jem.laws.Kronecker(2, 2)),
}


@pytest.mark.parametrize("law", ONE_STEP)
def test_a_sequence_of_one_step(x64, law):
    """Nothing moves: a mixture with the first state's probabilities."""
    model = ONE_STEP[law]
    x = jem.Given(COUNTS[:1, :1], INPUTS[:1, :1]) if law == "driven" else COUNTS[:1, :1]
    params = jem.init(model, key(), x)
    size = model.emission.size
    first = model.initial.first(params.initial, None)
    mixed = jem.Mixture.Params(first, params.emission)
    want = jem.log_prob(jem.Mixture(jem.Poisson(), size), mixed, COUNTS[0, :1])
    stats, log_prob = jem.e_step(model, params, x)
    np.testing.assert_allclose(log_prob, want[0], rtol=1e-12)
    np.testing.assert_allclose(stats.initial, stats.visits, atol=1e-12)
    assert jem.decode(model, params, x)[0].shape == (1, 1)


def test_louis_is_for_mixtures():
    """Of a chain the covariance of the complete score would run over all pairs of steps."""
    model = jem.HMM(jem.Poisson(), 2)
    with pytest.raises(TypeError, match="Louis: needs a mixture at the top of the model; got HMM.*jem.uncertainty.Oakes"):
        jem.uncertainty.information(model, jem.init(model, key(), COUNTS), COUNTS, method=jem.uncertainty.Louis())

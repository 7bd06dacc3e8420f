"""What comes in wrong is refused at the door by name, at every door: never an error from inside, never silent garbage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hostile import (
    ANY,
    ASKED,
    CONSTRUCTORS,
    DATA,
    DOORS,
    INSIDE,
    KEY,
    KEYS,
    MANY,
    MIXTURE,
    MODELS,
    OPTIONS,
    REALS,
    SEQUENCES,
    START,
    STARTS,
    TAKEN,
    VALUES,
    WEIGHTS,
    raises,
)

import jem
from jem.kernels import support
from jem.reading import as_arrays


@pytest.mark.parametrize("what", DATA)
@pytest.mark.parametrize("model", MODELS)
def test_data_of_a_wrong_kind(model, what):
    x, words = DATA[what]
    if what == "generator":
        x = (row for row in REALS)
    raises(lambda: jem.init(MODELS[model], KEY, x), words)


@pytest.mark.parametrize("what", ["None", "object", "text", "ragged", "masked", "frame with text", "dates", "sparse"])
@pytest.mark.parametrize("door", [*DOORS, *ASKED])
def test_every_door(door, what):
    x, words = DATA[what]
    raises(lambda: {**DOORS, **ASKED}[door](x), words)


@pytest.mark.parametrize("what", WEIGHTS)
@pytest.mark.parametrize("door", ["fit", "bind", "e_step"])
def test_weights(door, what):
    weights, words = WEIGHTS[what]
    if what == "generator":
        weights = (1.0 for _ in REALS)
    raises(lambda: DOORS[door](REALS, weights), words)


@pytest.mark.parametrize("what", VALUES)
def test_values(what):
    model, x, words = VALUES[what]
    raises(lambda: jem.init(model, KEY, x), words, ValueError if "numbers" not in words[0] else ANY)


@pytest.mark.parametrize("what", STARTS)
def test_starts(what):
    params, words = STARTS[what]
    raises(lambda: jem.fit(MIXTURE, params, REALS), words)


@pytest.mark.parametrize("what", INSIDE)
def test_inside_jit(what):
    """A fit from what would be refused ends NONFINITE, and questions about it answer NaN."""
    model, params, x = INSIDE[what]
    fit = jax.jit(lambda params: jem.fit(model, params, x, max_steps=3))(params)
    assert fit.status == jem.Status.NONFINITE
    assert np.isnan(jax.jit(lambda params: jem.log_prob(model, params, x))(params)).all()


def test_supports_of_a_users_density_inside_jit():
    """They lie around the coordinates that go by gradient, and around cells of which some are held."""
    coin = lambda p, u: u * jnp.log(p) + (1 - u) * jnp.log1p(-p)  # noqa: E731
    model = jem.Density(coin, jnp.array(0.5), supports=jem.supports.Interval())
    x = jnp.array([0.0, 1.0, 0.0])
    fit = jax.jit(lambda p: jem.fit(model, p, x, solver=jem.solvers.GEM(optax.sgd, learning_rate=0.1), max_steps=2))(
        jnp.array(1.5)
    )
    assert fit.status == jem.Status.NONFINITE
    assert np.isnan(jax.jit(lambda p: jem.log_prob(model, p, x))(jnp.array(1.5))).all()
    cells = support.HeldCells(np.array([True, False, False]), support.Positive())
    value = np.array([-1.0, 2.0, -3.0])
    assert cells.outside(jnp.asarray(value)).tolist() == [False, False, True]
    assert "at least 0; got -3" in cells.fault(value) and cells.fault(np.abs(value)) is None


@pytest.mark.parametrize("what", OPTIONS)
def test_options(what):
    options, words = OPTIONS[what]
    raises(lambda: jem.fit(MIXTURE, START, REALS, **options), words)
    raises(lambda: jem.fit_restarts(MIXTURE, KEY, REALS, **{"num_restarts": 2, **options}), words)


@pytest.mark.parametrize("what", MANY)
def test_options_of_restarts(what):
    options, words = MANY[what]
    options = {"key": KEY, "num_restarts": 2, **options}
    raises(lambda: jem.fit_restarts(MIXTURE, options.pop("key"), REALS, **options), words)


@pytest.mark.parametrize("what", CONSTRUCTORS)
def test_constructors(what):
    call, words = CONSTRUCTORS[what]
    raises(call, words)


def test_settings_are_looked_at_where_there_are_values():
    """Inside jit and vmap there are none; a tree that is rebuilt is not looked at again."""
    assert jax.vmap(lambda c: jem.Poisson(shape=c).shape + 1)(jnp.array([1.0, -1.0])).tolist() == [2.0, 0.0]
    assert jax.tree.map(lambda _: -1.0, jem.Poisson()).shape == -1.0
    rates = jax.vmap(lambda rule: rule.tol * 2)(jem.stop.RelativeGain(jnp.array([1.0, 2.0])))
    assert rates.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("what", SEQUENCES)
def test_sequences(what):
    call, words = SEQUENCES[what]
    raises(call, words)


@pytest.mark.parametrize("lengths", [[4, 2], [1, 3, 2], [6]])
def test_rows_with_lengths_there_and_back(lengths):
    """hmmlearn's layout is that of a list, and comes back; answers come back too."""
    x = jem.sequences(REALS, lengths=lengths)
    listed = jem.sequences(np.split(REALS, np.cumsum(lengths)[:-1]))
    np.testing.assert_array_equal(x.values, listed.values)
    assert x.lengths.tolist() == listed.lengths.tolist() == lengths
    np.testing.assert_array_equal(jem.flat_rows(x), REALS.astype("float32"))
    steps = np.arange(max(lengths)) + np.zeros((len(lengths), 1), int)
    want = np.concatenate([np.arange(n) for n in lengths])
    np.testing.assert_array_equal(jem.flat_rows({"z": steps}, lengths)["z"], want)
    named = jem.sequences({"a": REALS, "b": REALS[:, 0]}, lengths=lengths)
    np.testing.assert_array_equal(named.values["b"], x.values[..., 0])


@pytest.mark.parametrize("what", TAKEN)
def test_what_is_taken(what):
    x, want = TAKEN[what]
    got = as_arrays(x)
    assert got.dtype in (jnp.float32, jnp.int32)
    np.testing.assert_allclose(np.asarray(got, float), np.asarray(want, float), rtol=1e-6)


def test_records_keep_their_trees():
    """Lists of numbers are arrays wherever they stand; tuples of arrays are trees, as before."""
    x = as_arrays({"a": [[1.0], [2.0]], "pair": (np.zeros(2), np.ones(2)), "kind": [0, 1]})
    assert x["a"].shape == (2, 1) and x["kind"].dtype == jnp.int32 and isinstance(x["pair"], tuple)
    assert as_arrays(jem.Labelled([[0.0]], [1])).labels.shape == (1,)
    with jax.enable_x64(True):
        assert as_arrays(np.array([2**40])).dtype == jnp.int64
        assert as_arrays(np.zeros(1, "float16")).dtype == jnp.float32


def test_timestamps_are_fitted():
    """Integers of 64 bits do not wrap: the mean is theirs."""
    t = 1_700_000_000_000 + np.arange(6)[:, None] * 10**9
    model = jem.Mixture(jem.Gaussian(), 1)
    fit = jem.fit(model, jem.init(model, next(KEYS), t), t)
    np.testing.assert_allclose(fit.params.components.mean, [[t.mean()]], rtol=1e-6)

"""What people pass that will not do: one row a mistake, with the words of the error that must come."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import jem

KEY = jax.random.key(0)  # of calls that raise before they use it; KEYS is for the others
KEYS = iter(jax.random.split(jax.random.key(1), 64))
REALS = np.array([[0.0, 1.0], [1.0, 0.5], [2.0, -1.0], [7.0, 8.0], [8.0, 6.0], [9.0, 9.0]])
MIXTURE = jem.Mixture(jem.Gaussian(), 2)
START = jem.Mixture.Params(
    jnp.array([0.5, 0.5]), jem.Gaussian.Params(jnp.array([[0.0, 0.0], [8.0, 8.0]]), jnp.stack([jnp.eye(2)] * 2))
)
COUNTS = jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Poisson.Params(jnp.array([[1.0], [5.0]])))
ANY = (TypeError, ValueError)


class Frame:
    """As much of a data frame as is looked at."""

    def __init__(self, **columns):
        self.values = {name: np.asarray(column) for name, column in columns.items()}
        self.columns, self.dtypes = list(columns), [column.dtype for column in self.values.values()]

    def to_numpy(self):
        """Its columns, objects where they differ."""
        kinds = {dtype.kind for dtype in self.dtypes}
        columns = [c if len(kinds) == 1 else c.astype(object) for c in self.values.values()]
        return np.stack(columns, 1)


def raises(call, words, error=ANY):
    """The call raises one of jem's own errors: of that kind, with those words, from no deeper than jem's doors."""
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert all(re.search(word, text) for word in words), text
    assert "jax.errors" not in type(caught.value).__module__ and len(text) < 600
    frame = caught.traceback[-1]
    assert "/jem/" in str(frame.path).replace("\\", "/"), f"raised in {frame.path}: {text}"


# Data of every wrong kind, at every kind of model.

records = np.zeros(6, [("a", float), ("b", float)])
DATA: dict[str, tuple[Any, list[str]]] = {
    "None": (None, ["x: expected", "None"]),
    "string": ("data.csv", ["x: expected", "'data.csv'", "read the file"]),
    "scalar": (3.0, ["x: expected rows; got a scalar"]),
    "tuple of arrays": ((REALS[:, 0], REALS[:, 1]), ["x: a tuple of arrays may be rows or columns", "np.column_stack"]),
    "object": (REALS.astype(object), ["x: expected numbers; got Python objects", r"astype\(float\)"]),
    "None inside": ([[0.0, None], [1.0, 2.0]], ["Python objects", "NaN"]),
    "big integers": ([[2**70, 1]], ["x: expected numbers", "Python objects"]),
    "complex": (REALS + 1j, ["x: expected numbers; got complex", "two columns"]),
    "complex on the device": (jnp.asarray(REALS + 1j), ["x: expected numbers; got complex"]),
    "dates": (REALS.astype("datetime64[s]"), ["x: expected numbers; got dates", "timedelta64"]),
    "durations": (REALS.astype("timedelta64[s]"), ["x: expected numbers; got durations"]),
    "text": ([["a", "b"], ["c", "d"]], ["x: expected numbers; got text", "integers 0 .. M - 1"]),
    "numbers as text": (REALS.astype(str), ["x: expected numbers; got text"]),
    "bytes": (REALS.astype("S4"), ["x: expected numbers; got bytes"]),
    "ragged": ([[0.0, 1.0], [2.0]], ["x: expected rows of one length; got lengths .1, 2.", "jem.sequences"]),
    "ragged arrays": ([np.zeros(2), np.zeros(3)], ["x: expected rows of one length; got lengths .2, 3."]),
    "ragged on the device": ([jnp.zeros(2), jnp.zeros(3)], ["x: expected rows of one length"]),
    "masked": (np.ma.masked_greater(REALS, 8), ["x: expected numbers; got a masked array", "jem.Missing"]),
    "sparse": (sparse.BCOO.fromdense(REALS), ["x: expected a dense array; got a sparse BCOO"]),
    "generator": ((row for row in REALS), ["x: expected an array of numbers; got generator", r"np.array\(list"]),
    "set": ({1.0, 2.0}, ["x: expected an array of numbers; got set"]),
    "records": (records, ["x: expected numbers; got records", "column_stack"]),
    "frame with text": (Frame(size=REALS[:, 0], kind=list("abcabc")), ["columns of numbers; got 'kind'", "jem.Product"]),
    "frame with dates": (Frame(day=np.zeros(6, "datetime64[D]")), ["columns of numbers; got 'day'"]),
    "function": (np.sin, ["x: expected an array of numbers"]),
    "class": (np.ndarray, ["x: expected an array of numbers; got the class ndarray"]),
    "keys": (jax.random.split(jax.random.key(2), 6), ["x: expected numbers; got dtype key"]),
    "nothing": ({}, ["x is empty"]),
    "no rows": (np.zeros((0, 2)), ["no rows"]),
}
MODELS = {
    "gaussian": jem.Gaussian(),
    "student": jem.StudentT(),
    "factor": jem.FactorAnalysis(1),
    "poisson": jem.Poisson(),
    "bernoulli": jem.Bernoulli(),
    "categorical": jem.Categorical(3),
    "mixture": MIXTURE,
    "hmm": jem.HMM(jem.Gaussian(), 2),
    "lds": jem.LDS(1, 2),
    "frozen": jem.Frozen(jem.Gaussian(), "mean"),
}


DOORS = {
    "fit": lambda x, w=None: jem.fit(MIXTURE, START, x, weights=w),
    "fit_restarts": lambda x, w=None: jem.fit_restarts(MIXTURE, KEY, x, num_restarts=2, weights=w),
    "bind": lambda x, w=None: jem.bind(MIXTURE, x, w),
    "e_step": lambda x, w=None: jem.e_step(MIXTURE, START, x, w),
    "em_step": lambda x, w=None: jem.em_step(MIXTURE, START, x, w),
    "bic": lambda x, w=None: jem.bic(MIXTURE, START, x, w),
}
ASKED = {
    "log_prob": lambda x: jem.log_prob(MIXTURE, START, x),
    "infer": lambda x: jem.infer(MIXTURE, START, x),
    "stream": lambda x: jem.fit_stream(MIXTURE, START, [x], total_weight=6),
    "sweep": lambda x: jem.sweep({"a": MIXTURE}, jax.random.clone(KEY), x, num_restarts=1),
}


WEIGHTS: dict[str, tuple[Any, list[str]]] = {
    "string": ("n", ["weights: expected", "'n'"]),
    "text": (list("abcdef"), ["weights: expected numbers; got text"]),
    "object": (np.array([1.0, None] * 3), ["weights: expected numbers; got Python objects"]),
    "complex": (np.ones(6) * 1j, ["weights: expected numbers; got complex"]),
    "dates": (np.zeros(6, "datetime64[s]"), ["weights: expected numbers; got dates"]),
    "masked": (np.ma.masked_equal(np.arange(6), 2), ["weights: expected numbers; got a masked"]),
    "generator": ((1.0 for _ in REALS), ["weights: expected"]),
    "ragged": ([[1.0], [1.0, 2.0]], ["weights: expected rows of one length"]),
    "scalar": (1.0, [r"weights must have shape \(6,\).*got \(\)"]),
    "column": (np.ones((6, 1)), [r"weights must have shape \(6,\)"]),
    "short": (np.ones(5), [r"weights must have shape \(6,\)"]),
    "smaller than float32": (np.full(6, 1e-40), ["weights: .*all are smaller, up to 1e-40; multiply them"]),
    "larger than float32": (np.full(6, 1e39), ["weights: expected numbers that float32 holds"]),
    "negative": (-np.ones(6), ["weights must be finite and >= 0; got -1.0 in row 0"]),
    "negative integers": (np.array([1, 1, -2, 1, 1, 1]), ["got -2 in row 2"]),
    "negative of 64 bits": (np.array([1, 1, 1, -(2**40), 1, 1]), ["weights must be finite and >= 0; got -1.09.*row 3"]),
    "nan": (np.array([1, 1, 1, 1, np.nan, 1]), ["got nan in row 4"]),
    "inf": (np.array([1, 1, 1, 1, 1, np.inf]), ["got inf in row 5"]),
    "zero": (np.zeros(6), ["weights are all zero"]),
    "zero integers": (np.zeros(6, int), ["weights are all zero"]),
    "function": (np.sin, ["weights: expected"]),
}


# Values outside of what a model takes.

VALUES: dict[str, tuple[Any, Any, list[str]]] = {
    "nan": (jem.Gaussian(), [[0.0], [np.nan]], ["x: nan in row 1, column 0"]),
    "inf": (jem.Gaussian(), [[0.0], [-np.inf]], ["x: -inf in row 1, column 0"]),
    "beyond float32": (jem.Gaussian(), np.array([[0.0], [1e300]]), ["x: .*that float32 holds", r"1e.300 at \(1, 0\)"]),
    "vector": (jem.Gaussian(), [0.0, 1.0], [r"x\[:, None\]"]),
    "vector for LDS": (jem.LDS(1, 1), np.arange(8.0), [r"for one sequence pass x\[None, :, None\]"]),
    "ragged tuple": (jem.HMM(jem.Gaussian(), 2), (REALS, REALS[:4]), [r"numbers|several lengths.*jem.sequences\(list\(x\)\)"]),
    "cube": (jem.Gaussian(), np.zeros((2, 2, 2)), ["rows, shape .N, D."]),
    "dict": (jem.Gaussian(), {"a": REALS}, ["must be an array with rows"]),
    "no columns": (jem.Gaussian(), np.zeros((6, 0)), ["no entries", "column"]),
    "half a count": (jem.Poisson(), [[0.5]], ["integers >= 0; got 0.5 in row 0, column 0"]),
    "negative count": (jem.Poisson(), [[1], [-1]], ["integers >= 0; got -1 in row 1"]),
    "count of 2^32": (jem.Poisson(), np.array([[2**32]]), ["Poisson: x must hold integers.*got 4.2949673e.09"]),
    "count of 3 2^40": (jem.Poisson(), np.array([[1], [3 * 2**40]]), ["Poisson: x must hold integers", "row 1"]),
    "count of 2^31 - 1": (jem.Poisson(), np.array([[2**31 - 1]]), ["integers >= 0 that float32 can count, below 2.15e.09"]),
    "below float32": (jem.Gaussian(), np.array([[1e-40], [2e-40]]), ["all are smaller, up to 2e-40"]),
    "count of uint64": (jem.Poisson(), np.array([[2**63]], np.uint64), ["Poisson: x must hold integers"]),
    "count -2^32": (jem.Poisson(), np.array([[-(2**32)]]), ["integers >= 0; got -4.2949673e.09"]),
    "two": (jem.Bernoulli(), [[2]], ["integers 0 .. 1; got 2"]),
    "2^32 + 1 as a bit": (jem.Bernoulli(), np.array([[2**32 + 1]]), ["integers 0 .. 1; got 4.2949673e.09"]),
    "half a bit": (jem.Bernoulli(), [[0.5]], ["integers 0 .. 1; got 0.5"]),
    "category 3": (jem.Categorical(3), [0, 3], ["integers 0 .. 2; got 3 in row 1"]),
    "category 2^32": (jem.Categorical(3), np.array([0, 2**32]), ["integers 0 .. 2; got 4.2949673e.09 in row 1"]),
    "category -1": (jem.Categorical(3), [0, -1], ["integers 0 .. 2; got -1 in row 1"]),
    "category of bytes": (jem.Categorical(3), np.array([7], np.uint8), ["integers 0 .. 2; got 7"]),
    "column of categories": (jem.Categorical(3), [[0], [1]], ["one entry a row"]),
    "missing part": (jem.Product(a=jem.Gaussian()), {"b": REALS}, ["Product: x must be a dict with the keys .'a'."]),
    "part of None": (jem.Product(a=jem.Gaussian()), {"a": None}, [r"x\['a'\]: expected an array of numbers"]),
    "part of text": (jem.Product(a=jem.Gaussian()), {"a": [["a"], ["b"]]}, [r"x\['a'\]: expected numbers; got text"]),
    "parts of two lengths": (
        jem.Product(a=jem.Gaussian(), b=jem.Gaussian()), {"a": REALS, "b": REALS[:3]}, ["same number of rows"],
    ),
    "label 2": (MIXTURE, jem.Labelled(REALS, [0, 1, 2, 0, 0, 0]), ["label 2 in row 2; expected -1"]),
    "label -2": (MIXTURE, jem.Labelled(REALS, [0, 1, -2, 0, 0, 0]), ["label -2 in row 2"]),
    "label 2^32": (MIXTURE, jem.Labelled(REALS, np.array([0, 1, 2**32, 0, 0, 0])), ["Labelled: labels must be integers"]),
    "labels of text": (MIXTURE, jem.Labelled(REALS, list("abcdef")), [r"x.labels: expected numbers; got text"]),
    "labels of objects": (MIXTURE, jem.Labelled(REALS, np.array([0, None] * 3)), [r"x.labels: expected numbers; got Python"]),
    "labels None": (MIXTURE, jem.Labelled(REALS, None), ["x.labels: expected an array of numbers"]),
    "labels of floats": (MIXTURE, jem.Labelled(REALS, np.zeros(6)), ["labels must be integers"]),
    "labels of a wrong shape": (MIXTURE, jem.Labelled(REALS, np.zeros((6, 1), int)), [r"must have shape \(6,\)"]),
    "sets of three": (MIXTURE, jem.Labelled(REALS, np.ones((6, 3), bool)), [r"must have shape \(6, 2\)"]),
    "empty set": (MIXTURE, jem.Labelled(REALS, np.zeros((6, 2), bool)), ["row 0 allows no component"]),
    "state 2": (
        jem.HMM(jem.Gaussian(), 2),
        jem.Labelled(REALS[None], np.array([[0, 1, 0, 2, 0, 0]])),
        ["label 2 in sequence 0, step 3"],
    ),
    "states of one shape": (jem.HMM(jem.Gaussian(), 2), jem.Labelled(REALS[None], np.zeros((1, 5), int)), [r"shape \(1, 6\)"]),
    "states of text": (jem.HMM(jem.Gaussian(), 2), jem.Labelled(REALS[None], list("a")), ["x.labels: expected numbers"]),
    "length 7": (jem.HMM(jem.Gaussian(), 2), jem.Sequences(REALS[None], [7]), ["length 7 of sequence 0; expected 1 .. 6"]),
    "length 0": (jem.HMM(jem.Gaussian(), 2), jem.Sequences(REALS[None], [0]), ["length 0 of sequence 0"]),
    "length 2^32 + 3": (jem.HMM(jem.Gaussian(), 2), jem.Sequences(REALS[None], [2**32 + 3]), ["lengths must be integers"]),
    "lengths of text": (jem.HMM(jem.Gaussian(), 2), jem.Sequences(REALS[None], ["a"]), ["x.lengths: expected numbers"]),
    "one step each": (
        jem.HMM(jem.Gaussian(), 2), REALS[:, None], ["6 sequences of one step", r"x\[None\]", r"jem.sequences\(x, lengths="],
    ),
    "a column": (jem.HMM(jem.Gaussian(), 2), REALS[:, :1], [r"x\[None\]", r"jem.sequences\(x, lengths="]),
    "rows": (jem.HMM(jem.Gaussian(), 2), REALS, [r"x\[None\]", r"jem.sequences\(x, lengths="]),
    "steps": (jem.HMM(jem.Gaussian(), 2), REALS[:, 0], [r"x\[None\]"]),
    "a column of symbols": (jem.HMM(jem.Categorical(3), 2), np.zeros((6, 1), int), ["one step each", r"x\[None\]"]),
    "lengths of one": (
        jem.HMM(jem.Gaussian(), 2), jem.Sequences(REALS[:, None].repeat(2, 1), np.ones(6, int)), ["one step each", "lengths="],
    ),
    "one step each of an LDS": (jem.LDS(1, 2), REALS[:, None], ["LDS: x holds 6 sequences of one step each"]),
    "bad count in a sequence": (jem.HMM(jem.Poisson(), 2), np.array([[[1.0], [0.5]]]), ["got 0.5 in row 1", "sequence n // 2"]),
    "gate without inputs": (
        jem.Mixture(jem.Gaussian(), 2, weights=jem.laws.Gate(lambda p, u: p * u[0], jnp.zeros(2))),
        REALS, ["x must be jem.Given"],
    ),
}  # fmt: skip


# Starts.

@dataclasses.dataclass
class Odd:
    """No parameters."""

    weights: float = 1.0


fits = jem.Fit(*([START] + [jnp.zeros(3)] * (len(jem.Fit._fields) - 1)))
three = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), START)
STARTS: dict[str, tuple[Any, list[str]]] = {
    "None": (None, ["params: expected the parameters of the model; got None", "jem.init"]),
    "string": ("kmeans", ["params: expected the parameters", "'kmeans'"]),
    "scalar": (1.0, ["params: expected the parameters", "1.0"]),
    "class": (jem.Mixture.Params, ["params: expected the parameters", "the class MixtureParams"]),
    "function": (np.sin, ["params: expected the parameters"]),
    "array": (np.zeros(3), ["params: expected the structure"]),
    "list": ([1.0, 2.0], ["params: expected the structure"]),
    "dict": ({"weights": np.ones(2) / 2}, ["params: expected the structure"]),
    "object": (Odd(), ["params: expected"]),
    "fit": (fits._replace(status=jnp.array(0)), ["params: expected parameters; got a Fit; pass its .params"]),
    "fits": (fits, ["params: expected parameters; got a Fit; pass its .best..\\.params"]),
    "restarts": (three, ["params.weights: expected shape", r"got \(3, 2\)", r"fits.best\(\).params"]),
    "of another model": (COUNTS, ["params: expected the structure"]),
    "of a component": (START.components, ["params: expected the structure"]),
    "of three components": (START._replace(weights=jnp.ones(3) / 3), [r"params.weights: expected shape \(2,\).*got \(3,\)"]),
    "of three columns": (
        START._replace(components=jem.Gaussian.Params(jnp.zeros((2, 3)), jnp.stack([jnp.eye(3)] * 2))),
        [r"params.components.mean: expected shape \(2, 2\) for this model and data; got \(2, 3\)"],
    ),
    "text inside": (START._replace(weights=["a", "b"]), ["params.weights"]),
    "objects inside": (START._replace(weights=np.array([0.5, None])), ["params.weights: expected numbers; got Python"]),
    "None inside": (START._replace(weights=None), ["params: expected the structure"]),
    "complex inside": (START._replace(weights=jnp.ones(2) * 0.5j), ["params.weights: expected numbers; got complex"]),
    "weights that sum to 2": (START._replace(weights=jnp.ones(2)), ["params.weights: probabilities", "sums to 2"]),
    "negative weights": (START._replace(weights=jnp.array([1.5, -0.5])), ["params.weights: probabilities"]),
    "upper whitening": (
        START._replace(components=START.components._replace(whitening=START.components.whitening.at[1, 0, 1].set(0.3))),
        [r"params.components.whitening: expected lower triangular matrices; got 0.3 at \(1, 0, 1\)"],
    ),
    "negative whitening": (
        START._replace(components=START.components._replace(whitening=-START.components.whitening)),
        ["params.components.whitening: expected numbers of at least 0 on the diagonal"],
    ),
}


# The same inside a transformation, where there is nothing to look at: NaN and NONFINITE stand for the error.

SPACE = jem.LDS(1, 1)
SPACE_START = jem.init(SPACE, jax.random.key(0), np.arange(8.0).reshape(1, 8, 1))
CHAIN = jem.HMM(jem.Poisson(), 2)
CHAIN_START = jem.init(CHAIN, jax.random.key(0), np.ones((1, 4, 1)))
INSIDE: dict[str, tuple[Any, Any, Any]] = {
    "weights that sum to 1.2": (MIXTURE, START._replace(weights=jnp.array([0.6, 0.6])), REALS),
    "negative weights": (MIXTURE, STARTS["negative weights"][0], REALS),
    "upper whitening": (MIXTURE, STARTS["upper whitening"][0], REALS),
    "negative whitening": (MIXTURE, STARTS["negative whitening"][0], REALS),
    "a probability of 1.5": (jem.Bernoulli(), jem.Bernoulli.Params(jnp.array([1.5])), np.ones((4, 1))),
    "a probability of -0.5": (jem.Bernoulli(), jem.Bernoulli.Params(jnp.array([-0.5])), np.ones((4, 1))),
    "a probability of NaN": (jem.Bernoulli(), jem.Bernoulli.Params(jnp.array([jnp.nan])), np.ones((4, 1))),
    "a negative rate": (jem.Poisson(), jem.Poisson.Params(jnp.array([-2.0])), np.ones((4, 1))),
    "symbols that sum to 2": (jem.Categorical(2), jem.Categorical.Params(jnp.ones(2)), np.array([0, 1, 1])),
    "a transition that sums to 2": (
        CHAIN, CHAIN_START._replace(transition=jax.tree.map(jnp.ones_like, CHAIN_START.transition)), np.ones((1, 4, 1))
    ),
    "a negative deviation": (SPACE, SPACE_START._replace(chol_R=-SPACE_START.chol_R), np.arange(8.0).reshape(1, 8, 1)),
}


# Options of both doors.

OPTIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "stop number": (dict(stop=1e-4), ["stop: expected a stopping rule such as jem.stop.Remaining", "0.0001"]),
    "stop None": (dict(stop=None), ["stop: expected a stopping rule", "None"]),
    "stop class": (dict(stop=jem.stop.Aitken), ["stop: expected a stopping rule", r"Aitken\(...\)"]),
    "stop string": (dict(stop="aitken"), ["stop: expected a stopping rule"]),
    "stop solver": (dict(stop=jem.solvers.EM()), ["stop: expected a stopping rule", "EM"]),
    "tol of two": (dict(stop=jem.stop.RelativeGain(jnp.ones(2))), [r"stop.tol: expected one number; got shape \(2,\)"]),
    "tol of two inside": (dict(stop=jem.stop.AnyOf(jem.stop.Aitken(np.ones(2)))), [r"stop.rules.tol: expected one number"]),
    "rule number": (dict(stop=jem.stop.AnyOf(1e-4)), ["stop.rules: expected a stopping rule"]),
    "solver None": (dict(solver=None), ["solver: expected a solver such as jem.solvers.EM", "None"]),
    "solver string": (dict(solver="em"), ["solver: expected a solver", "'em'"]),
    "solver class": (dict(solver=jem.solvers.EM), ["solver: expected a solver", r"EM\(...\)"]),
    "solver rule": (dict(solver=jem.stop.Aitken()), ["solver: expected a solver", "Aitken"]),
    "inner solver None": (dict(solver=jem.solvers.Anderson(None)), ["solver.solver: expected a solver"]),
    "inner solver class": (dict(solver=jem.solvers.Hard(jem.solvers.EM)), ["solver.solver: expected a solver"]),
    "adjoint None": (dict(adjoint=None), ["adjoint: expected jem.adjoints.Implicit", "None"]),
    "adjoint class": (dict(adjoint=jem.adjoints.Unrolled), ["adjoint: expected jem.adjoints.Implicit"]),
    "steps 2^31": (dict(max_steps=2**31), ["max_steps=2147483648", "at most"]),
    "steps -1": (dict(max_steps=-1), ["max_steps must be an integer of at least 0; got -1"]),
    "steps 1.5": (dict(max_steps=1.5), ["max_steps must be an integer"]),
    "steps None": (dict(max_steps=None), ["max_steps must be an integer.*None"]),
    "steps string": (dict(max_steps="9"), ["max_steps must be an integer.*'9'"]),
    "steps True": (dict(max_steps=True), ["max_steps must be an integer"]),
}
MANY: dict[str, tuple[dict[str, Any], list[str]]] = {
    "schedule None": (dict(schedule=None), ["schedule: expected a schedule such as jem.schedules.FinishAll", "None"]),
    "schedule class": (dict(schedule=jem.schedules.Halving), ["schedule: expected a schedule", r"Halving\(...\)"]),
    "schedule string": (dict(schedule="halving"), ["schedule: expected a schedule"]),
    "restarts 0": (dict(num_restarts=0), ["num_restarts must be an integer of at least 1; got 0"]),
    "restarts None": (dict(num_restarts=None), ["num_restarts is missing", "starts=params"]),
    "restarts 2.0": (dict(num_restarts=2.0), ["num_restarts must be an integer"]),
    "restarts 10^10": (dict(num_restarts=10**10), ["10000000000 starts", "fewer starts at a time"]),
    "batch 0": (dict(batch_size=0), ["batch_size must be an integer of at least 1"]),
    "batch 1.5": (dict(batch_size=1.5), ["batch_size must be an integer"]),
    "key int": (dict(key=0), [r"key must be a typed key, jax.random.key\(seed\); got 0"]),
    "key None": (dict(key=None), ["key must be a typed key.*None"]),
    "key several": (dict(key=jax.random.split(jax.random.key(0), 3)), [r"key must be one key; got keys of shape \(3,\)"]),
    "key old": (dict(key=jax.random.PRNGKey(0)), ["key must be a typed key.*uint32"]),
}


# Nodes and options that cannot be made.

G = jem.Gaussian()
HMM = jem.HMM(jem.Poisson(), 2)
CONSTRUCTORS: dict[str, tuple[Any, list[str]]] = {
    "Tied covariance": (
        lambda: jem.init(jem.Mixture(jem.Tied(jem.Gaussian(), 2, "covariance")), KEY, REALS),
        ["Tied: Gaussian has no field 'covariance'; its fields are .'mean', 'whitening'.; a covariance is its whitening"],
    ),
    "Mixture class": (lambda: jem.Mixture(jem.Gaussian, 2), ["Mixture: components: expected a node", r"Gaussian\(...\)"]),
    "Mixture string": (lambda: jem.Mixture("gaussian"), ["Mixture: components: expected a node", "'gaussian'"]),
    "Mixture None": (lambda: jem.Mixture(None, 2), ["Mixture: components: expected a node", "None"]),
    "Mixture list": (lambda: jem.Mixture([G, G]), ["Mixture: components: expected a node", "list"]),
    "Mixture params": (lambda: jem.Mixture(START, 2), ["Mixture: components: expected a node"]),
    "Mixture no K": (lambda: jem.Mixture(G), ["number of components must be an integer", r"Mixture\(Gaussian\(...\), K\)"]),
    "Mixture 0": (lambda: jem.Mixture(G, 0), ["number of components must be an integer of at least 1; got 0"]),
    "Mixture 2.0": (lambda: jem.Mixture(G, 2.0), ["number of components must be an integer"]),
    "Mixture True": (lambda: jem.Mixture(G, True), ["number of components must be an integer"]),
    "Mixture string K": (lambda: jem.Mixture(G, "2"), ["number of components must be an integer"]),
    "Mixture of a plate": (lambda: jem.Mixture(jem.Stack(G, 3), 2), ["2 components asked for, but the plate has 3"]),
    "Mixture frozen": (lambda: jem.Mixture(jem.Frozen(G)), [r"Mixture\(Frozen\(...\), K\)"]),
    "Mixture prior": (lambda: jem.Mixture(G, 2, concentration=-1), ["Mixture: concentration must be > 0; got -1"]),
    "Mixture prior text": (lambda: jem.Mixture(G, 2, concentration="a"), ["Mixture: concentration: expected a number"]),
    "Mixture prior nan": (lambda: jem.Mixture(G, 2, concentration=np.nan), ["concentration must be > 0; got nan"]),
    "Mixture prior cell": (lambda: jem.Mixture(G, 2, concentration=[1.0, 0.0]), ["concentration must be > 0; got 0.0"]),
    "Mixture seeding": (lambda: jem.Mixture(G, 2, seeding="random"), ["Mixture: seeding: expected jem.starts.KMeansPlusPlus"]),
    "Mixture seeding class": (lambda: jem.Mixture(G, 2, seeding=jem.starts.KMeansPlusPlus), ["seeding: expected"]),
    "seeding": (lambda: jem.starts.RandomResponsibilities(0.0), ["RandomResponsibilities: concentration must be > 0"]),
    "covariance string": (
        lambda: jem.Gaussian(covariance="diag"), ["Gaussian: covariance: expected jem.covariance.Full", "'diag'"],
    ),
    "covariance class": (
        lambda: jem.Gaussian(covariance=jem.covariance.Diagonal),
        ["covariance: expected jem.covariance.Full", r"Diagonal\(...\)"],
    ),
    "covariance None": (lambda: jem.Gaussian(None), ["covariance: expected jem.covariance.Full", "None"]),
    "prior number": (lambda: jem.Gaussian(prior=0.1), ["Gaussian: prior: expected a jem.priors.InverseWishart", "0.1"]),
    "prior class": (lambda: jem.Gaussian(prior=jem.priors.InverseWishart), ["prior: expected a jem.priors.InverseWishart"]),
    "t covariance": (lambda: jem.StudentT(covariance="full"), ["StudentT: covariance: expected jem.covariance.Full"]),
    "t prior": (lambda: jem.StudentT(prior=1), ["StudentT: prior: expected a jem.priors.InverseWishart"]),
    "t df": (lambda: jem.StudentT(df=-1.0), ["StudentT: df must be > 0; got -1.0"]),
    "t df text": (lambda: jem.StudentT(df="4"), ["StudentT: df: expected a number"]),
    "Poisson shape": (lambda: jem.Poisson(shape=-1), ["Poisson: shape must be > 0; got -1"]),
    "Poisson scale": (lambda: jem.Poisson(inverse_scale=-1), ["Poisson: inverse_scale must be >= 0; got -1"]),
    "Poisson None": (lambda: jem.Poisson(shape=None), ["Poisson: shape: expected a number.*None"]),
    "Bernoulli": (lambda: jem.Bernoulli(concentration=-1), ["Bernoulli: concentration must be > 0; got -1"]),
    "Bernoulli inf": (lambda: jem.Bernoulli(concentration=np.inf), ["concentration must be > 0; got inf"]),
    "Categorical None": (lambda: jem.Categorical(None), ["Categorical: num_categories must be an integer", "None"]),
    "Categorical 1.5": (lambda: jem.Categorical(1.5), ["num_categories must be an integer of at least 1; got 1.5"]),
    "Categorical 0": (lambda: jem.Categorical(0), ["num_categories must be an integer of at least 1; got 0"]),
    "Categorical prior": (lambda: jem.Categorical(3, -1.0), ["Categorical: concentration must be > 0"]),
    "Stack 0": (lambda: jem.Stack(G, 0), ["Stack: size must be an integer of at least 1; got 0"]),
    "Stack None": (lambda: jem.Stack(G, None), ["Stack: size must be an integer"]),
    "Stack class": (lambda: jem.Stack(jem.Gaussian, 2), ["Stack: child: expected a node"]),
    "Stack of a plate": (lambda: jem.Stack(jem.Stack(G, 2), 2), ["Stack: child: expected one node; got a plate"]),
    "Tied 0": (lambda: jem.Tied(G, 0), ["Tied: size must be an integer of at least 1; got 0"]),
    "Tied field": (lambda: jem.Tied(G, 2, 3), ["Tied: expected names of fields; got 3"]),
    "Tied node": (lambda: jem.Tied("g", 2), ["Tied: child: expected a node"]),
    "OneOf": (lambda: jem.OneOf(), ["OneOf: give at least one node"]),
    "OneOf class": (lambda: jem.OneOf(G, jem.StudentT), ["OneOf: component 1: expected a node"]),
    "OneOf list": (lambda: jem.OneOf([G, G]), ["OneOf: component 0: expected a node"]),
    "Product": (lambda: jem.Product(), ["Product: give at least one part by name"]),
    "Product class": (lambda: jem.Product(a=jem.Gaussian), ["Product: a: expected a node"]),
    "Product of a plate": (lambda: jem.Product(a=jem.Stack(G, 2)), ["Product: a: expected one node; got a plate"]),
    "Frozen class": (lambda: jem.Frozen(jem.Gaussian), ["Frozen: child: expected a node"]),
    "Frozen number": (lambda: jem.Frozen(G, 3), ["Frozen: expected names of fields", "weights="]),
    "Frozen text": (lambda: jem.Frozen(G, mean="a"), ["Frozen: mean: expected"]),
    "Frozen None": (lambda: jem.Frozen(G, mean=None), ["Frozen: mean: expected"]),
    "Missing class": (lambda: jem.Missing(jem.Gaussian), ["Missing: child: expected a node"]),
    "Missing None": (lambda: jem.Missing(None), ["Missing: child: expected a node"]),
    "Censored class": (lambda: jem.Censored(jem.Gaussian), ["Censored: child: expected a node"]),
    "Censored of a plate": (lambda: jem.Censored(jem.Stack(G, 2)), ["Censored: child: expected one node; got a plate"]),
    "Truncated class": (lambda: jem.Truncated(jem.Poisson), ["Truncated: child: expected a node"]),
    "Truncated text": (lambda: jem.Truncated(jem.Poisson(), "1"), ["Truncated: lower"]),
    "HMM class": (lambda: jem.HMM(jem.Poisson, 2), ["HMM: emission: expected a node", r"Poisson\(...\)"]),
    "HMM no K": (lambda: jem.HMM(G), ["HMM: the number of components must be an integer"]),
    "HMM length": (lambda: jem.HMM(G, 2, length=0), ["HMM: length must be an integer of at least 1; got 0"]),
    "HMM prior": (lambda: jem.HMM(G, 2, concentration=-1.0), ["HMM: concentration must be > 0"]),
    "HMM transition": (lambda: jem.HMM(G, 2, transition=np.eye(2)), ["HMM: transition: expected a transition law"]),
    "HMM transition class": (lambda: jem.HMM(G, 2, transition=jem.laws.Cells), ["transition: expected a transition law"]),
    "HMM form": (lambda: jem.HMM(G, 2, form="blocks"), ["HMM: form: expected jem.forms.Automatic", "'blocks'"]),
    "HMM form class": (lambda: jem.HMM(G, 2, form=jem.forms.Sequential), ["HMM: form: expected jem.forms.Automatic"]),
    "Transition prior": (lambda: jem.laws.Cells(concentration=0.0), ["Cells: concentration must be > 0; got 0.0"]),
    "Transition text": (lambda: jem.laws.Cells(fixed=[["a"]]), ["Cells: fixed: expected numbers; got text"]),
    "Transition ragged": (lambda: jem.laws.Cells(fixed=[[1.0], [0.0, 1.0]]), ["Cells: fixed: expected rows of one"]),
    "weights of numbers": (
        lambda: jem.Mixture(G, 2, weights=[0.5, 0.5]), ["Mixture: weights: expected the law", "jem.laws.Free()"],
    ),
    "two priors": (
        lambda: jem.Mixture(G, 2, weights=jem.laws.Free(), concentration=2.0), ["write jem.laws.Free.concentration=2.0"],
    ),
    "begin anywhere": (lambda: jem.HMM(G, 2, initial="even"), ["HMM: initial: expected the law", "jem.laws.Stationary()"]),
    "driven and stationary": (
        lambda: jem.HMM(G, 2, initial=jem.laws.Stationary(), transition=jem.laws.Driven(lambda p, u: p, jnp.zeros((2, 2)))),
        ["HMM: initial: with Driven transitions there is no law", "leave jem.laws.Stationary"],
    ),
    "factors 0": (lambda: jem.FactorAnalysis(0), ["FactorAnalysis: num_factors must be an integer of at least 1; got 0"]),
    "factors None": (lambda: jem.FactorAnalysis(None), ["num_factors must be an integer"]),
    "LDS 0": (lambda: jem.LDS(0, 1), ["num_states must be an integer of at least 1"]),
    "LDS length": (lambda: jem.LDS(1, 1, length=0), ["LDS: length must be an integer of at least 1"]),
    "LDS form": (lambda: jem.LDS(1, 1, form="steady"), ["LDS: form: expected jem.forms.Automatic"]),
    "Online 0": (lambda: jem.solvers.Online(0), ["Online: num_batches must be an integer of at least 1; got 0"]),
    "Online None": (lambda: jem.solvers.Online(None), ["Online: num_batches must be an integer"]),
    "Online exponent": (lambda: jem.solvers.Online(exponent=0.5), ["Online: exponent must be > 0.5 and <= 1; got 0.5"]),
    "Incremental 0": (lambda: jem.solvers.Incremental(0), ["Incremental: num_blocks must be an integer"]),
    "MonteCarlo 0": (lambda: jem.solvers.MonteCarlo(KEY, np.sin, 0), ["MonteCarlo: num_draws must be an integer"]),
    "SAEM exponent": (
        lambda: jem.solvers.SAEM(jem.solvers.EM(), exponent=2.0), ["SAEM: exponent must be > 0.5 and <= 1; got 2.0"],
    ),
    "Stochastic 0": (lambda: jem.solvers.Stochastic(KEY, num_draws=0), ["Stochastic: num_draws must be an integer"]),
    "Annealed 0": (lambda: jem.solvers.Annealed(start=0.0), ["Annealed: start must be > 0; got 0.0"]),
    "Anderson 0": (lambda: jem.solvers.Anderson(memory=0), ["Anderson: memory must be an integer"]),
    "Anderson damping": (lambda: jem.solvers.Anderson(damping=-1.0), ["Anderson: damping must be > 0"]),
    "SQUAREM growth": (lambda: jem.solvers.SQUAREM(growth=0.0), ["SQUAREM: growth must be > 0"]),
    "Halving 0": (lambda: jem.schedules.Halving(first=0), ["Halving: first must be an integer"]),
    "Halving keep": (lambda: jem.schedules.Halving(keep=0), ["Halving: keep must be an integer"]),
    "Prune": (lambda: jem.schedules.PruneByLimit(safety=0.0), ["PruneByLimit: safety must be >= 1"]),
    "Merge": (lambda: jem.schedules.MergeDuplicates(probes=0), ["MergeDuplicates: probes must be an integer"]),
    "tol text": (lambda: jem.stop.RelativeGain("tight"), ["RelativeGain: tol: expected a number"]),
    "tol None": (lambda: jem.stop.Aitken(None), ["Aitken: tol: expected a number.*None"]),
    "tol nan": (lambda: jem.stop.Residual(np.nan), ["Residual: tol must be >= 0; got nan"]),
    "tol negative": (lambda: jem.stop.ParameterChange(-1e-6), ["ParameterChange: tol must be >= 0"]),
    "no node": (lambda: jem.init(jem.Gaussian, KEY, REALS), ["node: expected a node", r"Gaussian\(...\)"]),
    "string for a node": (lambda: jem.fit("gmm", START, REALS), ["node: expected a node", "'gmm'"]),
    "None for a node": (lambda: jem.log_prob(None, START, REALS), ["node: expected a node"]),
}  # fmt: skip

HMM_START = jem.HMM.Params(jnp.ones(2) / 2, jnp.full((2, 2), 0.5), jem.Poisson.Params(jnp.array([[1.0], [4.0]])))


# Sequences.

SEQUENCES: dict[str, tuple[Any, list[str]]] = {
    "None": (lambda: jem.sequences(None), ["sequences: expected a list of arrays", "None"]),
    "scalar": (lambda: jem.sequences(3.0), ["sequences: expected a list of arrays", "3.0"]),
    "string": (lambda: jem.sequences("abc"), ["sequences: expected a list of arrays"]),
    "dict": (lambda: jem.sequences({"a": REALS}), ["sequences: expected a list of arrays", "dict"]),
    "empty": (lambda: jem.sequences([]), ["the list is empty"]),
    "numbers": (lambda: jem.sequences([1.0, 2.0]), ["item 0 must be an array", r"pass \[x\]"]),
    "rows": (lambda: jem.sequences(REALS), ["one array of shape .6, 2.", r"pass \[x\]", "lengths="]),
    "vector": (lambda: jem.sequences(REALS[:, 0]), ["one array of shape .6,.", "lengths="]),
    "strings": (lambda: jem.sequences(["ab", "c"]), [r"sequences: items\[0\]: expected"]),
    "None inside": (lambda: jem.sequences([REALS, None]), [r"sequences: items\[1\]: expected"]),
    "object": (lambda: jem.sequences([REALS.astype(object)]), [r"items\[0\]: expected numbers; got Python objects"]),
    "no steps": (lambda: jem.sequences([REALS, REALS[:0]]), ["sequence 1 has no steps"]),
    "other columns": (lambda: jem.sequences([REALS, REALS[:, :1]]), ["sequence 1 has shape .6, 1., the first .6, 2."]),
    "other ranks": (lambda: jem.sequences([REALS, REALS[:, 0]]), ["sequence 1 has shape .6,., the first .6, 2."]),
    "other trees": (lambda: jem.sequences([{"a": REALS}, REALS]), ["sequences: all sequences must be alike"]),
    "parts": (lambda: jem.sequences([{"a": REALS, "b": REALS[:2]}]), ["sequence 0 must have the same number of steps"]),
    "ragged": (lambda: jem.sequences([[[0.0], [1.0, 2.0]]]), [r"items\[0\]: expected rows of one length"]),
    "lengths short": (lambda: jem.sequences(REALS, lengths=[3, 2]), ["lengths sum to 5", r"shape \(6, 2\)"]),
    "lengths zero": (lambda: jem.sequences(REALS, lengths=[6, 0]), ["sequence 1 has no steps"]),
    "lengths floats": (lambda: jem.sequences(REALS, lengths=[3.0, 3.0]), ["lengths must be integers"]),
    "lengths text": (lambda: jem.sequences(REALS, lengths="33"), ["sequences: lengths: expected"]),
    "lengths scalar": (lambda: jem.sequences(REALS, lengths=6), ["lengths must be integers of shape .S,."]),
    "lengths none": (lambda: jem.sequences(REALS, lengths=[]), ["lengths must be integers"]),
    "back without lengths": (lambda: jem.flat_rows(np.zeros((2, 3))), ["flat_rows: lengths is missing"]),
    "back of rows": (lambda: jem.flat_rows(REALS, [3, 3]), [r"must have shape \(S, T, ...\) with S = 2"]),
    "back of short ones": (lambda: jem.flat_rows(np.zeros((2, 2)), [3, 3]), ["T at least 3"]),
}


# What is right in another form is taken.

TAKEN: dict[str, tuple[Any, Any]] = {
    "big-endian": (REALS.astype(">f8"), REALS),
    "big-endian integers": (REALS.round().astype(">i4"), REALS.round()),
    "frame": (Frame(a=REALS[:, 0], b=REALS[:, 1]), REALS),
    "frame of kinds": (Frame(a=REALS[:, 0], b=REALS[:, 1] > 0), np.stack([REALS[:, 0], REALS[:, 1] > 0], 1)),
    "float16": (REALS.astype("float16"), REALS.astype("float16")),
    "longdouble": (REALS.astype(np.longdouble), REALS),
    "timestamps": (1_700_000_000_000 + np.arange(6)[:, None] * 10**9, 1.7e12 + np.arange(6)[:, None] * 1e9),
    "uint64": (np.array([[2**63], [1]], np.uint64), [[2.0**63], [1.0]]),
    "int64 that fits": (np.array([[2**31 - 1], [-(2**31)]]), [[2**31 - 1], [-(2**31)]]),
    "lists of arrays": ([jnp.zeros(2), jnp.ones(2)], [[0.0, 0.0], [1.0, 1.0]]),
    "range": (range(3), [0, 1, 2]),
}

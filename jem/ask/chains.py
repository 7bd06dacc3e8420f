"""What one asks of a chain: its most probable states, and what comes next."""

import functools
from typing import Any

import jax
from jax import Array

from jem import checks, series_checks
from jem.ask.asking import asked
from jem.backend import precise
from jem.data import to_rows, to_units
from jem.node import Data, Node, Params
from jem.reading import as_arrays


def decode(node: Node, params: Params, x: Data) -> tuple[Array, Array]:
    """The most probable states of each sequence, `argmax_z p(z, x | params)`.

    Args:
        node: a chain: `jem.HMM`.
        params: its parameters.
        x: sequences.

    Returns:
        (S, T) int states, -1 beyond a sequence's end, and their joint log-probability with the data, (S,).

    Raises:
        ValueError: no chain; data or parameters that do not fit the model.

    Example:
        >>> import jem, jax
        >>> m, x = jem.HMM(jem.Poisson(), 2), jem.sequences([[[1], [2], [9], [8]]])
        >>> jem.decode(m, jem.init(m, jax.random.key(0), x), x)[0].shape
        (1, 4)

    Source: Viterbi (1967), IEEE Trans. Information Theory 13.
    """
    return _ask(node, params, x, "decode")


def predict(node: Node, params: Params, x: Data, num_steps: int, inputs: Any = None) -> Any:
    """What comes after the end T of each sequence: of a chain `p(z_{T+h} | x_1 .. x_T)`, h = 1 .. `num_steps`.

    Args:
        node: a chain: `jem.HMM`, or a `jem.LDS` without inputs.
        params: its parameters.
        x: sequences.
        num_steps: how far ahead.
        inputs: (S, num_steps, p) those of these steps, for transitions that are `jem.laws.Driven`.

    Returns:
        For an `HMM` the state probabilities (S, num_steps, K). The predictive density of step h of sequence s is the
        mixture `jem.Mixture.Params(weights=p[s, h], components=params.emission)`. For an `LDS` what `LDS.forecast` returns:
        means and covariances of observations and states, and `.interval(level)`.

    Raises:
        ValueError: no chain; data or parameters that do not fit the model; inputs that are missing, or that it does not take.

    Example:
        >>> import jem, jax
        >>> m, x = jem.HMM(jem.Poisson(), 2), jem.sequences([[[1], [2], [9], [8]]])
        >>> jem.predict(m, jem.init(m, jax.random.key(0), x), x, 3).shape
        (1, 3, 2)

    Source: Zucchini and MacDonald (2009), Hidden Markov Models for Time Series, chapter 5.
    """
    checks.check_positive_int(num_steps, "num_steps")
    if inputs is not None:
        inputs = as_arrays(inputs, "predict: inputs")
        series_checks.check_inputs(inputs, None, "predict")
    return _ask(node, params, x, "predict", num_steps, inputs=inputs)


@functools.partial(jax.jit, static_argnames=("question", "args"))
@precise
def _ask_jit(node: Any, params: Params, x: Data, question: str, args: tuple[Any, ...], more: dict[str, Any]) -> Any:
    return to_rows(getattr(node, question)(params, to_units(x), *args, **to_units(more)))


def _ask(node: Node, params: Params, x: Data, question: str, *args: Any, **more: Any) -> Any:
    if not hasattr(node, question):
        raise ValueError(f"{question}: {type(node).__name__} has no {question}; pass a chain, as jem.HMM")
    params, x, _ = asked(node, params, x)
    return _ask_jit(node, params, x, question, args, more)

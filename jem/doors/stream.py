"""Fitting data that come in batches and need not be kept: the door to online EM."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem import tree
from jem.ask.asking import asked
from jem.backend import precise
from jem.checks import is_concrete
from jem.data import row_weights, to_units
from jem.engine.solvers.online import Running, absorb, batch_statistics
from jem.node import Data, Node, Params


class Streamed(NamedTuple):
    """What `fit_stream` returns; numbers are scalars ().

    Attributes:
        params: the parameters after the last batch.
        num_batches: batches seen.
        log_score: sum over the batches of their log-likelihood at the parameters **before** each was seen: an honest score of
            prediction, not the log-likelihood at `params`.
        finite: whether `params` are finite; False says the stream held what the model cannot produce.
    """

    params: Params
    num_batches: Array
    log_score: Array
    finite: Array


def fit_stream(node: Node, params: Params, batches: Iterable[Data], *, total_weight: Any, exponent: Any = 0.6) -> Streamed:
    """Fits a model by online EM to batches of rows as they come.

    Each batch moves the running expected statistics, `s <- (1 - c) s + c s_batch`, c = (t + 2)^-exponent for batch t, and the
    parameters to their maximum. One batch is in memory at a time. For several passes let the iterable give the batches again;
    shuffle rows that come in an order.

    Args:
        node: the model. Priors that are relative to data are bound to the first batch.
        params: the start.
        batches: an iterable of data, rows first; batches of one size compile one program. A pair (data, weights) is a batch
            with row weights.
        total_weight: weight of all data, against which priors count; the number of rows where there are no weights.
        exponent: in (1/2, 1]; the smaller, the faster the start is forgotten and the larger the noise left.

    Returns:
        A `Streamed`.

    Raises:
        ValueError: an empty stream, a batch that fits neither the model nor the batches before, or an option out of its range.
        TypeError: a node without `recentre`, named.

    Example:
        >>> import jax, jem
        >>> x = jax.random.permutation(jax.random.key(0), jem.datasets.old_faithful())
        >>> model = jem.Mixture(jem.Gaussian(), 2)
        >>> start = jem.init(model, jax.random.key(1), x[:68])
        >>> batches = (x[i : i + 68] for _ in range(2) for i in range(0, 272, 68))
        >>> streamed = jem.fit_stream(model, start, batches, total_weight=272)
        >>> int(streamed.num_batches), bool(jem.log_prob(model, streamed.params, x).sum() > -1160)
        (8, True)

    Source: Cappe and Moulines (2009), JRSS B 71.
    """
    _check_options(total_weight, exponent)
    if not isinstance(batches, Iterable):
        raise ValueError(f"fit_stream: batches must be an iterable of data, rows first; got {type(batches).__name__}")
    state, model, first = None, node, None
    for number, batch in enumerate(batches):
        x, weights = batch if type(batch) is tuple and len(batch) == 2 else (batch, None)
        try:
            params, x, weights = asked(node, params, x, weights)
        except ValueError as error:
            raise ValueError(f"fit_stream: batch {number}: {error}") from None
        first = _kinds(x) if first is None else first
        if _kinds(x) != first:
            raise ValueError(f"fit_stream: batch {number}: expected data like the first batch, {first}; got {_kinds(x)}")
        if state is None:
            model, state = _begin(node, params, x, weights)
        state = _absorb(model, state, x, weights, total_weight, exponent)
    if state is None:
        raise ValueError("fit_stream: batches is empty; a generator can be read only once")
    return Streamed(state.params, state.count, state.log_score, tree.all_finite(state.params))


def _check_options(total_weight: Any, exponent: Any) -> None:
    """The weight of all data is positive, and step sizes shrink neither too fast nor too slowly."""
    if is_concrete(total_weight) and not (np.ndim(total_weight) == 0 and 0 < total_weight < np.inf):
        raise ValueError(f"fit_stream: total_weight must be a positive number, the weight of all data; got {total_weight!r}")
    if is_concrete(exponent) and not (np.ndim(exponent) == 0 and 0.5 < exponent <= 1):
        raise ValueError(f"fit_stream: exponent must lie in (1/2, 1]; got {exponent!r}")


def _kinds(x: Data) -> Any:
    """What all batches have in common: the record, and the dtypes and axes of its arrays."""
    return jax.tree.map(lambda leaf: f"{leaf.dtype} with {leaf.ndim} axes", x)


@jax.jit
@precise
def _begin(node: Node, params: Params, x: Data, weights: Array | None) -> tuple[Node, Running]:
    """The node bound to the first batch where it is not bound yet, and no statistics."""
    units, weights = to_units(x), row_weights(x, weights)
    model = node.bind(units, weights)
    expected = jax.eval_shape(model.init, jax.random.key(0), units, weights)
    params = jax.tree.map(lambda p, s: jnp.asarray(p, s.dtype), params, expected)
    shapes = jax.eval_shape(functools.partial(batch_statistics, model), params, units, weights)
    return model, Running(params, tree.zeros_like(shapes[0]), jnp.array(0, jnp.int32), jnp.zeros((), weights.dtype))


@jax.jit
@precise
def _absorb(model: Node, state: Running, x: Data, weights: Array | None, total_weight: Any, exponent: Any) -> Running:
    batch = batch_statistics(model, state.params, to_units(x), row_weights(x, weights))
    return absorb(model, state, batch, jnp.asarray(total_weight, batch[2].dtype), exponent)

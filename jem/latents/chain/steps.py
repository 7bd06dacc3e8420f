"""What a chain makes of its data: sequences as single steps, and the inputs of its transitions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import series_checks
from jem.data import fill, observed, series_of, single_steps, within_lengths, without_inputs
from jem.node import Data


class Steps(NamedTuple):
    """Sequences as single steps: data (..., T S), which of them lie within their sequence and which are observed (T, S).

    Inputs of the steps after the first (p, (T - 1) S), those beyond an end replaced, and states (T, S) or (T, K, S) that are
    known; None where there are none.
    """

    flat: Data
    within: Array
    seen: Array
    inputs: Any
    labels: Array | None


def steps_of(x: Data, inputs: Any, must_be_finite: Callable[[Data], Data]) -> Steps:
    """Sequences, units last, as single steps; those beyond an end, or missing as the emission takes no NaN there, hold an
    observed value instead."""
    values, lengths, labels = series_of(x)
    within, flat = within_lengths(values, lengths), single_steps(values)
    inputs = None if inputs is None else single_steps(_within(inputs, within)[1:])
    inside = jnp.reshape(within, -1)
    looked_at = must_be_finite(flat)
    seen = inside & observed(looked_at) if jax.tree.leaves(looked_at) else inside
    return Steps(fill(flat, seen), within, seen.reshape(within.shape), inputs, labels)


def flat_inputs(x: Data, lengths: Array | None) -> Array:
    """The inputs of sequences, rows first, as rows (S T, p); raises where they will not do."""
    inputs, values = without_inputs(x)[1], series_of(x).values
    if inputs is None:
        raise ValueError(
            "HMM: x must be jem.Given(outputs, inputs (S, T, p)), as its transitions depend on inputs; got "
            f"{type(values).__name__}"
        )
    series_checks.check_sequences(values, lengths, "HMM")
    if inputs.ndim < 3:
        raise ValueError(f"HMM: inputs must have shape (S, T, p); got {inputs.shape}; for one a step inputs[..., None]")
    ends = jnp.full(inputs.shape[0], inputs.shape[1]) if lengths is None else lengths
    series_checks.check_inputs(inputs, ends, "HMM")
    within = jnp.arange(inputs.shape[1])[:, None] < ends[None]
    inputs = jnp.moveaxis(_within(jnp.moveaxis(inputs, 0, -1), within), -1, 0)
    return jnp.reshape(inputs, (-1, *inputs.shape[2:]))


def _within(inputs: Array, within: Array) -> Array:
    """Inputs (T, p, S), those beyond a sequence's end replaced by its first: nothing sees what they held."""
    return jnp.where(within[:, None], inputs, inputs[:1])

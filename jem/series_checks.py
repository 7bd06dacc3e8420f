"""Checks of sequences: their steps, labels, inputs and transition cells."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem.checks import first_fault, found, is_concrete, locate, only_used
from jem.data import series_of


def check_labels(labels: Array, size: int, shape: tuple[int, ...], lengths: Array | None = None) -> None:
    """Labels must be integers -1 .. K - 1 of a shape, or bool with an axis K more and something allowed everywhere.

    Args:
        labels: as they came.
        size: K.
        shape: (N,), or (S, T) of sequences.
        lengths: (S,) how many labels of each row of (S, T) count; all if None.
    """
    want = ", ".join(map(str, shape))
    if not (jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == jnp.bool_):
        raise ValueError(
            f"Labelled: labels must be integers of shape ({want}) or bool of shape ({want}, {size}); got {labels.dtype} "
            f"{labels.shape}; -1 is unknown"
        )
    expected = (*shape, size) if labels.dtype == jnp.bool_ else shape
    if labels.shape != expected:
        raise ValueError(f"Labelled: {labels.dtype} labels must have shape {expected}; got {labels.shape}")
    if labels.dtype == jnp.bool_:
        if found(_none_allowed, labels, lengths):
            place = _locate_label(first_fault(_none_allowed, labels, lengths).place, shape)
            raise ValueError(f"Labelled: {place} allows no component; allow at least one")
    elif found(_no_label, labels, lengths, size):
        fault = first_fault(_no_label, labels, lengths, size)
        place = _locate_label(fault.place, shape)
        raise ValueError(f"Labelled: label {fault.value} in {place}; expected -1 (unknown) or 0 .. {size - 1}")


def _locate_label(place: tuple[int, ...], shape: tuple[int, ...]) -> str:
    return locate(place) if len(shape) == 1 else f"sequence {place[0]}, step {place[1]}"


def _none_allowed(labels: Array, lengths: Array | None) -> Array:
    return _within(~jnp.any(labels, -1), lengths)


def _no_label(labels: Array, lengths: Array | None, size: Array) -> Array:
    return _within((labels < -1) | (labels >= size), lengths)


def _within(bad: Array, lengths: Array | None) -> Array:
    """Steps (S, T) that lie within their sequences."""
    return bad if lengths is None else bad & (jnp.arange(bad.shape[1])[None, :] < lengths[:, None])


def check_state_labels(x: Any, size: int) -> None:
    """The labels of `jem.Labelled` sequences, within their lengths."""
    values, lengths, labels = series_of(x)
    if labels is not None:
        check_labels(labels, size, jax.tree.leaves(values)[0].shape[:2], lengths)


def check_inputs(inputs: Any, lengths: Array | None, name: str) -> None:
    """Inputs, rows (N, ...) or, with lengths, sequences (S, T, ...) within their ends, must all be there."""
    for leaf in jax.tree.leaves(inputs):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and found(_no_input, leaf, lengths):
            fault = first_fault(_no_input, leaf, lengths)
            where = locate(fault.place) if lengths is None else f"sequence {fault.place[0]}, step {fault.place[1]}"
            raise ValueError(
                f"{name}: inputs cannot be missing; got {fault.value} in {where}; fill it in, or leave the row out"
            )


def check_future_inputs(inputs: Any, one: tuple[int, ...] | None, num_steps: int, num: int) -> None:
    """Inputs (h, p, S) of h steps that are predicted, units last; a step of the model has `one` (p,), or none."""
    if (inputs is None) != (one is None):
        what = "no inputs" if one is None else f"inputs of the next {num_steps} steps, shape ({num}, {num_steps}, p)"
        raise ValueError(f"predict: expected {what}, as this model has {'none' if one is None else 'some'}")
    if inputs is not None and (inputs.ndim != 3 or inputs.shape[0] != num_steps or inputs.shape[2] != num):
        got = (inputs.shape[-1], *inputs.shape[:-1])
        raise ValueError(f"predict: inputs must have shape (S, num_steps, p) = ({num}, {num_steps}, p); got {got}")
    if inputs is not None and one is not None and inputs.shape[1:-1] != one:
        raise ValueError(f"predict: inputs must have p = {one[0]} columns, as those so far; got {inputs.shape[1]}")


def _no_input(inputs: Array, lengths: Array | None) -> Array:
    bad = ~jnp.isfinite(inputs)
    if lengths is None:
        return bad
    within = jnp.arange(bad.shape[1])[None, :] < lengths[:, None]
    return bad & within.reshape(within.shape + (1,) * (bad.ndim - 2))


def check_sequences(values: Any, lengths: Array | None, name: str, rows: bool = False) -> None:
    """Sequences: leaves (S, T, ...), lengths (S,) integers 1 .. T; of `rows`, (S, T, D), where that is known."""
    leaves = jax.tree.leaves(values)
    for leaf in leaves:
        if leaf.ndim < 2:
            one = "x[None, :, None]" if rows else "x[None]"
            raise ValueError(
                f"{name}: x must hold sequences, shape (S, T, ...); got shape {leaf.shape}; for one sequence pass {one}"
            )
    steps = {leaf.shape[1] for leaf in leaves}
    if len(steps) > 1 or 0 in steps:
        raise ValueError(f"{name}: all arrays of x must have the same number of time steps, at least one; got {sorted(steps)}")
    (num_steps,) = steps
    num = leaves[0].shape[0]
    if num > 1 and (num_steps == 1 or (lengths is not None and not found(_is_longer, lengths) and is_concrete(lengths))):
        raise ValueError(
            f"{name}: x holds {num} sequences of one step each, shape (S, T, ...) = {leaves[0].shape}, between which nothing "
            "moves; for one sequence of rows x (N, D) pass x[None], for several one after the other "
            "jem.sequences(x, lengths=[...])"
        )
    if lengths is None:
        return
    if not jnp.issubdtype(lengths.dtype, jnp.integer) or lengths.ndim != 1:
        raise ValueError(f"Sequences: lengths must be integers of shape (S,); got {lengths.dtype} of shape {lengths.shape}")
    if found(_no_length, lengths, num_steps):
        fault = first_fault(_no_length, lengths, num_steps)
        raise ValueError(f"Sequences: length {fault.value} of sequence {fault.place[0]}; expected 1 .. {num_steps}")


def _no_length(lengths: Array, num_steps: Array) -> Array:
    return (lengths < 1) | (lengths > num_steps)


def _is_longer(lengths: Array) -> Array:
    return lengths != 1


def check_stochastic(matrix: Any, name: str) -> None:
    """Rows of probabilities that sum to one."""
    if not is_concrete(matrix):
        return
    values = np.asarray(matrix)
    if (values < 0).any() or not np.isfinite(values).all():
        place = tuple(int(i) for i in np.argwhere((values < 0) | ~np.isfinite(values))[0])
        raise ValueError(f"{name} must hold probabilities; got {values[place]} at {place}")
    sums = values.sum(-1)
    off = np.abs(sums - 1) > 1e-4
    if off.any():
        place = tuple(int(i) for i in np.argwhere(off)[0]) if sums.ndim else ()
        where = f" in row {place[0]}" if place else ""
        raise ValueError(f"{name}: probabilities must sum to one; got {sums[place]:.6g}{where}")


def check_fixed_cells(fixed: Array) -> None:
    """Fixed transition cells (K, K): probabilities, NaN where free, leaving each row something to share or summing to one."""
    if fixed.ndim != 2 or fixed.shape[0] != fixed.shape[1]:
        raise ValueError(f"Cells: fixed must have shape (K, K); got {fixed.shape}")
    if not is_concrete(fixed):
        return
    values = np.asarray(fixed)
    held = np.nansum(values, 1)
    free = np.isnan(values).any(1)
    bad = (np.nan_to_num(values) < 0).any(1) | (held > 1 + 1e-6) | (~free & (np.abs(held - 1) > 1e-4))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"Cells: the fixed cells of row {row} sum to {held[row]:.6g}; probabilities >= 0 that sum to at most one, "
            "and to one where no cell of the row is free (NaN)"
        )


def check_steps(emission: Any, values: Any, lengths: Array | None) -> None:
    """The observations of sequences (S, T, ...) must suit the emission; padding and missing steps are not looked at."""
    leaves = jax.tree.leaves(values)
    num, steps = leaves[0].shape[:2]
    concrete = is_concrete((values, lengths))
    with jax.ensure_compile_time_eval() if concrete else contextlib.nullcontext():
        flat = jax.tree.map(lambda a: a.reshape(num * steps, *a.shape[2:]), values)
        if lengths is not None and concrete:
            flat = only_used(flat, _within(jnp.ones((num, steps), bool), lengths).reshape(-1))
    try:
        emission.validate(flat)
    except ValueError as error:
        hint = f"row n is step n % {steps} of sequence n // {steps}"
        if leaves[0].ndim == 2:
            hint = (
                f"x has shape {leaves[0].shape}, taken for (S, T): for one sequence of rows (N, D) pass x[None], for several "
                "one after the other jem.sequences(x, lengths=[...])"
            )
        raise ValueError(f"{error} ({hint})") from None

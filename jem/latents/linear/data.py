"""What state-space models are fitted to: sequences, inputs that drive them, missing cells."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks, series_checks
from jem.data import series_of, within_lengths, without_inputs
from jem.families.scatter import FeatureScale, mean_and_scale
from jem.kernels.kalman import Pattern


class Steps(NamedTuple):
    """Sequences, units last.

    Attributes:
        y: (T, M, S) observations, zero where unseen.
        u: (T, p, S) inputs, zero beyond a sequence's end.
        seen: (T, M, S) bool.
        within: (T, S) bool, whether a step lies within its sequence.
    """

    y: Array
    u: Array
    seen: Array
    within: Array


def steps_of(x: Any, dtype: Any) -> Steps:
    """Sequences, units last, in parts."""
    y, u = without_inputs(series_of(x).values)
    within = within_lengths(y, series_of(x).lengths)
    seen = within[:, None] & ~jnp.isnan(y)
    u = jnp.zeros((y.shape[0], 0, y.shape[-1]), dtype) if u is None else jnp.where(within[:, None], u, 0).astype(dtype)
    return Steps(jnp.where(seen, y, 0).astype(dtype), u, seen, within)


def pattern_of(steps: Steps) -> Pattern:
    """What the sequences have in common."""
    seen, within = steps.seen, steps.within
    common = jnp.any(seen, -1, keepdims=True)
    same = jnp.all((common & within[:, None]) == seen)
    lengths = same & jnp.all(within == within[:, :1])
    return Pattern(same, lengths, jnp.all(seen))


def output_scale(y: Array, seen: Array, weights: Array) -> FeatureScale:
    """Scale of each output, y (T, M, S), over what is seen."""
    flat = lambda a: jnp.moveaxis(a, 1, 0).reshape(a.shape[1], -1)  # noqa: E731
    alone = jax.vmap(lambda cells, w: mean_and_scale(cells[None], w)[1])
    return jax.tree.map(lambda a: a[:, 0], alone(flat(y), flat(jnp.where(seen, weights[None, None], 0))))


def describe(y: Array, seen: Array, scale: FeatureScale | None) -> Array:
    """Of each sequence and output the mean, the deviation and the deviation of the steps between neighbours, (3 M, S)."""
    unit = jnp.ones(y.shape[1], y.dtype) if scale is None else scale.deviation
    y = y / unit[None, :, None]

    def average(a: Array, where: Array) -> Array:
        return jnp.sum(jnp.where(where, a, 0), 0) / jnp.maximum(jnp.sum(where, 0), 1)

    mean = average(y, seen)
    moves = average((y[1:] - y[:-1]) ** 2, seen[1:] & seen[:-1])
    return jnp.concatenate([mean, jnp.sqrt(average((y - mean[None]) ** 2, seen)), jnp.sqrt(moves)])


def check_values(model: Any, x: Any) -> None:
    """Data, sequences first: outputs (S, T, M), and inputs (S, T, p) that are all there."""
    values, lengths, labels = series_of(x)
    if labels is not None:
        raise ValueError("LDS: the model has no components or states to label; got jem.Labelled; pass what is inside of it")
    y, u = without_inputs(values)
    if not hasattr(y, "ndim"):
        raise ValueError(f"LDS: x must be an array (S, T, {model.num_outputs}); got {type(y).__name__}")
    series_checks.check_sequences(values, lengths, "LDS", rows=True)
    if y.ndim != 3 or y.shape[-1] != model.num_outputs:
        hint = "; for one output pass x[..., None]" if y.ndim == 2 and model.num_outputs == 1 else ""
        raise ValueError(f"LDS: outputs must have shape (S, T, {model.num_outputs}); got {y.shape}{hint}")
    if (u is None) != (model.num_inputs == 0):
        form = f"jem.Given(outputs, inputs (S, T, {model.num_inputs}))" if model.num_inputs else "outputs without inputs"
        raise ValueError(f"LDS: the model has {model.num_inputs} inputs; pass {form}")
    if u is None:
        return
    if u.shape != (*y.shape[:2], model.num_inputs):
        raise ValueError(f"LDS: inputs must have shape {(*y.shape[:2], model.num_inputs)}; got {u.shape}")
    if checks.found(_missing_input, u, lengths):
        fault = checks.first_fault(_missing_input, u, lengths)
        s, t, j = fault.place
        raise ValueError(f"LDS: inputs cannot be missing; got {fault.value} in sequence {s}, step {t}, input {j}")


def _missing_input(u: Array, lengths: Array | None) -> Array:
    if lengths is None:
        return ~jnp.isfinite(u)
    return (jnp.arange(u.shape[1])[None, :] < lengths[:, None])[..., None] & ~jnp.isfinite(u)


def join(a: Array, b: Array) -> Array:
    """Coefficients of the states and of the inputs, side by side."""
    return jnp.concatenate([a, b], 1)


def times(a: Array, x: Array) -> Array:
    """A matrix (i, j) by the vectors of x (T, j, S)."""
    return jnp.einsum("ij,tjs->tis", a, x)

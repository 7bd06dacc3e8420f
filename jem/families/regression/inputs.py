"""The inputs of a regression: their scale, and what must hold of them at the door."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.data import Given, float_dtype
from jem.families.scatter import mean_and_scale
from jem.kernels.linalg import solve_psd


class InputScale(NamedTuple):
    """What a regression keeps of the inputs it is bound to: centre and deviation, (p,) each, and the largest length () of
    inputs in these units, with the one of the intercept."""

    centre: Array
    deviation: Array
    reach: Array


def scale_of(inputs: Array, weights: Array) -> InputScale:
    """The scale of inputs (p, N)."""
    centre, scale = mean_and_scale(inputs, weights)
    unit = (inputs.astype(weights.dtype) - centre[:, None]) / scale.deviation[:, None]
    lengths = jnp.where(weights > 0, 1 + jnp.sum(unit * unit, 0), 1)
    return InputScale(centre, scale.deviation, jnp.sqrt(jnp.max(lengths)))


def in_units(scale: InputScale | None, centre: Array, inputs: Array) -> Array:
    """Inputs (p, N) about a centre (p,), in their deviations where these are known."""
    return (inputs.astype(centre.dtype) - centre[:, None]) / deviation(scale, centre)[:, None]


def deviation(scale: InputScale | None, like: Array) -> Array:
    """(p,)."""
    return jnp.ones_like(like) if scale is None else scale.deviation


def centre_of(scale: InputScale | None, inputs: Array, weights: Array) -> Array:
    """Where the inputs lie, (p,): for the first parameters."""
    return mean_and_scale(inputs, weights)[0] if scale is None else scale.centre


def pulls(scale: InputScale | None, inputs: Array, outputs: Array) -> Array:
    """What each unit pulls one regression of all towards, (M (p + 1), N): residuals times inputs, for starts of a mixture of
    several. Units of one line pull alike, wherever they lie."""
    y = outputs.astype(float_dtype(outputs))
    centre = centre_of(scale, inputs, jnp.ones(inputs.shape[1], y.dtype))
    u = in_units(scale, centre, inputs)
    u = jnp.concatenate([u, jnp.ones_like(u[:1])])
    left = y - solve_psd(u @ u.T, u @ y.T).T @ u
    size = jnp.std(left, 1, keepdims=True)
    unit = left / jnp.where(size > 0, size, 1)
    return (unit[:, None] * u[None]).reshape(-1, u.shape[1])


def chosen(inputs: Array, columns: tuple[int, ...] | None) -> Array:
    """The inputs that a regression looks at, all where no columns are named; (p, N)."""
    return inputs if columns is None else inputs[jnp.array(columns, int)]


def check_given(x: Any, name: str, columns: tuple[int, ...] | None = None) -> None:
    """x must be `Given`, with inputs (N, p), these columns among them."""
    if not isinstance(x, Given):
        raise ValueError(
            f"{name}: x must be jem.Given(outputs, inputs), both with a row a unit; got {type(x).__name__}; without inputs, "
            "use the family itself"
        )
    checks.check_matrix(x.inputs, f"{name}: inputs")
    check_columns(x.inputs, columns, name)


def check_columns(inputs: Array, columns: tuple[int, ...] | None, name: str) -> None:
    """The inputs, rows first, must have the columns that are named."""
    if columns and max(columns) >= inputs.shape[-1]:
        raise ValueError(f"{name}: columns {columns} of inputs are asked for; there are {inputs.shape[-1]}")

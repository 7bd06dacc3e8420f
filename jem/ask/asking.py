"""The door of every question: data that suit the model, and parameters that are this model's and fit these data."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem import checks
from jem.backend import precise
from jem.coordinates import check_values, marked
from jem.data import row_weights, to_rows, to_units, used_rows
from jem.doors.fit import checked
from jem.engine.result import Fit
from jem.node import Data, Node, Params


def asked(
    node: Node, params: Params, x: Data, weights: Array | None = None, name: str = "params"
) -> tuple[Params, Data, Array | None]:
    """Parameters, data and weights as arrays, looked over: what is asked about fits together.

    Shapes are looked at always, values where they are concrete: inside a transformation NaN stands for what they may not be.

    Args:
        node: the model.
        params: its parameters.
        x: data with N rows.
        weights: (N,) or None.
        name: what the parameters are called in errors.

    Raises:
        ValueError: parameters of another model, of another number of components or features, of several restarts, or outside
            of their domain; a `Fit` in their place; data or weights as `jem.fit` refuses them.
    """
    x, weights = checked(node, x, weights)
    return suited(params, jax.eval_shape(_start, node, x, weights), node, name), x, weights


def suited(params: Params, expected: Params, node: Node, name: str = "params") -> Params:
    """Parameters as arrays; raises where they have not the structure and shapes of `expected`, or no values of the model's."""
    check_no_fit(params, name)
    try:
        leaves = jax.tree.structure(expected).flatten_up_to(params)
        params = jax.tree.map(_as_array, expected, jax.tree.structure(expected).unflatten(leaves))
    except (ValueError, TypeError):  # named by their structures
        pass
    _check_one_fit(params, expected, name)
    checks.check_params(params, expected, name)
    check_numbers(node, params, name)
    return marked(node, params)


def check_no_fit(params: Params, name: str = "params") -> None:
    """A `Fit` is no parameters."""
    if isinstance(params, Fit):
        which = "fit.params" if np.ndim(params.objective) == 0 else "fits.best().params"
        raise ValueError(f"{name}: expected the model's parameters; got a Fit; pass {which}")


def check_numbers(node: Node, params: Params, name: str = "params") -> None:
    """Values where they may lie, none of them NaN."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not checks.is_concrete(leaf):
            continue
        apart = checks.is_apart(leaf)
        if checks.found(jnp.isnan, leaf) if apart else np.isnan(np.asarray(leaf)).any():
            place = () if apart else tuple(int(i) for i in np.argwhere(np.isnan(np.asarray(leaf)))[0])
            where = f" at {place}" if place else ""
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}: expected numbers; got NaN{where}; take the parameters of a fit that "
                "ended well (fit.check())"
            )
    check_values(node, params, name)


@jax.jit
@precise
def _start(node: Node, x: Data, weights: Array | None) -> Params:
    """A start: for its shapes."""
    units, weights = to_units(used_rows(x, weights)), row_weights(x, weights)
    return node.bind(units, weights).init(jax.random.key(0), units, weights)


def _as_array(expected: Any, value: Any) -> Any:
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, list, float, int)):
        raise TypeError
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(expected.dtype)


def _check_one_fit(params: Params, expected: Params, name: str) -> None:
    """Parameters with a leading axis of restarts are those of many fits."""
    got, want = [np.shape(leaf) for leaf in jax.tree.leaves(params)], [leaf.shape for leaf in jax.tree.leaves(expected)]
    if got and got != want and [shape[1:] for shape in got] == want and len({shape[:1] for shape in got}) == 1:
        raise ValueError(
            f"{name}: expected the parameters of one fit; got those of {got[0][0]}, as restarts return them; pass "
            "fits.best().params"
        )


def check_drawn(node: Node, key: Array, params: Params, num: Any) -> None:
    """Parameters that the model can draw from, and that fit what it draws: without data there is nothing else to fit."""
    try:
        drawn = jax.eval_shape(lambda params: to_rows(node.sample(key, params, num)[1]), params)
        expected = jax.eval_shape(_start, node, drawn, None)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        if isinstance(error, (TypeError, ValueError)) and re.match(r"[A-Z]\w*: ", str(error)):  # a node's own words
            raise
        raise ValueError(
            f"params: not those of this {type(node).__name__}, or not of one fit: {error}; pass fit.params or "
            "fits.best().params"
        ) from error
    suited(params, expected, node)

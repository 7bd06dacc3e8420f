"""Some columns of a model: how they are distributed by themselves, and where the others are known."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.ask.asking import check_drawn, check_no_fit
from jem.backend import precise
from jem.node import Node, Params
from jem.settings import check_node, describe


def marginal(node: Node, params: Params, columns: Sequence[int]) -> tuple[Node, Params]:
    """The distribution of some columns, `p(x_columns) = int p(x) dx_others`, as a model of its own.

    Args:
        node: a family of rows (N, D), a mixture of such, or a chain.
        params: its parameters.
        columns: which of the D columns, in the order in which they shall be.

    Returns:
        The model of these columns, without priors, and its parameters.

    Raises:
        TypeError: a node that does not say how some of its columns are distributed; columns that are no integers.
        ValueError: parameters that do not fit the model; columns that are not there, or come twice.

    Example:
        >>> import jem
        >>> p = jem.Gaussian().params([0.0, 1.0, 2.0], [[1.0, 0.5, 0.0], [0.5, 4.0, 0.0], [0.0, 0.0, 9.0]])
        >>> model, part = jem.marginal(jem.Gaussian(), p, [2, 1])
        >>> part.mean.tolist(), part.covariance.tolist()
        ([2.0, 1.0], [[9.0, 0.0], [0.0, 4.0]])

    Source: Anderson (2003), An Introduction to Multivariate Statistical Analysis, section 2.4.
    """
    chosen = _columns(node, params, columns, "marginal")
    return node.of_columns(chosen), _marginal(node, params, chosen)


def condition(node: Node, params: Params, columns: Sequence[int], values: Any) -> tuple[Node, Params]:
    """The distribution of the other columns where some are known, `p(x_others | x_columns = values)`, as a model of its own.

    Of a mixture, `weights_k ~ weights_k p_k(values)` and each component's own conditional: its mean, as a function of the
    values, is a regression; `impute` gives it for many rows at once.

    Args:
        node: a family of rows (N, D), or a mixture of such.
        params: its parameters.
        columns: which of the D columns are known.
        values: what they are, (G,), one for each.

    Returns:
        The model of the other columns, in their order and without priors, and its parameters.

    Raises:
        TypeError: as for `marginal`.
        ValueError: parameters that do not fit the model; columns that are not there, come twice, or are all there are; values
            of another shape, or not finite.

    Example:
        >>> import jem
        >>> p = jem.Gaussian().params([0.0, 0.0], [[1.0, 0.5], [0.5, 1.0]])
        >>> model, rest = jem.condition(jem.Gaussian(), p, [0], [2.0])
        >>> round(float(rest.mean[0]), 4), round(float(rest.covariance[0, 0]), 4)
        (1.0, 0.75)

    Source: Anderson (2003), An Introduction to Multivariate Statistical Analysis, section 2.5.
    """
    given = _columns(node, params, columns, "condition")
    rest = tuple(i for i in range(_width(node, params)) if i not in given)
    if not rest:
        raise ValueError("condition: columns: all are given; at least one must be left")
    values = jnp.asarray(values, jax.tree.leaves(params)[0].dtype)
    if values.shape != (len(given),):
        raise ValueError(f"condition: values: expected shape ({len(given)},), one for each column; got {values.shape}")
    if checks.is_concrete(values) and not bool(jnp.isfinite(values).all()):
        raise ValueError(f"condition: values: expected finite numbers; got {values.tolist()}")
    return node.of_columns(rest), _conditional(node, params, given, rest, values)


@functools.partial(jax.jit, static_argnames="columns")
@precise
def _marginal(node: Node, params: Params, columns: tuple[int, ...]) -> Params:
    return node.marginal(params, columns)


@functools.partial(jax.jit, static_argnames=("given", "rest"))
@precise
def _conditional(node: Node, params: Params, given: tuple[int, ...], rest: tuple[int, ...], values: Array) -> Params:
    return node.conditional(params, given, rest, values)[0]


def _width(node: Node, params: Params) -> int:
    """D, from a draw that is not made; of sequences that of a step."""
    _, x = jax.eval_shape(lambda: node.sample(jax.random.key(0), params, 1))
    if not hasattr(x, "shape") or len(x.shape) < 2:
        raise TypeError(f"{type(node).__name__}: its data are not rows of columns; a jem.Product has parts by name")
    return x.shape[-2]


def _columns(node: Node, params: Params, columns: Any, name: str) -> tuple[int, ...]:
    check_node(node, f"{name}: node")
    check_no_fit(params)
    check_drawn(node, jax.random.key(0), params, 1)
    chosen = [columns] if isinstance(columns, int) else list(columns)
    if not all(hasattr(i, "__index__") and not isinstance(i, bool) for i in chosen):
        raise TypeError(f"{name}: columns: expected integers; got {describe(columns)}")
    chosen, width = tuple(int(i) for i in chosen), _width(node, params)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= i < width for i in chosen):
        raise ValueError(f"{name}: columns: expected different ones from 0 to {width - 1}; got {list(chosen)}")
    return chosen

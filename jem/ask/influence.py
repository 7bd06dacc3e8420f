"""What single rows do to a fit: influence on every parameter, and prediction of a row by the fit without it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem.ask.asking import asked as asked_about
from jem.ask.information import Oakes
from jem.ask.polish import InformationStatus, ask, status_of
from jem.ask.units import check_units, num_counted
from jem.backend import precise
from jem.data import row_weights, to_units
from jem.engine.score import flat, level, params_at, target
from jem.kernels.sums import in_batches
from jem.node import Data, Node, Params

_TOGETHER = 32


class Influence(NamedTuple):
    """Derivatives by the rows' weights; `num_flat` and `status` are scalars ().

    Attributes:
        estimate: parameters, or the value of a function of them.
        derivatives: the same tree, every leaf with a leading axis N: the change per unit of weight given to a row. Without
            row n the estimate is about `estimate - weights[n] * derivatives[n]`.
        num_flat: number of directions without information, along which the derivative is the shortest.
        status: int code of `jem.uncertainty.InformationStatus`.
    """

    estimate: Any
    derivatives: Any
    num_flat: Array
    status: Array

    def check(self) -> "Influence":
        """Returns itself where the status is REGULAR, and raises `FitError` otherwise. Not for use inside jit."""
        InformationStatus.check(self.status, InformationStatus.REGULAR)
        return self


def influence(
    node: Node, params: Params, x: Data, weights: Array | None = None, *, fn: Callable[[Params], Any] | None = None
) -> Influence:
    """How a fit moves with the weight of each row, without fitting again.

    `d theta / d w_n = C I^{-1} s_n`, s_n the derivative of the score by the row's weight, data-relative priors included: one
    pass backwards for each number of the estimate.

    Args:
        node: the model.
        params: parameters at the maximum.
        x: data with N rows.
        weights: (N,) or None.
        fn: a function of the parameters whose influence is asked for; None takes the parameters themselves.

    Returns:
        An `Influence`.

    Raises:
        ValueError: data, weights or parameters that do not fit the model.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> found = jem.uncertainty.influence(jem.Poisson(), jem.Poisson.Params(jnp.array([2.5])), [[1], [4]])
        >>> found.derivatives.rate[:, 0].round(2).tolist()  # (x_n - mean) / N
        [-0.75, 0.75]

    Source: Cook (1986), JRSS B 48; Giordano et al. (2019), AISTATS 22.
    """
    params, x, weights = asked_about(node, params, x, weights)
    return _influence(fn, node, params, x, row_weights(x, weights))


@functools.partial(jax.jit, static_argnums=0)
@precise
def _influence(
    fn: Callable[[Params], Any] | None, model: Node, params: Params, x: Data, weights: Array
) -> Influence:
    asked = ask(Oakes(), model, params, x, weights)
    t, z, c = asked.target, asked.z, asked.curvature
    value = (lambda p: p) if fn is None else fn
    moves = jax.jacfwd(lambda z: flat(value(params_at(t, z))))(z)
    rows = _pull_back(model, params, x, weights, z, jax.vmap(c.solve)(moves))  # (p, N)
    estimate = value(params)
    leaves, treedef = jax.tree.flatten(estimate)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]
    parts = jnp.split(rows.T, ends, axis=1)
    tree = treedef.unflatten([p.reshape(-1, *np.shape(leaf)) for p, leaf in zip(parts, leaves, strict=True)])
    return Influence(estimate, tree, c.num_flat, status_of(asked))


class LeaveOneOut(NamedTuple):
    """Prediction of every row by the others; what has no axis N is a scalar ().

    Attributes:
        log_density: (N,) `log p(x_n | parameters without row n)`.
        total: its sum, weighted: the expected log predictive density of N new rows.
        standard_error: of the total, from the spread over rows.
        num_effective: log-likelihood less total: about the number of parameters where the model is right.
        status: int code of `jem.uncertainty.InformationStatus`.
    """

    log_density: Array
    total: Array
    standard_error: Array
    num_effective: Array
    status: Array

    def check(self) -> "LeaveOneOut":
        """Returns itself where the status is REGULAR, and raises `FitError` otherwise. Not for use inside jit."""
        InformationStatus.check(self.status, InformationStatus.REGULAR)
        return self


def leave_one_out(node: Node, params: Params, x: Data, weights: Array | None = None) -> LeaveOneOut:
    """Leave-one-out log predictive density, without fitting again.

    The parameters without row n are taken to first order, `z - w_n I^{-1} s_n` in free coordinates (the infinitesimal
    jackknife), and the row's density is exact there: what is left out is of the order of the row's influence squared. A row
    that alone holds up a component is beyond it.

    Args:
        node: the model.
        params: parameters at the maximum.
        x: data with N rows.
        weights: (N,) or None; a row is left out whole.

    Returns:
        A `LeaveOneOut`.

    Raises:
        ValueError: a single row, as one sequence: there are no others.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> x = jnp.array([[1.0], [4.0], [2.0], [3.0]])
        >>> found = jem.uncertainty.leave_one_out(jem.Poisson(), jem.Poisson.Params(jnp.array([2.5])), x)
        >>> bool(found.total < jem.log_prob(jem.Poisson(), jem.Poisson.Params(jnp.array([2.5])), x).sum())
        True

    Source: Giordano et al. (2019), AISTATS 22; Vehtari, Gelman and Gabry (2017), Stat. Comput. 27, for the summary.
    """
    params, x, weights = asked_about(node, params, x, weights)
    check_units("leave_one_out", x, weights, "jem.bic or jem.aic")
    return _leave_one_out(node, params, x, row_weights(x, weights))


@jax.jit
@precise
def _leave_one_out(model: Node, params: Params, x: Data, weights: Array) -> LeaveOneOut:
    asked = ask(Oakes(), model, params, x, weights)
    t, z, c = asked.target, asked.z, asked.curvature
    moved = _pull_back(model, params, x, weights, z, jax.vmap(c.solve)(jnp.eye(z.shape[0], dtype=z.dtype))).T

    def one(row: tuple[Data, Array, Array]) -> tuple[Array, Array]:
        x_n, w_n, move = row
        unit = to_units(jax.tree.map(lambda leaf: leaf[None], x_n))
        left_out = t.model.infer(params_at(t, z - w_n * move), unit)[1][0]
        return left_out, t.model.infer(params, unit)[1][0]

    without, with_ = in_batches(one, (x, weights, moved), _TOGETHER)
    total, num = jnp.sum(weights * without), jnp.sum(weights)
    spread = jnp.sqrt(num * jnp.sum(weights * (without - total / num) ** 2) / num)
    several = num_counted(weights) > 1
    status = jnp.where(several, status_of(asked), InformationStatus.NONFINITE).astype(jnp.int32)
    without, total = jnp.where(several, without, jnp.nan), jnp.where(several, total, jnp.nan)
    return LeaveOneOut(without, total, spread, jnp.sum(weights * with_) - total, status)


def _pull_back(model: Node, params: Params, x: Data, weights: Array, z: Array, rows: Array) -> Array:
    """`rows ds/dw` (m, N) for rows (m, n), s the score."""
    _, pull = jax.vjp(lambda w: level(target(model, x, w, params), z).score, weights)
    return lax.map(lambda row: pull(row)[0], rows)

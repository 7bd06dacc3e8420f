"""What one asks of a model and its parameters: densities, posteriors, bounds, samples, information criteria.

All functions take rows and return rows; all work inside jit, and in chunks, so that memory does not grow with N x K.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.ask.asking import asked, check_drawn, check_no_fit, check_numbers
from jem.backend import precise
from jem.coordinates import num_free
from jem.data import row_weights, to_rows, to_units, used_rows
from jem.doors.fit import checked
from jem.engine import step
from jem.engine.devices import compressed, mesh_of
from jem.engine.stream import Chunks, chunk_size, fold, lay_out, map_units, unit_bytes
from jem.node import Data, Node, Params, Posterior, Stats, has_local_q, keep_units


def bind(node: Node, x: Data, weights: Array | None = None) -> Node:
    """The node with every hyper-parameter that is relative to the data filled in (`fit` does this itself).

    Args:
        node: the model.
        x: data, rows first.
        weights: (N,) or None.

    Returns:
        A node of the same kind. `m_step` and the prior of a bound node are those `fit` uses.

    Raises:
        ValueError: data or weights that do not fit the model.

    Example:
        >>> import jem
        >>> jem.bind(jem.Gaussian(), [[0.0], [2.0]]).scale.deviation.tolist()
        [1.0]
    """
    return _bind(node, *checked(node, x, weights))


@jax.jit
@precise
def _bind(node: Node, x: Data, weights: Array | None) -> Node:
    return node.bind(to_units(used_rows(x, weights)), row_weights(x, weights))


def init(node: Node, key: Array, x: Data, weights: Array | None = None) -> Params:
    """One data-driven start, the one `fit_restarts` makes from the same key.

    Args:
        node: the model.
        key: a typed PRNG key.
        x: data, rows first.
        weights: (N,) or None.

    Returns:
        Parameters for `fit`.

    Raises:
        ValueError: data or weights that do not fit the model.

    Example:
        >>> import jax, jem
        >>> jem.init(jem.Mixture(jem.Poisson(), 2), jax.random.key(0), [[1], [2], [9]]).weights.shape
        (2,)
    """
    checks.check_key(key)
    x, weights = checked(node, x, weights)
    return _init(node, key, x, weights, mesh=mesh_of(x, 1))


@functools.partial(jax.jit, static_argnames="mesh")
@precise
def _init(node: Node, key: Array, x: Data, weights: Array | None, *, mesh: tuple[Any, str | None] | None) -> Params:
    x, weights = used_rows(x, weights), row_weights(x, weights)
    node = node.bind(to_units(x), weights)
    x, weights = compressed(node, x, weights, mesh) or (x, weights)
    return node.init(key, to_units(x), weights)


def log_prob(node: Node, params: Params, x: Data) -> Array:
    """Log-density of each row, `log p(x_n | params)`.

    Args:
        node: the model.
        params: its parameters.
        x: data with N rows.

    Returns:
        (N,) log-densities.

    Raises:
        ValueError: data or parameters that do not fit the model.

    Example:
        >>> import jem
        >>> g = jem.Gaussian()
        >>> round(float(jem.log_prob(g, g.params([0.0], [[1.0]]), [[0.0]])[0]), 4)
        -0.9189
    """
    params, x, _ = asked(node, params, x)
    return _log_prob(node, params, x)


@jax.jit
@precise
def _log_prob(node: Node, params: Params, x: Data) -> Array:
    return map_units(lambda u: node.infer(params, u)[1], x, row_weights(x, None))


def infer(node: Node, params: Params, x: Data) -> tuple[Posterior, Array]:
    """The E-step's posterior and log-density of each row.

    Args:
        node: the model.
        params: its parameters.
        x: data with N rows.

    Returns:
        The posterior `p(z | x_n, params)`, rows first (a mixture's `.responsibilities` are (N, K)), and the (N,)
        log-densities `log p(x_n | params)`.

    Raises:
        ValueError: data or parameters that do not fit the model.

    Example:
        >>> import jem, jax, jax.numpy as jnp
        >>> m = jem.Mixture(jem.Poisson(), 2)
        >>> p = jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Poisson.Params(jnp.array([[1.0], [9.0]])))
        >>> jem.infer(m, p, [[1], [8]])[0].responsibilities.round(2).tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    Source: Dempster, Laird and Rubin (1977), JRSS B 39.
    """
    params, x, _ = asked(node, params, x)
    return _infer(node, params, x)


@jax.jit
@precise
def _infer(node: Node, params: Params, x: Data) -> tuple[Posterior, Array]:
    return to_rows(map_units(lambda u: node.infer(params, u), x, row_weights(x, None)))


def e_step(node: Node, params: Params, x: Data, weights: Array | None = None) -> tuple[Stats, Array]:
    """Expected sufficient statistics at `params` and the weighted log-likelihood.

    Args:
        node: the model.
        params: its parameters.
        x: data with N rows.
        weights: (N,) or None.

    Returns:
        The statistics, summed over rows, and the scalar `sum_n w_n log p(x_n | params)`.

    Raises:
        ValueError: data, weights or parameters that do not fit the model.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> stats, _ = jem.e_step(jem.Poisson(), jem.Poisson.Params(jnp.array([1.0])), [[1], [4]])
        >>> [total.tolist() for total in stats.sums]
        [[5.0]]

    Source: Dempster, Laird and Rubin (1977), JRSS B 39.
    """
    return e_step_of(node, *asked(node, params, x, weights))


@jax.jit
@precise
def e_step_of(node: Node, params: Params, x: Data, weights: Array | None) -> tuple[Stats, Array]:
    """`e_step` of what was looked over."""
    return step.e_step(node, params, _lay_out(node, params, x, row_weights(x, weights)))


def m_step(node: Node, params: Params, stats: Stats) -> Params:
    """The M-step: `argmax Q(. | params) + log prior` from statistics gathered at `params`.

    Args:
        node: the model; bind it to data first where its prior is relative to data.
        params: where the statistics were gathered; also what an empty component keeps.
        stats: from `e_step`.

    Returns:
        New parameters.

    Raises:
        ValueError: a `Fit` in the place of parameters, or values outside of their domain.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Poisson.Params(jnp.array([1.0]))
        >>> jem.m_step(jem.Poisson(), p, jem.e_step(jem.Poisson(), p, [[1], [4]])[0]).rate.tolist()
        [2.5]

    Source: Dempster, Laird and Rubin (1977), JRSS B 39.
    """
    check_no_fit(params)
    check_numbers(node, params)
    return _m_step(node, params, stats)


_m_step = jax.jit(precise(lambda node, params, stats: node.maximize(params, stats)))


def em_step(node: Node, params: Params, x: Data, weights: Array | None = None) -> tuple[Params, Array]:
    """One EM step: `argmax Q(. | params) + log prior`, Q from an E-step at `params`.

    Args:
        node: the model.
        params: where to start.
        x: data with N rows.
        weights: (N,) or None.

    Returns:
        The new parameters, and the weighted log-likelihood at the **old** ones, a scalar.

    Raises:
        ValueError: data, weights or parameters that do not fit the model.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.em_step(jem.Poisson(), jem.Poisson.Params(jnp.array([1.0])), [[1], [4]])[0].rate.tolist()
        [2.5]

    Source: Dempster, Laird and Rubin (1977), JRSS B 39.
    """
    return _em_step(node, *asked(node, params, x, weights))


@jax.jit
@precise
def _em_step(node: Node, params: Params, x: Data, weights: Array | None) -> tuple[Params, Array]:
    units, weights = to_units(used_rows(x, weights)), row_weights(x, weights)
    stats, log_likelihood = step.e_step(node, params, _lay_out(node, params, x, weights))
    return node.bind(units, weights).maximize(params, stats), log_likelihood


def elbo(node: Node, params: Params, x: Data, *, posterior_at: Params, weights: Array | None = None) -> Array:
    """The free energy `F(q, params) = E_q[log p(x, z | params)] + H[q]` at `q = p(z | x, posterior_at)`.

    `F(q, params) = log p(x | params) - KL(q || p(z | x, params))`: at most the log-likelihood, and equal to it where
    `posterior_at` is `params`. Computed as `Q(params | old) - Q(old | old) + log p(x | old)` with old = `posterior_at`.

    Args:
        node: the model.
        params: where the model is.
        x: data with N rows.
        posterior_at: the parameters whose E-step gives q.
        weights: (N,) or None.

    Returns:
        A scalar in nats; the log-likelihood less this is the KL divergence.

    Raises:
        ValueError: data, weights or parameters that do not fit the model.

    Example:
        >>> import jem, jax
        >>> m, x = jem.Mixture(jem.Poisson(), 2), [[1], [2], [9]]
        >>> p = jem.init(m, jax.random.key(0), x)
        >>> bool(abs(jem.elbo(m, p, x, posterior_at=p) - jem.log_prob(m, p, x).sum()) < 1e-4)
        True

    Source: Neal and Hinton (1998), eq. 7.
    """
    params, x, weights = asked(node, params, x, weights)
    old, x, weights = asked(node, posterior_at, x, weights, "posterior_at")
    return _elbo(node, params, old, x, weights)


@jax.jit
@precise
def _elbo(node: Node, params: Params, old: Params, x: Data, weights: Array | None) -> Array:
    data = _lay_out(node, old, x, row_weights(x, weights))

    def bound(node: Node, stats: Stats, log_likelihood: Array) -> Array:
        return node.expected_log_prob(params, stats, old) - node.expected_log_prob(old, stats, old) + log_likelihood

    if not has_local_q(node):
        return bound(node, *step.e_step(node, old, data))
    kept = keep_units(node)
    return fold(lambda x, weights: bound(kept, *step.e_step_chunk(kept, old, x, weights)), data)


def sample(node: Node, key: Array, params: Params, num: int | None = None, *, like: Data | None = None) -> tuple[Any, Data]:
    """Draws units from the model, `z, x ~ p(z, x | params)`.

    Args:
        node: the model.
        key: a typed PRNG key.
        params: its parameters.
        num: number of units, N; None is that of `like`.
        like: data that the draws are to resemble: sequences have their lengths, units their inputs, and what is missing or
            unlabelled there is so in the draws. Where there are more draws than rows, rows are taken again from the first.

    Returns:
        The latents and the data, rows first.

    Raises:
        ValueError: parameters that are not the model's.
        TypeError: a model that cannot draw, or not without inputs.

    Example:
        >>> import jem, jax, jax.numpy as jnp
        >>> rates = jem.Poisson.Params(jnp.array([2.0]))
        >>> jem.sample(jem.Poisson(), jax.random.key(0), rates, 5)[1].shape
        (5, 1)
        >>> chain = jem.HMM(jem.Poisson(), 1)
        >>> x = jem.sequences([[[1], [2], [4]], [[3]]])
        >>> jem.sample(chain, jax.random.key(0), jem.init(chain, jax.random.key(1), x), like=x)[1].lengths.tolist()
        [3, 1]
    """
    checks.check_key(key)
    if num is not None or like is None:
        checks.check_positive_int(num, "num")
    check_no_fit(params)
    if like is None:
        check_drawn(node, key, params, num)
        return _sample(node, key, params, num)
    params, like, _ = asked(node, params, like)
    return _sample_like(node, key, params, like, num)


@functools.partial(jax.jit, static_argnames="num")
@precise
def _sample(node: Node, key: Array, params: Params, num: int) -> tuple[Any, Data]:
    return to_rows(node.sample(key, params, num))


@functools.partial(jax.jit, static_argnames="num")
@precise
def _sample_like(node: Node, key: Array, params: Params, like: Data, num: int | None) -> tuple[Any, Data]:
    if num is not None:
        like = jax.tree.map(lambda leaf: leaf[jnp.arange(num) % leaf.shape[0]], like)
    return to_rows(node.sample_like(key, params, to_units(like)))


def num_parameters(node: Node, params: Params) -> int:
    """Number of free parameters: the size of the free coordinates, less what is a convention, as the rotations of factors.

    Simplices count one less than their entries, shared fields once, frozen ones not at all.

    Args:
        node: the model.
        params: its parameters, of one fit.

    Returns:
        A Python integer.

    Raises:
        ValueError: a `Fit` in the place of parameters.

    Example:
        >>> import jem, jax
        >>> m = jem.Mixture(jem.Gaussian(), 2)
        >>> jem.num_parameters(m, jem.init(m, jax.random.key(0), jem.datasets.old_faithful()))
        11
    """
    check_no_fit(params)
    return num_free(node, params) - sum(node.gauge(params).values())


def _lay_out(node: Node, params: Params, x: Data, weights: Array) -> Chunks:
    per_unit = unit_bytes(lambda x, w: step.e_step_chunk(node, params, x, w), x, weights)
    return lay_out(x, weights, chunk_size(per_unit, weights.shape[0]))

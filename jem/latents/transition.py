"""Transition laws of a chain, a part of their own: `HMM` asks them for a matrix and gives them expected counts."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.kernels.simplex import maximize_simplex, xlogy
from jem.kernels.support import Simplex
from jem.node import node, set_once, setting
from jem.reading import as_array
from jem.settings import number


class TransitionParams(NamedTuple):
    """Transition matrix (K, K), rows sum to one."""

    probs: Array


@node
class Transition:
    """A transition matrix, `p(z_t = j | z_{t-1} = i) = probs[i, j]`, with free, fixed and forbidden cells.

    The M-step is `probs[i, j] = counts[i, j] / sum_j counts[i, j]`; where a row has fixed cells, its free cells share
    what these leave in the same proportions. A cell that starts at zero stays at zero, under a prior too, so left-right and
    band structures stay exact.

    Args:
        fixed: (K, K) with the values of fixed cells and NaN in the free ones; a fixed zero forbids a transition.
        concentration: Dirichlet prior on each row, scalar or (K, K); 1 is maximum likelihood. Above 1 on the diagonal makes
            states persist.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> nan = float("nan")
        >>> left_right = jem.Transition(fixed=[[nan, nan, 0.0], [0.0, nan, nan], [0.0, 0.0, 1.0]])
        >>> left_right.init(jnp.ones((3, 3))).probs[2].tolist()
        [0.0, 0.0, 1.0]

    Source: Rabiner (1989), eq. 40b.
    """

    fixed: Any
    concentration: Any = setting(must=number(above=0.0))

    def __init__(self, fixed: Any = None, concentration: Any = 1.0):
        if fixed is not None:
            fixed = jnp.asarray(as_array(fixed, "Transition: fixed"), float)
            checks.check_fixed_cells(fixed)
        set_once(self, fixed=fixed, concentration=concentration)

    def params(self, probs: Any) -> TransitionParams:
        """Parameters from a transition matrix.

        Args:
            probs: (K, K), rows sum to one.

        Raises:
            ValueError: no square matrix, or a row that is no distribution, naming it.

        Example:
            >>> import jem
            >>> jem.Transition().params([[0.9, 0.1], [0.5, 0.5]]).probs.shape
            (2, 2)
        """
        probs = jnp.asarray(probs, float)
        if probs.ndim != 2 or probs.shape[0] != probs.shape[1]:
            raise ValueError(f"Transition: probs must have shape (K, K); got {probs.shape}")
        checks.check_stochastic(probs, "Transition: probs")
        return TransitionParams(probs)

    def matrix(self, params: TransitionParams) -> Array:
        """The transition matrix (K, K)."""
        return params.probs

    def maximize(self, params: TransitionParams, counts: Array) -> TransitionParams:
        """The M-step from expected counts (K, K)."""
        if self.fixed is None:
            return TransitionParams(maximize_simplex(counts, params.probs, self.concentration, returns=True))
        # A zero cell has no prior mass: pseudo-counts must not open what is forbidden.
        free = jnp.isnan(self.fixed)
        held = jnp.where(free, 0, self.fixed).astype(counts.dtype)
        left = 1 - jnp.sum(held, 1, keepdims=True)
        extra = jnp.where(free & (params.probs > 0), jnp.asarray(self.concentration, counts.dtype) - 1, 0)
        mass = jnp.where(free, jnp.maximum(counts + extra, 0), 0)
        total = jnp.sum(mass, 1, keepdims=True)
        new = held + left * mass / jnp.where(total > 0, total, 1)
        return TransitionParams(jnp.where(free & (total == 0), params.probs, new))

    def expected_log_prob(self, params: TransitionParams, counts: Array) -> Array:
        """`sum counts log probs`."""
        return jnp.sum(xlogy(counts, params.probs))

    def init(self, counts: Array) -> TransitionParams:
        """A start from counts (K, K) of a first guess of the path, fixed cells as they are."""
        free = jnp.ones(counts.shape, bool) if self.fixed is None else jnp.isnan(self.fixed)
        even = jnp.where(free, 1.0, 0.0).astype(counts.dtype)
        return self.maximize(TransitionParams(even), counts + even)

    def log_prior(self, params: TransitionParams) -> Array:
        """Log-density of the Dirichlet prior, over the cells that can move."""
        free = params.probs > 0 if self.fixed is None else (jnp.isnan(self.fixed) & (params.probs > 0))
        more = jnp.broadcast_to(jnp.asarray(self.concentration, params.probs.dtype) - 1, params.probs.shape)
        return jnp.sum(jnp.where(free, xlogy(more, jnp.where(free, params.probs, 1)), 0))

    def supports(self, params: TransitionParams) -> TransitionParams:
        """Rows on the simplex, fixed cells held."""
        return params._replace(probs=Simplex(None if self.fixed is None else ~jnp.isnan(self.fixed)))

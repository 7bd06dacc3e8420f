"""Vectors of independent numbers of failures before a success."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.data import float_dtype
from jem.families.counted import Chances
from jem.kernels.counts import is_count
from jem.kernels.intervals import Edges
from jem.node import node, setting
from jem.settings import number


class GeometricParams(NamedTuple):
    """Probabilities (D,) of a success."""

    probs: Array


@node
class Geometric(Chances):
    """D independent numbers of failures before the first success, `p(x) = prod_d probs_d (1 - probs_d)^x_d`; x has rows (N, D).

    Counts begin at 0: the trial that succeeds is not counted.

    Params: `GeometricParams(probs (D,))`.

    Attributes:
        concentration: Beta(concentration, concentration) prior on each probability; 1 is maximum likelihood.

    Raises:
        ValueError: at the door, x that is not (N, D), or no integer >= 0. Inside jit such a row has `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Geometric.Params(jnp.array([0.5]))
        >>> [round(float(v), 3) for v in jnp.exp(jem.log_prob(jem.Geometric(), p, jnp.array([[0], [1], [2]])))]
        [0.5, 0.25, 0.125]

    Source: Johnson, Kemp and Kotz (2005), Univariate Discrete Distributions, chapter 5.
    """

    Params = GeometricParams

    concentration: Any = setting(default=1.0, must=number(above=0.0))

    def statistics(self, x: Array) -> tuple[Array, Array]:
        return jnp.ones_like(x), jnp.where(is_count(x), x, 0)

    def carrier(self, x: Array) -> Array:
        return jnp.where(is_count(x), 0.0, -jnp.inf).astype(x.dtype)

    @property
    def edges(self) -> Edges:
        return Edges(0.0, whole=True)

    def mean(self, params: GeometricParams) -> Array:
        return (1 - params.probs) / params.probs

    def sample(self, key: Array, params: GeometricParams, num: int) -> tuple[tuple[()], Array]:
        p = params.probs[:, None]
        wait = jax.random.exponential(key, (p.shape[0], num), p.dtype) / -jnp.log1p(-p)
        return (), jnp.floor(wait).astype(jnp.int32)

    def features(self, x: Array) -> Array:
        # The logarithm has the same spread at every large mean.
        return jnp.log(x.astype(float_dtype(x)) + 0.5)

    def validate(self, x: Array) -> None:
        super().validate(x)
        checks.check_integers(x, "Geometric")

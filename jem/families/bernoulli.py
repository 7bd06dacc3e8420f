"""Vectors of independent binary observations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.data import float_dtype
from jem.families.counted import Chances
from jem.kernels.intervals import Edges
from jem.node import node, setting
from jem.settings import number


class BernoulliParams(NamedTuple):
    """Probabilities (D,) of a one."""

    probs: Array


@node
class Bernoulli(Chances):
    """D independent binary features, `p(x) = prod_d probs_d^x_d (1 - probs_d)^(1 - x_d)`; x has rows (N, D) of 0 and 1.

    With `jem.Mixture` this is the latent class model.

    Params: `BernoulliParams(probs (D,))`.

    Attributes:
        concentration: Beta(concentration, concentration) prior on each probability; 1 is maximum likelihood.

    Raises:
        ValueError: at the door, x that is not (N, D), or a number other than 0 and 1. Inside jit such a row has `log p = -inf`.

    Example:
        >>> import jem
        >>> jem.Mixture(jem.Bernoulli(), 2).components.size
        2

    Source: Goodman (1974), Biometrika 61.
    """

    Params = BernoulliParams

    concentration: Any = setting(default=1.0, must=number(above=0.0))

    def statistics(self, x: Array) -> tuple[Array, Array]:
        return x, 1 - x

    def carrier(self, x: Array) -> Array:
        return jnp.where((x == 0) | (x == 1), 0.0, -jnp.inf).astype(x.dtype)

    @property
    def edges(self) -> Edges:
        return Edges(0.0, 1.0, whole=True)

    def mean(self, params: BernoulliParams) -> Array:
        return params.probs

    def sample(self, key: Array, params: BernoulliParams, num: int) -> tuple[tuple[()], Array]:
        shape = (params.probs.shape[0], num)
        return (), jax.random.bernoulli(key, params.probs[:, None], shape).astype(jnp.int32)

    def features(self, x: Array) -> Array:
        return x.astype(float_dtype(x))

    def validate(self, x: Array) -> None:
        super().validate(x)
        checks.check_integers(x, "Bernoulli", upper=2)

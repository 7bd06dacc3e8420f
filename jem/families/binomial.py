"""Vectors of independent numbers of successes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.data import float_dtype
from jem.families.counted import TRIALS, Chances, Counted, arcsine_of_shares, check_trials, column
from jem.kernels.counts import binomial_log_prob, is_count, log_factorial
from jem.kernels.intervals import Edges
from jem.node import node, setting
from jem.settings import number


class BinomialParams(NamedTuple):
    """Probabilities (D,) of a success."""

    probs: Array


@node
class Binomial(Chances, Counted):
    """D independent successes of n trials, `p(x) = prod_d C(n_d, x_d) probs_d^x_d (1 - probs_d)^(n_d - x_d)`; x is (N, D).

    Params: `BinomialParams(probs (D,))`.

    Attributes:
        num_trials: n, one number or (D,).
        concentration: Beta(concentration, concentration) prior on each probability; 1 is maximum likelihood.

    Raises:
        ValueError: at the door, x that is not (N, D), or no integer 0 .. n. Inside jit such a row has `log p = -inf`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> p = jem.Binomial.Params(jnp.array([0.5]))
        >>> [round(float(v), 3) for v in jnp.exp(jem.log_prob(jem.Binomial(2), p, jnp.array([[0], [1], [2]])))]
        [0.25, 0.5, 0.25]

    Source: Blischke (1964), JASA 59.
    """

    Params = BinomialParams

    num_trials: Any = setting(must=TRIALS)
    concentration: Any = setting(default=1.0, must=number(above=0.0))

    def statistics(self, x: Array) -> tuple[Array, Array]:
        num = column(self.num_trials, x.dtype)
        ones = jnp.clip(jnp.where(is_count(x), x, 0), 0, num)
        return ones, num - ones

    def carrier(self, x: Array) -> Array:
        ones, zeros = self.statistics(x)
        ways = log_factorial(ones + zeros) - log_factorial(ones) - log_factorial(zeros)
        return jnp.where(self._possible(x), ways, -jnp.inf)

    @property
    def edges(self) -> Edges:
        return Edges(0.0, self.num_trials, whole=True)

    def cells(self, params: BinomialParams, x: Array) -> Array:
        ones, zeros = self.statistics(x)
        return jnp.where(self._possible(x), binomial_log_prob(ones, ones + zeros, params.probs[:, None]), -jnp.inf)

    def largest(self, x: Array) -> Array:
        return jnp.max(column(self.num_trials, x.dtype))

    def mean(self, params: BinomialParams) -> Array:
        return jnp.asarray(self.num_trials, params.probs.dtype) * params.probs

    def sample(self, key: Array, params: BinomialParams, num: int) -> tuple[tuple[()], Array]:
        p = params.probs[:, None]
        shape = (p.shape[0], num)
        return (), jax.random.binomial(key, column(self.num_trials, p.dtype), p, shape).astype(jnp.int32)

    def features(self, x: Array) -> Array:
        x = x.astype(float_dtype(x))
        return arcsine_of_shares(x, column(self.num_trials, x.dtype))

    def validate(self, x: Array) -> None:
        check_trials(x, "Binomial", self.num_trials)

    def _possible(self, x: Array) -> Array:
        return is_count(x) & (x <= column(self.num_trials, x.dtype))

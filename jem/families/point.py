"""All mass at one value."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.data import float_dtype
from jem.kernels.support import Held
from jem.node import Node, node, setting
from jem.settings import number


class PointParams(NamedTuple):
    """The value (D,), which stays as it is."""

    value: Array


@node
class Point(Node):
    """All mass at one value, `p(x) = 1 if x = value else 0`; x has rows (N, D). There is nothing to estimate.

    Beside a law of counts it is what inflates their zeros: `jem.Mixture(jem.OneOf(jem.Point(0.0), jem.Poisson()))`.

    Params: `PointParams(value (D,))`, held.

    Attributes:
        value: one number or (D,).

    Raises:
        ValueError: at the door, x that is not (N, D), or columns that the value does not have. Any other row than the value has
            `log p = -inf`.

    Example:
        >>> import jax, jem, jax.numpy as jnp
        >>> inflated = jem.Mixture(jem.OneOf(jem.Point(0.0), jem.Poisson()))
        >>> p = jem.init(inflated, jax.random.key(0), jnp.array([[0], [0], [0], [3], [4]]))
        >>> int(jem.num_parameters(inflated, p))
        2

    Source: Lambert (1992), Technometrics 34.
    """

    Params = PointParams

    value: Any = setting(default=0.0, must=number())

    def infer(self, params: PointParams, x: Array) -> tuple[tuple[()], Array]:
        there = jnp.all(x.astype(params.value.dtype) == params.value[:, None], 0)
        return (), jnp.where(there, 0, -jnp.inf).astype(params.value.dtype)

    def expect(self, params: PointParams, posterior: tuple[()], x: Array, weights: Array) -> Array:
        return jnp.sum(weights)

    def maximize(self, params: PointParams, stats: Array) -> PointParams:
        return params

    def expected_log_prob(self, params: PointParams, stats: Array, old: PointParams) -> Array:
        return jnp.zeros_like(stats)

    def init(self, key: Array, x: Array, weights: Array) -> PointParams:
        return PointParams(jnp.broadcast_to(jnp.asarray(self.value, weights.dtype), x.shape[:1]))

    def sample(self, key: Array, params: PointParams, num: int) -> tuple[tuple[()], Array]:
        return (), jnp.broadcast_to(params.value[:, None], (params.value.shape[0], num))

    def recentre(self, stats: Array, old: PointParams, new: PointParams) -> Array:
        return stats

    def supports(self, params: PointParams) -> PointParams:
        return params._replace(value=Held())

    def features(self, x: Array) -> Array:
        return x.astype(float_dtype(x))

    def validate(self, x: Array) -> None:
        checks.check_matrix(x, "Point")
        if jnp.shape(self.value) not in ((), (x.shape[1],)):
            raise ValueError(f"Point: value must be one number or one a column, ({x.shape[1]},); got {jnp.shape(self.value)}")

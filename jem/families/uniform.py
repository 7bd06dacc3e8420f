"""Even density in a box."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem import checks
from jem.data import float_dtype
from jem.kernels.support import Held
from jem.node import Node, node, setting
from jem.settings import number, optional


class UniformParams(NamedTuple):
    """The corners low (D,) and high (D,) of the box, which stay as they are."""

    low: Array
    high: Array


@node
class Uniform(Node):
    """Even density in a box, `p(x) = prod_d 1 / (high_d - low_d)` where `low <= x <= high`, else 0; x has rows (N, D).

    The box is given, or that of the data; there is nothing to estimate. Beside clusters it takes what belongs to none of
    them: `jem.Mixture(jem.OneOf(jem.Stack(jem.Gaussian(), 2), jem.Uniform()))`. Estimated corners would be the outermost rows
    that a component holds, which EM never lets go of.

    Params: `UniformParams(low (D,), high (D,))`, held.

    Attributes:
        low: one number or (D,); None is the least of each column.
        high: one number or (D,), above low; None is the largest of each column.

    Raises:
        ValueError: at the door, x that is not (N, D), or a box that is given without width. Any row outside has `log p = -inf`.
            The box of a column whose rows are all equal ends a fit as NONFINITE.

    Example:
        >>> import jax, jem, jax.numpy as jnp
        >>> p = jem.init(jem.Uniform(), jax.random.key(0), jnp.array([[0.0, 1.0], [2.0, 5.0]]))
        >>> round(float(jnp.exp(jem.log_prob(jem.Uniform(), p, jnp.array([[1.0, 2.0]])))[0]), 3)
        0.125

    Source: Banfield and Raftery (1993), Biometrics 49, for noise beside clusters.
    """

    Params = UniformParams

    low: Any = setting(default=None, must=optional(number()))
    high: Any = setting(default=None, must=optional(number()))

    def infer(self, params: UniformParams, x: Array) -> tuple[tuple[()], Array]:
        low, high = (p[:, None] for p in params)
        x = x.astype(low.dtype)
        inside = jnp.all((low <= x) & (x <= high), 0)
        return (), jnp.where(inside, -jnp.sum(jnp.log(params.high - params.low)), -jnp.inf)

    def expect(self, params: UniformParams, posterior: tuple[()], x: Array, weights: Array) -> Array:
        return jnp.sum(weights)

    def maximize(self, params: UniformParams, stats: Array) -> UniformParams:
        return params

    def expected_log_prob(self, params: UniformParams, stats: Array, old: UniformParams) -> Array:
        return -stats * jnp.sum(jnp.log(params.high - params.low))

    def init(self, key: Array, x: Array, weights: Array) -> UniformParams:
        put = lambda given, own: jnp.broadcast_to(own if given is None else jnp.asarray(given), x.shape[:1])  # noqa: E731
        low, high = put(self.low, jnp.min(x, 1)), put(self.high, jnp.max(x, 1))
        return UniformParams(low.astype(weights.dtype), high.astype(weights.dtype))

    def sample(self, key: Array, params: UniformParams, num: int) -> tuple[tuple[()], Array]:
        low, high = (p[:, None] for p in params)
        return (), low + (high - low) * jax.random.uniform(key, (low.shape[0], num), low.dtype)

    def recentre(self, stats: Array, old: UniformParams, new: UniformParams) -> Array:
        return stats

    def supports(self, params: UniformParams) -> UniformParams:
        return params._replace(low=Held(), high=Held())

    def features(self, x: Array) -> Array:
        return x.astype(float_dtype(x))

    def validate(self, x: Array) -> None:
        checks.check_matrix(x, "Uniform")
        for name, value in (("low", self.low), ("high", self.high)):
            if value is not None and np.shape(value) not in ((), (x.shape[1],)):
                got = np.shape(value)
                raise ValueError(f"Uniform: {name} must be one number or one a column, ({x.shape[1]},); got {got}")
        if self.low is not None and self.high is not None and checks.is_concrete((self.low, self.high)):
            low, high = np.broadcast_arrays(np.asarray(self.low, float), np.asarray(self.high, float))
            for at in np.argwhere(~(low < high))[:1]:
                raise ValueError(f"Uniform: low must be below high; got {low[tuple(at)]} and {high[tuple(at)]}")

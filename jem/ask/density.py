"""A model's log-posterior as a pure function of free coordinates, for samplers and optimisers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem.ask.asking import asked
from jem.backend import precise
from jem.coordinates import constrain, unconstrain
from jem.data import row_weights
from jem.engine.score import Target, target
from jem.engine.stream import fold
from jem.kernels.matrix_support import CholeskyFactor, Correlation, PositiveDefinite
from jem.kernels.support import ByGradient, HeldCells, Interval, Positive, Simplex
from jem.node import Data, Node, Params, node, static


@node
class LogDensity:
    """`log p(x | theta(z)) + log p(theta(z)) + log |d theta / d z|` as a function of free coordinates z.

    A pytree whose leaves are the data: pass it through `jit` as an argument. Made by `jem.uncertainty.log_density`.

    Attributes:
        posterior: the bound model, its data, and parameters for what is held.
        volume: whether the last term is there.

    Example:
        >>> import jem, jax, jax.numpy as jnp
        >>> density = jem.uncertainty.log_density(jem.Poisson(), jem.Poisson.Params(jnp.array([2.5])), [[1], [4]])
        >>> density.params(density.initial).rate.tolist()
        [2.5]
    """

    posterior: Target
    volume: bool = static(default=True)

    def __call__(self, free: Any) -> Array:
        """The log-density at free coordinates, a tree as `initial` has it. A scalar."""
        t = self.posterior
        params = constrain(t.model, free, t.like)
        total = fold(lambda x, w: jnp.sum(w * t.model.infer(params, x)[1]), t.data) + t.model.log_prior(params)
        return total + log_volume(t.model, free, t.like) if self.volume else total

    @property
    def initial(self) -> Any:
        """Free coordinates of the parameters it was made with."""
        return unconstrain(self.posterior.model, self.posterior.like)

    def params(self, free: Any) -> Params:
        """Parameters at free coordinates."""
        return constrain(self.posterior.model, free, self.posterior.like)


def log_density(
    node: Node, params: Params, x: Data, weights: Array | None = None, *, volume: bool = True
) -> LogDensity:
    """The log-posterior of a model as a function of free coordinates: what NumPyro, BlackJAX or optax ask for.

    `log p(x | theta(z)) + log p(theta(z)) + log |d theta / d z|`, z the free coordinates. Hidden variables are summed out by
    the node's E-step. With `volume` it is the density of z that corresponds to the
    model's prior as a density of the parameters as they are (flat where there is none), for sampling; without, it is the
    objective that `fit` climbs, for optimisers: `jax.grad` gives the score.

    Args:
        node: the model.
        params: parameters, usually a fit's; they give the start and the values of what is held.
        x: data with N rows.
        weights: (N,) or None.
        volume: whether to count the volume of parameter space.

    Returns:
        A `LogDensity`: call it with free coordinates, start from its `.initial`, read parameters with `.params`.

    Raises:
        ValueError: data, weights or parameters that do not fit the model.

    Example:
        >>> import jem, jax, jax.numpy as jnp
        >>> density = jem.uncertainty.log_density(jem.Poisson(), jem.Poisson.Params(jnp.array([2.5])), [[1], [4]], volume=False)
        >>> jax.grad(density)(density.initial).rate.tolist()
        [0.0]

    Source: Carpenter et al. (2017), J. Stat. Software 76, for the volume.
    """
    params, x, weights = asked(node, params, x, weights)
    return LogDensity(_target(node, params, x, row_weights(x, weights)), volume)


_target = jax.jit(precise(lambda model, params, x, weights: target(model, x, weights, params)))


def log_volume(model: Node, free: Any, like: Params) -> Array:
    """`log |d theta / d z|`, up to a constant: the volume element of the parameters, leaf by leaf."""
    terms = jax.tree.map(lambda s, f, value: jnp.sum(_log_volume(s, f, value)), model.supports(like), free, like)
    return sum(jax.tree.leaves(terms), jnp.zeros(()))


def _log_volume(support: Any, free: Array, like: Array) -> Array:
    match support:
        case ByGradient():
            return _log_volume(support.support, free, like)
        case HeldCells():
            return _log_volume(support.inner, free, like)
        case Positive():
            return free
        case Interval():
            return jax.nn.log_sigmoid(free) + jax.nn.log_sigmoid(-free)
        case Simplex():
            value = support.constrain(free, like)
            held = False if support.held is None else jnp.asarray(support.held)
            moving = (like > 0) & ~jnp.asarray(held)
            return jnp.where(moving, jnp.log(jnp.where(moving, value, 1)), 0)
        case CholeskyFactor():
            return free[..., : like.shape[-1]]
        case PositiveDefinite():
            dim = like.shape[-1]
            diagonal = free[..., :dim]
            return jnp.broadcast_to(dim + 1.0 - np.arange(dim), diagonal.shape) * diagonal
        case Correlation():
            # The partial correlation in column k enters all rows below: Lewandowski, Kurowicka and Joe (2009), eq. 8.
            dim = like.shape[-1]
            column = np.tril_indices(dim, -1)[1]
            power = jnp.broadcast_to(0.5 * (dim - column - 2) + 1, free.shape)
            return power * jnp.log1p(-jnp.tanh(free) ** 2)
    return jnp.zeros_like(free)

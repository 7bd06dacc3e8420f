"""How the bootstrap makes a replicate of the data: from the model, of rows, or of weights."""

import jax
import jax.numpy as jnp
from jax import Array

from jem.data import row_weights, to_rows, to_units
from jem.node import Data, Node, Params, node


@node
class FromModel:
    """Replicates drawn from the fitted model, like the data: as many rows, or sequences of their lengths, inputs and gaps.

    Raises:
        ValueError: with weights; rows that stand for many must be repeated.
        TypeError: a model that cannot draw.

    Example:
        >>> import jem, jax, jax.numpy as jnp
        >>> replicates, start = jem.uncertainty.resample.FromModel(), jem.Poisson.Params(jnp.array([2.5]))
        >>> jem.bootstrap(
        ...     jem.Poisson(), jax.random.key(0), start, [[1], [4]], num_replicates=5, replicates=replicates).params.rate.shape
        (5, 1)

    Source: Efron (1979), Ann. Statist. 7.
    """

    def draw(self, key: Array, model: Node, params: Params, x: Data, weights: Array | None) -> tuple[Data, Array]:
        """Data and weights of one replicate."""
        if weights is not None:
            raise ValueError(
                "FromModel: cannot draw rows with weights; repeat the rows, or use jem.uncertainty.resample.Weights()"
            )
        return to_rows(model.sample_like(key, params, to_units(x))[1]), row_weights(x, None)


@node
class Rows:
    """Replicates of rows drawn with replacement: weights are counts. The usual nonparametric bootstrap.

    Raises:
        ValueError: with weights, as rows that stand for many must be repeated; a single row, as one sequence.

    Example:
        >>> import jem, jax, jax.numpy as jnp
        >>> replicates, start = jem.uncertainty.resample.Rows(), jem.Poisson.Params(jnp.array([2.5]))
        >>> jem.bootstrap(
        ...     jem.Poisson(), jax.random.key(0), start, [[1], [4]], num_replicates=5, replicates=replicates).params.rate.shape
        (5, 1)

    Source: Efron (1979), Ann. Statist. 7.
    """

    @property
    def by_units(self) -> bool:
        """Whether it rests on units that are independent of each other, and so on more than one."""
        return True

    def draw(self, key: Array, model: Node, params: Params, x: Data, weights: Array | None) -> tuple[Data, Array]:
        """Data and weights of one replicate."""
        if weights is not None:
            raise ValueError("Rows: cannot draw rows with weights; repeat the rows, or use resample.Weights()")
        counts = row_weights(x, None)
        num = counts.shape[0]
        return x, jnp.zeros_like(counts).at[jax.random.randint(key, (num,), 0, num)].add(1)


@node
class Weights:
    """Replicates of weights drawn from a Dirichlet distribution (the Bayesian bootstrap): no row is ever lost.

    `w* = W Dirichlet(w_1, ..., w_N)`, W the sum of the weights w: for whole-number weights the law of the repeated rows.

    Raises:
        ValueError: a single row, as one sequence.

    Example:
        >>> import jem, jax, jax.numpy as jnp
        >>> replicates, start = jem.uncertainty.resample.Weights(), jem.Poisson.Params(jnp.array([2.5]))
        >>> jem.bootstrap(
        ...     jem.Poisson(), jax.random.key(0), start, [[1], [4]], num_replicates=5, replicates=replicates).params.rate.shape
        (5, 1)

    Source: Rubin (1981), Ann. Statist. 9.
    """

    @property
    def by_units(self) -> bool:
        """Whether it rests on units that are independent of each other, and so on more than one."""
        return True

    def draw(self, key: Array, model: Node, params: Params, x: Data, weights: Array | None) -> tuple[Data, Array]:
        """Data and weights of one replicate."""
        weights = row_weights(x, weights)
        share = jax.random.gamma(key, jnp.where(weights > 0, weights, 1))
        share = jnp.where(weights > 0, share, 0)
        return x, jnp.sum(weights) * share / jnp.sum(share)

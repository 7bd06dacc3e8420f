"""Units, or single cells, that may be missing."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jem.composite import WHOLE, Wrapper
from jem.data import at_means, fill, num_units, observed, with_gaps, with_holes, with_labels, without_labels, without_nan
from jem.node import (
    CELLS,
    MISSING,
    Data,
    Node,
    Params,
    Posterior,
    Stats,
    node,
    setting,
)
from jem.settings import check_node


@node
class Missing(Wrapper):
    """A node of which cells, or units, may be missing: NaN. What is missing contributes nothing, `log p = 0` and weight 0.

    The log-density of a unit is that of its cells that were seen, `log p(x_seen | params) = log int p(x | params) dx_missing`,
    for Gaussian and Student-t of any structure, factor analysis, and families of independent cells (`jem.Poisson`,
    `jem.Bernoulli`, any on `Factorising`); the M-step is the one of EM with the missing cells hidden. That is right as long as
    which cells are missing depends on nothing but what was seen. `impute` puts expectations in their place. Write it around
    the family: `Mixture(Missing(Gaussian()), 2)`, and around each part of a `Product`.

    Around a mixture it is the same as around its components. Around another node (a chain, a family whose columns belong
    together) a unit with a NaN is dropped whole, which loses the cells that are there. A covariance costs a product for each
    pattern of missing cells; a fit sorts rows by these.

    Args:
        child: the node.

    Raises:
        TypeError: a child that is no node.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> even = jem.Bernoulli.Params(jnp.array([0.5, 0.5]))
        >>> jem.log_prob(jem.Missing(jem.Bernoulli()), even, [[1.0, jnp.nan], [jnp.nan, jnp.nan]]).tolist()
        [-0.693..., 0.0]

    Source: Little and Rubin (2019), Statistical Analysis with Missing Data, section 11.2 for covariances, section 6.2 for
    independent cells, section 3.2 for whole units.
    """

    child: Node = setting(must=check_node)

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({MISSING})

    def see(self, name: Any, x: Data, weights: Array) -> tuple[Data, Array]:
        if CELLS in self.child.traits:
            values, labels = without_labels(x)
            cells = with_holes(values)
            return with_labels(cells, labels), jnp.where(jnp.any(cells.seen, 0), weights, 0)
        ok = observed(x)
        return fill(x, ok), jnp.where(ok, weights, 0)

    def must_be_finite(self, x: Data) -> Data:
        return without_nan(self.child.must_be_finite(x))

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        seen, ok = self.see(WHOLE, x, jnp.ones(num_units(x)))
        posterior, log_prob = self.child.infer(params, seen)
        return posterior, jnp.where(ok > 0, log_prob, 0)

    def complete(self, params: Params, posterior: Posterior, x: Data, key: Array | None = None) -> Data:
        if CELLS not in self.child.traits:
            return Node.complete(self, params, posterior, x, key)  # which says that it cannot be done
        return self.child.complete(params, posterior, self.see(WHOLE, x, jnp.ones(num_units(x)))[0], key)

    def of_columns(self, columns: tuple[int, ...]) -> Node:
        return Missing(self.child.of_columns(columns))

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        return self.child.expect(params, posterior, *self.see(WHOLE, x, weights))

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        return self.child.init(key, *self.see(WHOLE, x, weights))

    def sample_like(self, key: Array, params: Params, x: Data) -> tuple[Any, Data]:
        latents, new = self.child.sample_like(key, params, fill(x, observed(x)))
        return latents, with_gaps(new, x)

    def sorting(self, x: Data) -> Array | None:
        return self.child.sorting(self.see(WHOLE, x, jnp.ones(num_units(x)))[0])

    def num_observations(self, x: Data) -> Array:
        ok = self.see(WHOLE, x, jnp.ones(num_units(x)))[1] > 0
        return jnp.where(ok, self.child.num_observations(fill(x, ok)), 0)

    def features(self, x: Data) -> Array:
        if CELLS not in self.child.traits:
            return self.child.features(self.see(WHOLE, x, jnp.ones(num_units(x)))[0])
        values, labels = without_labels(x)
        return self.child.features(with_labels(at_means(values), labels))

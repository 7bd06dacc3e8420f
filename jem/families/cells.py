"""Families of independent cells: each column of x is by itself, so that any of them may be missing, known or left out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem.data import Interval, without_holes
from jem.kernels import intervals
from jem.kernels.intervals import Within
from jem.node import CELLS, Data, Node, Params, Posterior


class Cells(Node):
    """A family of which the columns are independent; parameters have an entry a column, (D,).

    One whose columns belong together has not the trait CELLS.
    """

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({CELLS})

    def cells(self, params: Params, x: Array) -> Array:
        """Log-densities of cells x (D, N), of which the columns are independent."""
        raise TypeError(f"{type(self).__name__} does not define cells")

    def within(self, params: Params, x: Interval) -> Within:
        if CELLS not in self.traits:
            return super().within(params, x)
        dtype = jax.tree.leaves(params)[0].dtype
        density = lambda t: self.cells(params, t)  # noqa: E731
        if self.edges.whole:
            return intervals.by_sums(density, intervals.ends_of(x, self.edges, 0, dtype))
        at = intervals.coordinate_of(self.edges, dtype)
        inside = at.value(jnp.zeros((), dtype))
        return intervals.by_quadrature(density, intervals.ends_of(x, self.edges, inside, dtype), at)

    def mean(self, params: Params) -> Array:
        """`E[x | params]`, (D,): what a cell that is missing is imputed by."""
        raise TypeError(f"{type(self).__name__}: cells that are missing cannot be imputed, as it does not say their mean")

    def complete(self, params: Params, posterior: Posterior, x: Data, key: Array | None = None) -> Array:
        values, seen = without_holes(x)
        if seen is None:
            return values
        new = self.mean(params)[:, None] if key is None else self.sample(key, params, values.shape[1])[1]
        return jnp.where(seen, values, new.astype(values.dtype))

    def of_columns(self, columns: tuple[int, ...]) -> Node:
        if CELLS not in self.traits:
            return super().of_columns(columns)
        return jax.tree.map(lambda setting: _of_columns(setting, columns) if np.ndim(setting) == 1 else setting, self)

    def marginal(self, params: Params, columns: tuple[int, ...]) -> Params:
        return jax.tree.map(lambda leaf: _of_columns(leaf, columns), params)

    def conditional(self, params: Params, given: tuple[int, ...], rest: tuple[int, ...], values: Array) -> tuple[Params, Array]:
        known = self.of_columns(given).infer(self.marginal(params, given), values[:, None])[1][0]
        return self.marginal(params, rest), known


def _of_columns(values: Any, columns: tuple[int, ...]) -> Array:
    return jnp.asarray(values)[np.array(columns, int)]

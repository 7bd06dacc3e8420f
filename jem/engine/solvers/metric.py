"""Coordinates in which Q curves alike in every direction: gradient steps in them need not know how columns are scaled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jem import tree
from jem.kernels.spectral import eigh

LARGEST = 64  # coordinates: one more derivative of the gradient for each
_FAR = 1e6  # nats per unit weight that a step may promise: more is a curvature lost in rounding
_FLAT = 0.5  # power of eps below which a curvature of a matrix of unit diagonal is none


class Metric(NamedTuple):
    """Coordinates u with `z = anchor + root u`, in which minus Q per unit weight and `unit^2` has about the Hessian I.

    Attributes:
        anchor: (n,) free coordinates where they were made.
        root: (n, n) symmetric but for a scale on either side.
        inverse: (n, n) its inverse.
        unit: the length of the Newton step there, no less than a standard error; lengths are in standard deviations of one
            unit weight.
    """

    anchor: Array
    root: Array
    inverse: Array
    unit: Array

    def place(self, free: Any) -> Any:
        """u of free coordinates, in their tree."""
        z, unravel = ravel_pytree(free)
        return unravel(self.inverse @ (z - self.anchor))

    def free(self, place: Any) -> Any:
        """Free coordinates of u."""
        u, unravel = ravel_pytree(place)
        return unravel(self.anchor + self.root @ u)

    def push(self, direction: Any) -> Any:
        """A direction over u as one over free coordinates."""
        u, unravel = ravel_pytree(direction)
        return unravel(self.root @ u)

    def pull(self, gradient: Any) -> Any:
        """The gradient over free coordinates as that of Q per unit weight and `unit^2` over u: there it is the Newton step."""
        g, unravel = ravel_pytree(gradient)
        return unravel(self.root.T @ g / self.unit**2)

    def ahead(self, gradient: Any) -> Any:
        """The Newton step over free coordinates."""
        return self.push(self.pull(gradient))

    def length(self, step: Any) -> Array:
        """Of a step over free coordinates, measured over u."""
        return jnp.sqrt(jnp.sum((self.inverse @ ravel_pytree(step)[0]) ** 2))

    def measured(self, curvature: Callable[[Array], Array], gradient: Any, free: Any, weight: Array) -> "Metric":
        """The metric at free coordinates.

        Args:
            curvature: minus the Hessian of Q per unit weight, of directions (m, n) as (m, n).
            gradient: that of Q per unit weight.
            free: the coordinates.
            weight: total weight.
        """
        z, g = ravel_pytree(free)[0], ravel_pytree(gradient)[0]
        return _metric(curvature(jnp.eye(z.shape[0], dtype=z.dtype)), g, z, weight)


def trivial(free: Any) -> Metric:
    """Free coordinates as they are."""
    z = ravel_pytree(free)[0]
    eye = jnp.eye(z.shape[0], dtype=z.dtype)
    return Metric(jnp.zeros_like(z), eye, eye, jnp.ones((), z.dtype))


class Plain(NamedTuple):
    """Free coordinates as they are, where there are too many for a metric.

    Attributes:
        unit: 1.
        reach: the multiple of the gradient that leads to the top along it.
    """

    unit: Array
    reach: Array

    def place(self, free: Any) -> Any:
        """The coordinates."""
        return free

    free = push = pull = place

    def ahead(self, gradient: Any) -> Any:
        """The step to the top along the gradient."""
        return jax.tree.map(lambda g: self.reach * g, gradient)

    def length(self, step: Any) -> Array:
        """Euclidean."""
        return jnp.sqrt(tree.total(jnp.sum(leaf**2) for leaf in jax.tree.leaves(step)))

    def measured(self, curvature: Callable[[Array], Array], gradient: Any, free: Any, weight: Array) -> "Plain":
        """How far the top is, along the gradient."""
        g = ravel_pytree(gradient)[0]
        bent = jnp.abs(curvature(g[None])[0] @ g)
        return self._replace(reach=jnp.where(bent > 0, g @ g / jnp.where(bent > 0, bent, 1), 1).astype(self.reach.dtype))


def _metric(curvature: Array, g: Array, z: Array, weight: Array) -> Metric:
    """A direction that curves upwards counts as if it curved downwards; a coordinate without curvature stays as it is."""
    h = jnp.where(jnp.isfinite(curvature), 0.5 * (curvature + curvature.T), 0)
    diagonal = jnp.abs(jnp.diagonal(h))
    bent = diagonal > 0
    scale = jnp.where(bent, 1 / jnp.sqrt(jnp.maximum(jnp.where(bent, diagonal, 1), g**2 / _FAR)), 1)
    values, v = eigh(scale[:, None] * h * scale[None, :] + jnp.diag(jnp.where(bent, 0.0, 1.0).astype(z.dtype)))
    values = jnp.maximum(jnp.abs(values), jnp.maximum((v.T @ (scale * g)) ** 2 / _FAR, jnp.finfo(z.dtype).eps ** _FLAT))
    size = jnp.sqrt(values)[None, :]
    root = scale[:, None] * ((v / size) @ v.T)
    inverse = ((v * size) @ v.T) / scale[None, :]
    unit = jnp.maximum(jnp.sqrt(jnp.sum((root.T @ g) ** 2)), 1 / jnp.sqrt(weight)).astype(z.dtype)
    new = Metric(z, unit * root, inverse / unit, unit)
    return tree.where(tree.all_finite(new), new, trivial(z))

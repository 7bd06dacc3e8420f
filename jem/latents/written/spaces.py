"""What the hidden variable of a `LogJoint` can be: one of a few values, several such, or a real vector."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem.data import float_dtype, num_units
from jem.documented import Documented
from jem.families import user
from jem.families.autodiff import as_arrays
from jem.kernels.quadrature import fit_gaussian, gauss_hermite
from jem.kernels.simplex import normalize_log
from jem.kernels.unit_axis import over_units
from jem.node import Data, Params, node, set_once, static

LogJointFn = Callable[[Params, Any, Any], Array]


class PointPosterior(NamedTuple):
    """Probabilities of the K points, (K, N) inside and (N, K) from `jem.infer`.

    `expected` (N,) is `E_q[log_joint]` of each unit. With quadrature, `points` are the vectors (K, d, N) at which the joint
    density was taken, else ().
    """

    probs: Array
    expected: Array
    points: Any = ()


def _mean(probs: Array, terms: Array) -> Array:
    """`sum_k probs_k terms_k`; what has probability zero may be impossible."""
    return jnp.sum(jnp.where(probs > 0, probs * terms, 0), 0)


def drawn_to(group: Array, values: Any, log_joint: LogJointFn, params: Params, x: Data) -> Array:
    """`log sum_z exp(log_joint + 5 [z = group])` (N,): the evidence of units each drawn to one of the values."""
    table = jax.vmap(over_units(log_joint, (None, -1, None)), (None, None, 0))(params, x, values)
    return normalize_log(table + 5.0 * (jnp.arange(table.shape[0])[:, None] == group[None, :]))[1]


class Space(Documented):
    """A set of values of the hidden variable, and how to sum over it. `log_joint` is the user's, for one unit."""

    values: Any  # of those that are few

    def infer(self, log_joint: LogJointFn, params: Params, x: Data) -> tuple[Any, Array]:
        """The posterior, and `log p(x | params) = log sum_z exp(log_joint(params, x, z))` of shape (N,).

        The posterior has a field `expected` (N,), `E_q[log_joint]` at these parameters.
        """
        raise NotImplementedError

    def expected(self, log_joint: LogJointFn, params: Params, posterior: Any, x: Data) -> Array:
        """`E_q[log_joint(params, x, z)]` of every unit, (N,)."""
        raise NotImplementedError

    def average(self, statistics: Callable[[Any, Any], Any], posterior: Any, x: Data, weights: Array) -> Any:
        """`sum_n w_n q_n(z) statistics(x_n, z)`, of every value z where they are the same for all units."""
        raise NotImplementedError

    def num_observations(self, x: Data) -> Array:
        """(N,) how many observations each unit holds."""
        return jnp.ones(num_units(x))

    def one_each(self, x: Data, weights: Array) -> tuple[Data, Array] | None:
        """Units, and their weights, each with one value of z of its own; None where a unit has several or a real one."""
        return None

    def points(self, params: Params, x: Data) -> tuple[Data, Any]:
        """The units, last, and the values of z, first, at which `log_joint` is called."""
        raise NotImplementedError

    def check(self, log_joint: LogJointFn, params: Params, x: Data) -> None:
        """Raises where `log_joint` does not return what this space needs; x has rows first."""
        raise NotImplementedError


@node
class Finite(Space):
    """One of K values.

    Args:
        values: an array or a tree of arrays with a leading axis K, or K for the integers 0 .. K - 1.

    Raises:
        ValueError: no values, or leaves of different lengths.

    Example:
        >>> import jem
        >>> jem.spaces.Finite(3).values.tolist()
        [0, 1, 2]
        >>> jem.spaces.Finite.product(coin=2, die=6).values["die"].shape
        (12,)
    """

    values: Any

    def __init__(self, values: Any):
        values = np.arange(values) if isinstance(values, int) else values
        values = as_arrays(np.asarray(values) if isinstance(values, list) else values)
        lengths = {jnp.shape(v)[:1] for v in jax.tree.leaves(values)}
        if len(lengths) != 1 or not all(n and n[0] for n in lengths):
            raise ValueError(f"Finite: values must have one leading axis, the K values, at least one; got {sorted(lengths)}")
        set_once(self, values=values)

    @classmethod
    def product(cls, **sets: Any) -> "Finite":
        """All combinations of the values of several sets, as dicts with their names; the last name varies fastest."""
        parts = [cls(s).values for s in sets.values()]
        sizes = [jax.tree.leaves(p)[0].shape[0] for p in parts]
        index = np.array(list(itertools.product(*map(range, sizes))))
        return cls({n: jax.tree.map(lambda v: v[index[:, i]], p) for i, (n, p) in enumerate(zip(sets, parts, strict=True))})

    def infer(self, log_joint: LogJointFn, params: Params, x: Data) -> tuple[PointPosterior, Array]:
        table = self._table(log_joint, params, x)
        probs, evidence = normalize_log(table)
        return PointPosterior(probs, _mean(probs, table)), evidence

    def expected(self, log_joint: LogJointFn, params: Params, posterior: PointPosterior, x: Data) -> Array:
        return _mean(posterior.probs, self._table(log_joint, params, x))

    def average(self, statistics: Callable[[Any, Any], Any], posterior: PointPosterior, x: Data, weights: Array) -> Any:
        each = jax.vmap(over_units(statistics, (-1, None)), (None, 0))(x, self.values)
        q = posterior.probs * weights[None, :]
        return jax.tree.map(lambda s: jnp.einsum("kn,k...n->k...", q, s.astype(q.dtype)), each)

    def one_each(self, x: Data, weights: Array) -> tuple[Data, Array] | None:
        return x, weights

    def points(self, params: Params, x: Data) -> tuple[Data, Any]:
        return x, self.values

    def check(self, log_joint: LogJointFn, params: Params, x: Data) -> None:
        user.check_output("LogJoint", log_joint, (), params, user.one_row(x), user.one_row(self.values))

    def _table(self, log_joint: LogJointFn, params: Params, x: Data) -> Array:
        return jax.vmap(over_units(log_joint, (None, -1, None)), (None, None, 0))(params, x, self.values)


@node
class Independent(Space):
    """Several hidden variables z_1 .. z_J, each one of the same K values and independent of the others given x.

    The joint density is a product of J terms, each with one of them: `log_joint(params, x, z)` returns the vector (J,) whose
    entry j is the term of z_j at the value z. Sums over all K^J combinations then cost J K terms.

    Args:
        values: as for `Finite`.
        num: J.

    Example:
        >>> import jem
        >>> jem.spaces.Independent(2, num=5).num
        5
    """

    values: Any
    num: int = static()

    def __init__(self, values: Any, num: int):
        set_once(self, values=Finite(values).values, num=num)

    def infer(self, log_joint: LogJointFn, params: Params, x: Data) -> tuple[PointPosterior, Array]:
        table = self._table(log_joint, params, x)
        probs, evidence = normalize_log(table.reshape(self._size, -1))
        probs = probs.reshape(table.shape)
        return PointPosterior(probs, jnp.sum(_mean(probs, table), 0)), jnp.sum(evidence.reshape(self.num, -1), 0)

    def expected(self, log_joint: LogJointFn, params: Params, posterior: PointPosterior, x: Data) -> Array:
        return jnp.sum(_mean(posterior.probs, self._table(log_joint, params, x)), 0)

    def average(self, statistics: Callable[[Any, Any], Any], posterior: PointPosterior, x: Data, weights: Array) -> Any:
        each = jax.vmap(over_units(statistics, (-1, None)), (None, 0))(x, self.values)
        q = posterior.probs * weights[None, None, :]
        return jax.tree.map(lambda s: jnp.einsum("kjn,k...n->kj...", q, s.astype(q.dtype)), each)

    def points(self, params: Params, x: Data) -> tuple[Data, Any]:
        return x, self.values

    def check(self, log_joint: LogJointFn, params: Params, x: Data) -> None:
        user.check_output("LogJoint", log_joint, (self.num,), params, user.one_row(x), user.one_row(self.values))

    @property
    def _size(self) -> int:
        return jax.tree.leaves(self.values)[0].shape[0]

    def _table(self, log_joint: LogJointFn, params: Params, x: Data) -> Array:
        return jax.vmap(over_units(log_joint, (None, -1, None)), (None, None, 0))(params, x, self.values)


@node
class GaussHermite(Space):
    """A real vector z (d,), integrated out by Gauss-Hermite quadrature on `num_points^d` points.

    `p(x) = integral p(x, z) dz = |R| sum_i w_i p(x, c + R t_i)`. Adaptive quadrature takes c and R of every unit from the
    mode and the curvature of its own integrand, so that few points are enough; without, c = 0 and R = I, which is exact
    for a standard normal prior times a polynomial. The points are held when gradients are taken: Fisher's identity is
    exact for them, and what moving them would add is of the size of the quadrature's error. Give more points where the
    log-likelihood still changes with them; tails heavier than normal ones need many.

    Args:
        dim: d; up to three or so.
        num_points: points along each axis.
        adaptive: whether each unit has its own centre and scale.
        num_newton: Newton steps to the mode, from zero.

    Example:
        >>> import jem
        >>> jem.spaces.GaussHermite(1, 15).num_points
        15

    Source: Naylor and Smith (1982), Applied Statistics 31; Pinheiro and Bates (1995), JCGS 4.
    """

    dim: int = static()
    num_points: int = static()
    adaptive: bool = static(default=True)
    num_newton: int = static(default=8)

    def infer(self, log_joint: LogJointFn, params: Params, x: Data) -> tuple[PointPosterior, Array]:
        grid, log_weights = gauss_hermite(self.dim, self.num_points)
        dtype = float_dtype(params)
        t, log_w = jnp.asarray(grid, dtype), jnp.asarray(log_weights, dtype)
        num = jax.tree.leaves(x)[0].shape[-1]
        if self.adaptive:
            held = lax.stop_gradient(params)
            start = jnp.zeros(self.dim, dtype)
            fit = lambda u: fit_gaussian(lambda z: log_joint(held, u, z), start, self.num_newton)  # noqa: E731
            centre, root = lax.stop_gradient(jax.vmap(fit, -1, -1)(x))
        else:
            centre = jnp.zeros((self.dim, num), dtype)
            root = jnp.broadcast_to(jnp.eye(self.dim, dtype=dtype)[:, :, None], (self.dim, self.dim, num))
        points = centre[None] + jnp.einsum("ijn,kj->kin", root, t)
        log_det = jnp.sum(jnp.log(jnp.diagonal(root)), -1)
        table = self._table(log_joint, params, x, points)
        probs, evidence = normalize_log(table + log_w[:, None])
        return PointPosterior(probs, _mean(probs, table), points), evidence + log_det

    def expected(self, log_joint: LogJointFn, params: Params, posterior: PointPosterior, x: Data) -> Array:
        return _mean(posterior.probs, self._table(log_joint, params, x, posterior.points))

    def average(self, statistics: Callable[[Any, Any], Any], posterior: PointPosterior, x: Data, weights: Array) -> Any:
        each = jax.vmap(over_units(statistics, (-1, -1)), (None, 0))(x, posterior.points)
        q = posterior.probs * weights[None, :]
        return jax.tree.map(lambda s: jnp.einsum("kn,k...n->...", q, s.astype(q.dtype)), each)

    def points(self, params: Params, x: Data) -> tuple[Data, Any]:
        return x, jnp.zeros((1, self.dim), float_dtype(params))

    def check(self, log_joint: LogJointFn, params: Params, x: Data) -> None:
        z = jax.ShapeDtypeStruct((self.dim,), float_dtype(params))
        user.check_output("LogJoint", log_joint, (), params, user.one_row(x), z)

    def _table(self, log_joint: LogJointFn, params: Params, x: Data, points: Array) -> Array:
        return jax.vmap(over_units(log_joint, (None, -1, -1)), (None, None, 0))(params, x, points)

"""Validation, and its error texts. Checks look at shapes always and at values only where these are concrete.

Data are looked at on the devices that hold them, of which one scalar comes back: they may span processes. Each error says what
was expected, what came, and what to do.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jem.data import Sequences, used_rows
from jem.reading import as_array
from jem.settings import describe, whole


def is_concrete(tree: Any) -> bool:
    """Whether every leaf has a value now, outside of any transformation."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def found(fault: Callable[..., Array], *arrays: Any) -> bool:
    """Whether `fault(*arrays)`, a function of a module, holds anywhere; False where there are no values to look at."""
    if not is_concrete(arrays):
        return False
    with jax.ensure_compile_time_eval():
        return bool(_any(fault, *arrays))


@functools.partial(jax.jit, static_argnums=0)
def _any(fault: Callable[..., Array], *arrays: Any) -> Array:
    return jnp.any(fault(*arrays))


class Fault(NamedTuple):
    """A value that will not do, where it is, and how many rows have one: 0 where no process can say."""

    value: str
    place: tuple[int, ...]
    num_rows: int

    def __str__(self) -> str:
        return f"{self.value} in {locate(self.place)}"


def is_apart(x: Any) -> bool:
    """Whether an array spans processes, none of which has all of it."""
    return isinstance(x, Array) and not (x.is_fully_addressable or x.is_fully_replicated)


def first_fault(fault: Callable[..., Array], x: Array, *rest: Any) -> Fault:
    """The first value of x where `fault` holds: for an error, on the host."""
    with jax.ensure_compile_time_eval():
        bad = fault(x, *rest)
    if is_apart(bad) or is_apart(x):  # each process holds a part of the rows
        return Fault("such a value", (-1,), 0)
    bad, values = np.asarray(bad), np.asarray(x)
    place = tuple(int(i) for i in np.argwhere(bad)[0])
    return Fault(str(values[place]), place, int(bad.reshape(len(bad), -1).any(1).sum()))


def check_matrix(x: Any, name: str) -> None:
    """x must be one array of rows, (N, D)."""
    if not hasattr(x, "shape"):
        raise ValueError(f"{name}: x must be an array with rows (N, D); got {type(x).__name__}")
    if x.ndim != 2:
        hint = "; for one feature pass x[:, None]" if x.ndim == 1 else ""
        raise ValueError(f"{name}: x must have rows, shape (N, D); got shape {x.shape}{hint}")


def check_vector(x: Any, name: str) -> None:
    """x must be one array with one entry a row, (N,)."""
    if not hasattr(x, "shape") or x.ndim != 1:
        raise ValueError(f"{name}: x must have one entry a row, shape (N,); got {getattr(x, 'shape', type(x).__name__)}")


def check_parts(x: Any, names: tuple[str, ...]) -> None:
    """x must be a dict with the parts of a product."""
    if not isinstance(x, dict) or set(x) != set(names):
        got = sorted(x) if isinstance(x, dict) else type(x).__name__
        raise ValueError(
            f"Product: x must be a dict with the keys {sorted(names)}; got {got}; of a table jem.table(frame, "
            f"{{{sorted(names)[0]!r}: [columns], ..}}) makes one"
        )


def check_values(x: Array, name: str, fault: Callable[[Array], Array], expected: str) -> None:
    """Values must not have the fault, a function of a module; a NaN has none."""
    if found(fault, x):
        raise ValueError(f"{name}: x must be {expected}; got {first_fault(fault, x)}")


def not_positive(x: Array) -> Array:
    """Where x is at most 0."""
    return x <= 0


def check_integers(x: Array, name: str, upper: int | None = None) -> None:
    """Values must be integers from 0, below `upper` where it is given."""
    limit = _largest_count(x.dtype) if upper is None else upper
    limit = np.asarray(limit, x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.result_type(int))
    if found(_no_count, x, limit):
        fault = first_fault(_no_count, x, limit)
        expected = "integers >= 0" if upper is None else f"integers 0 .. {upper - 1}"
        if upper is None and not found(_not_whole, x):
            kind = jnp.result_type(float) if jnp.issubdtype(x.dtype, jnp.integer) else x.dtype
            larger = " (set jax_enable_x64 for larger ones)" if kind == jnp.float32 else ""
            expected += f" that {kind} can count, below {float(limit):.3g}{larger}"
        raise ValueError(f"{name}: x must hold {expected}; got {fault}")


def _no_count(x: Array, limit: Array) -> Array:
    """Where x is no integer 0 .. limit - 1; a NaN is not looked at, nor an infinity."""
    return _not_whole(x) | ((x.astype(limit.dtype) >= limit) & jnp.isfinite(x))


def _not_whole(x: Array) -> Array:
    """Where x is below 0 or has a fraction, and is finite."""
    return ((x < 0) | (x != jnp.floor(x))) & jnp.isfinite(x)


def _largest_count(dtype: Any) -> float:
    """Where counts end: of a float, where its sums have no digits left for the unit."""
    if jnp.issubdtype(dtype, jnp.floating):
        return 2.0**31 if dtype == jnp.float32 else 2.0**53
    return min(jnp.iinfo(jnp.result_type(int)).max, 2**53)


def locate(place: tuple[int, ...]) -> str:
    """`row 3, column 1` from an index."""
    if place == (-1,):
        return "rows that another process may hold"
    columns = ", ".join(map(str, place[1:]))
    return f"row {place[0]}" + (f", column {columns}" if columns else "")


@jax.jit
def _within_ends(x: Any) -> Any:
    """The data with zeros beyond the ends of its sequences."""

    def blank(part: Any) -> Any:
        if not isinstance(part, Sequences):
            return part
        within = jnp.arange(jax.tree.leaves(part.values)[0].shape[1])[None, :] < part.lengths[:, None]
        zero = lambda a: jnp.where(within.reshape(within.shape + (1,) * (a.ndim - 2)), a, jnp.zeros((), a.dtype))
        return part._replace(values=jax.tree.map(zero, part.values))

    return jax.tree.map(blank, x, is_leaf=lambda part: isinstance(part, Sequences))


def check_covariance(covariance: Array, inner: tuple[int, ...]) -> None:
    """Covariances of a structure: shape (..., *inner), positive definite."""
    if covariance.shape[covariance.ndim - len(inner) :] != inner:
        raise ValueError(f"covariance must have shape (..., {', '.join(map(str, inner))}); got {covariance.shape}")
    if is_concrete(covariance):
        values = np.asarray(covariance)
        if not np.isfinite(values).all():
            raise ValueError(f"covariance must be finite; got {values[~np.isfinite(values)][0]}")
        if len(inner) == 2:
            turned = np.swapaxes(values, -1, -2)
            bad = np.abs(values - turned) > 1e-5 * np.abs(values) + 1e-8 * np.abs(values).max(initial=0)
            if bad.any():
                place = tuple(int(i) for i in np.argwhere(bad)[0])
                raise ValueError(
                    f"covariance must be symmetric; got {values[place]:.6g} at {place} and {turned[place]:.6g} across the "
                    "diagonal; pass 0.5 * (c + c.swapaxes(-1, -2)) if that is what is meant"
                )
        smallest = np.linalg.eigvalsh(values) if len(inner) == 2 else values
        if not (smallest > 0).all():
            raise ValueError(f"covariance must be positive definite; its smallest eigenvalue is {smallest.min():.3g}")


def check_data(node: Any, x: Any, weights: Array | None) -> None:
    """Data at the door: one length, something in it, finite where it counts, in the node's support.

    Args:
        node: the model.
        x: the data, rows first, as the user gave it.
        weights: (N,) or None.
    """
    leaves = jax.tree_util.tree_leaves_with_path(x)
    if not leaves:
        raise ValueError("x is empty: it holds no array")
    for path, leaf in leaves:
        if leaf.ndim == 0:
            raise ValueError(f"x{jax.tree_util.keystr(path)}: expected rows; got a scalar")
    lengths = {jax.tree_util.keystr(path): leaf.shape[0] for path, leaf in leaves}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"x: all arrays must have the same number of rows; got {lengths}")
    num = leaves[0][1].shape[0]
    if num == 0:
        raise ValueError("x has no rows; give at least one")
    if 0 in leaves[0][1].shape:
        raise ValueError(f"x has no entries, its shape is {leaves[0][1].shape}; give at least one column")
    check_weights(weights, num)
    node.validate(x if weights is None else only_used(x, weights))
    if not any(_may_be_wrong(leaf) for leaf in jax.tree.leaves(x)):
        return
    with jax.ensure_compile_time_eval():
        looked_at = _within_ends(node.must_be_finite(x))
    for path, leaf in jax.tree_util.tree_leaves_with_path(looked_at):
        if _may_be_wrong(leaf):
            _check_finite(leaf, weights, jax.tree_util.keystr(path))


def _may_be_wrong(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating) and found(_sum_is_not_finite, leaf)


def only_used(x: Any, weights: Array) -> Any:
    """`used_rows`, in one pass, outside of any transformation where there are values."""
    if not is_concrete((x, weights)):
        return used_rows(x, weights)
    with jax.ensure_compile_time_eval():
        return _used_rows(x, weights)


_used_rows = jax.jit(used_rows)


def _sum_is_not_finite(x: Array) -> Array:
    """A finite sum says that all is finite, without an array of the size of the data."""
    return ~jnp.isfinite(jnp.sum(x))


def _check_finite(x: Array, weights: Array | None, name: str) -> None:
    """No infinity and no NaN in a row of positive weight."""
    if found(_is_not_finite, x, weights):
        first = first_fault(_is_not_finite, x, weights)
        more = f" ({first.num_rows} such row{'s' if first.num_rows > 1 else ''})" if first.num_rows else ""
        raise ValueError(
            f"x{name}: {first}{more}; remove the rows, or give them weight 0, where they say nothing; jem.Missing around "
            "the family takes NaN for a missing value, jem.Mixture(jem.Missing(jem.Gaussian()), 2), and a density of your own "
            "takes what is not finite with nonfinite_ok=True"
        )


def _is_not_finite(x: Array, weights: Array | None) -> Array:
    return _used(~jnp.isfinite(x), weights)


def _used(bad: Array, weights: Array | None) -> Array:
    """Entries of rows of positive weight."""
    return bad if weights is None else bad & (weights > 0).reshape((-1,) + (1,) * (bad.ndim - 1))


def check_weights(weights: Any, num: int) -> None:
    """Weights: (N,), finite, non-negative, not all zero."""
    if weights is None:
        return
    if weights.shape != (num,):
        raise ValueError(f"weights must have shape ({num},), one per row of x; got {weights.shape}")
    if found(_no_weight, weights):
        raise ValueError(f"weights must be finite and >= 0; got {first_fault(_no_weight, weights)}")
    if found(_all_zero, weights):
        raise ValueError("weights are all zero; at least one row must count")


def _no_weight(weights: Array) -> Array:
    return ~jnp.isfinite(weights) | (weights < 0)


def _all_zero(weights: Array) -> Array:
    return ~jnp.any(weights > 0)


def check_params(params: Any, expected: Any, name: str = "params") -> None:
    """Parameters must have the tree structure and shapes of the node's own start.

    Args:
        params: the parameters given.
        expected: a tree of shapes.
        name: what they are called.
    """
    got, want = jax.tree.structure(params), jax.tree.structure(expected)
    if got != want:
        raise ValueError(f"{name}: expected the structure {want}; got {got}; make a start with jem.init or a node's .params")
    pairs = list(zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(expected), strict=True))
    for (path, leaf), shape in pairs:
        if leaf.shape != shape.shape:
            many = all(leaf.shape[1:] == shape.shape and leaf.ndim for (_, leaf), shape in pairs)
            hint = f"; these are {leaf.shape[0]} sets of parameters: pass one of them, as fits.best().params" if many else ""
            place = jax.tree_util.keystr(path)
            raise ValueError(f"{name}{place}: expected shape {shape.shape} for this model and data; got {leaf.shape}{hint}")


def read_params(params: Any, name: str = "params") -> Any:
    """Parameters as JAX arrays; raises where they are no record of numbers."""
    if hasattr(params, "params") and hasattr(params, "status"):
        many = getattr(params.status, "ndim", 0) > 0
        raise TypeError(
            f"{name}: expected parameters; got a {type(params).__name__}; pass its {'.best().params' if many else '.params'}"
        )
    if params is None or isinstance(params, (str, bytes, bool, int, float, complex, type)) or callable(params):
        raise TypeError(
            f"{name}: expected the parameters of the model; got {describe(params)}; make a start with jem.init(node, key, x)"
        )
    return jax.tree_util.tree_map_with_path(lambda path, leaf: as_array(leaf, name + jax.tree_util.keystr(path)), params)


def check_positive_int(value: Any, name: str, least: int = 1) -> None:
    """A Python integer of at least `least`."""
    whole(least)(value, name)


def check_key(key: Any, name: str = "key") -> None:
    """A typed PRNG key."""
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"{name} must be a typed key, jax.random.key(seed); got {describe(key)}")
    if key.shape:
        raise ValueError(f"{name} must be one key; got keys of shape {key.shape}; pass one, as {name}[0], or use jax.vmap")

"""Validation on the host, and every error text. Checks look at shapes always and at values only where these are concrete.

Each error says what was expected, what came, and what to do.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jem.data import used_rows


def is_concrete(tree: Any) -> bool:
    """Whether every leaf has a value now, outside of any transformation."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def check_components(components: Any, num_components: int | None, name: str, letter: str = "K") -> int | None:
    """None where `components` is a plate, else how often to repeat it; raises where the two do not fit together."""
    size = getattr(components, "size", None)
    kind = type(components).__name__
    if size is not None:
        if num_components not in (None, size):
            raise ValueError(f"{name}: {num_components} components asked for, but the plate has {size}; leave the number out")
        return None
    if not isinstance(num_components, int) or isinstance(num_components, bool) or num_components < 1:
        raise ValueError(
            f"{name}: the number of components must be an integer of at least 1; got {num_components!r}; {kind} is a single "
            f"node, so write {name}({kind}(...), {letter})"
        )
    return num_components


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
        raise ValueError(f"Product: x must be a dict with the keys {sorted(names)}; got {got}")


def check_integers(x: Array, name: str, upper: int | None = None) -> None:
    """Values must be integers from 0, below `upper` where it is given."""
    if not is_concrete(x):
        return
    values = np.asarray(x)
    bad = (values < 0) | (values != np.floor(values)) | (values >= (np.inf if upper is None else upper))
    bad &= np.isfinite(values)
    if bad.any():
        place = tuple(np.argwhere(bad)[0])
        expected = "integers >= 0" if upper is None else f"integers 0 .. {upper - 1}"
        raise ValueError(f"{name}: x must hold {expected}; got {values[place]} in {locate(place)}")


def locate(place: tuple[int, ...]) -> str:
    """`row 3, column 1` from an index."""
    columns = ", ".join(map(str, place[1:]))
    return f"row {place[0]}" + (f", column {columns}" if columns else "")


def check_labels(labels: Array, size: int) -> None:
    """Labels must be (N,) integers -1 .. K - 1, or (N, K) bool with something allowed in every row."""
    if labels.dtype == jnp.bool_:
        if labels.ndim != 2 or labels.shape[1] != size:
            raise ValueError(f"Labelled: bool labels must have shape (N, {size}); got {labels.shape}")
        if is_concrete(labels) and not np.asarray(labels).any(1).all():
            row = int(np.argmin(np.asarray(labels).any(1)))
            raise ValueError(f"Labelled: row {row} allows no component; allow at least one")
        return
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.ndim != 1:
        raise ValueError(f"Labelled: labels must be (N,) integers or (N, {size}) bool; got {labels.dtype} {labels.shape}")
    if is_concrete(labels):
        bad = (np.asarray(labels) < -1) | (np.asarray(labels) >= size)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"Labelled: label {int(labels[row])} in row {row}; expected -1 (unknown) or 0 .. {size - 1}")


def check_covariance(covariance: Array, inner: tuple[int, ...]) -> None:
    """Covariances of a structure: shape (..., *inner), positive definite."""
    if covariance.shape[covariance.ndim - len(inner) :] != inner:
        raise ValueError(f"covariance must have shape (..., {', '.join(map(str, inner))}); got {covariance.shape}")
    if is_concrete(covariance):
        values = np.asarray(covariance)
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
    check_weights(weights, num)
    node.validate(x if weights is None else used_rows(x, weights))
    if not is_concrete((x, weights)):
        return
    for path, leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not _all_finite(np.asarray(leaf)):
            check_finite_rows(np.asarray(leaf), weights, jax.tree_util.keystr(path), node.missing_ok)


def _all_finite(values: np.ndarray) -> bool:
    """Whether every value is finite; a finite sum says so without an array of the size of the data."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.sum(values)) or np.isfinite(values).all())


def check_finite_rows(values: np.ndarray, weights: Any, name: str, missing_ok: bool) -> None:
    """No infinity, and no NaN unless it may stand for a missing value, in a row of positive weight."""
    bad = np.isinf(values) if missing_ok else ~np.isfinite(values)
    if weights is not None:
        bad &= (np.asarray(weights) > 0).reshape((-1,) + (1,) * (values.ndim - 1))
    if bad.any():
        place = tuple(np.argwhere(bad)[0])
        count = int(bad.reshape(len(bad), -1).any(1).sum())
        raise ValueError(
            f"x{name}: {values[place]} in {locate(place)} ({count} such row{'s' if count > 1 else ''}); remove the rows, or "
            "give them weight 0"
        )


def check_weights(weights: Any, num: int) -> None:
    """Weights: (N,), finite, non-negative, not all zero."""
    if weights is None:
        return
    if weights.shape != (num,):
        raise ValueError(f"weights must have shape ({num},), one per row of x; got {weights.shape}")
    if is_concrete(weights):
        values = np.asarray(weights)
        bad = ~np.isfinite(values) | (values < 0)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"weights must be finite and >= 0; got {values[row]} in row {row}")
        if not (values > 0).any():
            raise ValueError("weights are all zero; at least one row must count")


def check_params(params: Any, expected: Any) -> None:
    """Parameters must have the tree structure and shapes of the node's own start.

    Args:
        params: the parameters given.
        expected: a tree of shapes.
    """
    got, want = jax.tree.structure(params), jax.tree.structure(expected)
    if got != want:
        raise ValueError(f"params: expected the structure {want}; got {got}; make a start with model.init or a node's .params")
    for (path, leaf), shape in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(expected), strict=True
    ):
        if leaf.shape != shape.shape:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"params{name}: expected shape {shape.shape} for this model and data; got {leaf.shape}")


def check_positive_int(value: Any, name: str, least: int = 1) -> None:
    """A Python integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")


def check_key(key: Any, name: str = "key") -> None:
    """A typed PRNG key."""
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"{name} must be a typed key, jax.random.key(seed); got {type(key).__name__}")


def check_sequences(values: Any, lengths: Array | None, name: str) -> None:
    """Sequences: leaves (S, T, ...), lengths (S,) integers 1 .. T."""
    leaves = jax.tree.leaves(values)
    for leaf in leaves:
        if leaf.ndim < 2:
            raise ValueError(
                f"{name}: x must hold sequences, shape (S, T, ...); got shape {leaf.shape}; for one sequence pass x[None]"
            )
    steps = {leaf.shape[1] for leaf in leaves}
    if len(steps) > 1 or 0 in steps:
        raise ValueError(f"{name}: all arrays of x must have the same number of time steps, at least one; got {sorted(steps)}")
    if lengths is None:
        return
    (num_steps,) = steps
    if not jnp.issubdtype(lengths.dtype, jnp.integer) or lengths.ndim != 1:
        raise ValueError(f"Sequences: lengths must be integers of shape (S,); got {lengths.dtype} of shape {lengths.shape}")
    if is_concrete(lengths):
        bad = (np.asarray(lengths) < 1) | (np.asarray(lengths) > num_steps)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"Sequences: length {int(lengths[row])} of sequence {row}; expected 1 .. {num_steps}")


def check_stochastic(matrix: Any, name: str) -> None:
    """Rows of probabilities that sum to one."""
    if not is_concrete(matrix):
        return
    values = np.asarray(matrix)
    if (values < 0).any() or not np.isfinite(values).all():
        place = tuple(int(i) for i in np.argwhere((values < 0) | ~np.isfinite(values))[0])
        raise ValueError(f"{name} must hold probabilities; got {values[place]} at {place}")
    sums = values.sum(-1)
    off = np.abs(sums - 1) > 1e-4
    if off.any():
        place = tuple(int(i) for i in np.argwhere(off)[0]) if sums.ndim else ()
        where = f" in row {place[0]}" if place else ""
        raise ValueError(f"{name}: probabilities must sum to one; got {sums[place]:.6g}{where}")


def check_fixed_cells(fixed: Array) -> None:
    """Fixed transition cells (K, K): probabilities, NaN where free, leaving each row something to share or summing to one."""
    if fixed.ndim != 2 or fixed.shape[0] != fixed.shape[1]:
        raise ValueError(f"Transition: fixed must have shape (K, K); got {fixed.shape}")
    if not is_concrete(fixed):
        return
    values = np.asarray(fixed)
    held = np.nansum(values, 1)
    free = np.isnan(values).any(1)
    bad = (np.nan_to_num(values) < 0).any(1) | (held > 1 + 1e-6) | (~free & (np.abs(held - 1) > 1e-4))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"Transition: the fixed cells of row {row} sum to {held[row]:.6g}; probabilities >= 0 that sum to at most one, "
            "and to one where no cell of the row is free (NaN)"
        )


def check_steps(emission: Any, values: Any, lengths: Array | None) -> None:
    """The observations of sequences (S, T, ...) must suit the emission; padding and missing steps are not looked at."""
    leaves = jax.tree.leaves(values)
    num, steps = leaves[0].shape[:2]
    flat = jax.tree.map(lambda a: a.reshape(num * steps, *a.shape[2:]), values)
    if not is_concrete((values, lengths)):
        emission.validate(flat)
        return
    within = np.ones((num, steps), bool) if lengths is None else np.arange(steps)[None, :] < np.asarray(lengths)[:, None]
    index = np.flatnonzero(within)
    try:
        emission.validate(jax.tree.map(lambda a: a[index], flat) if index.size < num * steps else flat)
    except ValueError as error:
        raise ValueError(f"{error} (rows are time steps within their sequences, all sequences one after the other)") from None

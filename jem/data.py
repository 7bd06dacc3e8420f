"""Data that is more than an array: known labels, sequences, missing values. Rows in, units last inside."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jem.reading import as_arrays, as_numbers
from jem.settings import describe

MISSING = "missing"  # the trait of nodes for which NaN in the data stands for a missing value


class Labelled(NamedTuple):
    """Observations some of whose components are known (semi-supervised data).

    Attributes:
        values: the observations, any data the node takes, N rows.
        labels: (N,) int, the known component or -1 where it is unknown; or (N, K) bool, the components each row may
            come from.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> x = jem.Labelled(jnp.array([[0.0], [1.0], [9.0]]), jnp.array([0, -1, 1]))
        >>> x.labels.shape
        (3,)
    """

    values: Any
    labels: Array


class Sequences(NamedTuple):
    """Sequences of unequal lengths, padded to one: the units of a chain.

    What lies beyond a sequence's length is never looked at. `jem.sequences` makes one from a list.

    Attributes:
        values: observations, leaves (S, T, ...).
        lengths: (S,) int, 1 .. T.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.Sequences(jnp.zeros((2, 5, 1)), jnp.array([5, 3])).values.shape
        (2, 5, 1)
    """

    values: Any
    lengths: Array


def sequences(items: Any, lengths: Any = None) -> Sequences:
    """Sequences of unequal lengths as one record, padded to the longest.

    Args:
        items: a list of arrays (T_s, ...), or of trees of such arrays, all alike but for T_s; or, with `lengths`, the rows
            of all sequences one after the other, (N, ...).
        lengths: (S,) integers, how many rows each sequence has; they sum to N.

    Returns:
        A `Sequences` with leaves (S, max T_s, ...). `jem.flat_rows` is the way back.

    Raises:
        TypeError: no list of arrays.
        ValueError: an empty list, a sequence without steps or unlike the first, or lengths that do not sum to N.

    Example:
        >>> import jem
        >>> jem.sequences([[[1.0], [2.0]], [[3.0]]]).lengths.tolist()
        [2, 1]
        >>> jem.sequences([[1.0], [2.0], [3.0]], lengths=[2, 1]).values.shape
        (2, 2, 1)
    """
    if lengths is not None:
        return _cut(as_arrays(items, "sequences: items"), lengths)
    if items is None or isinstance(items, (str, bytes, dict)) or not hasattr(items, "__iter__"):
        raise TypeError(f"sequences: expected a list of arrays (T, ...), one a sequence; got {describe(items)}")
    if hasattr(items, "shape") and len(items.shape) < 3:
        raise ValueError(
            f"sequences: expected a list of arrays (T, ...), one a sequence; got one array of shape {tuple(items.shape)}; for "
            "one sequence pass [x], for several one after the other jem.sequences(x, lengths=[...])"
        )
    items = [as_arrays(item, f"sequences: items[{i}]") for i, item in enumerate(items)]
    if not items:
        raise ValueError("sequences: the list is empty; give at least one sequence")
    for i, item in enumerate(items):
        _check_alike(i, item, items[0])
    counts = [int(jax.tree.leaves(item)[0].shape[0]) for item in items]
    rows = jax.tree.map(lambda *leaves: (jnp if _traced(leaves) else np).concatenate(leaves), *items)
    return _cut(rows, counts)


def flat_rows(x: Any, lengths: Any = None) -> Any:
    """The steps of all sequences one after the other: undoes `jem.sequences(x, lengths=...)`.

    Args:
        x: a `Sequences`, or a tree of arrays (S, T, ...) with an entry for each step, as `jem.viterbi` and the posterior
            of `jem.infer` have them.
        lengths: (S,) the sequences' lengths, where x is not a `Sequences`.

    Returns:
        The tree with leaves (N, ...), N the sum of the lengths.

    Example:
        >>> import jem
        >>> x = jem.sequences([[1.0], [2.0], [3.0]], lengths=[2, 1])
        >>> jem.flat_rows(x).tolist()
        [[1.0], [2.0], [3.0]]
    """
    if isinstance(x, Sequences):
        x, lengths = x
    if lengths is None:
        raise ValueError("flat_rows: lengths is missing; give the lengths (S,) of the sequences, as x.lengths")
    counts = _counts(lengths, "flat_rows")
    x = as_arrays(x, "flat_rows: x")
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        if leaf.ndim < 2 or leaf.shape[0] != len(counts) or leaf.shape[1] < counts.max():
            raise ValueError(
                f"flat_rows: x{jax.tree_util.keystr(path)} must have shape (S, T, ...) with S = {len(counts)} and T at least "
                f"{counts.max()}; got {leaf.shape}"
            )
    sequence = np.repeat(np.arange(len(counts)), counts)
    step = np.concatenate([np.arange(n) for n in counts])
    return jax.tree.map(lambda leaf: leaf[sequence, step], x)


def _cut(rows: Any, lengths: Any) -> Sequences:
    """Rows (N, ...) one after the other as sequences."""
    counts = _counts(lengths, "sequences")
    start = np.cumsum(counts) - counts
    index = start[:, None] + np.minimum(np.arange(counts.max())[None, :], counts[:, None] - 1)
    for path, leaf in jax.tree_util.tree_leaves_with_path(rows):
        if leaf.ndim == 0 or leaf.shape[0] != counts.sum():
            raise ValueError(
                f"sequences: lengths sum to {counts.sum()}; items{jax.tree_util.keystr(path)} must have as many rows; got "
                f"shape {leaf.shape}"
            )
    cut = lambda leaf: jnp.asarray((leaf if _traced(leaf) else np.asarray(leaf))[index])  # noqa: E731
    return Sequences(jax.tree.map(cut, rows), jnp.asarray(counts, jnp.int32))


def _counts(lengths: Any, name: str) -> np.ndarray:
    """Lengths (S,) as integers on the host."""
    counts = as_numbers(lengths, f"{name}: lengths")
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or counts.size == 0:
        raise ValueError(f"{name}: lengths must be integers of shape (S,), S >= 1; got {counts.dtype} of shape {counts.shape}")
    if counts.min() < 1:
        row = int(np.argmin(counts))
        raise ValueError(f"{name}: sequence {row} has no steps, its length is {counts[row]}; leave it out")
    return counts.astype(np.int64)


def _check_alike(number: int, item: Any, first: Any) -> None:
    """A sequence of a list has steps, and but for their number the form of the first."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(item)]
    if not shapes or () in shapes:
        raise ValueError(
            f"sequences: item {number} must be an array (T, ...), one row a step; got {describe(item)}; for one sequence "
            "pass [x]"
        )
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"sequences: the arrays of sequence {number} must have the same number of steps; got shapes {shapes}")
    if shapes[0][0] == 0:
        raise ValueError(f"sequences: sequence {number} has no steps; leave it out")
    wanted = [leaf.shape for leaf in jax.tree.leaves(first)]
    if jax.tree.structure(item) != jax.tree.structure(first) or [s[1:] for s in shapes] != [s[1:] for s in wanted]:
        raise ValueError(
            f"sequences: all sequences must be alike but for their number of steps; sequence {number} has shape "
            f"{', '.join(map(str, shapes))}, the first {', '.join(map(str, wanted))}"
        )


def _traced(x: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(x))


def allowed(labels: Array, num_components: int) -> Array:
    """(K, N) bool: the components a unit may come from, from labels (N,) int or (K, N) bool, units last."""
    if labels.dtype == jnp.bool_:
        return labels
    return (labels[None, :] == jnp.arange(num_components)[:, None]) | (labels[None, :] == -1)


def to_units(x: Any) -> Any:
    """Rows to units: moves the leading axis of every leaf to the end; integers and bools keep their dtype."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(jnp.asarray(leaf), 0, -1), x)


def to_rows(x: Any) -> Any:
    """Units to rows: moves the last axis of every leaf to the front."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), x)


def num_units(x: Any) -> int:
    """Length of the unit axis (last) of data."""
    return int(jax.tree.leaves(x)[0].shape[-1])


def float_dtype(x: Any) -> Any:
    """The floating dtype of the data: that of its first inexact leaf, or JAX's default."""
    for leaf in jax.tree.leaves(x):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf.dtype
    return jnp.zeros(()).dtype


def used_rows(x: Any, weights: Array | None) -> Any:
    """Rows with those of weight 0 replaced by copies of the heaviest, so that nothing sees what they held."""
    if weights is None:
        return x

    def leaf(a: Array) -> Array:
        used = jnp.reshape(weights > 0, (-1,) + (1,) * (a.ndim - 1))
        return jnp.where(used, a, a[jnp.argmax(weights)][None])

    return jax.tree.map(leaf, x)


def row_weights(x: Any, weights: Array | None) -> Array:
    """Weights (N,) in the data's floating dtype, one where none are given; x has rows first.

    A weight that no door lets in is NaN here: inside jit, where none can look at it, what it counts in is not finite.
    """
    num, dtype = jax.tree.leaves(x)[0].shape[0], float_dtype(x)
    if weights is None:
        return jnp.ones(num, dtype)
    return jnp.where((weights >= 0) & jnp.any(weights > 0), weights, jnp.nan).astype(dtype)


def observed(x: Any) -> Array:
    """(N,) bool: the units without a NaN, units last."""
    ok = jnp.ones(num_units(x), bool)
    for leaf in jax.tree.leaves(x):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            ok = ok & ~jnp.any(jnp.isnan(leaf), tuple(range(leaf.ndim - 1)))
    return ok


def with_gaps(new: Any, like: Any) -> Any:
    """Units drawn in the place of others, units last: in their dtypes, and NaN where they are.

    Raises ValueError where the two have not the same shapes.
    """
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (new, like)]
    if jax.tree.structure(new) != jax.tree.structure(like) or shapes[0] != shapes[1]:
        raise ValueError(f"sample: the model draws units (last axis) of the shapes {shapes[0]}; the data have {shapes[1]}")

    def leaf(a: Array, old: Array) -> Array:
        a = a.astype(old.dtype)
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return a
        return jnp.where(jnp.isnan(old), jnp.nan, a)

    return jax.tree.map(leaf, new, like)


def fill(x: Any, keep: Array) -> Any:
    """Units last: those outside `keep` (N,) replaced by the first inside, so that nothing computed from them is NaN."""
    first = jnp.argmax(keep)

    def replace(leaf: Array) -> Array:
        value = jnp.take(leaf, first, axis=-1)[..., None]
        return jnp.where(keep, leaf, jnp.nan_to_num(value))

    return jax.tree.map(replace, x)

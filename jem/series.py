"""Making sequences of lists and of flat rows, and flat rows of sequences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jem.data import Sequences
from jem.reading import as_arrays, as_numbers
from jem.settings import describe


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
        x: a `Sequences`, or a tree of arrays (S, T, ...) with an entry for each step, as `jem.decode` and the posterior
            of `jem.infer` have them.
        lengths: (S,) the sequences' lengths, where x is not a `Sequences`.

    Returns:
        The tree with leaves (N, ...), N the sum of the lengths.

    Raises:
        ValueError: lengths that are missing, or that do not fit the arrays.

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

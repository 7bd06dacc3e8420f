"""Data that is more than an array: known labels, sequences, inputs, missing values. Rows in, units last inside."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.reading import as_array

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


class Given(NamedTuple):
    """Observations and what is known beside them and not modelled: inputs that drive a chain, a state, a gate, a regression.

    Attributes:
        outputs: what is observed, any data the node takes, with its leading axes: rows (N, ...) or sequences (S, T, ...).
        inputs: with the same leading axes; nothing may be missing in them.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.Given(jnp.zeros((2, 5, 1)), jnp.ones((2, 5, 3))).inputs.shape
        (2, 5, 3)
    """

    outputs: Any
    inputs: Any


class Interval(NamedTuple):
    """Cells of which an interval is known: the data of `jem.Censored`, like those of the family with two ends in place of x.

    `lower = upper` is an exact observation, `upper = inf` a right-censored one, `lower = -inf` a left-censored one; other cells
    are known to lie between, and two NaN are a cell that is missing. Of numbers the ends themselves have no probability,
    of counts and categories both belong to the interval. Rows may be bins of a histogram, `weights` their counts.

    Attributes:
        lower: (N, D), or (N,) for categories.
        upper: alike.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> x = jem.Interval.right(jnp.array([[2.0], [5.0]]), censored=jnp.array([[False], [True]]))
        >>> x.upper.tolist()
        [[2.0], [inf]]
    """

    lower: Any
    upper: Any

    @classmethod
    def right(cls, y: Any, censored: Any) -> "Interval":
        """Exact observations y (N, D), but for those that are `censored`, bool (N, D) or (N,): more than y."""
        y = as_floats(as_array(y, "Interval: y"))
        return cls(y, jnp.where(_along(censored, y), jnp.inf, y))

    @classmethod
    def left(cls, y: Any, censored: Any) -> "Interval":
        """Exact observations y (N, D), but for those that are `censored`, bool (N, D) or (N,): less than y."""
        y = as_floats(as_array(y, "Interval: y"))
        return cls(jnp.where(_along(censored, y), -jnp.inf, y), y)

    @classmethod
    def rounded(cls, y: Any, width: Any) -> "Interval":
        """Observations y (N, D) rounded to multiples of `width`, which broadcasts to them."""
        y = as_floats(as_array(y, "Interval: y"))
        half = jnp.broadcast_to(0.5 * jnp.asarray(width, y.dtype), y.shape)
        return cls(y - half, y + half)

    @property
    def middle(self) -> Array:
        """What stands for each cell in a start: its value, its middle, or the end that is finite; NaN where none is."""
        lower, upper = as_floats(self.lower), as_floats(self.upper)
        some, other = jnp.isfinite(lower), jnp.isfinite(upper)
        both = jnp.where(some & other, lower + 0.5 * (upper - lower), jnp.nan)
        return jnp.where(some & other, both, jnp.where(some, lower, jnp.where(other, upper, jnp.nan)))


def as_floats(x: Any) -> Array:
    """Numbers with a fraction: integers in JAX's default."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.zeros(()).dtype)


def _along(mask: Any, y: Array) -> Array:
    """A mask of rows, or of cells, as it meets y."""
    mask = as_array(mask, "Interval: censored").astype(bool)
    return mask.reshape(mask.shape + (1,) * (y.ndim - mask.ndim))


class Holed(NamedTuple):
    """Cells (D, N), and which of them are seen; the others hold something harmless."""

    values: Array
    seen: Array


class Series(NamedTuple):
    """Data taken apart: the values, the lengths and the labels, None where there are none."""

    values: Any
    lengths: Array | None
    labels: Array | None


def inputs_within(x: Any) -> Any:
    """The data with inputs innermost, beside the values, where labels or lengths were written inside of `Given`; rows first."""
    if isinstance(x, (Labelled, Sequences)):
        return x._replace(values=inputs_within(x.values))
    if not isinstance(x, Given) or not isinstance(x.outputs, (Labelled, Sequences)):
        return x
    if isinstance(x.outputs, Sequences):  # inputs of whole sequences belong beside these
        steps = jax.tree.leaves(x.outputs.values)[0].shape[:2]
        if any(leaf.shape[:2] != steps for leaf in jax.tree.leaves(x.inputs)):
            return x
    return x.outputs._replace(values=inputs_within(Given(x.outputs.values, x.inputs)))


def series_of(x: Any) -> Series:
    """Sequences with their lengths and the labels of their steps, in whatever order they are nested."""
    lengths, labels = None, None
    while isinstance(x, (Labelled, Sequences)):
        labels = x.labels if isinstance(x, Labelled) else labels
        lengths = x.lengths if isinstance(x, Sequences) else lengths
        x = x.values
    return Series(x, lengths, labels)


def with_values(x: Any, values: Any, labels: Array | None = None) -> Any:
    """The data with other values inside of labels and lengths, and with other labels where these are given."""
    if not isinstance(x, (Labelled, Sequences)):
        return values
    x = x._replace(values=with_values(x.values, values, labels))
    return x._replace(labels=labels) if isinstance(x, Labelled) and labels is not None else x


def without_inputs(x: Any) -> tuple[Any, Any]:
    """The outputs, with the lengths and labels there are, and the inputs; None where there are none."""
    values = series_of(x).values
    return (with_values(x, values.outputs), values.inputs) if isinstance(values, Given) else (x, None)


def with_inputs(x: Any, inputs: Any) -> Any:
    """Undoes `without_inputs`."""
    return x if inputs is None else with_values(x, Given(series_of(x).values, inputs))


def without_labels(x: Any) -> tuple[Any, Array | None]:
    """The units, and the labels that they have as a whole; None where there are none."""
    return (x.values, x.labels) if isinstance(x, Labelled) else (x, None)


def with_labels(x: Any, labels: Array | None) -> Any:
    """Undoes `without_labels`."""
    return x if labels is None else Labelled(x, labels)


def with_holes(x: Array) -> Holed:
    """Cells (D, N), NaN where missing, as those that are seen."""
    seen = ~jnp.isnan(x)
    first = jnp.take_along_axis(x, jnp.argmax(seen, -1)[:, None], -1)
    return Holed(jnp.where(seen, x, jnp.where(jnp.isnan(first), 0, first)), seen)


def at_means(x: Array) -> Array:
    """Cells (D, N), NaN at the mean of those of its feature that are seen."""
    seen = ~jnp.isnan(x)
    mean = jnp.sum(jnp.where(seen, x, 0), 1) / jnp.maximum(jnp.sum(seen, 1), 1)
    return jnp.where(seen, x, mean[:, None].astype(x.dtype))


def without_holes(x: Any) -> tuple[Any, Array | None]:
    """The cells, and which of them are seen; None for all."""
    return (x.values, x.seen) if isinstance(x, Holed) else (x, None)


def averaged(each: Any, share: Array, like: Any) -> Any:
    """`sum_k share_kn each_kn`, leaves (K, ..., N), by shares (K, N); what is no number with a fraction is as it was."""

    def leaf(a: Array, old: Array) -> Array:
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return old
        by = share.reshape(len(share), *(1,) * (a.ndim - 2), -1)
        return jnp.sum(jnp.where(by > 0, by * a, 0), 0)

    return jax.tree.map(leaf, each, like)


def without_nan(x: Any) -> Any:
    """The data with zeros for NaN."""
    real = lambda a: jnp.issubdtype(a.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda a: jnp.where(jnp.isnan(a), jnp.zeros((), a.dtype), a) if real(a) else a, x)


def within_lengths(values: Any, lengths: Array | None) -> Array:
    """(T, S) bool: the steps that lie within their sequence, of values with leaves (T, ..., S), units last."""
    leaf = jax.tree.leaves(values)[0]
    if lengths is None:
        return jnp.ones((leaf.shape[0], leaf.shape[-1]), bool)
    return jnp.arange(leaf.shape[0])[:, None] < lengths[None, :]


def single_steps(values: Any) -> Any:
    """Sequences (T, ..., S), units last, as single steps (..., T S)."""
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], a.shape[0] * a.shape[-1]), values)


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

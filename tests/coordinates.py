"""Free coordinates of any tree of parameters, by the field that holds each leaf: for gradients and random parameters.

`from_free(params, free)` undoes `to_free(params)`. A softmax takes one coordinate too many, which no test minds. Values are
worked on in NumPy, which compiles nothing; traced ones in JAX.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jem

CHANCES = (jem.Bernoulli.Params, jem.Binomial.Params, jem.Geometric.Params, jem.BetaBinomial.Params)
PARTS = (jem.covariance.EigenFactor, jem.covariance.ScaledFactor)
REAL = {"mean", "offset", "effects", "loadings", "m0", "A", "B", "C", "D", "coef", "level", "centre"}


def is_factor(name):
    """Whether a field holds a lower triangular factor or deviations."""
    return name == "whitening" or name.startswith("chol_")


def is_matrix(w):
    """Whether a factor is lower triangular (D, D), rather than one reciprocal deviation or D of them."""
    return w.shape[-1] == w.shape[-2] > 1


def library(leaf):
    """NumPy for a value, jax.numpy for a traced one."""
    return jnp if isinstance(leaf, jax.core.Tracer) else np


def is_real(record, name):
    """Whether a field holds any real numbers."""
    positive = isinstance(record, (jem.NegativeBinomial.Params, jem.InverseGaussian.Params))  # its mean, its loc
    return name in REAL | {"loc"} and not positive


def free_leaf(record, name, leaf):
    """One field in free coordinates."""
    lib = library(leaf)
    if isinstance(record, (jem.Point.Params, jem.Uniform.Params)):
        return 0 * leaf  # all mass at 0, or within 8 of it, whatever is drawn
    if is_real(record, name) or name in ("mean_direction", "orientation"):
        return leaf
    if name == "probs" and isinstance(record, CHANCES):
        return lib.log(leaf) - lib.log1p(-leaf)
    if is_factor(name) and is_matrix(leaf):
        eye = lib.broadcast_to(lib.eye(leaf.shape[-1], dtype=bool), leaf.shape)
        return lib.where(eye, lib.log(lib.where(eye, leaf, 1)), leaf)
    return lib.log(leaf)


def orthonormal(lib, columns):
    """The columns (..., D, D), each with what lies along those before it taken off, of length one."""
    done = []
    for j in range(columns.shape[-1]):
        column = columns[..., j]
        for _ in range(2):  # once more for what rounding leaves
            for other in done:
                column = column - other * (other * column).sum(-1, keepdims=True)
        done.append(column / lib.sqrt((column * column).sum(-1, keepdims=True)))
    return lib.stack(done, -1)


def bound_leaf(record, name, free):
    """One field from free coordinates."""
    lib = library(free)
    if isinstance(record, jem.Point.Params):
        return 0 * free
    if isinstance(record, jem.Uniform.Params):
        return 0 * free + (8 if name == "high" else -8)
    if is_real(record, name):
        return free
    if name == "orientation":
        return orthonormal(lib, free)
    if isinstance(record, PARTS) and name == "shape":
        return lib.exp(free - free.mean(-1, keepdims=True))
    if name == "mean_direction":
        return free / lib.sqrt((free * free).sum(-1, keepdims=True))
    if name == "probs" and isinstance(record, CHANCES):
        return 1 / (1 + lib.exp(-free))
    if name in ("weights", "initial", "probs"):
        e = lib.exp(free - free.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)
    if is_factor(name) and is_matrix(free):
        eye = lib.broadcast_to(lib.eye(free.shape[-1], dtype=bool), free.shape)
        return lib.where(eye, lib.exp(lib.where(eye, free, 0)), lib.tril(free, -1))
    return lib.exp(free)


def walk(fn, params, values):
    """`fn(record, field name, leaf of values)` for every leaf of a tree of records, dicts and tuples like `params`."""
    if isinstance(params, dict):
        return {name: walk(fn, params[name], values[name]) for name in params}
    if not hasattr(params, "_fields"):
        probs = lambda p, v: fn(params, "probs", v)  # of a tuple that holds arrays: first states of several chains
        inner = lambda p, v: walk(fn, p, v) if isinstance(p, (tuple, dict)) else probs(p, v)
        return tuple(inner(p, v) for p, v in zip(params, values, strict=True))
    fields = {}
    for name in params._fields:
        part, value = getattr(params, name), getattr(values, name)
        nested = isinstance(part, (tuple, dict))
        fields[name] = walk(fn, part, value) if nested else fn(params, name, value)
    return params._replace(**fields)


def to_free(params):
    """Parameters in free coordinates."""
    return walk(free_leaf, params, params)


def from_free(params, free):
    """Parameters from free coordinates; `params` gives the records and may be shapes."""
    return jax.tree.map(jnp.asarray, walk(bound_leaf, params, free))


def noise_like(rng, params, size, held=()):
    """Random free coordinates; fields named in `held` stay at zero."""

    def draw(record, name, leaf):
        scale = 0.0 if name == "centre" or name in held else size  # where a regression has its level: always held
        return np.asarray(scale * rng.standard_normal(np.shape(leaf)), leaf.dtype)

    return walk(draw, params, params)


def perturb(rng, params, size, held=()):
    """Parameters nearby, at a distance of about `size` in free coordinates."""
    moved = jax.tree.map(lambda free, by: free + by, to_free(params), noise_like(rng, params, size, held))
    return from_free(params, moved)


def check_valid(params):
    """Fails where a leaf is not finite or outside of its domain."""

    def check(record, name, leaf):
        leaf = np.asarray(leaf)
        assert np.isfinite(leaf).all(), (type(record).__name__, name, leaf)
        if is_factor(name):
            diagonal = np.diagonal(leaf, axis1=-2, axis2=-1) if is_matrix(leaf) else leaf
            assert (diagonal > 0).all(), leaf
            assert not is_matrix(leaf) or (np.triu(leaf, 1) == 0).all(), leaf
        elif name == "orientation":
            gram = np.swapaxes(leaf, -1, -2) @ leaf
            np.testing.assert_allclose(gram, np.broadcast_to(np.eye(leaf.shape[-1]), gram.shape), atol=1e-5)
        elif isinstance(record, PARTS):
            assert (leaf > 0).all(), leaf
        elif name in ("weights", "probs"):
            assert (leaf >= 0).all() and (leaf <= 1).all(), leaf
            if name == "weights" or isinstance(record, jem.Categorical.Params):
                np.testing.assert_allclose(leaf.sum(-1), 1, rtol=20 * np.finfo(leaf.dtype).eps)
        elif name == "rate":
            assert (leaf >= 0).all(), leaf
        elif name == "df":
            assert (leaf >= 0.04).all() and (leaf <= 1.01e4).all(), leaf
        return leaf

    walk(check, params, params)

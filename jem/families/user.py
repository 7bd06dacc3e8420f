"""Functions that users write for one unit: traced once a shape, checked at the door, named in every error."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import checkify
from jax.scipy.special import logsumexp

from jem import checks
from jem.data import to_units
from jem.node import Params

_PROBES = 8  # rows at which a function is tried before a fit


@functools.lru_cache(maxsize=256)
def traced_once(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, of which JAX keeps the trace: Python runs it once for each set of shapes and dtypes."""
    return jax.jit(fn, inline=True)


def name_of(fn: Callable[..., Any]) -> str:
    """What to call a function in an error."""
    return getattr(fn, "__qualname__", type(fn).__name__)


def call_shape(who: str, fn: Callable[..., Any], *args: Any) -> Any:
    """Shapes of what `fn(*args)` returns; an error raised inside says who called, and with what."""
    shapes = jax.tree.map(jnp.shape, args)
    try:
        return jax.eval_shape(traced_once(fn), *args)
    except Exception as error:
        error.add_note(f"{who}: this was raised by {name_of(fn)}, called for one unit with arguments of shapes {shapes}")
        raise


def check_output(who: str, fn: Callable[..., Any], expected: tuple[int, ...], *args: Any) -> None:
    """The function must return one array of real numbers of the expected shape."""
    out = call_shape(who, fn, *args)
    if not hasattr(out, "shape") or out.shape != expected or not jnp.issubdtype(out.dtype, jnp.floating):
        got = f"{out.dtype} of shape {out.shape}" if hasattr(out, "shape") else f"{jax.tree.structure(out)}"
        what = f"an array of shape {expected}" if expected else "a scalar, shape ()"
        raise ValueError(f"{who}: {name_of(fn)} must return {what}, real numbers, for one unit; got {got}")


def one_row(x: Any) -> Any:
    """Shapes of one row of data."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], jnp.result_type(a)), x)


def start_shapes(who: str, starter: Callable[..., Any] | None, start: Params, x: Any) -> Params:
    """Shapes of a node's parameters from its start, or from the function that makes it; every leaf must be real."""
    if starter is not None:
        rows = jax.tree.leaves(x)[0].shape[0]
        start = call_shape(who, starter, jax.random.key(0), x, jax.ShapeDtypeStruct((rows,), jnp.zeros(()).dtype))
    for path, leaf in jax.tree_util.tree_leaves_with_path(start):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{who}: parameter{jax.tree_util.keystr(path)} must hold real numbers, as gradients move it; got {leaf.dtype}; "
                "write 1.0 for 1, and keep what is no number out of the parameters"
            )
    return start


def try_start(who: str, fn: Callable[..., Any], node: Any, x: Any) -> None:
    """Evaluates a node at its start: raises where `fn` looks outside an array, gives NaN, or is not normalised.

    Args:
        who: the kind of the node.
        fn: the user's function, named in the error.
        node: the node, whose `infer` calls it.
        x: rows first; rows with a NaN are passed over, and only the first ones are looked at.
    """
    if not checks.is_concrete((node.start, node.observations, x)):
        return
    with jax.ensure_compile_time_eval():  # the data may be known inside the caller's own jit
        _try_start(who, fn, node, x)


def _try_start(who: str, fn: Callable[..., Any], node: Any, x: Any) -> None:
    rows = _whole_rows(x)[:_PROBES]
    params = node.start
    if node.starter is not None:
        params = node.starter(jax.random.key(0), x, jnp.ones(jax.tree.leaves(x)[0].shape[0]))
    if rows.size > 0:
        units = to_units(jax.tree.map(lambda a: jnp.asarray(a)[np.resize(rows, _PROBES)], x))
        _check_probe(who, name_of(fn), rows, *_probe(node, params, units))
    if node.observations is not None:
        _check_total(who, name_of(fn), np.asarray(_log_total(node, params, to_units(node.observations)), float))


def check_maximize(who: str, node: Any, params: Params, x: Any) -> None:
    """The user's closed-form M-step must return parameters of the same structure and shapes."""
    size = jax.tree.leaves(x)[0].shape[0]

    def m_step(params: Params, units: Any) -> Any:
        posterior, _ = node.infer(params, units)
        return node.maximizer(node.expect(params, posterior, units, jnp.ones(size)).own)

    name = name_of(node.maximizer)
    units = jax.eval_shape(to_units, x)
    new = jax.eval_shape(m_step, params, units)
    got, want = (jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (new, params))
    if jax.tree.structure(new) != jax.tree.structure(params) or jax.tree.leaves(new) and got != want:
        raise ValueError(f"{who}: {name} must return parameters of the shapes {want}; got {got}")


def _whole_rows(x: Any) -> np.ndarray:
    """Indices of the rows without a NaN."""
    whole = np.ones(jax.tree.leaves(x)[0].shape[0], bool)
    for leaf in map(np.asarray, jax.tree.leaves(x)):
        if np.issubdtype(leaf.dtype, np.floating):
            whole &= np.isfinite(leaf).reshape(len(leaf), -1).all(1)
    return np.flatnonzero(whole)


def _check_probe(who: str, name: str, rows: np.ndarray, error: Any, answer: Any) -> None:
    values, gradient = answer
    if error.get():
        raise ValueError(f"{who}: {name} looks outside an array; is the support of the right size? {error.get()}")
    bad = np.isnan(np.asarray(values)).reshape(-1, _PROBES).any(0)
    if bad.any():
        raise ValueError(f"{who}: {name} is NaN at the node's start, in row {rows[bad.argmax() % rows.size]}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        if not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(
                f"{who}: the gradient of {name} with respect to parameter{jax.tree_util.keystr(path)} is not finite at the "
                "node's start; inside jnp.where keep the branch not taken finite too"
            )


def _check_total(who: str, name: str, log_total: np.ndarray) -> None:
    """Over all possible observations the probabilities at the start must sum to one."""
    off = np.abs(np.expm1(log_total)) > 1e-3
    if off.any():
        raise ValueError(
            f"{who}: the probabilities that {name} gives to all observations sum to {np.exp(log_total[off][0]):.6g} at the "
            "node's start; they must sum to one; look for a missing constant"
        )


@jax.jit
def _probe(node: Any, params: Params, units: Any) -> Any:
    def both(params: Params) -> Any:
        values = node.infer(params, units)[1]
        slope = jax.grad(lambda p: jnp.sum(jnp.where(jnp.isfinite(values), node.infer(p, units)[1], 0)))(params)
        return values, slope

    return checkify.checkify(both, errors=checkify.index_checks)(params)


@jax.jit
def _log_total(node: Any, params: Params, units: Any) -> Array:
    return logsumexp(node.infer(params, units)[1], axis=-1)

"""Functions that users write for one unit: traced once a shape, checked at the door, named in every error."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import checkify
from jax.scipy.special import logsumexp

from jem import checks
from jem.backend import precise
from jem.data import to_units
from jem.kernels.lapack import without_batches
from jem.node import Params

_PROBES = 8  # rows at which a function is tried before a fit, beside those of the extreme values
_WIDE = 8  # columns of an array whose extreme values are looked for one by one
_INDEXING = ("gather", "dynamic_slice", "dynamic_update_slice", "scatter")
_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError, jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)  # fmt: skip


@functools.lru_cache(maxsize=256)
def traced_once(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, of which JAX keeps the trace: Python runs it once for each set of shapes and dtypes.

    Its LAPACK calls can be batched: jem maps it over units, components, lanes and directions.
    """
    return precise(jax.jit(without_batches(fn), inline=True))


def name_of(fn: Callable[..., Any]) -> str:
    """What to call a function in an error."""
    return getattr(fn, "__qualname__", type(fn).__name__)


def check_function(who: str, name: str, fn: Any, arguments: tuple[str, ...]) -> None:
    """`fn` must be a function of the named arguments that JAX can tell from others; None is passed over."""
    if fn is None:
        return
    if not callable(fn) or isinstance(fn, type):
        got = fn.__name__ if isinstance(fn, type) else f"{type(fn).__name__} {fn!r:.40}"
        raise ValueError(f"{who}: {name} must be a function of ({', '.join(arguments)}); got {got}")
    try:
        hash(fn)
    except TypeError:
        raise ValueError(
            f"{who}: {name} is a {type(fn).__name__}, which cannot be hashed; wrap it in a function, and keep its arrays in "
            "the parameters"
        ) from None
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some built-in functions do not say
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise ValueError(
            f"{who}: {name} is called with {len(arguments)} argument{'s' * (len(arguments) > 1)}, ({', '.join(arguments)}); "
            f"{name_of(fn)}{signature} does not take them"
        ) from None


def call_shape(who: str, fn: Callable[..., Any], *args: Any) -> Any:
    """Shapes of what `fn(*args)` returns; an error raised inside says who called, and with what."""
    shapes = jax.tree.map(jnp.shape, args)
    try:
        return jax.eval_shape(traced_once(fn), *args)
    except _NEEDS_VALUES as error:
        raise ValueError(
            f"{who}: {name_of(fn)} asks for the value of an array while JAX traces it, as a Python if or while over a value, "
            "float(), int(), a mask as an index or a NumPy function does; write jnp.where, jax.lax.cond or a function of "
            f"jax.numpy instead. {str(error).splitlines()[0]}"
        ) from error
    except jax.errors.UnexpectedTracerError as error:
        raise ValueError(
            f"{who}: {name_of(fn)} keeps an array of one call for the next; it must depend on its arguments alone"
        ) from error
    except Exception as error:
        error.add_note(f"{who}: this was raised by {name_of(fn)}, called for one unit with arguments of shapes {shapes}")
        raise


def check_output(who: str, fn: Callable[..., Any], expected: tuple[int, ...], *args: Any) -> None:
    """The function must return one array of real numbers of the expected shape."""
    out = call_shape(who, fn, *args)
    if not hasattr(out, "shape") or out.shape != expected or not jnp.issubdtype(out.dtype, jnp.floating):
        got = f"{out.dtype} of shape {out.shape}" if hasattr(out, "shape") else f"{type(out).__name__}: {out}"
        what = f"an array of shape {expected}" if expected else "a scalar, shape ()"
        hint = "; sum over the entries" if not expected and getattr(out, "shape", ()) else ""
        raise ValueError(f"{who}: {name_of(fn)} must return {what}, real numbers, for one unit; got {got}{hint}")


def check_columns(who: str, law: Any, inputs: Any) -> None:
    """Inputs (N, p) must have as many columns as the law's function takes with its start; said where that can be found."""
    if law.starter is not None or not hasattr(inputs, "shape") or inputs.ndim != 2:
        return

    def takes(num: int) -> bool:
        try:
            row = jax.ShapeDtypeStruct((num,), jnp.result_type(inputs))
            return jax.eval_shape(traced_once(law.log_prob), law.start, row).shape == law.shape
        except Exception:  # the user's own, of whatever kind
            return False

    if not takes(inputs.shape[1]):
        sizes = {size for leaf in jax.tree.leaves(law.start) for size in np.shape(leaf)}
        fits = [num for num in sorted(sizes) if takes(num)]
        if len(fits) == 1:
            raise ValueError(
                f"{who}: inputs must have p = {fits[0]} columns, as {name_of(law.log_prob)} takes them with its start; got "
                f"{inputs.shape[1]}"
            )


def one_row(x: Any) -> Any:
    """Shapes of one row of data."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], jnp.result_type(a)), x)


def start_shapes(who: str, starter: Callable[..., Any] | None, start: Params, x: Any) -> Params:
    """Shapes of a node's parameters from its start, or from the function that makes it; every leaf must be real."""
    if starter is not None:
        rows = jax.tree.leaves(x)[0].shape[0]
        start = call_shape(who, starter, jax.random.key(0), x, jax.ShapeDtypeStruct((rows,), jnp.zeros(()).dtype))
        if not jax.tree.leaves(start):
            raise ValueError(f"{who}: {name_of(starter)} must return parameters, a tree of arrays; got {start!r}, without any")
    for path, leaf in jax.tree_util.tree_leaves_with_path(start):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{who}: parameter{jax.tree_util.keystr(path)} must hold real numbers, as gradients move it; got {leaf.dtype}; "
                "write 1.0 for 1, and keep what is no number out of the parameters"
            )
    return start


def try_start(who: str, fn: Callable[..., Any], node: Any, x: Any, points: Any = None) -> None:
    """Evaluates a node at its start: raises where `fn` looks outside an array, gives NaN, or is not normalised.

    Args:
        who: the kind of the node.
        fn: the user's function, named in the error.
        node: the node, whose `infer` calls it.
        x: rows first; the first rows are looked at and those with the least and the largest value of each column. Rows with a
            value that is not finite are passed over, unless the node takes them.
        points: `points(params, units)`, the units and other arguments at which `fn` is called; None for params and a unit.
    """
    if not checks.is_concrete((node.start, node.observations, x)):
        return
    with jax.ensure_compile_time_eval():  # the data may be known inside the caller's own jit
        _try_start(who, fn, node, x, points or (lambda params, units: (units,)))


def _try_start(who: str, fn: Callable[..., Any], node: Any, x: Any, points: Callable[..., Any]) -> None:
    whole = np.ones(jax.tree.leaves(x)[0].shape[0], bool) if node.nonfinite_ok else _whole_rows(x)
    rows = _probe_rows(x, whole, node.nonfinite_ok)
    params, name = node.start, name_of(fn)
    if node.starter is not None:
        seen = jax.tree.map(lambda a: jnp.asarray(a)[np.where(whole, np.arange(len(whole)), whole.argmax())], x)
        params = node.starter(jax.random.key(0), seen, jnp.asarray(whole, jnp.zeros(()).dtype))
    if rows.size > 0:
        probes = jax.tree.map(lambda a: jnp.asarray(a)[rows], x)
        units = to_units(probes)
        arguments = points(params, units)
        eqns = _equations_of(fn, params, *arguments)
        if any(map(_indexes, eqns)) and not any(map(_says_what_to_do, eqns)):
            error = _index_errors(traced_once(fn), params, *arguments).get()
            if error:
                raise ValueError(f"{who}: {name} looks outside an array; is the support of the right size? {error}")
        _check_probe(who, name, node, rows, probes, any(map(_chooses, eqns)), _probe(node, params, units))
    if node.observations is not None:
        _check_total(who, name, np.asarray(_log_total(node, params, to_units(node.observations)), float))


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
    """Which rows hold nothing that is not finite."""
    whole = np.ones(jax.tree.leaves(x)[0].shape[0], bool)
    for leaf in map(np.asarray, jax.tree.leaves(x)):
        if np.issubdtype(leaf.dtype, np.floating):
            whole &= np.isfinite(leaf).reshape(len(leaf), -1).all(1)
    return whole


def _probe_rows(x: Any, whole: np.ndarray, nonfinite_ok: bool) -> np.ndarray:
    """Indices of the rows to try, ascending, as many whatever the values: the first ones, and those of extreme values."""
    columns = []
    for leaf in map(np.asarray, jax.tree.leaves(x)):
        if np.issubdtype(leaf.dtype, np.number):
            flat = leaf.reshape(len(leaf), -1)
            columns += list(flat.T) if flat.shape[1] <= _WIDE else [flat.min(1), flat.max(1)]
    chosen = [np.flatnonzero(whole)[:_PROBES]]
    for column in columns:
        kept = np.flatnonzero(whole & np.isfinite(column))
        if kept.size:
            chosen += [kept[[np.argmin(column[kept])]], kept[[np.argmax(column[kept])]]]
        if nonfinite_ok:
            chosen += [np.flatnonzero(test(column))[:1] for test in (np.isnan, np.isposinf, np.isneginf)]
    rows = np.unique(np.concatenate(chosen))
    return np.sort(np.resize(rows, _PROBES + (5 if nonfinite_ok else 2) * len(columns))) if rows.size else rows


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr, those of the functions that it calls too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _equations_of(fn: Callable[..., Any], params: Params, units: Any, *values: Any) -> list[Any]:
    """All equations of the user's function at one unit, and one value of z."""
    one = [jax.tree.map(lambda leaf: leaf[..., 0], units), *(jax.tree.map(lambda leaf: leaf[0], v) for v in values)]
    return list(_equations(jax.make_jaxpr(traced_once(fn))(params, *one).jaxpr))


def _indexes(eqn: Any) -> bool:
    return eqn.primitive.name.startswith(_INDEXING)


def _says_what_to_do(eqn: Any) -> bool:
    """Whether an index outside means something: `mode="clip"`, or a value to give there."""
    if eqn.primitive.name != "gather":
        return False
    fill = eqn.params["fill_value"]
    filled = fill is not None and np.issubdtype(type(fill), np.floating) and not np.isnan(fill)
    return eqn.params["mode"] == jax.lax.GatherScatterMode.CLIP or filled


@functools.partial(jax.jit, static_argnums=0)
@precise
def _index_errors(fn: Callable[..., Any], params: Params, units: Any, *values: Any) -> Any:
    # Checked for one unit, and then mapped: checkify does not know what vmap makes of an index.
    checked = checkify.checkify(fn, errors=checkify.index_checks)
    call = jax.vmap(checked, (None, -1) + (None,) * len(values))
    return (jax.vmap(call, (None, None, 0)) if values else call)(params, units, *values)[0]


def _check_probe(who: str, name: str, node: Any, rows: np.ndarray, probes: Any, branches: bool, answer: Any) -> None:
    values, gradient, back = answer
    values = np.asarray(values).reshape(-1, rows.size)
    _check_place(who, node, back)
    bad = np.isnan(values).any(0)
    if bad.any():
        raise ValueError(
            f"{who}: {name} is NaN at the node's start, in row {rows[bad.argmax()]}{_hint(node, probes, int(bad.argmax()))}"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        if np.isfinite(np.asarray(leaf)).all():
            continue
        for sign, what in ((-1, "a start with positive density for every row"), (1, "a start where every density is finite")):
            bad = (values == sign * np.inf).any(0)
            if bad.any():
                raise ValueError(
                    f"{who}: the log density {name} is {sign * np.inf} in row {rows[bad.argmax()]} at the start: choose {what}"
                    f"{_hint(node, probes, int(bad.argmax()))}"
                )
        raise ValueError(
            f"{who}: the gradient of {name} with respect to parameter{jax.tree_util.keystr(path)} is not finite at the "
            f"node's start{_double_where(node) if branches or node.nonfinite_ok else ''}"
        )


def _chooses(eqn: Any) -> bool:
    """Whether an equation chooses between real numbers, as jnp.where does."""
    floats = any(jnp.issubdtype(var.aval.dtype, jnp.floating) for var in eqn.outvars)
    return floats and eqn.primitive.name in ("select_n", "cond")


def _double_where(node: Any) -> str:
    if not node.nonfinite_ok:
        return "; inside jnp.where keep the branch not taken finite too"
    return (
        "; where x is not finite put a harmless number in its place before computing with it, and choose afterwards: "
        "ok = jnp.isfinite(x); jnp.where(ok, f(jnp.where(ok, x, 0.0)), other)"
    )


def _hint(node: Any, probes: Any, index: int) -> str:
    """What a row that gives no number may have to do with it."""
    row = [np.asarray(leaf)[index] for leaf in jax.tree.leaves(probes)]
    if any(not np.isfinite(leaf).all() for leaf in row if np.issubdtype(leaf.dtype, np.floating)):
        return f", which is not finite{_double_where(node)}"
    if any((leaf == 0).any() for leaf in row):
        return (
            "; the row holds a 0, whose logarithm is -inf: write jax.scipy.special.xlogy(a, x) for a * jnp.log(x), or leave "
            "out rows that lie outside the support of the density"
        )
    return ""


def _check_place(who: str, node: Any, back: Any) -> None:
    """The start must lie in its supports."""
    if node.starter is not None:
        return
    starts, supports = jax.tree_util.tree_leaves_with_path(node.start), jax.tree.leaves(node.supports(node.start))
    for (path, value), there, support in zip(starts, jax.tree.leaves(back), supports, strict=True):
        where, value, there = f"start{jax.tree_util.keystr(path)}", np.asarray(value, float), np.asarray(there, float)
        if not np.isfinite(value).all():
            raise ValueError(f"{who}: {where} must be finite; got {value[~np.isfinite(value)][0]}")
        off = ~(np.abs(there - value) <= 1e-2 * np.abs(value) + 1e-6)
        if off.any():
            support = getattr(support, "support", support)
            raise ValueError(f"{who}: {where} holds {value[off][0]:.6g}, which lies outside {support}; choose a start inside")


def _check_total(who: str, name: str, log_total: np.ndarray) -> None:
    """Over all possible observations the probabilities at the start must sum to one."""
    off = np.abs(np.expm1(log_total)) > 1e-3
    if off.any():
        raise ValueError(
            f"{who}: the probabilities that {name} gives to all observations sum to {np.exp(log_total[off][0]):.6g} at the "
            "node's start; they must sum to one; look for a missing constant"
        )


@jax.jit
@precise
def _probe(node: Any, params: Params, units: Any) -> Any:
    """Log-densities with their gradient, and the parameters as their supports give them back."""
    values = node.infer(params, units)[1]
    total = lambda p: jnp.sum(jnp.where(jnp.isfinite(values), node.infer(p, units)[1], 0))  # noqa: E731
    slope = jax.grad(total)(params) if node.by_gradient else ()
    back = jax.tree.map(lambda support, p: support.constrain(support.unconstrain(p), p), node.supports(params), params)
    return values, slope, back


@jax.jit
@precise
def _log_total(node: Any, params: Params, units: Any) -> Array:
    return logsumexp(node.infer(params, units)[1], axis=-1)

"""Functions of one unit over many: `jax.vmap` with the unit axis kept last, where it is contiguous and sums vectorise.

`jax.vmap` moves the mapped axis to the front as soon as an operand without it meets one with it, and then every loop runs along
the short axes of one unit. Here elementwise operations, sums and reshapes keep it last; anything else goes through `jax.vmap`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
from jax import Array, lax

from jem.backend import precise

ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos cosh
    digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul
    ne neg nextafter not or polygamma pow regularized_incomplete_beta rem round rsqrt select_n sign sin sinh sqrt square
    stop_gradient sub tan tanh xor""".split()
)
REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin".split())


def over_units(fn: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """`jax.vmap(fn, in_axes, -1)` for axes that are -1 (units last) or None, computed with the units last throughout.

    Args:
        fn: a function of one unit.
        in_axes: -1 for arguments, trees of arrays, whose last axis is that of the units; None for the others.

    Returns:
        A function of many units, every output with the unit axis last.

    Example:
        >>> import jax.numpy as jnp
        >>> over_units(lambda scale, x: jnp.sum(scale * x), (None, -1))(jnp.array([1.0, 2.0]), jnp.ones((2, 3))).tolist()
        [3.0, 3.0, 3.0]
    """

    def mapped(*args: Any) -> Any:
        leaves, treedef = jax.tree.flatten(args)
        flags = [axis is not None for arg, axis in zip(args, in_axes, strict=True) for _ in jax.tree.leaves(arg)]
        num = next(leaf.shape[-1] for leaf, many in zip(leaves, flags, strict=True) if many)
        one = [
            jax.ShapeDtypeStruct(jnp.shape(leaf)[:-1] if many else jnp.shape(leaf), jnp.result_type(leaf))
            for leaf, many in zip(leaves, flags, strict=True)
        ]
        jaxpr, out = jax.make_jaxpr(fn, return_shape=True)(*treedef.unflatten(one))
        values = _evaluate(jaxpr, list(zip(leaves, flags, strict=True)), num)
        return jax.tree.structure(out).unflatten([v if many else spread(jnp.asarray(v), num) for v, many in values])

    return mapped


def spread(value: Any, num: int) -> Array:
    """The same value for all units, (..., num)."""
    value = jnp.asarray(value)
    return _spread(num, value) if jnp.issubdtype(value.dtype, jnp.inexact) else _repeat(num, value)


def _repeat(num: int, value: Array) -> Array:
    return jnp.broadcast_to(value[..., None], (*value.shape, num))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _spread(num: int, value: Array) -> Array:
    return _repeat(num, value)


@_spread.defjvp
@precise
def _spread_jvp(num: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Transposed this is a product with ones: sums over a last axis are not vectorised on a CPU.
    tangent = jnp.reshape(tangents[0], (-1, 1)) @ jnp.ones((1, num), primals[0].dtype)
    return _spread(num, primals[0]), jnp.reshape(tangent, (*primals[0].shape, num))


def is_literal(atom: Any) -> bool:
    """Whether an operand of a jaxpr is a constant written into it."""
    return isinstance(atom, jex.core.Literal)


Value = tuple[Any, bool]  # and whether it has the unit axis


def _evaluate(closed: Any, args: list[Value], num: int) -> list[Value]:
    """The outputs of a closed jaxpr of one unit for many."""
    known: dict[Any, Value] = dict(zip(closed.jaxpr.invars, args, strict=True))
    known.update({var: (value, False) for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True)})

    def read(atom: Any) -> Value:
        return (jnp.asarray(atom.val, atom.aval.dtype), False) if is_literal(atom) else known[atom]

    for eqn in closed.jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in ("jit", "pjit"):
            outputs = _evaluate(eqn.params["jaxpr"], inputs, num)
        elif any(many for _, many in inputs):
            outputs = [(value, True) for value in _many(closed, eqn, inputs, num)]
        else:
            outputs = [(value, False) for value in alone(closed, eqn)(*(value for value, _ in inputs))]
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _many(closed: Any, eqn: Any, inputs: list[Value], num: int) -> list[Any]:
    """One operation, some inputs of which have the unit axis."""
    name, params, values = eqn.primitive.name, eqn.params, [value for value, _ in inputs]
    aval = eqn.outvars[0].aval
    if name in ELEMENTWISE:
        if name == "div" and not inputs[1][1] and jnp.issubdtype(aval.dtype, jnp.inexact):
            return [_aligned(inputs[0], aval.shape, num) * _aligned((1 / values[1], False), aval.shape, num)]
        return [eqn.primitive.bind(*(_aligned(value, aval.shape, num) for value in inputs), **params)]
    if name in REDUCTIONS:
        return [eqn.primitive.bind(*values, **params)]
    if name == "broadcast_in_dim" and len(values) == 1:
        return [lax.broadcast_in_dim(values[0], (*aval.shape, num), (*params["broadcast_dimensions"], len(aval.shape)))]
    if name == "reshape" and params["dimensions"] is None:
        return [lax.reshape(values[0], (*aval.shape, num))]
    if name == "squeeze":
        return [lax.squeeze(values[0], params["dimensions"])]
    if name == "dot_general" and _matrix_times_vector(eqn, inputs):
        (left, right), _ = params["dimension_numbers"]
        contract = (right, left) if inputs[0][1] else (left, right)
        first, second = values[::-1] if inputs[0][1] else values
        return [
            lax.dot_general(
                first, second, (contract, ((), ())), params["precision"], params["preferred_element_type"],
            )
        ]  # fmt: skip
    return jax.vmap(alone(closed, eqn), [-1 if many else None for _, many in inputs], -1)(*values)


def _matrix_times_vector(eqn: Any, inputs: list[Value]) -> bool:
    """Whether what has the unit axis comes last in the result: a vector, or the right factor, times what has none."""
    (left, right), batch = eqn.params["dimension_numbers"]
    if any(batch) or all(many for _, many in inputs):
        return False
    return inputs[1][1] or len(eqn.invars[0].aval.shape) == len(left)


def _aligned(value: Value, shape: tuple[int, ...], num: int) -> Array:
    """An operand of an elementwise operation with all the axes of its result, the unit axis last."""
    array, many = value
    full = array if many else spread(array, num)
    return jnp.broadcast_to(jnp.reshape(full, (1,) * (len(shape) + 1 - full.ndim) + full.shape), (*shape, num))


def alone(closed: Any, eqn: Any) -> Callable[..., list[Any]]:
    """One operation of a jaxpr as a function of its inputs; what nobody asks for comes back as None."""
    places = [i for i, atom in enumerate(eqn.invars) if not is_literal(atom)]
    wanted = [i for i, var in enumerate(eqn.outvars) if not isinstance(var, jex.core.DropVar)]
    one = closed.jaxpr.replace(
        constvars=[], invars=[eqn.invars[i] for i in places], outvars=[eqn.outvars[i] for i in wanted], eqns=[eqn],
        effects=eqn.effects, debug_info=closed.jaxpr.debug_info.with_unknown_names(),
    )  # fmt: skip
    call = jex.core.jaxpr_as_fun(closed.replace(jaxpr=one, consts=[]))

    def run(*values: Any) -> list[Any]:
        outputs = dict(zip(wanted, call(*(values[i] for i in places)), strict=True))
        return [outputs.get(i) for i in range(len(eqn.outvars))]

    return run

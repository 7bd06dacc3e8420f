"""Functions that factorise matrices, made fit for `vmap`: on a CPU two batched LAPACK calls can wait for each other for ever.

`without_batches(fn)` is fn with its LAPACK calls replaced: Cholesky and triangular solves by plain operations, all others by
calls that `vmap` makes one after the other. So it is for derivatives of any order, and under any number of `vmap`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import sequential_vmap

from jem import backend
from jem.backend import precise
from jem.kernels.linalg import cholesky, inverse_lower
from jem.kernels.unit_axis import alone, is_literal

CALLS = frozenset("cholesky triangular_solve lu qr geqrf geqp3 householder_product eigh eig svd schur hessenberg".split())
_TRANSPARENT = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


def without_batches(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; its LAPACK calls can be batched, where it makes any and the backend is a CPU.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> two = jnp.stack([jnp.eye(2), 4 * jnp.eye(2)])
        >>> [round(float(v), 4) for v in jax.vmap(without_batches(lambda a: jnp.linalg.slogdet(a)[1]))(two)]
        [0.0, 2.7726]
    """

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        if backend.accelerated():
            return fn(*args)
        closed, out = jax.make_jaxpr(fn, return_shape=True)(*args)
        if not _factorises(closed):
            return fn(*args)
        return jax.tree.structure(out).unflatten(_evaluate(closed, jax.tree.leaves(args)))

    return call


def _inner(value: Any) -> list[Any]:
    """The closed jaxprs in a parameter of an operation."""
    return [leaf for leaf in jax.tree.leaves(value) if isinstance(leaf, jex.core.ClosedJaxpr)]


def _factorises(closed: Any) -> bool:
    return any(
        eqn.primitive.name in CALLS or any(map(_factorises, _inner(list(eqn.params.values())))) for eqn in closed.jaxpr.eqns
    )


def _evaluate(closed: Any, args: list[Any]) -> list[Any]:
    """The outputs of a closed jaxpr, LAPACK calls replaced."""
    known = dict(zip(closed.jaxpr.invars, args, strict=True))
    known.update(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    read = lambda atom: jnp.asarray(atom.val, atom.aval.dtype) if is_literal(atom) else known[atom]
    for eqn in closed.jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        inner = _inner(list(eqn.params.values()))
        if eqn.primitive.name in CALLS:
            outputs = _batched(_replacement(eqn), eqn, values)
        elif not any(map(_factorises, inner)):
            outputs = alone(closed, eqn)(*values)
        elif eqn.primitive.name in _TRANSPARENT:
            # A derivative rule of its own would factorise too.
            outputs = _evaluate(inner[0], values)
        else:
            eqn = eqn.replace(params={name: _replaced(value) for name, value in eqn.params.items()})
            outputs = alone(closed, eqn)(*values)
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _replaced(value: Any) -> Any:
    """A parameter of a loop, a branch or a linear solve, with the jaxprs in it replaced."""
    if not any(map(_factorises, _inner(value))):
        return value

    def leaf(closed: Any) -> Any:
        if not isinstance(closed, jex.core.ClosedJaxpr):
            return closed
        avals = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in closed.in_avals]
        return jax.make_jaxpr(lambda *args: _evaluate(closed, list(args)))(*avals)

    return jax.tree.map(leaf, value)


def _batched(fn: Callable[..., tuple[Array, ...]], eqn: Any, values: list[Array]) -> tuple[Array, ...]:
    """One matrix at a time, where the function itself has many."""
    for _ in range(values[0].ndim - 2):
        fn = jax.vmap(fn)
    return fn(*values)


def _replacement(eqn: Any) -> Callable[..., tuple[Array, ...]]:
    """The same operation on one matrix."""
    params = eqn.params
    if jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating):
        if eqn.primitive.name == "cholesky":
            return lambda a: (cholesky(a),)
        if eqn.primitive.name == "triangular_solve":
            return lambda a, b: (_triangular_solve(a, b, **params),)
    return _in_turn(eqn.primitive, tuple(params.items()))


def _triangular_solve(
    a: Array, b: Array, *, left_side: bool, lower: bool, transpose_a: bool, unit_diagonal: bool, **_: Any
) -> Array:
    """`op(a)^{-1} b`, or `b op(a)^{-1}`."""
    if not left_side:
        options = dict(lower=lower, transpose_a=not transpose_a, unit_diagonal=unit_diagonal)
        return _triangular_solve(a, b.T, left_side=True, **options).T
    if unit_diagonal:
        eye = jnp.eye(a.shape[0], dtype=a.dtype)
        a = a * (1 - eye) + eye
    a = a.T if transpose_a else a
    if lower != transpose_a:
        return inverse_lower(a) @ b
    return inverse_lower(a.T).T @ b


def _in_turn(primitive: Any, params: tuple[tuple[str, Any], ...]) -> Callable[..., tuple[Array, ...]]:
    """A LAPACK call that `vmap` makes for one matrix after the other; its derivative, JAX's own, likewise."""

    def bind(*args: Array) -> tuple[Array, ...]:
        out = primitive.bind(*args, **dict(params))
        return tuple(out) if primitive.multiple_results else (out,)

    @jax.custom_jvp
    def call(*args: Array) -> tuple[Array, ...]:
        return sequential_vmap(bind)(*args)

    @call.defjvp
    @precise
    def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
        outputs = call(*primals)
        smooth = [jnp.issubdtype(out.dtype, jnp.inexact) for out in outputs]

        def push(primals: Any, tangents: Any) -> list[Array]:
            return [t for t, s in zip(jax.jvp(bind, primals, tangents)[1], smooth, strict=True) if s]

        pushed = iter(_evaluate(jax.make_jaxpr(push)(primals, tangents), [*primals, *tangents]))
        pairs = zip(outputs, smooth, strict=True)
        return outputs, tuple(next(pushed) if s else np.zeros(out.shape, jax.dtypes.float0) for out, s in pairs)

    return call

"""Eigenvalues, singular vectors and least squares of one matrix at a time: under vmap they run in turn.

Batched LAPACK calls on a CPU can wait for each other for ever.
"""

import jax.numpy as jnp
from jax import Array
from jax.custom_batching import sequential_vmap


@sequential_vmap
def eigh(a: Array) -> tuple[Array, Array]:
    """Eigenvalues (n,), rising, and eigenvectors (n, n) in columns of a symmetric matrix; NaN where it holds one."""
    values, vectors = jnp.linalg.eigh(a)
    return values, vectors


@sequential_vmap
def right_singular(a: Array) -> tuple[Array, Array]:
    """Singular values (n,), falling, and right singular vectors (n, n) in columns, of a (m, n) matrix, m >= n."""
    _, size, vt = jnp.linalg.svd(a, full_matrices=False)
    return size, vt.T


@sequential_vmap
def least_squares(a: Array, b: Array) -> Array:
    """The shortest x (n,) that makes `|a x - b|` smallest; a (m, n), b (m,)."""
    return jnp.linalg.lstsq(a, b)[0]

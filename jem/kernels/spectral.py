"""Eigenvalues and singular vectors of one matrix at a time: under vmap they run in turn, as batched LAPACK can deadlock."""

import jax
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
    return size, jax.numpy.swapaxes(vt, 0, 1)

"""The stationary distribution of a Markov chain."""

import jax.numpy as jnp
from jax import Array


def stationary(transition: Array) -> Array:
    """The distribution `pi` (K,) with `pi A = pi`, of an irreducible chain.

    States are taken out one by one, and what went through them is added to the others; nothing is subtracted, so that each
    entry is as precise as the entries of A, and it can be differentiated.

    Args:
        transition: A (K, K), rows sum to one.

    Returns:
        (K,) probabilities; not finite where some state never leads to another.

    Example:
        >>> import jax.numpy as jnp
        >>> (3 * stationary(jnp.array([[0.5, 0.5], [0.25, 0.75]]))).round(2).tolist()
        [1.0, 2.0]

    Source: Grassmann, Taksar and Heyman (1985), Operations Research 33.
    """
    size = transition.shape[0]
    rest, into = transition, []
    for n in range(size - 1, 0, -1):
        row, column = rest[n, :n], rest[:n, n] / jnp.sum(rest[n, :n])
        into.append(column)
        rest = rest[:n, :n] + column[:, None] * row[None, :]
    pi = jnp.ones(1, transition.dtype)
    for column in reversed(into):
        pi = jnp.append(pi, jnp.sum(pi * column))
    return pi / jnp.sum(pi)

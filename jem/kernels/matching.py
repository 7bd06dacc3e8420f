"""Minimum-cost matching of rows with columns."""

import jax.numpy as jnp
from jax import Array, lax


def match(cost: Array) -> Array:
    """The columns (n,) matched with rows 0 .. n - 1 such that `sum_i cost[i, match[i]]` is smallest.

    Shortest augmenting paths with potentials, O(n^3), in plain operations that batch under vmap.

    Args:
        cost: (n, n), finite.

    Returns:
        (n,) int, a permutation.

    Source: Kuhn (1955), Munkres (1957); the form with potentials: Jonker and Volgenant (1987), Computing 38.
    """
    n = cost.shape[0]
    a = jnp.pad(cost, ((1, 0), (1, 0)))  # row and column 0 stand for "none"
    far = jnp.array(jnp.inf, cost.dtype)

    def add_row(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        u, v, row_of = carry
        row_of = row_of.at[0].set(i)

        def grow(s: tuple[Array, ...]) -> tuple[Array, ...]:
            j0, u, v, least, way, used = s
            used = used.at[j0].set(True)
            i0 = row_of[j0]
            reduced = a[i0] - u[i0] - v
            closer = ~used & (reduced < least)
            least, way = jnp.where(closer, reduced, least), jnp.where(closer, j0, way)
            open_ = jnp.where(used, far, least)
            j1 = jnp.argmin(open_)
            delta = open_[j1]
            u = u.at[row_of].add(jnp.where(used, delta, 0))
            v = jnp.where(used, v - delta, v)
            return j1, u, v, jnp.where(used, least, least - delta), way, used

        none = jnp.arange(n + 1) == 0
        start = (jnp.array(0), u, v, jnp.where(none, far, jnp.full(n + 1, far)), jnp.zeros(n + 1, int), none & False)
        j0, u, v, _, way, _ = lax.while_loop(lambda s: row_of[s[0]] != 0, grow, start)

        def back(s: tuple[Array, Array]) -> tuple[Array, Array]:
            j0, row_of = s
            return way[j0], row_of.at[j0].set(row_of[way[j0]])

        _, row_of = lax.while_loop(lambda s: s[0] != 0, back, (j0, row_of))
        return u, v, row_of

    zeros = jnp.zeros(n + 1, cost.dtype)
    _, _, row_of = lax.fori_loop(1, n + 1, add_row, (zeros, zeros, jnp.zeros(n + 1, int)))
    return jnp.zeros(n, int).at[row_of[1:] - 1].set(jnp.arange(n))

"""Tables of how long a stay lasts: log-probabilities of d = 1 .. D steps, the last one of D steps *or more*.

Of counts x = d - 1 of the steps after the first. States (K,) first.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem.kernels.simplex import safe_log


def log_poisson(rate: Array, longest: int) -> Array:
    """`x log rate - rate - log x!`, (K, D), from rates (K,)."""
    x = jnp.arange(longest, dtype=rate.dtype)[None]
    factorials = jnp.asarray(np.cumsum([0.0, *np.log(np.arange(1.0, longest))])[None], rate.dtype)
    return _with_tail(_times_log(x, rate) - rate[:, None] - factorials, rate, jnp.zeros_like(rate), rate)


def log_negative_binomial(mean: Array, size: Array, longest: int) -> Array:
    """`log Gamma(x + r) / (Gamma(r) x!) + r log(r / (r + m)) + x log(m / (r + m))`, (K, D), from means m and sizes r (K,)."""
    x = jnp.arange(longest, dtype=mean.dtype)[None]
    chance = mean / (size + mean)
    # Ratios of neighbours, as Gamma functions would cancel at large sizes.
    ratios = jnp.log1p((size[:, None] - 1) / x[:, 1:])
    rising = jnp.pad(jnp.cumsum(ratios, 1), ((0, 0), (1, 0)))
    table = rising - (size * jnp.log1p(mean / size))[:, None] + _times_log(x, chance)
    return _with_tail(table, mean, chance, size * chance)


def _times_log(x: Array, p: Array) -> Array:
    """`x log p`, (K, D), of x (1, D) and p (K,), by one logarithm: x / p would overflow at next to nothing."""
    return jnp.where(x > 0, x * safe_log(p)[:, None], 0)


def _with_tail(table: Array, mean: Array, a: Array, b: Array) -> Array:
    """The table (K, D) with the probability of D - 1 *or more* in its last column.

    `P(x >= n) = p(n) / f` with the continued fraction f of the incomplete beta function, where that is little, and the
    complement of what the table holds where it is much.

    Args:
        table: log-probabilities of 0 .. n, n = D - 1.
        mean: (K,).
        a: (K,) of the negative binomial law m / (r + m), of the Poisson law 0.
        b: (K,) of the negative binomial law r m / (r + m), of the Poisson law its rate.

    Source: Press et al. (2007), Numerical Recipes, section 6.4; its limit of many small chances is that of the Poisson law.
    """
    n = table.shape[1] - 1
    if n == 0:
        return jnp.zeros_like(table)
    within = jnp.sum(jnp.exp(table[:, :-1]), 1)
    few = 0.03 if table.dtype == jnp.float32 else 1e-6  # where the complement has half of its digits
    above = (1 - within < few) & (n > mean)
    a, b = jnp.where(above, a, 0), jnp.where(above, b, 0.5 * n)
    far = table[:, -1] - jnp.log(_fraction(n, a, b))
    near = jnp.log1p(-jnp.where(above, 0.0, jnp.minimum(within, 1 - jnp.finfo(table.dtype).eps)))
    return jnp.concatenate([table[:, :-1], jnp.where(above, far, near)[:, None]], 1)


def _fraction(n: int, a: Array, b: Array) -> Array:
    """`1 + c_1 / (1 + c_2 / (1 + ..))`, with enough terms for any mean below n."""
    m = np.arange(1, 33 + 4 * math.isqrt(n), dtype=float)
    even = np.stack([-m * m, m]) / ((n + 2 * m - 1) * (n + 2 * m))
    m = m - 1
    odd = -np.stack([(n + m) ** 2, n + m]) / ((n + 2 * m) * (n + 2 * m + 1))
    both = jnp.asarray(np.stack([odd, even], -1).reshape(2, -1)[:, ::-1], a.dtype)  # odd before even, the last first

    def outward(f: Array, c: Array) -> tuple[Array, None]:
        return 1 + (c[0] * a + c[1] * b) / f, None

    return lax.scan(outward, jnp.ones_like(a), both.T)[0]


def score(log_table: Array, counts: Array) -> Array:
    """`sum counts log p` of every state, (K,); a cell without a count may be impossible."""
    return jnp.sum(jnp.where(counts > 0, counts * jnp.where(counts > 0, log_table, 0), 0), 1)


def slope(fn: object, z: Array) -> Array:
    """The derivative of an elementwise function of z (K,)."""
    return jax.grad(lambda z: jnp.sum(fn(z)))(z)  # type: ignore[operator]

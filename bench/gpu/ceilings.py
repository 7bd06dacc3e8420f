"""What the device can do at best: products, a copy, exponentials; and how exact its products are where jem makes them."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jem.backend import precise

DTYPES = ("float32", "float64")
SIDE = 8192  # of the matrices that are multiplied
NUMBERS = 2**28  # that are copied, or of which exponentials are taken
TERMS = 64  # of a product that is looked at
MOST_OFF = 8.0  # roundings by which it may be off, relative to the sum of the sizes: their root. TF32 makes it hundreds


class Ceilings(NamedTuple):
    """Operations a second of a square product and exponentials a second, by dtype; bytes a second of a copy, both ways."""

    product: Mapping[str, float]
    exp: Mapping[str, float]
    copy: float
    off: Mapping[str, float]

    @property
    def right(self) -> bool:
        """Whether products are made at the precision of their numbers."""
        return all(off <= MOST_OFF for off in self.off.values())

    def rows(self) -> list[list[str]]:
        """For a table."""
        rows = [["ceiling", *DTYPES]]
        rows.append(["product, 1e12 operations / s", *(f"{self.product[d] / 1e12:.3g}" for d in DTYPES)])
        rows.append(["exponentials, 1e9 / s", *(f"{self.exp[d] / 1e9:.3g}" for d in DTYPES)])
        rows.append(["copy, GB / s (read and written)", f"{self.copy / 1e9:.4g}", ""])
        rows.append([f"error of a product, in roundings (at most {MOST_OFF:g})", *(f"{self.off[d]:.2g}" for d in DTYPES)])
        return rows


def best(fn: Callable[[Any], Any], x: Any, rounds: int = 5) -> float:
    """The least seconds of a call, the first one apart."""
    run = jax.jit(precise(fn))
    run(x).block_until_ready()
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run(x).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def off(dtype: str) -> float:
    """The largest error of a product as jem makes it, in roundings of the sum of the sizes of its terms."""
    a = np.random.default_rng(0).standard_normal((1024, TERMS)).astype(dtype)
    found = np.asarray(jax.jit(precise(lambda a: a @ a.T))(jnp.asarray(a)), np.longdouble)
    wide = a.astype(np.longdouble)
    return float(np.max(np.abs(found - wide @ wide.T) / (np.abs(wide) @ np.abs(wide).T)) / np.finfo(dtype).eps)


def measure(scale: float) -> Ceilings:
    """All of them, at a share of the size."""
    side, numbers = max(256, int(SIDE * scale**0.5)), int(NUMBERS * scale)
    product, exp, wrong, copy = {}, {}, {}, 0.0
    for dtype in DTYPES:
        with jax.enable_x64(dtype == "float64"):
            a = jax.random.normal(jax.random.key(0), (side, side), dtype)
            product[dtype] = 2 * side**3 / best(lambda a: a @ a, a)
            x = jnp.linspace(-5, 0, numbers, dtype=dtype)
            exp[dtype] = numbers / best(jnp.exp, x)
            if dtype == "float32":
                copy = 2 * x.nbytes / best(lambda x: x + 1, x)
            wrong[dtype] = off(dtype)
            del a, x
    return Ceilings(product, exp, copy, wrong)

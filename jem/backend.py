"""What a program should know of the device it is for: whether it is an accelerator, its memory, how it makes products.

What accelerators are like is reasoned, not measured: bench/README.md.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
T = TypeVar("T")

_CACHE = 2**19  # bytes: half a core's L2 cache
_UNKNOWN = 2**28  # of an accelerator that does not say what memory it has
_SHARE = 16  # of an accelerator's memory: an E-step has a few intermediates as large as its largest, and the data lie beside


def accelerated() -> bool:
    """Whether programs are for a GPU or a TPU: there every step in turn is a kernel to launch, and lanes cost little."""
    return jax.default_backend() != "cpu"


def room() -> int:
    """Bytes that one intermediate should take at most: those of a core's cache, or a share of an accelerator's memory."""
    if not accelerated():
        return _CACHE
    stats = jax.local_devices()[0].memory_stats() or {}
    return max(stats.get("bytes_limit", 0) // _SHARE, _UNKNOWN)


def precise(fn: Callable[P, T]) -> Callable[P, T]:
    """The function with matrix products at the full precision of their numbers, unless `jax_default_matmul_precision` is set.

    By default some accelerators round what is multiplied, float32 to ten bits or fewer, which neither the moments of an M-step
    nor an objective that must not fall survive. On a CPU it changes nothing. Whatever JAX traces at another time, such as a
    derivative's own rule, is to be made precise by itself.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> a = jnp.ones((2, 2), jnp.float32)
        >>> "HIGHEST" in str(jax.make_jaxpr(precise(lambda a: a @ a))(a))
        True
    """

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        said = jax.config.jax_default_matmul_precision is not None  # pyright: ignore[reportAttributeAccessIssue]
        with contextlib.nullcontext() if said else jax.default_matmul_precision("highest"):
            return fn(*args, **kwargs)

    return run

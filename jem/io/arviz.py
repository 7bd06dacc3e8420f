"""Draws as ArviZ takes them: `import jem.io.arviz`, with `pip install 'jem[arviz]'`; nothing else of jem imports it."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jem.ask.bootstrap import Bootstrap
from jem.settings import describe

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # that ArviZ is being split into several
    import arviz


def to_arviz(draws: Any, *, latents: Any = None, dims: Mapping[str, list[str]] | None = None, **options: Any) -> Any:
    """Draws as ArviZ has them, for its summaries, intervals and plots: the replicates of a bootstrap, or a posterior's draws.

    Each array of the parameters is a variable by its name, `components.mean`, with dimensions (chain, draw, ...). What a
    bootstrap draws are estimates, one chain of independent replicates; those that did not converge are left out. Draws of what
    is hidden, as `jax.vmap(lambda key: jem.sample_posterior(model, key, params, x))(keys)`, are `latents`.

    Args:
        draws: of `jem.bootstrap`; or a tree of arrays (draws, ...) alike, or None where there are latents alone.
        latents: a tree of arrays (draws, ...), as many.
        dims: for variables names of their dimensions after draw, as ArviZ takes them.
        **options: passed on to `arviz.from_dict`, as `coords`.

    Returns:
        ArviZ's `InferenceData`, with the group `posterior`.

    Raises:
        TypeError: no draws; an array without the axis of the draws.
        ValueError: arrays of several numbers of draws; a bootstrap in which no replicate converged.

    Example:
        >>> import jax, jem, jax.numpy as jnp
        >>> from jem.io.arviz import to_arviz
        >>> p = jem.Poisson.Params(jnp.array([2.5]))
        >>> found = jem.bootstrap(jem.Poisson(), jax.random.key(0), p, [[1], [4], [2], [3]], num_replicates=50)
        >>> to_arviz(found, dims={"rate": ["column"]}).posterior["rate"].dims
        ('chain', 'draw', 'column')

    Source: Kumar et al. (2019), J. Open Source Software 4(33), 1143.
    """
    return arviz.from_dict(arrays_of(draws, latents), dims=dict(dims or {}), **options)


def arrays_of(draws: Any, latents: Any = None) -> dict[str, np.ndarray]:
    """Every array of the draws by its name, (1, draws, ...): what `arviz.from_dict` takes as a posterior."""
    if isinstance(draws, Bootstrap):
        kept = np.asarray(draws.ok)
        if not kept.any():
            raise ValueError("to_arviz: draws: no replicate of the bootstrap converged; raise max_steps, or look at its status")
        draws = jax.tree.map(lambda leaf: np.asarray(leaf)[kept], draws.params)
    found = {**_named(draws, "draws"), **_named(latents, "latents")}
    if not found:
        raise TypeError(f"to_arviz: draws: expected a jem.bootstrap, or a tree of arrays (draws, ...); got {describe(draws)}")
    sizes = {name: len(array) for name, array in found.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"to_arviz: expected as many draws of each; got {sizes}")
    return {name: array[None] for name, array in found.items()}


def _named(tree: Any, otherwise: str) -> dict[str, np.ndarray]:
    """The leaves that hold something by their places, as `components.mean`; a tree that is one array by `otherwise`."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or otherwise
        array = np.asarray(leaf)
        if array.ndim == 0 or array.dtype.kind not in "biuf":
            raise TypeError(f"to_arviz: {name}: expected an array of numbers (draws, ...); got {describe(leaf)}")
        if array.size:
            found[name] = array
    return found

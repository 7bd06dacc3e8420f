"""The bootstrap as one program over replicates: standard errors and intervals."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem import backend, checks
from jem.ask.align import align, labelled_part, memberships
from jem.ask.asking import asked
from jem.ask.resample import Weights
from jem.ask.units import check_units, num_counted
from jem.backend import precise
from jem.data import row_weights, to_units, used_rows
from jem.doors.cores import by_keys, cores_in_use
from jem.doors.fit import fit
from jem.doors.progress import Meter, meter_of
from jem.engine.result import Status
from jem.engine.solvers.accelerate import Anderson
from jem.engine.stop import Remaining
from jem.node import Data, Node, Params
from jem.settings import check_level

_PIECES, _LEAST = 50, 8  # of the replicates, between which a `progress` is told: so many pieces, of so many at least


class Bootstrap(NamedTuple):
    """Refitted replicates; every field has a leading axis B.

    Attributes:
        params: parameters, components in the order of the fit.
        status: (B,) int codes of `jem.Status`.
        objective: (B,) of each replicate on its own data.
        num_steps: (B,) EM steps taken.
    """

    params: Any
    status: Array
    objective: Array
    num_steps: Array

    @property
    def ok(self) -> Array:
        """(B,) bool: replicates that converged. The others are left out of what follows."""
        return self.status == Status.CONVERGED

    def standard_errors(self) -> Any:
        """Standard deviations over the replicates that converged, a tree like the parameters."""
        return jax.tree.map(lambda leaf: jnp.nanstd(self._kept(leaf), 0, ddof=1), self.params)

    def interval(self, level: float = 0.95) -> tuple[Any, Any]:
        """Percentile intervals: both ends, as trees like the parameters. `level` is between 0 and 1."""
        check_level(level, "interval: level")
        tail = 0.5 - 0.5 * level
        low = jax.tree.map(lambda leaf: jnp.nanquantile(self._kept(leaf), tail, 0), self.params)
        return low, jax.tree.map(lambda leaf: jnp.nanquantile(self._kept(leaf), 1 - tail, 0), self.params)

    def _kept(self, leaf: Array) -> Array:
        return jnp.where(self.ok.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf, jnp.nan)


def bootstrap(
    node: Node,
    key: Array,
    params: Params,
    x: Data,
    weights: Array | None = None,
    *,
    num_replicates: int,
    replicates: Any = Weights(),  # noqa: B008
    solver: Any = Anderson(),  # noqa: B008
    stop: Any = Remaining(),  # noqa: B008
    max_steps: int = 1000,
    batch_size: int | None = None,
    progress: Any = None,
) -> Bootstrap:
    """Fits a model to many replicates of its data, all in one program, each from the parameters of the fit.

    `params_b = argmax sum_n w_bn log p(x_n | params) + log p(params)`, w_b the weights (or x_n the rows) of replicate b.
    Components of a mixture or states of a chain come back in the order of the fit: those are matched (optimally) that share
    most members on the data as they are. Labels inside components are left alone.

    Args:
        node: the model.
        key: a typed PRNG key; replicate b uses `jax.random.split(key, num_replicates)[b]`.
        params: the fit's parameters.
        x: data with N rows.
        weights: (N,) or None.
        num_replicates: B.
        replicates: how they are made, one of `jem.uncertainty.resample`: `Weights()`, `Rows()` or `FromModel()`.
        solver: as for `fit`.
        stop: as for `fit`.
        max_steps: as for `fit`.
        batch_size: replicates advanced together (memory and speed, never the answer); None chooses by backend.
        progress: as for `fit`; after Ctrl-C the replicates that were not fitted stand at `params`, as MAX_STEPS.

    Returns:
        A `Bootstrap`.

    Raises:
        ValueError: data, weights or parameters that do not fit the model; rows or weights to be drawn of a single row, as one
            sequence (inside jit, where weights cannot be looked at, every status is NONFINITE).

    Example:
        >>> import jax, jem, jax.numpy as jnp
        >>> p = jem.Poisson.Params(jnp.array([2.5]))
        >>> found = jem.bootstrap(jem.Poisson(), jax.random.key(0), p, [[1], [4], [2], [3]], num_replicates=50)
        >>> found.params.rate.shape
        (50, 1)

    Source: Efron (1979), Ann. Statist. 7; Rubin (1981), Ann. Statist. 9, for the weights.
    """
    checks.check_key(key)
    checks.check_positive_int(num_replicates, "num_replicates")
    params, x, weights = asked(node, params, x, weights)
    if getattr(replicates, "by_units", False):
        check_units(type(replicates).__name__, x, weights, "replicates=jem.uncertainty.resample.FromModel()")
    if batch_size is None:  # together all wait for the slowest, which pays on an accelerator only
        each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(x))
        batch_size = min(num_replicates, max(1, backend.room() // max(each, 1))) if backend.accelerated() else 1
    checks.check_positive_int(batch_size, "batch_size")
    keys = jax.random.split(key, num_replicates)
    arguments = node, params, x, weights, replicates, solver, stop
    run = functools.partial(by_keys, _bootstrap, arguments=arguments, max_steps=max_steps, together=batch_size)
    meter = meter_of(progress, "bootstrap", (keys, params, x, weights))
    return run(keys) if meter is None else _in_pieces(run, meter, keys, params, batch_size)


def _in_pieces(run: Callable[[Array], Bootstrap], meter: Meter, keys: Array, params: Params, together: int) -> Bootstrap:
    """Some replicates at a time, of one size for one program; those that an interrupt leaves out stand at the fit."""
    num = len(keys)
    size = min(num, max(_LEAST, -(-num // _PIECES), together, 4 * len(cores_in_use((keys, params)))))
    meter.num_lanes, pieces = num, []
    doing = meter.doing("bootstrap")
    try:
        with doing:
            for begin in range(0, num, size):
                pieces.append(jax.block_until_ready(run(keys[np.arange(begin, begin + size) % num])))
                done = min(begin + size, num)
                doing.tell(done, np.nan, num - done)
    except KeyboardInterrupt:
        if not pieces:
            raise
        meter.interrupted = True
    left = num - size * len(pieces)
    if left > 0:
        many = lambda leaf: jnp.broadcast_to(leaf, (left, *jnp.shape(leaf)))
        same = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), params, pieces[0].params)
        never = jnp.full(left, -jnp.inf, pieces[0].objective.dtype)
        steps = jnp.zeros(left, pieces[0].num_steps.dtype)
        pieces.append(Bootstrap(jax.tree.map(many, same), jnp.full(left, Status.MAX_STEPS, jnp.int32), never, steps))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:num], *pieces)


@functools.partial(jax.jit, static_argnames=("max_steps", "together"))
@precise
def _bootstrap(
    keys: Array, model: Node, params: Params, x: Data, weights: Array | None, replicates: Any, solver: Any, stop: Any,
    *, max_steps: int, together: int,
) -> Bootstrap:  # fmt: skip
    units, w = to_units(used_rows(x, weights)), row_weights(x, weights)
    bound = model.bind(units, w)
    alone = (num_counted(w) < 2) & jnp.array(getattr(replicates, "by_units", False))
    reference = None if labelled_part(model) is None else memberships(bound, params, units, w)

    def one(key: Array) -> Bootstrap:
        new_x, new_weights = replicates.draw(key, bound, params, x, weights)
        found = fit(model, params, new_x, weights=new_weights, solver=solver, stop=stop, max_steps=max_steps)
        aligned = found.params if reference is None else align(bound, found.params, reference, units, w)
        return Bootstrap(aligned, jnp.where(alone, Status.NONFINITE, found.status), found.objective, found.num_steps)

    return lax.map(one, keys, batch_size=together if together > 1 else None)

"""Any differentiable log-density as a node: the user writes it for one unit, gradients do the rest."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jem import tree
from jem.data import to_rows
from jem.families import user
from jem.kernels.seeding import climb, draw_units
from jem.kernels.support import ByGradient, Real, Support
from jem.kernels.unit_axis import over_units
from jem.node import LOCAL, MISSING, Data, Node, Params, Posterior, node, replaced, set_once, static


class GradientStats(NamedTuple):
    """The expected log-density at the parameters where it was gathered, and its gradient there."""

    value: Array
    gradient: Params


class UnitStats(NamedTuple):
    """The units of one chunk with their weights: the expected log-density at any parameters."""

    posterior: Posterior
    x: Data
    weights: Array


class Differentiable(Node):
    """A node that is known by its expected log-density alone: statistics, Q and start are derived from that.

    Write `infer` and `expected`. Subclasses have the fields of `Density`.
    """

    start: Params
    starter: Callable[..., Any] | None
    spread: Any
    where: tuple[tuple[Support, ...], Any]
    prior: Callable[..., Array] | None
    describe: Callable[..., Array] | None
    units: bool
    nonfinite_ok: bool

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({LOCAL, MISSING} if self.nonfinite_ok else {LOCAL})

    @property
    def by_gradient(self) -> bool:
        """Whether gradient steps move the parameters."""
        return True

    def must_be_finite(self, x: Data) -> Data:
        return () if self.nonfinite_ok else x

    def expected(self, params: Params, posterior: Posterior, x: Data) -> Array:
        """`E_q[log p(x, z | params)]` of every unit, (..., N); the posterior is held."""
        raise TypeError(f"{type(self).__name__} does not define expected")

    def keep_units(self) -> Node:
        return replaced(self, units=True)

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> GradientStats | UnitStats:
        kept = UnitStats(posterior, x, weights)
        return kept if self.units else GradientStats(self.value(params, kept), jax.grad(self._total)(params, kept))

    def maximize(self, params: Params, stats: Any) -> Params:
        # No closed form: `jem.solvers.GEM` moves these.
        return params

    def tie(self, params: Params, stats: Any, fields: tuple[str, ...]) -> Params:
        return params

    def expected_log_prob(self, params: Params, stats: Any, old: Params) -> Array:
        if isinstance(stats, UnitStats):
            return self._total(params, stats)
        steps = jax.tree.map(lambda g, new, was: jnp.sum(g * (new - was)), stats.gradient, params, old)
        return tree.total([stats.value, *jax.tree.leaves(steps)])

    def value(self, params: Params, stats: UnitStats) -> Array:
        """The expected log-density at the parameters of the posterior, weighted and summed."""
        return self._total(params, stats)

    def _total(self, params: Params, stats: UnitStats) -> Array:
        return weighted_sum(self.expected(params, stats.posterior, stats.x), stats.weights)

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        if self.starter is not None:
            params = user.traced_once(self.starter)(key, to_rows(x), weights)
            return jax.tree.map(lambda p: jnp.asarray(p, weights.dtype), params)
        near_key, climb_key = jax.random.split(key)
        return self.climbed(climb_key, self.near_start(near_key, weights), x, weights)

    def near_start(self, key: Array, weights: Array) -> Params:
        """The start with noise of size `spread` in free coordinates."""
        leaves, treedef = jax.tree.flatten(self.start)
        keys = jax.random.split(key, len(leaves))
        spread = jnp.asarray(self.spread, weights.dtype)

        def near(support: Support, value: Array, key: Array) -> Array:
            value = value.astype(weights.dtype)
            free = support.unconstrain(value)
            return support.constrain(free + spread * jax.random.normal(key, free.shape, free.dtype), value)

        supports = jax.tree.leaves(self.supports(self.start))
        return treedef.unflatten([near(s, v, k) for s, v, k in zip(supports, leaves, keys, strict=True)])

    def climbed(self, key: Array, params: Params, x: Data, weights: Array) -> Params:
        """Parameters after a few steps up the weighted log-density of some units, so that a start knows of its data."""
        draw_key, guide_key = jax.random.split(key)
        some, w = draw_units(draw_key, x, weights)
        log_prob, total = self.guided(guide_key, some, w), jnp.sum(weights)
        supports = self.supports(params)
        free, unravel = ravel_pytree(jax.tree.map(lambda s, p: s.unconstrain(p), supports, params))

        def at(free: Array) -> Params:
            return jax.tree.map(lambda s, f, p: s.constrain(f, p), supports, unravel(free), params)

        def objective(free: Array) -> Array:
            new = at(free)
            return weighted_sum(log_prob(new), w) + self.log_prior(new) / jnp.where(total > 0, total, 1)

        return at(climb(objective, free)) if free.size else params

    def guided(self, key: Array, x: Data, weights: Array) -> Callable[[Params], Array]:
        """The log-density of the units as a function of the parameters: what a start climbs."""
        return lambda params: self.infer(params, x)[1]

    def log_prior(self, params: Params) -> Array:
        if self.prior is None:
            return jnp.zeros((), jax.tree.leaves(params)[0].dtype)
        return user.traced_once(self.prior)(params)

    def supports(self, params: Params) -> Any:
        return jax.tree.map(ByGradient, spread_over(self.where, params))

    def features(self, x: Data) -> Array:
        if self.describe is not None:
            return jax.vmap(user.traced_once(self.describe), -1, -1)(x)
        return self.numbers(x)

    def numbers(self, x: Data) -> Array:
        """What is in a unit, (F, N), in comparable units."""
        flat = [jnp.reshape(leaf, (-1, leaf.shape[-1])) for leaf in jax.tree.leaves(x)]
        rows = jnp.concatenate([f.astype(jnp.result_type(f, jnp.float32)) for f in flat])
        if self.nonfinite_ok:
            rows = _all_finite(rows)
        # Numbers of several kinds, a count beside a time, have no common unit.
        return rows / _deviation(rows) if rows.shape[0] > 1 else rows


def weighted_sum(terms: Array, weights: Array) -> Array:
    """`sum_n w_n terms_n`; a unit that does not count may be impossible."""
    return jnp.sum(jnp.where(weights > 0, weights * terms, 0))


def _all_finite(rows: Array) -> Array:
    """Rows (F, N) with the mean of the finite entries in place of the others."""
    ok = jnp.isfinite(rows)
    mean = jnp.sum(jnp.where(ok, rows, 0), 1, keepdims=True) / jnp.maximum(jnp.sum(ok, 1, keepdims=True), 1)
    return jnp.where(ok, rows, mean)


def _deviation(rows: Array) -> Array:
    """Standard deviations (F, 1) of rows (F, N), one where they are 0."""
    deviation = jnp.std(rows, 1, keepdims=True)
    return jnp.where(deviation > 0, deviation, 1)


def as_where(supports: Any) -> tuple[tuple[Support, ...], Any]:
    """Supports as what a static field can hold; None is the real line everywhere."""
    leaves, treedef = jax.tree.flatten(Real() if supports is None else supports)
    return tuple(leaves), treedef


def spread_over(where: tuple[tuple[Support, ...], Any], params: Params) -> Any:
    """The tree of `params` with the support of every leaf; one support may stand for a whole branch."""
    supports = where[1].unflatten(where[0])
    return jax.tree.map(lambda support, branch: jax.tree.map(lambda _: support, branch), supports, params)


def as_arrays(values: Any) -> Any:
    """Leaves that are no arrays yet as NumPy's: making a node starts no backend."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, Array) else np.asarray(leaf), values)


def as_start(who: str, start: Any, supports: Any) -> tuple[Params, Callable[..., Any] | None]:
    """A tree of arrays, or a function that makes one."""
    leaves = jax.tree.leaves(start)
    if callable(start) and len(leaves) == 1 and leaves[0] is start:
        user.check_function(who, "start", start, ("key", "x", "weights"))
        return None, start
    if not leaves:
        raise ValueError(
            f"{who}: start holds no parameters; got {start!r}; give a tree of arrays, such as {{'mean': jnp.zeros(2)}}, or a "
            "function start(key, x, weights) that makes one"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(start):
        name = f"start{jax.tree_util.keystr(path)}"
        if callable(leaf):
            raise ValueError(
                f"{who}: {name} is {user.name_of(leaf)}, no array; keep what is no parameter out of it, "
                "for example with params, rest = equinox.partition(network, equinox.is_inexact_array)"
            )
        if not isinstance(leaf, Array) and np.asarray(leaf).dtype.kind not in "biufcV":
            raise ValueError(f"{who}: {name} must be an array of real numbers; got {leaf!r:.60}")
    start = as_arrays(start)
    if supports is not None:
        _check_supports(who, supports, start)
    return start, None


def _check_supports(who: str, supports: Any, start: Params) -> None:
    """A support for each parameter or for a branch of them."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(supports):
        if not isinstance(leaf, Support):
            kind = f"the class {leaf.__name__}; write {leaf.__name__}()" if isinstance(leaf, type) else f"{leaf!r:.60}"
            name = f"supports{jax.tree_util.keystr(path)}"
            raise ValueError(f"{who}: {name} must be a support such as jem.supports.Positive(); got {kind}")
    try:
        spread_over(as_where(supports), start)
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{who}: supports must have the structure of start, or of its upper part; start is {jax.tree.structure(start)}, "
            f"supports {jax.tree.structure(supports)}"
        ) from None


def as_shape(size: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of what a density of one unit returns."""
    shape = () if size is None else (size,) if isinstance(size, int) else tuple(size) if isinstance(size, tuple) else (size,)
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in shape):
        raise ValueError(f"Density: size must be the number of densities, an integer of at least 1; got {size!r}")
    return shape


@node
class Density(Differentiable):
    """A density known by its logarithm, `p(x) = exp(log_prob(params, x))`; the parameters are any tree of arrays.

    The statistics are the expected log-density and its gradient at the current parameters, which add over units and obey
    Fisher's identity. There is no closed-form M-step: fit with `jem.solvers.GEM`, which moves the parameters by gradient steps
    in the free coordinates of `supports`, while the rest of the model takes its closed forms.

    Params: those of `start`; copies of the node have them with a leading axis K.

    Args:
        log_prob: `log_prob(params, x)`, the log-density of one unit, a scalar; with `size` its K log-densities (K,). Keep
            one function object: a new one is a new program.
        start: parameters, or `start(key, x, weights)`, which makes them from rows x: `network.init`, for example.
        supports: where the parameters may lie: a support for each leaf or for a branch; None is the real line.
        log_prior: `log_prior(params)`, a scalar, added to the objective; a penalty on the weights of a network is one.
        size: K, where one function gives K densities at once: the node is then a plate, for a mixture or a chain.
        spread: standard deviation of the noise that `init` adds to `start` in free coordinates, before it takes a few steps up
            the log-density of the units that it is given; parameters that a function made stay as they are.
        observations: all values that x can take, rows first, where they are few: their probabilities must sum to one.
        sample: `sample(key, params)`, draws one unit.
        features: `features(x)`, a vector that describes one unit; by default x itself, its numbers in a row.
        nonfinite_ok: whether x may hold NaN and infinities, which `log_prob` takes for what they mean: a missing value, no
            upper bound. Its gradient must be finite all the same: put a harmless number in their place before computing.

    Raises:
        ValueError: where the arguments do not fit together; at the door, where `log_prob` has the wrong shape, looks outside an
            array, is NaN at the start, or is not normalised.

    Example:
        >>> import jax.numpy as jnp, jem, optax
        >>> def exponential(params, x):
        ...     return jnp.sum(-x / params["scale"] - jnp.log(params["scale"]))
        >>> start = {"scale": jnp.ones(1)}
        >>> model = jem.Density(exponential, start, supports=jem.supports.Positive())
        >>> fit = jem.fit(model, start, [[0.0], [0.0], [5.0]], solver=jem.solvers.GEM(optax.lbfgs, linesearch=None))
        >>> round(float(fit.params["scale"][0]), 2)
        1.67

    Source: Dempster, Laird and Rubin (1977), section 3; Fisher's identity: Louis (1982), JRSS B 44, eq. 3.1.
    """

    log_prob: Callable[..., Array] = static()
    start: Any
    starter: Callable[..., Any] | None = static()
    spread: Any
    where: Any = static()
    prior: Callable[..., Array] | None = static()
    shape: tuple[int, ...] = static()
    observations: Any
    sampler: Callable[..., Any] | None = static()
    describe: Callable[..., Array] | None = static()
    units: bool = static()
    nonfinite_ok: bool = static()

    def __init__(
        self,
        log_prob: Callable[..., Array],
        start: Any,
        *,
        supports: Any = None,
        log_prior: Callable[..., Array] | None = None,
        size: int | tuple[int, ...] | None = None,
        spread: Any = 0.1,
        observations: Any = None,
        sample: Callable[..., Any] | None = None,
        features: Callable[..., Array] | None = None,
        nonfinite_ok: bool = False,
    ):
        user.check_function("Density", "log_prob", log_prob, ("params", "x"))
        user.check_function("Density", "log_prior", log_prior, ("params",))
        user.check_function("Density", "sample", sample, ("key", "params"))
        user.check_function("Density", "features", features, ("x",))
        start, starter = as_start("Density", start, supports)
        shape, observations = as_shape(size), as_arrays(observations)
        set_once(
            self, log_prob=log_prob, start=start, starter=starter, spread=spread, where=as_where(supports), prior=log_prior,
            shape=shape, observations=observations, sampler=sample, describe=features, units=False, nonfinite_ok=nonfinite_ok,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Number of densities, where there are several."""
        if len(self.shape) != 1:
            raise AttributeError("size")
        return self.shape[0]

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        return (), over_units(user.traced_once(self.log_prob), (None, -1))(params, x)

    def expected(self, params: Params, posterior: Posterior, x: Data) -> Array:
        return self.infer(params, x)[1]

    def climbed(self, key: Array, params: Params, x: Data, weights: Array) -> Params:
        if weights.ndim != 1 + len(self.shape):
            return params  # one weight a unit does not say which of several densities it belongs to
        return super().climbed(key, params, x, weights)

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        if self.sampler is None:
            raise TypeError(f"Density: {user.name_of(self.log_prob)} has no sampler; give sample=fn(key, params), one unit")
        return (), jax.vmap(user.traced_once(self.sampler), (0, None), -1)(jax.random.split(key, num), params)

    def validate(self, x: Data) -> None:
        shapes = user.start_shapes("Density", self.starter, self.start, x)
        user.check_output("Density", self.log_prob, self.shape, shapes, user.one_row(x))
        if self.prior is not None:
            user.check_output("Density", self.prior, (), shapes)
        user.try_start("Density", self.log_prob, self, x)

"""A model from its log-joint alone: the user writes `log p(x, z | params)` for one unit, the E-step is derived."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.families import user
from jem.families.autodiff import (
    Differentiable,
    GradientStats,
    UnitStats,
    as_arrays,
    as_start,
    as_where,
    spread_over,
    weighted_sum,
)
from jem.kernels.seeding import assign_nearest, kmeans_plus_plus
from jem.latents.written.spaces import Space, drawn_to
from jem.node import Data, Params, Posterior, node, set_once, static


class LogJointStats(NamedTuple):
    """The expected log-joint with its gradient, and the user's own expected statistics, () where there are none."""

    local: GradientStats
    own: Any


@node
class LogJoint(Differentiable):
    """A latent-variable model known by `log p(x, z | params)` for one unit and the values that z can take.

    E-step: `q(z) = p(x, z) / p(x)`, `log p(x) = log sum_z exp(log_joint(params, x, z))`. M-step: gradient steps on
    `Q(params) = sum_n w_n E_q[log_joint(params, x_n, z)]` by `jem.solvers.GEM`; or in closed form, by any solver, where
    `statistics` and `maximize` say so.

    Params: those of `start`, any tree of arrays.

    Args:
        log_joint: `log_joint(params, x, z)`, a scalar for one unit and one value of z, unless the space says otherwise. Keep
            one function object: a new one is a new program.
        space: the values of z: `jem.spaces.Finite`, `jem.spaces.Independent`, `jem.spaces.ChainOf`, `jem.spaces.GaussHermite`.
        start: parameters, or `start(key, x, weights)`, which makes them from rows x.
        supports: where the parameters may lie: a support for each leaf or for a branch; None is the real line.
        statistics: `statistics(x, z)`, a tree of arrays for one unit and one value of z.
        maximize: `maximize(stats)`, the parameters that maximise Q; `stats` are the expected statistics summed over units,
            of a `Finite` space with a leading axis K over its values. Where statistics of 0 make it give no number, as for a
            value of z that nothing belongs to, the old value stays; otherwise the fit ends as NONFINITE.
        log_prior: `log_prior(params)`, a scalar, added to the objective.
        spread: standard deviation of the noise that `init` adds to `start` in free coordinates. Where a unit, or a step of a
            chain, has one of K values, it then takes a few steps up the log-density, with units alike drawn to one value.
        observations: all values that x can take, rows first, where they are few: their probabilities must sum to one.
        sample: `sample(key, params)`, draws one unit `(z, x)`.
        features: `features(x)`, a vector that describes one unit; by default x itself, its numbers in a row.
        nonfinite_ok: whether x may hold NaN and infinities, which `log_joint` takes for what they mean.

    Raises:
        ValueError: where the arguments do not fit together; at the door, where `log_joint` has the wrong shape, looks outside
            an array, is NaN at the start, or is not normalised.

    Example:
        >>> import jax, jax.numpy as jnp, jem
        >>> def two_coins(theta, heads, z):  # ten tosses of a coin that is drawn first
        ...     return jnp.log(0.5) + heads * jnp.log(theta[z]) + (10 - heads) * jnp.log1p(-theta[z])
        >>> model = jem.LogJoint(
        ...     two_coins, jem.spaces.Finite(2), jnp.array([0.6, 0.5]), supports=jem.supports.Interval(),
        ...     statistics=lambda heads, z: {"heads": heads, "tosses": 10.0}, maximize=lambda s: s["heads"] / s["tosses"])
        >>> bool(abs(jem.fit(model, model.start, jnp.array([5.0, 9, 8, 4, 7])).params[0] - 0.797) < 0.002)
        True

    Source: Dempster, Laird and Rubin (1977); the two coins: Do and Batzoglou (2008), Nature Biotechnology 26.
    """

    log_joint: Callable[..., Array] = static()
    space: Space
    start: Any
    starter: Callable[..., Any] | None = static()
    spread: Any
    where: Any = static()
    statistics: Callable[..., Any] | None = static()
    maximizer: Callable[..., Params] | None = static()
    prior: Callable[..., Array] | None = static()
    observations: Any
    sampler: Callable[..., Any] | None = static()
    describe: Callable[..., Array] | None = static()
    units: bool = static()
    nonfinite_ok: bool = static()

    def __init__(
        self,
        log_joint: Callable[..., Array],
        space: Space,
        start: Any,
        *,
        supports: Any = None,
        statistics: Callable[..., Any] | None = None,
        maximize: Callable[..., Params] | None = None,
        log_prior: Callable[..., Array] | None = None,
        spread: Any = 0.1,
        observations: Any = None,
        sample: Callable[..., Any] | None = None,
        features: Callable[..., Array] | None = None,
        nonfinite_ok: bool = False,
    ):
        if not isinstance(space, Space):
            hint = f"; write jem.spaces.Finite({space})" if isinstance(space, int) else ""
            raise ValueError(
                "LogJoint: space must say what values z takes, one of jem.spaces: Finite, Independent, ChainOf, GaussHermite; "
                f"got {space!r:.60}{hint}"
            )
        user.check_function("LogJoint", "log_joint", log_joint, ("params", "x", "z"))
        user.check_function("LogJoint", "statistics", statistics, ("x", "z"))
        user.check_function("LogJoint", "maximize", maximize, ("stats",))
        user.check_function("LogJoint", "log_prior", log_prior, ("params",))
        user.check_function("LogJoint", "sample", sample, ("key", "params"))
        user.check_function("LogJoint", "features", features, ("x",))
        if (statistics is None) != (maximize is None):
            raise ValueError("LogJoint: statistics and maximize make a closed-form M-step together; give both or neither")
        start, starter = as_start("LogJoint", start, supports)
        observations = as_arrays(observations)
        set_once(
            self, log_joint=log_joint, space=space, start=start, starter=starter, spread=spread, where=as_where(supports),
            statistics=statistics, maximizer=maximize, prior=log_prior, observations=observations, sampler=sample,
            describe=features, units=False, nonfinite_ok=nonfinite_ok,
        )  # fmt: skip

    @property
    def by_gradient(self) -> bool:
        return self.maximizer is None

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        return self.space.infer(user.traced_once(self.log_joint), params, x)

    def expected(self, params: Params, posterior: Posterior, x: Data) -> Array:
        return self.space.expected(user.traced_once(self.log_joint), params, posterior, x)

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> LogJointStats | UnitStats:
        local = super().expect(params, posterior, x, weights)
        if isinstance(local, UnitStats):
            return local
        if self.statistics is None:
            return LogJointStats(local, ())
        # Nothing follows this gradient but a fit by `GEM`, and it need not be finite at the edge where a closed form starts.
        local = local._replace(gradient=jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), local.gradient))
        return LogJointStats(local, self.space.average(user.traced_once(self.statistics), posterior, x, weights))

    def value(self, params: Params, stats: UnitStats) -> Array:
        return weighted_sum(stats.posterior.expected, stats.weights)  # known since the E-step

    def maximize(self, params: Params, stats: LogJointStats) -> Params:
        if self.maximizer is None:
            return params
        maximizer = user.traced_once(self.maximizer)
        new, sound = maximizer(stats.own), maximizer(jax.tree.map(_without_zeros, stats.own))

        def keep(new: Array, sound: Array, old: Array) -> Array:
            return jnp.where(~jnp.isfinite(new) & jnp.isfinite(sound), old, new).astype(old.dtype)

        return jax.tree.map(keep, new, sound, params)

    def climbed(self, key: Array, params: Params, x: Data, weights: Array) -> Params:
        seen = self.space.one_each(x, weights)
        return params if seen is None else super().climbed(key, params, *seen)

    def guided(self, key: Array, x: Data, weights: Array) -> Callable[[Params], Array]:
        """Values of z look alike at most starts: units near each other are drawn to the same value."""
        seed_key, order_key = jax.random.split(key)
        values = self.space.values
        features, num = self.numbers(x), jax.tree.leaves(values)[0].shape[0]
        seeds = kmeans_plus_plus(seed_key, features, weights, num)
        nearest = assign_nearest(features, jnp.take(features, seeds, axis=1).T)
        group = jax.random.permutation(order_key, num)[nearest]
        return lambda params: drawn_to(group, values, user.traced_once(self.log_joint), params, x)

    def tie(self, params: Params, stats: LogJointStats, fields: tuple[str, ...]) -> Params:
        return self.maximize(params, jax.tree.map(lambda s: jnp.sum(s, 0), stats))

    def expected_log_prob(self, params: Params, stats: LogJointStats | UnitStats, old: Params) -> Array:
        return super().expected_log_prob(params, stats.local if isinstance(stats, LogJointStats) else stats, old)

    def supports(self, params: Params) -> Any:
        return super().supports(params) if self.maximizer is None else spread_over(self.where, params)

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        if self.sampler is None:
            raise TypeError(f"LogJoint: {user.name_of(self.log_joint)} has no sampler; give sample=fn(key, params), one unit")
        return jax.vmap(user.traced_once(self.sampler), (0, None), -1)(jax.random.split(key, num), params)

    def num_observations(self, x: Data) -> Array:
        return self.space.num_observations(x)

    def validate(self, x: Data) -> None:
        shapes = user.start_shapes("LogJoint", self.starter, self.start, x)
        self.space.check(self.log_joint, shapes, x)
        if self.prior is not None:
            user.check_output("LogJoint", self.prior, (), shapes)
        if self.maximizer is not None:
            user.check_maximize("LogJoint", self, shapes, x)
        user.try_start("LogJoint", self.log_joint, self, x, self.space.points)


def _without_zeros(sums: Array) -> Array:
    """Statistics with something in place of what is 0: the sum over the first axis, or one."""
    total = jnp.sum(sums, 0, keepdims=True) if sums.ndim else sums
    return jnp.where(sums == 0, jnp.where(total == 0, 1, total), sums)

"""Stopping rules. Objectives are compared per unit of weight, so that a tolerance means the same at any N."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.coordinates import ravel
from jem.documented import Documented
from jem.engine import path as paths
from jem.engine.path import Path
from jem.node import Node, Params, node, setting
from jem.settings import number

RATIOS = 10  # of each gain to the one before, remembered
_NOISE = 32  # units in the last place by which an M-step's parameters may err


def scale(objective: Array, total_weight: Array) -> Array:
    """The size against which a change of the objective is small: `max(|objective|, total weight)`."""
    return jnp.maximum(jnp.abs(objective), total_weight)


def rounding(objective: Array, total_weight: Array) -> Array:
    """How far rounding alone may move the objective: 8 units in the last place of its scale."""
    return 8 * jnp.finfo(objective.dtype).eps * scale(objective, total_weight)


class Progress(NamedTuple):
    """What a stopping rule sees, once per lane and E-step; numbers are scalars ().

    Attributes:
        model: the node.
        params: the parameters just evaluated.
        previous: those accepted before.
        image: where the plain step goes from `params`.
        objective: bound + log prior at `params`.
        gain: by how much it is above the one before; infinite at the start.
        limit: where the gains lead (Aitken); infinite where two plain steps have not shown it.
        ratios: (10,) of each gain to the one before, the last ten; infinite where two plain steps have not shown one.
        plain: plain steps in a row that led here, at least one where a gain says how far the climb has come.
        total_weight: sum of the weights.
        num_steps: steps taken to get here.
        path: the points accepted last, `params` among them if they were; None where the model has no free coordinates. E at the
            last point is known once `image` is.
    """

    model: Node
    params: Params
    previous: Params
    image: Params
    objective: Array
    gain: Array
    limit: Array
    ratios: Array
    plain: Array | int
    total_weight: Array
    num_steps: Array
    path: Path | None

    @property
    def unit(self) -> Array:
        """The size against which a change of the objective is small, never below the total weight."""
        return scale(self.objective, self.total_weight)

    def tolerance(self, tol: Any) -> Array:
        """`tol` of the objective in nats, but no less than rounding may do."""
        least = 8 * jnp.finfo(self.objective.dtype).eps
        return jnp.maximum(jnp.asarray(tol, self.objective.dtype), least) * self.unit


class Rule(Documented):
    """When a lane ends well. Write `converged`; the rest has defaults."""

    def converged(self, progress: Progress) -> Array:
        """Whether to stop. A scalar bool."""
        raise TypeError(f"{type(self).__name__} does not define converged")

    def close(self, progress: Progress) -> Array:
        """Whether it would, were the last step a plain one; an accelerated solver then makes one. `image` is not known yet."""
        return jnp.array(False)

    def near(self, progress: Progress) -> Array:
        """Whether it may be about to, whatever the step: a solver that looks at parts of the data then looks at all of it."""
        return self.close(progress)

    def measure(self, progress: Progress) -> tuple[Array, int]:
        """What falls below 1 where the rule is met, and its order: with the objective's gap 2, with the distance 1.

        For the forecast of the steps left, which is NaN without it.
        """
        return jnp.full_like(progress.objective, jnp.nan), 1


@node
class Remaining(Rule):
    """Stops where what is left of the climb, as the score predicts it, is at most `tol` nats. The default.

    What is left is about half the squared distance to the maximum in standard errors, so that 1e-3 nats are 0.05 standard
    errors. Gains do not tell: they are small on plateaus, under acceleration and under rounding. With z the free coordinates,
    g the score and M the plain step,

        left = c^T b^{-1} c / 2 + E,     E = g^T (M(z) - z) / 2,

    a quadratic model along the last `min(n, 30)` steps, and EM's own decrement for what they do not show. It must hold at
    three accepted points in a row over which E does not rise, after at least `min(n, 15) + 1` of them; or E be next to nothing
    at all three (`1e-9 tol`, in float32 `1e-5 tol`), however the objective curves. Where a model does not say where its
    parameters lie, gains must do: with q the largest of the last ten ratios of a gain to the one before,
    `2 gain q / (1 - q)` is left.

    For `jem.solvers.GEM` M is the Newton step on Q, as far as its metric knows it.

    Attributes:
        tol: nats, >= 0.

    Example:
        >>> import jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.Mixture(jem.Gaussian(), 2)
        >>> fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, stop=jem.stop.Remaining(1e-6))
        >>> bool(fit.converged), bool(fit.remaining < 1e-6)
        (True, True)

    Source: Lange (1995), JRSS B 57, for E; Nocedal and Wright (2006), Numerical Optimization, chapter 6, for the model.
    """

    tol: Any = setting(default=1e-3, must=number(least=0.0))

    def converged(self, progress: Progress) -> Array:
        """Whether little is left."""
        path = progress.path
        if path is None:
            return self._by_gains(progress)
        e, ahead = path.forecast[:, 0], path.forecast[:, 1]
        tol, eps = jnp.asarray(self.tol, e.dtype), jnp.finfo(e.dtype).eps
        floor = tol * (1e-9 if e.dtype == jnp.float64 else 1e-5)
        shown = path.count > min(path.last.place.shape[0], paths.LEAST)
        falls = ~(jnp.abs(e[0]) > jnp.abs(e[-1]))  # it rises where a climb leaves a plateau
        little = (shown & falls & jnp.all(ahead <= tol)) | jnp.all(jnp.abs(e) <= floor)
        return little | ((progress.num_steps > 0) & (jnp.abs(e[0]) <= 4 * eps**2 * progress.total_weight.astype(e.dtype)))

    def near(self, progress: Progress) -> Array:
        """Whether little was left, by EM's decrement, at the point before."""
        if progress.path is None:
            return self._by_gains(progress)
        return jnp.abs(progress.path.forecast[0, 0]) <= self.tol

    def measure(self, progress: Progress) -> tuple[Array, int]:
        """What is left over the tolerance."""
        if progress.path is None:
            return self._left_by_gains(progress) / self.tol, 2
        return progress.path.forecast[0, 1] / self.tol, 2

    def _by_gains(self, progress: Progress) -> Array:
        near = (self._left_by_gains(progress) <= self.tol) & (progress.plain > 1)
        return near | ((progress.gain <= progress.tolerance(0.0)) & (progress.plain > 0))

    def _left_by_gains(self, progress: Progress) -> Array:
        slowest = jnp.max(progress.ratios)
        return jnp.where(slowest < 1, 2 * progress.gain * slowest / (1 - slowest), jnp.inf)


@node
class RelativeGain(Rule):
    """Stops where a step gains no more than `tol` of the objective: `gain <= tol max(|objective|, total weight)`.

    The tolerance is never below the rounding level of the dtype (8 units in the last place), so that float32 neither
    stops early nor runs for ever. Only a plain step's gain counts: an accelerated solver makes one before it ends. A slow
    climb gains little while far from its end; `Aitken` looks at what is left instead.

    Attributes:
        tol: relative gain, >= 0.

    Example:
        >>> import jem
        >>> jem.stop.RelativeGain(1e-8).tol
        1e-08
    """

    tol: Any = setting(default=1e-6, must=number(least=0.0))

    def converged(self, progress: Progress) -> Array:
        """Whether the gain is small."""
        return self.close(progress) & (progress.plain > 0)

    def close(self, progress: Progress) -> Array:
        """Whether it is, of whatever step."""
        return progress.gain <= progress.tolerance(self.tol)

    def measure(self, progress: Progress) -> tuple[Array, int]:
        """The gain over its tolerance."""
        return progress.gain / progress.tolerance(self.tol), 2


@node
class Aitken(Rule):
    """Stops where the objective is within `tol` of the limit its gains lead to: `limit - objective <= tol max(...)`.

    With two gains g', g in a row, `limit = objective + g r / (1 - r)`, r = g / g'. What is left is many times the last gain
    where the climb is slow. A gain at the rounding level ends it too.

    Attributes:
        tol: distance to the limit relative to the objective, >= 0.

    Example:
        >>> import jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.Mixture(jem.Poisson(), 2)
        >>> fit = jem.fit_restarts(model, jax.random.key(0), x.round(), num_restarts=2, stop=jem.stop.Aitken(1e-6))
        >>> bool(fit.converged.all())
        True

    Source: Boehning et al. (1994), Ann. Inst. Statist. Math. 46; Lindsay (1995).
    """

    tol: Any = setting(default=1e-6, must=number(least=0.0))

    def converged(self, progress: Progress) -> Array:
        """Whether the limit is near."""
        near = progress.limit - progress.objective <= progress.tolerance(self.tol)
        spent = progress.gain <= progress.tolerance(0.0)
        return (near & (progress.plain > 1)) | (spent & (progress.plain > 0))

    def close(self, progress: Progress) -> Array:
        """Whether two plain steps may show it to be."""
        return (progress.gain <= progress.tolerance(self.tol)) & (progress.plain < 2)

    def measure(self, progress: Progress) -> tuple[Array, int]:
        """The distance over its tolerance."""
        return (progress.limit - progress.objective) / progress.tolerance(self.tol), 2


@node
class ParameterChange(Rule):
    """Stops where a plain step moves no parameter by more than `tol (1 + |parameter|)`.

    In the parameters as they are; the tolerance is never below what rounding does to an M-step.

    Attributes:
        tol: largest relative change, >= 0.

    Example:
        >>> import jem
        >>> jem.stop.ParameterChange(1e-4).tol
        0.0001

    Source: Dennis and Schnabel (1983), Numerical Methods for Unconstrained Optimization, section 7.2.
    """

    tol: Any = setting(default=1e-6, must=number(least=0.0))

    def converged(self, progress: Progress) -> Array:
        """Whether the change is small."""
        return self.close(progress) & (progress.plain > 0)

    def close(self, progress: Progress) -> Array:
        """Whether it is, of whatever step."""
        return self.measure(progress)[0] <= 1

    def measure(self, progress: Progress) -> tuple[Array, int]:
        """The largest change over its tolerance."""
        change = jnp.zeros((), progress.objective.dtype)
        for new, old in zip(jax.tree.leaves(progress.params), jax.tree.leaves(progress.previous), strict=True):
            change = jnp.maximum(change, jnp.max(jnp.abs(new - old) / (1 + jnp.abs(old)), initial=0.0))
        change = jnp.where(progress.num_steps > 0, change, jnp.inf)  # nothing has moved yet
        return change / _least(self.tol, change), 1


@node
class Residual(Rule):
    """Stops where the plain step from here would move by no more than `tol (1 + |x|)`, in free coordinates x.

    `|M(x) - x|` is zero at a fixed point of EM and nowhere else, so it needs no step to be made and is right after an
    extrapolated one too. The distance to the fixed point is about `residual / (1 - rate)`.

    Attributes:
        tol: Euclidean length, >= 0; never below what rounding does to an M-step.

    Example:
        >>> import jem
        >>> jem.stop.Residual(1e-8).tol
        1e-08

    Source: Varadhan and Roland (2008), Scand. J. Stat. 35.
    """

    tol: Any = setting(default=1e-6, must=number(least=0.0))

    def converged(self, progress: Progress) -> Array:
        """Whether the residual is small."""
        return self.measure(progress)[0] <= 1

    def measure(self, progress: Progress) -> tuple[Array, int]:
        """The residual over its tolerance."""
        here = ravel(progress.model, progress.params)
        residual = ravel(progress.model, progress.image) - here
        size = jnp.sqrt(jnp.sum(residual * residual))
        return size / (_least(self.tol, size) * (1 + jnp.sqrt(jnp.sum(here * here)))), 1


@node
class AnyOf(Rule):
    """Stops where one of the rules would.

    Args:
        *rules: the rules.

    Example:
        >>> import jem
        >>> len(jem.stop.AnyOf(jem.stop.RelativeGain(1e-6), jem.stop.Residual(1e-4)).rules)
        2
    """

    rules: tuple[Any, ...]

    def __init__(self, *rules: Any):
        object.__setattr__(self, "rules", rules)

    def converged(self, progress: Progress) -> Array:
        """Whether one is met."""
        return jnp.any(jnp.stack([jnp.asarray(rule.converged(progress)) for rule in self.rules]))

    def close(self, progress: Progress) -> Array:
        """Whether one may be."""
        return jnp.any(jnp.stack([jnp.asarray(rule.close(progress)) for rule in self.rules]))

    def near(self, progress: Progress) -> Array:
        """Whether one may be, whatever the step."""
        return jnp.any(jnp.stack([jnp.asarray(rule.near(progress)) for rule in self.rules]))

    def measure(self, progress: Progress) -> tuple[Array, int]:
        """The smallest, each to the order of a distance."""
        return jnp.nanmin(_distances(self.rules, progress)), 1


@node
class AllOf(Rule):
    """Stops where every one of the rules would.

    Args:
        *rules: the rules.

    Example:
        >>> import jem
        >>> len(jem.stop.AllOf(jem.stop.RelativeGain(1e-6), jem.stop.Residual(1e-4)).rules)
        2
    """

    rules: tuple[Any, ...]

    def __init__(self, *rules: Any):
        object.__setattr__(self, "rules", rules)

    def converged(self, progress: Progress) -> Array:
        """Whether all are met."""
        return jnp.all(jnp.stack([jnp.asarray(rule.converged(progress)) for rule in self.rules]))

    def close(self, progress: Progress) -> Array:
        """Whether one of them waits for a plain step; the others will be asked then."""
        return jnp.any(jnp.stack([jnp.asarray(rule.close(progress)) for rule in self.rules]))

    def near(self, progress: Progress) -> Array:
        """Whether one may be, whatever the step."""
        return jnp.any(jnp.stack([jnp.asarray(rule.near(progress)) for rule in self.rules]))

    def measure(self, progress: Progress) -> tuple[Array, int]:
        """The largest, each to the order of a distance."""
        return jnp.max(_distances(self.rules, progress)), 1


@node
class NeverStop(Rule):
    """Runs all `max_steps` steps.

    The lane ends as MAX_STEPS, unless it fails before.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> start = jem.Poisson.Params(jnp.array([1.0]))
        >>> fit = jem.fit(jem.Poisson(), start, [[1], [4]], stop=jem.stop.NeverStop(), max_steps=5)
        >>> int(fit.num_steps), jem.Status(int(fit.status)).name
        (5, 'MAX_STEPS')
    """

    def converged(self, progress: Progress) -> Array:
        """False."""
        return jnp.array(False)


def _least(tol: Any, like: Array) -> Array:
    return jnp.maximum(jnp.asarray(tol, like.dtype), _NOISE * jnp.finfo(like.dtype).eps)


def _distances(rules: tuple[Any, ...], progress: Progress) -> Array:
    measures = [rule.measure(progress) for rule in rules]
    return jnp.stack([jnp.maximum(value, 0) ** (1 / order) for value, order in measures])

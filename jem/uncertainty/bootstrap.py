"""The bootstrap as one program over replicates: standard errors, intervals, and tests of the number of components."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import checks
from jem.data import row_weights, to_rows, to_units, used_rows
from jem.engine.result import Status
from jem.engine.step import EM
from jem.engine.stop import RelativeGain
from jem.fit import checked, fit, fit_restarts
from jem.node import Data, Node, Params, node
from jem.uncertainty.align import align, labelled_part, memberships


@node
class Parametric:
    """Replicates drawn from the fitted model, as many rows as there are.

    Raises:
        ValueError: with weights; rows that stand for many must be repeated.

    Source: Efron (1979), Ann. Statist. 7.
    """

    def draw(self, key: Array, model: Node, params: Params, x: Data, weights: Array | None) -> tuple[Data, Array]:
        """Data and weights of one replicate."""
        if weights is not None:
            raise ValueError("Parametric: cannot draw rows with weights; repeat the rows, or use jem.BayesianWeights()")
        num = jax.tree.leaves(x)[0].shape[0]
        drawn = to_rows(model.sample(key, params, num)[1])
        drawn = jax.tree.map(lambda new, old: new.astype(old.dtype), drawn, x)
        return drawn, row_weights(x, None)


@node
class Multinomial:
    """Replicates of rows drawn with replacement: weights are counts. The usual nonparametric bootstrap.

    Raises:
        ValueError: with weights; rows that stand for many must be repeated.

    Source: Efron (1979), Ann. Statist. 7.
    """

    def draw(self, key: Array, model: Node, params: Params, x: Data, weights: Array | None) -> tuple[Data, Array]:
        """Data and weights of one replicate."""
        if weights is not None:
            raise ValueError("Multinomial: cannot draw rows with weights; repeat the rows, or use jem.BayesianWeights()")
        counts = row_weights(x, None)
        num = counts.shape[0]
        return x, jnp.zeros_like(counts).at[jax.random.randint(key, (num,), 0, num)].add(1)


@node
class BayesianWeights:
    """Replicates of weights drawn from a Dirichlet distribution (the Bayesian bootstrap): no row is ever lost.

    `w* = W Dirichlet(w_1, ..., w_N)`, W the sum of the weights w: for whole-number weights the law of the repeated rows.

    Source: Rubin (1981), Ann. Statist. 9.
    """

    def draw(self, key: Array, model: Node, params: Params, x: Data, weights: Array | None) -> tuple[Data, Array]:
        """Data and weights of one replicate."""
        weights = row_weights(x, weights)
        share = jax.random.gamma(key, jnp.where(weights > 0, weights, 1))
        share = jnp.where(weights > 0, share, 0)
        return x, jnp.sum(weights) * share / jnp.sum(share)


class Bootstrap(NamedTuple):
    """Refitted replicates; every field has a leading axis B.

    Attributes:
        params: parameters, components in the order of the fit.
        status: int code of `jem.Status`, one per replicate.
        objective: of each replicate on its own data.
        num_steps: EM steps taken.
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
        """Percentile intervals: both ends, as trees like the parameters."""
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
    replicates: Any = BayesianWeights(),  # noqa: B008
    solver: Any = EM(),  # noqa: B008
    stop: Any = RelativeGain(),  # noqa: B008
    max_steps: int = 1000,
    batch_size: int | None = None,
) -> Bootstrap:
    """Fits a model to many replicates of its data, all in one program, each from the parameters of the fit.

    Components of a mixture or states of a chain come back in the order of the fit: those are matched (optimally) that share
    most members on the data as they are. Labels inside components are left alone.

    Args:
        node: the model.
        key: a typed PRNG key; replicate b uses `jax.random.split(key, num_replicates)[b]`.
        params: the fit's parameters.
        x: data with N rows.
        weights: (N,) or None.
        num_replicates: B.
        replicates: how they are made: `jem.BayesianWeights()`, `jem.Multinomial()` or `jem.Parametric()`.
        solver: as for `fit`.
        stop: as for `fit`.
        max_steps: as for `fit`.
        batch_size: replicates advanced together (memory and speed, never the answer); None chooses by backend.

    Returns:
        A `Bootstrap`.

    Raises:
        ValueError: data, weights or parameters that do not fit the model.

    Example:
        >>> import jax, jem, jax.numpy as jnp
        >>> p = jem.PoissonParams(jnp.array([2.5]))
        >>> found = jem.bootstrap(jem.Poisson(), jax.random.key(0), p, [[1], [4], [2], [3]], num_replicates=50)
        >>> found.params.rate.shape
        (50, 1)
    """
    checks.check_key(key)
    checks.check_positive_int(num_replicates, "num_replicates")
    x, weights = checked(node, x, weights)
    if batch_size is None:  # together all wait for the slowest, which pays on an accelerator only
        batch_size = 1 if jax.default_backend() == "cpu" else num_replicates
    checks.check_positive_int(batch_size, "batch_size")
    keys = jax.random.split(key, num_replicates)
    return _bootstrap(node, keys, params, x, weights, replicates, solver, stop, max_steps=max_steps, together=batch_size)


@functools.partial(jax.jit, static_argnames=("max_steps", "together"))
def _bootstrap(
    model: Node, keys: Array, params: Params, x: Data, weights: Array | None, replicates: Any, solver: Any, stop: Any,
    *, max_steps: int, together: int,
) -> Bootstrap:  # fmt: skip
    units, w = to_units(used_rows(x, weights)), row_weights(x, weights)
    bound = model.bind(units, w)
    reference = None if labelled_part(model) is None else memberships(bound, params, units, w)

    def one(key: Array) -> Bootstrap:
        new_x, new_weights = replicates.draw(key, bound, params, x, weights)
        found = fit(model, params, new_x, weights=new_weights, solver=solver, stop=stop, max_steps=max_steps)
        aligned = found.params if reference is None else align(bound, found.params, reference, units, w)
        return Bootstrap(aligned, found.status, found.objective, found.num_steps)

    return lax.map(one, keys, batch_size=together if together > 1 else None)


class LikelihoodRatioTest(NamedTuple):
    """A likelihood-ratio test whose null law was simulated.

    Attributes:
        statistic: `2 (l_alternative - l_null)` of the data.
        p_value: `(1 + number of replicates at or above it) / (1 + number of replicates)`.
        replicates: (B,) statistics of data drawn from the null model; NaN where a fit failed.
        null: the null fit's parameters.
        alternative: the alternative's.
    """

    statistic: Array
    p_value: Array
    replicates: Array
    null: Any
    alternative: Any


def likelihood_ratio_test(
    null: Node,
    alternative: Node,
    key: Array,
    x: Data,
    *,
    num_replicates: int,
    num_restarts: int = 10,
    solver: Any = EM(),  # noqa: B008
    stop: Any = RelativeGain(),  # noqa: B008
    max_steps: int = 1000,
) -> LikelihoodRatioTest:
    """Tests a model against a larger one, as K components against K + 1, by the parametric bootstrap.

    The usual chi-squared law does not hold there: under the null the larger model is not identified. Every data set, the
    observed one and the replicates alike, is fitted with both models from `num_restarts` starts.

    Args:
        null: the smaller model.
        alternative: the larger one.
        key: a typed PRNG key.
        x: data with N rows.
        num_replicates: B.
        num_restarts: starts of each fit.
        solver: as for `fit`.
        stop: as for `fit`.
        max_steps: as for `fit`.

    Returns:
        A `LikelihoodRatioTest`.

    Example:
        >>> import jax, jem
        >>> x = [[1], [2], [1], [9], [8], [9], [2], [8]]
        >>> test = jem.likelihood_ratio_test(
        ...     jem.Poisson(), jem.Mixture(jem.Poisson(), 2), jax.random.key(0), x, num_replicates=19, num_restarts=2)
        >>> bool(test.p_value <= 0.1)
        True

    Source: McLachlan (1987), JRSS C 36.
    """
    checks.check_key(key)
    checks.check_positive_int(num_replicates, "num_replicates")
    checks.check_positive_int(num_restarts, "num_restarts")
    x, _ = checked(null, x, None)
    return _test(null, alternative, key, x, solver, stop, sizes=(num_replicates, num_restarts, max_steps))


@functools.partial(jax.jit, static_argnames="sizes")
def _test(
    null: Node, alternative: Node, key: Array, x: Data, solver: Any, stop: Any, *, sizes: tuple[int, int, int]
) -> LikelihoodRatioTest:
    num_replicates, num_restarts, max_steps = sizes

    def fits(key: Array, x: Data) -> tuple[Any, Any]:
        first, second = jax.random.split(key)
        options: dict[str, Any] = {"num_restarts": num_restarts, "solver": solver, "stop": stop, "max_steps": max_steps}
        return fit_restarts(null, first, x, **options).best(), fit_restarts(alternative, second, x, **options).best()

    key, first = jax.random.split(key)
    small, large = fits(first, x)
    bound = null.bind(to_units(x), row_weights(x, None))

    def one(key: Array) -> Array:
        draw_key, fit_key = jax.random.split(key)
        drawn, _ = Parametric().draw(draw_key, bound, small.params, x, None)
        a, b = fits(fit_key, drawn)
        failed = (a.status == Status.NONFINITE) | (b.status == Status.NONFINITE)
        return jnp.where(failed, jnp.nan, 2 * (b.log_likelihood - a.log_likelihood))

    statistic = 2 * (large.log_likelihood - small.log_likelihood)
    simulated = lax.map(one, jax.random.split(key, num_replicates))
    p_value = (1 + jnp.sum(simulated >= statistic)) / (1 + jnp.sum(jnp.isfinite(simulated)))
    return LikelihoodRatioTest(statistic, p_value, simulated, small.params, large.params)

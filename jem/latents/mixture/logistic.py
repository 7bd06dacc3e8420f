"""Weights of a mixture by multinomial logistic regression, with a closed step."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jem import series_checks
from jem.composite import Wrapper
from jem.families.multinomial import Multinomial
from jem.families.regression.glm import GLM, GLMParams, GLMStats
from jem.families.regression.inputs import check_columns, scale_of
from jem.families.regression.responses import log_shares
from jem.node import INPUTS, ORDERLESS, Data, Node, node, replaced, set_once


class LogisticStats(NamedTuple):
    """Expected counts (K,), and the regression's statistics."""

    counts: Array
    regression: GLMStats


@node
class Logistic(Wrapper):
    """Weights that are a logistic regression on inputs u, `log(p(z = k | u) / p(z = 0 | u)) = coef_k u + intercept_k`.

    A linear `jem.laws.Gate` with an M-step of its own, the Newton step of `jem.GLM` that cannot overshoot: no gradient solver
    is needed. It makes a latent class model with covariates, a mixture of experts, or zero inflation that depends on inputs.
    The mixture's x is `jem.Given(outputs, inputs)`; components that take inputs see them too.

    Params: `GLMParams(coef (K - 1, p), level (K - 1,), (), centre (p,))`; the first component has zeros.

    Args:
        ridge: precision of a normal prior on each coefficient; None is maximum likelihood.
        columns: of u that it looks at, a tuple; None for all.

    Raises:
        ValueError: at the door, a mixture's x without inputs (N, p), or with one that is missing. Components that an input
            separates end as DEGENERATE, with the cause SEPARATED.

    Example:
        >>> import jax, jem, jax.numpy as jnp
        >>> u = jnp.arange(12.0)[:, None]
        >>> x = jem.Given(jnp.where(u > 5.5, 4.0, 0.0) + jnp.sin(9.0 * u), u)
        >>> model = jem.Mixture(jem.Gaussian(), 2, weights=jem.laws.Logistic(ridge=1.0))
        >>> jem.init(model, jax.random.key(0), x).weights.coef.shape
        (1, 1)

    Source: Dayton and Macready (1988), JASA 83 (concomitant variables); Jordan and Jacobs (1994), Neural Computation 6.
    """

    child: GLM

    def __init__(self, ridge: Any = None, columns: tuple[int, ...] | None = None):
        set_once(self, child=GLM(Multinomial(), ridge=ridge, columns=columns))

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({INPUTS} if self.child.ridge is not None else {INPUTS, ORDERLESS})

    def sized(self, size: int) -> "Logistic":
        """The law of K weights."""
        return self

    def params(self, coef: Any, intercept: Any) -> GLMParams:
        """Parameters from coefficients (K - 1, p) and intercepts (K - 1,), about a centre of 0."""
        return self.child.params(coef, intercept)

    def counts(self, stats: LogisticStats) -> Array:
        """Expected counts (K,)."""
        return stats.counts

    def permute(self, params: GLMParams, order: Array) -> GLMParams:
        def rows(a: Array) -> Array:
            every = jnp.concatenate([jnp.zeros_like(a[:1]), a])[order]
            return every[1:] - every[:1]

        return params._replace(coef=rows(params.coef), level=rows(params.level))

    def bind(self, x: Data, weights: Array) -> "Logistic":
        return replaced(self, child=replaced(self.child, inputs=scale_of(self.child.taken(x)[0], weights)))

    def infer(self, params: GLMParams, x: Data) -> tuple[tuple[()], Array]:
        return (), log_shares(self.child.predictors(params, x)[0])

    def expect(self, params: GLMParams, posterior: Any, x: Data, weights: Array) -> LogisticStats:
        return LogisticStats(jnp.sum(weights, 1), gather_shares(self.child, params, x, weights))

    def maximize(self, params: GLMParams, stats: LogisticStats) -> GLMParams:
        return self.child.maximize(params, stats.regression)

    def expected_log_prob(self, params: GLMParams, stats: LogisticStats, old: GLMParams) -> Array:
        return self.child.expected_log_prob(params, stats.regression, old)

    def degenerate(self, params: GLMParams, stats: LogisticStats) -> Array:
        return self.child.degenerate(params, stats.regression)

    def hold(self, params: GLMParams, stats: LogisticStats, fields: tuple[str, ...]) -> LogisticStats:
        return stats._replace(regression=self.child.hold(params, stats.regression, fields))

    def init(self, key: Array, x: Data, weights: Array) -> GLMParams:
        share, total = shares(weights)
        return self.child.start(share, x, total)

    def recentre(self, stats: LogisticStats, old: GLMParams, new: GLMParams) -> LogisticStats:
        # What is known of the regression holds about the old parameters only.
        return Node.recentre(self, stats, old, new)

    def validate(self, x: Data) -> None:
        series_checks.check_inputs(x, None, "Logistic")
        check_columns(x, self.child.columns, "Logistic")


def shares(weights: Array) -> tuple[Array, Array]:
    """Weights (K, N) as shares of their sums (N,), and these; zeros where there is none."""
    total = jnp.sum(weights, 0)
    return weights / jnp.where(total > 0, total, 1)[None], total


def gather_shares(regression: GLM, params: GLMParams, inputs: Array, weights: Array) -> GLMStats:
    """The statistics of a multinomial regression, of outputs that are known by shares, (K, N) of weights."""
    y, total = shares(weights)
    log = log_shares(regression.predictors(params, inputs)[0])
    return regression.gather(params, jnp.sum(jnp.where(y > 0, y * log, 0), 0), y, inputs, total)

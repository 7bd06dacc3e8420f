"""Transitions of a chain by multinomial logistic regression, with a closed step."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.combine.stack import Stack
from jem.composite import Wrapper
from jem.families.multinomial import Multinomial
from jem.families.regression.glm import GLM, GLMParams, GLMStats
from jem.families.regression.inputs import centre_of, check_columns, scale_of
from jem.families.regression.responses import log_shares
from jem.kernels.moves import Table
from jem.latents.chain.transition import Law
from jem.latents.mixture.logistic import gather_shares
from jem.node import INPUTS, Data, Node, node, replaced, set_once


@node
class LogisticCells(Law, Wrapper):
    """Transitions that are logistic regressions on inputs u, one a row:

        log(p(z_t = j | z_{t-1} = i, u_t) / p(z_t = 0 | z_{t-1} = i, u_t)) = coef_ij u_t + intercept_ij

    A linear `jem.laws.Driven` with an M-step of its own, the Newton step of `jem.GLM` that cannot overshoot: no gradient solver
    is needed. The chain's x is `jem.Given(outputs (S, T, ...), inputs (S, T, p))`, or `jem.Sequences` or `jem.Labelled` of one:
    the input of a step drives the transition into it. Emissions that take inputs see them too.

    Params: `GLMParams(coef (K, K - 1, p), level (K, K - 1), (), centre (K, p))`.

    Args:
        ridge: precision of a normal prior on each coefficient; None is maximum likelihood.
        columns: of u that it looks at, a tuple; None for all.

    Raises:
        ValueError: at the door, a chain's x without inputs, or with one that is missing. Moves that an input separates end as
            DEGENERATE, with the cause SEPARATED.

    Example:
        >>> import jax, jem, jax.numpy as jnp
        >>> model = jem.HMM(jem.Poisson(), 2, transition=jem.laws.LogisticCells(ridge=1.0))
        >>> counts, inputs = jnp.array([[1, 0, 2, 9, 8, 9, 1]]), jnp.array([[0, 0, 0, 1, 0, 0, 1]])
        >>> x = jem.Given(counts[..., None], inputs[..., None])
        >>> jem.init(model, jax.random.key(0), x).transition.coef.shape
        (2, 1, 1)

    Source: Visser and Speekenbrink (2010), J. Stat. Software 36(7), for transitions with covariates.
    """

    child: Any

    def __init__(self, ridge: Any = None, columns: tuple[int, ...] | None = None):
        set_once(self, child=GLM(Multinomial(), ridge=ridge, columns=columns))

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({INPUTS})

    def sized(self, size: int) -> "LogisticCells":
        return replaced(self, child=Stack(self.child, size))

    def params(self, coef: Any, intercept: Any) -> GLMParams:
        """Parameters from coefficients (K, K - 1, p) and intercepts (K, K - 1), about a centre of 0."""
        return self._row.params(coef, intercept)

    @property
    def _row(self) -> Any:
        return self.child.child if isinstance(self.child, Stack) else self.child

    def bind(self, x: Data, weights: Array) -> "LogisticCells":
        row = replaced(self._row, inputs=scale_of(self._row.taken(x)[0], weights))
        return replaced(self, child=replaced(self.child, child=row))

    def move(self, params: GLMParams, inputs: Array, steps: int) -> Table:
        logs = jax.vmap(lambda p: log_shares(self._row.predictors(p, inputs)[0]))(params)
        lanes = inputs.shape[-1] // (steps - 1) if steps > 1 else 1  # a step alone is of one sequence: the door sees to it
        logs = jnp.moveaxis(logs.reshape(*logs.shape[:2], steps - 1, lanes), 2, 0)
        return Table(jnp.exp(logs), logs)

    def gather(self, params: GLMParams, counts: Array, first: Array, inputs: Array) -> GLMStats:
        pairs = jnp.moveaxis(counts, 0, 2).reshape(*counts.shape[1:3], -1)
        return jax.vmap(lambda p, w: gather_shares(self._row, p, inputs, w))(params, pairs)

    def guess(self, key: Array, pairs: Array, inputs: Array, weights: Array) -> GLMParams:
        size, (log, centre) = len(pairs), (jnp.log(pairs + 1), centre_of(self._row.inputs, self._row.taken(inputs)[0], weights))
        none = jnp.zeros((size, size - 1, len(centre)), pairs.dtype)
        return GLMParams(none, log[:, 1:] - log[:, :1], (), jnp.broadcast_to(centre, (size, len(centre))))

    def recentre(self, stats: GLMStats, old: GLMParams, new: GLMParams) -> GLMStats:
        # What is known of the transitions holds about the old parameters only.
        return Node.recentre(self, stats, old, new)

    def validate(self, x: Data) -> None:
        checks.check_matrix(x, "LogisticCells: inputs")
        check_columns(x, self._row.columns, "LogisticCells")

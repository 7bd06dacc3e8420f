"""Solvers for E-steps that are not exact: a variational family, a sampler, and statistics averaged over steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.engine.solvers.assigned import Numbered, step_key
from jem.engine.step import EM, STATIONARY, SUMS, Around, EStep, Evaluated, Inner, Proposal
from jem.engine.stream import Total
from jem.node import Node, Params, Stats, node, setting, static
from jem.settings import number, whole


@node
class Variational(Around):
    """Variational EM: the E-step's q comes from a family that the user gives.

    What is climbed is the evidence lower bound `E_q[log p(x, z)] + H[q]`, `Fit.bound`, which never falls if `posterior` gives
    the best q of the family, or one no worse than the last. It is not the log-likelihood: that is reported beside it where it
    is known (`exact`), with `Fit.kl` the gap, and is NaN where it is not.

    Attributes:
        posterior: `posterior(model, params, x)`, units last, gives the q that `model.expect` takes and its bound (N,), one a
            unit. Keep one function: another one is another program.
        exact: whether `model.infer` gives the log-likelihood, for comparison; it costs the exact E-step.
        solver: what makes the steps.

    Raises:
        ValueError: a bound that is not one number a unit.

    Example:
        >>> import jax, jax.numpy as jnp, jem
        >>> def two_best(model, params, x):  # only the two most probable components of a unit take part
        ...     posterior, logits = model.log_joint(params, x)
        ...     least = jax.lax.top_k(logits.T, 2)[0][:, 1]
        ...     logits = jnp.where(logits >= least[None, :], logits, -jnp.inf)
        ...     q = jem.Mixture.Posterior(jax.nn.softmax(logits, axis=0), posterior)
        ...     return q, jax.nn.logsumexp(logits, axis=0)
        >>> x, model = jem.datasets.old_faithful(), jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 5)
        >>> start = jem.init(model, jax.random.key(0), x)
        >>> fit = jem.fit(model, start, x, solver=jem.solvers.Variational(two_best, exact=True))
        >>> bool(fit.converged), bool(fit.kl > 0)
        (True, True)

    Source: Neal and Hinton (1998); Jordan et al. (1999), Machine Learning 37.
    """

    posterior: Callable[[Node, Params, Any], tuple[Any, Array]] = static()
    exact: bool = static(default=False)
    solver: Any = EM()

    @property
    def traits(self) -> frozenset[str]:
        """The inner solver's, but for STATIONARY: the bound is stationary, not the objective."""
        return self.solver.traits - {STATIONARY}

    def e_step(self, model: Node, params: Params, total: Total, state: Inner) -> EStep:
        """What `posterior` gives: statistics, log-likelihood and bound."""

        def chunk(x: Any, weights: Array) -> tuple[Stats, Array, Array]:
            q, bound = self.posterior(model, params, x)
            if bound.shape != weights.shape:
                raise ValueError(f"Variational: posterior must give one bound a unit, shape {weights.shape}; got {bound.shape}")
            known = jnp.sum(weights * model.infer(params, x)[1]) if self.exact else jnp.full((), jnp.nan, weights.dtype)
            return model.expect(params, q, x, weights), known, jnp.sum(weights * bound)

        return EStep(*total(chunk))


@node
class MonteCarlo(Around):
    """Monte-Carlo EM with the user's sampler: the E-step's expectations are averages over draws of the hidden variables.

    `Q(params) = sum_m log p(x, z_m | params) / M` over M draws z_m. For models without `infer`. The objective reported is
    this, at the parameters, plus the log prior: a trace to look at, neither a bound nor the log-likelihood, which is NaN. It
    goes up and down, so no rule on gains ends the lane; `max_steps` does, as MAX_STEPS. Around it, `jem.solvers.SAEM` averages
    over steps as well.

    Attributes:
        key: a typed PRNG key; every restart, chunk and step draws for itself.
        draw: `draw(key, model, params, x)`, units last, gives hidden variables of all units of a chunk as `model.expect`
            takes them for a posterior: drawn from `p(z | x, params)`, or the end of a Markov chain that leaves it unchanged.
        num_draws: draws a step.
        solver: what makes the steps.

    Example:
        A BlackJAX kernel, one chain a unit (`log_joint(params, x, z)` is the user's, for one unit):

            def draw(key, model, params, x):
                def chain(key, x):
                    nuts = blackjax.nuts(lambda z: log_joint(params, x, z), step_size=0.5, inverse_mass_matrix=jnp.ones(1))
                    state = nuts.init(jnp.zeros(1))
                    step = lambda state, key: (nuts.step(key, state)[0], None)
                    return jax.lax.scan(step, state, jax.random.split(key, 20))[0].position
                return jax.vmap(chain, (0, -1), -1)(jax.random.split(key, x.shape[-1]), x)

            solver = jem.solvers.SAEM(jem.solvers.MonteCarlo(jax.random.key(0), draw))
            fit = jem.fit(model, start, x, solver=solver, max_steps=200)

    Source: Wei and Tanner (1990), JASA 85.
    """

    key: Array
    draw: Callable[[Array, Node, Params, Any], Any] = static()
    num_draws: int = static(default=1, must=whole(1))
    solver: Any = EM()

    @property
    def traits(self) -> frozenset[str]:
        """The inner solver's, but for STATIONARY: only up to the noise of the draws; and SUMS: it draws chunk by chunk."""
        return self.solver.traits - {STATIONARY, SUMS}

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, Numbered]:
        """Random numbers of its own for every lane, nothing drawn yet."""
        start, inner = self.solver.init(model, params, total, lane)
        return start._replace(settled=False), Numbered(inner, jnp.array(0, jnp.int32), jnp.asarray(lane, jnp.int32))

    def e_step(self, model: Node, params: Params, total: Total, state: Numbered) -> EStep:
        """Averages over the draws."""

        def chunk(x: Any, weights: Array, key: Array) -> Stats:
            each = jax.vmap(lambda k: self._draw(model, params, x, weights, k))(jax.random.split(key, self.num_draws))
            return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), each)

        stats = total.drawn(chunk, step_key(self.key, state.lane, state.count))
        value = model.expected_log_prob(params, stats, params)
        return EStep(stats, jnp.full_like(value, jnp.nan), value)

    def step(self, model: Node, seen: Evaluated, state: Numbered) -> tuple[Proposal, Numbered]:
        """The inner solver's step, with nothing to compare it with."""
        proposal, state = super().step(model, seen, state)
        proposal = proposal._replace(previous=-jnp.inf, floor=-jnp.inf, plain=2, settled=False)
        return proposal, state._replace(count=state.count + 1)

    def _draw(self, model: Node, params: Params, x: Any, weights: Array, key: Array) -> Stats:
        return model.expect(params, self.draw(key, model, params, x), x, weights)


class Averaged(NamedTuple):
    """The inner solver's state; running statistics and what they are about; the number of candidates evaluated."""

    inner: Any
    stats: Any
    centre: Params
    count: Array


@node
class SAEM(Around):
    """Stochastic-approximation EM: statistics of noisy E-steps are averaged over the steps, recentred as the parameters move.

    `s <- s + c (s_step - s)` with c = 1 for the first `burn_in` steps and `(steps since)^-exponent` then. The noise dies out
    and the parameters converge, though no gain tells: the lane ends by a rule on the parameters' change, which after the
    burn-in shrinks with c as well, or at `max_steps`.

    Attributes:
        solver: the solver with the noisy E-step, `jem.solvers.Stochastic(key, steps=float("inf"))` or
            `jem.solvers.MonteCarlo(key, draw)`.
        burn_in: steps without averaging.
        exponent: in (1/2, 1].

    Raises:
        TypeError: a node without `recentre`, named.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.Mixture(jem.Gaussian(), 2)
        >>> solver = jem.solvers.SAEM(jem.solvers.Stochastic(jax.random.key(1), steps=float("inf")))
        >>> fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, solver=solver, max_steps=100)
        >>> -1140 < float(fit.log_likelihood) < -1130
        True

    Source: Delyon, Lavielle and Moulines (1999), Annals of Statistics 27.
    """

    solver: Any
    burn_in: Any = setting(default=20, must=number(least=0.0, finite=False))
    exponent: Any = setting(default=1.0, must=number(above=0.5, most=1.0))

    @property
    def traits(self) -> frozenset[str]:
        """The inner solver's, but for STATIONARY: only up to what is left of the noise of the draws."""
        return self.solver.traits - {STATIONARY}

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, Averaged]:
        """The start, and room for the statistics."""
        start, inner = self.solver.init(model, params, total, lane)
        shapes = jax.eval_shape(lambda: self.solver.e_step(model, params, total, inner).stats)
        empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return start._replace(settled=False), Averaged(inner, empty, params, jnp.array(0, jnp.int32))

    def e_step(self, model: Node, params: Params, total: Total, state: Averaged) -> EStep:
        """The inner E-step, averaged with those before."""
        seen = self.solver.e_step(model, params, total, state.inner)
        since = jnp.maximum(state.count - self.burn_in + 1, 1)
        step = jnp.where(state.count < self.burn_in, 1, since ** -jnp.asarray(self.exponent, float)).astype(seen.bound.dtype)
        before = model.recentre(state.stats, state.centre, params)
        stats = jax.tree.map(lambda old, new: jnp.where(step < 1, old + step * (new - old), new), before, seen.stats)
        return seen._replace(stats=stats)

    def step(self, model: Node, seen: Evaluated, state: Averaged) -> tuple[Proposal, Averaged]:
        """The inner solver's step from the average.

        There is nothing to compare it with; after the burn-in a rule that does not ask for gains may end the lane.
        """
        proposal, inner = self.solver.step(model, seen, state.inner)
        state = Averaged(inner, seen.stats, seen.params, state.count + 1)
        settled = state.count > self.burn_in
        return proposal._replace(previous=-jnp.inf, floor=-jnp.inf, plain=2, settled=settled), state

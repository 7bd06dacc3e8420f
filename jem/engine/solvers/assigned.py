"""Solvers with another E-step for discrete hidden variables: tempered, most probable, or drawn. See `jem.kernels.assign`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.engine.step import EM, STATIONARY, SUMS, Around, Counted, EStep, Inner, Proposal, Unsettled
from jem.engine.stream import Total
from jem.kernels.assign import Drawn, Hardest, Tempered
from jem.node import Node, Params, Stats, assign, has_discrete, node, setting, static
from jem.settings import number, whole


class Numbered(NamedTuple):
    """The inner solver's state, the number of candidates evaluated, and the lane's number."""

    inner: Any
    count: Array
    lane: Array


@node
class Annealed(Unsettled):
    """Deterministic annealing: for the first `steps` steps the posterior of the discrete hidden variables is tempered.

    `q(z) ~ p(x, z)^b`, with b growing geometrically from `start` to 1: at first all components see all units, and the better
    optimum is easier to find. Then EM (or the solver given) climbs to the end. The objective reported is the true one
    throughout; while b < 1 it may fall.

    Attributes:
        start: b at the first step, > 0. Below about 1 / (number of components) all components coincide for a while, and only
            rounding tells them apart; above 1 the posterior is sharpened instead.
        steps: number of tempered steps.
        solver: what makes the steps; accelerators go around, `jem.solvers.Anderson(jem.solvers.Annealed())`, and wait.

    Raises:
        ValueError: a model without a discrete hidden variable.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.Mixture(jem.Gaussian(), 2)
        >>> fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=2, solver=jem.solvers.Annealed())
        >>> bool(fits.converged.all())
        True

    Source: Ueda and Nakano (1998), Neural Networks 11.
    """

    start: Any = setting(default=0.5, must=number(above=0.0))
    steps: Any = setting(default=40, must=number(above=0.0))
    solver: Any = EM()

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, Counted]:
        """The first temperature."""
        check_discrete(model, "Annealed")
        return super().init(model, params, total, lane)

    def e_step(self, model: Node, params: Params, total: Total, state: Counted) -> EStep:
        """Tempered statistics, and the log-likelihood as it is."""

        def chunk(x: Any, weights: Array) -> tuple[Stats, Array]:
            log_prob = model.infer(params, x)[1]
            start = jnp.asarray(self.start, log_prob.dtype)
            power = start ** jnp.maximum(1 - state.count / self.steps, 0).astype(log_prob.dtype)
            tempered = assign(model, Tempered(power))
            return tempered.expect(params, tempered.infer(params, x)[0], x, weights), jnp.sum(weights * log_prob)

        stats, log_likelihood = total(chunk)
        return EStep(stats, log_likelihood, log_likelihood)


@node
class Hard(Around):
    """Hard EM: discrete hidden variables take their most probable values.

    k-means falls out with spherical Gaussians of one variance and equal weights, Viterbi training with a chain. What is
    climbed is `max_z log p(x, z)`, a lower bound of the log-likelihood, `Fit.bound`; it never falls, and EM's own maximum is
    another one. `Fit.kl` is what the bound leaves.

    Attributes:
        solver: what makes the steps.

    Raises:
        ValueError: a model without a discrete hidden variable.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> balls = jem.Tied(jem.Gaussian(jem.covariance.Spherical()), 2, "whitening")
        >>> k_means = jem.Frozen(jem.Mixture(balls), weights=[0.5, 0.5])
        >>> fit = jem.fit_restarts(k_means, jax.random.key(0), x, num_restarts=4, solver=jem.solvers.Hard()).best()
        >>> bool(fit.converged), bool(fit.bound < fit.log_likelihood)
        (True, True)

    Source: Celeux and Govaert (1992), Comput. Stat. Data Anal. 14; Juang and Rabiner (1990), IEEE Trans. ASSP 38.
    """

    solver: Any = EM()

    @property
    def traits(self) -> frozenset[str]:
        """The inner solver's, but for STATIONARY: EM ends elsewhere."""
        return self.solver.traits - {STATIONARY}

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, Inner]:
        check_discrete(model, "Hard")
        return super().init(model, params, total, lane)

    def e_step(self, model: Node, params: Params, total: Total, state: Inner) -> EStep:
        """Statistics of the most probable values, the log-likelihood, and the joint log-density as its bound."""
        hard = assign(model, Hardest())

        def chunk(x: Any, weights: Array) -> tuple[Stats, Array, Array]:
            posterior, value = hard.infer(params, x)
            stats = hard.expect(params, posterior, x, weights)
            return stats, jnp.sum(weights * model.infer(params, x)[1]), jnp.sum(weights * value)

        return EStep(*total(chunk))


@node
class Stochastic(Unsettled):
    """Stochastic EM: for the first `steps` steps discrete hidden variables are drawn from their posterior.

    With one draw it is Celeux and Diebolt's SEM, whose noise leaves saddles and small optima; with many it is Monte-Carlo EM.
    Then EM (or the solver given) climbs to the end; with `steps=float("inf")` the chain runs to `max_steps`. The
    log-likelihood is exact throughout.

    Attributes:
        key: a typed PRNG key; every restart draws for itself.
        steps: number of steps with draws.
        num_draws: draws a step.
        solver: what makes the steps.

    Raises:
        ValueError: a model without a discrete hidden variable.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.Mixture(jem.Gaussian(), 2)
        >>> noisy = jem.solvers.Stochastic(jax.random.key(1), steps=10)
        >>> bool(jem.fit(model, jem.init(model, jax.random.key(0), x), x, solver=noisy).converged)
        True

    Source: Celeux and Diebolt (1985), Comput. Stat. Quarterly 2; Wei and Tanner (1990), JASA 85.
    """

    key: Array
    steps: Any = setting(default=30, must=number(least=0.0, finite=False))
    num_draws: int = static(default=1, must=whole(1))
    solver: Any = EM()

    @property
    def traits(self) -> frozenset[str]:
        """The inner solver's, but for STATIONARY: it does not come to rest; and SUMS: it draws chunk by chunk."""
        return self.solver.traits - {STATIONARY, SUMS}

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, Numbered]:
        """Random numbers of its own for every lane, nothing drawn yet."""
        check_discrete(model, "Stochastic")
        start, state = super().init(model, params, total, lane)
        return start, Numbered(state.inner, state.count, jnp.asarray(lane, jnp.int32))

    def e_step(self, model: Node, params: Params, total: Total, state: Numbered) -> EStep:
        """Statistics of the draws while they last, then of the posterior; the log-likelihood as it is."""

        def chunk(x: Any, weights: Array, key: Array) -> tuple[Stats, Array]:
            posterior, log_prob = model.infer(params, x)

            # A branch takes the bits of keys: under vmap it selects its arguments, which would use a key up.
            bits = jax.random.key_data(jax.random.split(key, self.num_draws))

            def draw(bits: Array) -> Stats:
                drawn = assign(model, Drawn(jax.random.wrap_key_data(bits, impl=jax.random.key_impl(key))))
                return drawn.expect(params, drawn.infer(params, x)[0], x, weights)

            def average() -> Stats:
                return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), jax.vmap(draw)(bits))

            stats = lax.cond(state.count < self.steps, average, lambda: model.expect(params, posterior, x, weights))
            return stats, jnp.sum(weights * log_prob)

        stats, log_likelihood = total.drawn(chunk, step_key(self.key, state.lane, state.count))
        return EStep(stats, log_likelihood, log_likelihood)


def step_key(key: Array, lane: Array, count: Array) -> Array:
    """A key for one step of one lane. States hold no keys, which may be used once only."""
    return jax.random.fold_in(jax.random.fold_in(key, lane), count)


def check_discrete(model: Node, name: str) -> None:
    """The model must have a hidden variable that a rule can set."""
    if not has_discrete(model):
        raise ValueError(
            f"{name}: {type(model).__name__} has no discrete hidden variable that can be set; use it with jem.Mixture, jem.HMM "
            "or a model that holds one"
        )

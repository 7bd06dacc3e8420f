"""States that last: how long a chain stays is drawn on entering a state, from a law of its own. Hidden semi-Markov models.

The laws here are `jem.durations.Categorical`, `Poisson` and `NegativeBinomial`, with parameters of K states; `Durations` makes
a transition law of one.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem import checks
from jem.composite import Composite
from jem.kernels import chain
from jem.kernels import durations as kernel
from jem.kernels.roots import falling_root
from jem.kernels.simplex import log_dirichlet, maximize_simplex, safe_log, xlogy
from jem.kernels.stays import Stays
from jem.kernels.support import Interval, Rate, Simplex
from jem.latents.chain.transition import Cells, Law
from jem.node import ORDERLESS, Node, Params, Stats, node, replaced, set_once, setting, static
from jem.settings import a, number, optional, whole


class CategoricalParams(NamedTuple):
    """Probabilities (K, D) of stays of 1 .. D steps, the last of D or more."""

    probs: Array


class PoissonParams(NamedTuple):
    """Mean numbers (K,) of steps after the first."""

    rate: Array


class NegativeBinomialParams(NamedTuple):
    """Mean numbers m (K,) of steps after the first, and sizes r (K,): variance m + m^2 / r; r = 1 is geometric."""

    mean: Array
    size: Array


class StayLaw(Node):
    """A law of durations d = 1 .. D of K states, D standing for D or more.

    Write `log_probs` (K, D), `start` from expected counts (K, D), and of a node `maximize`, `supports`, for statistics that are
    such counts.
    """

    longest: int

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({ORDERLESS})

    def sized(self, size: int) -> Self:
        """The law of K states; raises where settings do not fit."""
        return self

    def permute(self, params: Params, order: Array) -> Params:
        return jax.tree.map(lambda leaf: leaf[order], params)

    def log_probs(self, params: Params) -> Array:
        """Log-probabilities (K, D)."""
        raise TypeError(f"{type(self).__name__} does not define log_probs")

    def start(self, counts: Array) -> Params:
        """Parameters, from expected counts (K, D), all positive."""
        raise TypeError(f"{type(self).__name__} does not define start")

    def expected_log_prob(self, params: Params, stats: Array, old: Params) -> Array:
        return jnp.sum(kernel.score(self.log_probs(params), stats))

    def recentre(self, stats: Array, old: Params, new: Params) -> Array:
        return stats


@node
class Categorical(StayLaw):
    """Any law of durations, `p(d) = probs_d`; the M-step is `probs_kd = n_kd / sum_d n_kd`.

    Params: `CategoricalParams(probs (K, D))`.

    Attributes:
        longest: D; its probability is that of D steps or more.
        concentration: Dirichlet prior, scalar or (D,); 1 is maximum likelihood.

    Example:
        >>> import jem
        >>> jem.durations.Categorical(20).longest
        20

    Source: Rabiner (1989), Proc. IEEE 77, section IV.D.
    """

    Params = CategoricalParams

    longest: int = static(must=whole(1))
    concentration: Any = setting(default=1.0, must=number(above=0.0))

    def sized(self, size: int) -> "Categorical":
        if np.shape(self.concentration) not in ((), (self.longest,)):
            got = np.shape(self.concentration)
            raise ValueError(f"Categorical: concentration must be a number or have shape (D,) = ({self.longest},); got {got}")
        return self

    def log_probs(self, params: CategoricalParams) -> Array:
        return safe_log(params.probs)

    def start(self, counts: Array) -> CategoricalParams:
        return CategoricalParams(counts / jnp.sum(counts, 1, keepdims=True))

    def maximize(self, params: CategoricalParams, stats: Array) -> CategoricalParams:
        return CategoricalParams(maximize_simplex(stats, params.probs, self.concentration, returns=True))

    def expected_log_prob(self, params: CategoricalParams, stats: Array, old: CategoricalParams) -> Array:
        return jnp.sum(xlogy(stats, params.probs))

    def log_prior(self, params: CategoricalParams) -> Array:
        return log_dirichlet(params.probs, self.concentration)

    def supports(self, params: CategoricalParams) -> CategoricalParams:
        return params._replace(probs=Simplex())


@node
class Poisson(StayLaw):
    """`d - 1 ~ Poisson(rate)`.

    The M-step is the mean of d - 1, where no stay outlasts D; with such the root of `sum_x n_x (x - rate) + n_D s(rate)`, s the
    derivative of `log P(d >= D)` by the log of the rate.

    Params: `PoissonParams(rate (K,))`.

    Attributes:
        longest: D; exact for sequences of up to D steps, as a stay of D steps or more is told from longer ones by nothing.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> law = jem.durations.Poisson(40)
        >>> law.log_probs(jem.durations.Poisson.Params(jnp.array([3.0, 10.0]))).shape
        (2, 40)

    Source: Bulla, Bulla and Nenadic (2010), Comput. Stat. Data Anal. 54.
    """

    Params = PoissonParams

    longest: int = static(must=whole(1))

    def log_probs(self, params: PoissonParams) -> Array:
        return kernel.log_poisson(params.rate, self.longest)

    def start(self, counts: Array) -> PoissonParams:
        return PoissonParams(_mean(counts))

    def maximize(self, params: PoissonParams, stats: Array) -> PoissonParams:
        return PoissonParams(_best_mean(lambda rate, _: self.log_probs(PoissonParams(rate)), params.rate, params.rate, stats))

    def supports(self, params: PoissonParams) -> PoissonParams:
        return params._replace(rate=Rate())


@node
class NegativeBinomial(StayLaw):
    """`d - 1` is negative binomial with mean m and size r: `p = r / (r + m)`, variance `m + m^2 / r`.

    The M-step is the mean of d - 1 where no stay outlasts D, and the root of the derivative by r; both in turn where some do.
    Size 1 is the geometric law of an ordinary chain, large sizes are nearly Poisson; sizes are within [0.01, 1e4].

    Params: `NegativeBinomialParams(mean (K,), size (K,))`.

    Attributes:
        longest: D; exact for sequences of up to D steps, as a stay of D steps or more is told from longer ones by nothing.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> law = jem.durations.NegativeBinomial(40)
        >>> law.log_probs(jem.durations.NegativeBinomial.Params(jnp.array([3.0]), jnp.array([1.0]))).shape
        (1, 40)

    Source: Bulla, Bulla and Nenadic (2010), Comput. Stat. Data Anal. 54.
    """

    Params = NegativeBinomialParams

    longest: int = static(must=whole(1))

    def log_probs(self, params: NegativeBinomialParams) -> Array:
        return kernel.log_negative_binomial(params.mean, params.size, self.longest)

    def start(self, counts: Array) -> NegativeBinomialParams:
        mean = _mean(counts)
        return NegativeBinomialParams(mean, jnp.ones_like(mean))

    def maximize(self, params: NegativeBinomialParams, stats: Array) -> NegativeBinomialParams:
        held = lax.stop_gradient(stats)

        def both(_: int, old: tuple[Array, Array]) -> tuple[Array, Array]:
            mean, size = old
            mean = _best_mean(lambda m, r: self.log_probs(NegativeBinomialParams(m, r)), mean, size, held)
            return mean, self._best_size(mean, size, held)

        mean, size = lax.stop_gradient(lax.fori_loop(0, ROUNDS, both, lax.stop_gradient((params.mean, params.size))))
        return NegativeBinomialParams(*self._polished(mean, size, stats))

    def _best_size(self, mean: Array, size: Array, counts: Array) -> Array:
        def slope(z: Array, mean: Array, counts: Array) -> Array:
            table = lambda z: self.log_probs(NegativeBinomialParams(mean, jnp.exp(z)))
            return kernel.slope(lambda z: kernel.score(table(z), counts), z)

        log_size = falling_root(slope, *map(jnp.log, SIZES), mean, counts)
        new = jnp.clip(jnp.exp(log_size), *SIZES)
        return jnp.where(jnp.sum(counts[:, 1:], 1) > 0, new, size)  # of stays of one step nothing is learnt

    def _polished(self, mean: Array, size: Array, counts: Array) -> tuple[Array, Array]:
        """Newton steps of both together, which bring the derivative too; none where it would be no climb."""

        def value(z: Array, counts: Array) -> Array:  # of one state, z (2,) logarithms
            mean, size = jnp.exp(z)[:, None]
            return kernel.score(self.log_probs(NegativeBinomialParams(mean, size)), counts[None])[0]

        def newton(_: int, z: Array, counts: Array) -> Array:
            (a, b), (_, d) = lax.stop_gradient(jax.hessian(value)(z, counts))
            u, v = jax.grad(value)(z, counts)
            det = a * d - b * b
            steep = (a < 0) & (det > 0)
            step = jnp.stack([d * u - b * v, a * v - b * u]) / jnp.where(steep, det, 1)
            new = z - step
            climbs = steep & (new[1] < jnp.log(SIZES[1])) & (value(new, counts) >= value(z, counts))
            return jnp.where(climbs, new, z)

        known = (jnp.sum(counts[:, 1:], 1) > 0) & (mean > 0)
        z = jnp.log(jnp.stack([jnp.where(known, mean, 1), size], 1))
        top = jax.vmap(lambda z, counts: lax.fori_loop(0, 3, functools.partial(newton, counts=counts), z))(z, counts)
        new = jnp.where(known[:, None], jnp.exp(top), jnp.stack([mean, size], 1))
        return new[:, 0], jnp.clip(new[:, 1], *SIZES)

    def supports(self, params: NegativeBinomialParams) -> NegativeBinomialParams:
        return params._replace(mean=Rate(), size=Interval(*SIZES))


SIZES = (1e-2, 1e4)  # sizes are sought within; beyond, a negative binomial law is as good as another one
ROUNDS = 6  # of mean and size, which depend on each other where stays outlast D


def _mean(counts: Array) -> Array:
    x = jnp.arange(counts.shape[1], dtype=counts.dtype)
    total = jnp.sum(counts, 1)
    return counts @ x / jnp.where(total > 0, total, 1)


def _best_mean(table: Callable[[Array, Array], Array], mean: Array, size: Array, counts: Array) -> Array:
    """The mean (K,) that makes expected counts (K, D) most probable, of `table(mean, size)`; the old one without counts."""
    outlast, longest = counts[:, -1], counts.shape[1]
    total = jnp.sum(counts, 1)

    def slope(z: Array, size: Array, counts: Array) -> Array:
        return kernel.slope(lambda z: kernel.score(table(jnp.exp(z), size), counts), z)

    plain = _mean(counts)
    if longest > 1:
        ends = (jnp.log(jnp.finfo(mean.dtype).eps), jnp.log(1e3 * longest))
        plain = jnp.where(outlast > 0, jnp.exp(falling_root(slope, *ends, size, counts)), plain)
    return jnp.where(total > 0, plain, mean)


def _outlasts(labels: Array, lengths: Array | None, once: Array, longest: Array) -> Array:
    """Steps (S, T) at which a state has been known for more than `longest` steps, in states that are held `once`."""
    steps = jnp.arange(labels.shape[1])[None]
    begins = jnp.pad(labels[:, 1:] != labels[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    since = lax.cummax(jnp.where(begins, steps, 0), axis=1)
    within = True if lengths is None else steps < lengths[:, None]
    return (steps - since >= longest) & (labels >= 0) & jnp.take(once, labels, mode="clip") & within


class DurationsParams(NamedTuple):
    """Of where a stay leads, `TransitionParams(probs (K, K))`, and of how long it lasts."""

    moves: Params
    stays: Params


class DurationsStats(NamedTuple):
    """Expected moves between stays (K, K), and durations (K, D)."""

    moves: Stats
    stays: Array


@node
class Durations(Law, Composite):
    """Transitions of a hidden semi-Markov model: a state is held for a number of steps that has a law of its own.

    On entering state j, with probability `moves[i, j]` after a stay in i, its duration d is drawn from `stays`. The first stay
    begins with the sequence; the last one may outlast it. Exact EM, as the chain of states and steps that are left is a Markov
    chain; a step costs `K D + K^2`.

    Params: `DurationsParams(moves, stays)`: `TransitionParams(probs (K, K))` and those of the law of durations.

    Args:
        stays: the law of durations: `jem.durations.Categorical(D)`, `Poisson(D)` or `NegativeBinomial(D)`.
        moves: the law of what follows a stay, a `jem.laws.Cells`; None lets a state follow every other one.
        censored: whether the last stay may last beyond the end of its sequence; if not, it ends there, as draws then do, and
            `log p(x)` is that of x and of this.

    Raises:
        ValueError: at the door, labels that keep a state for more than D steps.

    Example:
        >>> import jem
        >>> model = jem.HMM(jem.Poisson(), 2, transition=jem.laws.Durations(jem.durations.NegativeBinomial(60)))
        >>> model.transition.stays.longest
        60

    Source: Yu (2010), Artificial Intelligence 174, section 2; Rabiner (1989), Proc. IEEE 77, section IV.D.
    """

    Params = DurationsParams

    stays: StayLaw = setting(must=a("log_probs", "a law of durations such as jem.durations.Poisson(50)"))
    moves: Any = setting(must=optional(a("fixed", "a jem.laws.Cells")))
    censored: bool = static()

    def __init__(self, stays: StayLaw, moves: Cells | None = None, censored: bool = True):
        set_once(self, stays=stays, moves=moves, censored=censored)

    def sized(self, size: int) -> "Durations":
        others = Cells(np.where(np.eye(size, dtype=bool), 0.0, np.nan)) if size > 1 else Cells()
        return replaced(self, moves=(others if self.moves is None else self.moves).sized(size), stays=self.stays.sized(size))

    @property
    def traits(self) -> frozenset[str]:
        return self.moves.traits & self.stays.traits & {ORDERLESS}

    def parts(self) -> dict[str, Node]:
        return {"moves": self.moves, "stays": self.stays}

    def move(self, params: DurationsParams, inputs: None, steps: int) -> Stays:
        moves, stays = self.moves.move(params.moves, None, steps), self.stays.log_probs(params.stays)
        return Stays((moves.values, jnp.exp(stays)), (safe_log(moves.values), stays))

    def gather(self, params: DurationsParams, counts: Any, first: Array, inputs: None) -> DurationsStats:
        moves, stays = counts
        return DurationsStats(moves, stays + first.reshape(stays.shape))

    def guess(self, key: Array, pairs: Array, inputs: None, weights: Array) -> DurationsParams:
        # As many stays of each state as there are moves out of it, geometric as a chain's are.
        stay = jnp.diagonal(pairs) + 1
        left = jnp.sum(pairs, 1) - stay + 2
        d = jnp.arange(self.stays.longest, dtype=pairs.dtype)[None]
        table = (stay / (stay + left))[:, None] ** d
        away = jnp.where(jnp.eye(pairs.shape[0], dtype=bool), 0, pairs)
        counts = left[:, None] * table / jnp.sum(table, 1, keepdims=True)
        return DurationsParams(self.moves.guess(key, away, None, weights), self.stays.start(counts))

    def check_labels(self, labels: Array, lengths: Array | None) -> None:
        fixed, longest = self.moves.fixed, self.stays.longest
        if fixed is None or not checks.is_concrete(fixed) or labels.dtype == jnp.bool_:
            return
        once = jnp.asarray(np.diagonal(np.asarray(fixed)) == 0)  # states that no stay of their own follows
        if checks.found(_outlasts, labels, lengths, once, longest):
            fault = checks.first_fault(_outlasts, labels, lengths, once, longest)
            raise ValueError(
                f"Durations: labels keep sequence {fault.place[0]} in state {fault.value} for more than {longest} steps, up to "
                f"step {fault.place[1]}; a stay lasts at most `longest`: give a law of durations of more, or "
                "moves=jem.laws.Cells(), which lets a stay follow one in the same state"
            )

    def begin(self, initial: Array, move: Stays) -> Array:
        return (initial[:, None] * move.values[1]).reshape(-1)

    def spread(self, log_e: Array, within: Array) -> Array:
        steps, size, lanes = log_e.shape
        cells = jnp.broadcast_to(log_e[:, :, None], (steps, size, self.stays.longest, lanes))
        if not self.censored:
            last = within & ~jnp.pad(within[1:], ((0, 1), (0, 0)))
            ends = (jnp.arange(self.stays.longest) == 0)[None, None, :, None]
            cells = jnp.where(ends | ~last[:, None, None], cells, -jnp.inf)
        return cells.reshape(steps, -1, lanes)

    def draw(self, key: Array, first: Array, move: Stays, within: Array) -> Array:
        if self.censored:
            return super().draw(key, first, move, within)
        # Nothing is seen but that the last stay ends.
        steps, lanes = within.shape
        blank = jnp.zeros((steps, first.shape[0] // self.stays.longest, lanes), first.dtype)
        s = chain.smooth(first, move, self.spread(blank, within))
        return self.state_of(chain.sample_posterior(key, move.log(), s.log_filtered))

    def states(self, q: Array) -> Array:
        *front, size, lanes = q.shape
        return jnp.sum(q.reshape(*front, size // self.stays.longest, self.stays.longest, lanes), -2)

    def state_of(self, cells: Array) -> Array:
        return cells // self.stays.longest


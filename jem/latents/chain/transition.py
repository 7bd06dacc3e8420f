"""Transition laws of a chain, a part of it: how its hidden state moves. Free cells; driven by inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jax import Array

from jem import checks, series_checks
from jem.composite import Wrapper
from jem.families import user
from jem.families.autodiff import Density
from jem.kernels import chain
from jem.kernels.moves import Move, Table
from jem.kernels.simplex import maximize_simplex, safe_log, xlogy
from jem.kernels.support import Simplex
from jem.latents.mixture.weights import LogSoftmax
from jem.node import INPUTS, ORDERLESS, Data, Node, Params, Stats, node, replaced, set_once, setting, static
from jem.reading import as_array, as_numbers
from jem.settings import number


class TransitionParams(NamedTuple):
    """Transition matrix (K, K), rows sum to one."""

    probs: Array


class Law(Node):
    """How a chain's hidden state moves.

    Write `move`, which says it to the chain's recursions, `gather`, which makes statistics of what these counted, `guess`, and
    of a node `maximize`, `expected_log_prob`, `supports`. A chain of K states may run over more cells than these, M, to
    remember more than its state: then write `begin`, `spread`, `states` and `state_of` too. T steps, S sequences.
    """

    @property
    def settles(self) -> bool:
        """Whether there is a law of one state that the chain may stay in."""
        return False

    def sized(self, size: int) -> Self:
        """The law of K states."""
        return self

    def move(self, params: Params, inputs: Any, steps: int) -> Move:
        """The move between T steps; inputs (p, (T - 1) S) of the steps after the first, or None."""
        raise TypeError(f"{type(self).__name__} does not define move")

    def gather(self, params: Params, counts: Any, first: Array, inputs: Any) -> Stats:
        """Statistics, from the move's counts and the expected first cells (M,)."""
        raise TypeError(f"{type(self).__name__} does not define gather")

    def guess(self, key: Array, pairs: Array, inputs: Any, weights: Array) -> Params:
        """A start, from expected moves (K, K) of a first guess of the path; inputs as in `move`, and what they weigh."""
        raise TypeError(f"{type(self).__name__} does not define guess")

    def check_labels(self, labels: Array, lengths: Array | None) -> None:
        """Raises ValueError, naming the place, where no path of this law has the states (S, T) that are known."""

    def begin(self, initial: Array, move: Any) -> Array:
        """The probabilities (M,) of the first cell, from those of the first state (K,) and the move."""
        return initial

    def spread(self, log_e: Array, within: Array) -> Array:
        """Log-likelihoods (T, M, S) of the cells, from those of the states; `within` (T, S) their sequences."""
        return log_e

    def states(self, q: Array) -> Array:
        """Probabilities (..., K, S) of the states, from those of the cells (..., M, S)."""
        return q

    def state_of(self, cells: Array) -> Array:
        """The states of cells."""
        return cells

    def margins(self, visits: Array) -> Array:
        """Expected steps in what the law tells apart, from those in each state (K,)."""
        return visits

    def draw(self, key: Array, first: Array, move: Move, within: Array) -> Array:
        """States (T, S) of sequences that lie `within`, from the law of the first cell (M,) and the move."""
        return self.state_of(chain.sample_path(key, safe_log(first), move.log(), *within.shape))

    def recentre(self, stats: Stats, old: Params, new: Params) -> Stats:
        return stats


@node
class Cells(Law):
    """A transition matrix, `p(z_t = j | z_{t-1} = i) = probs[i, j]`, with free, fixed and forbidden cells.

    The M-step is `probs[i, j] = counts[i, j] / sum_j counts[i, j]`; where a row has fixed cells, its free cells share
    what these leave in the same proportions. A cell that starts at zero stays at zero, under a prior too, so left-right and
    band structures stay exact.

    Params: `TransitionParams(probs (K, K))`.

    Args:
        fixed: (K, K) with the values of fixed cells and NaN in the free ones; a fixed zero forbids a transition.
        concentration: Dirichlet prior on each row, scalar or (K, K); 1 is maximum likelihood. Above 1 on the diagonal makes
            states persist.

    Raises:
        ValueError: cells or a prior of another shape than (K, K); fixed cells that are no probabilities.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> nan = float("nan")
        >>> left_right = jem.laws.Cells(fixed=[[nan, nan, 0.0], [0.0, nan, nan], [0.0, 0.0, 1.0]])
        >>> left_right.params([[0.5, 0.5, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]]).probs.shape
        (3, 3)

    Source: Rabiner (1989), eq. 40b.
    """

    Params = TransitionParams

    fixed: Any
    concentration: Any = setting(must=number(above=0.0))
    alike: bool = static()

    def __init__(self, fixed: Any = None, concentration: Any = 1.0):
        alike = fixed is None
        if fixed is not None:
            known = checks.is_concrete(fixed)  # on the host: making a node starts no backend
            name = "Cells: fixed"
            fixed = as_numbers(fixed, name).astype(float) if known else jnp.asarray(as_array(fixed, name), float)
            series_checks.check_fixed_cells(fixed)
            alike = known and all(len(np.unique(v)) < 2 for v in (np.diag(fixed), fixed[~np.eye(len(fixed), dtype=bool)]))
        set_once(self, fixed=fixed, concentration=concentration, alike=bool(alike))

    @property
    def traits(self) -> frozenset[str]:
        # What is held tells states apart, unless it is the same of all.
        return frozenset({ORDERLESS} if self.alike else ())

    def sized(self, size: int) -> "Cells":
        if self.fixed is not None and self.fixed.shape != (size, size):
            raise ValueError(f"Cells: fixed must have shape (K, K) = {(size, size)}; got {self.fixed.shape}")
        if np.shape(self.concentration) not in ((), (size,), (size, size)):
            got = np.shape(self.concentration)
            raise ValueError(f"Cells: concentration must be a number or have shape (K, K) = {(size, size)}; got {got}")
        return self

    def permute(self, params: TransitionParams, order: Array) -> TransitionParams:
        return TransitionParams(params.probs[order][:, order])

    def params(self, probs: Any) -> TransitionParams:
        """Parameters from a transition matrix.

        Args:
            probs: (K, K), rows sum to one.

        Raises:
            ValueError: no square matrix, or a row that is no distribution, naming it.

        Example:
            >>> import jem
            >>> jem.laws.Cells().params([[0.9, 0.1], [0.5, 0.5]]).probs.shape
            (2, 2)
        """
        probs = jnp.asarray(probs, float)
        if probs.ndim != 2 or probs.shape[0] != probs.shape[1]:
            raise ValueError(f"Cells: probs must have shape (K, K); got {probs.shape}")
        series_checks.check_stochastic(probs, "Cells: probs")
        return TransitionParams(probs)

    @property
    def settles(self) -> bool:
        return True

    def move(self, params: TransitionParams, inputs: None, steps: int) -> Table:
        return Table(params.probs)

    def gather(self, params: TransitionParams, counts: Array, first: Array, inputs: None) -> Array:
        return counts

    def maximize(self, params: TransitionParams, stats: Array) -> TransitionParams:
        if self.fixed is None:
            return TransitionParams(maximize_simplex(stats, params.probs, self.concentration, returns=True))
        # A zero cell has no prior mass: pseudo-counts must not open what is forbidden.
        free = jnp.isnan(self.fixed)
        held = jnp.where(free, 0, self.fixed).astype(stats.dtype)
        left = 1 - jnp.sum(held, 1, keepdims=True)
        extra = jnp.where(free & (params.probs > 0), jnp.asarray(self.concentration, stats.dtype) - 1, 0)
        mass = jnp.where(free, jnp.maximum(stats + extra, 0), 0)
        total = jnp.sum(mass, 1, keepdims=True)
        new = held + left * mass / jnp.where(total > 0, total, 1)
        return TransitionParams(jnp.where(free & (total == 0), params.probs, new))

    def expected_log_prob(self, params: TransitionParams, stats: Array, old: TransitionParams) -> Array:
        return jnp.sum(xlogy(stats, params.probs))

    def guess(self, key: Array, pairs: Array, inputs: None, weights: Array) -> TransitionParams:
        free = jnp.ones(pairs.shape, bool) if self.fixed is None else jnp.isnan(self.fixed)
        even = jnp.where(free, 1.0, 0.0).astype(pairs.dtype)
        return self.maximize(TransitionParams(even), pairs + even)

    def log_prior(self, params: TransitionParams) -> Array:
        free = params.probs > 0 if self.fixed is None else (jnp.isnan(self.fixed) & (params.probs > 0))
        more = jnp.broadcast_to(jnp.asarray(self.concentration, params.probs.dtype) - 1, params.probs.shape)
        return jnp.sum(jnp.where(free, xlogy(more, jnp.where(free, params.probs, 1)), 0))

    def supports(self, params: TransitionParams) -> TransitionParams:
        return params._replace(probs=Simplex(None if self.fixed is None else ~jnp.isnan(self.fixed)))


@node
class Driven(Law, Wrapper):
    """Transitions that are a function of inputs u, `p(z_t = j | z_{t-1} = i, u_t) = softmax_j(logits(params, u_t)[i, j])`.

    Softmax regression where the logits are linear in u, a network where they are one. There is no closed-form M-step for them:
    fit with `jem.solvers.GEM`; emissions that have one, and the first state, keep it.

    The chain's x is then `jem.Given(outputs (S, T, ...), inputs (S, T, p))`, or `jem.Sequences` or `jem.Labelled` of one: the
    input of a step drives the transition into it. Outputs are what the chain takes; an emission that looks at inputs too has
    them among its outputs, a dict for example.

    Params: those of `start`.

    Args:
        logits: `logits(params, u)`, a matrix (K, K) of real numbers for one input u (p,): row i for the state before.
        start: parameters, or `start(key, u, weights)`, which makes them from inputs u (N, p).
        supports: where the parameters may lie; None is the real line.
        log_prior: `log_prior(params)`, a scalar, added to the objective.
        spread: standard deviation of the noise that `init` adds to `start`.

    Raises:
        ValueError: at the door, a chain's x without inputs, or with one that is missing.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> start = {"constant": 2.0 * jnp.eye(2), "slope": jnp.zeros((2, 2, 1))}
        >>> law = jem.laws.Driven(lambda p, u: p["constant"] + p["slope"] @ u, start)
        >>> jem.HMM(jem.Poisson(), 2, transition=law).transition.child.shape
        (2, 2)

    Source: Bengio and Frasconi (1995), NIPS 7 (input-output hidden Markov models).
    """

    child: Density

    def __init__(
        self,
        logits: Callable[..., Array],
        start: Any,
        *,
        supports: Any = None,
        log_prior: Callable[..., Array] | None = None,
        spread: Any = 0.1,
    ):
        law = Density(LogSoftmax(logits), start, supports=supports, log_prior=log_prior, size=1, spread=spread)
        set_once(self, child=law)

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({INPUTS})

    def sized(self, size: int) -> "Driven":
        return replaced(self, child=replaced(self.child, shape=(size, size)))

    def move(self, params: Params, inputs: Array, steps: int) -> Table:
        logs = self.child.infer(params, inputs)[1]
        lanes = inputs.shape[-1] // (steps - 1) if steps > 1 else 1  # a step alone is of one sequence: the door sees to it
        logs = jnp.moveaxis(logs.reshape(*self.child.shape, steps - 1, lanes), 2, 0)
        return Table(jnp.exp(logs), logs)

    def gather(self, params: Params, counts: Array, first: Array, inputs: Array) -> Any:
        pairs = jnp.moveaxis(counts, 0, 2).reshape(*self.child.shape, -1)
        return self.child.expect(params, (), inputs, pairs)

    def guess(self, key: Array, pairs: Array, inputs: Array, weights: Array) -> Params:
        return self.child.init(key, inputs, weights)

    def recentre(self, stats: Stats, old: Params, new: Params) -> Stats:
        # What is known of the transitions holds about the old parameters only.
        return Node.recentre(self, stats, old, new)

    def validate(self, x: Data) -> None:
        user.check_columns("Driven", self.child, x)
        self.child.validate(x)

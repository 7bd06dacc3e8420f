"""How discrete hidden variables are set in an E-step: tempered, at their most probable values, or drawn.

Each rule does it for one categorical variable a unit (`categories`) and for a chain (`path`), and says what a unit is then
worth: the highest value of `E_q[log p(x, z)] + H[q] / power` over the q it allows, which is `log p(x)` at power 1. A rule is
a record, so that what it holds can be traced. K components, N units; T steps, M cells of a chain, S sequences.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.kernels import chain
from jem.kernels.moves import Move
from jem.kernels.rings import safe_log
from jem.kernels.simplex import normalize_log


class Path(NamedTuple):
    """Posterior of a chain: messages as `chain.Smoothed` has them, to be counted with the rule's `move`; value (S,)."""

    smoothed: Array
    filtered: Array
    backward: Array
    rest: Any
    value: Array


class Exact(NamedTuple):
    """The posterior itself; a unit is worth its `log p(x)`."""

    def move(self, move: Move) -> Move:
        """What the messages are counted with."""
        return move

    def path(self, initial: Array, move: Move, log_e: Array, within: Array, form: chain.Form) -> Path:
        """The posterior from log-emissions (T, M, S)."""
        s = chain.smooth(initial, move, log_e, form)
        return Path(s.smoothed, s.filtered, s.backward, s.rest, s.log_normalizer)


class Tempered(NamedTuple):
    """`q(z) ~ p(x, z)^power`: flatter than the posterior below power 1, sharper above.

    Source: Ueda and Nakano (1998), Neural Networks 11, eq. 9.
    """

    power: Array

    def part(self, index: int) -> "Tempered":
        """The rule for one of several variables."""
        return self

    def categories(self, logits: Array) -> tuple[Array, Array]:
        """Probabilities (K, N) and values (N,) from joint log-densities (K, N)."""
        power = jnp.asarray(self.power, logits.dtype)
        probs, total = normalize_log(power * logits)
        return probs, total / power

    def move(self, move: Move) -> Move:
        """What the messages are counted with: rows that sum to one."""
        return move.tempered(self._power(move))[0]

    def path(self, initial: Array, move: Move, log_e: Array, within: Array, form: chain.Form) -> Path:
        """The posterior from log-emissions (T, M, S)."""
        power = jnp.asarray(self.power, log_e.dtype)
        tempered, rows = move.tempered(power)
        # What rows of powers sum to is the business of the step that they leave, where the next one is within the sequence.
        rows = jnp.where(within[1:, None], rows if move.changes else rows[None, :, None], 0)
        log_e = power * log_e + jnp.pad(rows, ((0, 1), (0, 0), (0, 0)))
        s = chain.smooth(initial**power, tempered, log_e, form)
        return Path(s.smoothed, s.filtered, s.backward, s.rest, s.log_normalizer / power)

    def _power(self, move: Move) -> Array:
        return jnp.asarray(self.power, jax.tree.leaves(move)[0].dtype)


class Hardest(NamedTuple):
    """q is all on the most probable values: their joint log-density is what a unit is worth.

    Source: Celeux and Govaert (1992), Comput. Stat. Data Anal. 14 (classification EM); Juang and Rabiner (1990), IEEE
    Trans. ASSP 38 (Viterbi training).
    """

    def part(self, index: int) -> "Hardest":
        """The rule for one of several variables."""
        return self

    def categories(self, logits: Array) -> tuple[Array, Array]:
        """One-hot columns (K, N) and values (N,) from joint log-densities (K, N)."""
        return _one_hot(jnp.argmax(logits, 0), logits), jnp.max(logits, 0)

    def move(self, move: Move) -> Move:
        """What the messages are counted with."""
        return move

    def path(self, initial: Array, move: Move, log_e: Array, within: Array, form: chain.Form) -> Path:
        """The most probable path of states from log-emissions (T, M, S)."""
        cells, _ = chain.viterbi(safe_log(initial), move, log_e, within)
        return _along(cells, initial, move, log_e, within, form)


class Drawn(NamedTuple):
    """z is drawn from its posterior; a unit is worth its `log p(x)`.

    Source: Celeux and Diebolt (1985), Comput. Stat. Quarterly 2 (stochastic EM).
    """

    key: Array

    def part(self, index: int) -> "Drawn":
        """The rule for one of several variables: with random numbers of its own."""
        return Drawn(jax.random.fold_in(self.key, index))

    def categories(self, logits: Array) -> tuple[Array, Array]:
        """One-hot columns (K, N) and values (N,) from joint log-densities (K, N)."""
        noise = jax.random.gumbel(self.key, logits.shape, logits.dtype)
        return _one_hot(jnp.argmax(logits + noise, 0), logits), normalize_log(logits)[1]

    def move(self, move: Move) -> Move:
        """What the messages are counted with."""
        return move

    def path(self, initial: Array, move: Move, log_e: Array, within: Array, form: chain.Form) -> Path:
        """A path of states drawn from log-emissions (T, M, S)."""
        s = chain.smooth(initial, move, log_e, form)
        cells = chain.sample_posterior(self.key, move.log(), s.log_filtered)
        return _along(cells, initial, move, log_e, within, form)._replace(value=s.log_normalizer)


def _one_hot(states: Array, logits: Array) -> Array:
    """Columns (K, N) from states (N,); no component where none is possible."""
    chosen = states[None, :] == jnp.arange(logits.shape[0])[:, None]
    return (chosen & (logits > -jnp.inf)).astype(logits.dtype)


def _along(cells: Array, initial: Array, move: Move, log_e: Array, within: Array, form: chain.Form) -> Path:
    """The posterior where the states of a path of cells (T, S) are known, and their joint log-probability."""
    known = jnp.where(move.along(cells) | ~within[:, None], log_e, -jnp.inf)
    return Exact().path(initial, move, known, within, form)

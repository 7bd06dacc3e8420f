"""How discrete hidden variables are set in an E-step: tempered, at their most probable values, or drawn.

Each rule does it for one categorical variable a unit (`categories`) and for a chain (`path`), and says what a unit is then
worth: the highest value of `E_q[log p(x, z)] + H[q] / power` over the q it allows, which is `log p(x)` at power 1. A rule is
a record, so that what it holds can be traced. K components or states, N units, T steps, S sequences.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.kernels import chain
from jem.kernels.simplex import normalize_log


class Path(NamedTuple):
    """Posterior of a chain: messages as `chain.Smoothed` has them, with `matrix` in the place of the transition matrix.

    `p(z_{t-1} = i, z_t = j) = filtered[t-1, i] matrix[i, j] backward[t-1, j]`, but for
    the steps of `rest`; value (S,).
    """

    smoothed: Array
    filtered: Array
    backward: Array
    rest: Array
    value: Array


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

    def matrix(self, transition: Array) -> Array:
        """What stands for the transition matrix in the pair probabilities: rows that sum to one."""
        powers = self._powers(transition)
        return powers / jnp.sum(powers, 1, keepdims=True)

    def path(self, initial: Array, transition: Array, log_e: Array, within: Array, form: chain.Form) -> Path:
        """The posterior from log-emissions (T, K, S)."""
        power = jnp.asarray(self.power, log_e.dtype)
        # What rows of powers sum to is the business of the step that they leave, where the next one is within the sequence.
        rows = jnp.log(jnp.sum(self._powers(transition), 1))[None, :, None]
        log_e = power * log_e + jnp.pad(jnp.where(within[1:, None], rows, 0), ((0, 1), (0, 0), (0, 0)))
        s = chain.smooth(initial**power, self.matrix(transition), log_e, form)
        return Path(s.smoothed, s.filtered, s.backward, s.rest, s.log_normalizer / power)

    def _powers(self, transition: Array) -> Array:
        return transition ** jnp.asarray(self.power, transition.dtype)


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

    def matrix(self, transition: Array) -> Array:
        """What stands for the transition matrix in the pair probabilities: the messages say all."""
        return jnp.ones_like(transition)

    def path(self, initial: Array, transition: Array, log_e: Array, within: Array, form: chain.Form) -> Path:
        """The most probable path from log-emissions (T, K, S)."""
        states, value = chain.viterbi(jnp.log(initial), jnp.log(transition), log_e, within)
        return _certain(states, log_e, value)


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

    def matrix(self, transition: Array) -> Array:
        """What stands for the transition matrix in the pair probabilities: the messages say all."""
        return jnp.ones_like(transition)

    def path(self, initial: Array, transition: Array, log_e: Array, within: Array, form: chain.Form) -> Path:
        """A path drawn from log-emissions (T, K, S)."""
        s = chain.smooth(initial, transition, log_e, form)
        return _certain(chain.sample_posterior(self.key, transition, s.log_filtered), log_e, s.log_normalizer)


def _one_hot(states: Array, logits: Array) -> Array:
    """Columns (K, N) from states (N,); no component where none is possible."""
    chosen = states[None, :] == jnp.arange(logits.shape[0])[:, None]
    return (chosen & (logits > -jnp.inf)).astype(logits.dtype)


def _certain(states: Array, log_e: Array, value: Array) -> Path:
    """A path known for certain, from states (T, S)."""
    hot = (states[:, None, :] == jnp.arange(log_e.shape[1])[None, :, None]).astype(log_e.dtype)
    size, lanes = hot.shape[1:]
    return Path(hot, hot, hot[1:], jnp.zeros((size, size, lanes), hot.dtype), value)

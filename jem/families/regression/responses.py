"""Outputs of generalised linear models in their linear predictors eta: log-density, slope, curvature, draws, starts.

For each `|D^3 log p [h, h, d]| <= -s D^2 log p [h, h]`, s being |d|, or of several predictors at once the range of d and of 0:
how a curvature changes over a step is known beforehand.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem.documented import Documented
from jem.families.bernoulli import Bernoulli
from jem.families.binomial import Binomial
from jem.families.categorical import Categorical
from jem.families.counted import SIZES, column, solve_size
from jem.families.gamma import Gamma
from jem.families.multinomial import Multinomial, counts_of, multinomial
from jem.families.negative_binomial import NegativeBinomial
from jem.families.poisson import Poisson
from jem.kernels.counts import binomial_log_prob, is_count, negative_binomial_log_prob, poisson_log_prob
from jem.kernels.gaussian import digamma_gap, log_gamma_gap
from jem.kernels.shapes import gamma_shape, log_gap
from jem.kernels.support import Positive


@dataclasses.dataclass(frozen=True)
class Response(Documented):
    """One kind of outputs y (D, N), of linear predictors eta (D, N) and a concentration (D,), () where there is none."""

    family: Any

    def log_prob(self, eta: Array, y: Array, concentration: Any) -> Array:
        """(D, N), minus infinity for what cannot be."""
        raise NotImplementedError

    def slope(self, eta: Array, y: Array, concentration: Any) -> Array:
        """Of the log-density in eta, over `scale`."""
        raise NotImplementedError

    def curvature(self, eta: Array, y: Array, concentration: Any) -> Array:
        """Minus its second derivative, likewise: (D, N), or (D, D, N) of predictors that hang together."""
        raise NotImplementedError

    def start(self, y: Array) -> Array:
        """A rough eta (D, N)."""
        raise NotImplementedError

    def sample(self, key: Array, eta: Array, concentration: Any, like: Array) -> Array:
        """Outputs like those."""
        raise NotImplementedError

    def numbers(self, outputs: Array, dtype: Any) -> Array:
        """The outputs as numbers y."""
        return outputs.astype(dtype)

    @property
    def reach(self) -> float:
        """By how much s is at most longer than the predictors' step."""
        return 1.0

    # A concentration: none, unless a response says so.

    def first(self, y: Array) -> Any:
        """The concentration to begin with, (D,); () where there is none."""
        return ()

    def support(self) -> Any:
        """Where it may lie."""
        return ()

    def scale(self, concentration: Any, like: Array) -> Array:
        """What slopes and curvatures are multiplied by, (D,)."""
        return jnp.ones_like(like)

    def spread(self, eta: Array, y: Array, concentration: Any) -> Array:
        """What is summed for it, (D, N)."""
        return jnp.zeros_like(eta)

    def after(self, spread: Array, gain: Array) -> Array:
        """The sums (D,) after a step that gained so much, over `scale`."""
        return spread

    def concentration(self, old: Any, count: Array, spread: Array) -> Any:
        """The one of highest Q, from the count () and sums (D,)."""
        return ()

    def change(self, new: Any, old: Any, count: Array, spread: Array) -> Array:
        """What Q gains by it."""
        return jnp.zeros((), spread.dtype)


class Counts(Response):
    """`log E[y] = eta`."""

    def log_prob(self, eta: Array, y: Array, concentration: Any) -> Array:
        return jnp.where(is_count(y), poisson_log_prob(jnp.where(is_count(y), y, 0), jnp.exp(eta)), -jnp.inf)

    def slope(self, eta: Array, y: Array, concentration: Any) -> Array:
        return y - jnp.exp(eta)

    def curvature(self, eta: Array, y: Array, concentration: Any) -> Array:
        return jnp.exp(eta)

    def start(self, y: Array) -> Array:
        return jnp.log(y + 0.5)

    def sample(self, key: Array, eta: Array, concentration: Any, like: Array) -> Array:
        return jax.random.poisson(key, jnp.exp(eta))


class Chances(Response):
    """`E[y] = n / (1 + e^-eta)`, y of n trials."""

    def log_prob(self, eta: Array, y: Array, concentration: Any) -> Array:
        n = self._trials(y)
        fine = is_count(y) & (y <= n)
        y = jnp.where(fine, y, 0)
        ways = binomial_log_prob(y, n, jnp.full_like(n, 0.5)) + math.log(2) * n  # log C(n, y)
        return jnp.where(fine, ways - y * jax.nn.softplus(-eta) - (n - y) * jax.nn.softplus(eta), -jnp.inf)

    def slope(self, eta: Array, y: Array, concentration: Any) -> Array:
        n = self._trials(y)
        return y * jax.nn.sigmoid(-eta) - (n - y) * jax.nn.sigmoid(eta)

    def curvature(self, eta: Array, y: Array, concentration: Any) -> Array:
        return self._trials(y) * jax.nn.sigmoid(eta) * jax.nn.sigmoid(-eta)

    def start(self, y: Array) -> Array:
        n = self._trials(y)
        return jnp.log(y + 0.5) - jnp.log(n - y + 0.5)

    def sample(self, key: Array, eta: Array, concentration: Any, like: Array) -> Array:
        return jax.random.binomial(key, self._trials(eta), jax.nn.sigmoid(eta))

    def _trials(self, like: Array) -> Array:
        num = self.family.num_trials if isinstance(self.family, Binomial) else 1
        return jnp.broadcast_to(column(num, like.dtype), like.shape)


class Waits(Response):
    """`log E[y] = eta`, y > 0 with the variance `E[y]^2 / concentration`."""

    def log_prob(self, eta: Array, y: Array, concentration: Array) -> Array:
        fine = y > 0
        y = jnp.where(fine, y, 1)
        c = concentration[:, None]
        return jnp.where(fine, log_gamma_gap(c) + c * log_gap(y, jnp.exp(eta)) - jnp.log(y), -jnp.inf)

    def slope(self, eta: Array, y: Array, concentration: Any) -> Array:
        return y * jnp.exp(-eta) - 1

    def curvature(self, eta: Array, y: Array, concentration: Any) -> Array:
        return y * jnp.exp(-eta)

    def start(self, y: Array) -> Array:
        return jnp.log(y)

    def sample(self, key: Array, eta: Array, concentration: Array, like: Array) -> Array:
        c = concentration[:, None]
        return jax.random.gamma(key, c, eta.shape, eta.dtype) * (jnp.exp(eta) / c)

    def first(self, y: Array) -> Array:
        return jnp.ones(y.shape[0], y.dtype)

    def support(self) -> Any:
        return Positive()

    def spread(self, eta: Array, y: Array, concentration: Any) -> Array:
        return log_gap(y, jnp.exp(eta))

    def scale(self, concentration: Array, like: Array) -> Array:
        return concentration

    def after(self, spread: Array, gain: Array) -> Array:
        return spread + gain

    def concentration(self, old: Array, count: Array, spread: Array) -> Array:
        return jnp.where(count > 0, gamma_shape(spread / jnp.where(count > 0, count, 1)), old)

    def change(self, new: Array, old: Array, count: Array, spread: Array) -> Array:
        return jnp.sum(count * (log_gamma_gap(new) - log_gamma_gap(old)) + (new - old) * spread)


class Overdispersed(Response):
    """`log E[y] = eta`, Poisson with a rate of `E[y] g`, g hidden and gamma-distributed with mean 1 and variance 1 / size."""

    def log_prob(self, eta: Array, y: Array, concentration: Array) -> Array:
        counts = jnp.where(is_count(y), y, 0)
        return jnp.where(is_count(y), negative_binomial_log_prob(counts, jnp.exp(eta), concentration[:, None]), -jnp.inf)

    def slope(self, eta: Array, y: Array, concentration: Array) -> Array:
        r = concentration[:, None]
        return (y - jnp.exp(eta)) * (r / (jnp.exp(eta) + r))

    def curvature(self, eta: Array, y: Array, concentration: Array) -> Array:
        r = concentration[:, None]
        return jnp.exp(eta) * ((y + r) / (jnp.exp(eta) + r))  # E[g | y] E[y]

    def start(self, y: Array) -> Array:
        return jnp.log(y + 0.5)

    def sample(self, key: Array, eta: Array, concentration: Array, like: Array) -> Array:
        gamma_key, count_key = jax.random.split(key)
        r = concentration[:, None]
        return jax.random.poisson(count_key, jax.random.gamma(gamma_key, r, eta.shape, eta.dtype) / r * jnp.exp(eta))

    def first(self, y: Array) -> Array:
        return jnp.ones(y.shape[0], y.dtype)

    def support(self) -> Any:
        return SIZES

    def spread(self, eta: Array, y: Array, concentration: Array) -> Array:
        r = concentration[:, None]
        y = jnp.where(is_count(y), y, 0)
        return log_gap(y + r, jnp.exp(eta) + r) - digamma_gap(y + r)  # E[log g | y] - E[g | y] + 1

    def concentration(self, old: Array, count: Array, spread: Array) -> Array:
        size = solve_size(lambda r, gap: digamma_gap(r) + gap, spread / jnp.where(count > 0, count, 1))
        return jnp.where(count > 0, size, old)

    def change(self, new: Array, old: Array, count: Array, spread: Array) -> Array:
        return jnp.sum(count * (log_gamma_gap(new) - log_gamma_gap(old)) + (new - old) * spread)


class Choices(Response):
    """`log(p_k / p_0) = eta_k`, one of M categories, or counts of each; eta has rows for all of them but the first."""

    def numbers(self, outputs: Array, dtype: Any) -> Array:
        if not isinstance(self.family, Categorical):
            return outputs.astype(dtype)
        return (outputs[None] == jnp.arange(self.family.num_categories, dtype=outputs.dtype)[:, None]).astype(dtype)

    @property
    def reach(self) -> float:
        return math.sqrt(2)

    def log_prob(self, eta: Array, y: Array, concentration: Any) -> Array:
        if isinstance(self.family, Categorical):
            return jnp.where(jnp.sum(y, 0) == 1, jnp.sum(y * log_shares(eta), 0), -jnp.inf)[None]
        counts, possible = counts_of(y, eta)
        total = jnp.sum(counts, 0)
        cells = poisson_log_prob(counts, total[None] * jnp.exp(log_shares(eta)))  # Poisson counts, given their sum
        return jnp.where(possible, jnp.sum(cells, 0) - poisson_log_prob(total, total), -jnp.inf)[None]

    def slope(self, eta: Array, y: Array, concentration: Any) -> Array:
        return (y - jnp.sum(y, 0, keepdims=True) * jnp.exp(log_shares(eta)))[1:]

    def curvature(self, eta: Array, y: Array, concentration: Any) -> Array:
        p = jnp.exp(log_shares(eta))[1:]
        eye = jnp.eye(p.shape[0], dtype=p.dtype)[:, :, None]
        return jnp.sum(y, 0)[None, None] * (eye * p[None] - p[:, None] * p[None])

    def start(self, y: Array) -> Array:
        log = jnp.log(y + 0.5)
        return log[1:] - log[:1]

    def sample(self, key: Array, eta: Array, concentration: Any, like: Array) -> Array:
        if isinstance(self.family, Categorical):
            return jax.random.categorical(key, log_shares(eta), 0)
        return multinomial(key, jnp.sum(like, 0), jnp.exp(log_shares(eta)))


def log_shares(eta: Array) -> Array:
    """Log-probabilities (M, N) of M categories, from what each but the first (M - 1, N) has before it."""
    return jax.nn.log_softmax(jnp.concatenate([jnp.zeros_like(eta[:1]), eta]), 0)


RESPONSES: dict[type, type[Response]] = {
    Poisson: Counts,
    Bernoulli: Chances,
    Binomial: Chances,
    Gamma: Waits,
    NegativeBinomial: Overdispersed,
    Categorical: Choices,
    Multinomial: Choices,
}

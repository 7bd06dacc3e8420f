"""Outputs of generalised linear models in their linear predictor eta: log-density, slope, curvature, draws, starts.

For each `|d^3 log p / d eta^3| <= -d^2 log p / d eta^2`: how a curvature changes over a step is known beforehand.
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
from jem.families.counted import column
from jem.families.gamma import Gamma
from jem.families.poisson import Poisson
from jem.kernels.counts import binomial_log_prob, is_count, poisson_log_prob
from jem.kernels.gaussian import log_gamma_gap
from jem.kernels.shapes import gamma_shape, log_gap
from jem.kernels.support import Positive


@dataclasses.dataclass(frozen=True)
class Response(Documented):
    """One kind of outputs y (D, N), of linear predictors eta (D, N) and a concentration (D,), () where there is none."""

    family: Any

    def log_prob(self, eta: Array, y: Array, concentration: Any) -> Array:
        """(D, N), minus infinity for what cannot be."""
        raise NotImplementedError

    def slope(self, eta: Array, y: Array) -> Array:
        """Of the log-density in eta, over the concentration."""
        raise NotImplementedError

    def curvature(self, eta: Array, y: Array) -> Array:
        """Minus its second derivative, likewise."""
        raise NotImplementedError

    def start(self, y: Array) -> Array:
        """A rough eta (D, N)."""
        raise NotImplementedError

    def sample(self, key: Array, eta: Array, concentration: Any) -> Array:
        """Outputs (D, N)."""
        raise NotImplementedError

    # A concentration scales the log-density; its own part is that of gamma's.

    def first(self, y: Array) -> Any:
        """The concentration to begin with, (D,); () where there is none."""
        return ()

    def support(self) -> Any:
        """Where it may lie."""
        return ()

    def spread(self, eta: Array, y: Array) -> Array:
        """What is summed for it, (D, N)."""
        return jnp.zeros_like(eta)

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

    def slope(self, eta: Array, y: Array) -> Array:
        return y - jnp.exp(eta)

    def curvature(self, eta: Array, y: Array) -> Array:
        return jnp.exp(eta)

    def start(self, y: Array) -> Array:
        return jnp.log(y + 0.5)

    def sample(self, key: Array, eta: Array, concentration: Any) -> Array:
        return jax.random.poisson(key, jnp.exp(eta))


class Chances(Response):
    """`E[y] = n / (1 + e^-eta)`, y of n trials."""

    def log_prob(self, eta: Array, y: Array, concentration: Any) -> Array:
        n = self._trials(y)
        fine = is_count(y) & (y <= n)
        y = jnp.where(fine, y, 0)
        ways = binomial_log_prob(y, n, jnp.full_like(n, 0.5)) + math.log(2) * n  # log C(n, y)
        return jnp.where(fine, ways - y * jax.nn.softplus(-eta) - (n - y) * jax.nn.softplus(eta), -jnp.inf)

    def slope(self, eta: Array, y: Array) -> Array:
        n = self._trials(y)
        return y * jax.nn.sigmoid(-eta) - (n - y) * jax.nn.sigmoid(eta)

    def curvature(self, eta: Array, y: Array) -> Array:
        return self._trials(y) * jax.nn.sigmoid(eta) * jax.nn.sigmoid(-eta)

    def start(self, y: Array) -> Array:
        n = self._trials(y)
        return jnp.log(y + 0.5) - jnp.log(n - y + 0.5)

    def sample(self, key: Array, eta: Array, concentration: Any) -> Array:
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

    def slope(self, eta: Array, y: Array) -> Array:
        return y * jnp.exp(-eta) - 1

    def curvature(self, eta: Array, y: Array) -> Array:
        return y * jnp.exp(-eta)

    def start(self, y: Array) -> Array:
        return jnp.log(y)

    def sample(self, key: Array, eta: Array, concentration: Array) -> Array:
        c = concentration[:, None]
        return jax.random.gamma(key, c, eta.shape, eta.dtype) * (jnp.exp(eta) / c)

    def first(self, y: Array) -> Array:
        return jnp.ones(y.shape[0], y.dtype)

    def support(self) -> Any:
        return Positive()

    def spread(self, eta: Array, y: Array) -> Array:
        return log_gap(y, jnp.exp(eta))

    def concentration(self, old: Array, count: Array, spread: Array) -> Array:
        return jnp.where(count > 0, gamma_shape(spread / jnp.where(count > 0, count, 1)), old)

    def change(self, new: Array, old: Array, count: Array, spread: Array) -> Array:
        return jnp.sum(count * (log_gamma_gap(new) - log_gamma_gap(old)) + (new - old) * spread)


RESPONSES: dict[type, type[Response]] = {Poisson: Counts, Bernoulli: Chances, Binomial: Chances, Gamma: Waits}

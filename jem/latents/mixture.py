"""Finite mixtures of any node."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.composite import Composite, Wrapper
from jem.data import allowed, num_units, with_labels, without_labels
from jem.kernels.seeding import assign_nearest, kmeans_plus_plus
from jem.kernels.simplex import log_dirichlet, maximize_simplex, normalize_log, safe_log, xlogy
from jem.kernels.support import Simplex
from jem.node import DISCRETE, EMPTY, Data, Node, Params, Posterior, Stats, assign, flag, node, replaced, set_once, setting
from jem.plates import Stack
from jem.settings import a, check_components, number


class MixtureParams(NamedTuple):
    """Mixing weights (K,), summing to one, and the parameters of the components."""

    weights: Array
    components: Params


class MixturePosterior(NamedTuple):
    """Responsibilities `p(z = k | x)`, (K, N) inside and (N, K) from `jem.infer`, and the components' posteriors."""

    responsibilities: Array
    components: Posterior


class MixtureStats(NamedTuple):
    """Expected counts (K,) and the components' statistics."""

    counts: Array
    components: Stats


@node
class KMeansPlusPlus:
    """Starts a mixture from units drawn by greedy k-means++ on the node's features, every unit to its nearest.

    Source: Arthur and Vassilvitskii (2007), SODA.
    """

    def responsibilities(self, key: Array, components: Node, x: Data, weights: Array, size: int) -> Array:
        """Hard responsibilities (K, N)."""
        features = components.features(x)
        seeds = kmeans_plus_plus(key, features, weights, size)
        nearest = assign_nearest(features, jnp.take(features, seeds, axis=1).T)
        return (nearest[None, :] == jnp.arange(size, dtype=nearest.dtype)[:, None]).astype(weights.dtype)


@node
class RandomResponsibilities:
    """Starts a mixture from responsibilities drawn from a symmetric Dirichlet distribution, unit by unit.

    A small concentration gives starts close to random hard assignments; 1 gives components that all look alike.
    """

    concentration: Any = setting(default=0.1, must=number(above=0.0))

    def responsibilities(self, key: Array, components: Node, x: Data, weights: Array, size: int) -> Array:
        """Random responsibilities (K, N)."""
        concentration = jnp.full(size, self.concentration, weights.dtype)
        return jax.random.dirichlet(key, concentration, (num_units(x),), weights.dtype).T


SEEDING = a("responsibilities", "jem.KMeansPlusPlus() or jem.RandomResponsibilities()")


@node
class Mixture(Composite):
    """A finite mixture, `z ~ Categorical(weights)`, `x | z = k ~ components[k]`.

    `log p(x) = log sum_k weights_k p_k(x)`; responsibilities `r_k = weights_k p_k(x) / p(x)`; the M-step is
    `weights_k = sum_n r_nk / N` and each component's own M-step with weights `r_k`.

    x is whatever the components take; `jem.Labelled(x, labels)` restricts rows to given components.

    Params: `MixtureParams(weights (K,), components)`; parameters of `Mixture(node, K)` have a leading axis K.

    Args:
        components: a node, repeated K times, or a plate: `Stack`, `Tied`, `OneOf`.
        num_components: K, where `components` is a node.
        concentration: Dirichlet prior on the weights, scalar or (K,); 1 is maximum likelihood.
        seeding: how `init` starts: `KMeansPlusPlus()` or `RandomResponsibilities()`.

    Example:
        >>> import jem
        >>> model = jem.Mixture(jem.Gaussian(), 3)
        >>> model.components.size
        3

    Source: Dempster, Laird and Rubin (1977), JRSS B 39, section 4.3.
    """

    components: Any  # a plate
    concentration: Any = setting(must=number(above=0.0))
    seeding: Any = setting(must=SEEDING)

    def __init__(
        self,
        components: Any,
        num_components: int | None = None,
        *,
        concentration: Any = 1.0,
        seeding: Any = KMeansPlusPlus(),  # noqa: B008
    ):
        size = check_components(components, num_components, "Mixture")
        plate = components if size is None else Stack(components, size)
        set_once(self, components=plate, concentration=concentration, seeding=seeding)

    @property
    def traits(self) -> frozenset[str]:
        return super().traits | {DISCRETE}

    def parts(self) -> dict[str, Node]:
        return {"components": self.components}

    def share(self, name: str, x: Data) -> Data:
        return without_labels(x)[0]

    def infer(self, params: MixtureParams, x: Data) -> tuple[MixturePosterior, Array]:
        posterior, logits = self.log_joint(params, x)
        responsibilities, evidence = normalize_log(logits)
        return MixturePosterior(responsibilities, posterior), evidence

    def log_joint(self, params: MixtureParams, x: Data) -> tuple[Posterior, Array]:
        """The components' posteriors and `log weights_k p_k(x)` (K, N)."""
        values, labels = without_labels(x)
        posterior, log_prob = self.components.infer(params.components, values)
        logits = log_prob + safe_log(params.weights)[:, None]
        if labels is not None:
            logits = jnp.where(allowed(labels, logits.shape[0]), logits, -jnp.inf)
        return posterior, logits

    def assign(self, rule: Any) -> "AssignedMixture":
        return AssignedMixture(replaced(self, components=assign(self.components, rule.part(1))), rule.part(0))

    def expect(self, params: MixtureParams, posterior: MixturePosterior, x: Data, weights: Array) -> MixtureStats:
        r = posterior.responsibilities * weights[None, :]
        stats = self.components.expect(params.components, posterior.components, without_labels(x)[0], r)
        return MixtureStats(jnp.sum(r, 1), stats)

    def maximize(self, params: MixtureParams, stats: MixtureStats) -> MixtureParams:
        weights = maximize_simplex(stats.counts, params.weights, self.concentration)
        return MixtureParams(weights, self.components.maximize(params.components, stats.components))

    def expected_log_prob(self, params: MixtureParams, stats: MixtureStats, old: MixtureParams) -> Array:
        components = self.components.expected_log_prob(params.components, stats.components, old.components)
        return jnp.sum(xlogy(stats.counts, params.weights)) + components

    def init(self, key: Array, x: Data, weights: Array) -> MixtureParams:
        values, labels = without_labels(x)
        seed_key, child_key = jax.random.split(key)
        size = self.components.size
        r = self.seeding.responsibilities(seed_key, self.components, values, weights, size)
        if labels is not None:
            # Where the seeds contradict the labels, the labels win: mass is spread over what is allowed.
            ok = allowed(labels, size)
            r = jnp.where(ok, r, 0)
            r = jnp.where(jnp.sum(r, 0, keepdims=True) > 0, r, ok)
            r = r / jnp.sum(r, 0, keepdims=True)
        r = r * weights[None, :]
        counts = jnp.sum(r, 1) + 1
        return MixtureParams(counts / jnp.sum(counts), self.components.init(child_key, values, r))

    def sample(self, key: Array, params: MixtureParams, num: int) -> tuple[Any, Data]:
        label_key, component_key = jax.random.split(key)
        labels = jax.random.categorical(label_key, jnp.log(params.weights), shape=(num,))
        latents, x = self.components.sample(component_key, params.components, num)
        return (labels, latents), pick(x, labels)

    def sample_like(self, key: Array, params: MixtureParams, x: Data) -> tuple[Any, Data]:
        # A label that is known is drawn too; a set of components restricts what is drawn.
        label_key, component_key = jax.random.split(key)
        values, given = without_labels(x)
        logits = jnp.broadcast_to(jnp.log(params.weights)[:, None], (params.weights.shape[0], num_units(values)))
        if given is not None and given.dtype == jnp.bool_:
            logits = jnp.where(given, logits, -jnp.inf)
        labels = jax.random.categorical(label_key, logits, axis=0)
        latents, drawn = self.components.sample_like(component_key, params.components, values)
        new = pick(drawn, labels)
        return (labels, latents), with_labels(new, None if given is None else relabelled(given, labels))

    def own_log_prior(self, params: MixtureParams) -> Array:
        return log_dirichlet(params.weights, self.concentration)

    def own_degenerate(self, params: MixtureParams, stats: MixtureStats) -> Array:
        # A component that no unit belongs to is not what was asked for.
        return nobody(stats.counts)

    def own_supports(self, params: MixtureParams) -> Any:
        return params._replace(weights=Simplex())

    def validate(self, x: Data) -> None:
        values, labels = without_labels(x)
        if labels is not None:
            checks.check_labels(labels, self.components.size, jax.tree.leaves(values)[0].shape[:1])
        super().validate(x)

    def must_be_finite(self, x: Data) -> Data:
        values, labels = without_labels(x)
        return with_labels(self.components.must_be_finite(values), labels)


@node
class AssignedMixture(Wrapper):
    """A mixture whose components are set by a rule; what it says of a unit is the rule's value."""

    child: Any  # with `log_joint`
    rule: Any

    def infer(self, params: MixtureParams, x: Data) -> tuple[MixturePosterior, Array]:
        posterior, logits = self.child.log_joint(params, x)
        responsibilities, value = self.rule.categories(logits)
        return MixturePosterior(responsibilities, posterior), value


def pick(x: Data, labels: Array) -> Data:
    """Of what all components drew, (K, ..., N), the units (..., N) of the components that the labels (N,) name."""
    index = jnp.arange(labels.shape[0])
    return jax.tree.map(lambda a: jnp.moveaxis(jnp.moveaxis(a, -1, 1)[labels, index], 0, -1), x)


def relabelled(given: Array, drawn: Array) -> Array:
    """Labels as they are given: the drawn ones where the component is known, sets as they were."""
    return given if given.dtype == jnp.bool_ else jnp.where(given >= 0, drawn, -1).astype(given.dtype)


def nobody(counts: Array) -> Array:
    """EMPTY where nothing belongs to some component or state, from expected counts (K,)."""
    return flag(EMPTY, jnp.any(counts <= jnp.finfo(counts.dtype).eps))

"""Finite mixtures of any node."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import series_checks
from jem.combine.one_of import OneOf
from jem.combine.stack import Stack
from jem.composite import Composite, Wrapper
from jem.data import allowed, averaged, num_units, with_inputs, with_labels, without_holes, without_inputs, without_labels
from jem.kernels.rings import safe_log
from jem.kernels.seeding import assign_nearest, kmeans_plus_plus
from jem.kernels.simplex import normalize_log
from jem.latents.mixture.weights import free_unless
from jem.node import (
    CELLS,
    DISCRETE,
    EMPTY,
    INPUTS,
    MISSING,
    ORDERLESS,
    Data,
    Node,
    Params,
    Posterior,
    Stats,
    assign,
    flag,
    node,
    replaced,
    set_once,
    setting,
)
from jem.settings import a, check_components, number


class MixtureParams(NamedTuple):
    """Mixing weights (K,), summing to one, or what their law has for parameters, and the parameters of the components."""

    weights: Any
    components: Params


class MixturePosterior(NamedTuple):
    """Responsibilities `p(z = k | x)`, (K, N) inside and (N, K) from `jem.infer`, and the components' posteriors."""

    responsibilities: Array
    components: Posterior


class MixtureStats(NamedTuple):
    """Statistics of the weights, for free ones expected counts (K,), and those of the components."""

    weights: Any
    components: Stats


@node
class KMeansPlusPlus:
    """Starts a mixture from units drawn by greedy k-means++ on the node's features, every unit to its nearest.

    Example:
        >>> import jem
        >>> jem.Mixture(jem.Gaussian(), 3).seeding
        KMeansPlusPlus()

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

    Attributes:
        concentration: of that distribution, > 0.

    Example:
        >>> import jem
        >>> jem.Mixture(jem.Gaussian(), 3, seeding=jem.starts.RandomResponsibilities(0.5)).seeding.concentration
        0.5
    """

    concentration: Any = setting(default=0.1, must=number(above=0.0))

    def responsibilities(self, key: Array, components: Node, x: Data, weights: Array, size: int) -> Array:
        """Random responsibilities (K, N)."""
        concentration = jnp.full(size, self.concentration, weights.dtype)
        return jax.random.dirichlet(key, concentration, (num_units(x),), weights.dtype).T


LAW = a("sized", "the law of the weights, jem.laws.Free() or jem.laws.Gate(logits, start)")
SEEDING = a("responsibilities", "jem.starts.KMeansPlusPlus() or jem.starts.RandomResponsibilities()")


@node
class Mixture(Composite):
    """A finite mixture, `z ~ Categorical(weights)`, `x | z = k ~ components[k]`.

    `log p(x) = log sum_k weights_k p_k(x)`; responsibilities `r_k = weights_k p_k(x) / p(x)`; the M-step is that of the
    weights' law, `weights_k = sum_n r_nk / N` where they are free, and each component's own with weights `r_k`.

    x is whatever the components take, `jem.Given(x, inputs)` where the weights depend on inputs; `jem.Labelled(x, labels)`
    restricts rows to given components. A component that no row belongs to ends the fit as DEGENERATE.

    Params: `MixtureParams(weights (K,), components)`; parameters of `Mixture(node, K)` have a leading axis K.

    Args:
        components: a node, repeated K times, or a plate: `Stack`, `Tied`, `OneOf`.
        num_components: K, where `components` is a node.
        weights: their law, `jem.laws.Free()`, the default, or `jem.laws.Gate(logits, start)`.
        concentration: short for `weights=jem.laws.Free(concentration)`, a Dirichlet prior.
        seeding: how `init` starts: `KMeansPlusPlus()` or `RandomResponsibilities()`.

    Raises:
        ValueError: a number of components that is missing, or not the plate's.

    Example:
        >>> import jem
        >>> model = jem.Mixture(jem.Gaussian(), 3)
        >>> model.components.size
        3

    Source: Dempster, Laird and Rubin (1977), JRSS B 39, section 4.3.
    """

    Params = MixtureParams
    Posterior = MixturePosterior

    components: Any  # a plate
    weights: Any = setting(must=LAW)
    seeding: Any = setting(must=SEEDING)

    def __init__(
        self,
        components: Any,
        num_components: int | None = None,
        *,
        weights: Any = None,
        concentration: Any = None,
        seeding: Any = KMeansPlusPlus(),  # noqa: B008
    ):
        size = check_components(components, num_components, "Mixture")
        plate = components if size is None else Stack(components, size)
        law = free_unless(weights, concentration, "Mixture: weights", LAW)
        set_once(self, components=plate, weights=law.sized(plate.size), seeding=seeding)

    @property
    def traits(self) -> frozenset[str]:
        alike = self.components.traits & self.weights.traits & {ORDERLESS}
        passed = {MISSING, CELLS} if self.weights.traits.isdisjoint({INPUTS}) else {MISSING}
        return (self.components.traits & passed) | alike | {DISCRETE}

    def memberships(self, posterior: MixturePosterior, weights: Array) -> Array:
        """How much of each unit is each component's, (K, N)."""
        return posterior.responsibilities * weights[None, :]

    def parts(self) -> dict[str, Node]:
        return {"weights": self.weights, "components": self.components}

    def share(self, name: str, x: Data) -> Data:
        values = without_labels(x)[0]
        if INPUTS not in self.weights.traits:
            return values
        outputs, inputs = without_inputs(values)
        if name == "weights":
            return inputs
        return outputs if self._takes_inputs_off else values

    @property
    def _takes_inputs_off(self) -> bool:
        """Whether inputs are the gate's alone."""
        return INPUTS in self.weights.traits and INPUTS not in self.components.traits

    def infer(self, params: MixtureParams, x: Data) -> tuple[MixturePosterior, Array]:
        posterior, logits = self.log_joint(params, x)
        responsibilities, evidence = normalize_log(logits)
        return MixturePosterior(responsibilities, posterior), evidence

    def log_joint(self, params: MixtureParams, x: Data) -> tuple[Posterior, Array]:
        """The components' posteriors and `log p(z = k) p_k(x)` (K, N)."""
        labels = without_labels(x)[1]
        posterior, log_prob = self.components.infer(params.components, self.share("components", x))
        logits = log_prob + self.weights.infer(params.weights, self.share("weights", x))[1]
        if labels is not None:
            logits = jnp.where(allowed(labels, logits.shape[0]), logits, -jnp.inf)
        return posterior, logits

    def assign(self, rule: Any) -> "AssignedMixture":
        return AssignedMixture(replaced(self, components=assign(self.components, rule.part(1))), rule.part(0))

    def complete(self, params: MixtureParams, posterior: MixturePosterior, x: Data, key: Array | None = None) -> Data:
        values = self.share("components", x)
        each = self.components.complete(params.components, posterior.components, values, key)
        new = averaged(each, posterior.responsibilities, values)
        new = with_inputs(new, self.share("weights", x)) if self._takes_inputs_off else new
        return with_labels(new, without_labels(x)[1])

    def hidden(self, key: Array, params: MixtureParams, posterior: MixturePosterior, x: Data) -> Any:
        labels = chosen(posterior.responsibilities)
        inner = self.components.hidden(key, params.components, posterior.components, self.share("components", x))
        return with_inner(labels, inner, self.components)

    def of_columns(self, columns: tuple[int, ...]) -> Node:
        if INPUTS in self.weights.traits:
            return super().of_columns(columns)  # which says that it cannot be done
        return replaced(self, components=self.components.of_columns(columns))

    def marginal(self, params: MixtureParams, columns: tuple[int, ...]) -> MixtureParams:
        return params._replace(components=self.components.marginal(params.components, columns))

    def conditional(
        self, params: MixtureParams, given: tuple[int, ...], rest: tuple[int, ...], values: Array
    ) -> tuple[MixtureParams, Array]:
        components, log_prob = self.components.conditional(params.components, given, rest, values)
        weights, evidence = normalize_log((safe_log(params.weights) + log_prob)[:, None])
        return MixtureParams(weights[:, 0], components), evidence[0]

    def expect(self, params: MixtureParams, posterior: MixturePosterior, x: Data, weights: Array) -> MixtureStats:
        r = posterior.responsibilities * weights[None, :]
        return MixtureStats(
            self.weights.expect(params.weights, (), self.share("weights", x), r),
            self.components.expect(params.components, posterior.components, self.share("components", x), r),
        )

    def init(self, key: Array, x: Data, weights: Array) -> MixtureParams:
        values, labels = self.share("components", x), without_labels(x)[1]
        seed_key, child_key = jax.random.split(key)
        law_key, child_key = jax.random.split(child_key) if INPUTS in self.weights.traits else (child_key, child_key)
        size = self.components.size
        r = self.seeding.responsibilities(seed_key, self.components, without_holes(values)[0], weights, size)
        if labels is not None:
            # Where the seeds contradict the labels, the labels win: mass is spread over what is allowed.
            ok = allowed(labels, size)
            r = jnp.where(ok, r, 0)
            r = jnp.where(jnp.sum(r, 0, keepdims=True) > 0, r, ok)
            r = r / jnp.sum(r, 0, keepdims=True)
        r = r * weights[None, :]
        law = self.weights.init(law_key, self.share("weights", x), r)
        return MixtureParams(law, self.components.init(child_key, values, r))

    def sample(self, key: Array, params: MixtureParams, num: int) -> tuple[Any, Data]:
        if INPUTS in self.weights.traits:
            raise TypeError("Mixture: a gate's inputs are given, not drawn; draw like data with inputs, sample(..., like=x)")
        label_key, component_key = jax.random.split(key)
        labels = jax.random.categorical(label_key, jnp.log(params.weights), shape=(num,))
        latents, x = self.components.sample(component_key, params.components, num)
        return (labels, latents), pick(x, labels)

    def sample_like(self, key: Array, params: MixtureParams, x: Data) -> tuple[Any, Data]:
        # A label that is known is drawn too; a set of components restricts what is drawn.
        label_key, component_key = jax.random.split(key)
        given = without_labels(x)[1]
        logits = self.weights.infer(params.weights, self.share("weights", x))[1]
        logits = jnp.broadcast_to(logits, (self.components.size, num_units(x)))
        if given is not None and given.dtype == jnp.bool_:
            logits = jnp.where(given, logits, -jnp.inf)
        labels = jax.random.categorical(label_key, logits, axis=0)
        latents, drawn = self.components.sample_like(component_key, params.components, self.share("components", x))
        new = pick(drawn, labels)
        new = with_inputs(new, self.share("weights", x)) if self._takes_inputs_off else new
        return (labels, latents), with_labels(new, None if given is None else relabelled(given, labels))

    def sorting(self, x: Data) -> Array | None:
        return self.components.sorting(self.share("components", x))

    def features(self, x: Data) -> Array:
        return self.components.features(self.share("components", x))

    def num_observations(self, x: Data) -> Array:
        return self.components.num_observations(self.share("components", x))

    def own_degenerate(self, params: MixtureParams, stats: MixtureStats) -> Array:
        # A component that no unit belongs to is not what was asked for.
        return nobody(self.weights.counts(stats.weights))

    def validate(self, x: Data) -> None:
        values, labels = without_labels(x)
        if INPUTS in self.weights.traits and without_inputs(values)[1] is None:
            got = type(values).__name__
            raise ValueError(f"Mixture: x must be jem.Given(outputs, inputs), as its weights depend on inputs; got {got}")
        if labels is not None:
            series_checks.check_labels(labels, self.components.size, jax.tree.leaves(values)[0].shape[:1])
        super().validate(x)

    def must_be_finite(self, x: Data) -> Data:
        values, labels = without_labels(x)
        left = self.components.must_be_finite(self.share("components", x))
        left = with_inputs(left, without_inputs(values)[1]) if self._takes_inputs_off else left
        return with_labels(left, labels)


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


def chosen(shares: Array) -> Array:
    """The components (N,) int that drawn responsibilities (K, N) name, -1 where none is possible."""
    return jnp.where(jnp.sum(shares, 0) > 0, jnp.argmax(shares, 0), -1).astype(jnp.int32)


def with_inner(labels: Array, inner: Any, plate: Node) -> Any:
    """Labels (N,), and what is hidden in the components they name; that of all where these are of different kinds."""
    if not jax.tree.leaves(inner):
        return labels
    return labels, inner if isinstance(plate, OneOf) else pick(inner, jnp.maximum(labels, 0))


def relabelled(given: Array, drawn: Array) -> Array:
    """Labels as they are given: the drawn ones where the component is known, sets as they were."""
    return given if given.dtype == jnp.bool_ else jnp.where(given >= 0, drawn, -1).astype(given.dtype)


def nobody(counts: Array) -> Array:
    """EMPTY where nothing belongs to some component or state, from expected counts (K,)."""
    return flag(EMPTY, jnp.any(counts <= jnp.finfo(counts.dtype).eps))

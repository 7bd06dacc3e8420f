"""Mixtures and chains of up to K components of which each lane uses its first so many: K as a value, not a shape."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.combine.stack import Stack
from jem.composite import Composite, Wrapper
from jem.kernels.seeding import assign_nearest, kmeans_plus_plus
from jem.kernels.support import Held
from jem.latents.chain.hmm import HMM, HMMParams
from jem.latents.mixture.mixture import KMeansPlusPlus, Mixture, MixtureParams
from jem.node import Data, Node, Params, Posterior, Stats, any_of, node, replaced


class SomeParams(NamedTuple):
    """One for a copy that is used and zero for the others (K,), held; the copies' parameters."""

    used: Array
    copies: Params


@node
class Some(Composite):
    """K copies of one node, those that are not used never the ones that made a unit: `p_k(x) = 0`."""

    child: Stack

    size = property(lambda self: self.child.size, doc="K.")

    def parts(self) -> dict[Any, Node]:
        return {"copies": self.child}

    def with_parts(self, parts: dict[Any, Node]) -> "Some":
        return replaced(self, child=parts["copies"])

    @property
    def traits(self) -> frozenset[str]:
        return self.child.traits

    def infer(self, params: SomeParams, x: Data) -> tuple[Posterior, Array]:
        posterior, log_prob = self.child.infer(params.copies, x)
        return posterior, jnp.where(params.used[:, None] > 0, log_prob, -jnp.inf)

    def expect(self, params: SomeParams, posterior: Posterior, x: Data, weights: Array) -> Stats:
        return self.child.expect(params.copies, posterior, x, weights)

    def maximize(self, params: SomeParams, stats: Stats) -> SomeParams:
        new = self.child.maximize(params.copies, stats)
        keep = lambda a, b: jnp.where((params.used > 0).reshape(-1, *[1] * (a.ndim - 1)), a, b)  # noqa: E731
        return params._replace(copies=jax.tree.map(keep, new, params.copies))

    def expected_log_prob(self, params: SomeParams, stats: Stats, old: SomeParams) -> Array:
        each = jax.vmap(self.child.child.expected_log_prob)(params.copies, stats, old.copies)
        return jnp.sum(jnp.where(params.used > 0, each, 0))

    def init(self, key: Array, x: Data, weights: Array) -> SomeParams:
        return SomeParams(jnp.ones(self.size, weights.dtype), self.child.init(key, x, weights))

    def sample(self, key: Array, params: SomeParams, num: int) -> tuple[Any, Data]:
        return self.child.sample(key, params.copies, num)

    def sample_like(self, key: Array, params: SomeParams, x: Data) -> tuple[Any, Data]:
        return self.child.sample_like(key, params.copies, x)

    def log_prior(self, params: SomeParams) -> Array:
        return jnp.sum(jnp.where(params.used > 0, jax.vmap(self.child.child.log_prior)(params.copies), 0))

    def degenerate(self, params: SomeParams, stats: Stats) -> Array:
        causes = jax.vmap(self.child.child.degenerate)(params.copies, stats)
        return any_of(jnp.where(params.used > 0, causes, 0))

    def conditioning(self, params: SomeParams) -> Array:
        return jnp.max(jnp.where(params.used > 0, jax.vmap(self.child.child.conditioning)(params.copies), 0))

    def own_supports(self, params: SomeParams) -> SomeParams:
        return params._replace(used=Held())

    def recentre(self, stats: Stats, old: SomeParams, new: SomeParams) -> Stats:
        return self.child.recentre(stats, old.copies, new.copies)

    def sorting(self, x: Data) -> Array | None:
        return self.child.sorting(x)

    def must_be_finite(self, x: Data) -> Data:
        return self.child.must_be_finite(x)

    def features(self, x: Data) -> Array:
        return self.child.features(x)


@node
class First:
    """Starts as another seeding does, with the first `used` seeds alone."""

    seeding: Any
    used: Any

    def responsibilities(self, key: Array, components: Node, x: Data, weights: Array, size: int) -> Array:
        """Responsibilities (K, N), none of them of what is not used."""
        used = (jnp.arange(size) < self.used)[:, None]
        if isinstance(self.seeding, KMeansPlusPlus):
            features = components.features(x)
            centres = features[:, kmeans_plus_plus(key, features, weights, size)].T
            nearest = assign_nearest(features, jnp.where(used, centres, jnp.inf))
            return (nearest[None, :] == jnp.arange(size, dtype=nearest.dtype)[:, None]).astype(weights.dtype)
        r = jnp.where(used, self.seeding.responsibilities(key, components, x, weights, size), 0)
        return r / jnp.sum(r, 0, keepdims=True)


@node
class UpTo(Wrapper):
    """A mixture or a chain over `Some` components, for which those that are not used are not missing."""

    child: Any

    def degenerate(self, params: Params, stats: Stats) -> Array:
        if isinstance(self.child, HMM):
            full = jnp.where(params.emission.used > 0, stats.visits, 1)
            return self.child.degenerate(params, stats._replace(visits=full))
        full = jnp.where(params.components.used > 0, stats.weights, 1)
        return self.child.degenerate(params, stats._replace(weights=full))


def up_to(model: Mixture | HMM) -> UpTo:
    """The model of up to as many components as this one has."""
    if isinstance(model, HMM):
        return UpTo(replaced(model, emission=Some(model.emission)))
    return UpTo(replaced(model, components=Some(model.components)))


def start(model: UpTo, key: Array, used: Array, x: Data, weights: Array) -> Params:
    """A start of the first `used` () components."""
    inner = model.child
    params = replaced(inner, seeding=First(inner.seeding, used)).init(key, x, weights)
    there = (jnp.arange(_size(inner)) < used).astype(weights.dtype)
    share = lambda p: p * there / jnp.sum(p * there, -1, keepdims=True)  # noqa: E731
    if isinstance(inner, HMM):
        probs = params.transition.probs
        moves = probs * there[None] / jnp.sum(probs * there[None], 1, keepdims=True)
        emission = params.emission._replace(used=there)
        return HMMParams(share(params.initial), params.transition._replace(probs=moves), emission)
    return MixtureParams(share(params.weights), params.components._replace(used=there))


def _size(model: Any) -> int:
    return (model.emission if isinstance(model, HMM) else model.components).size


def first(params: Params, size: int) -> Params:
    """The parameters (R, ...) of the model of so many components, from lanes that use these."""
    cut = functools.partial(jax.tree.map, lambda a: a[:, :size])
    if isinstance(params, HMMParams):
        moves = params.transition._replace(probs=params.transition.probs[:, :size, :size])
        return HMMParams(cut(params.initial), moves, cut(params.emission.copies))
    return MixtureParams(cut(params.weights), cut(params.components.copies))

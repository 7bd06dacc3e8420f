"""Mixtures whose weights depend on inputs: mixtures of experts, with a gate of any kind."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.composite import Composite
from jem.data import Given, without_inputs
from jem.families.autodiff import Density
from jem.kernels.simplex import normalize_log
from jem.latents.driven import LogSoftmax
from jem.latents.mixture import AssignedMixture, Mixture, MixturePosterior, nobody, pick
from jem.node import DISCRETE, MISSING, Data, Node, Params, assign, node, replaced, set_once
from jem.settings import check_kind


class GatedParams(NamedTuple):
    """Parameters of the gate and of the components."""

    gate: Params
    components: Params


class GatedStats(NamedTuple):
    """Expected counts (K,) and the statistics of the gate and of the components."""

    counts: Array
    gate: Any
    components: Any


@node
class GatedMixture(Composite):
    """A mixture whose weights are a function of inputs u, `z | u ~ softmax(logits(params.gate, u))`, `x | z = k ~ component k`.

    The gate has no closed-form M-step: fit with `jem.GEM`, which moves it by gradient while components that have a
    closed form keep it. A linear gate is softmax regression; with networks for the gate and for the components it is a neural
    mixture of experts.

    x is `jem.Given(outputs, inputs)` with N rows each: the gate sees the inputs, the components the outputs. Components that
    look at inputs too have them among the outputs, a dict for example.

    Params: `GatedParams(gate, components)`.

    Args:
        child: `jem.Mixture(node, K)`: its components; its own weights are not used.
        logits: `logits(params, u)`, a vector (K,) of real numbers for one row u of inputs.
        start: parameters of the gate, or `start(key, u, weights)`, which makes them from rows u.
        supports: where they may lie; None is the real line.
        log_prior: `log_prior(params)`, a scalar, added to the objective.
        spread: standard deviation of the noise that `init` adds to `start`.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> gate = {"constant": jnp.zeros(2), "slope": jnp.zeros((2, 1))}
        >>> model = jem.GatedMixture(jem.Mixture(jem.Gaussian(), 2), lambda p, u: p["constant"] + p["slope"] @ u, gate)
        >>> model.gate.shape
        (2,)

    Source: Jacobs, Jordan, Nowlan and Hinton (1991), Neural Computation 3; Jordan and Jacobs (1994), Neural Computation 6.
    """

    child: Mixture
    gate: Density

    def __init__(
        self,
        child: Mixture,
        logits: Callable[..., Array],
        start: Any,
        *,
        supports: Any = None,
        log_prior: Callable[..., Array] | None = None,
        spread: Any = 0.1,
    ):
        check_kind(child, "components", "GatedMixture: child", "a jem.Mixture(node, K)")
        size = child.components.size
        gate = Density(LogSoftmax(logits), start, supports=supports, log_prior=log_prior, size=size, spread=spread)
        set_once(self, child=child, gate=gate)

    @property
    def size(self) -> int:
        """Number of components."""
        return self.child.components.size

    @property
    def traits(self) -> frozenset[str]:
        return (self.child.traits & {MISSING}) | {DISCRETE}

    def parts(self) -> dict[str, Node]:
        return {"gate": self.gate, "components": self.child.components}

    def with_parts(self, parts: dict[str, Node]) -> "GatedMixture":
        return replaced(self, gate=parts["gate"], child=replaced(self.child, components=parts["components"]))

    def share(self, name: str, x: Given) -> Data:
        return x.inputs if name == "gate" else x.outputs

    def infer(self, params: GatedParams, x: Given) -> tuple[MixturePosterior, Array]:
        posterior, logits = self.log_joint(params, x)
        responsibilities, evidence = normalize_log(logits)
        return MixturePosterior(responsibilities, posterior), evidence

    def log_joint(self, params: GatedParams, x: Given) -> tuple[Any, Array]:
        """The components' posteriors and `log p(z = k | u) p_k(x)` (K, N)."""
        posterior, log_prob = self.child.components.infer(params.components, x.outputs)
        return posterior, log_prob + self.gate.infer(params.gate, x.inputs)[1]

    def assign(self, rule: Any) -> AssignedMixture:
        parts = {"gate": self.gate, "components": assign(self.child.components, rule.part(1))}
        return AssignedMixture(self.with_parts(parts), rule.part(0))

    def expect(self, params: GatedParams, posterior: MixturePosterior, x: Given, weights: Array) -> GatedStats:
        r = posterior.responsibilities * weights[None, :]
        components = self.child.components.expect(params.components, posterior.components, x.outputs, r)
        return GatedStats(jnp.sum(r, 1), self.gate.expect(params.gate, (), x.inputs, r), components)

    def maximize(self, params: GatedParams, stats: GatedStats) -> GatedParams:
        return GatedParams(params.gate, self.child.components.maximize(params.components, stats.components))

    def expected_log_prob(self, params: GatedParams, stats: GatedStats, old: GatedParams) -> Array:
        components = self.child.components.expected_log_prob(params.components, stats.components, old.components)
        return self.gate.expected_log_prob(params.gate, stats.gate, old.gate) + components

    def init(self, key: Array, x: Given, weights: Array) -> GatedParams:
        gate_key, child_key = jax.random.split(key)
        components = self.child.init(child_key, x.outputs, weights).components
        return GatedParams(self.gate.init(gate_key, x.inputs, weights), components)

    def sample(self, key: Array, params: GatedParams, num: int) -> tuple[Any, Data]:
        raise TypeError("GatedMixture: inputs are given, not drawn; draw like data with inputs, sample(..., like=x)")

    def sample_like(self, key: Array, params: GatedParams, x: Given) -> tuple[Any, Data]:
        label_key, component_key = jax.random.split(key)
        labels = jax.random.categorical(label_key, self.gate.infer(params.gate, x.inputs)[1], axis=0)
        latents, drawn = self.child.components.sample_like(component_key, params.components, x.outputs)
        return (labels, latents), Given(pick(drawn, labels), x.inputs)

    def num_observations(self, x: Given) -> Array:
        return self.child.num_observations(x.outputs)

    def own_degenerate(self, params: GatedParams, stats: GatedStats) -> Array:
        return nobody(stats.counts)

    def features(self, x: Given) -> Array:
        return self.child.features(x.outputs)

    def validate(self, x: Given) -> None:
        if without_inputs(x)[1] is None:
            raise ValueError(f"GatedMixture: x must be jem.Given(outputs, inputs) with N rows; got {type(x).__name__}")
        checks.check_inputs(x.inputs, None, "GatedMixture")
        super().validate(x)

    def must_be_finite(self, x: Given) -> Data:
        return x._replace(outputs=self.child.must_be_finite(x.outputs))

    def recentre(self, stats: GatedStats, old: GatedParams, new: GatedParams) -> GatedStats:
        # What is known of the gate holds about the old parameters only.
        return Node.recentre(self, stats, old, new)

"""`python -m bench implicit`: what the derivative of a fit costs beside the fit, and beside the unrolled loop."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jem
from bench import harness
from bench.harness import Local, Report, Runner
from bench.problems import draw_mixture

PROBLEMS = {  # rows, components, features, distance of the centres
    "500 x 2, K = 3, well apart": (500, 3, 2, 4.0),
    "500 x 2, K = 3, overlapping": (500, 3, 2, 1.5),
    "5,000 x 4, K = 6": (5000, 6, 4, 3.0),
}
MAX_STEPS = 5000
STOP = 1e-10


def make(name: str) -> tuple[Any, Any, jax.Array]:
    """Model, start and rows."""
    num, size, dim, distance = PROBLEMS[name]
    rng = np.random.default_rng(0)
    means = distance * np.eye(max(size, dim))[:size, :dim] + rng.normal(scale=0.3 * distance, size=(size, dim))
    factors = np.eye(dim) + rng.normal(scale=0.2, size=(size, dim, dim))
    x = jnp.asarray(draw_mixture(rng, num, means, factors, np.full(size, 1 / size))[0])
    model = jem.Mixture(jem.Gaussian(), size)
    spread = jnp.broadcast_to(jnp.eye(dim), (size, dim, dim))
    return model, jem.Mixture.Params(jnp.full(size, 1 / size), jem.Gaussian().params(means, spread)), x


def loss(model: Any, start: Any, options: dict[str, Any], strength: jax.Array, x: jax.Array) -> jax.Array:
    """A smooth function of a fit, of the prior's strength and of the data."""
    model = jem.Mixture(jem.Gaussian(prior=jem.priors.InverseWishart(strength)), model.components.size)
    fit = jem.fit(model, start, x, **options)
    return jnp.sum(jnp.sin(fit.params.components.mean)) + jnp.sum(fit.params.weights**2)


def program(name: str, way: str, num_steps: int) -> tuple[Any, tuple[Any, ...]]:
    """One compiled program and its arguments."""
    model, start, x = make(name)
    options: dict[str, Any] = {"stop": jem.stop.RelativeGain(STOP), "max_steps": MAX_STEPS}
    if way == "unrolled":
        options = {"stop": jem.stop.NeverStop(), "max_steps": num_steps, "adjoint": jem.adjoints.Unrolled()}
    fn = functools.partial(loss, model, start, options)
    derivative = {
        "fit": fn,
        "reverse": jax.grad(fn, (0, 1)),
        "forward": lambda s, x: jax.jvp(fn, (s, x), (jnp.ones_like(s), jnp.ones_like(x))),
        "unrolled": jax.grad(fn, (0, 1)),
    }[way]
    args = (jnp.asarray(1e-2), x)
    return jax.jit(derivative).lower(*args).compile(), args


def runner(name: str, way: str, num_steps: int) -> Runner:
    """Runs it to its end."""
    compiled, args = program(name, way, num_steps)
    return Runner(lambda: jax.block_until_ready(compiled(*args)), lambda found: (found, compiled))


def compare(name: str, arguments: Any) -> list[str]:
    """One row of the table."""
    model, start, x = make(name)
    fit = jem.fit(
        jem.Mixture(jem.Gaussian(prior=jem.priors.InverseWishart(1e-2)), model.components.size),
        start, x, stop=jem.stop.RelativeGain(STOP), max_steps=MAX_STEPS,
    ).check()  # fmt: skip
    num_steps = int(fit.num_steps)
    ways = ("fit", "reverse", "forward", "unrolled")
    makers = {way: functools.partial(Local, runner, name, way, num_steps) for way in ways}
    timings, reasons = harness.measure(makers, arguments.rounds, arguments.budget)
    if reasons:
        raise RuntimeError(str(reasons))
    last = {way: timing.steady[-1].result for way, timing in timings.items()}
    size = sum(leaf.size for leaf in jax.tree.leaves(jem.unconstrain(model, fit.params)))
    memory = [last[way][1].memory_analysis().temp_size_in_bytes / 2**20 for way in ways]
    a, b = last["reverse"][0], last["unrolled"][0]
    gap = max(float(jnp.max(jnp.abs(p - q)) / jnp.max(jnp.abs(p))) for p, q in zip(a, b, strict=True))
    base = timings["fit"].wall
    times = [f"{timings[way].wall / base:.2f}" for way in ways[1:]]
    return [
        name, str(size), str(num_steps), f"{float(fit.rate):.3f}", f"{1e3 * base:.1f}", *times,
        f"{memory[0]:.2f}", f"{memory[1]:.2f}", f"{memory[3]:.1f}", f"{gap:.0e}",
    ]  # fmt: skip


def main() -> None:
    """The table."""
    options = harness.parser("implicit", __doc__, rounds=7)
    options.add_argument("--budget", type=float, default=30.0, help="seconds of steady calls a contender may use")
    arguments = harness.parse(options)
    harness.set_up_jax("float64", arguments.threads)
    report = Report(arguments.out)
    report.add(harness.machine())
    head = [
        "problem", "coordinates", "EM steps", "rate", "fit ms", "reverse / fit", "forward / fit", "unrolled / fit",
        "fit MiB", "reverse MiB", "unrolled MiB", "gap of gradients",
    ]  # fmt: skip
    rows = [head, *(compare(name, arguments) for name in PROBLEMS)]
    report.add("### Derivatives of a fit, float64\n\n" + harness.table(rows))


if __name__ == "__main__":
    main()

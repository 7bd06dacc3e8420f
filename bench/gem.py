"""`python -m bench gem`: E-steps derived from a log-joint beside hand-written ones; gradient M-steps beside closed forms."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.stats import norm, poisson

import jem
from bench import harness
from bench.harness import Local, Report, Runner, Sample

STEPS = 10


class Contest(NamedTuple):
    """Contenders on one problem, the first of which the others are measured by, and the ratio they aim at."""

    title: str
    aim: str
    runners: dict[str, Callable[[], Runner]]


def e_step_runner(node: Any, params: Any, x: Any, used: Callable[[Any], Any] = lambda stats: stats) -> Runner:
    """One E-step, the statistics that are used and the log-likelihood, compiled whole."""

    def step(params: Any, x: Any) -> Any:
        stats, log_likelihood = jem.e_step(node, params, x)
        return used(stats), log_likelihood

    run = jax.jit(step)
    return Runner(lambda: jax.block_until_ready(run(params, x)), lambda result: float(result[1]))


def fit_runner(node: Any, params: Any, x: Any, solver: Any) -> Runner:
    """A fit of `STEPS` steps."""
    fit = lambda: jem.fit(node, params, x, solver=solver, stop=jem.stop.NeverStop(), max_steps=STEPS)  # noqa: E731
    return Runner(lambda: jax.block_until_ready(fit()), lambda result: float(result.log_likelihood))


def mixture(num: int, size: int, dim: int) -> Contest:
    """A mixture of diagonal Gaussians: the node, its log-joint with gradients, and with statistics of its own."""
    rng = np.random.default_rng(0)
    mean = 2 * rng.standard_normal((size, dim))
    x = jnp.asarray(mean[rng.integers(size, size=num)] + rng.standard_normal((num, dim)), jnp.float32)
    node = jem.Mixture(jem.Gaussian(jem.covariance.Diagonal(), prior=None), size)
    params = jem.init(node, jax.random.key(0), x[:1000])

    def log_joint(p: Any, x: Any, z: Any) -> Any:
        return jnp.log(p["weights"][z]) + jnp.sum(norm.logpdf(x, p["mean"][z], p["deviation"][z]))

    def maximize(s: Any) -> Any:
        count, first, second = s
        centre = first / count[:, None]
        return {"weights": count / jnp.sum(count), "mean": centre, "deviation": jnp.sqrt(second / count[:, None] - centre**2)}

    start = {
        "weights": params.weights,
        "mean": params.components.mean,
        "deviation": 1 / params.components.whitening[..., 0],
    }
    where = {"weights": jem.supports.Simplex(), "mean": jem.supports.Real(), "deviation": jem.supports.Positive()}
    by_gradient = jem.LogJoint(log_joint, jem.spaces.Finite(size), start, supports=where)
    closed = jem.LogJoint(
        log_joint, jem.spaces.Finite(size), start, supports=where, statistics=lambda x, z: (1.0, x, x**2), maximize=maximize
    )
    return Contest(
        f"E-step, mixture of {size} diagonal Gaussians, {num} x {dim}",
        "1.5",
        {
            "Mixture(Gaussian)": lambda: e_step_runner(node, params, x),
            "LogJoint, gradient": lambda: e_step_runner(by_gradient, start, x),
            "LogJoint, statistics": lambda: e_step_runner(closed, start, x, lambda stats: stats.own),  # what EM uses
        },
    )


def chain(num: int, length: int, size: int) -> Contest:
    """A hidden Markov model of counts."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.poisson(rng.uniform(1, 20, (num, length, 1))), jnp.float32)
    node = jem.HMM(jem.Poisson(), size)
    params = jem.init(node, jax.random.key(0), x)
    start = {"initial": params.initial, "move": params.transition.probs, "rate": params.emission.rate[:, 0]}
    states = jem.spaces.ChainOf(size, lambda p: jnp.log(p["initial"]), lambda p: jnp.log(p["move"]))
    where = {"initial": jem.supports.Simplex(), "move": jem.supports.Simplex(), "rate": jem.supports.Positive()}
    model = jem.LogJoint(lambda p, x, z: poisson.logpmf(x[0], p["rate"][z]), states, start, supports=where)
    return Contest(
        f"E-step, hidden Markov model of {size} states, {num} sequences of {length} counts",
        "1.5",
        {"HMM(Poisson)": lambda: e_step_runner(node, params, x), "LogJoint": lambda: e_step_runner(model, start, x)},
    )


def iteration(num: int, size: int, dim: int) -> Contest:
    """A whole iteration: the M-step in closed form, and by gradient from the same statistics."""
    rng = np.random.default_rng(0)
    mean = 2 * rng.standard_normal((size, dim))
    x = jnp.asarray(mean[rng.integers(size, size=num)] + rng.standard_normal((num, dim)), jnp.float32)
    node = jem.Mixture(jem.Gaussian(), size)
    params = jem.init(node, jax.random.key(0), x)
    solvers = {
        "EM": jem.solvers.EM(),
        "GEM(adam)": jem.solvers.GEM(optax.adam, learning_rate=0.05),
        "GEM(lbfgs, linesearch=None)": jem.solvers.GEM(optax.lbfgs, linesearch=None),
        "GEM(lbfgs)": jem.solvers.GEM(optax.lbfgs),
    }
    return Contest(
        f"fit of {STEPS} iterations, mixture of {size} full Gaussians, {num} x {dim}",
        "3",
        {name: lambda solver=solver: fit_runner(node, params, x, solver) for name, solver in solvers.items()},
    )


def section(contest: Contest, rounds: int) -> str:
    """Times of one contest, as a table."""
    timings, reasons = harness.measure({n: functools.partial(Local, make) for n, make in contest.runners.items()}, rounds, 60.0)
    first = next(iter(timings.values()))
    rows = [("", "first call s", "ms", f"times the first (aim {contest.aim})", "log-likelihood")]
    for name, timing in timings.items():
        last: Sample = timing.steady[-1]
        rows.append(
            (
                name,
                f"{timing.first.wall:.2f}",
                f"{1e3 * timing.wall:.2f}",
                f"{timing.wall / first.wall:.2f}",
                f"{last.result:.1f}",
            )
        )
    return f"#### {contest.title}\n\n{harness.table(rows)}{harness.absent(reasons)}"


def main() -> None:
    """Run all contests."""
    options = harness.parser("gem", __doc__, rounds=9)
    options.add_argument("--scale", type=float, default=1.0, help="factor on every number of units (default 1)")
    arguments = harness.parse(options)
    harness.set_up_jax("float32", arguments.threads)
    scaled = lambda num: max(int(num * arguments.scale), 8)  # noqa: E731
    report = Report(arguments.out)
    report.add(harness.machine())
    for contest in (mixture(scaled(200_000), 8, 4), chain(scaled(256), 500, 4), iteration(scaled(100_000), 8, 4)):
        report.add(section(contest, arguments.rounds))


if __name__ == "__main__":
    main()

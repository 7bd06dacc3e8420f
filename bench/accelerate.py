"""`python -m bench accelerate`: evaluations, time and end of accelerated EM and of L-BFGS, and a search with 64 restarts."""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jem
from bench import harness
from bench.harness import Contender, Local, Report, Runner
from bench.restarts import make_data
from jem.coordinates import ravel, unravel
from jem.data import row_weights, to_units

NEAR = 1e-8  # evaluations are counted until the objective is as near to the best of its row, relative to it
MAX_STEPS = {"EM": 20_000, "SQUAREM": 5_000, "Anderson": 2_000}
SOLVERS = {"EM": jem.solvers.EM(), "SQUAREM": jem.solvers.SQUAREM(), "Anderson": jem.solvers.Anderson()}
Rng = np.random.Generator


class Problem(NamedTuple):
    """A model and its data; `start` is made from the key 0 where it is None."""

    node: Any
    x: Any
    weights: Any = None
    start: Any = None


class Ended(NamedTuple):
    """Where a climb went: the objective after each evaluation, and how it ended."""

    trace: np.ndarray
    status: str
    refused: int


def deaths(rng: Rng) -> Problem:
    """Deaths in the Times (Hasselblad, 1969), from the start of Varadhan and Roland (2008)."""
    counts = jnp.array([162.0, 267.0, 271.0, 185.0, 111.0, 61.0, 27.0, 8.0, 3.0, 1.0])
    start = jem.Mixture.Params(jnp.array([0.3, 0.7]), jem.Poisson.Params(jnp.array([[1.0], [2.5]])))
    return Problem(jem.Mixture(jem.Poisson(), 2), jnp.arange(10.0)[:, None], counts, start)


def gaussians(rng: Rng, num: int, dim: int, size: int, spread: float, family: Any) -> Problem:
    """Gaussian clusters whose centres are `spread` deviations from the middle."""
    centres = spread * rng.normal(size=(size, dim))
    x = centres[rng.integers(0, size, num)] + rng.normal(size=(num, dim))
    return Problem(jem.Mixture(family, size), jnp.asarray(x))


def factors(rng: Rng, num: int, dim: int, true: int, fitted: int) -> Problem:
    """Factor analysis; with more factors than there are, plain EM takes hundreds of thousands of steps."""
    loadings, noise = rng.normal(size=(dim, true)), rng.uniform(0.2, 1, dim)
    x = rng.normal(size=(num, true)) @ loadings.T + rng.normal(size=(num, dim)) * np.sqrt(noise)
    return Problem(jem.FactorAnalysis(fitted), jnp.asarray(x))


def tails(rng: Rng) -> Problem:
    """Student-t clusters."""
    x = 3.0 * rng.integers(0, 2, (800, 1)) + rng.standard_t(3, (800, 2))
    return Problem(jem.Mixture(jem.StudentT(), 2), jnp.asarray(x))


def answers(rng: Rng) -> Problem:
    """Latent classes of binary answers."""
    probs = np.where(rng.random((600, 1)) < 0.5, rng.uniform(0.1, 0.5, 8), rng.uniform(0.5, 0.9, 8))
    return Problem(jem.Mixture(jem.Bernoulli(concentration=1.5), 3), jnp.asarray((rng.random((600, 8)) < probs) * 1.0))


def chains(rng: Rng) -> Problem:
    """Hidden Markov chains of Gaussian observations whose states overlap."""
    z = np.cumsum(rng.random((20, 50)) < 0.1, 1) % 2
    return Problem(jem.HMM(jem.Gaussian(), 3), jnp.asarray(1.5 * z[..., None] + rng.normal(size=(20, 50, 1))))


def mixed(rng: Rng) -> Problem:
    """Reals and categories."""
    z = rng.integers(0, 2, 800)
    kind = np.where(rng.random(800) < 0.6, z, rng.integers(0, 3, 800))
    parts = {"place": jnp.asarray(1.5 * z[:, None] + rng.normal(size=(800, 2))), "kind": jnp.asarray(kind, jnp.int32)}
    return Problem(jem.Mixture(jem.Product(place=jem.Gaussian(), kind=jem.Categorical(3)), 3), parts)


PROBLEMS: dict[str, Callable[[Rng], Problem]] = {
    "Poisson mixture, deaths": deaths,
    "GMM K=3 D=2, overlapping": lambda rng: gaussians(rng, 1500, 2, 3, 1.3, jem.Gaussian()),
    "GMM K=5 D=4, overlapping": lambda rng: gaussians(rng, 2500, 4, 5, 1.0, jem.Gaussian()),
    "GMM K=5 D=4, apart": lambda rng: gaussians(rng, 2500, 4, 5, 3.0, jem.Gaussian()),
    "GMM K=8 D=8, diagonal": lambda rng: gaussians(rng, 4000, 8, 8, 1.0, jem.Gaussian(jem.covariance.Diagonal())),
    "FA D=15 q=4": lambda rng: factors(rng, 300, 15, 4, 4),
    "FA D=10 q=3 of 2": lambda rng: factors(rng, 300, 10, 2, 3),
    "Student-t mixture": tails,
    "latent classes": answers,
    "HMM K=3": chains,
    "mixed types": mixed,
}


def jem_runner(problem: Problem, name: str, tolerance: float) -> Runner:
    """`jem.fit` with one of the solvers."""
    start = problem.start or jem.init(problem.node, jax.random.key(0), problem.x)
    options = {"weights": problem.weights, "solver": SOLVERS[name], "stop": jem.stop.RelativeGain(tolerance)}

    def fit() -> Any:
        return jax.block_until_ready(jem.fit(problem.node, start, problem.x, max_steps=MAX_STEPS[name], **options))

    def read(found: Any) -> Ended:
        trace = np.asarray(found.trace)
        return Ended(trace[np.isfinite(trace)], jem.Status(found.status).name, int(found.num_refusals))

    return Runner(fit, read)


def lbfgs_runner(problem: Problem, tolerance: float) -> Runner:
    """optax's L-BFGS with its zoom line search on the negative objective per row, in jem's free coordinates."""
    start = problem.start or jem.init(problem.node, jax.random.key(0), problem.x)
    weights = row_weights(problem.x, problem.weights)
    model, units, total = jem.bind(problem.node, problem.x, problem.weights), to_units(problem.x), jnp.sum(weights)
    optimizer = optax.lbfgs()

    def loss(v: jax.Array) -> jax.Array:
        params = unravel(model, v, start)
        return -(jnp.sum(weights * model.infer(params, units)[1]) + model.log_prior(params)) / total

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        v, state, before, _, count, trace = carry
        value, grad = value_and_grad(v, state=state)
        updates, state = optimizer.update(grad, state, v, value=value, grad=grad, value_fn=loss)
        v = optax.apply_updates(v, updates)
        used = optax.tree_utils.tree_get(state, "num_linesearch_steps").astype(int)
        after = optax.tree_utils.tree_get(state, "value")
        # Until the step is accepted the objective stands where it was.
        places = jnp.arange(trace.shape[0])
        trace = jnp.where(places >= count, value, trace)
        return v, state, value, after, count + used, jnp.where(places >= count + used, after, trace)

    def more(carry: tuple[Any, ...]) -> jax.Array:
        _, _, before, after, count, trace = carry
        return (count < trace.shape[0] - 1) & ~(before - after <= tolerance * jnp.maximum(jnp.abs(after), 1))

    @jax.jit
    def fit_jit(start: Any) -> tuple[Any, ...]:
        v = ravel(model, start)
        first = loss(v)
        trace = jnp.full(MAX_STEPS["Anderson"], first)
        return jax.lax.while_loop(more, step, (v, optimizer.init(v), first + 1, first, jnp.array(1), trace))

    def read(found: tuple[Any, ...]) -> Ended:
        _, _, _, after, count, trace = found
        end = "CONVERGED" if np.isfinite(after) and count < trace.shape[0] - 1 else "MAX_STEPS"
        return Ended(-float(total) * np.asarray(trace)[: int(count) + 1], end if np.isfinite(after) else "NONFINITE", 0)

    return Runner(lambda: jax.block_until_ready(fit_jit(start)), read)


def compare(arguments: argparse.Namespace) -> str:
    """Every problem, every solver."""
    rows = [["problem", "", "evaluations", "to 1e-8", "refused", "ms", "time / EM", "objective", "minus best", "status"]]
    for index, (title, make) in enumerate(PROBLEMS.items()):
        if arguments.only and not any(word in title for word in arguments.only):
            continue
        problem = make(np.random.default_rng(index))
        makers: dict[str, functools.partial[Contender]] = {
            name: functools.partial(Local, jem_runner, problem, name, arguments.tolerance) for name in SOLVERS
        }
        makers["L-BFGS"] = functools.partial(Local, lbfgs_runner, problem, arguments.tolerance)
        timings, reasons = harness.measure(makers, arguments.rounds, arguments.budget)
        ends = {name: timing.steady[-1].result for name, timing in timings.items()}
        best = max(np.nanmax(end.trace) for end in ends.values())
        for name, end in ends.items():
            near = end.trace >= best - NEAR * abs(best)
            rows.append(
                [
                    title if name == "EM" else "",
                    name,
                    str(len(end.trace)),
                    str(int(np.argmax(near)) + 1) if near.any() else "-",
                    str(end.refused),
                    f"{1e3 * timings[name].wall:.1f}",
                    f"{timings[name].wall / timings['EM'].wall:.2f}",
                    f"{end.trace[-1]:.6f}",
                    f"{end.trace[-1] - best:+.1e}",
                    end.status,
                ]
            )
        rows += [[title, name, *["-"] * 7, why] for name, why in reasons.items()]
    title = f"### one start, float64, relative tolerance {arguments.tolerance:g}\n\n"
    return title + harness.table(rows)


def search(arguments: argparse.Namespace) -> str:
    """64 restarts of six Gaussians on 5,000 x 4 rows, by each solver, over several data sets."""
    model, stop = jem.Mixture(jem.Gaussian(prior=None), 6), jem.stop.RelativeGain(1e-8)
    seconds: dict[str, list[float]] = {name: [] for name in SOLVERS}
    scores: dict[str, list[float]] = {name: [] for name in SOLVERS}
    steps: dict[str, list[float]] = {name: [] for name in SOLVERS}
    for seed in range(arguments.datasets):
        x = jax.device_put(make_data(seed))
        for name, solver in SOLVERS.items():

            def fit(x: Any = x, seed: int = seed, solver: Any = solver) -> Any:
                key = jax.random.key(seed)
                return jax.block_until_ready(
                    jem.fit_restarts(model, key, x, num_restarts=64, solver=solver, stop=stop, max_steps=5000)
                )

            if seed == 0:
                fit()
            sample = harness.timed(Runner(fit, lambda fits: fits))
            seconds[name].append(sample.cpu)
            scores[name].append(float(sample.result.best().objective))
            steps[name].append(float(np.sum(sample.result.num_steps + 1)))
    rows = [["", "CPU s, median", "time / EM", "evaluations / EM", "best objective minus EM's, worst and best set"]]
    for name in SOLVERS:
        gap = np.array(scores[name]) - np.array(scores["EM"])
        rows.append(
            [
                name,
                f"{np.median(seconds[name]):.2f}",
                f"{np.median(np.array(seconds[name]) / np.array(seconds['EM'])):.2f}",
                f"{np.median(np.array(steps[name]) / np.array(steps['EM'])):.2f}",
                f"{gap.min():+.1e} {gap.max():+.1e}",
            ]
        )
    title = f"### 64 restarts, 5000 x 4, K = 6, float64, relative tolerance 1e-8, {arguments.datasets} data sets\n\n"
    return title + harness.table(rows)


def main() -> None:
    """One start of many models, then many starts of one."""
    options = harness.parser("accelerate", __doc__, rounds=3)
    options.add_argument("--tolerance", type=float, default=1e-12, help="relative gain at which all stop (default 1e-12)")
    options.add_argument("--datasets", type=int, default=5, help="data sets for the restarts (default 5)")
    options.add_argument("--only", nargs="+", metavar="WORD", help="problems whose title has one of these words")
    options.add_argument("--budget", type=float, default=20.0, help="seconds of steady calls a contender may use")
    arguments = harness.parse(options)
    harness.set_up_jax("float64", arguments.threads)
    report = Report(arguments.out)
    report.add(harness.machine())
    report.add(compare(arguments))
    report.add(search(arguments))


if __name__ == "__main__":
    main()

"""`python -m bench remaining`: the default solver and stop over the zoo, beside solvers stopped by an oracle.

The oracle stops a solver at the first evaluation at which no more than 1e-3 nats are left of its climb. What is left is
counted from the end of a long climb in float64. With `--random`, instead: how many of many random problems, of too many
components for what structure there is, end CONVERGED short of their end.
"""

import argparse
import importlib
import pathlib
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jem
from bench import harness
from bench.accelerate import PROBLEMS
from bench.harness import Report
from jem.engine.step import gradient_fields

NEAR = 1e-3  # nats
SOLVERS = {"EM": (jem.solvers.EM(), 3000), "SQUAREM": (jem.solvers.SQUAREM(), 1000), "Anderson": (jem.solvers.Anderson(), 1000)}


class Climb(NamedTuple):
    """A model, a start and data, in one dtype."""

    title: str
    node: Any
    start: Any
    x: Any
    weights: Any


def climbs(dtype: str) -> Any:
    """Every row of the zoo with closed-form steps, and the problems of `bench accelerate`."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
    zoo = importlib.import_module("zoo")
    for row in zoo.ZOO:
        x = row.rows(np.random.default_rng(7), dtype)
        start = jem.init(row.node, jax.random.key(0), x)
        if not gradient_fields(row.node, start):
            yield Climb(row.name, row.node, start, x, None)
    for index, (title, make) in enumerate(PROBLEMS.items()):
        problem = make(np.random.default_rng(index))
        cast = lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        x, start, weights = jax.tree.map(cast, (problem.x, problem.start, problem.weights))
        start = start or jem.init(problem.node, jax.random.key(0), x)
        yield Climb(title, problem.node, start, x, weights)


def double(values: Any) -> Any:
    """The same in float64."""
    wide = lambda leaf: np.asarray(leaf, np.float64 if leaf.dtype.kind == "f" else leaf.dtype)
    return jax.tree.map(lambda leaf: wide(np.asarray(leaf)), values)


def left(climb: Climb, params: Any) -> float:
    """Nats that a long climb in float64 still gains; NaN where it fails, as one that ends at once says nothing."""
    with jax.enable_x64(True):
        x, weights, start = jax.tree.map(jnp.asarray, double((climb.x, climb.weights, params)))
        more = jem.fit(climb.node, start, x, weights=weights, stop=jem.stop.Remaining(1e-9), max_steps=3000)
        climbed = int(more.status) in (jem.Status.CONVERGED, jem.Status.MAX_STEPS)
        return float(more.objective - more.trace[0]) if climbed else float("nan")


def oracle(climb: Climb, solver: Any, most: int) -> int | None:
    """Evaluations until no more than `NEAR` is left of the solver's own climb; None where they were not enough."""
    stop = jem.stop.Remaining(1e-9)
    fit = jem.fit(climb.node, climb.start, climb.x, weights=climb.weights, solver=solver, stop=stop, max_steps=most)
    trace = np.asarray(fit.trace)
    near = trace >= float(fit.objective) + left(climb, fit.params) - NEAR
    return int(np.argmax(near)) + 1 if near.any() else None


def default(climb: Climb) -> tuple[Any, float, float]:
    """The default fit, its seconds when compiled, and what it left."""
    run = lambda: jax.block_until_ready(jem.fit(climb.node, climb.start, climb.x, weights=climb.weights))
    run()
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        fit = run()
        seconds.append(time.perf_counter() - begun)
    return fit, float(np.median(seconds)), left(climb, fit.params)


def compare(arguments: argparse.Namespace, dtype: str) -> str:
    """A row a model."""
    rows = [["model", *SOLVERS, "default", "over best", "ms", "status", "remaining", "left"]]
    ratios, worst = [], 0.0
    for climb in climbs(dtype):
        if arguments.only and not any(word in climb.title for word in arguments.only):
            continue
        fit, seconds, after = default(climb)
        counts = [oracle(climb, *SOLVERS[name]) if dtype == "float64" else None for name in SOLVERS]
        known = [count for count in counts if count is not None]
        ratio = (int(fit.num_steps) + 1) / min(known) if known else float("nan")
        status = jem.Status(int(fit.status))
        if status == jem.Status.CONVERGED:
            ratios.append(ratio)
            worst = float(np.fmax(worst, after))
        shown = ["-" if count is None else str(count) for count in counts]
        numbers = [str(int(fit.num_steps) + 1), f"{ratio:.2f}", f"{1e3 * seconds:.2f}"]
        rows.append([climb.title, *shown, *numbers, status.name, f"{float(fit.remaining):.1e}", f"{after:.1e}"])
        jax.clear_caches()
    mean = float(np.exp(np.nanmean(np.log(ratios)))) if np.isfinite(ratios).any() else float("nan")
    title = f"### {dtype}: evaluations to {NEAR:g} nats by an oracle, and the default fit\n\n"
    end = f"\n\nOver best, geometric mean: {mean:.2f}. Most nats left where CONVERGED: {worst:.1e}.\n"
    return title + harness.table(rows) + end


def random_problems(num: int) -> dict[str, tuple[Any, list[np.ndarray]]]:
    """A model, and data of `num` seeds that it has too many components for."""
    seeds = [np.random.default_rng(5000 + i) for i in range(num)]
    draw = lambda make: [make(rng) for rng in seeds]
    mixture, gaussian = jem.Mixture, jem.Gaussian()
    return {
        "two factors, one true": (jem.FactorAnalysis(2), draw(lambda r: r.normal(size=(50, 6)) + r.normal(size=(50, 1)))),
        "two factors, none true": (jem.FactorAnalysis(2), draw(lambda r: r.normal(size=(60, 5)))),
        "GMM K=3 of 1": (mixture(gaussian, 3), draw(lambda r: r.normal(size=(80, 2)))),
        "GMM K=2, overlapping": (mixture(gaussian, 2), draw(lambda r: r.normal(size=(200, 2)) + np.arange(200)[:, None] % 2)),
        "latent classes K=3 of 1": (mixture(jem.Bernoulli(), 3), draw(lambda r: 1.0 * (r.random((80, 5)) < 0.4))),
        "rare ones K=2 of 1": (mixture(jem.Bernoulli(), 2), draw(lambda r: 1.0 * (r.random((40, 4)) < 0.1))),
        "counts K=3 of 1": (mixture(jem.Poisson(), 3), draw(lambda r: 1.0 * r.poisson(1.0, (100, 2)))),
        "HMM of symbols, no chain": (jem.HMM(jem.Categorical(3), 2), draw(lambda r: r.integers(0, 3, (1, 100)))),
        "HMM of Gaussians, no chain": (jem.HMM(gaussian, 2), draw(lambda r: r.normal(size=(1, 100, 2)))),
        "mixed factors, none true": (mixture(jem.FactorAnalysis(1), 2), draw(lambda r: r.normal(size=(60, 4)))),
    }


def endings(arguments: argparse.Namespace, dtype: str) -> str:
    """A row a problem: how its seeds ended, and what they left."""
    rows = [["problem", "evaluations", "CONVERGED", "of these > 2e-3 short", "worst", "MAX_STEPS", "other"]]
    for title, (model, data) in random_problems(arguments.random).items():
        if arguments.only and not any(word in title for word in arguments.only):
            continue
        x = jnp.asarray(np.stack(data))
        x = x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
        starts = jax.vmap(lambda key, x: jem.init(model, key, x))(jax.random.split(jax.random.key(0), len(x)), x)
        starts = jax.tree.map(lambda p: p.astype(dtype), starts)
        fits = jax.jit(jax.vmap(lambda start, x: jem.fit(model, start, x)))(starts, x)
        exact = jax.tree.map(jnp.asarray, double((fits.params, x)))
        stop = jem.stop.Remaining(1e-9)
        long = jax.jit(jax.vmap(lambda start, x: jem.fit(model, start, x, stop=stop, max_steps=3000)))(*exact)
        after, status = np.asarray(long.objective - long.trace[:, 0]), np.asarray(fits.status)
        done, stopped = status == jem.Status.CONVERGED, status == jem.Status.MAX_STEPS
        steps = np.exp(np.mean(np.log(np.asarray(fits.num_steps) + 1)))
        counts = [f"{done.sum()}", f"{(after[done] > 2e-3).sum()}", f"{after[done].max():.1e}"]
        rows.append([title, f"{steps:.0f}", *counts, f"{stopped.sum()}", f"{(~done & ~stopped).sum()}"])
        jax.clear_caches()
    return f"### {dtype}: {arguments.random} random problems each\n\n" + harness.table(rows) + "\n"


def main() -> None:
    """float64 beside the oracle, then float32."""
    options = harness.parser("remaining", __doc__, rounds=1)
    options.add_argument("--only", nargs="+", metavar="WORD", help="models whose name has one of these words")
    options.add_argument("--random", type=int, metavar="SEEDS", help="so many random problems of each kind instead")
    arguments = harness.parse(options)
    harness.set_up_jax("float64", arguments.threads)
    report = Report(arguments.out)
    report.add(harness.machine())
    for dtype in ("float64", "float32"):
        if arguments.random:
            report.add(endings(arguments, dtype))
            continue
        with jax.enable_x64(dtype == "float64"):
            report.add(compare(arguments, dtype))


if __name__ == "__main__":
    main()

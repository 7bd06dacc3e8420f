"""`python -m bench restarts`: a whole search, beside the peers, and what each screening schedule gains and loses."""

import argparse
import functools
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
import sklearn.exceptions
import sklearn.mixture

import jem
from bench import harness
from bench.harness import Contender, Local, Remote, Report, Runner, place, require
from bench.peers import gmmx, jem_read
from bench.problems import Params, draw_mixture, mean_log_likelihood

NUM_UNITS, NUM_FEATURES, NUM_COMPONENTS = 5000, 4, 6
MAX_STEPS = 1000
SCHEDULES = {
    "FinishAll": jem.schedules.FinishAll,
    "Halving": jem.schedules.Halving,
    "PruneByLimit": jem.schedules.PruneByLimit,
    "MergeDuplicates": jem.schedules.MergeDuplicates,
}


def make_data(seed: int) -> np.ndarray:
    """Rows (5000, 4) of six overlapping Gaussians with unequal weights: a surface with many optima."""
    rng = np.random.default_rng(seed)
    means = rng.normal(scale=1.5, size=(NUM_COMPONENTS, NUM_FEATURES))
    factors = np.eye(NUM_FEATURES) + rng.normal(scale=0.2, size=(NUM_COMPONENTS, NUM_FEATURES, NUM_FEATURES))
    weights = rng.dirichlet(np.full(NUM_COMPONENTS, 5.0))
    return draw_mixture(rng, NUM_UNITS, means, factors, weights)[0]


def score(params: Params, x: np.ndarray) -> float:
    """Mean log-likelihood of all rows, by the bench's own code."""
    return mean_log_likelihood("full", params, x, len(x))


class Found(NamedTuple):
    """The best parameters of a search and the share of its lanes that ended within 1e-4 per row of them."""

    best: Params
    share: float = float("nan")


def jem_runner(
    seed: int, num_restarts: int, tolerance: float, threads: int, schedule: Any, solver: Any = jem.solvers.EM()  # noqa: B008
) -> Runner:
    """`jem.fit_restarts` without a prior; with two threads the data lies on two devices and the lanes are split."""
    model = jem.Mixture(jem.Gaussian(prior=None), NUM_COMPONENTS)
    x = place(make_data(seed), threads)
    key = jax.random.key(seed)
    stop = jem.stop.RelativeGain(tolerance)

    def fit() -> Any:
        fits = jem.fit_restarts(
            model, key, x, num_restarts=num_restarts, schedule=schedule, solver=solver, stop=stop, max_steps=MAX_STEPS
        )
        return jax.block_until_ready(fits)

    def read(fits: Any) -> Found:
        per_unit = np.asarray(fits.log_likelihood) / NUM_UNITS
        return Found(jem_read("full", fits.best().params), float(np.mean(per_unit > np.nanmax(per_unit) - 1e-4)))

    return Runner(fit, read)


def sklearn_runner(seed: int, num_restarts: int, tolerance: float, init: str) -> Runner:
    """`GaussianMixture(n_init=...)`, its defaults but for the start and the tolerance."""
    x = make_data(seed)
    model = sklearn.mixture.GaussianMixture(
        NUM_COMPONENTS, n_init=num_restarts, init_params=init, tol=tolerance, max_iter=MAX_STEPS, random_state=seed
    )

    def fit() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            return model.fit(x)

    return Runner(fit, lambda m: Found(Params(m.weights_, m.means_, m.covariances_)))


def gmmx_runner(seed: int, num_restarts: int, tolerance: float) -> Runner:
    """gmmx in a Python loop from its own k-means starts, float32: it has no restarts."""
    module = require(gmmx)
    x = make_data(seed).astype(np.float32)
    fitter = module.EMFitter(max_iter=MAX_STEPS, tol=tolerance)

    def fit() -> Any:
        best: Any = None
        for i in range(num_restarts):
            start = module.GaussianMixtureModelJax.from_k_means(x, NUM_COMPONENTS, n_init=1, random_state=i)
            found = fitter.fit(x, start)
            if best is None or found.log_likelihood > best.log_likelihood:
                best = found
        return best

    def read(found: Any) -> Found:
        return Found(Params(found.gmm.weights_numpy, found.gmm.means_numpy, found.gmm.covariances.values_numpy))

    return Runner(fit, read)


def compare_search(arguments: argparse.Namespace) -> str:
    """The whole search beside the peers, one data set."""
    size, tolerance = arguments.restarts, arguments.tolerance
    x = make_data(0)
    # jem's test is relative to the size of the objective, the peers' is not.
    absolute = tolerance * max(1.0, abs(score(Params(np.ones(1), x.mean(0)[None], np.cov(x.T)[None]), x)))
    search = functools.partial(Local, jem_runner, 0, size, tolerance, arguments.threads, jem.schedules.FinishAll())
    makers: dict[str, functools.partial[Contender]] = {
        "jem": search,
        "jem, SQUAREM": functools.partial(search, jem.solvers.SQUAREM()),
        "jem, Anderson": functools.partial(search, jem.solvers.Anderson()),
        "scikit-learn, k-means starts": functools.partial(Local, sklearn_runner, 0, size, absolute, "kmeans"),
        "scikit-learn, random starts": functools.partial(Local, sklearn_runner, 0, size, absolute, "random"),
        "gmmx in a loop (float32)": functools.partial(Remote, arguments.timeout, gmmx_runner, 0, size, absolute),
    }
    timings, reasons = harness.measure(makers, arguments.rounds, arguments.budget)
    scores = {name: score(timing.steady[-1].result.best, x) for name, timing in timings.items()}
    rows = [["", "first call s", "steady s", "times jem", "best log-likelihood / row", "minus jem's"]]
    for name, timing in timings.items():
        rows.append(
            [
                name,
                f"{timing.first.wall:.2f}",
                f"{timing.wall:.2f}",
                f"{timing.wall / timings['jem'].wall:.1f}",
                f"{scores[name]:.9f}",
                f"{scores[name] - scores['jem']:+.1e}",
            ]
        )
    title = (
        f"### {size} restarts, {NUM_UNITS} x {NUM_FEATURES}, K = {NUM_COMPONENTS}, float64, "
        f"{arguments.threads} thread{'s' * (arguments.threads > 1)}\n\n"
        f"relative tolerance {tolerance:g}, which is {absolute:.1e} per row for the peers\n\n"
    )
    return title + harness.table(rows) + harness.absent(reasons)


def compare_schedules(arguments: argparse.Namespace) -> str:
    """Time and loss of every schedule against finishing every lane, same keys, many data sets."""
    seconds: dict[str, list[float]] = {name: [] for name in SCHEDULES}
    losses: dict[str, list[float]] = {name: [] for name in SCHEDULES}
    shares: list[float] = []
    for seed in range(arguments.datasets):
        x = make_data(seed)
        scores = {}
        for name, schedule in SCHEDULES.items():
            runner = jem_runner(seed, arguments.restarts, arguments.tolerance, arguments.threads, schedule())
            if seed == 0:
                runner.fit()
            sample = harness.timed(runner)
            seconds[name].append(sample.wall)
            scores[name] = score(sample.result.best, x)
            if name == "FinishAll":
                shares.append(sample.result.share)
            losses[name].append(scores["FinishAll"] - scores[name])
    rows = [["schedule", "median s", "time / FinishAll", "sets losing > 1e-4", "> 1e-3", "worst loss / row"]]
    reference = np.array(seconds["FinishAll"])
    for name in SCHEDULES:
        loss = np.array(losses[name])
        rows.append(
            [
                name,
                f"{np.median(seconds[name]):.2f}",
                f"{np.median(seconds[name] / reference):.2f}",
                f"{np.sum(~(loss <= 1e-4))} of {len(loss)}",
                f"{np.sum(~(loss <= 1e-3))} of {len(loss)}",
                f"{loss.max():.1e}",
            ]
        )
    title = (
        f"### schedules over {arguments.datasets} data sets\n\n"
        f"FinishAll's lanes that end within 1e-4 of the best: median {np.median(shares):.0%}, "
        f"{min(shares):.0%} to {max(shares):.0%}\n\n"
    )
    return title + harness.table(rows)


def main() -> None:
    """Run the search beside the peers, then the schedules."""
    options = harness.parser("restarts", __doc__, rounds=3)
    options.add_argument("--restarts", type=int, default=256, help="lanes of a search (default 256)")
    options.add_argument("--datasets", type=int, default=20, help="data sets for the schedules, 0 for none (default 20)")
    options.add_argument("--tolerance", type=float, default=1e-6, help="jem.stop.RelativeGain's (default 1e-6)")
    options.add_argument("--budget", type=float, default=60.0, help="seconds of steady calls a contender may use")
    options.add_argument("--timeout", type=float, default=600.0, help="seconds gmmx may take for one search")
    arguments = harness.parse(options)
    harness.set_up_jax("float64", arguments.threads)
    report = Report(arguments.out)
    report.add(harness.machine())
    report.add(compare_search(arguments))
    if arguments.datasets:
        report.add(compare_schedules(arguments))


if __name__ == "__main__":
    main()

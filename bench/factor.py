"""`python -m bench factor`: a whole factor analysis, beside scikit-learn: equal iterations, and equal log-likelihood."""

import argparse
import dataclasses
import functools
import math
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
import sklearn.decomposition
import sklearn.exceptions

import jem
from bench import compare, harness
from bench.harness import Report, Runner, Unavailable, place
from jem.latents.linear.factor import FactorAnalysis

Array = np.ndarray
SIZES = ((100_000, 64, 8),)
# scikit-learn stops at a gain below this, of the log-likelihood of all rows; jem's search for its steps is as coarse.
TOLERANCE = 1e-2
SEARCH = 10


class Params(NamedTuple):
    """Mean (D,), loadings (D, q) and noise variances (D,)."""

    mean: Array
    loadings: Array
    noise: Array


@dataclasses.dataclass(frozen=True)
class Workload:
    """A factor analysis of `num_factors`; `num_steps` EM iterations where they are equal, no prior."""

    num_units: int
    num_features: int
    num_factors: int
    dtype: str
    threads: int
    num_steps: int

    @property
    def key(self) -> str:
        """The name that `--sizes` matches, e.g. 1e5-64-8."""
        return f"{compare.short(self.num_units)}-{self.num_features}-{self.num_factors}"


class Problem(NamedTuple):
    """A workload with its data (N, D), in its dtype; each package makes its own start, within its time."""

    workload: Workload
    x: Array


class Found(NamedTuple):
    """Parameters and the iterations they took."""

    params: Params
    num_steps: int


@functools.lru_cache(maxsize=1)
def make_problem(workload: Workload) -> Problem:
    """Factors that explain from a tenth to nine tenths of a feature's variance."""
    n, d, q = workload.num_units, workload.num_features, workload.num_factors
    rng = np.random.default_rng(20240)
    loadings = rng.normal(size=(d, q))
    share = rng.uniform(0.1, 0.9, size=d)
    noise = np.sum(loadings**2, 1) * (1 - share) / share
    x = rng.normal(size=(n, q)) @ loadings.T + rng.normal(size=(n, d)) * np.sqrt(noise) + rng.normal(size=d)
    return Problem(workload, np.ascontiguousarray(x, workload.dtype))


@functools.lru_cache(maxsize=1)
def moments(workload: Workload) -> tuple[Array, Array]:
    """The data's mean and covariance in float64: all that the likelihood depends on."""
    x = make_problem(workload).x.astype(np.float64)
    return x.mean(0), np.cov(x.T, bias=True)


def score(workload: Workload, found: Found) -> float:
    """The log-likelihood per row of all the data, in float64; NaN where a parameter is not finite."""
    mean, loadings, noise = (np.asarray(a, np.float64) for a in found.params)
    if not all(np.all(np.isfinite(a)) for a in (mean, loadings, noise)):
        return math.nan
    center, scatter = moments(workload)
    scatter = scatter + np.outer(center - mean, center - mean)
    covariance = loadings @ loadings.T + np.diag(noise)
    log_det = np.linalg.slogdet(covariance)[1]
    return float(-0.5 * (len(mean) * np.log(2 * np.pi) + log_det + np.trace(np.linalg.solve(covariance, scatter))))


def sklearn_fit(workload: Workload, svd_method: str, tolerance: float, max_steps: int) -> Found:
    """One fit of `FactorAnalysis`, its defaults but for the stop."""
    model = sklearn.decomposition.FactorAnalysis(
        workload.num_factors, svd_method=svd_method, tol=tolerance, max_iter=max_steps, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        model.fit(make_problem(workload).x)
    return Found(Params(model.mean_, model.components_.T, model.noise_variance_), model.n_iter_)


def sklearn_runner(svd_method: str, to_the_end: bool, problem: Problem) -> Runner:
    """scikit-learn with a number of iterations, or to the end that its own tolerance sets."""
    workload = problem.workload
    tolerance, max_steps = (TOLERANCE, 1000) if to_the_end else (0.0, workload.num_steps)

    def read(found: Found) -> Found:
        if not to_the_end and found.num_steps != max_steps:
            raise Unavailable(f"made {found.num_steps} iterations of {max_steps}")
        return found

    return Runner(lambda: sklearn_fit(workload, svd_method, tolerance, max_steps), read)


def jem_fit(workload: Workload, x: Any, num_steps: int, params: Any = None) -> Any:
    """`jem.fit` without a prior, from jem's own start unless there is one."""
    model = FactorAnalysis(workload.num_factors, prior=None)
    params = jem.init(model, jax.random.key(0), x) if params is None else params
    return jax.block_until_ready(jem.fit(model, params, x, stop=jem.stop.NeverStop(), max_steps=num_steps))


def jem_found(result: Any, num_steps: int) -> Found:
    """jem's parameters in the form of this bench."""
    return Found(Params(*(np.asarray(getattr(result.params, name)) for name in Params._fields)), num_steps)


@functools.cache
def steps_to_the_end(workload: Workload, max_steps: int = 5000) -> int:
    """The iterations, to the next ten, after which jem has the log-likelihood that scikit-learn ends with. Not timed."""
    wanted = score(workload, sklearn_fit(workload, "lapack", TOLERANCE, 1000)) - TOLERANCE / workload.num_units
    x, params = place(make_problem(workload).x, 1), None
    for num_steps in range(SEARCH, max_steps + 1, SEARCH):
        result = jem_fit(workload, x, SEARCH, params)
        if score(workload, jem_found(result, num_steps)) >= wanted:
            return num_steps
        params = result.params
    raise Unavailable(f"does not reach it in {max_steps} iterations")


def jem_runner(to_the_end: bool, problem: Problem) -> Runner:
    """`jem.init` and `jem.fit`: iterations as asked, or as many as reach scikit-learn's log-likelihood; one closing E-step."""
    workload = problem.workload
    num_steps = steps_to_the_end(workload) if to_the_end else workload.num_steps
    x = place(problem.x, workload.threads, "rows")
    return Runner(lambda: jem_fit(workload, x, num_steps), lambda result: jem_found(result, num_steps))


CONTENDERS = {
    "jem": functools.partial(jem_runner, False),
    "scikit-learn lapack": functools.partial(sklearn_runner, "lapack", False),
    "scikit-learn randomized": functools.partial(sklearn_runner, "randomized", False),
    "jem, to the end": functools.partial(jem_runner, True),
    "scikit-learn lapack, to the end": functools.partial(sklearn_runner, "lapack", True),
    "scikit-learn randomized, to the end": functools.partial(sklearn_runner, "randomized", True),
}


def make_runner(name: str, workload: Workload) -> Runner:
    """Prepare one contender."""
    return CONTENDERS[name](make_problem(workload))


FIELD = compare.Field(tuple(CONTENDERS), make_runner, score, "row")


def section(workload: Workload, arguments: argparse.Namespace) -> str:
    """Measure one workload: its title and its table."""
    timings, reasons = harness.measure(compare.makers(FIELD, workload, arguments), arguments.rounds, arguments.budget)
    scores = {name: score(workload, timing.steady[-1].result) for name, timing in timings.items()}
    rows = [
        ["", "iterations", "first call s", "whole fit ms", "CPU ms", "rounds", "times jem"]
        + ["log-likelihood / row", "minus jem's", "peak MB"]
    ]
    for name, timing in timings.items():
        end = ", to the end" if name.endswith(", to the end") else ""
        own = f"jem{end}"
        peak = compare.memory(FIELD, name, workload, arguments.timeout) if arguments.memory else "-"
        rows.append(
            [
                name,
                str(timing.steady[-1].result.num_steps),
                f"{timing.first.wall:.2f}",
                f"{1e3 * timing.wall:.1f}",
                f"{1e3 * timing.cpu:.1f}",
                str(len(timing.steady)),
                f"{timing.wall / timings[own].wall:.2f}" if own in timings else "-",
                f"{scores[name]:.9f}",
                f"{scores[name] - scores[own]:+.1e}" if own in scores else "-",
                peak,
            ]
        )
    title = (
        f"### {workload.key}, {compare.threads(workload)}\n\n{workload.num_units} x {workload.num_features}, "
        f"q = {workload.num_factors}, data {make_problem(workload).x.nbytes / 1e6:.0f} MB\n\n"
    )
    return title + harness.table(rows) + harness.absent(reasons)


def main() -> None:
    """Run the chosen workloads one after the other."""
    options = compare.parser("factor", __doc__, FIELD, "1e5-*", rounds=3, dtype="float64")
    options.set_defaults(steps=12)
    arguments = harness.parse(options)
    harness.set_up_jax(arguments.dtype, arguments.threads)
    workloads = []
    for num_units, num_features, num_factors in SIZES:
        num_units = 2 * round(max(num_units * arguments.scale, 10 * num_features) / 2)  # even, for two devices
        workloads.append(Workload(num_units, num_features, num_factors, arguments.dtype, arguments.threads, arguments.steps))
    chosen = compare.choose(options, arguments, workloads)
    report = Report(arguments.out)
    report.add(f"{harness.machine()}; {arguments.steps} iterations where they are equal")
    for workload in chosen:
        report.add(section(workload, arguments))


if __name__ == "__main__":
    main()

"""`python -m bench gmm`: milliseconds per EM iteration of Gaussian mixtures, beside the peers."""

import argparse
import fnmatch
import functools

from bench import harness
from bench.harness import Contender, Local, Remote, Report, Timing, Unavailable
from bench.peers import ALONE, CONTENDERS, make_runner, make_runner_alone
from bench.problems import Workload, make_problem, mean_log_likelihood

SIZES = (
    ("full", 100_000, 8, 8),
    ("full", 1_000_000, 8, 8),
    ("full", 100_000, 32, 16),
    ("full", 20_000, 128, 10),
    ("diagonal", 1_000_000, 16, 32),
    ("tied", 100_000, 32, 16),
    ("spherical", 100_000, 32, 16),
)
HEAD = (
    "",
    "first call s",
    "ms / iteration",
    "CPU ms",
    "rounds",
    "times jem",
    "times floor",
    "log-likelihood / row",
    "minus jem's",
    "peak MB",
)


def contender(name: str, workload: Workload, timeout: float) -> Contender:
    """A package on a workload, in this process or, where it must be, in its own."""
    if name in ALONE:
        return Remote(timeout, make_runner_alone, name, workload)
    return Local(make_runner, name, workload)


def memory(name: str, workload: Workload, timeout: float) -> str:
    """Megabytes (1e6 bytes) beyond the data at the peak of one fit in a new process."""
    try:
        remote = Remote(timeout, make_runner_alone, name, workload)
        peak = remote.memory()
        remote.close()
    except Unavailable as error:
        return str(error)
    return "-" if peak is None else f"{peak / 1e6:.0f}"


def row(
    name: str, timings: dict[str, Timing], scores: dict[str, float], workload: Workload, floor: float, peak: str
) -> list[str]:
    """One line of the table."""
    timing = timings[name]
    cells = [
        name,
        f"{timing.first.wall:.2f}",
        f"{1e3 * timing.wall / workload.num_steps:.2f}",
        f"{1e3 * timing.cpu / workload.num_steps:.2f}",
        str(len(timing.steady)),
        f"{timing.wall / timings['jem'].wall:.2f}" if "jem" in timings else "-",
        f"{timing.wall / workload.num_steps / floor:.1f}",
        f"{scores[name]:.9f}",
        f"{scores[name] - scores['jem']:+.1e}" if "jem" in scores else "-",
        peak,
    ]
    return cells


def compare(workload: Workload, arguments: argparse.Namespace, peak_flops: float) -> str:
    """Measure one workload: its title and its table."""
    makers = {
        name: functools.partial(contender, name, workload, arguments.timeout)
        for name in CONTENDERS
        if name in arguments.only
    }
    timings, reasons = harness.measure(makers, arguments.rounds, arguments.budget)
    x = make_problem(workload).x
    scores = {n: mean_log_likelihood(workload.kind, t.steady[-1].result, x) for n, t in timings.items()}
    floor = workload.flops / peak_flops
    rows = [[*HEAD]]
    for name in timings:
        peak = memory(name, workload, arguments.timeout) if arguments.memory else "-"
        rows.append(row(name, timings, scores, workload, floor, peak))
    title = (
        f"### {workload.key}, {workload.dtype}, {workload.threads} thread{'s' * (workload.threads > 1)}\n\n"
        f"{workload.num_units} x {workload.num_features}, K = {workload.num_components}; "
        f"floor {1e3 * floor:.2f} ms / iteration, data {x.nbytes / 1e6:.0f} MB\n\n"
    )
    return title + harness.table(rows) + harness.absent(reasons)


def main() -> None:
    """Run the chosen workloads one after the other."""
    options = harness.parser("gmm", __doc__, rounds=7)
    options.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    options.add_argument("--sizes", nargs="+", default=["*"], metavar="PATTERN", help="e.g. full-1e5-* or 'diag*'")
    options.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=CONTENDERS, help="contenders")
    options.add_argument("--steps", type=int, default=10, help="EM iterations of one fit (default 10)")
    options.add_argument("--scale", type=float, default=1.0, help="multiplies every N: a small value tries the bench")
    options.add_argument("--budget", type=float, default=60.0, help="seconds of steady calls a contender may use")
    options.add_argument("--timeout", type=float, default=180.0, help="seconds a child process may take for one answer")
    options.add_argument("--no-memory", dest="memory", action="store_false", help="skip the peak memory")
    arguments = harness.parse(options)
    harness.set_up_jax(arguments.dtype, arguments.threads)
    chosen = []
    for kind, num_units, num_features, num_components in SIZES:
        # Even, for two devices, and enough rows for a full covariance however small the scale.
        num_units = 2 * round(max(num_units * arguments.scale, 10 * num_components * num_features) / 2)
        workload = Workload(
            kind, num_units, num_features, num_components, arguments.dtype, arguments.threads, arguments.steps
        )
        if any(fnmatch.fnmatch(workload.key, pattern) for pattern in arguments.sizes):
            chosen.append(workload)
    if not chosen:
        options.error(f"--sizes {' '.join(arguments.sizes)} matches no workload")
    report = Report(arguments.out)
    peak_flops = harness.gemm_peak(arguments.dtype)
    report.add(f"{harness.machine()}; {arguments.steps} iterations a fit; GEMM peak {peak_flops / 1e9:.0f} GFLOP/s")
    for workload in chosen:
        report.add(compare(workload, arguments, peak_flops))


if __name__ == "__main__":
    main()

"""`python -m bench gmm`: milliseconds per EM iteration of Gaussian mixtures, beside the peers."""

import argparse

from bench import compare, harness
from bench.harness import Report
from bench.peers import ALONE, CONTENDERS, make_runner
from bench.problems import Params, Workload, make_problem, mean_log_likelihood

SIZES = (
    ("full", 100_000, 8, 8),
    ("full", 1_000_000, 8, 8),
    ("full", 100_000, 32, 16),
    ("full", 20_000, 128, 10),
    ("diagonal", 1_000_000, 16, 32),
    ("tied", 100_000, 32, 16),
    ("spherical", 100_000, 32, 16),
)


def score(workload: Workload, params: Params) -> float:
    """The mean log-likelihood of the first rows."""
    return mean_log_likelihood(workload.kind, params, make_problem(workload).x)


FIELD = compare.Field(tuple(CONTENDERS), make_runner, score, "row", ALONE)


def section(workload: Workload, arguments: argparse.Namespace, peak_flops: float) -> str:
    """Measure one workload: its title and its table."""
    floor = workload.flops / peak_flops
    title = (
        f"### {workload.key}, {compare.threads(workload)}\n\n"
        f"{workload.num_units} x {workload.num_features}, K = {workload.num_components}; "
        f"floor {1e3 * floor:.2f} ms / iteration, data {make_problem(workload).x.nbytes / 1e6:.0f} MB\n\n"
    )
    return title + compare.compare(FIELD, workload, arguments, floor)[0]


def main() -> None:
    """Run the chosen workloads one after the other."""
    options = compare.parser("gmm", __doc__, FIELD, "full-1e5-* or 'diag*'")
    arguments = harness.parse(options)
    harness.set_up_jax(arguments.dtype, arguments.threads)
    workloads = []
    for kind, num_units, num_features, num_components in SIZES:
        # Even, for two devices, and enough rows for a full covariance however small the scale.
        num_units = 2 * round(max(num_units * arguments.scale, 10 * num_components * num_features) / 2)
        workloads.append(
            Workload(kind, num_units, num_features, num_components, arguments.dtype, arguments.threads, arguments.steps)
        )
    chosen = compare.choose(options, arguments, workloads)
    report = Report(arguments.out)
    peak_flops = harness.gemm_peak(arguments.dtype)
    report.add(f"{harness.machine()}; {arguments.steps} iterations a fit; GEMM peak {peak_flops / 1e9:.0f} GFLOP/s")
    for workload in chosen:
        report.add(section(workload, arguments, peak_flops))


if __name__ == "__main__":
    main()

"""`python -m bench gpu`: the device's ceilings, jem's workloads checked and timed, the peers beside them; one report."""

import argparse
import concurrent.futures
import fnmatch
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jaxlib

import jem
from bench import harness
from bench.gpu import ceilings, counts, mixtures, peers, rows, searches, series
from bench.gpu.rows import Outcome, Problem, Row

L2 = 2**25  # bytes of chunks that stay in the cache of a large card: more kernels, less memory read
DRY = 0.01  # of the full size
COMPILING = 0.5  # of the minutes, after which what is not compiled is left out
AT_ONCE = 4  # programs compiled side by side
HURRIED = {
    (0, 10): "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    (0, 12): "--xla_cpu_experimental_ynn_fusion_type= --xla_cpu_parallel_codegen_split_count=1",
}


def all_rows() -> list[Row]:
    """Every row, the most telling first: what the time does not hold is left out from the end."""
    blocks, turns = jem.forms.Blocks(), jem.forms.Sequential()
    full8, full32, full128, diagonal = mixtures.SIZES
    return [
        mixtures.gaussian_row(full8, "float32"),
        mixtures.gaussian_row(full32, "float32"),
        searches.search_row(1024, 5_000, 4, 6, 6),
        series.chain_row(512, 200, 8, 10, jem.forms.Automatic(), "automatic", 4),
        series.chain_row(1, 1_000_000, 4, 3, blocks, "blocks", 10),
        mixtures.gaussian_row(full128, "float32"),
        mixtures.gaussian_row(full32, "float32", L2),
        mixtures.gaussian_row(full8, "float64"),
        series.space_row(),
        mixtures.classes_row(),
        searches.bootstrap_row(),
        searches.gradient_row(),
        searches.search_row(256, 100_000, 8, 8, 8),
        series.chain_row(1, 100_000, 64, 2, blocks, "blocks", 16),
        mixtures.gaussian_row(diagonal, "float32"),
        series.chain_row(1, 10_000, 4, 3, turns, "sequential", 10),
        mixtures.gaussian_row(full32, "float64"),
        mixtures.gaussian_row(full128, "float64"),
        series.chain_row(1, 1_000_000, 4, 1, turns, "sequential", 240),
    ]


class Ready(NamedTuple):
    """A row with its problem, and the compilation on its way; or the reason why there is none."""

    row: Row
    problem: Problem | None
    program: Any
    wrong: str = ""


def prepared(chosen: Sequence[Row], scale: float, pool: concurrent.futures.Executor) -> list[Ready]:
    """Data are made and programs traced here, while the pool compiles what is traced."""
    ready = []
    for row in chosen:
        try:
            with jax.enable_x64(row.dtype == "float64"):
                problem = row.build(row.dtype, scale)
            ready.append(Ready(row, problem, pool.submit(rows.compiled, rows.lowered(row, problem, scale))))
        except Exception as error:
            ready.append(Ready(row, None, None, harness.reason(error)))
    return ready


def outcome(item: Ready, rounds: int) -> Outcome:
    """Of one row, whatever becomes of it."""
    try:
        if item.problem is None:
            raise harness.Unavailable(item.wrong)
        if not item.program.done():
            return Outcome(0, None, None, None, "skipped: not compiled in time")
        return rows.measured(item.row, item.problem, item.program.result(), rounds)
    except Exception as error:
        return Outcome(0, None, None, None, f"ERROR {harness.reason(error)}")


class Run:
    """The report, and whether all was right."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.report = harness.Report(arguments.out)
        self.scale = DRY if arguments.dry else 1.0
        self.begin = time.perf_counter()
        self.wrong: list[str] = []

    @property
    def left(self) -> float:
        """Seconds."""
        return 60 * self.arguments.minutes - (time.perf_counter() - self.begin)

    def since(self) -> str:
        """Minutes so far."""
        return f"{(time.perf_counter() - self.begin) / 60:.1f} min"

    def workloads(self, chosen: Sequence[Row], limits: ceilings.Ceilings) -> None:
        """Compiles all of them, then runs one after the other."""
        pool = concurrent.futures.ThreadPoolExecutor(AT_ONCE)
        ready = prepared(chosen, self.scale, pool)
        waiting = [item.program for item in ready if item.program is not None]
        concurrent.futures.wait(waiting, max(1.0, self.left - (1 - COMPILING) * 60 * self.arguments.minutes))
        pool.shutdown(wait=False, cancel_futures=True)
        done = sum(future.done() for future in waiting)
        print(f"{done} of {len(ready)} programs compiled after {self.since()}\n", flush=True)
        table = [list(rows.HEAD)]
        for item in ready:
            if item.row.seconds * max(self.scale, 0.05) > self.left:
                found = Outcome(0, None, None, None, "skipped: no time left")
            else:
                found = outcome(item, self.arguments.rounds)
            if found.wrong and not found.wrong.startswith("skipped"):
                self.wrong.append(item.row.name)
            table.append(rows.cells(item.row, found, limits))
            print(f"{self.since()}  {' | '.join(filter(None, table[-1]))}", flush=True)
        print()
        self.report.add(harness.table(table))
        problems = {item.row.name: item.problem for item in ready if item.problem is not None}
        self.report.add("The least work is counted so:\n\n" + rows.counted(problems))

    def beside(self, chosen: Sequence[Row]) -> None:
        """The peers that are there, on the rows that they can do."""
        table = peers.table(chosen, self.scale, lambda: self.left, self.arguments.rounds)
        self.report.add(harness.table(table) if len(table) > 1 else "No peer could take part.")


def parse() -> argparse.Namespace:
    """The command line."""
    options = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    options.add_argument("--dry", action="store_true", help="the same at a hundredth of the size, for a CPU")
    options.add_argument("--minutes", type=float, default=6.0, help="what does not fit is skipped (default 6)")
    options.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN", help="such as 'gmm*' 'hmm 512*'")
    options.add_argument("--rounds", type=int, default=3, help="calls after the first one (default 3)")
    options.add_argument("--no-peers", action="store_true", help="jem alone")
    options.add_argument("--counts", action="store_true", help="operations and bytes of the programs, which needs no device")
    options.add_argument("--out", type=pathlib.Path, metavar="FILE.md", help="also write the tables to this file")
    return options.parse_args()


def hurry() -> None:
    """XLA:CPU leaves out its costly passes, and the generators of kernels that take longest: compiling is most of a dry run."""
    jax.config.update("jax_disable_most_optimizations", True)
    if flags := HURRIED.get(jaxlib.version.__version_info__[:2]):  # read when the backend starts, unknown ones are fatal
        os.environ.setdefault("XLA_FLAGS", flags)


def main() -> int:
    """Runs what is chosen; 1 where a row failed or was not right."""
    arguments = parse()
    run = Run(arguments)
    if arguments.dry:
        hurry()
        arguments.rounds = 0
    if arguments.counts:
        run.report.add(harness.table(counts.table()))
        return 0
    chosen = [row for row in all_rows() if any(fnmatch.fnmatch(row.name, pattern) for pattern in arguments.rows)]
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    room = f", {stats['bytes_limit'] / 2**30:.0f} GiB for JAX" if "bytes_limit" in stats else ""
    what = "DRY RUN at a hundredth of the size: the times mean nothing. " if arguments.dry else ""
    run.report.add(f"{what}{device.device_kind}{room}; host: {harness.machine()}")
    limits = ceilings.measure(run.scale)
    run.report.add(harness.table(limits.rows()))
    if not limits.right:
        run.wrong.append("precision of products")
    run.workloads(chosen, limits)
    if not arguments.no_peers:
        run.beside(chosen)
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    peak = "" if peak is None else f" Peak device memory {peak / 1e6:.0f} MB."
    run.report.add(f"Took {run.since()}.{peak} " + (f"Not right: {', '.join(run.wrong)}." if run.wrong else "All right."))
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

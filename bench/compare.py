"""One workload beside all who can do it: prepare, time in turns, score, and one table. The commands share this."""

import argparse
import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import harness
from bench.harness import Contender, Local, Remote, Runner, Timing, Unavailable


@dataclasses.dataclass(frozen=True)
class Field:
    """Who takes part in a kind of workload.

    Attributes:
        contenders: their names, jem's first.
        make_runner: prepares one of them on a workload; a function of a module, so that a child process finds it.
        score: the log-likelihood per unit of what a contender found on a workload, by none of the contenders' code.
        unit: what the log-likelihood is divided by: "row", "step".
        alone: names that always have a process of their own.
    """

    contenders: Sequence[str]
    make_runner: Callable[[str, Any], Runner]
    score: Callable[[Any, Any], float]
    unit: str
    alone: Sequence[str] = ()


def is_jem(name: str) -> bool:
    """Whether a row is one of jem's forms, "jem" or "jem, ..."."""
    return name.partition(",")[0] == "jem"


def make_runner_alone(make_runner: Callable[[str, Any], Runner], name: str, workload: Any) -> Runner:
    """Prepare one contender in a process of its own: JAX is set up here."""
    harness.set_up_jax(workload.dtype, workload.threads if is_jem(name) else 1)
    return make_runner(name, workload)


def contender(field: Field, name: str, workload: Any, timeout: float) -> Contender:
    """A package on a workload, in this process or, where it must be, in its own."""
    if name in field.alone:
        return Remote(timeout, make_runner_alone, field.make_runner, name, workload)
    return Local(field.make_runner, name, workload)


def memory(field: Field, name: str, workload: Any, timeout: float) -> str:
    """Megabytes (1e6 bytes) beyond the data at the peak of one fit in a new process."""
    try:
        remote = Remote(timeout, make_runner_alone, field.make_runner, name, workload)
        peak = remote.memory()
        remote.close()
    except Unavailable as error:
        return str(error)
    return "-" if peak is None else f"{peak / 1e6:.0f}"


def makers(field: Field, workload: Any, arguments: argparse.Namespace) -> dict[str, Callable[[], Contender]]:
    """What `harness.measure` takes: the contenders asked for on one workload."""
    names = [name for name in field.contenders if name in arguments.only]
    return {name: functools.partial(contender, field, name, workload, arguments.timeout) for name in names}


def compare(
    field: Field, workload: Any, arguments: argparse.Namespace, floor: float | None = None
) -> tuple[str, dict[str, Timing]]:
    """Measure one workload: its table, with the seconds of `floor` an iteration as a bound where there is one."""
    timings, reasons = harness.measure(makers(field, workload, arguments), arguments.rounds, arguments.budget)
    scores = {name: field.score(workload, timing.steady[-1].result) for name, timing in timings.items()}
    rows = [head(field.unit, floor)]
    for name in timings:
        peak = memory(field, name, workload, arguments.timeout) if arguments.memory else "-"
        rows.append(row(name, timings, scores, workload.num_steps, floor, peak))
    return harness.table(rows) + harness.absent(reasons), timings


def head(unit: str, floor: float | None) -> list[str]:
    """The names of the columns."""
    return [
        *("", "first call s", "ms / iteration", "CPU ms", "rounds", "times jem"),
        *(() if floor is None else ("times floor",)),
        *(f"log-likelihood / {unit}", "minus jem's", "peak MB"),
    ]


def row(
    name: str,
    timings: Mapping[str, Timing],
    scores: Mapping[str, float],
    num_steps: int,
    floor: float | None,
    peak: str,
) -> list[str]:
    """One line of the table."""
    timing = timings[name]
    return [
        name,
        f"{timing.first.wall:.2f}",
        f"{1e3 * timing.wall / num_steps:.2f}",
        f"{1e3 * timing.cpu / num_steps:.2f}",
        str(len(timing.steady)),
        f"{timing.wall / timings['jem'].wall:.2f}" if "jem" in timings else "-",
        *(() if floor is None else (f"{timing.wall / num_steps / floor:.1f}",)),
        f"{scores[name]:.9f}",
        f"{scores[name] - scores['jem']:+.1e}" if "jem" in scores else "-",
        peak,
    ]


def threads(workload: Any) -> str:
    """The end of a table's title: its dtype and its threads."""
    return f"{workload.dtype}, {workload.threads} thread{'s' * (workload.threads > 1)}"


def short(count: int) -> str:
    """A count in the name of a workload: 1e5 for 100000, 512 for 512."""
    power = f"{count:.0e}".replace("e+0", "e")
    return power if count >= 1000 and float(power) == count else str(count)


def parser(
    command: str, description: str | None, field: Field, example: str, rounds: int = 7, dtype: str = "float32"
) -> argparse.ArgumentParser:
    """The options of a command that compares contenders on workloads."""
    options = harness.parser(command, description, rounds)
    options.add_argument("--dtype", choices=("float32", "float64"), default=dtype, help=f"(default {dtype})")
    options.add_argument("--sizes", nargs="+", default=["*"], metavar="PATTERN", help=f"e.g. {example}")
    names = field.contenders
    options.add_argument("--only", nargs="+", default=[*names], choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    options.add_argument("--steps", type=int, default=10, help="EM iterations of one fit (default 10)")
    options.add_argument("--scale", type=float, default=1.0, help="multiplies every N: a small value tries the bench")
    options.add_argument("--budget", type=float, default=60.0, help="seconds of steady calls a contender may use")
    options.add_argument("--timeout", type=float, default=180.0, help="seconds a child process may take for one answer")
    options.add_argument("--no-memory", dest="memory", action="store_false", help="skip the peak memory")
    return options


def choose(options: argparse.ArgumentParser, arguments: argparse.Namespace, workloads: Sequence[Any]) -> list[Any]:
    """The workloads whose key `--sizes` matches."""
    chosen = [w for w in workloads if any(fnmatch.fnmatch(w.key, pattern) for pattern in arguments.sizes)]
    if not chosen:
        keys = " ".join(w.key for w in workloads)
        options.error(f"--sizes {' '.join(arguments.sizes)} matches no workload; there are: {keys}")
    return chosen

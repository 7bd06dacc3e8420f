"""A row of the table: what is run, what it costs at least, what it is held against; compiled apart, then timed and checked."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bench.gpu.ceilings import Ceilings
from jem import backend

ENOUGH_SECONDS = 3.0  # of repetitions
# Roundings that a step of EM may add: moments about the old means are right to about eight (jem/kernels/README.md), and an
# M-step divides them by each other. Errors of all steps add up, as EM shrinks them at best; this leaves a factor of two.
PER_STEP = 32


class Work(NamedTuple):
    """The least that one unit (an iteration, a fit) must do.

    Attributes:
        operations: additions and multiplications of products, symmetry used.
        exps: exponentials.
        bytes: read and written in the device's memory, if all that is made on the way stays in registers.
        counted: how, in the letters of the sizes.
    """

    operations: float
    exps: float
    bytes: float
    counted: str


class Errors(NamedTuple):
    """How far an answer is from the host's, each beside what rounding may do; a fit that failed has NaN."""

    log_likelihood: float
    log_likelihood_tolerance: float
    params: float
    params_tolerance: float

    @property
    def right(self) -> bool:
        """Whether all is within rounding; a NaN is not."""
        return self.log_likelihood <= self.log_likelihood_tolerance and self.params <= self.params_tolerance


class Problem(NamedTuple):
    """A row made ready at some size.

    Attributes:
        program: what is compiled.
        args: its arguments, on the host.
        units: how many units one call does.
        work: of one unit.
        check: from what the program returned, on the host.
    """

    program: Callable[..., Any]
    args: tuple[Any, ...]
    units: int
    work: Work
    check: Callable[[Any], Errors]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: what `--rows` matches.
        dtype: of the data.
        build: the problem at a share of the full size.
        seconds: what running and checking it at full size should take at most; guessed, as no card was there.
        unit: what `Problem.units` counts.
        room: bytes that a chunk's largest intermediate takes, at full size, in place of jem's own choice.
    """

    name: str
    dtype: str
    build: Callable[[str, float], Problem]
    seconds: float
    unit: str = "iteration"
    room: int | None = None


class Compiled(NamedTuple):
    """A program with its time to compile and the bytes it sets aside."""

    program: Any
    seconds: float
    bytes: int


class Outcome(NamedTuple):
    """What a row gave: seconds of a unit, or why there are none."""

    seconds: float
    errors: Errors | None
    compiled: Compiled | None
    work: Work | None
    wrong: str = ""


def eps(dtype: str) -> float:
    """A rounding: the distance of 1 from the next number."""
    return float(np.finfo(dtype).eps)


def judged(
    dtype: str, steps: int, reported: float, exact: float, num: float, apart: float, magnified: float = 1.0
) -> Errors:
    """The errors of so many steps: log-likelihoods relative to their size, at least one nat for each of `num` rows.

    Rounding of the parameters may be `magnified` by the form in which moments are made.
    """
    off, allowed = abs(reported - exact) / max(abs(exact), num), PER_STEP * eps(dtype) * steps
    return Errors(off, allowed, apart, magnified * allowed)


def lowered(row: Row, problem: Problem, scale: float) -> Any:
    """The program of a row, traced for its arguments."""
    with jax.enable_x64(row.dtype == "float64"), chunks_of(row.room, scale):
        return jax.jit(problem.program).lower(*problem.args)


@contextlib.contextmanager
def chunks_of(room: int | None, scale: float) -> Iterator[None]:
    """Programs traced here have chunks of other sizes than jem's own."""
    if room is None:
        yield
        return
    own = backend.room
    jax.clear_caches()  # what was traced at the same shapes
    backend.room = lambda: round(room * scale)
    try:
        yield
    finally:
        backend.room = own
        jax.clear_caches()


def compiled(program: Any) -> Compiled:
    """To be called in a thread."""
    begin = time.perf_counter()
    done = program.compile()
    memory = done.memory_analysis()
    size = sum(getattr(memory, f"{part}_size_in_bytes", 0) for part in ("temp", "argument", "output"))
    return Compiled(done, time.perf_counter() - begin, size)


def measured(row: Row, problem: Problem, done: Compiled, rounds: int) -> Outcome:
    """Runs a row, `rounds` times after a first one: their median, and the errors of the last; without rounds, the first."""
    with jax.enable_x64(row.dtype == "float64"):
        args = jax.block_until_ready(jax.device_put(problem.args))
        seconds: list[float] = []
        while len(seconds) <= rounds and sum(seconds[1:]) < ENOUGH_SECONDS:
            begin = time.perf_counter()
            result = jax.block_until_ready(done.program(*args))
            seconds.append(time.perf_counter() - begin)
        del args
        errors = problem.check(jax.tree.map(np.asarray, result))
    of_one = statistics.median(seconds[1:] or seconds) / problem.units
    return Outcome(of_one, errors, done, problem.work, "" if errors.right else "WRONG")


HEAD = (
    "row", "dtype", "unit", "ms", "least ms by operations", "by bytes", "reached of the nearer", "compile s", "MB set aside",
    "log-likelihood off", "may be", "parameters off", "may be", "",
)  # fmt: skip


def cells(row: Row, outcome: Outcome, ceilings: Ceilings) -> list[str]:
    """The row of the table."""
    first, end = [row.name, row.dtype, row.unit], [outcome.wrong or "right"]
    if outcome.errors is None or outcome.work is None or outcome.compiled is None:
        return [*first, *[""] * (len(HEAD) - 4), *end]
    work, errors = outcome.work, outcome.errors
    by_operations = max(work.operations / ceilings.product[row.dtype], work.exps / ceilings.exp[row.dtype])
    by_bytes = work.bytes / ceilings.copy
    return [
        *first, f"{1e3 * outcome.seconds:.4g}", f"{1e3 * by_operations:.3g}", f"{1e3 * by_bytes:.3g}",
        f"{max(by_operations, by_bytes) / outcome.seconds:.1%}", f"{outcome.compiled.seconds:.1f}",
        f"{outcome.compiled.bytes / 1e6:.0f}", f"{errors.log_likelihood:.0e}", f"{errors.log_likelihood_tolerance:.0e}",
        f"{errors.params:.0e}", f"{errors.params_tolerance:.0e}", *end,
    ]  # fmt: skip


def counted(problems: Mapping[str, Problem]) -> str:
    """How the least work of each row is counted."""
    return "\n".join(f"- {name}: {problem.work.counted}" for name, problem in problems.items())

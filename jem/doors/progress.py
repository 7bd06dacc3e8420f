"""What is said of long work while it runs: a bar on a terminal or in a notebook, or a function of the user's."""

import importlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.core import Tracer

from jem import checks
from jem.settings import describe


class Report(NamedTuple):
    """Where long work stands: what `progress=` functions are given, about twice a second.

    Attributes:
        task: what is done: "fit", "bootstrap", in a sweep the names of its models.
        num_steps: EM steps of the lane that has taken most; of a bootstrap replicates done.
        objective: of the best lane so far; of a bootstrap NaN.
        num_running: lanes, or replicates, that have not ended.
        num_lanes: all of them.
        seconds: since the work began, compilation included.

    Example:
        >>> import jax, jem
        >>> seen, model = [], jem.Mixture(jem.Poisson(), 2)
        >>> x = [[1], [2], [9], [8]]
        >>> fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, progress=seen.append)
        >>> seen[-1].num_running, seen[-1].num_steps == fit.num_steps
        (0, Array(True, dtype=bool))
    """

    task: str
    num_steps: int
    objective: float
    num_running: int
    num_lanes: int
    seconds: float


class Meter:
    """What a piece of work tells how it goes; it knows since when, and whether the work was interrupted."""

    def __init__(self, say: Callable[[Report], Any], close: Callable[[], Any] = lambda: None):
        self.say, self.close = say, close
        self.task, self.num_lanes, self.interrupted = "fit", 1, False
        self.start = time.perf_counter()

    def doing(self, task: str) -> "Meter":
        """The same, of a task of another name."""
        self.task = task
        return self

    def tell(self, num_steps: Any, objective: Any, num_running: Any) -> None:
        """Says where the lanes stand."""
        steps, running, seconds = int(num_steps), int(num_running), time.perf_counter() - self.start
        self.say(Report(self.task, steps, float(objective), running, self.num_lanes, seconds))

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


class Borrowed(Meter):
    """A meter that a caller has opened, and closes."""

    def __init__(self, meter: Meter):
        self.__dict__ = meter.__dict__

    def __exit__(self, *error: Any) -> None:
        pass


def meter_of(progress: Any, name: str, values: Any) -> Meter | None:
    """What `progress=` asks for: None and False nothing, True a bar, a function itself.

    Args:
        progress: as the user gave it.
        name: of the door.
        values: what the work is of; nothing can be said of what is traced.

    Raises:
        TypeError: it is none of these.
        ValueError: inside jit, or another transformation.
        ModuleNotFoundError: a bar without rich.
    """
    if progress is None or progress is False:
        return None
    if not (progress is True or callable(progress) or isinstance(progress, Meter)):
        raise TypeError(f"{name}: progress: expected True, or a function of a jem.Report; got {describe(progress)}")
    if isinstance(jnp.zeros(()), Tracer) or not checks.is_concrete(values):
        raise ValueError(
            f"{name}: progress: inside jit, vmap or grad there is nobody to tell while the program runs; leave it out, or call "
            f"{name} outside of them"
        )
    if isinstance(progress, Meter):
        return Borrowed(progress)
    return _bar() if progress is True else Meter(progress)


def _bar() -> Meter:
    """A line on stderr that moves, by rich."""
    try:
        rich, console = importlib.import_module("rich.progress"), importlib.import_module("rich.console")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise ModuleNotFoundError(
            "progress=True needs rich: pip install 'jem[cli]'; or pass a function of a jem.Report", name="rich"
        ) from None
    columns = rich.SpinnerColumn(), rich.TextColumn("{task.description}"), rich.BarColumn(), rich.TimeElapsedColumn()
    bar = rich.Progress(*columns, console=console.Console(stderr=True))
    lines: dict[str, Any] = {}

    def say(report: Report) -> None:
        if not lines:
            bar.start()
        if report.task not in lines:
            lines[report.task] = bar.add_task(report.task, total=report.num_lanes)
        bar.update(lines[report.task], description=described(report), completed=report.num_lanes - report.num_running)

    return Meter(say, bar.stop)


def described(report: Report) -> str:
    """A report in a line."""
    if report.objective != report.objective:
        return f"{report.task}: {report.num_steps} of {report.num_lanes}"
    ended = f", {report.num_lanes - report.num_running} of {report.num_lanes} ended" if report.num_lanes > 1 else ""
    return f"{report.task}: {report.num_steps} steps, objective {report.objective:.10g}{ended}"

"""Timing side by side: interleaved rounds, medians, the memory of one fit, and tables that are markdown."""

import argparse
import contextlib
import ctypes
import dataclasses
import gc
import importlib
import importlib.metadata
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

PACKAGES = (
    *("jax", "jaxlib", "numpy", "scikit-learn", "daal", "gmmx", "pomegranate", "torch"),
    *("hmmlearn", "dynamax", "pykalman", "statsmodels", "stepmix"),
)
# Thread pools spin for a while after their last task; the next contender must not pay for that.
SETTLE_SECONDS = 0.05


class Unavailable(Exception):
    """A contender cannot take part; the message is what the table says in its row."""


def optional(name: str) -> Any:
    """A peer's module, or the words for why there is none."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
        return "not installed" if missing else f"does not import: {str(error)[:60]}"


def require(module: Any) -> Any:
    """The optional module; without it the contender is listed with the reason."""
    if isinstance(module, str):
        raise Unavailable(module)
    return module


def dynamax(name: str) -> Any:
    """A module of dynamax. Its import starts JAX's backend, so it must come after `set_up_jax`.

    It also sets the precision of matrix products for the whole process, which on a CPU changes nothing but makes every
    other contender compile again: that is put back.
    """
    precision = jax.config.jax_default_matmul_precision
    module = require(optional(f"dynamax.{name}"))
    jax.config.update("jax_default_matmul_precision", precision)
    return module


@dataclasses.dataclass(frozen=True)
class Runner:
    """One contender on one workload: `fit` is timed and returns when it is done, `read` is not timed."""

    fit: Callable[[], Any]
    read: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Sample:
    """Wall seconds and CPU seconds (all threads) of one fit, and what it returned."""

    wall: float
    cpu: float
    result: Any


@dataclasses.dataclass
class Timing:
    """The first call, which compiles where the contender compiles, and the calls after it."""

    first: Sample
    steady: list[Sample]

    @property
    def wall(self) -> float:
        """Median wall seconds of the steady calls."""
        return statistics.median(s.wall for s in self.steady)

    @property
    def cpu(self) -> float:
        """Median CPU seconds of the steady calls."""
        return statistics.median(s.cpu for s in self.steady)


def timed(runner: Runner) -> Sample:
    """Run one fit and time it."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = runner.fit()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Sample(wall, cpu, runner.read(result))


def _status_bytes(field: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def peak_memory(runner: Runner) -> int | None:
    """Peak resident bytes during one fit above the bytes held before it; None where the system does not tell.

    One fit of the same shape runs first, so that compiled code and thread pools are not counted.
    """
    runner.fit()
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
        result = runner.fit()
        peak = _status_bytes("VmHWM")
    except OSError:
        return None
    del result
    return max(peak - before, 0)


class Contender(Protocol):
    """Anything that can be timed again and again."""

    def time(self) -> Sample:
        """One timed fit."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Local:
    """A contender in this process."""

    def __init__(self, make_runner: Callable[..., Runner], *args: Any) -> None:
        self._runner: Runner | None = make_runner(*args)

    def time(self) -> Sample:
        """One timed fit."""
        assert self._runner is not None
        return timed(self._runner)

    def close(self) -> None:
        """Let the data and the compiled code go."""
        self._runner = None


class Remote:
    """A contender in a process of its own: it may hang, be killed, or need other global settings."""

    def __init__(self, timeout: float, make_runner: Callable[..., Runner], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._timeout = timeout
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, make_runner, args), daemon=True)
        self._process.start()
        child.close()
        self._answer()

    def _answer(self) -> Any:
        try:
            if not self._connection.poll(self._timeout):
                raise Unavailable(f"no answer in {self._timeout:g} s (stopped)")
            ok, value = self._connection.recv()
            if not ok:
                raise Unavailable(value)
        except EOFError as error:
            self.close()
            raise Unavailable("its process died") from error
        except Unavailable:
            self.close()
            raise
        return value

    def time(self) -> Sample:
        """One timed fit, timed in the child."""
        self._connection.send("time")
        return self._answer()

    def memory(self) -> int | None:
        """`peak_memory` of one fit, measured in the child."""
        self._connection.send("memory")
        return self._answer()

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(
    connection: multiprocessing.connection.Connection, make_runner: Callable[..., Runner], args: Sequence[Any]
) -> None:
    commands = {"time": timed, "memory": peak_memory}
    try:
        runner = make_runner(*args)
        connection.send((True, None))
        while True:
            connection.send((True, commands[connection.recv()](runner)))
    except EOFError:
        pass
    except Exception as error:
        connection.send((False, reason(error)))


def reason(error: Exception) -> str:
    """One short line that says why a contender gave no time."""
    if isinstance(error, Unavailable):
        return str(error)
    text = " ".join(str(error).split())
    return f"failed: {type(error).__name__}: {text[:80]}"


def measure(
    makers: Mapping[str, Callable[[], Contender]], rounds: int, budget: float
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time every contender once per round, in turn, so that a busy minute falls on all of them.

    Args:
        makers: name -> a function that prepares the contender (data in its own form; not timed).
        rounds: calls after the first one.
        budget: seconds after which a contender sits out the rounds left; it always has one steady call.

    Returns:
        The timings, and for each contender that gave none the reason.
    """
    contenders: dict[str, Contender] = {}
    timings: dict[str, Timing] = {}
    reasons: dict[str, str] = {}
    for name, make in makers.items():
        try:
            contenders[name] = make()
            timings[name] = Timing(contenders[name].time(), [])
        except Exception as error:
            reasons[name] = reason(error)
    for _ in range(rounds):
        for name in list(timings):
            timing = timings[name]
            if timing.steady and sum(s.wall for s in timing.steady) + timing.wall > budget:
                continue
            time.sleep(SETTLE_SECONDS)
            try:
                timing.steady.append(contenders[name].time())
            except Exception as error:
                reasons[name] = reason(error)
                del timings[name]
    for contender in contenders.values():
        contender.close()
    return timings, reasons


def gemm_peak(dtype: str, size: int = 2048, rounds: int = 5) -> float:
    """The best operations per second of a square matrix product here: the better of NumPy's BLAS and XLA."""
    a = np.random.default_rng(0).standard_normal((size, size)).astype(dtype)
    b = jax.device_put(a)
    product = jax.jit(lambda m: m @ m)
    seconds = []
    for multiply in (lambda: a @ a, lambda: product(b).block_until_ready()):
        multiply()
        for _ in range(rounds):
            start = time.perf_counter()
            multiply()
            seconds.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(seconds)


def table(rows: Sequence[Sequence[str]]) -> str:
    """A markdown table with aligned columns; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def absent(reasons: Mapping[str, str]) -> str:
    """A line under a table that names every contender without a time, and why."""
    return "\n\nNot timed: " + "; ".join(f"{name} ({why})" for name, why in reasons.items()) if reasons else ""


def machine() -> str:
    """The processor, the cores in use, and the versions: what a table of times must carry."""
    info = pathlib.Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    versions = []
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores of which "
        f"{len(os.sched_getaffinity(0))} used, load {os.getloadavg()[0]:.1f} at the start; "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


class Report:
    """Prints as it goes and, when asked, writes the same text to a file."""

    def __init__(self, path: pathlib.Path | None) -> None:
        self._path = path
        self._text = ""

    def add(self, text: str) -> None:
        """Print one block and keep the file up to date, so that a stopped run leaves what it measured."""
        print(text, end="\n\n", flush=True)
        self._text += text + "\n\n"
        if self._path is not None:
            self._path.write_text(self._text)


def parser(command: str, description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options every command has."""
    options = argparse.ArgumentParser(prog=f"python -m bench {command}", description=description)
    options.add_argument("--threads", type=int, choices=(1, 2), default=1, help="cores used (default 1)")
    options.add_argument("--rounds", type=int, default=rounds, help=f"interleaved rounds (default {rounds})")
    options.add_argument("--out", type=pathlib.Path, metavar="FILE.md", help="also write the tables to this file")
    return options


def parse(options: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line; refuse to run on other cores than the tables will say."""
    arguments = options.parse_args()
    if len(os.sched_getaffinity(0)) != arguments.threads:
        options.error(f"start it as `{options.prog}`, which fixes the cores")
    return arguments


def set_up_jax(dtype: str, devices: int) -> None:
    """Set the global options of JAX; must come before its backend starts."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    jax.config.update("jax_num_cpu_devices", devices)


def place(x: np.ndarray, threads: int, *spec: str) -> jax.Array:
    """The rows on one device, or on as many CPU devices as there are threads: split with "rows", else on each."""
    if threads == 1:
        return jax.device_put(x)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:threads]), ("rows",))
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))

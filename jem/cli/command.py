"""Reads a file, fits a model for each K, chooses K by BIC, writes the result."""

import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jax
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import jem
from jem.cli.data import InputError, Read, read
from jem.cli.models import MODELS, STEPS, Model
from jem.cli.row import Row, fit_one
from jem.cli.start import keep_programs, take_cores
from jem.datasets import old_faithful
from jem.datasets.table import TableError
from jem.doors.fit import MOST_RECORDED, checked

T = TypeVar("T")

USABLE = (jem.Status.CONVERGED, jem.Status.MAX_STEPS)
INTERRUPTED = 130  # the shell's code for it
MAX_PRINTED_DIM = 8  # wider matrices are for the file, not for the eye

# click.UsageError, which newer versions of typer carry inside
UsageError = typer.BadParameter.__bases__[0]

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, help="Fits latent-variable models by expectation-maximisation."
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Interrupted(Exception):
    """An interrupt during a fit; typer would turn a KeyboardInterrupt into an exit code of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: what follows `python -m jem`; None takes the process's.

    Returns:
        The exit code: 0; 1 if no restart gave a usable fit; 2 after one line on stderr for what the user can put right.
        An interrupt ends the process with 130.
    """
    message = ""
    try:
        code = app(arguments, prog_name="python -m jem", standalone_mode=False) or 0
    except (InputError, TableError) as error:
        message, code = str(error), 2
    except UsageError as error:  # pyright: ignore[reportGeneralTypeIssues]
        message, code = error.format_message(), 2
    except (Interrupted, KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        # The fit goes on in its thread, and leaving by the normal way would pull the interpreter from under it.
        print("jem: interrupted", file=sys.stderr, flush=True)
        os._exit(code)
    if code == 2:
        print("jem: " + " ".join(message.split()), file=sys.stderr)
    return code


@app.callback(invoke_without_command=True)
def show_old_faithful(context: typer.Context) -> None:
    """With no command: fits two Gaussians to the bundled Old Faithful data with 256 restarts."""
    if context.invoked_subcommand is None:
        set_up(None, True)
        x, num_restarts = old_faithful(), 256
        model = jem.Mixture(jem.Gaussian(), 2)
        first, second = _run(lambda: [fit_one(model, jax.random.key(0), Read(x), num_restarts, 2) for _ in range(2)], "float64")
        out.print(f"Old Faithful: {len(x)} rows of eruptions [min], waiting [min]", markup=False)
        out.print(f"model            {model_name(model)}, float64, {num_restarts} restarts", markup=False)
        print_fit(second)
        compiling = first.seconds - second.seconds
        out.print(f"time to compile  {compiling:.2f} s (the first call, {first.seconds:.2f} s, less the second)")
        out.print(f"time to fit      {second.seconds:.3f} s (the second call: all {num_restarts} restarts)")


@app.command()
def fit(
    path: Annotated[str, typer.Argument(metavar="FILE", help="A table, .csv, .parquet or .npy, one row per unit or step.")],
    model: Annotated[str, typer.Option(help="A model by name; `python -m jem models` lists them.")] = "gmm",
    num_components: Annotated[
        str, typer.Option("-k", metavar="K|LOW..HIGH", help="Number of components, states or factors; of a mixture 2..8.")
    ] = "",
    restarts: Annotated[int, typer.Option(min=1, help="Starts per K.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the starts.")] = 0,
    dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
    max_steps: Annotated[int, typer.Option(min=1, help="Most EM steps of a restart.")] = 1000,
    tol: Annotated[float, typer.Option(min=0.0, help="Stop where no more than this many nats are left to climb.")] = 1e-3,
    columns: Annotated[str, typer.Option(metavar="A,B,..", help="Columns to use, by name or number from 1.")] = "",
    inputs: Annotated[str, typer.Option(metavar="A,B,..", help="Columns that a regression takes as inputs.")] = "",
    weights: Annotated[str, typer.Option(metavar="A", help="Column of weights; of sequences, one for all steps of each.")] = "",
    labels: Annotated[str, typer.Option(metavar="A", help="Column of known components; empty or -1 where unknown.")] = "",
    sequence: Annotated[str, typer.Option(metavar="A", help="Column that says which sequence a row is of.")] = "",
    trials: Annotated[int, typer.Option(min=0, help="Trials of binomial cells.")] = 0,
    factors: Annotated[int, typer.Option(min=1, help="Factors of each component of a mixture of factor analyses.")] = 1,
    out_path: Annotated[str, typer.Option("--out", metavar="FILE.npz", help="Where parameters and labels go.")] = "",
    cores: Annotated[int | None, typer.Option(min=1, help="Cores to use; all by default.")] = None,
    cache: Annotated[bool, typer.Option(help="Keep compiled programs in the user's cache folder for the next run.")] = True,
) -> int:
    """Fits a model to a file for each K, chooses K by BIC, prints the fit and writes parameters and labels."""
    check_options(model, dtype, tol, restarts, max_steps)
    kind = MODELS[model]
    num_components = num_components or kind.sizes
    sizes = parse_sizes(num_components)
    target = check_writable(out_path) if out_path else None
    set_up(cores, cache)
    found = read(
        path, model, columns=columns, inputs=inputs, weights=weights, labels=labels, sequence=sequence, trials=trials,
        factors=factors, dtype=dtype,
    )  # fmt: skip
    if kind.counts != "factors" and sizes[-1] > len(found.x):
        raise InputError(f"-k {num_components}: K = {sizes[-1]} exceeds the number of rows, N = {len(found.x)}, of {path}")
    if found.labels is not None and found.labels.max(initial=-1) >= sizes[0]:
        known = found.labels.max() + 1
        raise InputError(f"--labels {labels}: there are {known} {kind.counts} in it; ask for as many at least, -k {known}")

    def fit_size(k: int) -> Row:
        # Folding K in gives the same fit whether K is asked for alone or within a range.
        key, node = jax.random.fold_in(jax.random.key(seed), k), kind.make(k, found.shape)
        return fit_one(node, key, found, restarts, k, stop=jem.stop.Remaining(tol), max_steps=max_steps)

    _run(lambda: check(kind, path, found, sizes), dtype)
    rows = fit_sizes(sizes, lambda k: _run(lambda: fit_size(k), dtype), restarts)
    names = found.names
    out.print(
        f"{path}: {len(found.x)} rows of {', '.join(names[:12])}{', ...' * (len(names) > 12)}{also(found)}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    usable = [row for row in rows if row.status in USABLE and np.isfinite(row.bic)]
    best = min(usable, key=lambda row: row.bic, default=None)
    print_sizes(rows, best)
    if best is None:
        print(f"jem: no restart gave a usable fit; try fewer {kind.counts} or --model gmm-diag", file=sys.stderr)
        return 1
    out.print(f"\nmodel            {model}, K = {best.num_components}, {dtype}, {restarts} restarts", markup=False)
    print_fit(best)
    if target is not None:
        write_npz(target, fit_arrays(best, rows, model, found))
        out.print(f"written          {target}", markup=False, soft_wrap=True)
    return 0


@app.command()
def models() -> None:
    """Lists the models by name: what -k counts, what they are of, what they need, whether cells may be missing."""
    table = Table(box=None, pad_edge=False)
    for header in ("model", "-k", "of", "needs", "gaps"):
        table.add_column(header, no_wrap=True)
    for name, kind in MODELS.items():
        needs = ", ".join(option for option in ("inputs", "trials") if getattr(kind, option))
        table.add_row(name, kind.counts, "sequences" if kind.units == STEPS else "rows", needs, "yes" if kind.holes else "no")
    out.print(table)


def check(kind: Model, path: str, found: Read, sizes: Sequence[int]) -> None:
    """Raises `InputError` for data that the model cannot be of, at the ends of the range asked for."""
    for k in {sizes[0], sizes[-1]}:
        try:
            checked(kind.make(k, found.shape), found.data, found.weights)
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: {error}") from None


def fit_sizes(sizes: Sequence[int], fit_size: Callable[[int], Row], restarts: int) -> list[Row]:
    """A fit for each K, under a bar."""
    with progress_bar() as bar:
        task = bar.add_task("", total=len(sizes))
        rows = []
        for k in sizes:
            bar.update(task, description=f"K = {k}, {restarts} restarts")
            rows.append(fit_size(k))
            bar.advance(task)
    return rows


def also(found: Read) -> str:
    """What else there is to say of the data."""
    words = [f"inputs {', '.join(found.inputs)}"] if found.inputs else []
    words += [f"{found.num_sequences} sequence{'s' * (found.num_sequences > 1)}"] if found.num_sequences else []
    words += [f"{found.num_missing} cells missing"] if found.num_missing else []
    words += [f"{int((found.labels >= 0).sum())} labels"] if found.labels is not None else []
    return "".join(f"; {word}" for word in words)


def check_options(model: str, dtype: str, tol: float, restarts: int, max_steps: int) -> None:
    """Raises `InputError` for what typer cannot look at."""
    if model not in MODELS:
        known = ", ".join([*MODELS][:6])
        raise InputError(f"--model {model}: expected one of {known}, ..; all are listed by `python -m jem models`")
    if dtype not in ("float32", "float64"):
        raise InputError(f"--dtype {dtype}: expected float32 or float64")
    if not np.isfinite(tol):
        raise InputError(f"--tol {tol}: expected a finite number >= 0")
    if restarts * (max_steps + 1) > MOST_RECORDED:
        raise InputError(
            f"--restarts {restarts} --max-steps {max_steps}: the objective of every step is recorded, at most {MOST_RECORDED} "
            "in all; ask for fewer"
        )


def set_up(cores: int | None, cache: bool) -> None:
    """Cores and the programs kept, before the first array."""
    try:
        take_cores(cores)
    except RuntimeError as error:
        raise InputError(f"--cores {cores}: {error}") from None
    if cache:
        keep_programs()


def parse_sizes(text: str) -> range:
    """The numbers of components that `-k` asks for: "3" or "2..8"."""
    match = re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", text.strip())
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise InputError(f"-k {text}: expected a number of components such as 3, or a range such as 2..8")
    return range(low, high + 1)


def check_writable(text: str) -> Path:
    """The path to write to, or an `InputError`: found out before the fit, not after it."""
    path = Path(text)
    if path.suffix != ".npz":
        raise InputError(f"--out {text}: expected a name ending in .npz")
    if path.is_dir():
        raise InputError(f"--out {text}: is a directory")
    try:
        probe = _temporary(path)
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {text}: cannot be written: {error.strerror}") from None
    return path


def model_name(model: Any) -> str:
    """The model as one would write it, without the defaults."""
    return f"{type(model).__name__}({type(model.components.child).__name__}(), {model.components.size})"


def print_fit(row: Row) -> None:
    """Prints the lanes, the criteria and the components of one fit."""
    statuses = ", ".join(f"{count} {status.name}" for status, count in row.statuses.most_common())
    noun = "optimum" if row.num_optima == 1 else "optima"
    out.print(f"lanes            {statuses}; {row.num_optima} distinct {noun}")
    out.print(f"best lane        {row.status.name} after {row.num_steps} steps")
    out.print(f"log-likelihood   {row.log_likelihood:.4f}")
    out.print(f"BIC              {row.bic:.4f} with {row.num_parameters} parameters")
    for line in row.lines:
        out.print(line, markup=False, soft_wrap=True)
    for k, weight in enumerate([] if row.lines else row.arrays["weights"]):
        out.print(f"component {k}      weight {weight:.4f}")
        for name, value in row.arrays.items():
            if name == "weights":
                continue
            each = value[k] if len(value) == len(row.arrays["weights"]) else value  # what all share
            wide = each.ndim == 2 and each.shape[-1] > MAX_PRINTED_DIM
            text = f"{each.shape}, too wide to print" if wide else _array_text(each)
            out.print(f"  {name:<15}{text}", markup=False, soft_wrap=True)


def print_sizes(rows: Sequence[Row], best: Row | None) -> None:
    """Prints the table over K; the chosen row is marked."""
    table = Table(box=None, pad_edge=False)
    for header in ("K", "params", "log-likelihood", "BIC", "status", "optima", "seconds", ""):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.num_components),
            str(row.num_parameters),
            f"{row.log_likelihood:.3f}",
            f"{row.bic:.3f}",
            row.status.name,
            str(row.num_optima),
            f"{row.seconds:.2f}",
            "best" if row is best else "",
        )
    out.print(table)
    out.print("best: lowest BIC; seconds include compilation")


def progress_bar() -> Progress:
    """A bar over K, on stderr and only where that is a terminal."""
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
        console=err, transient=True, disable=not err.is_terminal,
    )  # fmt: skip


def fit_arrays(best: Row, rows: Sequence[Row], model: str, found: Read) -> dict[str, Any]:
    """What the .npz holds."""
    return {
        **best.arrays,
        **best.hidden,
        "log_likelihood": best.log_likelihood,
        "bic": best.bic,
        "status": best.status.name,
        "model": model,
        "columns": np.array(found.names),
        **({"inputs": np.array(found.inputs)} if found.inputs else {}),
        **({"label_names": np.array(found.label_names)} if found.label_names else {}),
        "sweep_num_components": [row.num_components for row in rows],
        "sweep_log_likelihood": [row.log_likelihood for row in rows],
        "sweep_bic": [row.bic for row in rows],
    }


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Writes the file whole or not at all: to a temporary name beside it, then renamed."""
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _array_text(value: np.ndarray) -> str:
    return np.array2string(value, precision=4, suppress_small=True, prefix=" " * 17, max_line_width=120)


def _run(fn: Callable[[], T], dtype: str) -> T:
    """Runs `fn` in that precision, in a thread: an interrupt is heard while compiled code runs."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            with jax.enable_x64(dtype == "float64"):
                future.set_result(fn())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return future.result()
    except KeyboardInterrupt:
        raise Interrupted from None

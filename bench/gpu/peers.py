"""The peers that are installed, on rows they can do: PyTorch, gmmx, dynamax on the device, scikit-learn on the host."""

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bench import chain, harness
from bench.gpu import mixtures, reference
from bench.gpu.rows import Row
from bench.harness import optional, require
from bench.problems import Params, Workload, mean_log_likelihood

Array = np.ndarray
HOST_ROWS, HOST_STEPS = 100_000, 2  # what scikit-learn is given at most; its time is scaled to all rows
SECONDS = {"PyTorch, compiled": 20.0, "gmmx": 10.0, "dynamax": 12.0}  # guessed of one row, compilation included
OTHERWISE = 5.0


class Timed(NamedTuple):
    """Seconds of an iteration, the log-likelihood per row (or step) that it led to, and what is to be said of it."""

    seconds: float
    log_likelihood: float
    remark: str = ""


def median_of(fit: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Median seconds of `rounds` calls after a first one, and the last result; without rounds, of the first."""
    result, seconds = None, []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        result = fit()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:] or seconds), result


def torch_step(torch: Any, full: bool) -> Callable[..., Any]:
    """One step of EM as one writes it: batched products, all rows at once, float32 throughout."""

    def step(x: Any, weights: Any, means: Any, covariances: Any) -> tuple[Any, ...]:
        if full:
            chol = torch.linalg.cholesky(covariances)
            eye = torch.eye(x.shape[1], device=x.device, dtype=x.dtype).expand_as(chol)
            whiten = torch.linalg.solve_triangular(chol, eye, upper=False)
            d = x[None] - means[:, None]  # (K, N, D)
            squares = torch.bmm(d, whiten.mT).square().sum(-1)
            log_det = chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            p = 1 / covariances
            squares = (x * x) @ p.mT - 2 * x @ (means * p).mT + (means * means * p).sum(-1)
            squares, log_det = squares.mT, 0.5 * covariances.log().sum(-1)
        log_joint = (weights.log() - log_det)[:, None] - 0.5 * squares
        r = torch.softmax(log_joint, 0)
        mass = r.sum(1)
        if full:
            shift = torch.bmm(r[:, None], d)[:, 0] / mass[:, None]
            second = torch.bmm((d * r[..., None]).mT, d) / mass[:, None, None] - shift[:, :, None] * shift[:, None, :]
            return mass / x.shape[0], means + shift, second
        first = r @ x / mass[:, None]
        return mass / x.shape[0], first, r @ (x * x) / mass[:, None] - first * first

    return step


def torch_em(workload: Workload, compile_it: bool, rounds: int) -> Timed:
    """PyTorch; TF32 is off, as it is by default."""
    torch = require(optional("torch"))
    problem = mixtures.drawn(workload)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, *start = (torch.from_numpy(np.array(a)).to(device) for a in (problem.x, *problem.start))
    step = torch_step(torch, workload.kind == "full")
    if compile_it:
        step = torch.compile(step)

    def fit() -> Any:
        params = tuple(start)
        with torch.no_grad():
            for _ in range(workload.num_steps):
                params = step(x, *params)
        if device == "cuda":
            torch.cuda.synchronize()
        return params

    seconds, found = median_of(fit, rounds)
    params = Params(*(np.asarray(a.cpu(), np.float64) for a in found))
    remark = f"on {device}, parameters after {workload.num_steps} steps"
    return Timed(seconds / workload.num_steps, mean_log_likelihood(workload.kind, params, problem.x), remark)


def gmmx_em(workload: Workload, rounds: int) -> Timed:
    """gmmx on the device."""
    require(optional("gmmx"))
    problem = mixtures.drawn(workload)
    runner = require(optional("bench.peers")).gmmx_runner(problem)
    seconds, found = median_of(runner.fit, rounds)
    return Timed(seconds / workload.num_steps, mean_log_likelihood(workload.kind, runner.read(found), problem.x))


def sklearn_em(workload: Workload, rounds: int) -> Timed:
    """scikit-learn on all cores of the host, on some of the rows."""
    module = require(optional("bench.peers"))
    control = optional("threadpoolctl")
    problem = mixtures.drawn(workload)
    some = Workload(
        workload.kind, min(HOST_ROWS, workload.num_units), *_sizes(workload), workload.dtype, workload.threads, HOST_STEPS
    )
    runner = module.sklearn_runner(problem._replace(workload=some, x=problem.x[: some.num_units]))
    cores = contextlib.nullcontext() if isinstance(control, str) else control.threadpool_limits(reference.threads())
    with cores:
        seconds, found = median_of(runner.fit, 0)
    scaled = seconds / HOST_STEPS * workload.num_units / some.num_units
    value = mean_log_likelihood(workload.kind, runner.read(found), problem.x)
    return Timed(scaled, value, f"{HOST_STEPS} steps on {some.num_units} rows, scaled; {reference.threads()} cores")


def dynamax_em(workload: chain.Workload, rounds: int) -> Timed:
    """dynamax on the device."""
    runner = chain.dynamax_runner(chain.make_problem(workload))
    seconds, found = median_of(runner.fit, rounds)
    return Timed(seconds / workload.num_steps, chain.score(workload, runner.read(found)))


def _sizes(workload: Workload) -> tuple[int, int]:
    return workload.num_features, workload.num_components


def contenders(chosen: Sequence[Row], scale: float, rounds: int) -> list[tuple[Row, str, Callable[[], Timed]]]:
    """Who is to run what, the most telling first."""
    found = []
    for i, size in enumerate(mixtures.SIZES):
        kind, num, d, k, _ = size
        row = mixtures.gaussian_row(size, "float32")
        workload = Workload(kind, mixtures.rows_of(num, d, k, scale), d, k, "float32", 1, mixtures.STEPS)
        found.append((i, row, "PyTorch, compiled", functools.partial(torch_em, workload, True, rounds)))
        found.append((i, row, "scikit-learn", functools.partial(sklearn_em, workload, rounds)))
        found.append((i + 4, row, "PyTorch", functools.partial(torch_em, workload, False, rounds)))
        found.append((i + 4, row, "gmmx", functools.partial(gmmx_em, workload, rounds)))
    for row in chosen:
        if row.name.startswith("hmm 512"):
            workload = chain.Workload("gaussian", max(8, round(512 * scale)), 200, 8, 2, "float32", 1, 10)
            found.append((1, row, "dynamax", functools.partial(dynamax_em, workload, rounds)))
    names = {row.name for row in chosen if row.dtype == "float32"}
    return [(row, name, run) for _, row, name, run in sorted(found, key=lambda a: a[0]) if row.name in names]


def table(chosen: Sequence[Row], scale: float, left: Callable[[], float], rounds: int) -> list[list[str]]:
    """A row for each that could, and for each that could not the reason."""
    rows = [["row", "who", "ms / iteration", "log-likelihood / unit", "remark"]]
    for row, name, run in contenders(chosen, scale, rounds):
        if SECONDS.get(name, OTHERWISE) * max(scale, 0.05) > left():
            rows.append([row.name, name, "", "", "skipped: no time left"])
            continue
        try:
            with jax.enable_x64(False):
                timed = run()
            value = "" if math.isnan(timed.log_likelihood) else f"{timed.log_likelihood:.6f}"
            rows.append([row.name, name, f"{1e3 * timed.seconds:.4g}", value, timed.remark])
        except Exception as error:
            rows.append([row.name, name, "", "", harness.reason(error)])
        print(" | ".join(filter(None, rows[-1])), flush=True)
    return rows

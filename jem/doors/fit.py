"""The two doors: `fit` from one start, `fit_restarts` from many. Each is one compiled program."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.backend import precise
from jem.combine.frozen import not_given
from jem.coordinates import check_values
from jem.data import inputs_within
from jem.doors.cores import spread
from jem.doors.progress import Meter, meter_of
from jem.engine.adjoint.implicit import Implicit
from jem.engine.adjoint.unrolled import Unrolled
from jem.engine.devices import mesh_of
from jem.engine.pieces import solve_in_pieces
from jem.engine.program import solve
from jem.engine.restarts import FinishAll
from jem.engine.result import Fit
from jem.engine.solvers.accelerate import Anderson
from jem.engine.stop import Remaining
from jem.engine.task import Task
from jem.node import Data, Node, Params
from jem.reading import as_array, as_arrays
from jem.settings import check_node, check_option

MOST_RECORDED = 2**30  # objectives a fit may record: one for each step of each restart


def fit(
    node: Node,
    params: Params,
    x: Data,
    *,
    weights: Array | None = None,
    solver: Any = Anderson(),  # noqa: B008
    stop: Any = Remaining(),  # noqa: B008
    max_steps: int = 1000,
    adjoint: Any = Implicit(),  # noqa: B008
    progress: Any = None,
) -> Fit:
    """Fits a model by EM from one start.

    Climbs `objective = sum_n w_n log p(x_n | params) + log p(params)` until `stop` says so; the objective never falls.

    Args:
        node: the model.
        params: the start, as `node.init` or the nodes' `.params` make it.
        x: data with N rows: an array (N, D), or a tree of arrays as the node takes it. Rows sharded over a mesh axis
            (`jax.device_put(x, NamedSharding(mesh, P("rows")))`) are worked on where they lie.
        weights: (N,) weights >= 0; an integer weight repeats the row, weight 0 removes it, whatever it holds.
        solver: what makes the next parameters from the statistics: `jem.solvers.Anderson()`, EM accelerated;
            `jem.solvers.EM()`, plain; or a variant of it, as `jem.solvers` lists them.
        stop: the stopping rule: `jem.stop.Remaining(tol)` ends the climb where no more than `tol` nats are left of it.
        max_steps: largest number of EM steps.
        adjoint: what a derivative of the fit is: `jem.adjoints.Implicit()`, that of the fixed point it leads to, or
            `jem.adjoints.Unrolled()`, that of its steps.
        progress: True for a line on the terminal that says how it goes (with rich, of the extra `cli`), or a function that is
            given a `jem.Report` about twice a second. The fit is then run in pieces, with the same answer; Ctrl-C ends it,
            and what it has come to is returned as MAX_STEPS.

    Returns:
        A `Fit` with scalar fields. `params` are those whose log-likelihood is reported.

    Raises:
        ValueError: data, weights or parameters that do not fit the model, naming the place. Inside jit, where values
            cannot be looked at, the status says NONFINITE instead; `progress` inside jit.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.Mixture(jem.Gaussian(), 2)
        >>> start = jem.init(model, jax.random.key(0), x)
        >>> jem.fit(model, start, x).check().params.weights.shape
        (2,)

    Source: Dempster, Laird and Rubin (1977), JRSS B 39; Neal and Hinton (1998) for the free energy.
    """
    check_options(solver, stop, FinishAll(), adjoint, max_steps, 1)
    x, weights = checked(node, x, weights)
    params = checks.read_params(params)
    check_values(node, params)
    task = Task(node, x, weights, solver, stop, FinishAll(), adjoint, max_steps=max_steps, slots=None, mesh=mesh_of(x, 1))
    meter = meter_of(progress, "fit", (task, params))
    task, params, home = spread(task, params, 1)
    if meter is None:
        return home(_fit(task, params))
    fits = in_pieces(meter, task, jax.tree.map(lambda p: p[None], params), None, 1, probing=False)
    return home(jax.tree.map(lambda leaf: leaf[0], fits))


def fit_restarts(
    node: Node,
    key: Array | None,
    x: Data,
    *,
    num_restarts: int | None = None,
    starts: Params = None,
    schedule: Any = FinishAll(),  # noqa: B008
    weights: Array | None = None,
    solver: Any = Anderson(),  # noqa: B008
    stop: Any = Remaining(),  # noqa: B008
    max_steps: int = 1000,
    batch_size: int | None = None,
    adjoint: Any = Implicit(),  # noqa: B008
    progress: Any = None,
) -> Fit:
    """Fits a model by EM from many starts, all in one program.

    Starts are given, or come from the data by `node.init` with keys `jax.random.split(key, num_restarts)`. Lanes are advanced
    `batch_size` at a time; a lane that ends hands its place to the next, so none waits for the slowest, and a lane that fails
    keeps its last finite parameters and touches no other.

    Args:
        node: the model.
        key: a typed PRNG key; None where starts are given.
        x: data, as for `fit`. Data replicated over a mesh (`NamedSharding(mesh, P())`) splits the lanes over its devices.
        num_restarts: R, number of starts; needed unless they are given.
        starts: parameters with a leading axis R, in place of the key and `num_restarts`.
        schedule: which starts are finished: `jem.schedules.FinishAll()`, or one that gives some up and may lose the best.
        weights: (N,) weights, as for `fit`.
        solver: as for `fit`.
        stop: as for `fit`.
        max_steps: largest number of EM steps of a lane.
        batch_size: lanes advanced together (memory and speed, never the answer); None chooses by backend and size.
        adjoint: as for `fit`; every lane has a derivative of its own.
        progress: as for `fit`.

    Returns:
        A `Fit` whose fields have a leading axis R. `.best()` is the winner, `.num_optima()` counts the optima found,
        `.check()` names the lanes that failed.

    Raises:
        ValueError: as for `fit`.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> fits = jem.fit_restarts(jem.Mixture(jem.Gaussian(), 2), jax.random.key(0), x, num_restarts=8)
        >>> round(float(fits.best().log_likelihood), 1)
        -1130.3

    Source: Biernacki, Celeux and Govaert (2003), Comput. Stat. Data Anal. 41, for many starts.
    """
    starts = None if starts is None else checks.read_params(starts)
    num_restarts = _num_lanes(key, num_restarts, starts)
    check_options(solver, stop, schedule, adjoint, max_steps, num_restarts)
    if batch_size is not None:
        checks.check_positive_int(batch_size, "batch_size")
    x, weights = checked(node, x, weights)
    if starts is not None:
        check_values(node, starts, "starts")
    for part, fields in not_given(node) if starts is None else []:
        raise ValueError(
            f"fit_restarts: {part} would hold {fields} at a random start of its own in every restart; give the value, as "
            "jem.Frozen(node, weights=[0.5, 0.5]), or fit from one start with jem.fit"
        )
    task = Task(
        node, x, weights, solver, stop, schedule, adjoint,
        max_steps=max_steps, slots=batch_size, mesh=mesh_of(x, num_restarts),
    )  # fmt: skip
    meter = meter_of(progress, "fit_restarts", (task, key, starts))
    task, (key, starts), home = spread(task, (key, starts), num_restarts)
    if meter is not None:
        keys = None if key is None else jax.random.split(key, num_restarts)
        return home(in_pieces(meter, task, starts, keys, num_restarts, probing=True))
    return home(_fit_restarts(task, key, starts, num_restarts=num_restarts))


def _num_lanes(key: Array | None, num_restarts: int | None, starts: Params) -> int:
    """R, from what says it."""
    if starts is None:
        if num_restarts is None:
            raise ValueError("fit_restarts: num_restarts is missing; give it, or starts=params with a leading axis R")
        checks.check_key(key)
        checks.check_positive_int(num_restarts, "num_restarts")
        return num_restarts
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(starts)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(f"starts: every leaf must have one leading axis R >= 1; got leading axes {sorted(map(str, sizes))}")
    num = sizes.pop()[0]
    if key is not None or num_restarts not in (None, num):
        raise ValueError(f"fit_restarts: there are {num} starts; pass key=None, and leave num_restarts out")
    return num


def checked(node: Node, x: Data, weights: Array | None) -> tuple[Data, Array | None]:
    """Data and weights as arrays, looked over."""
    check_node(node, "node")
    x = inputs_within(as_arrays(x))
    weights = None if weights is None else as_array(weights, "weights")
    checks.check_data(node, x, weights)
    return x, weights


def check_options(solver: Any, stop: Any, schedule: Any, adjoint: Any, max_steps: int, num_restarts: int) -> None:
    """What is chosen of each kind is of that kind, and the steps can be recorded."""
    check_option(solver, "e_step", "solver", "a solver such as jem.solvers.EM() or jem.solvers.Anderson()")
    check_option(stop, "converged", "stop", "a stopping rule such as jem.stop.Remaining(1e-3)")
    check_option(schedule, "rungs", "schedule", "a schedule such as jem.schedules.FinishAll()")
    check_option(adjoint, "attach", "adjoint", "jem.adjoints.Implicit() or jem.adjoints.Unrolled()")
    checks.check_positive_int(max_steps, "max_steps", 0)
    if num_restarts * (max_steps + 1) > MOST_RECORDED:
        raise ValueError(
            f"max_steps={max_steps}: the objective of every step of {num_restarts} starts is recorded, too many numbers; at "
            f"most {MOST_RECORDED}, so fit from fewer starts at a time, or for fewer steps"
        )


def in_pieces(meter: Meter, task: Task, starts: Params, keys: Array | None, num: int, *, probing: bool) -> Fit:
    """The fits of all starts, under a meter."""
    if isinstance(task.adjoint, Unrolled):
        raise ValueError("progress: the steps of jem.adjoints.Unrolled() are one scan, which is not left; leave out either")
    meter.num_lanes = num
    with meter:
        fits, interrupted = solve_in_pieces(task, starts, keys, probing, lambda standing: meter.tell(*standing))
    meter.interrupted |= interrupted
    return fits


@jax.jit
@precise
def _fit(task: Task, start: Params) -> Fit:
    """The compiled program of `fit`: one lane."""
    fits = solve(task, jax.tree.map(lambda p: p[None], start))
    return jax.tree.map(lambda leaf: leaf[0], fits)


@functools.partial(jax.jit, static_argnames="num_restarts")
@precise
def _fit_restarts(task: Task, key: Array | None, starts: Params, *, num_restarts: int) -> Fit:
    """The compiled program of `fit_restarts`."""
    keys = None if key is None else jax.random.split(key, num_restarts)
    return solve(task, starts, keys, probing=True)

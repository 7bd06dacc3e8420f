"""The two doors: `fit` from one start, `fit_restarts` from many. Each is one compiled program."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jem import checks, tree
from jem.coordinates import as_start, check_values
from jem.data import inputs_within, row_weights, to_units, used_rows
from jem.engine import runaway
from jem.engine.accelerate import Anderson
from jem.engine.implicit import Implicit
from jem.engine.loop import Lane, Problem, summary
from jem.engine.restarts import FinishAll
from jem.engine.result import Fit
from jem.engine.stop import Remaining
from jem.engine.stream import chunk_size, fold, lay_out, of_one_chunk, unit_bytes
from jem.node import Data, Node, Params
from jem.parts import not_given
from jem.reading import as_array, as_arrays
from jem.settings import check_node, check_option

MOST_RECORDED = 2**30  # objectives a fit may record: one for each step of each restart

_PROBES = 16  # units by whose log-densities restarts are told apart


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

    Returns:
        A `Fit` with scalar fields. `params` are those whose log-likelihood is reported.

    Raises:
        ValueError: data, weights or parameters that do not fit the model, naming the place. Inside jit, where values
            cannot be looked at, the status says NONFINITE instead.

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
    return _fit(node, params, x, weights, solver, stop, adjoint, max_steps=max_steps, mesh=mesh_of(x, 1))


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
    mesh = mesh_of(x, num_restarts)
    return _fit_restarts(
        node, key, starts, x, weights, solver, stop, schedule, adjoint,
        num_restarts=num_restarts, max_steps=max_steps, slots=batch_size, mesh=mesh,
    )  # fmt: skip


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


def mesh_of(x: Data, num_lanes: int) -> tuple[Any, str | None] | None:
    """The mesh the data lies on, and its axis over the rows: None where the data is replicated and lanes are split."""
    leaf = jax.tree.leaves(x)[0]
    sharding = None if isinstance(leaf, Tracer) else getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.num_devices == 1:
        return None
    axis = sharding.spec[0] if len(sharding.spec) else None
    if axis is not None and not isinstance(axis, str):
        raise ValueError(f"x: rows must be sharded over one mesh axis; got the spec {sharding.spec}")
    if axis is None and num_lanes < sharding.num_devices:
        return None
    return sharding.mesh, axis


@functools.partial(jax.jit, static_argnames=("max_steps", "mesh"))
def _fit(
    model: Node, start: Params, x: Data, weights: Array | None, solver: Any, stop: Any, adjoint: Any,
    *, max_steps: int, mesh: tuple[Any, str | None] | None,
) -> Fit:  # fmt: skip
    """The compiled program of `fit`: one lane."""
    starts = jax.tree.map(lambda p: p[None], start)
    fits = _run(
        model, starts, None, x, weights, solver, stop, FinishAll(), adjoint, max_steps=max_steps, slots=1, mesh=mesh
    )
    return jax.tree.map(lambda leaf: leaf[0], fits)


@functools.partial(jax.jit, static_argnames=("num_restarts", "max_steps", "slots", "mesh"))
def _fit_restarts(
    model: Node, key: Array | None, starts: Params, x: Data, weights: Array | None, solver: Any, stop: Any, schedule: Any,
    adjoint: Any, *, num_restarts: int, max_steps: int, slots: int | None, mesh: tuple[Any, str | None] | None,
) -> Fit:  # fmt: skip
    """The compiled program of `fit_restarts`."""
    keys = None if key is None else jax.random.split(key, num_restarts)
    return _run(
        model, starts, keys, x, weights, solver, stop, schedule, adjoint,
        max_steps=max_steps, slots=slots, mesh=mesh, probing=True,
    )  # fmt: skip


def _run(
    model: Node,
    starts: Params,
    keys: Array | None,
    x: Data,
    weights: Array | None,
    solver: Any,
    stop: Any,
    schedule: Any,
    adjoint: Any,
    *,
    max_steps: int,
    slots: int | None,
    mesh: tuple[Any, str | None] | None,
    probing: bool = False,
) -> Fit:
    """What both doors do: bind, compress, start, lay out, loop; derivatives are put on at the end."""
    given = solver, model, x, weights
    model, starts, x, weights, solver, stop, schedule = adjoint.inputs((model, starts, x, weights, solver, stop, schedule))
    x, weights = used_rows(x, weights), row_weights(x, weights)
    units = to_units(x)
    model = model.bind(units, weights)
    fewer = compressed(model, x, weights, mesh)
    if fewer is not None:
        x, weights = fewer
        units = to_units(x)
    expected = jax.eval_shape(model.init, jax.random.key(0), units, weights)
    if starts is None:
        starts = lax.map(lambda key: model.init(key, units, weights), keys)
    else:
        checks.check_params(jax.tree.map(lambda p: p[0], starts), expected)
        starts = as_start(model, jax.tree.map(lambda p, s: p.astype(s.dtype), starts, expected))
        starts = jax.vmap(model.enter)(starts)
    total_weight = jnp.sum(weights)
    program = functools.partial(_lanes, run=adjoint.run, max_steps=max_steps, slots=slots)
    if mesh is not None:
        program = _on_mesh(program, *mesh)
    numbers = jnp.arange(jax.tree.leaves(starts)[0].shape[0])
    table, trace = program(model, (starts, numbers), x, weights, total_weight, solver, stop, schedule)
    fits = jax.vmap(lambda lane, values: summary(model, solver, stop, total_weight, lane, values))(table, trace)
    if probing:
        probes = _probes(x, weights)
        fits = fits._replace(probes=lax.map(lambda params: model.infer(params, probes)[1], fits.params))
    return adjoint.attach(fits, *given)


def _probes(x: Data, weights: Array) -> Data:
    """A few units, and as many with noise on what is real: where optima of equal height have different densities."""
    num = weights.shape[0]
    index = np.unique(np.linspace(0, num - 1, min(num, _PROBES)).astype(int))
    heaviest = jnp.argmax(weights)

    def leaf(key: Array, rows: Array) -> Array:
        seen = weights[index].reshape(-1, *(1,) * (rows.ndim - 1)) > 0
        rows = jnp.where(seen, rows[index], rows[heaviest][None])
        noisy = rows
        if jnp.issubdtype(rows.dtype, jnp.floating):
            deviation = jnp.nanstd(rows, axis=tuple(range(max(rows.ndim - 1, 1))), keepdims=True)
            noisy = rows + 0.5 * deviation * jax.random.normal(key, rows.shape, rows.dtype)
        return jnp.concatenate([rows, noisy])

    leaves, treedef = jax.tree.flatten(x)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return to_units(treedef.unflatten([leaf(key, rows) for key, rows in zip(keys, leaves, strict=True)]))


def compressed(
    model: Node, x: Data, weights: Array, mesh: tuple[Any, str | None] | None
) -> tuple[Data, Array] | None:
    """Fewer rows that the model cannot tell from the data, where it knows how to make them: of each shard its own."""

    def shard(model: Node, x: Data, weights: Array) -> tuple[Data, Array] | None:
        def total(fn: Callable[..., Any]) -> Any:
            return fold(fn, lay_out(x, weights, chunk_size(unit_bytes(fn, x, weights), weights.shape[0])))

        return model.compress(total, x, weights)

    if mesh is None or mesh[1] is None:
        return shard(model, x, weights)
    rows = P(mesh[1])
    return jax.shard_map(shard, mesh=mesh[0], in_specs=(P(), rows, rows), out_specs=rows, check_vma=False)(model, x, weights)


def _lanes(
    model: Node,
    start: tuple[Params, Array],
    x: Data,
    weights: Array,
    total_weight: Array,
    solver: Any,
    stop: Any,
    schedule: Any,
    *,
    run: Callable[..., Any],
    max_steps: int,
    slots: int | None,
    axis: str | None = None,
) -> tuple[Lane, Array]:
    """Lays the data out and runs all lanes, on one device or on one shard; `start` has their parameters and numbers."""
    starts, numbers = start
    num = jax.tree.leaves(starts)[0].shape[0]
    one = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape[1:], p.dtype), starts)

    def e_step(x: Data, weights: Array) -> Any:
        params, total = tree.zeros_like(one), of_one_chunk(x, weights)
        return solver.e_step(model, params, total, solver.init(model, params, total, numbers[0])[1])

    per_unit = unit_bytes(e_step, x, weights)
    together = min(num, slots or default_slots(per_unit * weights.shape[0], num))
    data = lay_out(x, weights, chunk_size(per_unit * together, weights.shape[0]))
    reduce: Callable[[Any], Any] = (lambda t: t) if axis is None else (lambda t: lax.psum(t, axis))
    place = 0 if axis is None else lax.axis_index(axis)
    problem = Problem(model, solver, stop, schedule, data, total_weight, reduce, max_steps, place)
    table, trace = run(problem, starts, numbers, together)
    return runaway.mark(problem, table), trace


def default_slots(lane_bytes: int, num_lanes: int) -> int:
    """Lanes advanced together: all on an accelerator; on a CPU as many as share a cache, where lanes are small."""
    if jax.default_backend() != "cpu":
        return num_lanes
    return max(1, min(num_lanes, 2**18 // max(lane_bytes, 1)))


def _on_mesh(program: Callable[..., Any], mesh: Any, axis: str | None) -> Callable[..., Any]:
    """The program over a mesh: rows split along `axis` and statistics summed, or lanes split where axis is None."""
    if axis is not None:
        specs = (P(), P(), P(axis), P(axis), P(), P(), P(), P())
        inner = functools.partial(program, axis=axis)
        return jax.shard_map(inner, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)

    devices, names = mesh.devices.size, tuple(mesh.axis_names)

    def split_lanes(model: Node, starts: tuple[Params, Array], *rest: Any) -> Any:
        # The last lane is run again to fill the devices evenly, and dropped.
        num = starts[1].shape[0]
        extra = -num % devices
        starts = jax.tree.map(lambda p: jnp.concatenate([p, jnp.repeat(p[-1:], extra, 0)]) if extra else p, starts)
        out = jax.shard_map(
            program, mesh=mesh, in_specs=(P(), P(names), *(P(),) * len(rest)), out_specs=P(names), check_vma=False
        )(model, starts, *rest)
        return jax.tree.map(lambda leaf: leaf[:num], out)

    return split_lanes

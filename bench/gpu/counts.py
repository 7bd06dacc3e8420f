"""What a step consists of, read without a device: StableHLO lowered for CUDA, XLA:CPU's count of operations and bytes."""

import collections
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jem
from bench.gpu import mixtures
from bench.lds import NUM_OUTPUTS, NUM_STATES
from jem.backend import precise
from jem.data import to_units
from jem.engine.step import e_step_chunk

COUNTED = ("dot_general", "while", "case", "sort", "gather", "scatter", "custom_call")


class Step(NamedTuple):
    """A model, shapes of its parameters and rows, and the least operations and bytes of an iteration."""

    name: str
    model: Any
    params: Any
    x: Any
    operations: float
    bytes: float


def shapes_of(model: Any, x: Any) -> Any:
    """Of the parameters, as a start has them."""
    return jax.eval_shape(lambda x: jem.init(model, jax.random.key(0), x), x)


def steps() -> list[Step]:
    """One step of EM of each workload, all units in one chunk, as an accelerator with room takes them; float32."""
    found = []
    for kind, n, d, k, _ in mixtures.SIZES:
        model = jem.Mixture(jem.Gaussian(mixtures.STRUCTURES[kind](), prior=None), k)
        work = mixtures.gaussian_work(kind, n, d, k, 4)
        found.append((mixtures.gaussian_row((kind, n, d, k, 0), "float32").name, model, (n, d), work.operations, work.bytes))
    n, d, k = 1_000_000, mixtures.NUM_ITEMS, mixtures.NUM_CLASSES
    found.append((mixtures.classes_row().name, jem.Mixture(jem.Bernoulli(), k), (n, d), 4 * n * k * d, 4 * n * d))
    for s, t, k, form in ((512, 200, 8, jem.forms.Sequential()), (1, 1_000_000, 4, jem.forms.Blocks())):
        model = jem.HMM(jem.Gaussian(prior=None), k, form=form)
        operations = s * t * (6 * k * k + 12 * k)
        found.append((f"hmm {s} x {t}, K = {k}, {type(form).__name__}", model, (s, t, 2), operations, 4 * s * t * (2 + 2 * k)))
    n, m, s, t = NUM_STATES, NUM_OUTPUTS, 256, 500
    work = s * t * (12 * n * n + 6 * n * m), 4 * s * t * (m + 3 * n)
    found.append((f"lds {s} x {t}", jem.LDS(n, m, form=jem.forms.Sequential()), (s, t, m), *work))
    rows = [(name, model, jax.ShapeDtypeStruct(shape, jnp.float32), *work) for name, model, shape, *work in found]
    return [Step(name, model, shapes_of(model, x), x, *work) for name, model, x, *work in rows]


def one_step(model: Any) -> Any:
    """The E-step of one chunk and the M-step."""

    @precise
    def step(params: Any, x: Any) -> Any:
        units = to_units(x)
        weights = jnp.ones(x.shape[0], jnp.float32)
        stats, value = e_step_chunk(model.bind(units, weights), params, units, weights)
        return model.maximize(params, stats), value

    return step


def operations_in(text: str) -> collections.Counter[str]:
    """How often each operation stands in a StableHLO program; and `default`: products without a precision of their own."""
    found = collections.Counter(re.findall(r"stablehlo\.(\w+)", text))
    found["default"] = len(re.findall(r"dot_general.*DEFAULT", text))
    return found


def table() -> list[list[str]]:
    """A row for each workload."""
    rows = [["a step of", *COUNTED, "operations / least", "bytes / least", "temporaries MB"]]
    for step in steps():
        traced = jax.jit(one_step(step.model)).trace(step.params, step.x)
        found = operations_in(traced.lower(lowering_platforms=("cuda",)).as_text())
        assert not found["default"], f"{step.name}: a product without full precision"
        done = traced.lower().compile()
        cost, memory = done.cost_analysis() or {}, done.memory_analysis()
        rows.append(
            [
                step.name,
                *(str(found[name]) for name in COUNTED),
                f"{cost.get('flops', 0) / step.operations:.2g}",
                f"{cost.get('bytes accessed', 0) / step.bytes:.2g}",
                f"{getattr(memory, 'temp_size_in_bytes', 0) / 1e6:.0f}",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
    return rows

"""What must hold of the programs on an accelerator, read off them without one: nothing here says how fast they are."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import array

import jem
from jem import backend
from jem.engine import program, stream
from jem.kernels import chain, kalman, sums

ROOT = Path(__file__).resolve().parent.parent
STEPS = 6
OPTIONS = dict(solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=STEPS)


@pytest.fixture
def accelerator(monkeypatch):
    """Programs as they would be for an accelerator of 64 GiB."""

    class Device:
        def memory_stats(self):
            return {"bytes_limit": 2**36}

    monkeypatch.setattr(backend, "accelerated", lambda: True)
    monkeypatch.setattr(jax, "local_devices", lambda *_: [Device()])


def data(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def like(model, x):
    """Parameters of the model, as shapes."""
    return jax.eval_shape(lambda x: jem.init(model, jax.random.key(0), x), x)


def for_cuda(fn, *args):
    """The StableHLO of fn lowered for CUDA, which needs no card."""
    return jax.jit(fn).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


MIXTURE = jem.Mixture(jem.Gaussian(prior=None), 3)
MODELS = {
    "mixture": (MIXTURE, (300, 2)),
    "tied": (jem.Mixture(jem.Tied(jem.Gaussian(), 3, "whitening"), 3), (300, 2)),
    "hmm": (jem.HMM(jem.Gaussian(), 2, form=jem.forms.Blocks(4)), (3, 40, 2)),
    "lds": (jem.LDS(2, 3), (3, 40, 3)),
    "factor": (jem.FactorAnalysis(2), (300, 4)),
}


def products(text):
    """How many products a program has, and how many of them without the full precision of their numbers."""
    lines = re.findall(r"stablehlo\.dot_general.*", text)
    return len(lines), sum("precision = [HIGHEST, HIGHEST]" not in line for line in lines)


@pytest.mark.parametrize("name", MODELS)
def test_a_fit_has_products_of_full_precision_and_stays_on_the_device(name):
    model, shape = MODELS[name]
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    text = for_cuda(lambda params, x: jem.fit(model, params, x, **OPTIONS), like(model, x), x)
    number, coarse = products(text)
    assert number > 5 and coarse == 0
    assert "callback" not in text and "infeed" not in text and "outfeed" not in text


@pytest.mark.parametrize("name", ["mixture", "hmm"])
def test_derivatives_of_a_fit_have_products_of_full_precision(name):
    model, shape = MODELS[name]
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    value = lambda x, params: jem.fit(model, params, x).log_likelihood
    number, coarse = products(for_cuda(jax.grad(value), x, like(model, x)))
    assert number > 20 and coarse == 0


def test_products_outside_of_programs_have_full_precision():
    """Of parameters that are made, and read, D beyond the blocks of a factorisation."""
    wide = jax.ShapeDtypeStruct((20, 20), jnp.float32)
    made = for_cuda(lambda c: jem.Gaussian().params(jnp.zeros(20), c).covariance, wide)
    assert products(made)[0] > 2 and products(made)[1] == 0


def test_what_the_user_says_of_precision_holds():
    x = jax.ShapeDtypeStruct((310, 2), jnp.float32)
    with jax.default_matmul_precision("default"):
        text = for_cuda(lambda params, x: jem.fit(MIXTURE, params, x, **OPTIONS), like(MIXTURE, x), x)
    number, coarse = products(text)
    assert coarse == number > 5
    assert jax.config.jax_default_matmul_precision is None


def test_no_batched_factorisation_is_a_call_of_a_library():
    x = jax.ShapeDtypeStruct((300, 2), jnp.float32)
    text = for_cuda(lambda x: jem.fit_restarts(MIXTURE, jax.random.key(0), x, num_restarts=5).params, x)
    assert "custom_call" not in re.sub(r"custom_call @(Sharding|SPMD\w+)", "", text)


def test_restarts_are_one_product_on_an_accelerator(accelerator):
    """All lanes at once: the rows are met by products with an axis of lanes, and the loop over chunks is gone."""
    x = jax.ShapeDtypeStruct((320, 2), jnp.float32)
    text = for_cuda(lambda x: jem.fit_restarts(MIXTURE, jax.random.key(0), x, num_restarts=7, **OPTIONS).params, x)
    of_rows = [line for line in re.findall(r"stablehlo\.dot_general.*", text) if "x320xf32>" in line]
    assert any("tensor<7x" in line for line in of_rows)
    assert program.default_slots(2**30, 1024) == 1024


@pytest.fixture
def reads(monkeypatch):
    """Shapes of what the host reads of arrays."""
    seen, value = [], array.ArrayImpl._value

    def read(self):
        seen.append(self.shape)
        return value.fget(self)

    monkeypatch.setattr(array.ArrayImpl, "_value", property(read))
    return seen


def test_the_door_reads_one_scalar(reads):
    x = data(200, 2)
    params = jem.init(MIXTURE, jax.random.key(0), x)
    jem.fit(MIXTURE, params, x, **OPTIONS)
    reads.clear()
    jem.fit(MIXTURE, params, x, **OPTIONS)
    assert reads == [()]
    float(x[0, 0])  # the control
    assert len(reads) == 2


def test_a_program_of_the_user_moves_nothing():
    x = data(200, 2)
    params = jem.init(MIXTURE, jax.random.key(0), x)
    run = jax.jit(lambda params, x: jem.fit(MIXTURE, params, x, **OPTIONS))
    jax.block_until_ready(run(params, x))
    with jax.transfer_guard("disallow"):
        fit = jax.block_until_ready(run(params, x))
        with pytest.raises(Exception, match="transfer"):  # the control
            jnp.add(x, 1.0).block_until_ready()
    assert int(fit.num_steps) == STEPS


def test_chunks_are_of_the_cache_or_of_the_memory(accelerator, monkeypatch):
    assert stream.chunk_size(4096, 1_000_000) == 1_000_000  # 4 GB of 4 GiB
    assert 900_000 < stream.chunk_size(4096, 10_000_000) <= 2**20
    monkeypatch.setattr(jax, "local_devices", lambda *_: [type("Silent", (), {"memory_stats": lambda self: None})()])
    assert stream.chunk_size(4096, 1_000_000) <= 2**16
    monkeypatch.setattr(backend, "accelerated", lambda: False)
    assert stream.chunk_size(4096, 1_000_000) <= 128


def test_sums_over_steps_are_in_few_parts(accelerator):
    units, weights = jax.ShapeDtypeStruct((2, 200_000), jnp.float32), jax.ShapeDtypeStruct((200_000,), jnp.float32)
    fn = lambda units, weights: units @ weights
    assert "while" not in for_cuda(lambda u, w: sums.sum_in_parts(fn, u, w), units, weights)


def test_forms_of_chains(accelerator, monkeypatch):
    auto, blocks = chain.Automatic(), chain.Blocks()
    assert chain.choose(auto, 1_000_000, 4, 1) == blocks
    assert chain.choose(auto, 100_000, 64, 1) == blocks
    assert chain.choose(auto, 200, 8, 512) == chain.Sequential()
    assert chain.choose(auto, 2000, 64, 1024) == chain.Sequential()
    assert kalman.choose(auto, 1000, 1) == kalman.Associative()
    assert kalman.choose(auto, 500, 256) == kalman.Sequential()
    monkeypatch.setattr(backend, "accelerated", lambda: False)
    assert chain.choose(auto, 1_000_000, 4, 1) == chain.Sequential()


def test_every_program_of_the_package_is_precise():
    """A function that JAX compiles by itself, or a derivative's rule, has its own precision; those named make no products."""
    without = {"checks.py", "data.py", "testing.py"}
    bare = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "jem").rglob("*.py"))
        if path.name not in without
        for line, following in zip(path.read_text().splitlines(), path.read_text().splitlines()[1:], strict=False)
        if re.match(r" *@(jax\.jit|functools\.partial\(jax\.jit)", line) and following.strip() != "@precise"
    ]
    assert bare == [], "put @precise (jem/backend.py) below, so that float32 products are not TF32 on a GPU"


def test_the_bench_on_a_gpu_runs_dry():
    """Two of its rows, in a process of their own."""
    command = [sys.executable, "-m", "bench", "gpu", "--dry", "--no-peers", "--rows", "lca*", "hmm 1 x 1e4*"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("| right") >= 2 and "All right." in done.stdout

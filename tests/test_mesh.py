"""Two CPU devices: rows or restarts split over them give the fit of one device, and nothing ever waits for ever."""

import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jem

ROOT = Path(__file__).resolve().parent.parent
MODEL = jem.Mixture(jem.Gaussian(), 3, seeding=jem.starts.RandomResponsibilities())


@pytest.fixture(scope="module")
def mesh():
    assert len(jax.devices()) == 2, "conftest.py asks for two"
    return Mesh(np.array(jax.devices()), ("rows",))


def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((100, 2)) + 4.0 * rng.integers(0, 3, (100, 1))


def assert_same_fit(got, want):
    np.testing.assert_array_equal(got.status, want.status)
    np.testing.assert_array_equal(got.num_steps, want.num_steps)
    np.testing.assert_allclose(got.rate, want.rate, rtol=1e-4)  # a ratio of gains, which are small differences
    for a, b in zip(jax.tree.leaves(got._replace(rate=0)), jax.tree.leaves(want._replace(rate=0)), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_rows_over_devices(x64, mesh, weighted):
    """The second device's rows may all be of weight 0 and NaN."""
    x, weights = data(), None
    if weighted:
        weights = np.repeat([1.0, 0.0], 50)
        x[50:] = np.nan
    start = jem.init(MODEL, jax.random.key(0), x, weights)
    spread = jax.device_put(x, NamedSharding(mesh, P("rows")))
    got = jem.fit(MODEL, start, spread, weights=weights, max_steps=200)
    assert_same_fit(got, jem.fit(MODEL, start, jnp.asarray(x), weights=weights, max_steps=200).check())


@pytest.mark.parametrize("num", [4, 5])
def test_restarts_over_devices(x64, mesh, num):
    """An odd number leaves one device a lane short; the answer does not know."""
    x = data()
    options = dict(num_restarts=num, max_steps=200)
    want = jem.fit_restarts(MODEL, jax.random.key(0), jnp.asarray(x), **options)
    got = jem.fit_restarts(MODEL, jax.random.key(0), jax.device_put(x, NamedSharding(mesh, P())), **options)
    assert_same_fit(got, want)
    assert len(got.status.devices()) == 2


def test_restarts_over_sharded_rows(x64, mesh):
    x = data()
    options = dict(num_restarts=3, max_steps=200)
    want = jem.fit_restarts(MODEL, jax.random.key(0), jnp.asarray(x), **options)
    got = jem.fit_restarts(MODEL, jax.random.key(0), jax.device_put(x, NamedSharding(mesh, P("rows"))), **options)
    assert_same_fit(got, want)


def test_a_mesh_with_explicit_axes(x64):
    """`jax.make_mesh` gives these."""
    x = data()
    start = jem.init(MODEL, jax.random.key(0), x)
    spread = jax.device_put(x, NamedSharding(jax.make_mesh((2,), ("rows",)), P("rows")))
    got = jem.fit(MODEL, start, spread, max_steps=200)
    assert_same_fit(got, jem.fit(MODEL, start, jnp.asarray(x), max_steps=200))


def test_one_fit_of_replicated_data(x64, mesh):
    """There is nothing to split: it runs all the same."""
    x = data()
    start = jem.init(MODEL, jax.random.key(0), x)
    got = jem.fit(MODEL, start, jax.device_put(x, NamedSharding(mesh, P())), max_steps=200)
    assert_same_fit(got, jem.fit(MODEL, start, jnp.asarray(x), max_steps=200))


def test_no_deadlock_at_128_features():
    """Two restarts of large covariances on two devices of two cores: batched LAPACK calls wait for each other there."""
    script = """
    import jax, numpy as np
    jax.config.update("jax_num_cpu_devices", 2)
    import jem
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    x = np.random.default_rng(0).standard_normal((600, 128)).astype(np.float32)
    model = jem.Mixture(jem.Gaussian(), 2, seeding=jem.starts.RandomResponsibilities())
    for name, spec in [("rows", P("rows")), ("restarts", P())]:
        spread = jax.device_put(x, NamedSharding(mesh, spec))
        fits = jem.fit_restarts(model, jax.random.key(0), spread, num_restarts=2, max_steps=20)
        print(name, np.isfinite(fits.objective).tolist(), flush=True)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.stdout.splitlines() == ["rows [True, True]", "restarts [True, True]"], done.stderr[-2000:]


SPANNING = """
import sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import jax.numpy as jnp
import numpy as np
import jem
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
rows = NamedSharding(Mesh(np.array(jax.devices()), ("rows",)), P("rows"))
spread = lambda a: jax.make_array_from_callback(a.shape, rows, lambda index: a[index])
x, weights = np.arange(8, dtype="float32")[:, None], np.ones(8, "float32")
fit = lambda x, w: jem.fit(jem.Poisson(), jem.Poisson.Params(jnp.array([2.0])), spread(x), weights=spread(w), max_steps=5)
print(fit(x, weights).check().params.rate)
for bad in ((x + 0.5, weights), (x * np.nan, weights), (x, -weights)):
    try:
        fit(*bad)
    except ValueError as error:
        print("refused", error)
"""


def test_data_that_span_processes():
    """Each process holds a part of the rows; one scalar tells all of them whether they will do."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    run = [sys.executable, "-c", SPANNING, address]
    both = [subprocess.Popen([*run, str(i)], stdout=subprocess.PIPE, text=True, cwd=ROOT) for i in range(2)]
    try:
        for process in both:
            lines = [line for line in process.communicate(timeout=120)[0].splitlines() if not line.startswith("[Gloo]")]
            assert lines[0] == "[3.5]" and len(lines) == 4, lines
            assert all(line.startswith("refused") and "another process" in line for line in lines[1:]), lines
    finally:
        for process in both:
            process.kill()

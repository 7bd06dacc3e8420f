"""Two CPU devices: rows or restarts split over them give the fit of one device, and nothing ever waits for ever."""

import contextlib
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


TWO = """
import sys
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
me = int(sys.argv[2])
patience = dict(heartbeat_timeout_seconds=10, shutdown_timeout_seconds=10)
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=me, **patience)
import jax.numpy as jnp
import numpy as np
import jem
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
rows = NamedSharding(Mesh(np.array(jax.devices()), ("rows",)), P("rows"))
spread = lambda a: jax.make_array_from_process_local_data(rows, np.split(a, 2)[me])
model = jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 3, seeding=jem.starts.RandomResponsibilities())
options = dict(solver=jem.solvers.EM(), max_steps=40)
x = np.load(sys.argv[3])
"""
FITS = """
whole = spread(x)
assert not whole.is_fully_addressable
start = jem.init(model, jax.random.key(0), whole)
print("fit", float(jem.fit(model, start, whole, **options).log_likelihood).hex())
fits = jem.fit_restarts(model, jax.random.key(1), whole, num_restarts=3, **options)
print("restarts", *(float(value).hex() for value in fits.log_likelihood))
counts, ones = np.arange(8.0)[:, None], np.ones(8)
rate = jem.Poisson.Params(jnp.array([2.0]))
rates = jem.Poisson.Params(spread(np.array([[2.0], [-1.0]])))
for bad in (
    lambda: jem.fit(jem.Poisson(), rate, spread(counts + 0.5)),
    lambda: jem.fit(jem.Poisson(), rate, spread(counts * np.nan)),
    lambda: jem.fit(jem.Poisson(), rate, spread(counts), weights=spread(-ones)),
    lambda: jem.fit_restarts(jem.Poisson(), None, spread(counts), starts=rates),
):
    try:
        bad()
    except ValueError as error:
        print("refused", error)
"""
ENDLESS = """
print("going", flush=True)
start = jem.init(model, jax.random.key(0), spread(x))
jem.fit(model, start, spread(x), solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=10**7)
print("done", flush=True)
"""


@contextlib.contextmanager
def two_processes(script, x, folder):
    """Two processes that run the script on data x of which each holds a half."""
    np.save(folder / "x.npy", x)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    run = [sys.executable, "-c", TWO + script, address]
    with contextlib.ExitStack() as open_ones:
        both = [open_ones.enter_context(subprocess.Popen([*run, str(i), str(folder / "x.npy")], **options)) for i in range(2)]
        try:
            yield both
        finally:
            for process in both:
                process.kill()


def test_rows_over_processes(x64, tmp_path):
    """Each process holds half of the rows: they get the answer of one, and one scalar tells both what will not do."""
    x, options = data(), dict(solver=jem.solvers.EM(), max_steps=40)
    model = jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 3, seeding=jem.starts.RandomResponsibilities())
    fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, **options)
    fits = jem.fit_restarts(model, jax.random.key(1), x, num_restarts=3, **options)
    with two_processes(FITS, x, tmp_path) as both:
        for process in both:
            out, errors = process.communicate(timeout=240)
            lines = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
            assert [line.split()[0] for line in lines] == ["fit", "restarts", *["refused"] * 4], (lines, errors[-2000:])
            got = [float.fromhex(word) for line in lines[:2] for word in line.split()[1:]]
            np.testing.assert_allclose(got, [fit.log_likelihood, *fits.log_likelihood], rtol=1e-12)
            assert all("another process" in line for line in lines[2:]), lines


def test_a_killed_partner_is_an_error(tmp_path):
    """The process that is left ends, and not well, in the middle of a fit."""
    with two_processes(ENDLESS, np.tile(data(), (20, 1)), tmp_path) as (one, other):
        for process in (one, other):
            assert any("going" in line for line in process.stdout)
        with pytest.raises(subprocess.TimeoutExpired):
            one.wait(4)
        other.kill()
        assert one.wait(60) != 0
        assert "done" not in one.stdout.read()

"""`jem.use_cores`: what is spread over the cores is the answer of one, and what may not be spread is not."""

import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem.doors import cores

ROOT = Path(__file__).resolve().parent.parent
MODEL = jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 2)


@pytest.fixture
def two(monkeypatch):
    """Two cores, of the two devices that the tests have, and no data too small."""
    monkeypatch.setattr(cores, "_LARGE", 1)
    assert jem.use_cores(2) == 2
    yield
    assert jem.use_cores(1) == 1


def data(num=101):
    rng = np.random.default_rng(0)
    return rng.standard_normal((num, 2)) + 4.0 * rng.integers(0, 2, (num, 1))


def once_and_twice(fn):
    """What `fn` gives on one core and on two."""
    jem.use_cores(1)
    one = fn()
    jem.use_cores(2)
    return one, fn()


def assert_alike(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert b.dtype == a.dtype and b.devices() == a.devices() and not b.committed
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_rows(two, x64, weighted):
    """An odd number of them, and one that does not count and is no number."""
    x, weights = data(), np.arange(101) % 3.0 if weighted else None
    if weighted:
        x[0] = np.nan
    start = jem.init(MODEL, jax.random.key(0), x, weights)
    one, both = once_and_twice(lambda: jem.fit(MODEL, start, x, weights=weights, solver=jem.solvers.EM()).check())
    assert_alike(one._replace(rate=()), both._replace(rate=()))


def test_lanes(two, x64):
    """Seven, of which the second device has one less."""
    one, both = once_and_twice(lambda: jem.fit_restarts(MODEL, jax.random.key(0), data(), num_restarts=7).check())
    assert_alike(one._replace(rate=()), both._replace(rate=()))


def test_a_bootstrap(two, x64):
    x = data()
    params = jem.fit(MODEL, jem.init(MODEL, jax.random.key(0), x), x).params
    one, both = once_and_twice(lambda: jem.bootstrap(MODEL, jax.random.key(1), params, x, num_replicates=9))
    assert_alike(one, both)


def test_what_is_spread(two, monkeypatch):
    """Rows, or lanes where there are enough; nothing where a solver takes rows in parts, or values are traced or placed."""
    meshes = []
    real = jax.device_put
    there = real(np.arange(1.0, 13.0)[:, None], jax.devices()[1])
    monkeypatch.setattr(cores.jax, "device_put", lambda x, to: meshes.append(to.spec) or real(x, to))
    x, model, options = np.arange(1.0, 13.0)[:, None], jem.Poisson(), dict(max_steps=2)
    start = jem.Poisson.Params(jnp.array([2.0]))

    def spread(fn):
        meshes.clear()
        jax.block_until_ready(fn())
        return {bool(len(spec)) for spec in meshes}

    restarts = lambda num, **more: jem.fit_restarts(model, jax.random.key(0), x, num_restarts=num, **options, **more)  # noqa: E731
    assert spread(lambda: jem.fit(model, start, x, **options)) == {True, False}  # rows, and the rest on each
    assert spread(lambda: restarts(2)) == {True, False}
    assert spread(lambda: restarts(4)) == {False}
    assert spread(lambda: restarts(4, schedule=jem.schedules.Halving(first=1, keep=2))) == {True, False}
    assert not spread(lambda: jem.fit(model, start, x, solver=jem.solvers.Online(), **options))
    assert not spread(lambda: jem.fit(model, start, there, **options))
    assert not spread(lambda: jax.jit(lambda: jem.fit(model, start, x, **options))())
    assert not spread(lambda: jax.grad(lambda x: jem.fit(model, start, x, **options).params.rate[0])(jnp.asarray(x)))
    monkeypatch.setattr(cores, "_LARGE", 13)
    assert not spread(lambda: jem.fit(model, start, x, **options))


def run(script):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    return done.stdout.split() or done.stderr[-2000:]


def test_before_and_after_the_first_array():
    script = """
    import jem, jax
    print(jem.use_cores(3), jax.local_device_count(), jem.use_cores(2), jem.use_cores(1))
    try:
        jem.use_cores(4)
    except RuntimeError as error:
        print("refused" if "with 3 CPU devices" in str(error) and "before the first array" in str(error) else error)
    """
    assert run(script) == ["3", "3", "2", "1", "refused"]


@pytest.mark.parametrize("num", [0, -1, 1.5, "two"])
def test_no_number(num):
    with pytest.raises((TypeError, ValueError), match="num"):
        jem.use_cores(num)

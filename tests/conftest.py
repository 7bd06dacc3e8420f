"""What every test runs under: strict JAX, two CPU devices, a dtype per test."""

import gc
from pathlib import Path

import jax
import pytest
from zoo import ZOO, build

# Before the backend starts: the mesh tests need two devices.
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"


def pytest_collection_modifyitems(items):
    """With `--dist loadgroup`, one worker runs all laws of a model, and one runs a file: nothing is compiled twice."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        model = callspec.params.get("model") if callspec else None
        item.add_marker(pytest.mark.xdist_group(model or item.nodeid.split("::")[0]))


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Every compiled program holds memory maps, of which a process may have some 65,000: drop them all in time."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 40_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def quick_compilation():
    """Leaves out XLA's costly passes, for tests that mostly compile."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Runs a test in float32 as JAX comes, and in float64 with x64 on."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture(params=[row.name for row in ZOO])
def model(request, dtype):
    """Every row of the zoo, in both dtypes."""
    return build(request.param, dtype)


@pytest.fixture(scope="session")
def cases():
    """The folder of the reference cases."""
    if not CASES.is_dir():
        pytest.skip(f"no reference cases: {CASES} is absent")
    return CASES

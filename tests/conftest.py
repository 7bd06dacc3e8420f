"""What every test runs under: strict JAX, two CPU devices, a compiler in a hurry, a dtype per test."""

import ctypes
import gc
import os
from pathlib import Path

import jax
import jaxlib
import pytest
from tiers import ALL, is_long
from zoo import ZOO, build

# Before the backend starts: the mesh tests need two devices.
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# Tracing leaves many objects behind, and looking through all that live takes a tenth of the time: memory is looked at below.
gc.set_threshold(200_000, 50, 100)

# Compiling is most of the time here: XLA leaves out its costly passes, and the kernel generators that take longest. Both are
# read once, when the backend starts; what a test starts in a process of its own compiles as it does for users, and so does
# everything with JEM_AS_USERS=1.
FLAGS = {
    (0, 10): "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    (0, 12): "--xla_cpu_experimental_ynn_fusion_type= --xla_cpu_parallel_codegen_split_count=1",
}
if not os.environ.get("JEM_AS_USERS"):
    jax.config.update("jax_disable_most_optimizations", True)
    if "XLA_FLAGS" not in os.environ and (flags := FLAGS.get(jaxlib.version.__version_info__[:2])):
        os.environ["XLA_FLAGS"] = flags
        jax.devices()
        del os.environ["XLA_FLAGS"]

# The reference cases of the repository, and those that may only be read beside it.
CASES = Path(__file__).resolve().parent / "cases"
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "cases"
ONLY_BESIDE = ("dawid_skene_anaesthetist", "hmm_speed", "lca_carcinoma", "turnbull_cosmesis")


def pytest_collection_modifyitems(config, items):
    """Of what compiles for long, siblings wait (`tiers`). With `--dist loadgroup` one worker runs all laws of a model, and one
    runs a file: nothing is compiled twice."""
    if not ALL:
        config.hook.pytest_deselected(items=[item for item in items if is_long(item)])
        items[:] = [item for item in items if not is_long(item)]
    for item in items:
        callspec = getattr(item, "callspec", None)
        model = callspec.params.get("model") if callspec else None
        item.add_marker(pytest.mark.xdist_group(model or item.nodeid.split("::")[0]))


def memory():
    """Bytes that the process holds."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0


def drop_programs():
    """Every compiled program holds memory, and memory maps, of which a process may have some 65,000."""
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc gives back what is free only when asked
        trim(0)
    return memory()


@pytest.fixture(scope="session")
def floor():
    """What is held without programs, as a list of one number."""
    return [memory()]


@pytest.fixture(autouse=True)
def little_memory(floor):
    """Drops all programs in time."""
    yield
    if memory() > floor[0] + 1.2e9:
        floor[0] = drop_programs()


@pytest.fixture(scope="module", autouse=True)
def few_maps(floor):
    """The same for memory maps."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 40_000:
        floor[0] = drop_programs()


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Runs a test in float32 as JAX comes, and in float64 with x64 on."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture(params=[row.name for row in ZOO])
def model(request, dtype):
    """Every row of the zoo, in both dtypes."""
    return build(request.param, dtype)


class Cases:
    """Where the reference cases lie, as a folder: `cases / "ssm_nile.json"`."""

    def __truediv__(self, name):
        folder = BESIDE if name.removesuffix(".json") in ONLY_BESIDE else CASES
        if folder is BESIDE and not (folder / name).exists():
            pytest.skip(f"the reference cases {', '.join(ONLY_BESIDE)} are not in the repository; looked for in {folder}")
        return folder / name


@pytest.fixture(scope="session")
def cases():
    """The folder of the reference cases."""
    return Cases()

"""The laws are identities: they hold whatever the compiler does, and here compiling is most of the time."""

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation():
    """Compiles without XLA's costly passes."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)

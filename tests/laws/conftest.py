"""The laws are identities: they hold whatever the compiler does, and here compiling is most of the time."""

import pytest


@pytest.fixture(autouse=True)
def compile_quickly(quick_compilation):
    """For every law."""

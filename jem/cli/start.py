"""What the command does before its first array: it takes all cores, and keeps compiled programs between runs."""

import os

import jax
from platformdirs import user_cache_path

import jem


def take_cores(num: int | None) -> None:
    """So many cores, all by default; as many as there are where JAX runs already and nobody asked.

    Raises:
        RuntimeError: more than JAX has started with were asked for.
    """
    try:
        jem.use_cores(num)
    except RuntimeError:
        if num is not None:
            raise
        jem.use_cores(jax.local_device_count("cpu"))


def keep_programs() -> None:
    """Compiled programs go to the user's cache folder and are found there next time; nothing where none can be written.

    The folder that `JAX_COMPILATION_CACHE_DIR` names, where it does, is used instead.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = user_cache_path("jem") / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK | os.X_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a run is many small programs, too

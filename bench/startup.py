"""`python -m bench startup`: what a new process pays to import jem and to make its first fit."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from bench import harness
from bench.harness import Report

# The user's switch; the second variable keeps the small programs too, which JAX by default does not.
CACHE = "JAX_COMPILATION_CACHE_DIR"
KEEP_ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
HEAD = ("import jax", "import jem after jax", "first fit", "start to first result", "second fit")


def probe(environment: Mapping[str, str]) -> dict[str, float]:
    """Run `bench.probe` in a new process; its times in seconds and its counts of compilations."""
    clean = {name: value for name, value in os.environ.items() if name not in (CACHE, *KEEP_ALL)}
    done = subprocess.run(
        [sys.executable, "-m", "bench.probe"], env={**clean, **environment}, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"bench.probe failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Start processes in turn: no cache, an empty cache, the cache that run filled."""
    options = harness.parser("startup", __doc__, rounds=5)
    arguments = harness.parse(options)
    report = Report(arguments.out)
    report.add(harness.machine())
    runs: dict[str, list[dict[str, float]]] = {"no cache": [], "cache, empty": [], "cache, warm": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            cache = {CACHE: folder, **KEEP_ALL}
            for name, environment in zip(runs, ({}, cache, cache), strict=True):
                runs[name].append(probe(environment))
    rows = [["seconds, median", *HEAD]]
    for name, results in runs.items():
        rows.append([name, *(f"{statistics.median(r[column] for r in results):.3f}" for column in HEAD)])
    report.add("### a first script in a new process\n\n" + harness.table(rows))
    plain = runs["no cache"]
    first, second = (max(int(r[f"compilations of the {which} fit"]) for r in plain) for which in ("first", "second"))
    report.add(
        f"Compilations: {first} for the first fit, {second} for a second one with new data of the same shape, "
        "a new start and a new tolerance."
    )


if __name__ == "__main__":
    main()

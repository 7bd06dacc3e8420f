"""A user's first script, run by `bench.startup` in a new process: import, fit, fit again; prints its times as JSON."""

import json
import time

begin = time.perf_counter()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

jax_imported = time.perf_counter()

import jem  # noqa: E402

jem_imported = time.perf_counter()

NUM_UNITS, NUM_FEATURES, NUM_COMPONENTS = 5000, 4, 6


def main() -> None:
    """Fit twice, new data of the same shape, a new start and a new tolerance the second time; count compilations."""
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compilations.append(event) if "backend_compile" in event else None
    )
    leaf = jem.Gaussian()
    model = jem.Mixture(leaf, NUM_COMPONENTS)
    counts, seconds, finished = [], [], []
    for seed, tolerance in enumerate((1e-5, 1e-6)):
        rng = np.random.default_rng(seed)
        means = rng.normal(scale=3.0, size=(NUM_COMPONENTS, NUM_FEATURES)).astype(np.float32)
        x = means[rng.integers(NUM_COMPONENTS, size=NUM_UNITS)] + rng.normal(size=(NUM_UNITS, NUM_FEATURES))
        start = time.perf_counter()
        before = len(compilations)
        components = leaf.params(
            mean=jnp.asarray(means), covariance=jnp.tile(jnp.eye(NUM_FEATURES), (NUM_COMPONENTS, 1, 1))
        )
        weights = jnp.full(NUM_COMPONENTS, 1 / NUM_COMPONENTS)
        params = jem.Mixture.Params(weights=weights, components=components)
        fit = jem.fit(model, params, x.astype(np.float32), stop=jem.stop.RelativeGain(tolerance))
        float(fit.log_likelihood)
        finished.append(time.perf_counter())
        seconds.append(finished[-1] - start)
        counts.append(len(compilations) - before)
    print(
        json.dumps(
            {
                "import jax": jax_imported - begin,
                "import jem after jax": jem_imported - jax_imported,
                "first fit": seconds[0],
                "start to first result": finished[0] - begin,
                "second fit": seconds[1],
                "compilations of the first fit": counts[0],
                "compilations of the second fit": counts[1],
            }
        )
    )


if __name__ == "__main__":
    main()

"""`python -m bench bootstrap`: many bootstrap fits of a mixture in one call, beside joblib over scikit-learn."""

import functools
import warnings
from typing import Any, NamedTuple

import jax
import joblib
import numpy as np
import sklearn.exceptions
import sklearn.mixture

import jem
from bench import harness
from bench.harness import Local, Report, Runner
from bench.problems import draw_mixture

NUM_UNITS, NUM_FEATURES, NUM_COMPONENTS = 2000, 2, 3
MAX_STEPS = 500


class Law(NamedTuple):
    """Standard errors of the centres over the replicates, and the mean log-likelihood of a replicate, per row."""

    errors: np.ndarray
    log_likelihood: float


def make_data() -> np.ndarray:
    """Rows (2000, 2) of three Gaussians that overlap somewhat."""
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0.0], [3.0, 0.5], [0.5, 3.5]])
    factors = np.eye(2) + rng.normal(scale=0.2, size=(3, 2, 2))
    return draw_mixture(rng, NUM_UNITS, means, factors, np.array([0.5, 0.3, 0.2]))[0]


def first_fit(dtype: str) -> tuple[Any, Any, jax.Array]:
    """Model, the fit's parameters and the rows."""
    x = jax.numpy.asarray(make_data().astype(dtype))
    model = jem.Mixture(jem.Gaussian(), NUM_COMPONENTS)
    fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8)
    return model, fits.best().params, x


def jem_runner(num: int, tolerance: float, dtype: str, batch: int | None) -> Runner:
    """`jem.bootstrap`: one call, one program."""
    model, params, x = first_fit(dtype)
    options = dict(
        num_replicates=num,
        replicates=jem.uncertainty.resample.Rows(),
        stop=jem.stop.RelativeGain(tolerance),
        max_steps=MAX_STEPS,
    )

    def fit() -> Any:
        return jax.block_until_ready(jem.bootstrap(model, jax.random.key(1), params, x, batch_size=batch, **options))

    def read(found: Any) -> Law:
        assert bool(found.ok.all())
        errors = np.asarray(found.standard_errors().components.mean)
        return Law(errors, float(np.mean(found.objective)) / NUM_UNITS)

    return Runner(fit, read)


def refit(rows: np.ndarray, start: tuple[np.ndarray, np.ndarray, np.ndarray], tolerance: float) -> tuple[np.ndarray, float]:
    """One of scikit-learn's, from the parameters of the fit."""
    weights, means, precisions = start
    model = sklearn.mixture.GaussianMixture(
        NUM_COMPONENTS, weights_init=weights, means_init=means, precisions_init=precisions, tol=tolerance, max_iter=MAX_STEPS
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        model.fit(rows)
    return model.means_, float(model.score(rows))


def sklearn_runner(num: int, tolerance: float, threads: int) -> Runner:
    """joblib over rows drawn with replacement: `GaussianMixture` takes no weights."""
    _, params, _ = first_fit("float64")
    weights = np.asarray(params.weights, float)
    covariance = np.asarray(params.components.covariance)
    start = weights / weights.sum(), np.asarray(params.components.mean), np.linalg.inv(covariance)
    x = make_data()
    draws = np.random.default_rng(1).integers(0, NUM_UNITS, (num, NUM_UNITS))

    def fit() -> Any:
        return joblib.Parallel(n_jobs=threads)(joblib.delayed(refit)(x[rows], start, tolerance) for rows in draws)

    def read(found: Any) -> Law:
        means, scores = zip(*found, strict=True)
        return Law(np.std(np.stack(means), 0, ddof=1), float(np.mean(scores)))

    return Runner(fit, read)


def main() -> None:
    """The table."""
    options = harness.parser("bootstrap", __doc__, rounds=3)
    options.add_argument("--replicates", type=int, default=1000, help="bootstrap fits (default 1000)")
    options.add_argument("--tolerance", type=float, default=1e-6, help="jem.stop.RelativeGain's (default 1e-6)")
    options.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="jem's (default float64)")
    options.add_argument("--budget", type=float, default=120.0, help="seconds of steady calls a contender may use")
    arguments = harness.parse(options)
    harness.set_up_jax(arguments.dtype, 1)
    num, tolerance = arguments.replicates, arguments.tolerance
    # jem's test is relative to the size of the objective, scikit-learn's is per row: about 3.6 nats a row here.
    runners = {
        "jem.bootstrap": functools.partial(Local, jem_runner, num, tolerance, arguments.dtype, None),
        "the same, ten together": functools.partial(Local, jem_runner, num, tolerance, arguments.dtype, 10),
        "joblib over scikit-learn": functools.partial(Local, sklearn_runner, num, 3.6 * tolerance, arguments.threads),
    }
    timings, reasons = harness.measure(runners, arguments.rounds, arguments.budget)
    laws = {name: timing.steady[-1].result for name, timing in timings.items()}
    rows = [["", "first call s", "steady s", "times jem", "log-likelihood / row", "standard errors of the first centre"]]
    for name, timing in timings.items():
        order = np.argsort(laws[name].errors.sum(1))
        errors = laws[name].errors[order][0]
        rows.append(
            [
                name,
                f"{timing.first.wall:.2f}",
                f"{timing.wall:.2f}",
                f"{timing.wall / timings['jem.bootstrap'].wall:.1f}",
                f"{laws[name].log_likelihood:.5f}",
                ", ".join(f"{e:.4f}" for e in errors),
            ]
        )
    report = Report(arguments.out)
    report.add(harness.machine())
    title = (
        f"### {num} bootstrap fits, {NUM_UNITS} x {NUM_FEATURES}, K = {NUM_COMPONENTS}, {arguments.dtype}, "
        f"{arguments.threads} thread{'s' * (arguments.threads > 1)}\n\n"
    )
    report.add(title + harness.table(rows) + harness.absent(reasons))


if __name__ == "__main__":
    main()

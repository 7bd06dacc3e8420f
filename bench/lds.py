"""`python -m bench lds`: milliseconds per EM iteration of linear-Gaussian state-space models, beside the peers."""

import argparse
import dataclasses
import functools
import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jem
from bench import compare, harness
from bench.harness import Report, Runner, Unavailable, optional, place, require

pykalman = optional("pykalman")
statsmodels = optional("statsmodels.tsa.statespace.dynamic_factor_mq")

Array = np.ndarray
NUM_STATES, NUM_OUTPUTS = 4, 8
# Observation noise, sequences, steps of a sequence.
SIZES = (("full", 1, 10_000), ("full", 64, 500), ("diagonal", 1, 10_000))


class Params(NamedTuple):
    """First state's mean (n,) and covariance, A (n, n), Q (n, n), C (M, n), R (M, M), whatever its structure."""

    m0: Array
    P0: Array
    A: Array
    Q: Array
    C: Array
    R: Array


@dataclasses.dataclass(frozen=True)
class Workload:
    """A state-space model of 4 states and 8 outputs, all six matrices free, `num_steps` EM iterations from a given start."""

    noise: str
    num_sequences: int
    length: int
    dtype: str
    threads: int
    num_steps: int

    @property
    def key(self) -> str:
        """The name that `--sizes` matches, e.g. full-1x1e4."""
        return f"{self.noise}-{self.num_sequences}x{compare.short(self.length)}"


class Problem(NamedTuple):
    """A workload with its data (S, T, M) and its start, in its dtype."""

    workload: Workload
    x: Array
    start: Params


def random_covariance(rng: np.random.Generator, dim: int, scale: float) -> Array:
    """A well-conditioned covariance with variances about `scale`."""
    factor = np.eye(dim) + rng.normal(scale=0.3 / np.sqrt(dim), size=(dim, dim))
    return scale * factor @ factor.T


@functools.lru_cache(maxsize=1)
def make_problem(workload: Workload) -> Problem:
    """Slowly turning states, of which the outputs tell about as much as their noise hides.

    The start has noise on A and C, the identity for P0 and Q and a diagonal R.
    """
    s, t, n, m = workload.num_sequences, workload.length, NUM_STATES, NUM_OUTPUTS
    rng = np.random.default_rng(20240)
    turn = np.linalg.qr(rng.normal(size=(n, n)))[0]
    angles = np.array([[np.cos(a), -np.sin(a), np.sin(a), np.cos(a)] for a in (0.1, 0.5)]).reshape(-1, 2, 2)
    transition = np.zeros((n, n))
    for i, rotation in enumerate(angles):
        transition[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = (0.98, 0.9)[i] * rotation
    transition = turn @ transition @ turn.T
    process, loadings = random_covariance(rng, n, 0.5), rng.normal(size=(m, n))
    noise = random_covariance(rng, m, 2.0)
    if workload.noise == "diagonal":
        noise = np.diag(np.diagonal(noise))
    root = np.linalg.cholesky(process)
    state = rng.normal(size=(s, n))
    states = np.zeros((s, t, n))
    moves = rng.normal(size=(t, s, n)) @ root.T
    for i in range(t):
        states[:, i] = state
        state = state @ transition.T + moves[i]
    x = states @ loadings.T + rng.normal(size=(s, t, m)) @ np.linalg.cholesky(noise).T
    start = Params(
        np.zeros(n),
        np.eye(n),
        0.8 * transition + rng.normal(scale=0.05, size=(n, n)),
        np.eye(n),
        loadings + rng.normal(scale=0.3, size=(m, n)),
        np.diag(np.full(m, 3.0)),
    )
    x, start = jax.tree.map(lambda a: np.ascontiguousarray(a, workload.dtype), (x, start))
    return Problem(workload, x, start)


def score(workload: Workload, params: Params) -> float:
    """The log-likelihood per step of all the data, by a textbook Kalman filter in NumPy and float64; NaN where it fails."""
    m0, P0, A, Q, C, R = (np.asarray(a, np.float64) for a in params)
    if not all(np.all(np.isfinite(a)) for a in (m0, P0, A, Q, C, R)):
        return math.nan
    x = make_problem(workload).x.astype(np.float64)
    num_sequences, length, dim = x.shape
    mean, covariance = np.tile(m0, (num_sequences, 1)), P0
    total = -0.5 * x.size * np.log(2 * np.pi)
    for i in range(length):
        spread = C @ covariance @ C.T + R
        try:
            chol = np.linalg.cholesky(spread)
        except np.linalg.LinAlgError:
            return math.nan
        residual = x[:, i] - mean @ C.T
        z = np.linalg.solve(chol, residual.T)
        total -= 0.5 * np.sum(z * z) + num_sequences * np.log(np.diagonal(chol)).sum()
        gain = np.linalg.solve(spread, C @ covariance).T
        mean = (mean + residual @ gain.T) @ A.T
        rest = np.eye(len(A)) - gain @ C
        covariance = A @ (rest @ covariance @ rest.T + gain @ R @ gain.T) @ A.T + Q
    return float(total / (num_sequences * length))


def jem_runner(form: Any, problem: Problem) -> Runner:
    """`jem.fit`: `num_steps` iterations and one closing E-step; with two threads many sequences lie on two devices."""
    workload, start = problem.workload, problem.start
    diagonal = workload.noise == "diagonal"
    model = jem.LDS(NUM_STATES, NUM_OUTPUTS, R=jem.covariance.Diagonal() if diagonal else jem.covariance.Full(), form=form)
    params = model.params(**start._replace(R=np.diagonal(start.R) if diagonal else start.R)._asdict())
    x = place(problem.x, workload.threads if workload.num_sequences > 1 else 1, "rows")
    stop = jem.stop.NeverStop()

    def fit() -> Any:
        return jax.block_until_ready(jem.fit(model, params, x, stop=stop, max_steps=workload.num_steps))

    def read(result: Any) -> Params:
        return Params(*(np.asarray(getattr(result.params, name)) for name in Params._fields))

    return Runner(fit, read)


def one_sequence(workload: Workload) -> None:
    """For the packages that fit one series only."""
    if workload.num_sequences > 1:
        raise Unavailable("one sequence only")


def full_noise(workload: Workload) -> None:
    """For the packages whose M-step always fills R."""
    if workload.noise != "full":
        raise Unavailable("has no diagonal noise")


def dynamax_runner(problem: Problem) -> Runner:
    """dynamax's `fit_em` without its offsets, under one `jax.jit`, without which it compiles again at every call."""
    workload, start = problem.workload, problem.start
    full_noise(workload)
    module = harness.dynamax("linear_gaussian_ssm")
    model = module.LinearGaussianSSM(NUM_STATES, NUM_OUTPUTS, has_dynamics_bias=False, has_emissions_bias=False)
    given = jax.tree.map(jnp.asarray, start)
    params, props = model.initialize(
        initial_mean=given.m0,
        initial_covariance=given.P0,
        dynamics_weights=given.A,
        dynamics_covariance=given.Q,
        emission_weights=given.C,
        emission_covariance=given.R,
    )
    x = jax.device_put(problem.x)
    run = jax.jit(lambda p, x: model.fit_em(p, props, x, num_iters=workload.num_steps, verbose=False)[0])

    def read(found: Any) -> Params:
        first, dynamics, emissions = found.initial, found.dynamics, found.emissions
        parts = (first.mean, first.cov, dynamics.weights, dynamics.cov, emissions.weights, emissions.cov)
        return Params(*(np.asarray(a) for a in parts))

    return Runner(lambda: jax.block_until_ready(run(params, x)), read)


def pykalman_runner(problem: Problem) -> Runner:
    """pykalman's `KalmanFilter.em` without its offsets; a loop in Python, float64."""
    workload = problem.workload
    module = require(pykalman)
    one_sequence(workload)
    full_noise(workload)
    start = jax.tree.map(lambda a: a.astype(np.float64), problem.start)
    x = problem.x[0].astype(np.float64)
    names = {
        "m0": "initial_state_mean",
        "P0": "initial_state_covariance",
        "A": "transition_matrices",
        "Q": "transition_covariance",
        "C": "observation_matrices",
        "R": "observation_covariance",
    }

    def fit() -> Any:
        model = module.KalmanFilter(
            em_vars=list(names.values()), **{names[name]: value for name, value in start._asdict().items()}
        )
        return model.em(x, n_iter=workload.num_steps)

    return Runner(fit, lambda model: Params(*(np.asarray(getattr(model, names[n])) for n in Params._fields)))


def statsmodels_runner(problem: Problem) -> Runner:
    """statsmodels' `DynamicFactorMQ`, whose EM is this one where the noise is diagonal; it closes with one more E-step."""
    workload = problem.workload
    module = require(statsmodels)
    one_sequence(workload)
    if workload.noise != "diagonal":
        raise Unavailable("has diagonal noise only")
    start = jax.tree.map(lambda a: a.astype(np.float64), problem.start)
    n, m = NUM_STATES, NUM_OUTPUTS
    # One block of n factors: given as n factors they would not depend on each other.
    model = module.DynamicFactorMQ(
        problem.x[0].astype(np.float64),
        factors=1,
        factor_multiplicities=n,
        idiosyncratic_ar1=False,
        standardize=False,
    )
    model.ssm.initialize_known(start.m0, start.P0)
    lower = np.tril_indices(n)
    params = np.concatenate([start.C.ravel(), start.A.ravel(), np.linalg.cholesky(start.Q)[lower], np.diagonal(start.R)])

    def fit() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit_em(params, maxiter=workload.num_steps, tolerance=-1.0, llf_decrease_action="ignore")

    def read(found: Any) -> Params:
        if found.mle_retvals.iter != workload.num_steps:
            raise Unavailable(f"made {found.mle_retvals.iter} iterations of {workload.num_steps}")
        first = found.mle_retvals.inits[-1]
        C, A, chol, R = np.split(np.asarray(found.params), np.cumsum([m * n, n * n, len(lower[0])]))
        root = np.zeros((n, n))
        root[lower] = chol
        return Params(
            np.asarray(first.constant),
            np.asarray(first.stationary_cov),
            A.reshape(n, n),
            root @ root.T,
            C.reshape(m, n),
            np.diag(R),
        )

    return Runner(fit, read)


CONTENDERS = {
    "jem": functools.partial(jem_runner, jem.forms.Automatic()),
    "jem, sequential": functools.partial(jem_runner, jem.forms.Sequential()),
    "dynamax": dynamax_runner,
    "pykalman": pykalman_runner,
    "statsmodels": statsmodels_runner,
}


def make_runner(name: str, workload: Workload) -> Runner:
    """Prepare one contender."""
    return CONTENDERS[name](make_problem(workload))


# pykalman takes minutes: its own process can be stopped.
FIELD = compare.Field(tuple(CONTENDERS), make_runner, score, "step", alone=("pykalman",))


def section(workload: Workload, arguments: argparse.Namespace) -> str:
    """Measure one workload: its title and its table."""
    size = f"{workload.num_sequences} x {workload.length}, {NUM_STATES} states, {NUM_OUTPUTS} outputs"
    title = f"### {workload.key}, {compare.threads(workload)}\n\n{size}, {workload.noise} observation noise\n\n"
    return title + compare.compare(FIELD, workload, arguments)[0]


def main() -> None:
    """Run the chosen workloads one after the other."""
    options = compare.parser("lds", __doc__, FIELD, "full-1x* or 'diag*'", rounds=5, dtype="float64")
    arguments = harness.parse(options)
    harness.set_up_jax(arguments.dtype, arguments.threads)
    workloads = []
    for noise, num_sequences, length in SIZES:
        if num_sequences > 1:  # even, for two devices
            num_sequences = 2 * round(max(num_sequences * arguments.scale, 4) / 2)
        else:
            length = round(max(length * arguments.scale, 100))
        workloads.append(Workload(noise, num_sequences, length, arguments.dtype, arguments.threads, arguments.steps))
    chosen = compare.choose(options, arguments, workloads)
    report = Report(arguments.out)
    report.add(f"{harness.machine()}; {arguments.steps} iterations a fit")
    for workload in chosen:
        report.add(section(workload, arguments))


if __name__ == "__main__":
    main()

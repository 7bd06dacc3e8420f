"""Mixtures: Gaussian ones of both covariances, latent classes."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

import jem
from bench.gpu import reference
from bench.gpu.rows import Errors, Problem, Row, Work, judged
from bench.problems import Params, Workload, make_problem
from bench.problems import Problem as Drawn

Array = np.ndarray
STEPS = 10
# Covariance, rows, features, components, seconds.
SIZES = (
    ("full", 1_000_000, 8, 8, 3),
    ("full", 1_000_000, 32, 16, 8),
    ("full", 100_000, 128, 10, 5),
    ("diagonal", 10_000_000, 16, 64, 32),
)
STRUCTURES = {"full": jem.covariance.Full, "diagonal": jem.covariance.Diagonal}


def climbing(model: Any, steps: int = STEPS) -> Any:
    """`steps` plain steps of EM from a start, and a closing E-step: a function of the start and the rows."""
    return lambda params, x: jem.fit(
        model, params, x, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=steps
    )  # fmt: skip


def gaussian_params(kind: str, params: Params) -> Any:
    """The start in jem's form, in its own dtype."""
    leaf = jem.Gaussian(STRUCTURES[kind](), prior=None)
    components = leaf.params(jnp.asarray(params.means), jnp.asarray(params.covariances))
    return jem.Mixture.Params(weights=jnp.asarray(params.weights), components=components)


def read(kind: str, params: Any) -> Params:
    """jem's parameters in the bench's form, in float64, on the host."""
    inverse = np.asarray(params.components.whitening, np.float64)
    if kind == "full":
        chol = np.linalg.inv(inverse)
        covariance = chol @ chol.transpose(0, 2, 1)
    else:
        covariance = 1 / inverse[..., 0] ** 2
    return Params(np.asarray(params.weights, np.float64), np.asarray(params.components.mean, np.float64), covariance)


def apart(kind: str, found: Params, exact: Params) -> float:
    """The largest difference: weights relative to themselves, means in deviations, covariances in products of deviations."""
    full = kind == "full"
    deviation = np.sqrt(np.diagonal(exact.covariances, axis1=1, axis2=2) if full else exact.covariances)
    unit = deviation[:, :, None] * deviation[:, None, :] if full else deviation**2
    parts = (
        (found.weights - exact.weights) / exact.weights,
        (found.means - exact.means) / deviation,
        (found.covariances - exact.covariances) / unit,
    )
    return max(float(np.max(np.abs(part))) for part in parts)


def magnified(kind: str, params: Params) -> float:
    """By how much more rounding is seen where all components are met by one product: squares about a common point cancel."""
    if kind == "full":
        return 1.0
    distance = params.means - params.means.mean(0)
    return 1 + float(np.max(distance**2 / params.covariances))


def gaussian_work(kind: str, n: int, d: int, k: int, size: int) -> Work:
    """As in bench/README.md, Floor; x is read once, of `size` bytes a number."""
    full = kind == "full"
    operations = 2 * n * k * d * (d + 1) if full else 8 * n * k * d
    text = "2 N K D (D + 1): triangular whitening, upper half of the moments" if full else "8 N K D: x and x^2, both ways"
    return Work(operations, n * k, n * d * size, f"operations {text}; exponentials N K; bytes N D numbers: x once")


def rows_of(num: int, d: int, k: int, scale: float) -> int:
    """A share of them, and enough for full covariances however small it is."""
    return round(max(num * scale, 4 * d * k))


@functools.lru_cache(maxsize=1)
def drawn(workload: Workload) -> Drawn:
    """As `bench.problems` draws them; diagonal ones, of which there are many, in single precision: a tenth of the time."""
    if workload.kind == "full":
        return make_problem(workload)
    rng = np.random.default_rng(20240)
    n, d, k = workload.num_units, workload.num_features, workload.num_components
    spread = 4 / np.sqrt(2 * d)
    means, deviations = rng.normal(scale=spread, size=(k, d)), rng.uniform(0.7, 1.4, (k, d))
    labels = rng.integers(k, size=n)
    x = rng.standard_normal((n, d), np.float32) * deviations.astype(np.float32)[labels] + means.astype(np.float32)[labels]
    noisy, common = means + rng.normal(scale=0.3 * spread, size=means.shape), np.tile(np.mean(deviations**2, 0), (k, 1))
    start = Params(*(np.ascontiguousarray(a, workload.dtype) for a in (np.full(k, 1 / k), noisy, common)))
    return Drawn(workload, x.astype(workload.dtype, copy=False), start)


def gaussian(kind: str, num: int, d: int, k: int, dtype: str, scale: float) -> Problem:
    """A mixture of Gaussians from a given start, no prior."""
    _, x, start = drawn(Workload(kind, rows_of(num, d, k, scale), d, k, dtype, 1, STEPS))
    model = jem.Mixture(jem.Gaussian(STRUCTURES[kind](), prior=None), k)

    def check(fit: Any) -> Errors:
        step = functools.partial(reference.gaussian_step, kind, x=x, weights=np.ones(len(x)))
        exact, value = reference.climb(step, start, STEPS)
        off = apart(kind, read(kind, fit.params), exact)
        return judged(dtype, STEPS, float(fit.log_likelihood), value, len(x), off, magnified(kind, exact))

    work = gaussian_work(kind, len(x), d, k, x.itemsize)
    return Problem(climbing(model), (gaussian_params(kind, start), x), STEPS, work, check)


NUM_ITEMS, NUM_CLASSES = 32, 4


def classes(dtype: str, scale: float) -> Problem:
    """Latent classes of binary items."""
    rng = np.random.default_rng(20240)
    num = round(1_000_000 * scale)
    probs = rng.uniform(0.1, 0.9, (NUM_CLASSES, NUM_ITEMS))
    x = (rng.random((num, NUM_ITEMS), np.float32) < probs[rng.integers(NUM_CLASSES, size=num)]).astype(dtype)
    noisy = np.clip(probs + rng.normal(0, 0.1, probs.shape), 0.05, 0.95)
    start = np.full(NUM_CLASSES, 1 / NUM_CLASSES, dtype), noisy.astype(dtype)
    params = jem.Mixture.Params(jnp.asarray(start[0]), jem.Bernoulli.Params(jnp.asarray(start[1])))

    def check(fit: Any) -> Errors:
        step = functools.partial(reference.bernoulli_step, x=x, weights=np.ones(num))
        (mixing, ones), value = reference.climb(step, start, STEPS)
        off = np.max(np.abs(np.asarray(fit.params.weights) / mixing - 1)), np.max(np.abs(fit.params.components.probs - ones))
        return judged(dtype, STEPS, float(fit.log_likelihood), value, num, float(max(off)))

    text = "operations 4 N K D: log-odds of the items, and their counts; exponentials N K; bytes N D numbers: x once"
    work = Work(4 * num * NUM_CLASSES * NUM_ITEMS, num * NUM_CLASSES, x.nbytes, text)
    return Problem(climbing(jem.Mixture(jem.Bernoulli(), NUM_CLASSES)), (params, x), STEPS, work, check)


def gaussian_row(size: tuple[str, int, int, int, int], dtype: str, room: int | None = None) -> Row:
    """One size in one dtype, in chunks of jem's choice or of `room` bytes."""
    kind, num, d, k, seconds = size
    build = functools.partial(gaussian, kind, num, d, k)
    name = f"gmm {kind} {num:.0e} x {d}, K = {k}".replace("e+0", "e")
    if room is not None:
        name += f", chunks of {room / 1e6:.0f} MB"
    return Row(name, dtype, build, seconds, room=room)


def classes_row() -> Row:
    """LCA."""
    return Row(f"lca 1e6 x {NUM_ITEMS}, K = {NUM_CLASSES}", "float32", classes, 3)

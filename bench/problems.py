"""The workloads: data, a start that every peer survives, and one independent log-likelihood for all."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.special

Array = np.ndarray


class Params(NamedTuple):
    """Weights (K,), means (K, D), covariances: full (K, D, D), diagonal (K, D), spherical (K,), tied (D, D)."""

    weights: Array
    means: Array
    covariances: Array


@dataclasses.dataclass(frozen=True)
class Workload:
    """A mixture of `num_components` Gaussians, `num_steps` EM iterations from a given start, no prior."""

    kind: str
    num_units: int
    num_features: int
    num_components: int
    dtype: str
    threads: int
    num_steps: int

    @property
    def key(self) -> str:
        """The name that `--sizes` matches, e.g. full-1e5-8-8."""
        num_units = f"{self.num_units:.0e}".replace("e+0", "e")
        return f"{self.kind}-{num_units}-{self.num_features}-{self.num_components}"

    @property
    def flops(self) -> int:
        """Operations of one EM iteration that a matrix product could do, symmetry used (README.md)."""
        n, d, k = self.num_units, self.num_features, self.num_components
        return {
            "full": 2 * n * k * d * (d + 1),
            "diagonal": 8 * n * k * d,
            "spherical": 4 * n * k * d,
            "tied": 4 * n * k * d + n * d * (d + 1),
        }[self.kind]


class Problem(NamedTuple):
    """A workload with its data (N, D) and its start, in the workload's dtype."""

    workload: Workload
    x: Array
    start: Params


def draw_mixture(
    rng: np.random.Generator, num_units: int, means: Array, factors: Array, weights: Array
) -> tuple[Array, Array]:
    """Rows of a Gaussian mixture in random order, (N, D), and their components; covariance k is F_k F_k^T."""
    labels = rng.choice(len(means), size=num_units, p=weights)
    x = rng.standard_normal((num_units, means.shape[1]))
    for k in range(len(means)):
        rows = labels == k
        x[rows] = means[k] + x[rows] @ factors[k].T
    return x, labels


@functools.lru_cache(maxsize=1)
def make_problem(workload: Workload) -> Problem:
    """Overlapping but distinct components, about four standard deviations apart at any D.

    The start is the true means with noise, equal weights and one common covariance, which no peer finds degenerate.
    """
    n, d, k = workload.num_units, workload.num_features, workload.num_components
    rng = np.random.default_rng(20240)
    spread = 4.0 / np.sqrt(2 * d)
    means = rng.normal(scale=spread, size=(k, d))
    factors = np.eye(d) + rng.normal(scale=0.4 / np.sqrt(d), size=(k, d, d))
    x, _ = draw_mixture(rng, n, means, factors, np.full(k, 1 / k))
    common = np.mean(factors @ factors.transpose(0, 2, 1), axis=0)
    variances = np.diagonal(common)
    covariances = {
        "full": np.repeat(common[None], k, 0),
        "diagonal": np.repeat(variances[None], k, 0),
        "spherical": np.full(k, variances.mean()),
        "tied": common,
    }[workload.kind]
    noisy = means + rng.normal(scale=0.3 * spread, size=means.shape)
    start = Params(*(np.ascontiguousarray(a, workload.dtype) for a in (np.full(k, 1 / k), noisy, covariances)))
    return Problem(workload, np.ascontiguousarray(x, workload.dtype), start)


def dense_covariances(kind: str, params: Params) -> Array:
    """The covariances of any kind as (K, D, D) float64 matrices."""
    k, d = params.means.shape
    covariances = np.asarray(params.covariances, np.float64)
    return {
        "full": lambda: covariances,
        "diagonal": lambda: covariances[:, :, None] * np.eye(d),
        "spherical": lambda: covariances[:, None, None] * np.eye(d),
        "tied": lambda: np.repeat(covariances[None], k, 0),
    }[kind]()


def mean_log_likelihood(kind: str, params: Params, x: Array, max_units: int = 20_000) -> float:
    """The mean log-likelihood of the first `max_units` rows, in float64, by none of the contenders' code.

    NaN where the parameters are not finite or a covariance is not positive definite.
    """
    if not all(np.all(np.isfinite(a)) for a in params):
        return float("nan")
    x = np.asarray(x[:max_units], np.float64)
    log_joint = []
    means = np.asarray(params.means, np.float64)
    log_weights = np.log(np.asarray(params.weights, np.float64))
    for log_weight, mean, covariance in zip(log_weights, means, dense_covariances(kind, params), strict=True):
        try:
            chol = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            return float("nan")
        z = scipy.linalg.solve_triangular(chol, (x - mean).T, lower=True)
        log_norm = np.log(np.diagonal(chol)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
        log_joint.append(log_weight - log_norm - 0.5 * np.sum(z * z, axis=0))
    return float(np.mean(scipy.special.logsumexp(log_joint, axis=0)))

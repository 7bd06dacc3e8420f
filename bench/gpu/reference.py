"""EM of mixtures on the host, in NumPy and float64, by none of jem's code: what the device's answers are held against."""

import concurrent.futures
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import scipy.special

from bench.problems import Params

Array = np.ndarray
CHUNK = 16_384  # rows a thread looks at together


def threads() -> int:
    """Cores of this process."""
    return len(os.sched_getaffinity(0))


def total(fn: Callable[[Array, Array], tuple[Any, ...]], x: Array, weights: Array) -> list[Any]:
    """The sums of `fn(rows, weights)` over chunks of rows, a thread for each core."""
    starts = range(0, len(x), CHUNK)
    part = lambda i: fn(x[i : i + CHUNK].astype(np.float64), weights[i : i + CHUNK])  # noqa: E731
    with concurrent.futures.ThreadPoolExecutor(threads()) as pool:
        return add(pool.map(part, starts))


def add(parts: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Entry by entry."""
    return [sum(column) for column in zip(*parts, strict=True)]


def share(log_joint: Array) -> tuple[Array, Array]:
    """Responsibilities and evidence from log joints (rows, K)."""
    evidence = scipy.special.logsumexp(log_joint, axis=1)
    return np.exp(log_joint - evidence[:, None]), evidence


def gaussian_step(kind: str, params: Params, x: Array, weights: Array) -> tuple[Params, float]:
    """The parameters after one step of EM, and the log-likelihood before it; `kind` is full or diagonal."""
    params = Params(*(np.asarray(a, np.float64) for a in params))
    return (full_step if kind == "full" else diagonal_step)(params, x, weights)


def full_step(params: Params, x: Array, weights: Array) -> tuple[Params, float]:
    """Component by component, about its old mean."""
    means, num, dim = params.means, *params.means.shape
    chol = np.linalg.cholesky(params.covariances)
    whiten = np.linalg.inv(chol)
    offset = np.log(params.weights) - np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(1) - 0.5 * dim * np.log(2 * np.pi)

    def chunk(rows: Array, w: Array) -> tuple[Any, ...]:
        square = lambda k: np.sum(((rows - means[k]) @ whiten[k].T) ** 2, 1)  # noqa: E731
        r, evidence = share(np.stack([offset[k] - 0.5 * square(k) for k in range(num)], 1))
        r *= w[:, None]
        first, second = np.empty((num, dim)), np.empty((num, dim, dim))
        for k in range(num):
            d = rows - means[k]
            first[k] = r[:, k] @ d
            second[k] = (d * r[:, k, None]).T @ d
        return w @ evidence, r.sum(0), first, second

    value, mass, first, second = total(chunk, x, weights)
    shift = first / mass[:, None]
    covariance = second / mass[:, None, None] - shift[:, :, None] * shift[:, None, :]
    return Params(mass / mass.sum(), means + shift, covariance), float(value)


def diagonal_step(params: Params, x: Array, weights: Array) -> tuple[Params, float]:
    """By products with the rows and their squares: float64 has digits to spare for what cancels."""
    means, precision = params.means, 1 / params.covariances
    dim = means.shape[1]
    offset = np.log(params.weights) - 0.5 * np.sum(np.log(params.covariances) + means**2 * precision, 1)
    offset = offset - 0.5 * dim * np.log(2 * np.pi)

    def chunk(rows: Array, w: Array) -> tuple[Any, ...]:
        squares = rows * rows
        r, evidence = share(offset + rows @ (means * precision).T - 0.5 * squares @ precision.T)
        r *= w[:, None]
        return w @ evidence, r.sum(0), r.T @ rows, r.T @ squares

    value, mass, first, second = total(chunk, x, weights)
    new = first / mass[:, None]
    return Params(mass / mass.sum(), new, second / mass[:, None] - new**2), float(value)


def bernoulli_step(params: tuple[Array, Array], x: Array, weights: Array) -> tuple[tuple[Array, Array], float]:
    """The same of latent classes: weights (K,) and probabilities (K, D) of a one."""
    mixing, probs = (np.asarray(a, np.float64) for a in params)

    def chunk(rows: Array, w: Array) -> tuple[Any, ...]:
        r, evidence = share(np.log(mixing) + rows @ np.log(probs).T + (1 - rows) @ np.log1p(-probs).T)
        r *= w[:, None]
        return w @ evidence, r.sum(0), r.T @ rows

    value, mass, ones = total(chunk, x, weights)
    return (mass / mass.sum(), ones / mass[:, None]), float(value)


def climb(step: Callable[[Any], tuple[Any, float]], params: Any, steps: int) -> tuple[Any, float]:
    """Parameters after so many steps, and their log-likelihood."""
    for _ in range(steps):
        params, _ = step(params)
    return params, step(params)[1]


def climb_to_end(step: Callable[[Any], tuple[Any, float]], params: Any, gain: float, most: int = 5000) -> Any:
    """Parameters where a step gains no more than this."""
    before = -np.inf
    for _ in range(most):
        params, value = step(params)
        if value - before <= gain:
            break
        before = value
    return params

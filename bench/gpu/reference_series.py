"""EM of hidden Markov chains and of linear-Gaussian state spaces on the host, in NumPy and float64, by none of jem's code."""

import math
from typing import NamedTuple

import numpy as np

from bench import chain, lds

Array = np.ndarray


class Smoothed(NamedTuple):
    """States (S, T, K), pairs (K, K) summed, and the log-likelihood of all sequences."""

    gamma: Array
    pairs: Array
    log_likelihood: float


def blocks_of(e: Array) -> Array:
    """One sequence (1, T, K) as about sqrt(T) blocks of equal length, filled up with ones."""
    steps, k = e.shape[1:]
    length = math.isqrt(steps - 1) + 1
    filled = np.ones((-(-steps // length) * length, k))
    filled[:steps] = e[0]
    return filled.reshape(-1, length, k)


def boundaries(initial: Array, transition: Array, e: Array) -> tuple[Array, Array]:
    """What is predicted of the first step of each block (B, K), and the backward messages of its last step (B, K)."""
    num, length, k = e.shape
    product = np.broadcast_to(np.eye(k), (num, k, k))
    for i in range(length):
        product = (product * e[:, i, None, :]) @ transition
        product = product / product.sum((1, 2), keepdims=True)
    before, after = np.empty((num, k)), np.ones((num, k))
    before[0] = initial
    for b in range(num - 1):
        u = before[b] @ product[b]
        before[b + 1] = u / u.sum()
    for b in range(num - 2, -1, -1):
        u = product[b + 1] @ after[b + 1]
        after[b] = u / u.max()
    return before, after @ transition.T


def smooth(initial: Array, transition: Array, log_e: Array) -> Smoothed:
    """Forward and backward through log-emissions (S, T, K): sequences side by side, or the blocks of a single one."""
    num, steps, k = log_e.shape
    top = log_e.max(-1, keepdims=True)
    e = np.exp(log_e - top)
    if num > 1:
        before, after = np.broadcast_to(initial, (num, k)), np.ones((num, k))
    else:
        e = blocks_of(e)
        before, after = boundaries(initial, transition, e)
    alpha, b, sums = np.empty_like(e), np.empty_like(e), np.empty(e.shape[:2])
    for i in range(e.shape[1]):
        u = before * e[:, i]
        sums[:, i] = u.sum(1)
        alpha[:, i] = u / sums[:, i, None]
        before = alpha[:, i] @ transition
    gamma = np.empty_like(e)
    for i in range(e.shape[1] - 1, -1, -1):
        g = alpha[:, i] * after
        gamma[:, i] = g / g.sum(1, keepdims=True)
        b[:, i] = e[:, i] * after
        after = b[:, i] @ transition.T
        after = after / after.max(1, keepdims=True)
    in_turn = lambda a: a.reshape(num, -1, k)[:, :steps]  # noqa: E731
    alpha, b, gamma = map(in_turn, (alpha, b, gamma))
    left, right = alpha[:, :-1].reshape(-1, k), b[:, 1:].reshape(-1, k)
    pairs = transition * (left.T @ (right / np.sum((left @ transition) * right, 1, keepdims=True)))
    return Smoothed(gamma, pairs, float(np.log(sums.reshape(num, -1)[:, :steps]).sum() + top.sum()))


def chain_step(params: chain.Params, x: Array) -> tuple[chain.Params, float]:
    """One step of Baum and Welch, Gaussian emissions, x (S, T, D)."""
    initial, transition, emission = params.initial, params.transition, params.emission
    found = smooth(initial, transition, chain.log_emissions("gaussian", emission, x))
    rows, weights = x.reshape(-1, x.shape[-1]).astype(np.float64), found.gamma.reshape(-1, len(initial))
    mass = weights.sum(0)
    means, covariances = np.empty_like(emission[0]), np.empty_like(emission[1])
    for k, mean in enumerate(emission[0]):
        d = rows - mean
        shift = weights[:, k] @ d / mass[k]
        means[k] = mean + shift
        covariances[k] = (d * weights[:, k, None]).T @ d / mass[k] - np.outer(shift, shift)
    moves = found.pairs / found.pairs.sum(1, keepdims=True)
    return chain.Params(found.gamma[:, 0].mean(0), moves, (means, covariances)), found.log_likelihood


def filtered(p: lds.Params, x: Array) -> tuple[list[Array], list[Array], list[Array], float]:
    """The textbook Kalman filter of x (S, T, M): means (S, n), covariances, predicted covariances, the log-likelihood."""
    num, length, dim = x.shape
    mean, cov = np.tile(p.m0, (num, 1)), p.P0
    means, covs, predicted, value = [], [], [], -0.5 * x.size * np.log(2 * np.pi)
    for t in range(length):
        predicted.append(cov)
        spread = p.C @ cov @ p.C.T + p.R
        residual = x[:, t] - mean @ p.C.T
        value -= 0.5 * np.sum(residual * np.linalg.solve(spread, residual.T).T) + 0.5 * num * np.linalg.slogdet(spread)[1]
        gain = np.linalg.solve(spread, p.C @ cov).T
        rest = np.eye(len(p.A)) - gain @ p.C
        means.append(mean + residual @ gain.T)
        covs.append(rest @ cov @ rest.T + gain @ p.R @ gain.T)
        mean, cov = means[-1] @ p.A.T, p.A @ covs[-1] @ p.A.T + p.Q
    return means, covs, predicted, float(value)


def space_step(p: lds.Params, x: Array) -> tuple[lds.Params, float]:
    """One step of Shumway and Stoffer, everything free."""
    num, length, _ = x.shape
    means, covs, predicted, value = filtered(p, x)
    m, v = means[-1], covs[-1]
    smooth_means, smooth_covs, crossed = [m], [v], []
    for t in range(length - 2, -1, -1):
        back = np.linalg.solve(predicted[t + 1], p.A @ covs[t]).T
        crossed.append(v @ back.T)  # of x_{t+1} with x_t
        m = means[t] + (m - means[t] @ p.A.T) @ back.T
        v = covs[t] + back @ (v - predicted[t + 1]) @ back.T
        smooth_means.append(m)
        smooth_covs.append(v)
    m, v, crossed = np.stack(smooth_means[::-1], 1), np.stack(smooth_covs[::-1]), np.stack(crossed[::-1])
    both = np.einsum("sti,stj->tij", m, m) + num * v
    lagged = np.einsum("sti,stj->ij", m[:, 1:], m[:, :-1]) + num * crossed.sum(0)
    old, new, every = both[:-1].sum(0), both[1:].sum(0), both.sum(0)
    A = np.linalg.solve(old, lagged.T).T
    Q = (new - A @ lagged.T) / (num * (length - 1))
    seen = np.einsum("sti,stj->ij", x, m)
    C = np.linalg.solve(every, seen.T).T
    R = (np.einsum("sti,stj->ij", x, x) - C @ seen.T) / (num * length)
    m0 = m[:, 0].mean(0)
    P0 = both[0] / num - np.outer(m0, m0)
    even = lambda a: 0.5 * (a + a.T)  # noqa: E731
    return lds.Params(m0, even(P0), A, even(Q), C, even(R)), value

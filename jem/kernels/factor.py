"""Factor analysis in whitened coordinates, without LAPACK and without a subtraction that cancels; rotations of loadings.

With noise deviations 1 / w, `z = w (x - m)` and `A = w L`, the model is `z = A f + e`, `f ~ N(0, I_q)`, `e ~ N(0, I_D)`.
Everything rests on one orthonormal basis of the stacked matrix [A; I], `[A; I] = [Q1; Q2] R`, whose entries are at most one
however close to one the communalities are. D features, q factors, N units, units last.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jem.kernels.lanes import shrink_factor
from jem.kernels.linalg import cholesky_solve_lower, semidefinite_root, solve_psd


class Basis(NamedTuple):
    """Orthonormal columns of [A; I]: `features` Q1 (D, q) and `factors` Q2 (q, q), upper triangular, `Q2 = R^{-1}`."""

    features: Array
    factors: Array


class FactorMoments(NamedTuple):
    """Sums over units of weight w, under the posterior of the factors f and the noise `e = z - A f`.

    count `sum w` (), factor `sum w E[f]` (q,), noise `sum w E[e]` (D,), factor_square `sum w E[f f^T]` (q, q), cross
    `sum w E[e f^T]` (D, q), noise_square `sum w E[e^2]` (D,).
    """

    count: Array
    factor: Array
    noise: Array
    factor_square: Array
    cross: Array
    noise_square: Array


class Regression(NamedTuple):
    """What the M-step moves by: loadings (D, q), the noise's scatter about the regression (D,)."""

    loadings: Array
    scatter: Array


class Rotation(NamedTuple):
    """Rotated loadings (D, q), the matrix T (q, q) with `loadings @ T = rotated`, and the factors' correlations (q, q)."""

    loadings: Array
    matrix: Array
    correlation: Array


def basis(a: Array) -> Basis:
    """The orthonormal basis of [A; I], by Gram-Schmidt, for A (D, q), or for one of each unit (D, q, N).

    `R^T R = I + A^T A`, hence the posterior covariance `(I + A^T A)^{-1} = Q2 Q2^T` and `log|I + A A^T| = -2 sum log diag Q2`.
    """
    if a.ndim == 2:
        return jax.tree.map(lambda q: q[:, :, 0], basis(a[:, :, None]))
    factors, features, _ = shrink_factor(a, unroll=False)
    return Basis(features, factors)


def posterior_mean(b: Basis, z: Array) -> tuple[Array, Array]:
    """`E[f]` (q, N) and the residual `z - A E[f]` (D, N) of z (D, N)."""
    g = b.features.T @ z
    return b.factors @ g, z - b.features @ g


def posterior_mean_each(b: Basis, z: Array) -> tuple[Array, Array]:
    """`posterior_mean` of units z (D, N) with a basis each."""
    g = jnp.sum(b.features * z[:, None], 0)
    return jnp.sum(b.factors * g[None], 1), z - jnp.sum(b.features * g[None], 1)


def log_normaliser(b: Basis) -> Array:
    """`-1/2 log|I + A A^T|`, () or (N,)."""
    return jnp.sum(jnp.log(jnp.diagonal(b.factors)), -1)


def moments(b: Basis, f: Array, r: Array, weights: Array) -> FactorMoments:
    """The sums, from posterior means f (q, N), residuals r (D, N) and weights (N,).

    The posterior covariance adds `Q2 Q2^T` to `E[f f^T]`, `-Q1 Q2^T` to `E[e f^T]` and the squared rows of Q1 to `E[e^2]`.
    """
    count = jnp.sum(weights)
    wf = weights[None, :] * f
    return FactorMoments(
        count,
        f @ weights,
        r @ weights,
        wf @ f.T + count * b.factors @ b.factors.T,
        r @ wf.T - count * b.features @ b.factors.T,
        (r * r) @ weights + count * jnp.sum(b.features**2, 1),
    )


def moments_seen(a: Array, root: Array, f: Array, r: Array, seen: Array, weights: Array) -> FactorMoments:
    """The sums where single cells were not seen, from roots (q, q, N) of the posterior covariances and r, 0 in such cells.

    The noise of a cell that was not seen has the mean 0 and the variance 1, whatever the factors are.
    """
    mass = seen.astype(r.dtype) * weights[None, :]
    square = jnp.sum(root[:, None] * root[None], 2)  # (q, q, N)
    each = jnp.einsum("dn,kln->dkl", mass, square)
    spread = jnp.einsum("dk,dkl->dl", a, each)
    wf = weights[None, :] * f
    return FactorMoments(
        jnp.sum(weights),
        f @ weights,
        r @ weights,
        wf @ f.T + square @ weights,
        r @ wf.T - spread,
        (r * r) @ weights + jnp.sum(spread * a, 1) + jnp.sum(weights[None, :] - mass, 1),
    )


def centred(mass: Array, m: FactorMoments) -> FactorMoments:
    """The moments per unit of `mass`, second moments about the first."""
    _, f, e, ff, ef, ee = (s / mass for s in m)
    return FactorMoments(m.count, f, e, ff - f[:, None] * f[None, :], ef - e[:, None] * f[None, :], ee - e * e)


def regress(m: FactorMoments) -> Regression:
    """Least squares of the noise on the factors: by how much the loadings move, and the variances left.

    `dA = S_ef S_ff^{-1}` and `S_ee - dA S_ef^T` from centred moments. At a fixed point `dA = 0`: nothing cancels there.
    """
    eps, tiny = jnp.finfo(m.cross.dtype).eps, jnp.finfo(m.cross.dtype).tiny
    # A factor that the others explain to within rounding takes no part.
    floor = jnp.sqrt(eps * jnp.maximum(jnp.diagonal(m.factor_square), 0)) + jnp.sqrt(tiny)
    inverse = cholesky_solve_lower(m.factor_square, jnp.eye(m.factor.shape[0], dtype=floor.dtype), floor)
    u = m.cross @ inverse.T
    return Regression(u @ inverse, jnp.maximum(m.noise_square - jnp.sum(u * u, 1), 0))


def expected_squares(m: FactorMoments, change: Array, shift: Array) -> Array:
    """`sum w E[(e - B f - d)^2]` (D,) for a change of loadings B (D, q) and of the mean d (D,), from uncentred moments."""
    quadratic = m.noise_square - 2 * jnp.sum(change * m.cross, 1) + jnp.sum((change @ m.factor_square) * change, 1)
    return quadratic + 2 * shift * (change @ m.factor - m.noise) + m.count * shift * shift


def principal_start(
    directions: Array, x: Array, share: Array, mean: Array, deviation: Array, pseudo: Array, passes: int = 2
) -> tuple[Array, Array]:
    """Loadings A (D, q) along the main correlations, and the variances (D,) they leave, in units of the deviations.

    Subspace iteration on the correlations S from random directions, `A = U C` with `C C^T = U^T S U`, shortened so that a
    tenth of every feature's variance is left. S is never formed. A little of the identity in S keeps A off zero, where EM
    would stay for ever.

    Args:
        directions: (D, q) random.
        x: (D, N).
        share: (N,) weights.
        mean: (D,).
        deviation: (D,).
        pseudo: (D,) what is added to the diagonal of S.
        passes: iterations, of two products with x each.
    """

    def correlate(u: Array) -> Array:
        v = u / deviation[:, None]
        scores = (v.T @ x - (v.T @ mean)[:, None]) * share[None, :]
        return (x @ scores.T - mean[:, None] * jnp.sum(scores, 1)[None, :]) / deviation[:, None] + pseudo[:, None] * u

    u = directions
    for _ in range(passes):
        u = correlate(u)
        # Of [c U; I] with c large the basis is that of U, and where U has lower rank it stays finite.
        u = basis(u * (1e4 / jnp.max(jnp.abs(u)))).features
    square = u.T @ correlate(u)
    a = u @ semidefinite_root(0.5 * (square + square.T)).T
    explained = jnp.sum(a * a, 1)
    a = a * jnp.sqrt(0.9 / jnp.maximum(explained, 0.9))[:, None]
    return a, 1 - jnp.minimum(explained, 0.9)


def few_units(mean: Array, covariance: Array) -> Array:
    """D + 1 points (D, D + 1) that, weighted alike, have this mean (D,) and covariance (D, D), about unit scale.

    They are `m + sqrt(D + 1) R^T h_i` with `S = R^T R` and the h_i the corners of a simplex about zero.
    """
    num = mean.shape[0] + 1
    root = semidefinite_root(covariance)
    total = jnp.sum(root, 0, keepdims=True)
    # The columns of the reflection that takes the first axis to the diagonal are orthogonal to it, and to each other.
    corners = jnp.concatenate([total / math.sqrt(num), root - total / (num - math.sqrt(num))])
    return mean[:, None] + math.sqrt(num) * corners.T


def varimax(loadings: Array, *, normalize: bool = True, max_sweeps: int = 100) -> Rotation:
    """Rotates loadings orthogonally so that each factor loads on few features: T maximises the variance of the squares.

    `V = sum_k (sum_j l_jk^4 - (sum_j l_jk^2)^2 / D)`, by plane rotations, each the exact maximum for its pair of factors.

    Args:
        loadings: (D, q).
        normalize: scale every row to length one while rotating (Kaiser's normalisation), so that features of small
            communality count as much.
        max_sweeps: largest number of passes over all pairs.

    Returns:
        A `Rotation`; its `correlation` is the identity, and `loadings @ loadings.T` is unchanged.

    Example:
        >>> import jax.numpy as jnp
        >>> from jem.kernels.factor import varimax
        >>> rotated = varimax(jnp.array([[0.6, 0.6], [0.6, 0.6], [0.5, -0.5], [0.5, -0.5]])).loadings
        >>> (abs(rotated) > 1e-6).tolist()
        [[True, False], [True, False], [False, True], [False, True]]

    Source: Kaiser (1958), Psychometrika 23.
    """
    dim, num = loadings.shape
    eye = jnp.eye(num, dtype=loadings.dtype)
    if num == 1:
        return Rotation(loadings, eye, eye)
    length = jnp.sqrt(jnp.sum(loadings**2, 1, keepdims=True))
    length = jnp.where(length > 0, length, 1) if normalize else jnp.ones_like(length)
    pairs = jnp.asarray(np.array(list(itertools.combinations(range(num), 2))))
    scale = jnp.sqrt(jnp.mean((loadings / length) ** 2))
    start = jnp.concatenate([loadings / length / jnp.where(scale > 0, scale, 1), eye])

    def rotate(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        stacked, largest = carry
        both = stacked[:, pairs[i]]
        a, b = both[:dim, 0], both[:dim, 1]
        u, v = a * a - b * b, 2 * a * b
        sine = 2 * jnp.sum(u * v) - 2 * jnp.sum(u) * jnp.sum(v) / dim
        cosine = jnp.sum(u * u - v * v) - (jnp.sum(u) ** 2 - jnp.sum(v) ** 2) / dim
        # A pair whose criterion is flat, to rounding, stays as it is.
        flat = jnp.hypot(sine, cosine) <= 8 * jnp.finfo(a.dtype).eps * jnp.sum(u * u + v * v)
        angle = jnp.where(flat, 0, jnp.arctan2(jnp.where(flat, 0, sine), jnp.where(flat, 1, cosine)) / 4)
        turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        return stacked.at[:, pairs[i]].set(both @ turn), jnp.maximum(largest, jnp.abs(angle))

    def sweep(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        stacked, _, count = state
        stacked, largest = lax.fori_loop(0, pairs.shape[0], rotate, (stacked, jnp.zeros((), start.dtype)))
        return stacked, largest, count + 1

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        return (state[1] > 4 * jnp.finfo(start.dtype).eps) & (state[2] < max_sweeps)

    state = (start, jnp.array(1, start.dtype), jnp.array(0))
    matrix = lax.while_loop(unfinished, sweep, state)[0][dim:]
    return Rotation(loadings @ matrix, matrix, eye)


def promax(loadings: Array, *, power: float = 4.0, normalize: bool = True) -> Rotation:
    """Rotates loadings obliquely: varimax, then towards its loadings raised to `power`, which pulls small ones to zero.

    With varimax loadings V the target is `P = V |V|^(power - 1)`; `U = (V^T V)^{-1} V^T P`, its columns scaled so that
    the factors, of correlations `Phi = (U^T U)^{-1}`, have variance one.

    Args:
        loadings: (D, q).
        power: exponent of the target, > 1; larger is more oblique.
        normalize: as for `varimax`.

    Returns:
        A `Rotation`; `loadings @ correlation @ loadings.T` is what `loadings @ loadings.T` was.

    Example:
        >>> import jax.numpy as jnp
        >>> from jem.kernels.factor import promax
        >>> mixed = jnp.array([[0.6, 0.5], [0.6, 0.6], [0.5, -0.5], [0.5, -0.3]])
        >>> oblique = promax(mixed)
        >>> change = oblique.loadings @ oblique.correlation @ oblique.loadings.T - mixed @ mixed.T
        >>> bool(abs(change).max() < 1e-5)
        True

    Source: Hendrickson and White (1964), British J. Statistical Psychology 17; the scaling is that of R's `promax`.
    """
    v = varimax(loadings, normalize=normalize)
    u = solve_psd(v.loadings.T @ v.loadings, v.loadings.T @ (v.loadings * jnp.abs(v.loadings) ** (power - 1)))
    eye = jnp.eye(u.shape[0], dtype=u.dtype)
    u = u * jnp.sqrt(jnp.diagonal(solve_psd(u.T @ u, eye)))[None, :]
    return Rotation(v.loadings @ u, v.matrix @ u, solve_psd(u.T @ u, eye))

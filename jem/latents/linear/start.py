"""Where a state-space model starts from, and what describes a sequence. Units last: y (T, M, S), u (T, p, S)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem.families.scatter import FeatureScale
from jem.kernels import regression
from jem.kernels.covariance import Diagonal, Full
from jem.kernels.lanes import lower_factor
from jem.kernels.linalg import solve_psd
from jem.latents.linear.data import output_scale
from jem.latents.linear.params import free_cells, overlay

_ROUNDS = 8  # of subspace iteration: enough for a start, few enough for different keys to give different ones


def start(model: Any, key: Array, y: Array, u: Array, seen: Array, within: Array, weights: Array) -> dict[str, Array]:
    """One start: from the data's principal subspace, or where A or C have fixed cells from its scale alone."""
    scale = output_scale(y, seen, weights) if model.scale is None else model.scale
    make = structural if {"A", "C"} & set(model.fixed) else subspace
    fields = make(model, key, y, u, seen, within, weights, scale)
    return {f: overlay(model, f.removeprefix("chol_"), value) for f, value in fields.items()}


def drawn_noise(structure: Full | Diagonal, key: Array, deviations: Array) -> Array:
    """A noise factor with these deviations (dim,) and, where it is full, random correlations.

    Without correlations in the start there may be none ever, though that is a saddle.
    """
    if isinstance(structure, Diagonal):
        return deviations[:, None]
    rows = jnp.tril(0.7 * jax.random.normal(key, (deviations.shape[0],) * 2, deviations.dtype), -1)
    rows = rows + jnp.eye(deviations.shape[0], dtype=rows.dtype)
    return deviations[:, None] * rows / jnp.sqrt(jnp.sum(rows**2, 1, keepdims=True))


def blend(structure: Full | Diagonal, key: Array, chol: Array) -> Array:
    """The factor of a covariance halfway between that of `chol` and one of its deviations and random correlations."""
    if isinstance(structure, Diagonal):
        return chol
    other = drawn_noise(structure, key, jnp.sqrt(jnp.sum(chol**2, 1)))
    return lower_factor(jnp.concatenate([chol, other], 1)[:, :, None] / 2**0.5)[0][:, :, 0]


def input_effect(y: Array, u: Array, seen: Array, weights: Array) -> Array:
    """Least squares of the outputs on the inputs, (M, p), rows seen in part left out."""
    w = jnp.where(jnp.all(seen, 1), weights[None], 0)[:, None]
    m = regression.of_means(Full(), y * (w > 0), u, w)
    return solve_psd(m.xx[0], m.ex.T).T


def subspace(
    model: Any, key: Array, y: Array, u: Array, seen: Array, within: Array, weights: Array, scale: FeatureScale
) -> dict[str, Array]:
    """States as principal components of the outputs and their past, and regressions on these."""
    n, m, p = model.num_states, model.num_outputs, model.num_inputs
    effect = input_effect(y, u, seen, weights)
    w = jnp.where(within, weights[None], 0)[:, None]
    mean = jnp.sum(jnp.where(seen, y * w, 0), (0, 2)) / jnp.maximum(jnp.sum(jnp.where(seen, w, 0), (0, 2)), 1e-30)
    # Without inputs the states carry the outputs' means: nothing is centred then.
    residual = y - jnp.einsum("mp,tps->tms", effect, u)
    residual = jnp.where(seen, residual, 0 if p else mean[None, :, None])
    unit = jnp.sqrt(jnp.sum(residual**2 * w, (0, 2)) / jnp.sum(w))
    residual = residual / jnp.where(unit > 0, unit, 1)[None, :, None]
    past = [jnp.concatenate([residual[:1]] * lag + [residual[: len(y) - lag]])[: len(y)] for lag in range(-(-n // m))]
    f = jnp.where(within[:, None], jnp.concatenate(past, 1), 0)
    gram = jnp.einsum("tas,tbs->ab", f * w, f)
    basis_key, turn_key, state_key, noise_key = jax.random.split(key, 4)
    basis = jax.random.normal(basis_key, (n, f.shape[1]), f.dtype)
    for _ in range(_ROUNDS):
        basis = lower_factor((basis @ gram / jnp.maximum(jnp.trace(gram), 1e-30))[:, :, None])[1][:, :, 0]
    # From the same subspace in another basis all starts would be the same model.
    turn = 0.5 * jax.random.normal(turn_key, basis.shape, f.dtype) / f.shape[1] ** 0.5
    basis = lower_factor((basis + turn)[:, :, None])[1][:, :, 0]
    x = jnp.einsum("na,tas->tns", basis, f)
    size = jnp.sqrt(jnp.sum(x**2 * w, (0, 2)) / jnp.sum(w))
    x = x / jnp.where(size > 0, size, 1)[None, :, None]

    def regress(noise: Full | Diagonal, names: tuple[str, str], y: Array, x: Array, w: Array, unit: Array) -> Any:
        """Coefficients and noise of y on x, fixed cells in place; deviations at least a tenth of the unit."""
        shape = (y.shape[1], x.shape[1])
        free = jnp.concatenate([free_cells(model, name) for name in names], 1)
        blank = [jnp.zeros((shape[0], size), y.dtype) for size in (n, p)]
        coef = jnp.concatenate([overlay(model, name, b) for name, b in zip(names, blank, strict=True)], 1)
        e = (y - jnp.einsum("mq,tqs->tms", coef, x)) / unit[None, :, None] * (w > 0)
        moments = regression.of_means(noise, e, x, w)
        return regression.maximize(noise, coef, noise.from_diagonal(unit), moments, free, None, 0.1 * unit)

    w_seen = jnp.where(seen, w, 0) if isinstance(model.R, Diagonal) else jnp.where(jnp.all(seen, 1, keepdims=True), w, 0)
    CD, chol_R = regress(model.R, ("C", "D"), y, jnp.concatenate([x, u], 1), w_seen, scale.deviation)
    before = jnp.concatenate([x[:-1], u[1:]], 1)
    AB, chol_Q = regress(model.Q, ("A", "B"), x[1:], before, w[1:] * within[1:, None], jnp.ones(n, y.dtype))
    return {
        "m0": x[0] @ weights / jnp.sum(weights), "chol_P0": model.P0.from_diagonal(jnp.ones(n, y.dtype)),
        "A": AB[:, :n], "B": AB[:, n:], "chol_Q": blend(model.Q, state_key, chol_Q),
        "C": CD[:, :n], "D": CD[:, n:], "chol_R": blend(model.R, noise_key, chol_R),
    }  # fmt: skip


def structural(
    model: Any, key: Array, y: Array, u: Array, seen: Array, within: Array, weights: Array, scale: FeatureScale
) -> dict[str, Array]:
    """Variances and loadings on the data's scale, drawn around a third of its deviation for the states' noise."""
    n, m = model.num_states, model.num_outputs
    load_key, state_key, noise_key, move_key, turn_key = jax.random.split(key, 5)
    effect = input_effect(y, u, seen, weights)
    known = overlay(model, "C", jnp.zeros((m, n), y.dtype))
    norms = jnp.sqrt(jnp.sum(known**2, 1))
    ratios = jnp.where(norms > 0, scale.deviation / jnp.where(norms > 0, norms, 1), 0)
    given = jnp.sum(norms > 0)
    size = jnp.where(given > 0, jnp.sum(ratios) / jnp.maximum(given, 1), 1)
    drawn = jax.random.normal(load_key, (m, n), y.dtype) * (scale.deviation / size / n**0.5)[:, None]
    C = overlay(model, "C", drawn)
    w = jnp.where(seen, weights[None, None], 0)
    residual = jnp.where(seen, y - jnp.einsum("mp,tps->tms", effect, u), 0)
    mean = jnp.sum(residual * w, (0, 2)) / jnp.maximum(jnp.sum(w, (0, 2)), 1e-30)
    square = C @ C.T
    m0 = C.T @ solve_psd(square + 1e-3 * jnp.diag(jnp.diagonal(square)), mean[:, None])[:, 0]
    # States that nothing links would never be linked.
    # Between standing still and a random rotation, and no longer than 0.95.
    turn = lower_factor(jax.random.normal(move_key, (n, n, 1), y.dtype))[1][:, :, 0]
    still = jax.random.uniform(turn_key, (), y.dtype, 0.3, 1)
    A = 0.95 * (still * jnp.eye(n, dtype=y.dtype) + (1 - still) * turn)

    def noise(structure: Full | Diagonal, key: Array, deviations: Array) -> Array:
        size_key, key = jax.random.split(key)
        return drawn_noise(structure, key, deviations * jnp.exp(0.3 * jax.random.normal(size_key, deviations.shape, y.dtype)))

    return {
        "m0": m0, "chol_P0": model.P0.from_diagonal(jnp.full(n, 1.0, y.dtype) * 2 * size),
        "A": A, "B": jnp.zeros((n, model.num_inputs), y.dtype),
        "chol_Q": noise(model.Q, state_key, jnp.full(n, 1.0, y.dtype) * 0.3 * size), "C": C, "D": effect,
        "chol_R": noise(model.R, noise_key, 0.7 * scale.deviation),
    }  # fmt: skip

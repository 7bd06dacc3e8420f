"""Structures of covariances against dense matrices: what each member says, and that the M-steps are maxima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem.kernels.covariance import Pseudo

DIM, NUM, COPIES = 3, 7, 2
STRUCTURES = {"full": jem.covariance.Full(), "diagonal": jem.covariance.Diagonal(), "spherical": jem.covariance.Spherical()}
structures = pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES.keys())


def draw(structure):
    """A covariance as a user gives it, its whitening, and the dense W."""
    root = np.tril(np.random.default_rng(1).normal(size=(DIM, DIM))) + 2 * np.eye(DIM)
    given = {2: root @ root.T, 1: np.diagonal(root) ** 2, 0: np.array(1.7)}[len(structure.covariance_shape(DIM))]
    w = structure.whitening(jnp.asarray(given), DIM)
    return given, w, np.asarray(structure.times(w, jnp.eye(DIM)))


def dense(covariance):
    return {2: covariance, 1: np.diag(covariance.reshape(-1)), 0: covariance * np.eye(DIM)}[covariance.ndim]


def close(got, want):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-10, atol=1e-12)


@structures
def test_a_factor_is_its_matrix(x64, structure):
    given, w, matrix = draw(structure)
    vectors = np.random.default_rng(2).normal(size=(DIM, NUM))
    close(matrix @ dense(given) @ matrix.T, np.eye(DIM))
    close(structure.times(w, jnp.asarray(vectors)), matrix @ vectors)
    close(structure.solve(w, jnp.asarray(vectors)), np.linalg.solve(matrix, vectors))
    close(structure.diagonal(w, DIM), np.diagonal(matrix))
    close(structure.log_det(w, DIM), np.linalg.slogdet(matrix)[1])


@structures
def test_second_moments_are_kept_alike(x64, structure):
    _, w, matrix = draw(structure)
    rng = np.random.default_rng(3)
    z, weights, deviation = rng.normal(size=(DIM, NUM)), rng.random(NUM), 1 + rng.random(DIM)
    full = (z * weights) @ z.T
    m = structure.moments(jnp.asarray(z), jnp.asarray(weights))
    close(m.first, z @ weights)
    close(m.second, structure.restrict(jnp.asarray(full)))
    close(structure.outer(jnp.asarray(z[:, 0])), structure.restrict(jnp.asarray(np.outer(z[:, 0], z[:, 0]))))
    close(structure.pool(jnp.asarray(deviation)), structure.restrict(jnp.diag(jnp.asarray(deviation))))
    close(structure.trace(m.second, DIM), np.trace(full))
    seen = matrix @ np.diag(deviation**2) @ matrix.T
    close(structure.seen(w, jnp.asarray(deviation)), structure.restrict(jnp.asarray(seen)))
    close(structure.shares(w, jnp.asarray(deviation)), np.diagonal(seen))
    other = structure.from_diagonal(jnp.asarray(1 / deviation))
    a = np.asarray(structure.times(other, jnp.eye(DIM))) @ np.linalg.inv(matrix)
    kept = dense(np.asarray(m.second)[:, 0] if structure == jem.covariance.Diagonal() else np.asarray(m.second).squeeze())
    close(structure.change(other, w, m.second), structure.restrict(jnp.asarray(a @ kept @ a.T)))


def expected(structure, new, old, count, scatter):
    return count * structure.log_det(new, DIM) - 0.5 * structure.trace(structure.change(new, old, scatter), DIM)


@structures
@pytest.mark.parametrize("strength", [None, 0.7])
def test_the_m_step_is_a_maximum(x64, structure, strength):
    """Of one covariance and of copies that share it, each with its prior; where nothing is counted the old one stays."""
    w = draw(structure)[1]
    rng = np.random.default_rng(4)
    z, weights = jnp.asarray(rng.normal(size=(COPIES, DIM, NUM))), jnp.asarray(rng.random((COPIES, NUM)))
    count, scatter = jnp.sum(weights, 1), jax.vmap(structure.moments)(z, weights).second
    deviation = jnp.asarray([0.5, 1.0, 2.0])
    prior = None if strength is None else Pseudo(jnp.asarray(strength), deviation, jnp.zeros(DIM))
    prior_density = lambda new: 0.0 if prior is None else structure.log_prior(new, prior, DIM)

    def value(new, copies):
        return sum(expected(structure, new, w, count[k], scatter[k]) + prior_density(new) for k in copies)

    one = structure.maximize(w, count[0], scatter[0], prior, DIM)
    both = structure.tie(w, count, scatter, prior, DIM, ("whitening",))
    for new, copies in ((one, [0]), (both, range(COPIES))):
        slope = jax.grad(value)(new, copies)
        close(jnp.tril(slope) if slope.shape == (DIM, DIM) else slope, np.zeros(new.shape))
        assert np.abs(jax.grad(value)(1.1 * new, copies)).max() > 0.1  # the control
    close(structure.maximize(w, 0 * count[0], scatter[0], prior, DIM), w)
    each = structure.tie(jnp.stack([w, w]), count.at[0].set(0), scatter, prior, DIM, ())
    close(each, jnp.stack([w, structure.maximize(w, count[1], scatter[1], prior, DIM)]))


def test_a_structure_says_what_may_be_shared():
    with pytest.raises(ValueError, match="Full.* share their 'whitening'"):
        jem.covariance.Full().tie(jnp.eye(DIM), jnp.ones(2), jnp.ones((2, DIM, DIM)), None, DIM, ("shape",))

"""Components of a plate at once: distances and moments are those of each component alone, near and at any distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem.kernels import plates

K, D, N = 6, 4, 400
STRUCTURES = {"full": jem.covariance.Full(), "diagonal": jem.covariance.Diagonal(), "spherical": jem.covariance.Spherical()}


def case(structure, shared, apart, dtype, scale=1.0, offset=0.0):
    """Factors, means `apart` standard deviations from each other, units about them, and weights that sum to at most one."""
    rng = np.random.default_rng(0)
    size = () if shared else (K,)
    deviation = scale * rng.uniform(0.5, 2, (*size, D))
    covariance = {"full": lambda: deviation[..., None] * (np.eye(D) + 0.5) / 1.5 * deviation[..., None, :]}
    covariance |= {"diagonal": lambda: deviation**2, "spherical": lambda: deviation[..., 0] ** 2}
    mean = offset + scale * apart * rng.standard_normal((K, D))
    label = rng.integers(0, K, N)
    x = mean[label] + scale * rng.standard_normal((N, D))
    weights = rng.dirichlet(np.ones(K), N).T * rng.uniform(0, 1, N)
    weights[:, ::7] = 0
    weights = np.where(apart > 3, (np.arange(K)[:, None] == label) * (weights > 0), weights)
    x, weights = np.asarray(x, dtype), np.asarray(weights, dtype)
    w = jem.Gaussian(STRUCTURES[structure]).params(np.zeros((*size, D)), covariance[structure]()).whitening
    return jnp.asarray(w, dtype), jnp.asarray(mean, dtype), jnp.asarray(x).T, jnp.asarray(weights)


def truth(structure, w, mean, x, weights):
    """The same in float64, a component at a time; second moments summed where the factor is shared."""
    w, mean, x, weights = (np.asarray(a, float) for a in (w, mean, x, weights))
    full = lambda w: w if structure == "full" else np.diag(np.broadcast_to(w[:, 0], D))
    z = np.stack([full(w if w.ndim == 2 else w[k]) @ (x - mean[k][:, None]) for k in range(K)])
    first = np.einsum("kn,kdn->kd", weights, z)
    second = np.einsum("kn,kdn,ken->kde", weights, z, z)
    second = second.sum(0, keepdims=True) if w.ndim == 2 else second
    if structure != "full":
        second = np.diagonal(second, axis1=1, axis2=2)[..., None]
        second = second if structure == "diagonal" else second.mean(1, keepdims=True)
    return (z**2).sum(1), first, second


@pytest.mark.parametrize("apart", [0.0, 2.0, 5.0, 30.0, 1e3, 1e6])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_what_each_component_has_alone(dtype, structure, shared, apart):
    w, mean, x, weights = case(structure, shared, apart, dtype)
    eps = np.finfo(dtype).eps
    # What is lost where the means are nearer than `plates` asks for; farther away nothing is.
    middle = mean - jnp.mean(mean, 0)[None]
    longest = float(jnp.max(plates.squares(STRUCTURES[structure], w, jnp.zeros_like(mean), middle.T)))
    most = D * (1e4 if dtype == "float64" else 30)
    lost = max([1.0, *(d for d in (longest, longest**0.5 if shared else 0) if d <= most)])
    squares = jax.jit(plates.squares, static_argnums=0)(STRUCTURES[structure], w, mean, x)
    found = jax.jit(plates.moments, static_argnums=0)(STRUCTURES[structure], w, mean, x, weights)
    want, first, second = truth(structure, w, mean, x, weights)
    near = want < 50  # what decides
    assert np.abs(squares - want)[near].max() <= 64 * eps * (1 + lost)
    got = found.second.sum(0, keepdims=True) if shared else found.second
    count = np.asarray(weights, float).sum()
    assert np.abs(found.first - first).max() <= 16 * eps * lost * count
    assert np.abs(got - second).max() <= 16 * eps * lost * count


@pytest.mark.parametrize("structure", ["diagonal", "spherical"])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("scale", [1e-18, 1e15])
def test_any_scale(structure, shared, scale):
    w, mean, x, weights = case(structure, shared, 2.0, "float32", scale, 100 * scale)
    want, first, _ = truth(structure, w, mean, x, weights)
    np.testing.assert_allclose(plates.squares(STRUCTURES[structure], w, mean, x), want, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(plates.moments(STRUCTURES[structure], w, mean, x, weights).first, first, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_lanes_are_looked_at_together(x64, shared):
    """A lane that is far apart does not change what the others say."""
    structure = STRUCTURES["diagonal"]
    lanes = [case("diagonal", shared, apart, "float64")[:2] for apart in (1.0, 1e5)]
    x = case("diagonal", shared, 1.0, "float64")[2]
    both = jax.vmap(lambda w, m: plates.squares(structure, w, m, x))(*(jnp.stack(leaf) for leaf in zip(*lanes, strict=True)))
    for lane, got in zip(lanes, both, strict=True):
        np.testing.assert_allclose(got, plates.squares(structure, *lane, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("apart", [2.0, 1e6])
@pytest.mark.parametrize("dim", [32, 50])
def test_wide_factors_in_blocks(dtype, dim, apart):
    """Blocks of rows of a triangular factor, the last one shorter or not: values as exact as each component's, and slopes."""
    rng, structure, eps = np.random.default_rng(0), STRUCTURES["full"], np.finfo(dtype).eps
    w = np.tril(rng.normal(size=(3, dim, dim)) / dim, -1) + rng.uniform(0.5, 2, (3, dim))[..., None] * np.eye(dim)
    mean = apart * rng.standard_normal((3, dim))
    label, weights = rng.integers(0, 3, 200), rng.uniform(0, 1, 200)
    x, weights = mean[label] + rng.standard_normal((200, dim)), (np.arange(3)[:, None] == label) * weights
    w, mean, x, weights = (jnp.asarray(a, dtype) for a in (w, mean, x.T, weights))
    exact = [np.asarray(a, float) for a in (w, mean, x, weights)]
    z = np.einsum("kde,ken->kdn", exact[0], exact[2][None] - exact[1][..., None])
    near = exact[3] > 0
    squares = jax.jit(plates.squares, static_argnums=0)(structure, w, mean, x)
    assert (np.abs(squares - (z**2).sum(1)) <= 64 * eps * (z**2).sum(1)).all()
    found = jax.jit(plates.moments, static_argnums=0)(structure, w, mean, x, weights)
    z, count = np.where(near[:, None], z, 0), exact[3].sum(1)
    assert np.abs(found.first - np.einsum("kn,kdn->kd", exact[3], z)).max() <= 64 * eps * count.max()
    assert np.abs(found.second - np.einsum("kn,kdn,ken->kde", exact[3], z, z)).max() <= 64 * eps * count.max()


def test_slopes_of_wide_factors(x64):
    """Those of a factor in blocks are those of all of it."""
    rng, structure = np.random.default_rng(0), STRUCTURES["full"]
    w = jnp.asarray(np.tril(rng.normal(size=(2, 40, 40)) / 40, -1) + np.eye(40))
    mean, x = jnp.asarray(rng.standard_normal((2, 40))), jnp.asarray(rng.standard_normal((40, 30)))
    of = lambda w, mean, x: jnp.sum(jnp.sin(jnp.sum(jnp.einsum("kde,ken->kdn", w, x[None] - mean[..., None]) ** 2, 1)))
    got = jax.grad(lambda *a: jnp.sum(jnp.sin(plates.squares(structure, *a))), (0, 1, 2))(w, mean, x)
    want = jax.grad(of, (0, 1, 2))(w, mean, x)
    for a, b in zip((jnp.tril(got[0]), *got[1:]), (jnp.tril(want[0]), *want[1:]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * np.abs(b).max())

"""Derivatives of a fit in every order of `grad`, `jvp`, `jacfwd`, `jacrev`, `vmap`, `jit` and `scan`, against a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem

# As many batches as rows and restarts: a mapped axis in the wrong place would have the right shape.
X = np.array([[1.0, 4.0], [2.0, 7.0]])
SHAPES = np.array([2.0, 3.0])
START = jem.Poisson.Params(np.array([2.0]))


def model(shape):
    return jem.Poisson(shape=shape, inverse_scale=0.5)


def one(x, shape):
    """Posterior mode of a Poisson rate, from one start."""
    return jem.fit(model(shape), START, x[:, None], solver=jem.solvers.EM(), stop=jem.stop.RelativeGain(1e-12)).params.rate[0]


def restarted(x, shape):
    """The same from two."""
    options = dict(num_restarts=2, solver=jem.solvers.EM(), stop=jem.stop.RelativeGain(1e-12))
    fits = jem.fit_restarts(model(shape), jax.random.key(0), x[:, None], **options)
    return fits.best().params.rate[0] + jnp.sum(fits.params.rate) / 2


def mode(x, shape):
    return (shape - 1 + jnp.sum(x)) / (0.5 + len(x))


def twice(x, shape):
    return 2 * mode(x, shape)


def total(fn):
    return lambda *args: jnp.sum(jnp.sin(fn(*args)))


def scanned(fn):
    return lambda x, shapes: jax.lax.scan(lambda c, a: (c + 1, fn(*a)), 0, (x, shapes))[1]


BOTH = (0, 1)
ORDERS = {
    "grad of vmap": lambda f: jax.grad(total(jax.vmap(f)), BOTH)(X, SHAPES),
    "vmap of grad": lambda f: jax.vmap(jax.grad(f, BOTH))(X, SHAPES),
    "grad of vmap of jit": lambda f: jax.grad(total(jax.vmap(jax.jit(f))), BOTH)(X, SHAPES),
    "grad of vmap over columns": lambda f: jax.grad(total(jax.vmap(f, (1, 0))), BOTH)(X, SHAPES),
    "grad of vmap over data alone": lambda f: jax.grad(total(jax.vmap(f, (0, None))), BOTH)(X, 3.0),
    "grad of vmap over a prior alone": lambda f: jax.grad(total(jax.vmap(f, (None, 0))), BOTH)(X[0], SHAPES),
    "grad of vmap of vmap": lambda f: jax.grad(total(jax.vmap(jax.vmap(f, (None, 0)), (0, None))), BOTH)(X, SHAPES),
    "jvp of vmap": lambda f: jax.jvp(jax.vmap(f), (X, SHAPES), (X[::-1], SHAPES[::-1])),
    "jacrev of vmap": lambda f: jax.jacrev(jax.vmap(f), BOTH)(X, SHAPES),
    "grad of scan": lambda f: jax.grad(total(scanned(f)), BOTH)(X, SHAPES),
    "jvp of scan of vmap": lambda f: jax.jvp(
        scanned(jax.vmap(f, (None, 0))), (X, np.stack([SHAPES] * 2)), (X[::-1], np.stack([SHAPES, -SHAPES]))
    ),
    "grad of scan of grad": lambda f: jax.grad(total(scanned(jax.grad(f, 1))), 0)(X, SHAPES),
    "grad of vmap of grad": lambda f: jax.grad(total(jax.vmap(jax.grad(f))), BOTH)(X, SHAPES),
    "jacfwd of grad of vmap": lambda f: jax.jacfwd(jax.grad(total(jax.vmap(f)), 1), 1)(X, SHAPES),
}


@pytest.mark.parametrize("order", ORDERS)
def test_of_one_start(x64, order):
    compare(order, one, mode)


@pytest.mark.parametrize("order", ["grad of vmap", "jvp of vmap", "grad of vmap of vmap"])
def test_of_restarts(x64, order):
    compare(order, restarted, twice)


def compare(order, fn, exact):
    with jax.numpy_rank_promotion("allow"):
        want = ORDERS[order](exact)
    got = jax.jit(lambda: ORDERS[order](fn))()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)

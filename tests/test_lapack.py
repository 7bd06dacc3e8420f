"""Users' factorisations under `vmap`: the right values and derivatives, no batched LAPACK call, and no deadlock."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem
from jem.kernels.lapack import without_batches
from jem.kernels.linalg import solve_symmetric

NUM, DIM = 3, 4


def total(carry, a):
    return carry + jnp.linalg.slogdet(a)[1], None


FUNCTIONS = {
    "cholesky": lambda a, b: jnp.linalg.cholesky(a),
    "lower": lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True),
    "upper": lambda a, b: jax.scipy.linalg.solve_triangular(a, b, trans=1, unit_diagonal=True),
    "normal": lambda a, b: jax.scipy.stats.multivariate_normal.logpdf(b, jnp.zeros(DIM), a),
    "solve": jnp.linalg.solve,
    "eigenvectors": lambda a, b: (lambda e, v: (v * jnp.sqrt(e)[None, :]) @ v.T)(*jnp.linalg.eigh(a)),
    "singular values": lambda a, b: jnp.linalg.svd(a, compute_uv=False),
    "orthogonal": lambda a, b: jnp.abs(jnp.linalg.qr(a)[1]),
    "loop": lambda a, b: jax.lax.scan(total, 0.0, jnp.stack([a, 2 * a]))[0],
    "branch": lambda a, b: jax.lax.cond(b[0] > 0, lambda: jnp.linalg.inv(a) @ b, lambda: b),
}


def inputs():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(NUM, DIM, DIM))
    return jnp.asarray(half @ half.swapaxes(1, 2) + np.eye(DIM)), jnp.asarray(rng.normal(size=(NUM, DIM)))


def everything(mapped, a, b):
    """Values, and derivatives to second order, forwards and backwards."""
    scalar = lambda a, b: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(mapped(a, b)))
    gradient = jax.grad(scalar, (0, 1))
    turned = jnp.cos(a) + jnp.cos(a).swapaxes(1, 2)
    return mapped(a, b), gradient(a, b), jax.jvp(gradient, (a, b), (turned, b))[1], jax.jvp(scalar, (a, b), (a, b))[1]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_batched_call(x64, name):
    fn, (a, b) = FUNCTIONS[name], inputs()
    program = jax.jit(everything, static_argnums=0)
    mapped = program.lower(jax.vmap(without_batches(fn)), a, b)
    assert batched_calls(mapped.as_text()) == []
    if name in ("cholesky", "solve"):
        assert batched_calls(program.lower(jax.vmap(fn), a, b).as_text()) != []  # the control
    got, want = mapped.compile()(a, b), program(lambda a, b: jax.lax.map(lambda each: fn(*each), (a, b)), a, b)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10)


def batched_calls(text):
    """LAPACK calls of a program on three matrices at once."""
    return [line for line in text.splitlines() if re.search(r"lapack_|triangular_solve|cholesky", line) and "<3x" in line]


def test_factors_for_authors(dtype):
    """Of many matrices, with derivatives; NaN where one is not positive definite, and there alone."""
    a, b = (leaf.astype(dtype) for leaf in inputs())
    eps = float(jnp.finfo(dtype).eps)
    factors = jem.author.cholesky(a.at[1].multiply(-1))
    np.testing.assert_allclose(factors[::2], np.linalg.cholesky(a[::2]), atol=64 * eps)
    assert np.isnan(factors[1]).all()
    large = np.random.default_rng(1).normal(size=(40, 40))
    large = jnp.asarray(large @ large.T + np.eye(40), dtype)
    np.testing.assert_allclose(jem.author.cholesky(large), np.linalg.cholesky(large), atol=1e4 * eps)

    def log_density(a):
        factor = jem.author.cholesky(a)
        return -0.5 * jnp.sum(jem.author.solve_lower(factor, b[0]) ** 2) - jnp.sum(jnp.log(jnp.diagonal(factor)))

    inverse = np.linalg.inv(np.asarray(a[0], float))
    half = 0.5 * (inverse @ np.outer(b[0], b[0]) @ inverse - inverse)
    got = jax.grad(log_density)(a[0])  # of what is below the diagonal, which stands for both sides
    np.testing.assert_allclose(got, np.tril(half) + np.tril(half, -1), atol=1e3 * eps)


CELLS = """
import jax, jax.numpy as jnp, numpy as np, jem
def cells(p, u):  # a normal with missing cells
    seen = u["seen"][:, None] * u["seen"] > 0
    factor = jnp.linalg.cholesky(jnp.where(seen, p["S"], jnp.eye(4)))
    z = jax.scipy.linalg.solve_triangular(factor, u["seen"] * (u["x"] - p["m"]), lower=True)
    return -.5 * (jnp.sum(u["seen"]) * jnp.log(2 * jnp.pi) + z @ z) - jnp.sum(jnp.log(jnp.diagonal(factor)))
start = {"m": jnp.zeros(4), "S": jnp.eye(4)}
model = jem.Mixture(jem.Density(cells, start, supports={"m": jem.supports.Real(), "S": jem.supports.PositiveDefinite()}), 2)
rng = np.random.default_rng(0)
u = {"x": rng.normal(size=(300, 4)).astype("f4"), "seen": (rng.random((300, 4)) < .8).astype("f4")}
params = jem.init(model, jax.random.key(0), u)
print(jem.uncertainty.InformationStatus(int(jem.standard_errors(model, params, u).status)).name)
"""


def test_a_users_factorisation_does_not_hang():
    """Under a watchdog, on two cores: a Cholesky and a triangular solve for each row of each component, in every direction."""
    where = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", CELLS], env=where, cwd=root, capture_output=True, text=True, timeout=500)
    assert done.stdout.strip() == "NOT_AT_MAXIMUM", done.stderr[-2000:]


def test_elimination(x64):
    """The solution, and pivots and right-hand side as each row has its turn; a pivot below the floor counts as the floor."""
    rng = np.random.default_rng(0)
    half, b = rng.normal(size=(7, 9)), rng.normal(size=7)
    a = half @ half.T
    solved = solve_symmetric(jnp.asarray(a), jnp.asarray(b), jnp.asarray(1e-9))
    np.testing.assert_allclose(solved.x, np.linalg.solve(a, b), rtol=1e-10)
    np.testing.assert_allclose(solved.pivots, np.diag(np.linalg.cholesky(a)) ** 2, rtol=1e-10)
    np.testing.assert_allclose(np.sum(solved.forward**2 / solved.pivots), b @ np.linalg.solve(a, b), rtol=1e-10)
    bent = np.diag([1.0, -2.0, 3.0])
    solved = solve_symmetric(jnp.asarray(bent), jnp.ones(3), jnp.asarray(0.5))
    np.testing.assert_allclose(solved.pivots, np.diag(bent))
    np.testing.assert_allclose(solved.x, [1, 2, 1 / 3])

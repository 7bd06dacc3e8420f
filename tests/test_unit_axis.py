"""`over_units` is `jax.vmap` with the units last: values and derivatives, whatever the function is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import gammaln, logsumexp, xlogy
from jax.scipy.stats import norm

from jem.kernels.sums import sum_in_parts
from jem.kernels.unit_axis import over_units

NUM, DIM, HIDDEN = 7, 3, 4


def network(p, x):
    h = jnp.tanh(x["real"] @ p["into"] + p["bias"])
    return jax.nn.log_softmax(p["out"].T @ h)


def recurrence(p, x):
    step = lambda carry, value: (0.5 * carry + p["scale"] * value, carry)
    return jax.lax.scan(step, 0.0, x["real"])[1]


def whitened(p, x):
    factor = jnp.linalg.cholesky(jnp.eye(DIM) + jnp.outer(x["real"], x["real"]))
    return jax.scipy.linalg.solve_triangular(factor, p["mean"], lower=True)


FUNCTIONS = {
    "normal": lambda p, x: jnp.sum(norm.logpdf(x["real"], p["mean"], p["deviation"])),
    "scalar parameter": lambda p, x: p["scale"] * x["real"] - p["scale"] ** 2,
    "scalar of a unit": lambda p, x: p["mean"] * x["real"][0] / x["real"][1] + p["mean"] / p["deviation"],
    "quotients": lambda p, x: x["real"] / p["scale"] + 1 / x["real"] + x["count"] // 2,
    "look-up": lambda p, x: p["out"][x["count"]] + jnp.take(p["mean"], x["count"]),
    "own look-up": lambda p, x: x["real"][x["count"]] * p["out"][x["count"], x["count"]] + p["mean"][x["count"] - 3],
    "clipped look-up": lambda p, x: jnp.take(x["real"], x["count"] + 1, mode="clip") * jnp.take(p["mean"], x["count"] - 1),
    "filled look-up": lambda p, x: p["mean"].at[x["count"] + 1].get(mode="fill", fill_value=2.0),
    "one hot": lambda p, x: jax.nn.one_hot(x["count"], DIM) @ p["mean"],
    "written cell": lambda p, x: p["mean"].at[x["count"]].set(x["real"][0]) ** 2,
    "slice": lambda p, x: jax.lax.dynamic_slice(x["real"] * p["mean"], (x["count"],), (2,)),
    "cond": lambda p, x: jax.lax.cond(x["count"] > 1, lambda: p["mean"], lambda: x["real"] * p["scale"]),
    "switch": lambda p, x: jax.lax.switch(x["count"], [lambda: p["mean"], lambda: x["real"], lambda: x["real"] * p["mean"]]),
    "loop": lambda p, x: jax.lax.fori_loop(0, DIM, lambda i, sum: sum + p["mean"][i] * x["real"][i] ** 2, 0.0),
    "softmax of a row": lambda p, x: jax.nn.log_softmax(p["out"][:DIM] @ x["real"])[x["count"]],
    "where": lambda p, x: jnp.where(x["count"] > 1, p["mean"], jnp.where(x["real"] > 0, x["real"], 0.0)),
    "clamp": lambda p, x: jnp.clip(x["real"], p["scale"] - 1, 0.5),
    "special": lambda p, x: gammaln(jnp.abs(x["real"])) + xlogy(1.0 * x["count"], p["deviation"]),
    "custom derivatives": lambda p, x: jnp.logaddexp(x["real"], p["mean"]) + jax.nn.relu(x["real"]),
    "reductions": lambda p, x: logsumexp(x["real"][None] + p["out"], axis=-1) + jnp.max(x["real"]) + jnp.argmax(x["real"]),
    "reshaped": lambda p, x: jnp.outer(x["real"], p["mean"]).reshape(-1)[::2],
    "quadratic": lambda p, x: x["real"] @ (p["out"][:DIM] @ x["real"]),
    "matrix first": lambda p, x: p["into"].T @ jnp.outer(x["real"], x["real"]),
    "network": network,
    "recurrence": recurrence,
    "sorted": lambda p, x: jnp.cumsum(jnp.sort(x["real"] * p["mean"])),
    "no unit in it": lambda p, x: (p["mean"], jnp.sum(x["real"])),
}


def inputs():
    rng = np.random.default_rng(0)
    p = {
        "mean": rng.normal(size=DIM), "deviation": 1 + rng.random(DIM), "scale": np.array(1.3),
        "into": rng.normal(size=(DIM, HIDDEN)), "bias": rng.normal(size=HIDDEN), "out": rng.normal(size=(HIDDEN, DIM)),
    }  # fmt: skip
    x = {"real": rng.normal(size=(DIM, NUM)), "count": rng.integers(0, 3, NUM)}
    return jax.tree.map(jnp.asarray, (p, x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_vmap(x64, name):
    """Values, forward and reverse derivatives by parameters and data, and a second derivative."""
    p, x = inputs()
    fn = FUNCTIONS[name]
    got, want = (
        jax.jit(everything, static_argnums=0)(mapped, p, x)
        for mapped in (over_units(fn, (None, -1)), jax.vmap(fn, (None, -1), -1))
    )
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, err_msg=jax.tree_util.keystr(path))


def everything(mapped, p, x):
    """What a fit may ask of a function."""

    def scalar(p, real):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(mapped(p, {**x, "real": real})))

    real = x["real"]
    gradient = jax.grad(scalar, (0, 1))
    push = jax.jvp(gradient, (p, real), (jax.tree.map(jnp.cos, p), jnp.cos(real)))[1]
    return mapped(p, x), gradient(p, real), push, jax.jvp(scalar, (p, real), (p, real))[1]


def test_under_vmap_and_over_it(x64):
    p, x = inputs()
    fn = FUNCTIONS["normal"]
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), p)
    got = jax.vmap(over_units(fn, (None, -1)), (0, None))(stacked, x)
    want = jax.vmap(jax.vmap(fn, (None, -1), -1), (0, None))(stacked, x)
    np.testing.assert_allclose(got, want, rtol=1e-13)


def test_units_stay_last():
    """What the module is for: no operation of the program has the units anywhere but last."""
    p, x = inputs()

    def places(mapped):
        text = str(jax.make_jaxpr(mapped)(p, x))
        return f"[{NUM},{DIM}]" in text, f"[{DIM},{NUM}]" in text

    fn = FUNCTIONS["normal"]
    assert places(over_units(fn, (None, -1))) == (False, True)
    assert places(jax.vmap(fn, (None, -1), -1))[0]  # the control


@pytest.mark.parametrize("size", [2, 3, 7, 50])
def test_parts_add_up(x64, size):
    """Whatever the size of the parts, derivatives included."""
    rng = np.random.default_rng(0)
    x, weights = jnp.asarray(rng.normal(size=(DIM, 10))), jnp.asarray(rng.random((2, 10)))
    fn = lambda x, w: {"first": w @ x.T, "mass": jnp.sum(w, 1)}
    got = sum_in_parts(fn, x, weights, size)
    for name, want in fn(x, weights).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-13)
    slope = jax.grad(lambda x: jnp.sum(sum_in_parts(fn, x, weights, size)["first"] ** 2))(x)
    np.testing.assert_allclose(slope, jax.grad(lambda x: jnp.sum(fn(x, weights)["first"] ** 2))(x), rtol=1e-12)

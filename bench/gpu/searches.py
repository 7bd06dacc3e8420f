"""Many fits in one program, and derivatives of one: restarts, the bootstrap, a gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jem
from bench.gpu import reference
from bench.gpu.mixtures import gaussian_params, gaussian_work, read
from bench.gpu.rows import PER_STEP, Errors, Problem, Row, eps
from bench.problems import Params, Workload, draw_mixture, make_problem

Array = np.ndarray
LEFT = 1e-3  # nats that the default stopping rule leaves of a climb
LOOKED_AT = 4  # fits of many that are held against the host's


def picked(num: int) -> list[int]:
    """Some of many."""
    return sorted({int(i) for i in np.linspace(0, num - 1, LOOKED_AT)})


def surface(num: int, d: int, k: int, dtype: str) -> Array:
    """Rows of overlapping Gaussians with unequal weights: many optima."""
    rng = np.random.default_rng(0)
    means = rng.normal(scale=1.5, size=(k, d))
    factors = np.eye(d) + rng.normal(scale=0.2, size=(k, d, d))
    return draw_mixture(rng, num, means, factors, rng.dirichlet(np.full(k, 5.0)))[0].astype(dtype)


def one(tree: Any, i: int) -> Any:
    """An entry along the leading axis."""
    return jax.tree.map(lambda leaf: leaf[i], tree)


def restarts(num: int, rows: int, d: int, k: int, dtype: str, scale: float) -> Problem:
    """A whole search with the default solver and stopping rule; the prior keeps lanes that lose a component finite.

    Of some lanes that say they have converged the log-likelihood is computed anew, and a step of the host's, which knows no
    prior, must not gain more than the stopping rule and the prior leave.
    """
    num, rows = round(num * scale**0.5), max(500, round(rows * scale))
    x = surface(rows, d, k, dtype)
    model = jem.Mixture(jem.Gaussian(), k)
    key = jax.random.key(0)

    def search(x: Any) -> Any:
        fits = jem.fit_restarts(model, key, x, num_restarts=num)
        return fits.params, fits.log_likelihood, fits.status, fits.num_steps

    def check(found: Any) -> Errors:
        params, values, status, _ = found
        ended = np.flatnonzero(status == int(jem.Status.CONVERGED))
        if len(ended) < num // 2:
            return Errors(np.nan, 0, np.nan, 0)
        off, gain = 0.0, -np.inf
        for i in ended[picked(len(ended))]:
            step = functools.partial(reference.gaussian_step, "full", x=x, weights=np.ones(rows))
            after, value = step(read("full", one(params, i)))
            off = max(off, abs(value - float(values[i])) / max(abs(value), rows))
            gain = max(gain, step(after)[1] - value)
        allowed = PER_STEP * eps(dtype)
        return Errors(off, allowed, max(gain, 0.0), 2 * LEFT + allowed * rows)

    work = gaussian_work("full", rows, d, k, x.itemsize)
    text = "a fit, as if it were one step; `parameters off` is what a step of the host's still gains, in nats"
    return Problem(search, (x,), num, work._replace(counted=text), check)


def bootstrap(num: int, dtype: str, scale: float) -> Problem:
    """Bootstrap fits of three Gaussians, from the parameters that made the rows; no prior."""
    num = round(num * scale**0.5)
    workload = Workload("full", 2000, 2, 3, dtype, 1, 0)
    _, x, start = make_problem(workload)
    model, draw = jem.Mixture(jem.Gaussian(prior=None), 3), jem.uncertainty.resample.Rows()
    key, stop = jax.random.key(1), jem.stop.RelativeGain(1e-10 if dtype == "float64" else 1e-6)

    def program(params: Any, x: Any) -> Any:
        found = jem.bootstrap(
            model, key, params, x, num_replicates=num, replicates=draw, solver=jem.solvers.EM(), stop=stop, max_steps=5000
        )
        counts = jax.vmap(lambda k: draw.draw(k, model, params, x, None)[1])(jax.random.split(key, num))
        return found.params, found.objective, found.status, counts[jnp.array(picked(num))]

    def check(found: Any) -> Errors:
        params, values, status, counts = found
        if np.mean(status == int(jem.Status.CONVERGED)) < 0.9:
            return Errors(np.nan, 0, np.nan, 0)
        off = lost = 0.0
        for i, weights in zip(picked(num), counts, strict=True):
            step = functools.partial(reference.gaussian_step, "full", x=x, weights=weights.astype(np.float64))
            value = step(read("full", one(params, i)))[1]
            best = step(reference.climb_to_end(step, start, 1e-9))[1]
            off = max(off, abs(value - float(values[i])) / abs(value))
            lost = max(lost, (best - value) / abs(best))
        # What a climb that stops at a relative gain has left is some ten times that, at the rates of these.
        return Errors(off, PER_STEP * eps(dtype), lost, 100 * float(stop.tol))

    text = "a fit, as if it were one step; `parameters off` is how far below the host's maximum it is, relative"
    work = gaussian_work("full", 2000, 2, 3, x.itemsize)._replace(counted=text)
    return Problem(program, (gaussian_params("full", start), x), num, work, check)


def gradient(dtype: str, scale: float) -> Problem:
    """The derivative of a function of the fit by all data, held against central differences of the host's fits."""
    d, k = 2, 3
    rng = np.random.default_rng(0)
    num = max(500, round(50_000 * scale))
    means = 4.0 * np.eye(k)[:, :d] + rng.normal(scale=0.3, size=(k, d))
    x = draw_mixture(rng, num, means, np.tile(np.eye(d), (k, 1, 1)), np.full(k, 1 / k))[0].astype(dtype)
    start = Params(np.full(k, 1 / k, dtype), means.astype(dtype), np.tile(np.eye(d, dtype=dtype), (k, 1, 1)))
    model = jem.Mixture(jem.Gaussian(prior=None), k)

    def loss(x: Any, params: Any) -> Any:
        fit = jem.fit(model, params, x, stop=jem.stop.RelativeGain(1e-12))
        return jnp.sum(jnp.sin(fit.params.components.mean)) + jnp.sum(fit.params.weights**2), fit.log_likelihood

    def check(found: Any) -> Errors:
        ((_, value), slope), ones = found, np.ones(num)
        direction = rng.standard_normal(x.shape)

        def end(rows: Array) -> tuple[float, float]:
            step = functools.partial(reference.gaussian_step, "full", x=rows, weights=ones)
            last = reference.climb_to_end(step, start, -1.0, 400)
            return float(np.sum(np.sin(last.means)) + np.sum(last.weights**2)), step(last)[1]

        h = 1e-4
        exact = (end(x + h * direction)[0] - end(x - h * direction)[0]) / (2 * h)
        best, size = end(x)[1], float(np.linalg.norm(slope) * np.linalg.norm(direction) / x.size**0.5)
        off = abs(float(np.sum(slope * direction)) - exact) / max(size, abs(exact))
        return Errors(abs(float(value) - best) / abs(best), PER_STEP * eps(dtype), off, 1e-6)

    text = "a fit and its gradient, as if they were one step; `parameters off` is that of a directional derivative, relative"
    work = gaussian_work("full", num, d, k, x.itemsize)._replace(counted=text)
    return Problem(jax.value_and_grad(loss, has_aux=True), (x, gaussian_params("full", start)), 1, work, check)


def search_row(num: int, rows: int, d: int, k: int, seconds: float, dtype: str = "float32") -> Row:
    """Restarts."""
    name = f"restarts {num} of {rows:.0e} x {d}, K = {k}".replace("e+0", "e")
    return Row(name, dtype, functools.partial(restarts, num, rows, d, k), seconds, "fit")


def bootstrap_row(dtype: str = "float32") -> Row:
    """1,000 replicates."""
    return Row("bootstrap 1000 of 2e3 x 2, K = 3", dtype, functools.partial(bootstrap, 1000), 8, "fit")


def gradient_row() -> Row:
    """Reverse mode through a fit."""
    return Row("gradient through a fit, 5e4 x 2, K = 3", "float64", gradient, 12, "gradient")

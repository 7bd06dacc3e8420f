"""Hidden Markov chains, many and long ones, in turn and in blocks; linear-Gaussian state spaces."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jem
from bench import chain, lds
from bench.gpu import reference, reference_series
from bench.gpu.mixtures import climbing
from bench.gpu.rows import Errors, Problem, Row, Work, judged

Array = np.ndarray
NUM_FEATURES = 2  # of an emission


def in_float64(params: Any) -> Any:
    """A tree of host arrays."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64), params)


def chain_params(start: chain.Params) -> Any:
    """The start in jem's form, in its own dtype."""
    emission = jem.Gaussian(prior=None).params(*map(jnp.asarray, start.emission))
    return jem.HMM.Params(jnp.asarray(start.initial), jem.laws.Cells.Params(jnp.asarray(start.transition)), emission)


def read_chain(params: Any) -> chain.Params:
    """jem's parameters in the bench's form, on the host."""
    chol = np.linalg.inv(np.asarray(params.emission.whitening, np.float64))
    emission = np.asarray(params.emission.mean, np.float64), chol @ chol.transpose(0, 2, 1)
    return chain.Params(*in_float64((params.initial, params.transition.probs)), emission)


def chains_apart(found: chain.Params, exact: chain.Params) -> float:
    """The largest difference: probabilities, means in deviations, covariances in products of deviations."""
    deviation = np.sqrt(np.diagonal(exact.emission[1], axis1=1, axis2=2))
    parts = (
        found.initial - exact.initial,
        found.transition - exact.transition,
        (found.emission[0] - exact.emission[0]) / deviation,
        (found.emission[1] - exact.emission[1]) / (deviation[:, :, None] * deviation[:, None, :]),
    )
    return max(float(np.max(np.abs(part))) for part in parts)


def chains(num: int, length: int, k: int, steps: int, form: Any, dtype: str, scale: float) -> Problem:
    """Chains with Gaussian emissions, `steps` iterations."""
    if num > 1:
        num = max(8, round(num * scale))
    else:  # enough steps for every state
        length = max(round(length * scale), 50 * k)
    workload = chain.Workload("gaussian", num, length, k, NUM_FEATURES, dtype, 1, steps)
    _, x, start = chain.make_problem(workload)

    def check(fit: Any) -> Errors:
        step = functools.partial(reference_series.chain_step, x=x)
        exact, value = reference.climb(step, in_float64(start), steps)
        return judged(dtype, steps, float(fit.log_likelihood), value, num * length, chains_apart(read_chain(fit.params), exact))

    d, n = NUM_FEATURES, num * length
    text = (
        "operations S T (6 K^2 + 2 K D (D + 1)): forward, backward and pairs, emissions as a mixture's; exponentials S T K; "
        "bytes S T (D + 2 K) numbers: x once, filtered states written and read; steps in turn are not counted"
    )
    work = Work(n * (6 * k * k + 2 * k * d * (d + 1)), n * k, n * (d + 2 * k) * x.itemsize, text)
    model = jem.HMM(jem.Gaussian(prior=None), k, form=form)
    return Problem(climbing(model, steps), (chain_params(start), x), steps, work, check)


SPACE_STEPS = 10


def spaces_apart(found: lds.Params, exact: lds.Params) -> float:
    """The largest difference of each matrix relative to its largest entry; m0 in deviations."""
    pairs = [(a, b, np.max(np.abs(b))) for a, b in zip(found[1:], exact[1:], strict=True)]
    pairs.append((found.m0, exact.m0, np.sqrt(np.diagonal(exact.P0))))
    return max(float(np.max(np.abs(a - b) / unit)) for a, b, unit in pairs)


def spaces(num: int, length: int, dtype: str, scale: float) -> Problem:
    """State spaces of four states and eight outputs, all six matrices free; they share their covariances."""
    num = max(8, round(num * scale))
    _, x, start = lds.make_problem(lds.Workload("full", num, length, dtype, 1, SPACE_STEPS))
    model = jem.LDS(lds.NUM_STATES, lds.NUM_OUTPUTS, R=jem.covariance.Full())

    def check(fit: Any) -> Errors:
        step = functools.partial(reference_series.space_step, x=x.astype(np.float64))
        exact, value = reference.climb(step, in_float64(start), SPACE_STEPS)
        found = lds.Params(*(np.asarray(getattr(fit.params, name), np.float64) for name in lds.Params._fields))
        return judged(dtype, SPACE_STEPS, float(fit.log_likelihood), value, x.size, spaces_apart(found, exact))

    n, m, steps = lds.NUM_STATES, lds.NUM_OUTPUTS, num * length
    text = (
        "operations S T (12 n^2 + 6 n M): means ahead and back, three sums of outer products, gain, outputs against states; "
        "bytes S T (M + 3 n) numbers: outputs once, means written and read; the one recursion of covariances is not counted"
    )
    work = Work(steps * (12 * n * n + 6 * n * m), 0, steps * (m + 3 * n) * x.itemsize, text)
    params = model.params(**jax.tree.map(jnp.asarray, start)._asdict())
    return Problem(climbing(model, SPACE_STEPS), (params, x), SPACE_STEPS, work, check)


def chain_row(num: int, length: int, k: int, steps: int, form: Any, how: str, seconds: float, dtype: str = "float32") -> Row:
    """One size, in a form."""
    name = f"hmm {num} x {length:.0e}, K = {k}, {how}".replace("e+0", "e")
    return Row(name, dtype, functools.partial(chains, num, length, k, steps, form), seconds)


def space_row(dtype: str = "float32") -> Row:
    """LDS."""
    return Row("lds 256 x 500, 4 states, 8 outputs", dtype, functools.partial(spaces, 256, 500), 10)

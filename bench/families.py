"""`python -m bench families`: latent classes, Poisson mixtures, mixtures of regressions, beside stepmix and NumPy."""

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import gammaln

import jem
from bench import compare, harness
from bench.harness import Report, Runner, place

Array = np.ndarray
stepmix = harness.optional("stepmix")


@dataclasses.dataclass(frozen=True)
class Workload:
    """`num_steps` EM iterations of a mixture of K components of one kind, D columns."""

    kind: str
    num_units: int
    num_features: int
    num_components: int
    dtype: str
    threads: int
    num_steps: int

    @property
    def key(self) -> str:
        """The name that `--sizes` matches, e.g. classes-1e5-32-6."""
        return f"{self.kind}-{compare.short(self.num_units)}-{self.num_features}-{self.num_components}"


class Mixed(NamedTuple):
    """Weights (K,) and, by kind: chances (K, D); rates (K, D); coefficients (K, D + 1), intercept last, and variances (K,)."""

    weights: Array
    components: Any


class Problem(NamedTuple):
    """A workload with its data, outputs (N, D) or (N, 1) with inputs (N, D) or None, and the start."""

    workload: Workload
    y: Array
    u: Array | None
    start: Mixed


def classes(w: Workload, rng: np.random.Generator) -> Problem:
    """Binary items whose chances depend on the class."""
    chances = rng.uniform(0.1, 0.9, (w.num_components, w.num_features))
    y = rng.random((w.num_units, w.num_features)) < chances[rng.integers(0, w.num_components, w.num_units)]
    return Problem(w, y.astype(w.dtype), None, even(w, rng.uniform(0.3, 0.7, chances.shape)))


def rates(w: Workload, rng: np.random.Generator) -> Problem:
    """Counts from several rates."""
    rate = 2.0 * 2.5 ** np.arange(w.num_components)[:, None] * np.ones(w.num_features)
    y = rng.poisson(rate[rng.integers(0, w.num_components, w.num_units)])
    return Problem(w, y.astype(w.dtype), None, even(w, rate * rng.uniform(0.8, 1.2, rate.shape)))


def lines(w: Workload, rng: np.random.Generator) -> Problem:
    """An output on several inputs, along several planes."""
    beta = rng.normal(size=(w.num_components, w.num_features + 1)) * 2
    u = rng.normal(size=(w.num_units, w.num_features))
    z = rng.integers(0, w.num_components, w.num_units)
    y = np.sum(np.c_[u, np.ones(w.num_units)] * beta[z], 1, keepdims=True) + rng.normal(size=(w.num_units, 1))
    start = even(w, (beta + rng.normal(size=beta.shape) * 0.5, np.full(w.num_components, 4.0)))
    return Problem(w, y.astype(w.dtype), u.astype(w.dtype), start)


def even(w: Workload, components: Any) -> Mixed:
    """Components of even weights."""
    return Mixed(np.full(w.num_components, 1 / w.num_components), components)


KINDS: dict[str, Callable[[Workload, np.random.Generator], Problem]] = {"classes": classes, "rates": rates, "lines": lines}
SIZES = (("classes", 100_000, 32, 6), ("rates", 100_000, 1, 4), ("lines", 20_000, 5, 3))


@functools.lru_cache(maxsize=1)
def make_problem(workload: Workload) -> Problem:
    """The same for everyone."""
    return KINDS[workload.kind](workload, np.random.default_rng(20241))


def log_densities(problem: Problem, components: Any) -> Array:
    """(N, K), as one writes them in NumPy: two products, or one."""
    y = problem.y
    if problem.workload.kind == "classes":
        return y @ np.log(components).T + (1 - y) @ np.log1p(-components).T
    if problem.workload.kind == "rates":
        return y @ np.log(components).T - components.sum(1)[None]
    beta, variance = components
    left = y - np.c_[problem.u, np.ones(len(y), y.dtype)] @ beta.T
    return -0.5 * (left**2 / variance[None] + np.log(2 * np.pi * variance)[None])


def shares(problem: Problem, found: Mixed) -> tuple[Array, Array]:
    """Responsibilities (N, K), and the log-likelihood of each row but for what no parameter changes."""
    joint = log_densities(problem, found.components) + np.log(found.weights)[None]
    top = joint.max(1, keepdims=True)
    r = np.exp(joint - top)
    total = r.sum(1, keepdims=True)
    return r / total, (top + np.log(total))[:, 0]


def score(workload: Workload, found: Mixed) -> float:
    """The log-likelihood per row, in float64."""
    problem = make_problem(workload)
    wide = problem._replace(y=problem.y.astype(np.float64))
    rest = gammaln(wide.y + 1).sum(1) if workload.kind == "rates" else 0.0
    return float(np.mean(shares(wide, jax.tree.map(lambda a: np.asarray(a, np.float64), found))[1] - rest))


def maximised(problem: Problem, r: Array) -> Mixed:
    """The M-step."""
    counts = r.sum(0)
    if problem.workload.kind != "lines":
        return Mixed(counts / len(r), r.T @ problem.y / counts[:, None])
    u, y = np.c_[problem.u, np.ones(len(r), r.dtype)], problem.y[:, 0]
    beta = np.stack([np.linalg.solve((u * w[:, None]).T @ u, (u * w[:, None]).T @ y) for w in r.T])
    left = y[:, None] - u @ beta.T
    return Mixed(counts / len(r), (beta, (r * left**2).sum(0) / counts))


def numpy_runner(problem: Problem) -> Runner:
    """EM as one writes it in NumPy."""

    def fit() -> Mixed:
        found = jax.tree.map(lambda a: a.astype(problem.workload.dtype), problem.start)
        for _ in range(problem.workload.num_steps):
            found = maximised(problem, shares(problem, found)[0])
        return found

    return Runner(fit, lambda found: found)


def jem_model(problem: Problem) -> tuple[Any, Any, Any]:
    """The model, its start and its data."""
    w, start = problem.workload, problem.start
    family = {"classes": jem.Bernoulli(), "rates": jem.Poisson(), "lines": jem.Linear(jem.Gaussian(prior=None))}[w.kind]
    model = jem.Mixture(family, w.num_components)
    if w.kind == "lines":
        x = jem.Given(place(problem.y, w.threads, "rows"), place(problem.u, w.threads, "rows"))
        beta, variance = start.components
        components = jax.vmap(family.params)(beta[:, None, :-1], beta[:, -1:], variance[:, None, None])
    else:
        x, components = place(problem.y, w.threads, "rows"), type(family).Params(start.components)
    params = jem.Mixture.Params(start.weights, components)
    return model, jax.tree.map(lambda a: np.asarray(a, w.dtype), params), x


def jem_found(problem: Problem, params: Any) -> Mixed:
    """jem's parameters in the form of this bench."""
    if problem.workload.kind != "lines":
        return Mixed(np.asarray(params.weights), np.asarray(params.components[0]))
    c = params.components
    beta = np.concatenate([np.asarray(c.coef)[:, 0], np.asarray(c.intercept)], 1)
    return Mixed(np.asarray(params.weights), (beta, np.asarray(c.covariance)[:, 0, 0]))


def jem_runner(problem: Problem) -> Runner:
    """`jem.fit`, plain EM: iterations as asked, and one closing E-step."""
    model, start, x = jem_model(problem)
    options = {"solver": jem.solvers.EM(), "stop": jem.stop.NeverStop(), "max_steps": problem.workload.num_steps}
    fit = lambda: jax.block_until_ready(jem.fit(model, start, x, **options)).params  # noqa: E731
    return Runner(fit, functools.partial(jem_found, problem))


def stepmix_runner(problem: Problem) -> Runner:
    """stepmix's latent classes, from the same start."""
    if problem.workload.kind != "classes":
        raise harness.Unavailable("has latent classes only, of these")
    w, given = problem.workload, problem.start
    start = {"weights": given.weights, "measurement": {"pis": given.components}, "measurement_in": w.num_features}

    class Started(harness.require(stepmix).StepMix):
        """Begins where it is told."""

        def _initialize_parameters(self, X: Array, random_state: Any) -> None:
            super()._initialize_parameters(X, random_state)
            self.set_parameters(copy.deepcopy(start))  # which it writes to

    def fit() -> Mixed:
        stops = {"max_iter": w.num_steps, "abs_tol": 0, "rel_tol": 0}
        model = Started(w.num_components, measurement="bernoulli", progress_bar=0, random_state=0, **stops)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(problem.y)
        found = model.get_parameters()
        return Mixed(found["weights"], found["measurement"]["pis"])

    return Runner(fit, lambda found: found)


CONTENDERS = {"jem": jem_runner, "NumPy": numpy_runner, "stepmix": stepmix_runner}


def make_runner(name: str, workload: Workload) -> Runner:
    """Prepare one contender."""
    return CONTENDERS[name](make_problem(workload))


FIELD = compare.Field(tuple(CONTENDERS), make_runner, score, "row")


def main() -> None:
    """Run the chosen workloads one after the other."""
    options = compare.parser("families", __doc__, FIELD, "classes-*", dtype="float64")
    arguments = harness.parse(options)
    harness.set_up_jax(arguments.dtype, arguments.threads)
    workloads = [
        Workload(kind, 2 * round(n * arguments.scale / 2), d, k, arguments.dtype, arguments.threads, arguments.steps)
        for kind, n, d, k in SIZES
    ]
    chosen = compare.choose(options, arguments, workloads)
    report = Report(arguments.out)
    report.add(f"{harness.machine()}; {arguments.steps} iterations a fit")
    for w in chosen:
        title = f"### {w.key}, {compare.threads(w)}\n\n{w.num_units} x {w.num_features}, K = {w.num_components}\n\n"
        report.add(title + compare.compare(FIELD, w, arguments)[0])


if __name__ == "__main__":
    main()

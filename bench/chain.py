"""`python -m bench chain`: milliseconds per EM iteration of hidden Markov models, beside the peers."""

import argparse
import dataclasses
import functools
import logging
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

import jem
from bench import compare, harness
from bench.harness import Report, Runner, Unavailable, optional, place, require

hmmlearn = optional("hmmlearn.hmm")
pomegranate = optional("pomegranate.hmm")
pomegranate_distributions = optional("pomegranate.distributions")
torch = optional("torch")

Array = np.ndarray
# Emissions, sequences, steps of a sequence, states; features or categories.
SIZES = (
    ("gaussian", 1, 100_000, 4, 2),
    ("gaussian", 1, 1_000_000, 3, 2),
    ("gaussian", 512, 200, 8, 2),
    ("gaussian", 1, 10_000, 64, 2),
    ("categorical", 1, 100_000, 5, 20),
)


class Params(NamedTuple):
    """First states (K,), transitions (K, K), and the emissions: means (K, D), covariances (K, D, D), or probs (K, M)."""

    initial: Array
    transition: Array
    emission: tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Workload:
    """A chain of `num_states`, `num_steps` EM iterations from a given start, no prior; D features or M categories."""

    kind: str
    num_sequences: int
    length: int
    num_states: int
    size: int
    dtype: str
    threads: int
    num_steps: int

    @property
    def key(self) -> str:
        """The name that `--sizes` matches, e.g. gaussian-1x1e5-4."""
        return f"{self.kind}-{self.num_sequences}x{compare.short(self.length)}-{self.num_states}"


class Problem(NamedTuple):
    """A workload with its data, (S, T, D) in its dtype or (S, T) integers, and its start."""

    workload: Workload
    x: Array
    start: Params


class Answer(NamedTuple):
    """What a contender found, and the log-likelihood it says that has, where it does."""

    params: Params
    reported: float = math.nan


def draw_path(rng: np.random.Generator, transition: Array, num_steps: int) -> Array:
    """The states of one chain, (num_steps,)."""
    draws = rng.random(num_steps)
    successors = np.stack([np.searchsorted(row, draws) for row in np.cumsum(transition, 1)], 1)
    following = np.minimum(successors, len(transition) - 1).tolist()
    path, state = [], 0
    for choices in following:
        state = choices[state]
        path.append(state)
    return np.array(path)


@functools.lru_cache(maxsize=1)
def make_problem(workload: Workload) -> Problem:
    """States that last ten steps on average and overlap; sequences are pieces of one long chain.

    The start is the true emissions with noise, a common covariance, equal first states and equal transitions between
    unequal states, at which no peer loses a state.
    """
    s, t, k, d = workload.num_sequences, workload.length, workload.num_states, workload.size
    rng = np.random.default_rng(20240)
    transition = 0.9 * np.eye(k) + 0.1 * rng.dirichlet(np.full(k, 2.0), k)
    path = draw_path(rng, transition, s * t)
    if workload.kind == "gaussian":
        means = rng.uniform(-1, 1, (k, d)) * 1.5 * k ** (1 / d)
        factors = np.eye(d) + rng.normal(scale=0.3, size=(k, d, d))
        noise = rng.standard_normal((s * t, d))
        x = means[path] + np.einsum("tij,tj->ti", factors[path], noise)
        common = np.mean(factors @ factors.transpose(0, 2, 1), axis=0)
        emission = (means + rng.normal(scale=0.3, size=means.shape), np.repeat(common[None], k, 0))
        x = np.ascontiguousarray(x.reshape(s, t, d), workload.dtype)
    else:
        probs = rng.dirichlet(np.full(d, 0.5), k)
        x = np.zeros(s * t, np.int32)
        draws = rng.random(s * t)
        for j, row in enumerate(np.cumsum(probs, 1)):
            x[path == j] = np.minimum(np.searchsorted(row, draws[path == j]), d - 1)
        emission = (0.7 * probs + 0.3 * rng.dirichlet(np.full(d, 2.0), k),)
        x = x.reshape(s, t)
    away = 0.3 / max(k - 1, 1)
    start = Params(np.full(k, 1 / k), away + (0.7 - away) * np.eye(k), emission)
    return Problem(workload, x, jax.tree.map(lambda a: np.ascontiguousarray(a, workload.dtype), start))


def log_emissions(kind: str, emission: tuple[Array, ...], x: Array) -> Array:
    """Log-densities of the observations (S, T, ...) under each state, (S, T, K)."""
    if kind == "categorical":
        with np.errstate(divide="ignore"):
            return np.log(emission[0].T)[x]
    columns = []
    flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
    for mean, covariance in zip(*emission, strict=True):
        chol = np.linalg.cholesky(covariance)
        z = scipy.linalg.solve_triangular(chol, (flat - mean).T, lower=True)
        log_norm = np.log(np.diagonal(chol)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
        columns.append(-log_norm - 0.5 * np.sum(z * z, axis=0))
    return np.stack(columns, -1).reshape(*x.shape[:2], -1)


def chain_log_likelihood(initial: Array, transition: Array, log_e: Array) -> float:
    """The log-likelihood of all sequences from log-emissions (S, T, K).

    The forward recursion as a product of K x K matrices, over blocks of about sqrt(T) steps that run beside each other:
    none of the contenders does it so.
    """
    num_sequences, length, k = log_e.shape
    top = log_e.max(-1, keepdims=True)
    size = math.isqrt(length - 1) + 1
    num_blocks = -(-length // size)
    e = np.ones((num_sequences, num_blocks * size, k))
    e[:, :length] = np.exp(log_e - top)
    e = e.reshape(num_sequences, num_blocks, size, k)
    inside = (np.arange(num_blocks * size) < length).reshape(num_blocks, size)
    product = transition * e[:, :, 0, None, :]
    product[:, 0] = initial * e[:, 0, 0, None, :]
    scale = np.zeros((num_sequences, num_blocks))
    for i in range(1, size):
        new = (product @ transition) * e[:, :, i, None, :]
        total = new.sum((-2, -1))
        product = np.where(inside[:, i, None, None], new / total[..., None, None], product)
        scale += np.where(inside[:, i], np.log(total), 0)
    state = np.full((num_sequences, k), 1 / k)
    log_likelihood = top.sum() + scale.sum()
    for i in range(num_blocks):
        state = np.einsum("sk,skj->sj", state, product[:, i])
        total = state.sum(-1, keepdims=True)
        log_likelihood += np.log(total).sum()
        state = state / total
    return float(log_likelihood)


def score(workload: Workload, answer: Answer) -> float:
    """The log-likelihood per step of all the data, in float64; NaN where a parameter is not finite."""
    initial, transition, emission = jax.tree.map(lambda a: np.asarray(a, np.float64), answer.params)
    if not all(np.all(np.isfinite(a)) for a in (initial, transition, *emission)):
        return math.nan
    x = make_problem(workload).x
    try:
        log_e = log_emissions(workload.kind, emission, x)
    except np.linalg.LinAlgError:
        return math.nan
    # Rounded, or with a part kept for an end that the model does not have: the rows are made to sum to one.
    transition = transition / transition.sum(1, keepdims=True)
    return chain_log_likelihood(initial / initial.sum(), transition, log_e) / (x.shape[0] * x.shape[1])


def jem_runner(problem: Problem) -> Runner:
    """`jem.fit`: `num_steps` iterations and one closing E-step; with two threads many sequences lie on two devices."""
    workload, start = problem.workload, problem.start
    if workload.kind == "gaussian":
        leaf = jem.Gaussian(prior=None)
        emission: Any = leaf.params(mean=jnp.asarray(start.emission[0]), covariance=jnp.asarray(start.emission[1]))
    else:
        leaf = jem.Categorical(workload.size)
        emission = jem.Categorical.Params(jnp.asarray(start.emission[0]))
    model = jem.HMM(leaf, workload.num_states)
    params = jem.HMM.Params(jnp.asarray(start.initial), jem.laws.Cells.Params(jnp.asarray(start.transition)), emission)
    x = place(problem.x, workload.threads if workload.num_sequences > 1 else 1, "rows")
    stop = jem.stop.NeverStop()

    def fit() -> Any:
        return jax.block_until_ready(jem.fit(model, params, x, stop=stop, max_steps=workload.num_steps))

    def read(result: Any) -> Answer:
        found = result.params.emission
        parts = (found.mean, found.covariance) if workload.kind == "gaussian" else (found.probs,)
        params = Params(result.params.initial, result.params.transition.probs, parts)
        return Answer(jax.tree.map(np.asarray, params), float(result.log_likelihood))

    return Runner(fit, read)


def hmmlearn_runner(implementation: str, problem: Problem) -> Runner:
    """hmmlearn's `fit` with "scaling" or "log"; it computes in float64 whatever it is given."""
    workload = problem.workload
    module = require(hmmlearn)
    logging.getLogger("hmmlearn").setLevel(logging.ERROR)
    initial, transition, emission = jax.tree.map(lambda a: a.astype(np.float64), problem.start)
    initial, transition = initial / initial.sum(), transition / transition.sum(1, keepdims=True)
    lengths = np.full(workload.num_sequences, workload.length)
    shared: dict[str, Any] = dict(n_iter=workload.num_steps, tol=-math.inf, init_params="", implementation=implementation)
    if workload.kind == "gaussian":
        x = problem.x.reshape(-1, workload.size).astype(np.float64)
        model = module.GaussianHMM(
            workload.num_states, covariance_type="full", min_covar=0.0, covars_prior=0.0, covars_weight=0.0, **shared
        )
    else:
        x = problem.x.reshape(-1, 1)
        model = module.CategoricalHMM(workload.num_states, n_features=workload.size, **shared)

    def fit() -> Any:
        model.startprob_, model.transmat_ = initial, transition
        if workload.kind == "gaussian":
            model.means_, model.covars_ = emission
        else:
            model.emissionprob_ = emission[0] / emission[0].sum(1, keepdims=True)
        return model.fit(x, lengths)

    def read(found: Any) -> Answer:
        if found.monitor_.iter != workload.num_steps:
            raise Unavailable(f"made {found.monitor_.iter} iterations of {workload.num_steps}")
        parts = (found.means_, found.covars_) if workload.kind == "gaussian" else (found.emissionprob_,)
        return Answer(jax.tree.map(np.array, Params(found.startprob_, found.transmat_, parts)))

    return Runner(fit, read)


def dynamax_gaussian(module: Any, num_states: int, num_features: int, **priors: Any) -> Any:
    """dynamax's `GaussianHMM` with the maximum likelihood M-step: its prior cannot be made flat."""
    model = module.GaussianHMM(num_states, num_features, **priors)

    class Emissions(type(model.emission_component)):
        def m_step(self, params: Any, props: Any, batch_stats: Any, m_step_state: Any) -> Any:
            count, first, second = (jnp.sum(batch_stats[name], 0) for name in ("sum_w", "sum_x", "sum_xxT"))
            means = first / count[:, None]
            covs = second / count[:, None, None] - means[:, :, None] * means[:, None, :]
            return params._replace(means=means, covs=covs), m_step_state

    model.emission_component = Emissions(num_states, num_features)
    return model


def dynamax_runner(problem: Problem) -> Runner:
    """dynamax's `fit_em` under one `jax.jit`, without which it compiles again at every call."""
    workload, start = problem.workload, problem.start
    module = harness.dynamax("hidden_markov_model")
    # Its Dirichlet priors must exceed one, or a state of no mass makes everything NaN.
    above = 1 + 1e-6
    priors = dict(initial_probs_concentration=above, transition_matrix_concentration=above)
    initial, transition, emission = jax.tree.map(jnp.asarray, start)
    if workload.kind == "gaussian":
        model = dynamax_gaussian(module, workload.num_states, workload.size, **priors)
        given = dict(emission_means=emission[0], emission_covariances=emission[1])
    else:
        model = module.CategoricalHMM(workload.num_states, 1, workload.size, emission_prior_concentration=above, **priors)
        given = dict(emission_probs=emission[0][:, None, :])
    params, props = model.initialize(initial_probs=initial, transition_matrix=transition, **given)
    # On one device: with its sequences on two it is some fifty times slower.
    x = jax.device_put(problem.x if workload.kind == "gaussian" else problem.x[..., None])
    run = jax.jit(lambda p, x: model.fit_em(p, props, x, num_iters=workload.num_steps, verbose=False)[0])

    def read(found: Any) -> Answer:
        parts = found.emissions
        parts = (parts.means, parts.covs) if workload.kind == "gaussian" else (parts.probs[:, 0],)
        params = Params(found.initial.probs, found.transitions.transition_matrix, parts)
        return Answer(jax.tree.map(np.asarray, params))

    return Runner(lambda: jax.block_until_ready(run(params, x)), read)


def pomegranate_runner(problem: Problem) -> Runner:
    """pomegranate's `DenseHMM`; its probabilities of ending are held equal."""
    workload, start = problem.workload, problem.start
    module = require(pomegranate)
    torch.set_num_threads(workload.threads)
    x = torch.from_numpy(problem.x if workload.kind == "gaussian" else problem.x[..., None].astype(np.int64))

    def fit() -> Any:
        if workload.kind == "gaussian":
            parts = [
                pomegranate_distributions.Normal(torch.tensor(mean), torch.tensor(covariance), "full")
                for mean, covariance in zip(*start.emission, strict=True)
            ]
        else:
            parts = [pomegranate_distributions.Categorical(torch.tensor(probs[None])) for probs in start.emission[0]]
        model = module.DenseHMM(
            parts,
            edges=torch.tensor(start.transition),
            starts=torch.tensor(start.initial),
            ends=torch.full((workload.num_states,), 1 / workload.num_states, dtype=torch.tensor(start.initial).dtype),
            max_iter=workload.num_steps,
            tol=0.0,
        )
        model.ends.frozen = True
        return model.fit(x)

    def read(model: Any) -> Answer:
        names = ("means", "covs") if workload.kind == "gaussian" else ("probs",)
        parts = tuple(np.stack([getattr(d, name).numpy() for d in model.distributions]) for name in names)
        parts = parts if workload.kind == "gaussian" else (parts[0][:, 0],)
        return Answer(Params(np.exp(model.starts.numpy()), np.exp(model.edges.numpy()), parts))

    return Runner(fit, read)


CONTENDERS = {
    "jem": jem_runner,
    "hmmlearn scaling": functools.partial(hmmlearn_runner, "scaling"),
    "hmmlearn log": functools.partial(hmmlearn_runner, "log"),
    "dynamax": dynamax_runner,
    "pomegranate": pomegranate_runner,
}


def make_runner(name: str, workload: Workload) -> Runner:
    """Prepare one contender."""
    return CONTENDERS[name](make_problem(workload))


# pomegranate's long sequences take minutes: its own process can be stopped.
FIELD = compare.Field(tuple(CONTENDERS), make_runner, score, "step", alone=("pomegranate",))


def section(workload: Workload, arguments: argparse.Namespace) -> str:
    """Measure one workload: its title, its table, and how well jem knows its own log-likelihood."""
    x = make_problem(workload).x
    what = f"{workload.size} {'features' if workload.kind == 'gaussian' else 'categories'}"
    table, timings = compare.compare(FIELD, workload, arguments)
    text = (
        f"### {workload.key}, {compare.threads(workload)}\n\n{workload.num_sequences} x {workload.length}, "
        f"K = {workload.num_states}, {what}; data {x.nbytes / 1e6:.1f} MB\n\n{table}"
    )
    if "jem" in timings:
        answer = timings["jem"].steady[-1].result
        exact = score(workload, answer) * workload.num_sequences * workload.length
        text += f"\n\nThe log-likelihood that jem reports is off by {abs(answer.reported / exact - 1):.0e} of itself."
    return text


def main() -> None:
    """Run the chosen workloads one after the other."""
    options = compare.parser("chain", __doc__, FIELD, "gaussian-* or 'categorical*'")
    arguments = harness.parse(options)
    harness.set_up_jax(arguments.dtype, arguments.threads)
    workloads = []
    for kind, num_sequences, length, num_states, size in SIZES:
        if num_sequences > 1:  # even, for two devices
            num_sequences = 2 * round(max(num_sequences * arguments.scale, 16) / 2)
        else:  # enough steps for every state
            length = round(max(length * arguments.scale, 50 * num_states))
        workloads.append(
            Workload(kind, num_sequences, length, num_states, size, arguments.dtype, arguments.threads, arguments.steps)
        )
    chosen = compare.choose(options, arguments, workloads)
    report = Report(arguments.out)
    report.add(f"{harness.machine()}; {arguments.steps} iterations a fit")
    for workload in chosen:
        report.add(section(workload, arguments))


if __name__ == "__main__":
    main()

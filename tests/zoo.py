"""The zoo: one row a model. A new model is a new row here, and gets every law."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from coordinates import from_free, noise_like
from jax.scipy.special import gammaln

import jem
from jem.data import to_units
from jem.engine.step import e_step_chunk
from jem.engine.stream import fold, lay_out

NUM = 64


class Row(NamedTuple):
    """One model of the zoo.

    Attributes:
        name: what to call it.
        node: the model.
        rows: makes data with NUM rows, `rows(rng, dtype)`.
        held: names of the fields that the model keeps at their start.
    """

    name: str
    node: Any
    rows: Any
    held: tuple[str, ...] = ()


def reals(rng, dtype, heavy=False):
    """Two clusters in two correlated features, with a few rows far out if `heavy`."""
    noise = rng.standard_t(3, (NUM, 2)) if heavy else rng.standard_normal((NUM, 2))
    x = noise @ np.array([[1.0, 0.6], [0.0, 0.8]]) + 2.5 * rng.integers(0, 2, (NUM, 1)) + np.array([0.5, -0.5])
    return jnp.asarray(x, dtype)


def tails(rng, dtype):
    """As `reals`, with heavy tails."""
    return reals(rng, dtype, heavy=True)


def noisy(rng, dtype):
    """Rows of one cluster, and some of none."""
    x = np.array(reals(rng, dtype))
    x[::6] = rng.uniform(-8, 8, x[::6].shape)
    return jnp.asarray(x)


def factored(rng, dtype):
    """Four features with two factors behind them, in two clusters."""
    x = rng.standard_normal((NUM, 2)) @ rng.standard_normal((2, 4)) + 0.7 * rng.standard_normal((NUM, 4))
    return jnp.asarray(x + 1.5 * rng.integers(0, 2, (NUM, 1)), dtype)


def counts(rng, dtype):
    """Counts from two rates."""
    return jnp.asarray(rng.poisson(np.where(rng.random((NUM, 1)) < 0.5, 2.0, 7.0), (NUM, 2)), dtype)


def clumps(rng, dtype):
    """Counts that vary more than those of a rate, from two means."""
    rate = rng.gamma(2.0, 0.5, (NUM, 2)) * np.where(rng.random((NUM, 1)) < 0.5, 3.0, 12.0)
    return jnp.asarray(rng.poisson(rate), dtype)


def zeros(rng, dtype):
    """Counts with more zeros than their rate has."""
    return jnp.asarray(rng.poisson(4.0, (NUM, 1)) * (rng.random((NUM, 1)) < 0.6), dtype)


def successes(rng, dtype):
    """Of ten trials, with chances of two kinds that differ from row to row."""
    chances = np.where(rng.random((NUM, 1)) < 0.5, rng.beta(2, 6, (NUM, 2)), rng.beta(6, 2, (NUM, 2)))
    return jnp.asarray(rng.binomial(10, chances), dtype)


def shares(rng, dtype):
    """Counts of three categories, with totals of 1 to 20 and chances of two kinds that differ from row to row."""
    chances = [rng.dirichlet([6, 2, 1] if first else [1, 2, 6]) for first in rng.random(NUM) < 0.5]
    return jnp.asarray([rng.multinomial(n, p) for n, p in zip(rng.integers(1, 21, NUM), chances, strict=True)], dtype)


def bits(rng, dtype):
    """Binary features from two classes."""
    p = np.where(rng.random((NUM, 1)) < 0.5, 0.2, 0.8)
    return jnp.asarray(rng.random((NUM, 4)) < p, dtype)


def waits(rng, dtype):
    """Waiting times of two kinds."""
    return jnp.asarray(rng.gamma(2.5, np.where(rng.random((NUM, 1)) < 0.5, 0.2, 1.5), (NUM, 2)), dtype)


def proportions(rng, dtype):
    """Proportions about two levels."""
    a = np.where(rng.random((NUM, 1)) < 0.5, 2.0, 6.0)
    return jnp.asarray(rng.beta(a, 8 - a, (NUM, 2)), dtype)


def mixes(rng, dtype):
    """Proportions of three parts, more of the first or more of the last, none near 0: slopes are compared there."""
    a = np.array([[16.0, 10.0, 8.0], [8.0, 10.0, 20.0]])
    return jnp.asarray(np.stack([rng.dirichlet(a[k]) for k in rng.integers(0, 2, NUM)]), dtype)


def angles(rng, dtype):
    """Angles about two directions."""
    return jnp.asarray(rng.vonmises(np.where(rng.random((NUM, 1)) < 0.5, -1.0, 2.0), 3.0, (NUM, 2)), dtype)


def bearings(rng, dtype):
    """Unit vectors about two directions."""
    x = rng.standard_normal((NUM, 3)) + 2 * np.where(rng.random((NUM, 1)) < 0.5, 1, -1) * np.array([1.0, 0.5, 0.0])
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype)


def holed_bits(rng, dtype):
    """Binary features, some cells of which are missing."""
    values = np.array(bits(rng, dtype))
    values[rng.random((NUM, 4)) < 0.2] = np.nan
    return jnp.asarray(values)


def holed_reals(rng, dtype):
    """Reals, some cells of which are missing, and all of one row."""
    values = np.array(reals(rng, dtype))
    values[rng.random(values.shape) < 0.2] = np.nan
    values[5] = np.nan
    return jnp.asarray(values)


def holed_factored(rng, dtype):
    """What factors explain, some cells of which are missing."""
    values = np.array(factored(rng, dtype))
    values[rng.random(values.shape) < 0.1] = np.nan
    return jnp.asarray(values)


def symbols(rng, dtype):
    """Categories 0, 1, 2, whatever the dtype: integers."""
    return jnp.asarray(rng.choice(3, NUM, p=[0.5, 0.3, 0.2]), jnp.int32)


def mixed(rng, dtype):
    """Reals and categories."""
    return {"place": reals(rng, dtype), "kind": symbols(rng, dtype)}


def labelled(rng, dtype):
    """Reals, every fourth with its component known."""
    labels = np.where(np.arange(NUM) % 4 == 0, rng.integers(0, 3, NUM), -1)
    return jem.Labelled(reals(rng, dtype), jnp.asarray(labels, jnp.int32))


def restricted(rng, dtype):
    """Reals, each restricted to a set of components."""
    sets = rng.random((NUM, 3)) < 0.6
    sets[:, 0] |= ~sets.any(1)
    return jem.Labelled(reals(rng, dtype), jnp.asarray(sets))


def series(rng, dtype):
    """Short sequences of reals."""
    return jnp.asarray(rng.standard_normal((NUM, 4, 2)) + 2.5 * rng.integers(0, 2, (NUM, 4, 1)), dtype)


def holed(rng, dtype):
    """Short sequences, some steps of which are missing."""
    values = np.array(series(rng, dtype))
    values[rng.random((NUM, 4)) < 0.1] = np.nan
    return jnp.asarray(values)


def count_series(rng, dtype):
    """Short sequences of counts."""
    return jnp.asarray(rng.poisson(4.0, (NUM, 4, 1)), dtype)


def symbol_series(rng, dtype):
    """Short sequences of categories."""
    return jnp.asarray(rng.integers(0, 3, (NUM, 4)), jnp.int32)


def cells(rng, dtype):
    """Short sequences, some cells and some steps of which are missing."""
    values = rng.standard_normal((NUM, 3, 2)) + np.cumsum(rng.standard_normal((NUM, 3, 2)), 1)
    values[rng.random((NUM, 3, 2)) < 0.2] = np.nan
    return jnp.asarray(values, dtype)


def driven(rng, dtype):
    """Short sequences of cells with an input."""
    return jem.Given(cells(rng, dtype)[..., :1], jnp.asarray(rng.standard_normal((NUM, 3, 1)), dtype))


def lines(rng, dtype):
    """Two outputs on two inputs, along two planes."""
    u = rng.standard_normal((NUM, 2)) + np.array([0.5, -1.0])
    plane = rng.random(NUM) < 1 / (1 + np.exp(-u[:, 0]))
    y = np.where(plane, 2 + u @ [1.0, -0.5], -1 + u @ [-0.5, 0.5])[:, None] + 0.4 * rng.standard_normal((NUM, 2))
    return jem.Given(jnp.asarray(y, dtype), jnp.asarray(u, dtype))


def count_lines(rng, dtype):
    """Counts on two inputs, of two kinds."""
    u = rng.standard_normal((NUM, 2))
    rate = np.exp(np.where(rng.random(NUM) < 0.5, 0.3 + u @ [0.4, -0.2], 2.0 - u @ [0.3, 0.1])) * rng.gamma(4.0, 0.25, NUM)
    return jem.Given(jnp.asarray(rng.poisson(rate)[:, None], dtype), jnp.asarray(u, dtype))


def choices(rng, dtype):
    """Categories on two inputs."""
    u = rng.standard_normal((NUM, 2))
    eta = u @ np.array([[0.0, 0.6, -0.4], [0.0, -0.3, 0.5]]) + np.array([0.0, 0.2, -0.3])
    chances = np.exp(eta) / np.exp(eta).sum(1, keepdims=True)
    return jem.Given(jnp.asarray([rng.choice(3, p=p) for p in chances], jnp.int32), jnp.asarray(u, dtype))


def wait_lines(rng, dtype):
    """Waiting times on two inputs."""
    u = rng.standard_normal((NUM, 2))
    return jem.Given(jnp.asarray(rng.gamma(2.5, np.exp(u @ [0.4, -0.2]) / 2.5)[:, None], dtype), jnp.asarray(u, dtype))


def driven_counts(rng, dtype):
    """Short sequences of counts with an input, in two states."""
    u = rng.standard_normal((NUM, 4, 1))
    state = np.cumsum(rng.random((NUM, 4, 1)) < 0.3, 1) % 2
    return jem.Given(jnp.asarray(rng.poisson(np.exp(0.3 + 2 * state + 0.3 * u)), dtype), jnp.asarray(u, dtype))


D = jem.covariance.Diagonal()
level = jem.LDS(1, 1, 1, Q=D, R=D, P0=D, fixed={"A": [[1]], "B": [[0]]})
factors = jem.FactorAnalysis(2)


class LaplaceParams(NamedTuple):
    """Of a density written by hand: medians and mean deviations (D,)."""

    mean: Any
    scale: Any


def log_laplace(params, x):
    """Of one unit x (D,)."""
    return jnp.sum(-jnp.abs(x - params.mean) / params.scale - jnp.log(2 * params.scale))


def log_coins(params, x, z):
    """Of one unit x (D,) of counts and which of two rates made it."""
    return jnp.log(0.5) + jnp.sum(x * jnp.log(params.rate[z]) - params.rate[z] - gammaln(x + 1))


WHERE = LaplaceParams(jem.supports.Real(), jem.supports.Positive())
laplace = jem.Density(log_laplace, LaplaceParams(np.zeros(2), np.ones(2)), supports=WHERE, spread=0.5)
log_joint = jem.LogJoint(
    log_coins,
    jem.spaces.Finite(2),
    jem.Poisson.Params(np.array([[2.0, 3.0], [6.0, 7.0]])),
    supports=jem.supports.Positive(),
    statistics=lambda x, z: (jnp.ones(1), x),
    maximize=lambda s: jem.Poisson.Params(s[1] / s[0]),
)
full, diagonal, spherical = jem.Gaussian(), jem.Gaussian(jem.covariance.Diagonal()), jem.Gaussian(jem.covariance.Spherical())
added = jem.Additive(full, 2, 2)
stays = jem.laws.Durations(jem.durations.Poisson(4), moves=jem.laws.Cells())
product = jem.Product(place=full, kind=jem.Categorical(3))
axes, scaled = jem.Gaussian(jem.covariance.Eigen()), jem.Gaussian(jem.covariance.ScaledDiagonal())


def intervals(x):
    """Cells of x as they are, rounded, and censored on either side in turn; one is missing."""
    kind = jnp.arange(x.size).reshape(x.shape) % 4
    width = jnp.where(kind == 1, 0.5, 0).astype(x.dtype)
    lower = jnp.where(kind == 2, -jnp.inf, x - width).at[5, 0].set(jnp.nan)
    return jem.Interval(lower, jnp.where(kind == 3, jnp.inf, x + width).at[5, 0].set(jnp.nan))


def censored_reals(rng, dtype):
    """As `reals`, of which intervals are known."""
    return intervals(reals(rng, dtype))


def censored_waits(rng, dtype):
    """As `waits`, of which intervals are known."""
    x = intervals(waits(rng, dtype))
    return x._replace(lower=jnp.where(x.lower < 0, 0, x.lower))


ZOO = [
    Row("gaussian", full, reals),
    Row("gaussian_diagonal", diagonal, reals),
    Row("gaussian_spherical", spherical, reals),
    Row("gaussian_no_prior", jem.Gaussian(prior=None), reals),
    Row("student_t", jem.StudentT(), tails),
    Row("mixture_full", jem.Mixture(full, 3), reals),
    Row("mixture_diagonal", jem.Mixture(diagonal, 3), reals),
    Row("mixture_spherical", jem.Mixture(spherical, 3), reals),
    Row("mixture_no_prior", jem.Mixture(jem.Gaussian(prior=None), 2), reals),
    Row("mixture_strong_prior", jem.Mixture(jem.Gaussian(prior=jem.priors.InverseWishart(5.0)), 3, concentration=2.0), reals),
    Row("tied", jem.Mixture(jem.Tied(full, 3, "whitening")), reals),
    Row("tied_diagonal_no_prior", jem.Mixture(jem.Tied(jem.Gaussian(jem.covariance.Diagonal(), None), 3, "whitening")), reals),
    Row("tied_spherical", jem.Mixture(jem.Tied(spherical, 3, "whitening")), reals),
    Row("tied_scaled_shape", jem.Mixture(jem.Tied(scaled, 2, "shape")), reals),
    Row("tied_scaled_volume", jem.Mixture(jem.Tied(scaled, 2, "volume")), reals),
    Row("mixture_eigen", jem.Mixture(axes, 2), reals),
    Row("tied_eigen", jem.Mixture(jem.Tied(axes, 2, "whitening")), reals),
    Row("tied_orientation", jem.Mixture(jem.Tied(axes, 2, "orientation")), reals),
    Row("tied_volume", jem.Mixture(jem.Tied(axes, 2, "volume")), reals),
    Row("tied_shape", jem.Mixture(jem.Tied(axes, 2, "shape")), reals),
    Row("tied_volume_shape", jem.Mixture(jem.Tied(axes, 2, "volume", "shape")), reals),
    Row("tied_volume_orientation", jem.Mixture(jem.Tied(axes, 2, "volume", "orientation")), reals),
    Row("tied_shape_orientation", jem.Mixture(jem.Tied(axes, 2, "shape", "orientation")), reals),
    Row("tied_axes_student_t", jem.Mixture(jem.Tied(jem.StudentT(jem.covariance.Eigen()), 2, "orientation", "df")), tails),
    Row("mixture_student_t", jem.Mixture(jem.StudentT(jem.covariance.Diagonal()), 2), tails),
    Row("tied_student_t", jem.Mixture(jem.Tied(jem.StudentT(), 2, "whitening", "df")), tails),
    Row("frozen_df", jem.Mixture(jem.Frozen(jem.StudentT(df=5.0), "df"), 2), tails, ("df",)),
    Row("frozen_mean", jem.Mixture(jem.Frozen(full, "mean"), 2), reals, ("mean",)),
    Row("frozen_weights", jem.Frozen(jem.Mixture(full, 2), "weights"), reals, ("weights",)),
    Row("tied_frozen_mean", jem.Mixture(jem.Tied(jem.Frozen(full, "mean"), 2, "whitening")), reals, ("mean",)),
    Row("mixture_poisson", jem.Mixture(jem.Poisson(), 2), counts),
    Row("mixture_poisson_prior", jem.Mixture(jem.Poisson(shape=2.0, inverse_scale=0.5), 2), counts),
    Row("mixture_negative_binomial", jem.Mixture(jem.NegativeBinomial(), 2), clumps),
    Row("mixture_zero_inflated", jem.Mixture(jem.OneOf(jem.Point(0.0), jem.Poisson())), zeros),
    Row("mixture_noise", jem.Mixture(jem.OneOf(full, jem.Uniform(-8.0, 8.0))), noisy),
    Row("mixture_geometric", jem.Mixture(jem.Geometric(), 2), clumps),
    Row("mixture_binomial", jem.Mixture(jem.Binomial(10), 2), successes),
    Row("mixture_beta_binomial", jem.Mixture(jem.BetaBinomial(10), 2), successes),
    Row("mixture_multinomial", jem.Mixture(jem.Multinomial(), 2), shares),
    Row("mixture_dirichlet_multinomial", jem.Mixture(jem.DirichletMultinomial(), 2), shares),
    Row("mixture_bernoulli", jem.Mixture(jem.Bernoulli(), 2), bits),
    Row("mixture_bernoulli_prior", jem.Mixture(jem.Bernoulli(concentration=1.5), 2), bits),
    Row("mixture_missing_bits", jem.Mixture(jem.Missing(jem.Bernoulli(concentration=1.5)), 2), holed_bits),
    Row("mixture_censored", jem.Mixture(jem.Censored(diagonal), 2), censored_reals),
    Row("mixture_censored_gamma", jem.Mixture(jem.Censored(jem.Gamma()), 2), censored_waits),
    Row("mixture_missing", jem.Mixture(jem.Missing(full), 2), holed_reals),
    Row("mixture_missing_t", jem.Mixture(jem.Missing(jem.StudentT()), 2), holed_reals),
    Row("factor_missing", jem.Missing(factors), holed_factored),
    Row("mixture_exponential", jem.Mixture(jem.Exponential(), 2), waits),
    Row("mixture_rayleigh", jem.Mixture(jem.Rayleigh(shape=1.5, inverse_scale=0.5), 2), waits),
    Row("mixture_gamma", jem.Mixture(jem.Gamma(), 2), waits),
    Row("mixture_inverse_gamma", jem.Mixture(jem.InverseGamma(), 2), waits),
    Row("mixture_log_normal", jem.Mixture(jem.LogNormal(), 2), waits),
    Row("mixture_weibull", jem.Mixture(jem.Weibull(), 2), waits),
    Row("mixture_inverse_gaussian", jem.Mixture(jem.InverseGaussian(), 2), waits),
    Row("mixture_beta", jem.Mixture(jem.Beta(), 2), proportions),
    Row("mixture_dirichlet", jem.Mixture(jem.Dirichlet(), 2), mixes),
    Row("mixture_von_mises", jem.Mixture(jem.VonMises(), 2), angles),
    Row("mixture_directions", jem.Mixture(jem.VonMisesFisher(), 2), bearings),
    Row("mixture_categorical", jem.Mixture(jem.Categorical(3), 2), symbols),
    Row("mixture_of_mixtures", jem.Mixture(jem.Mixture(full, 2), 2), reals),
    Row("mixed_product", jem.Mixture(product, 2), mixed),
    Row("tied_part", jem.Mixture(jem.Tied(product, 2, "place")), mixed),
    Row("one_of", jem.Mixture(jem.OneOf(jem.Stack(full, 2), jem.StudentT())), tails),
    Row("labelled", jem.Mixture(full, 3), labelled),
    Row("restricted", jem.Mixture(diagonal, 3), restricted),
    Row("hmm", jem.HMM(full, 2), series),
    Row("hmm_missing", jem.HMM(diagonal, 2), holed),
    Row("hmm_categorical", jem.HMM(jem.Categorical(3), 2), symbol_series),
    Row("hmm_of_mixtures", jem.HMM(jem.Mixture(full, 2), 2), series),
    Row("hmm_durations", jem.HMM(jem.Poisson(), 2, transition=stays), count_series),
    Row("hmm_kronecker", jem.HMM(jem.Categorical(3), 4, transition=jem.laws.Kronecker(2, 2)), symbol_series),
    Row("hmm_additive", jem.HMM(added, initial=jem.laws.Outer(2, 2), transition=jem.laws.Kronecker(2, 2)), series),
    Row("mixture_additive", jem.Mixture(jem.Additive(jem.Gaussian(D, jem.priors.InverseWishart(2.0)), 2, 2)), reals),
    Row("factor", factors, factored),
    Row("factor_spherical_no_prior", jem.FactorAnalysis(2, jem.covariance.Spherical(), None), factored),
    Row("frozen_loadings", jem.Frozen(factors, "loadings"), factored, ("loadings",)),
    Row("mixture_factor", jem.Mixture(factors, 2), factored),
    Row("tied_factor", jem.Mixture(jem.Tied(factors, 2, "loadings", "whitening")), factored),
    Row("lds", jem.LDS(2, 2), cells),
    Row("lds_level", level, driven, ("A", "B")),
    Row("mixture_linear", jem.Mixture(jem.Linear(), 2, weights=jem.laws.Logistic(ridge=1.0)), lines),
    Row("tied_linear_t", jem.Mixture(jem.Tied(jem.Linear(jem.StudentT(), ridge=0.5), 2, "whitening", "df")), lines),
    Row("mixture_glm", jem.Mixture(jem.GLM(jem.Poisson()), 2), count_lines),
    Row("tied_glm", jem.Mixture(jem.Tied(jem.GLM(jem.NegativeBinomial(), ridge=0.5), 2, "concentration")), count_lines),
    Row("glm_categorical", jem.GLM(jem.Categorical(3), ridge=0.5), choices),
    Row("glm_gamma", jem.GLM(jem.Gamma(), offset=True), wait_lines),
    Row("hmm_logistic", jem.HMM(jem.GLM(jem.Poisson()), 2, transition=jem.laws.LogisticCells(ridge=1.0)), driven_counts),
    Row("mixture_laplace", jem.Mixture(laplace, 2), reals, ("mean", "scale")),
    Row("logjoint", log_joint, counts),
    Row("mixture_of_hmms", jem.Mixture(jem.HMM(jem.Poisson(), 2), 2), count_series),
]


class Model(NamedTuple):
    """A row of the zoo in one dtype, ready for a law: data, node bound to it, random valid parameters and weights."""

    row: Row
    node: Any
    x: Any
    units: Any
    weights: jax.Array
    params: Any
    eps: float

    def random(self, seed, size=0.4):
        """Random valid parameters of the model."""
        return from_free(self.params, noise_like(np.random.default_rng(seed), self.params, size))


@functools.cache
def build(name, dtype):
    """One row in one dtype; call it under the matching x64 setting."""
    row = next(r for r in ZOO if r.name == name)
    rng = np.random.default_rng(7)
    x = row.rows(rng, dtype)
    units = to_units(x)
    weights = jnp.asarray(rng.uniform(0.2, 2.0, NUM), dtype)
    shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.dtype(dtype)), start_form(name))
    params = from_free(shapes, noise_like(rng, shapes, 0.4))
    return Model(row, jem.bind(row.node, x, weights), x, units, weights, params, float(jnp.finfo(dtype).eps))


@functools.cache
def start_form(name):
    """Shapes of a row's start; tracing it takes longer than anything else here."""
    row = next(r for r in ZOO if r.name == name)
    units = to_units(row.rows(np.random.default_rng(7), "float32"))
    return jax.eval_shape(row.node.init, jax.random.key(0), units, jnp.ones(NUM, "float32"))


# Compiled once a model, whatever law asks.
e_step = jax.jit(e_step_chunk)
maximize = jax.jit(lambda node, params, stats: node.maximize(params, stats))


@jax.jit
def q_function(node, params, stats, old):
    """`Q(params | old)` and the log prior."""
    return node.expected_log_prob(params, stats, old), node.log_prior(params)


@jax.jit
def e_step_chunks(node, params, x, weights):
    """The engine's E-step over rows, 24 + 24 + 16 at a time."""
    return fold(lambda x, w: e_step_chunk(node, params, x, w), lay_out(x, weights, 24))


def assert_close(got, want, eps, ulps=64):
    """Leaves agree within `ulps` roundings of the largest entry of the leaf, or of one."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)
        assert a.shape == b.shape, jax.tree_util.keystr(path)
        scale = max(1.0, np.abs(b).max(initial=0.0))
        np.testing.assert_allclose(a, b, rtol=0, atol=ulps * eps * scale, err_msg=jax.tree_util.keystr(path))

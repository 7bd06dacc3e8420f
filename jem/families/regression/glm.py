"""Generalised linear models, by Newton steps of a length that cannot overshoot."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.data import Given, float_dtype, with_gaps
from jem.families.poisson import Poisson
from jem.families.regression.inputs import InputScale, centre_of, check_given, chosen, deviation, in_units, pulls, scale_of
from jem.families.regression.responses import RESPONSES, Choices, Response
from jem.kernels import intervals
from jem.kernels.intervals import Edges, Within
from jem.kernels.linalg import diagonal, solve_psd
from jem.kernels.newton import bounded_gain, bounded_step, length_of_moves
from jem.kernels.support import Held, Real
from jem.node import INPUTS, SEPARATED, Data, Node, flag, node, replaced, setting, static
from jem.settings import columns, number, optional

_UNKNOWN = 400.0  # variance of a coefficient for inputs of deviation one: of a linear predictor that may be anything


class GLMParams(NamedTuple):
    """Coefficients (D, p); linear predictors (D,) where the inputs are at their centre; concentrations (D,) of gamma outputs,
    sizes of negative binomial ones, else (); and the centre (p,), which stays as it is. Of M categories D = M - 1."""

    coef: Array
    level: Array
    concentration: Any
    centre: Array

    @property
    def intercept(self) -> Array:
        """The linear predictors (..., D) where the inputs are zero."""
        return self.level - jnp.sum(self.coef * self.centre[..., None, :], -1)


class GLMPosterior(NamedTuple):
    """Nothing is hidden; the log-densities (N,), which the statistics sum."""

    log_prob: Array


class GLMStats(NamedTuple):
    """Sums over units, inputs in their units and the last of them one.

    Attributes:
        count: () of weights.
        log_prob: () of log-densities.
        gram: (p + 1, p + 1) of products of inputs.
        slope: (D, p + 1) of slopes of log-densities in the coefficients, over the response's scale.
        curvature: (D, p + 1, p + 1) of their curvatures, likewise; (1, D (p + 1), D (p + 1)) of predictors that hang together.
        spread: (D,) what a concentration needs.
    """

    count: Array
    log_prob: Array
    gram: Array
    slope: Array
    curvature: Array
    spread: Array


def _must(family: Any, name: str) -> None:
    if type(family) not in RESPONSES:
        known = ", ".join(f"jem.{one.__name__}" for one in RESPONSES)
        raise TypeError(f"{name} must be one of {known}, made; got {family!r}")


@node
class GLM(Node):
    """A generalised linear model, `y ~ family` with `g(E[y]) = coef u + intercept`; x is `jem.Given(y (N, D), u (N, p))`.

    `g` is the logarithm for `jem.Poisson()`, `jem.NegativeBinomial()` and `jem.Gamma()`, the logit for `jem.Bernoulli()` and
    `jem.Binomial(n)`. Columns of y are independent given u, each with coefficients of its own. Of one among M categories,
    `jem.Categorical(M)` with y (N,), or counts of each, `jem.Multinomial()` with y (N, M), `log(p_k / p_0) = coef_k u +
    intercept_k`: multinomial logistic regression, D = M - 1 rows of coefficients, none for the first category.

    The M-step is a Newton step with decrement l, shortened to `log(1 + r) / r` of itself, `r = rho l`: no curvature changes by
    more than a factor `e^s` where eta moves by s, so that Q is at least its second-order model with `(e^r - 1 - r) / r^2` in
    place of 1/2, and the step is the maximum of that bound. It climbs always, and becomes Newton's. Negative binomial counts
    are Poisson with a hidden gamma-distributed factor: the step is that of EM.

    Params: `GLMParams(coef (D, p), level (D,), concentration, centre (p,))`; make them with `params`, read `.intercept`.

    Attributes:
        family: one of those above, made; priors that it has are not used.
        ridge: precision of a normal prior on each coefficient, `-ridge / 2 coef^2`; the intercept has none. None is
            maximum likelihood.
        columns: of u that it looks at, a tuple; None for all.
        offset: whether the last of these columns is added to the linear predictor as it is, as the logarithm of an exposure;
            it has no coefficient.
        inputs: filled in by binding to data.

    Raises:
        ValueError: at the door, x that is no `jem.Given`, or outputs that the family cannot have. Groups that an input
            separates end as DEGENERATE, with the cause SEPARATED.

    Example:
        >>> import jax, jem, jax.numpy as jnp
        >>> u = jnp.arange(8.0)[:, None]
        >>> x = jem.Given(jnp.array([1, 1, 2, 3, 6, 7, 13, 20])[:, None], u)
        >>> model = jem.GLM(jem.Poisson())
        >>> fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x).check()
        >>> round(float(fit.params.coef[0, 0]), 3), round(float(fit.params.intercept[0]), 3)
        (0.459, -0.214)

    Source: McCullagh and Nelder (1989), Generalized Linear Models; Bach (2010), Electronic J. Statist. 4, for the bound.
    """

    Params = GLMParams

    family: Any = setting(default=Poisson(), must=_must)
    ridge: Any = setting(default=None, must=optional(number(least=0.0)))
    columns: tuple[int, ...] | None = static(default=None, must=columns)
    offset: bool = static(default=False)
    inputs: InputScale | None = None

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({INPUTS})

    @property
    def response(self) -> Response:
        """The family in its linear predictor."""
        return RESPONSES[type(self.family)](self.family)

    def params(self, coef: Any, intercept: Any, concentration: Any = ()) -> GLMParams:
        """Parameters from coefficients (..., D, p), intercepts (..., D) and concentrations (..., D), about a centre of 0."""
        coef, level = jnp.asarray(coef, float), jnp.asarray(intercept, float)
        concentration = concentration if isinstance(concentration, tuple) else jnp.asarray(concentration, float)
        return GLMParams(coef, level, concentration, jnp.zeros((*coef.shape[:-2], coef.shape[-1]), coef.dtype))

    def bind(self, x: Given, weights: Array) -> "GLM":
        return replaced(self, inputs=scale_of(self.taken(x.inputs)[0], weights))

    def infer(self, params: GLMParams, x: Given) -> tuple[GLMPosterior, Array]:
        eta, _ = self.predictors(params, x.inputs)
        y = self.response.numbers(x.outputs, eta.dtype)
        log_prob = jnp.sum(self.response.log_prob(eta, y, params.concentration), 0)
        return GLMPosterior(log_prob), log_prob

    def expect(self, params: GLMParams, posterior: GLMPosterior, x: Given, weights: Array) -> GLMStats:
        return self.gather(params, posterior.log_prob, self.response.numbers(x.outputs, weights.dtype), x.inputs, weights)

    def gather(self, params: GLMParams, log_prob: Array, y: Array, inputs: Array, weights: Array) -> GLMStats:
        """The statistics of outputs as numbers y, which have such log-densities (N,)."""
        eta, u = self.predictors(params, inputs)
        slope, curvature, spread = (
            of(eta, y, params.concentration) for of in (self.response.slope, self.response.curvature, self.response.spread)
        )
        squares = lambda v: (u * (v * weights)[None]) @ u.T  # noqa: E731
        if curvature.ndim == 3:
            blocks = jnp.swapaxes(jax.vmap(jax.vmap(squares))(curvature), 1, 2)
            curvature = blocks.reshape(1, blocks.shape[0] * blocks.shape[1], -1)
        else:
            curvature = jax.vmap(squares)(curvature)
        return GLMStats(
            count=jnp.sum(weights),
            log_prob=jnp.where(weights > 0, log_prob, 0) @ weights,
            gram=(u * weights[None]) @ u.T,
            slope=(slope * weights[None]) @ u.T,
            curvature=curvature,
            spread=spread @ weights,
        )

    @property
    def edges(self) -> Edges:
        return self.family.edges

    def within(self, params: GLMParams, x: Given) -> Within:
        if params.coef.shape[0] > 1 or isinstance(self.response, Choices):
            raise TypeError(f"Censored: GLM takes intervals of one output that is a number; got {type(self.family).__name__}")
        eta, edges = self.predictors(params, x.inputs)[0], self.edges
        density = lambda y: self.response.log_prob(eta, y, params.concentration)  # noqa: E731
        if edges.whole:
            return intervals.by_sums(density, intervals.ends_of(x.outputs, edges, 0, eta.dtype))
        ends = intervals.ends_of(x.outputs, edges, 1, eta.dtype)
        return intervals.by_quadrature(density, ends, intervals.coordinate_of(edges, eta.dtype))

    def maximize(self, params: GLMParams, stats: GLMStats) -> GLMParams:
        slope, curvature = self._pulled(params, stats, params.concentration)
        step, gain = jax.vmap(lambda g, h: self._step(params.centre, g, h))(slope, curvature)
        step = step.reshape(stats.slope.shape)
        coef, level = params.coef + step[:, :-1] / self._deviation(params)[None], params.level + step[:, -1]
        # What the step gains is so much for each unit of the scale, whatever that is, and the step the same.
        spread = self.response.after(stats.spread, gain / self.response.scale(params.concentration, params.level))
        return GLMParams(coef, level, self.response.concentration(params.concentration, stats.count, spread), params.centre)

    def _step(self, centre: Array, slope: Array, curvature: Array) -> tuple[Array, Array]:
        """The step to the maximum of Q, and what it gains."""
        rho = self._rho(centre, curvature)
        step = bounded_step(slope, curvature, rho)
        return step, bounded_gain(step, slope, curvature, rho)

    def expected_log_prob(self, params: GLMParams, stats: GLMStats, old: GLMParams) -> Array:
        scaled = (params.coef - old.coef) * self._deviation(old)[None]
        step = jnp.concatenate([scaled, (params.level - old.level)[:, None]], 1)
        slope, curvature = self._pulled(old, stats, params.concentration)
        gain = lambda d, g, h: bounded_gain(d, g, h, self._rho(old.centre, h))  # noqa: E731
        gains = jnp.sum(jax.vmap(gain)(step.reshape(slope.shape), slope, curvature))
        own = self.response.change(params.concentration, old.concentration, stats.count, stats.spread)
        prior = 0.0 if self.ridge is None else 0.5 * self.ridge * jnp.sum(params.coef**2 - old.coef**2)
        return stats.log_prob + gains + own + prior

    def tie(self, params: GLMParams, stats: GLMStats, fields: tuple[str, ...]) -> GLMParams:
        if "level" in fields or not {"coef", "concentration"} & set(fields):
            return super().tie(params, stats, fields)
        each = jax.vmap(self.maximize, (self.sharing(params, fields), 0))(params, stats)
        new = self._together(params, stats, fields) if "coef" in fields else each
        if "concentration" in fields:
            pooled = self.response.concentration(params.concentration, jnp.sum(stats.count), jnp.sum(stats.spread, 0))
            return new._replace(concentration=pooled, centre=params.centre)
        return new._replace(concentration=each.concentration, centre=params.centre)

    def _together(self, params: GLMParams, stats: GLMStats, fields: tuple[str, ...]) -> GLMParams:
        """The step of copies that share coefficients, each with a level of its own."""
        (size, num), (rows, p) = params.level.shape, params.coef.shape
        pulled = lambda at, each: self._pulled(at, each, at.concentration)  # noqa: E731
        slope, curvature = jax.vmap(pulled, (self.sharing(params, fields), 0))(params, stats)
        # Copy k has the shared coefficients and the k-th level.
        own = jnp.zeros((size, p + size, p + 1)).at[:, jnp.arange(p), jnp.arange(p)].set(1)
        own = own.at[jnp.arange(size), p + jnp.arange(size), p].set(1).astype(slope.dtype)
        own = jax.vmap(lambda e: jnp.kron(jnp.eye(slope.shape[-1] // (p + 1), dtype=e.dtype), e))(own)
        joint = jnp.einsum("kmj,kbj->bm", own, slope), jnp.einsum("kmi,kbij,knj->bmn", own, curvature, own)
        rho = jnp.max(jax.vmap(lambda c, each: jax.vmap(lambda h: self._rho(c, h))(each))(params.centre, curvature), 0)
        step = jax.vmap(bounded_step)(*joint, rho).reshape(rows, p + size)
        coef = params.coef + step[:, :p] / deviation(self.inputs, params.coef[0])[None]
        return params._replace(coef=coef, level=params.level + step[:, p:].T.reshape(size, num))

    def hold(self, params: GLMParams, stats: GLMStats, fields: tuple[str, ...]) -> GLMStats:
        moves = jnp.array(["coef" not in fields] * params.coef.shape[1] + ["level" not in fields])
        slope = jnp.where(moves[None], stats.slope, 0)
        moves = jnp.tile(moves, stats.curvature.shape[-1] // len(moves))
        return stats._replace(slope=slope, curvature=jnp.where((moves[:, None] & moves[None])[None], stats.curvature, 0))

    def init(self, key: Array, x: Given, weights: Array) -> GLMParams:
        y = self.response.numbers(x.outputs, weights.dtype)
        return self.start(y, x.inputs, weights)

    def start(self, y: Array, inputs: Array, weights: Array) -> GLMParams:
        """Least squares of rough predictors of outputs as numbers y."""
        inputs, offset = self.taken(inputs)
        centre = centre_of(self.inputs, inputs, weights)
        u = self._with_one(centre, inputs)
        eta = self.response.start(y) - offset
        coef = solve_psd((u * weights[None]) @ u.T, (u * weights[None]) @ eta.T).T
        first = self.response.first(y)
        return GLMParams(coef[:, :-1] / deviation(self.inputs, centre)[None], coef[:, -1], first, centre)

    def sample(self, key: Array, params: GLMParams, num: int) -> tuple[Any, Data]:
        raise TypeError("GLM: inputs are given, not drawn; draw like data with inputs, sample(..., like=x)")

    def sample_like(self, key: Array, params: GLMParams, x: Given) -> tuple[tuple[()], Given]:
        eta, _ = self.predictors(params, x.inputs)
        like = self.response.numbers(x.outputs, eta.dtype)
        return (), Given(with_gaps(self.response.sample(key, eta, params.concentration, like), x.outputs), x.inputs)

    def supports(self, params: GLMParams) -> GLMParams:
        return params._replace(coef=Real(), level=Real(), concentration=self.response.support(), centre=Held())

    def log_prior(self, params: GLMParams) -> Array:
        if self.ridge is None:
            return jnp.zeros((), params.coef.dtype)
        return -0.5 * self.ridge * jnp.sum(params.coef**2)

    def degenerate(self, params: GLMParams, stats: GLMStats) -> Array:
        # The inputs tell coefficients apart, and the outputs say nothing of one: where the likelihood only rises, what is left
        # of the climb is about as much as the curvature.
        def variances(a: Array) -> Array:
            inverse = diagonal(solve_psd(a, jnp.eye(len(a), dtype=a.dtype)))
            return jnp.where(diagonal(a) > 0, inverse, jnp.inf)

        unknown = jax.vmap(variances)(self._pulled(params, stats, params.concentration)[1]) > _UNKNOWN
        told = variances(stats.gram) < 1
        unknown = unknown.reshape(-1, len(told))
        return flag(SEPARATED, jnp.any(unknown & told[None]))

    def features(self, x: Given) -> Array:
        inputs, offset = self.taken(x.inputs)
        y = self.response.numbers(x.outputs, float_dtype(x.outputs))
        return pulls(self.inputs, inputs, self.response.start(y) - offset)

    def validate(self, x: Any) -> None:
        check_given(x, "GLM", self.columns)
        self.family.validate(x.outputs)
        if self.offset and (x.inputs.shape[1] if self.columns is None else len(self.columns)) == 0:
            raise ValueError("GLM: offset=True takes the last column of inputs for the offset; there is no column")

    def taken(self, inputs: Array) -> tuple[Array, Any]:
        """The inputs (p, N) that have coefficients, and what is added to every predictor, (1, N)."""
        seen = chosen(inputs, self.columns)
        return (seen[:-1], seen[-1:]) if self.offset else (seen, 0.0)

    def _deviation(self, params: GLMParams) -> Array:
        return deviation(self.inputs, params.coef[0])

    def _with_one(self, centre: Array, inputs: Array) -> Array:
        """Inputs in their units (p, N), and ones below them."""
        u = in_units(self.inputs, centre, inputs)
        return jnp.concatenate([u, jnp.ones_like(u[:1])])

    def predictors(self, params: GLMParams, inputs: Array) -> tuple[Array, Array]:
        """eta (D, N), and the inputs it was made of, (p + 1, N)."""
        inputs, offset = self.taken(inputs)
        u = self._with_one(params.centre, inputs)
        scaled = params.coef * self._deviation(params)[None]
        return jnp.concatenate([scaled, params.level[:, None]], 1) @ u + offset, u

    def _pulled(self, params: GLMParams, stats: GLMStats, concentration: Any) -> tuple[Array, Array]:
        """Slopes (B, m) and curvatures (B, m, m) with the prior's, of outputs with such a concentration."""
        c = self.response.scale(concentration, params.level)
        slope = stats.slope * c[:, None]
        curvature = stats.curvature * (c[:, None, None] if len(stats.curvature) == len(c) else 1)
        if self.ridge is not None:
            pull = jnp.where(stats.count > 0, self.ridge / self._deviation(params), 0)
            more = jnp.tile(jnp.pad(pull / self._deviation(params), (0, 1)), curvature.shape[-1] // slope.shape[1])
            slope = slope - jnp.pad(pull[None] * params.coef, ((0, 0), (0, 1)))
            curvature = curvature + jnp.diag(more)[None]
        return slope.reshape(curvature.shape[:-1]), curvature

    def _rho(self, centre: Array, curvature: Array) -> Array:
        """By how much eta can move where the step has length one, measured by the curvature."""
        if self.inputs is None:
            raise ValueError("GLM: its step depends on how far the inputs reach; bind the model with jem.bind(model, x)")
        away = (self.inputs.centre - centre) / self.inputs.deviation
        reach = self.inputs.reach + jnp.sqrt(jnp.sum(away * away))
        return self.response.reach * reach * length_of_moves(curvature)

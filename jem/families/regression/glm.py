"""Generalised linear models, by Newton steps of a length that cannot overshoot."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.data import Given, float_dtype, with_gaps
from jem.families.poisson import Poisson
from jem.families.regression.inputs import InputScale, centre_of, check_given, deviation, in_units, pulls, scale_of
from jem.families.regression.responses import RESPONSES, Response
from jem.kernels import intervals
from jem.kernels.intervals import Edges, Within
from jem.kernels.linalg import diagonal, solve_psd
from jem.kernels.support import Held, Real
from jem.node import INPUTS, SEPARATED, Data, Node, flag, node, replaced, setting
from jem.settings import number, optional

_UNKNOWN = 400.0  # variance of a coefficient for inputs of deviation one: of a linear predictor that may be anything


class GLMParams(NamedTuple):
    """Coefficients (D, p); linear predictors (D,) where the inputs are at their centre; concentrations (D,) of a family that
    has them, else (); and the centre (p,), which stays as it is."""

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
        slope: (D, p + 1) of slopes of log-densities in the coefficients, over the concentration.
        curvature: (D, p + 1, p + 1) of their curvatures, likewise.
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

    `g` is the logarithm for `jem.Poisson()` and `jem.Gamma()`, the logit for `jem.Bernoulli()` and `jem.Binomial(n)`. Columns
    of y are independent given u, each with coefficients of its own.

    The M-step is a Newton step with decrement l, shortened to `log(1 + r) / r` of itself, `r = rho l`: no curvature changes by
    more than a factor `e^s` where eta moves by s, so that Q is at least its second-order model with `(e^r - 1 - r) / r^2` in
    place of 1/2, and the step is the maximum of that bound. It climbs always, and becomes Newton's.

    Params: `GLMParams(coef (D, p), level (D,), concentration, centre (p,))`; make them with `params`, read `.intercept`.

    Attributes:
        family: `jem.Poisson()`, `jem.Bernoulli()`, `jem.Binomial(n)` or `jem.Gamma()`; priors that it has are not used.
        ridge: precision of a normal prior on each coefficient, `-ridge / 2 coef^2`; the intercept has none. None is
            maximum likelihood.
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
        return replaced(self, inputs=scale_of(x.inputs, weights))

    def infer(self, params: GLMParams, x: Given) -> tuple[GLMPosterior, Array]:
        eta, _ = self._predictors(params, x)
        log_prob = jnp.sum(self.response.log_prob(eta, x.outputs.astype(eta.dtype), params.concentration), 0)
        return GLMPosterior(log_prob), log_prob

    def expect(self, params: GLMParams, posterior: GLMPosterior, x: Given, weights: Array) -> GLMStats:
        eta, u = self._predictors(params, x)
        y = x.outputs.astype(eta.dtype)
        bent = self.response.curvature(eta, y) * weights[None]
        return GLMStats(
            count=jnp.sum(weights),
            log_prob=jnp.where(weights > 0, posterior.log_prob, 0) @ weights,
            gram=(u * weights[None]) @ u.T,
            slope=(self.response.slope(eta, y) * weights[None]) @ u.T,
            curvature=jax.vmap(lambda v: (u * v[None]) @ u.T)(bent),
            spread=self.response.spread(eta, y) @ weights,
        )

    @property
    def edges(self) -> Edges:
        return self.family.edges

    def within(self, params: GLMParams, x: Given) -> Within:
        if params.coef.shape[0] > 1:
            raise TypeError(f"Censored: GLM takes intervals of one output only; got {params.coef.shape[0]}")
        eta, edges = self._predictors(params, x)[0], self.edges
        density = lambda y: self.response.log_prob(eta, y, params.concentration)  # noqa: E731
        if edges.whole:
            return intervals.by_sums(density, intervals.ends_of(x.outputs, edges, 0, eta.dtype))
        ends = intervals.ends_of(x.outputs, edges, 1, eta.dtype)
        return intervals.by_quadrature(density, ends, intervals.coordinate_of(edges, eta.dtype))

    def maximize(self, params: GLMParams, stats: GLMStats) -> GLMParams:
        pulled = self._pulled(params, stats, params.concentration)
        step = jax.vmap(lambda *each: self._step(params.centre, *each))(*pulled)
        coef, level = params.coef + step[:, :-1] / self._deviation(params)[None], params.level + step[:, -1]
        # The step is the same for every concentration, and each Q is one of its own times the same gain.
        concentration = self.response.concentration(params.concentration, stats.count, stats.spread)
        return GLMParams(coef, level, concentration, params.centre)

    def expected_log_prob(self, params: GLMParams, stats: GLMStats, old: GLMParams) -> Array:
        scaled = (params.coef - old.coef) * self._deviation(old)[None]
        step = jnp.concatenate([scaled, (params.level - old.level)[:, None]], 1)
        pulled = self._pulled(old, stats, params.concentration)
        gain = jnp.sum(jax.vmap(lambda *each: self._gain(old.centre, *each))(step, *pulled))
        own = self.response.change(params.concentration, old.concentration, stats.count, stats.spread)
        prior = 0.0 if self.ridge is None else 0.5 * self.ridge * jnp.sum(params.coef**2 - old.coef**2)
        return stats.log_prob + gain + own + prior

    def init(self, key: Array, x: Given, weights: Array) -> GLMParams:
        response, centre = self.response, centre_of(self.inputs, x.inputs, weights)
        u = self._with_one(centre, x.inputs)
        y = x.outputs.astype(weights.dtype)
        eta = response.start(y)
        coef = solve_psd((u * weights[None]) @ u.T, (u * weights[None]) @ eta.T).T
        return GLMParams(coef[:, :-1] / deviation(self.inputs, centre)[None], coef[:, -1], response.first(y), centre)

    def sample(self, key: Array, params: GLMParams, num: int) -> tuple[Any, Data]:
        raise TypeError("GLM: inputs are given, not drawn; draw like data with inputs, sample(..., like=x)")

    def sample_like(self, key: Array, params: GLMParams, x: Given) -> tuple[tuple[()], Given]:
        drawn = self.response.sample(key, self._predictors(params, x)[0], params.concentration)
        return (), Given(with_gaps(drawn, x.outputs), x.inputs)

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
        return flag(SEPARATED, jnp.any(unknown & told[None]))

    def features(self, x: Given) -> Array:
        return pulls(self.inputs, x.inputs, self.response.start(x.outputs.astype(float_dtype(x.outputs))))

    def validate(self, x: Any) -> None:
        check_given(x, "GLM")
        self.family.validate(x.outputs)

    def _deviation(self, params: GLMParams) -> Array:
        return deviation(self.inputs, params.coef[0])

    def _with_one(self, centre: Array, inputs: Array) -> Array:
        """Inputs in their units (p, N), and ones below them."""
        u = in_units(self.inputs, centre, inputs)
        return jnp.concatenate([u, jnp.ones_like(u[:1])])

    def _predictors(self, params: GLMParams, x: Given) -> tuple[Array, Array]:
        """eta (D, N), and the inputs it was made of, (p + 1, N)."""
        u = self._with_one(params.centre, x.inputs)
        scaled = params.coef * self._deviation(params)[None]
        return jnp.concatenate([scaled, params.level[:, None]], 1) @ u, u

    def _pulled(self, params: GLMParams, stats: GLMStats, concentration: Any) -> tuple[Array, Array]:
        """Slopes and curvatures with the prior's, of outputs with such a concentration."""
        c = jnp.ones_like(params.level) if isinstance(concentration, tuple) else concentration
        slope, curvature = stats.slope * c[:, None], stats.curvature * c[:, None, None]
        if self.ridge is None:
            return slope, curvature
        pull = jnp.where(stats.count > 0, self.ridge / self._deviation(params), 0)
        more = jnp.pad(pull / self._deviation(params), (0, 1))
        return slope - jnp.pad(pull[None] * params.coef, ((0, 0), (0, 1))), curvature + jnp.diag(more)[None]

    def _rho(self, centre: Array, curvature: Array) -> Array:
        """By how much eta can move where the step has length one, measured by the curvature."""
        if self.inputs is None:
            raise ValueError("GLM: its step depends on how far the inputs reach; bind the model with jem.bind(model, x)")
        away = (self.inputs.centre - centre) / self.inputs.deviation
        reach = self.inputs.reach + jnp.sqrt(jnp.sum(away * away))
        return reach * jnp.sqrt(jnp.trace(solve_psd(curvature, jnp.eye(len(curvature), dtype=curvature.dtype))))

    def _step(self, centre: Array, slope: Array, curvature: Array) -> Array:
        newton = solve_psd(curvature, slope[:, None])[:, 0]
        r = self._rho(centre, curvature) * jnp.sqrt(jnp.maximum(newton @ slope, 0))
        return newton * jnp.where(r > 0, jnp.log1p(r) / jnp.where(r > 0, r, 1), 1)

    def _gain(self, centre: Array, step: Array, slope: Array, curvature: Array) -> Array:
        square = step @ curvature @ step
        r2 = self._rho(centre, curvature) ** 2 * square
        return step @ slope - square * _growth(r2)


def _growth(square: Array) -> Array:
    """`(e^r - 1 - r) / r^2` from `r^2`, by its series where that is small."""
    small = square < 0.1
    low, r = jnp.where(small, square, 0), jnp.sqrt(jnp.where(small, 1, square))
    root = jnp.sqrt(jnp.where(low > 0, low, 1)) * (low > 0)
    series = 1 / 2 + root / 6 + low / 24 + low * root / 120 + low**2 / 720 + low**2 * root / 5040 + low**3 / 40320
    return jnp.where(small, series, (jnp.expm1(jnp.minimum(r, 80)) - r) / jnp.where(small, 1, square))

"""Linear regressions, with the noise of any location-scale family."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.data import Given, Interval, with_gaps
from jem.families.gaussian import Gaussian
from jem.families.regression.inputs import InputScale, centre_of, check_given, chosen, deviation, in_units, pulls, scale_of
from jem.kernels.covariance import covariance_of
from jem.kernels.intervals import Edges, Within
from jem.kernels.linalg import solve_psd
from jem.kernels.support import Held, Real
from jem.node import INPUTS, Data, Node, Posterior, Stats, node, replaced, setting, static
from jem.settings import a, columns, number, optional

NOISE = a("of_squares", "the family of the noise, jem.Gaussian(...) or jem.StudentT(...)")


class LinearParams(NamedTuple):
    """Coefficients (M, p); the outputs' level (M,) where the inputs are at their centre; the whitening of the noise; the
    degrees of freedom of Student-t noise, else (); and the centre (p,), which stays as it is."""

    coef: Array
    level: Array
    whitening: Array
    df: Any
    centre: Array

    @property
    def intercept(self) -> Array:
        """The outputs' level (..., M) where the inputs are zero."""
        return self.level - jnp.sum(self.coef * self.centre[..., None, :], -1)

    @property
    def covariance(self) -> Array:
        """That of the noise, (..., M, M) whatever the structure; of Student-t noise its scale matrix."""
        return covariance_of(self.whitening, self.level.shape[-1])


class LinearStats(NamedTuple):
    """Of whitened residuals z and inputs u about their centre in their deviations: the noise's own statistics, and sums of
    `v z u^T` (M, p), `v u` (p,) and `v u u^T` (p, p), v what a moment weighs."""

    noise: Stats
    cross: Array
    total: Array
    gram: Array


@node
class Linear(Node):
    """A linear regression, `y = coef u + intercept + e`, e from the noise's family; x is `jem.Given(y (N, M), u (N, p))`.

    The covariance of the noise has any structure. With `jem.StudentT` noise, outliers get small weights; hold its degrees of
    freedom with `jem.Frozen(jem.Linear(jem.StudentT(df=4.0)), "df")`. The M-step is weighted least squares. In a `jem.Mixture`
    it is a mixture of regressions, in a `jem.HMM` a switching regression, or autoregression where u are the outputs before.

    Params: `LinearParams(coef (M, p), level (M,), whitening, df, centre (p,))`; make them with `params`, read `.intercept` and
    `.covariance`.

    Attributes:
        noise: a `jem.Gaussian` or `jem.StudentT`.
        ridge: strength of a prior on the coefficients, `coef ~ N(0, Sigma / ridge)`: what ridge regression adds to the squares
            of the residuals, `ridge |coef|^2`; the intercept is not penalised. None is least squares.
        columns: of u that it looks at, a tuple; None for all.
        inputs: filled in by binding to data.

    Raises:
        ValueError: at the door, x that is no `jem.Given` of two matrices.

    Example:
        >>> import jax, jem, jax.numpy as jnp
        >>> u = jnp.arange(6.0)[:, None]
        >>> x = jem.Given(1.0 + 2.0 * u + 0.1 * jnp.cos(5.0 * u), u)
        >>> fit = jem.fit(jem.Linear(), jem.init(jem.Linear(), jax.random.key(0), x), x)
        >>> round(float(fit.params.coef[0, 0]), 2), round(float(fit.params.intercept[0]), 2)
        (2.0, 1.02)

    Source: Quandt and Ramsey (1978), JASA 73, for mixtures; Lange, Little and Taylor (1989), JASA 84, for Student-t noise.
    """

    Params = LinearParams

    noise: Any = setting(default=Gaussian(), must=NOISE)
    ridge: Any = setting(default=None, must=optional(number(least=0.0)))
    columns: tuple[int, ...] | None = static(default=None, must=columns)
    inputs: InputScale | None = None

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({INPUTS})

    @property
    def df(self) -> Any:
        """Degrees of freedom of Student-t noise at the start; () of other noise."""
        return getattr(self.noise, "df", ())

    def params(self, coef: Any, intercept: Any, covariance: Any, df: Any = None) -> LinearParams:
        """Parameters about a centre of 0: coefficients (..., M, p), intercepts (..., M), covariances, degrees of freedom."""
        coef = jnp.asarray(coef, float)
        noise = self.noise.params(intercept, covariance, *([] if df is None else [df]))
        return self._record(coef, noise, jnp.zeros((*coef.shape[:-2], coef.shape[-1]), coef.dtype))

    def bind(self, x: Given, weights: Array) -> "Linear":
        return replaced(self, noise=self.noise.bind(x.outputs, weights), inputs=scale_of(self._seen(x), weights))

    def infer(self, params: LinearParams, x: Given) -> tuple[Posterior, Array]:
        noise, left, _ = self._residuals(params, x)
        return self.noise.infer(noise, left)

    def expect(self, params: LinearParams, posterior: Posterior, x: Given, weights: Array) -> LinearStats:
        noise, left, u = self._residuals(params, x)
        vu = u * self.noise.mass(posterior, weights)[None]
        z = self.noise.whitened(noise, left)
        return LinearStats(self.noise.expect(noise, posterior, left, weights), z @ vu.T, jnp.sum(vu, 1), vu @ u.T)

    @property
    def edges(self) -> Edges:
        return Edges()

    def within(self, params: LinearParams, x: Given) -> Within:
        zero = jnp.zeros((params.coef.shape[0], x.inputs.shape[1]), params.coef.dtype)
        noise, minus, _ = self._residuals(params, x._replace(outputs=zero))
        found = self.noise.within(noise, Interval(*(end + minus for end in x.outputs)))
        return found._replace(points=found.points - minus[None])

    def maximize(self, params: LinearParams, stats: LinearStats) -> LinearParams:
        coef, level, scatter, count = self._least_squares(params, stats)
        new = self.noise.scattered(self._noise(params), stats.noise, count, scatter, params.coef.shape[0])
        return self._record(coef, new._replace(mean=level), params.centre)

    def _least_squares(self, params: LinearParams, stats: LinearStats) -> tuple[Array, Array, Array, Array]:
        """Coefficients and level, and the scatter about them in the coordinates of the whitening, of so many units."""
        shape, w = self.noise.covariance, params.whitening
        cross, gram = _with_intercept(stats)
        scaled = self._scaled(params)
        shrunk, pull = jnp.pad(shape.times(w, scaled), ((0, 0), (0, 1))), self._pull(params)
        move = jnp.where(jnp.diagonal(gram) > 0, pull, 0)  # of what is held, or not there, nothing
        change = solve_psd(gram + jnp.diag(move), (cross - shrunk * move[None]).T).T
        both = change @ cross.T
        rest = change @ gram @ change.T - both - both.T + ((shrunk + change) * pull[None]) @ (shrunk + change).T
        step = shape.solve(w, change)
        coef = params.coef + step[:, :-1] / deviation(self.inputs, params.coef[0])[None]
        more = 0 if self.ridge is None else jnp.where(stats.noise.count > 0, params.coef.shape[1], 0)
        return coef, params.level + step[:, -1], stats.noise.moments.second + shape.restrict(rest), stats.noise.count + more

    def sharing(self, params: LinearParams, fields: tuple[str, ...]) -> LinearParams:
        own = super().sharing(params, tuple(f for f in fields if f in params._fields))
        others = tuple(f for f in fields if f not in LinearParams._fields or f in ("whitening", "df"))
        return own._replace(**self._record(0, self.noise.sharing(self._noise(params), others), 0)._asdict())

    def tie(self, params: LinearParams, stats: LinearStats, fields: tuple[str, ...]) -> LinearParams:
        if {"coef", "level"} & set(fields):
            return super().tie(params, stats, fields)
        axes = self.sharing(params, fields)
        coef, level, scatter, count = jax.vmap(self._least_squares, (axes, 0))(params, stats)
        new = self.noise.tied(self._noise(params), stats.noise, level, count, scatter, fields)
        return self._record(coef, new, params.centre)

    def expected_log_prob(self, params: LinearParams, stats: LinearStats, old: LinearParams) -> Array:
        here = self._noise(params)
        return self.noise.expected_log_prob(here, self.recentre(stats, old, params).noise, here)

    def recentre(self, stats: LinearStats, old: LinearParams, new: LinearParams) -> LinearStats:
        shape, second = self.noise.covariance, stats.noise.moments.second
        before, after = self._noise(old), self._noise(new)
        turn = lambda z: shape.times(after.whitening, shape.solve(before.whitening, z))  # noqa: E731
        coef = (old.coef - new.coef) * deviation(self.inputs, new.coef[0])[None]
        moved = shape.times(after.whitening, jnp.concatenate([coef, (before.mean - after.mean)[:, None]], 1))
        cross, gram = _with_intercept(stats)
        crossed = turn(cross) @ moved.T
        more = crossed + crossed.T + moved @ gram @ moved.T
        cross = turn(cross) + moved @ gram
        second = shape.change(after.whitening, before.whitening, second) + shape.restrict(more)
        moments = stats.noise.moments._replace(first=cross[:, -1], second=second)
        return stats._replace(noise=stats.noise._replace(moments=moments), cross=cross[:, :-1])

    def init(self, key: Array, x: Given, weights: Array) -> LinearParams:
        # Least squares, the residuals with a few more that are like the outputs themselves.
        dim, u = x.outputs.shape[0], self._seen(x)
        none, few = jnp.zeros((dim, u.shape[0]), weights.dtype), u.shape[0] + 2
        centre = centre_of(self.inputs, u, weights)
        params = self._record(none, self.noise.init(key, x.outputs, weights), centre)
        stats = self.expect(params, self.infer(params, x)[0], x, weights)
        moments, count = stats.noise.moments, stats.noise.count + few
        eye = self.noise.covariance.restrict(few * jnp.eye(dim, dtype=weights.dtype))
        wide = stats.noise._replace(count=count, moments=moments._replace(second=moments.second + eye))
        return self.maximize(params, stats._replace(noise=wide))._replace(df=params.df)

    def sample(self, key: Array, params: LinearParams, num: int) -> tuple[Any, Data]:
        raise TypeError("Linear: inputs are given, not drawn; draw like data with inputs, sample(..., like=x)")

    def sample_like(self, key: Array, params: LinearParams, x: Given) -> tuple[Any, Given]:
        noise, _, u = self._residuals(params, x)
        latents, drawn = self.noise.sample(key, noise, u.shape[1])
        return latents, Given(with_gaps(self._scaled(params) @ u + drawn, x.outputs), x.inputs)

    def supports(self, params: LinearParams) -> LinearParams:
        return self._record(Real(), self.noise.supports(self._noise(params)), Held())

    def log_prior(self, params: LinearParams) -> Array:
        own = self.noise.log_prior(self._noise(params))
        if self.ridge is None:
            return own
        shape, w, (dim, num) = self.noise.covariance, params.whitening, params.coef.shape
        return own + num * shape.log_det(w, dim) - 0.5 * self.ridge * jnp.sum(shape.times(w, params.coef) ** 2)

    def degenerate(self, params: LinearParams, stats: LinearStats) -> Array:
        return self.noise.degenerate(self._noise(params), stats.noise)

    def conditioning(self, params: LinearParams) -> Array:
        return self.noise.conditioning(self._noise(params))

    def hold(self, params: LinearParams, stats: LinearStats, fields: tuple[str, ...]) -> LinearStats:
        if "coef" in fields:
            stats = jax.tree.map(jnp.zeros_like, stats)._replace(noise=stats.noise)
        if "level" not in fields:
            return stats
        moments = stats.noise.moments
        still = stats.noise._replace(moments=moments._replace(first=jnp.zeros_like(moments.first)))
        return stats._replace(noise=still, total=jnp.zeros_like(stats.total))

    def features(self, x: Given) -> Array:
        return pulls(self.inputs, self._seen(x), x.outputs)

    def validate(self, x: Any) -> None:
        check_given(x, "Linear", self.columns)
        self.noise.validate(x.outputs)

    def _seen(self, x: Given) -> Array:
        return chosen(x.inputs, self.columns)

    def _noise(self, params: LinearParams) -> Any:
        """The noise's parameters, its mean the level."""
        _, *fields, df, _ = params
        return self.noise.Params(*fields, *([] if isinstance(df, tuple) else [df]))

    def _record(self, coef: Any, noise: Any, centre: Any) -> LinearParams:
        """Undoes `_noise`."""
        level, whitening, *df = noise
        return LinearParams(coef, level, whitening, df[0] if df else (), centre)

    def _scaled(self, params: LinearParams) -> Array:
        """Coefficients of inputs in their units."""
        return params.coef * deviation(self.inputs, params.coef[0])[None]

    def _residuals(self, params: LinearParams, x: Given) -> tuple[Any, Array, Array]:
        """The noise's parameters, the outputs without what the inputs in their units (p, N) make of them, and these."""
        u = in_units(self.inputs, params.centre, self._seen(x))
        return self._noise(params), x.outputs - self._scaled(params) @ u, u

    def _pull(self, params: LinearParams) -> Array:
        """The weight of the prior on each coefficient of inputs in their units, and none on the intercept, (p + 1,)."""
        if self.ridge is None:
            return jnp.zeros(params.coef.shape[1] + 1, params.coef.dtype)
        return jnp.append(self.ridge / deviation(self.inputs, params.coef[0]) ** 2, 0)


def _with_intercept(stats: LinearStats) -> tuple[Array, Array]:
    """Sums of `v z u^T` (M, p + 1) and `v u u^T` (p + 1, p + 1), the last input one."""
    cross = jnp.concatenate([stats.cross, stats.noise.moments.first[:, None]], 1)
    total = stats.total[:, None]
    gram = jnp.block([[stats.gram, total], [total.T, stats.noise.mass[None, None]]])
    return cross, gram

"""Linear-Gaussian state-space models (linear dynamical systems)."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem import checks, coordinates, series_checks, tree
from jem.backend import precise
from jem.data import float_dtype, series_of, to_rows, to_units, with_gaps, with_inputs, with_values, without_inputs
from jem.families.scatter import FeatureScale
from jem.kernels import emission, kalman, regression, riccati
from jem.kernels.covariance import Full
from jem.kernels.gaussian import LOG_2PI
from jem.kernels.regression import Noise
from jem.latents.linear import offsets as lds_offsets
from jem.latents.linear import params as lds_params
from jem.latents.linear import start as lds_start
from jem.latents.linear import trajectory as lds_trajectory
from jem.latents.linear.data import Steps, check_values, describe, join, output_scale, pattern_of, steps_of, times
from jem.latents.linear.params import LDSParams
from jem.latents.linear.trajectory import Filtered, Forecast, Smoothed
from jem.node import HELD, MISSING, Data, Node, flag, node, set_once, static
from jem.reading import as_arrays
from jem.settings import an_instance, whole


class LDSPosterior(NamedTuple):
    """Posterior of the states, as far as the M-step needs it; `LDS.smooth` gives every covariance.

    Attributes:
        mean: (T, n, S) of x_t, zero beyond a sequence's end.
        noise: (T, n, S) of e_{t+1}, where the process noise is chol_Q e.
        first: (n, S) of eta_1, where x_1 = m0 + chol_P0 eta_1.
        residual: (T, M, S) of the observation noise in its own coordinates.
        moments: covariances, summed over time.
    """

    mean: Array
    noise: Array
    first: Array
    residual: Array
    moments: kalman.Moments


class LDSStats(NamedTuple):
    """Moments of the first state, of the moves and of the observations, and what moves what EM cannot."""

    initial: regression.Moments
    process: regression.Moments
    observation: regression.Moments
    offsets: lds_offsets.Offsets


FORM = an_instance(kalman.Form, "jem.forms.Automatic(), jem.forms.Sequential(), jem.forms.Steady() or jem.forms.Associative()")


@node
class LDS(Node):
    """A linear-Gaussian state-space model, `x_t = A x_{t-1} + B u_t + w_t`, `y_t = C x_t + D u_t + v_t`.

    `x_1 ~ N(m0, P0)`, `w_t ~ N(0, Q)`, `v_t ~ N(0, R)`. The log-likelihood is the Kalman filter's, the E-step the smoother's
    with lag-one covariances, in square-root form: singular Q and diffuse P0 are fine, in float32 too. A unit is a
    sequence: weights are per sequence.

    x is an array (S, T, M), `jem.Sequences(values, lengths)`, or with inputs a `jem.Given(outputs, inputs)` in the place of the
    array. A NaN is a missing cell: what is left of its row counts, exactly. With diagonal R the M-step leaves missing cells
    out; with full R it takes their moments given the rest of the row, as missing data of the EM algorithm.

    Structural models are written by fixing cells: a number in `fixed` stays, a NaN is free. The M-step solves each
    row's weighted least squares over its free cells, and jointly over rows where they share a full covariance (then Q or R
    follows at the new coefficients, a conditional maximisation). Where whole matrices stay: `jem.Frozen(lds, "A", "chol_Q")`.
    A variance that is zero stays zero, and process noise that starts at next to nothing, which EM cannot move, starts at a
    millionth of the observations'; m0 and B of states without noise then move by least squares of their own, in steps that
    alternate with the others.

    The model has no intercept: give a constant input, or a state that does not move. Free matrices are determined up to a
    change of the states' basis: up to n^2 of the parameters counted by `jem.num_parameters` are a convention.

    Params: `LDSParams`; make them with `params`.

    Args:
        num_states: n.
        num_outputs: M.
        num_inputs: p.
        Q: structure of the process noise, `jem.covariance.Full()` or `jem.covariance.Diagonal()`.
        R: structure of the observation noise.
        P0: structure of the first state's covariance.
        fixed: dict with entries "A", "B", "C", "D" or "m0" of those shapes, and "Q", "R" or "P0" of variances where
            diagonal; NaN where free.
        form: `jem.forms.Automatic()`, `Sequential()`, `Steady()` or `Associative()`: how the recursion runs, never the answer.
        length: length of the sequences that `jem.sample` draws.

    Raises:
        ValueError: fixed cells of another shape or range; at the door, outputs or inputs of another shape, or an input that is
            missing.

    Example:
        >>> import jem, numpy as np
        >>> nan = np.nan
        >>> trend = jem.LDS(2, 1, Q=jem.covariance.Diagonal(), fixed={"A": [[1, 1], [0, 1]], "C": [[1, 0]], "Q": [nan, 0]})
        >>> trend.params(Q=[0.5, 0.0], R=[[2.0]]).C.tolist()
        [[1.0, 0.0]]

    Source: Shumway and Stoffer (1982), J. Time Series Analysis 3; Ghahramani and Hinton (1996), CRG-TR-96-2.
    """

    Params = LDSParams

    num_states: int = static()
    num_outputs: int = static()
    num_inputs: int = static()
    Q: Noise = static()
    R: Noise = static()
    P0: Noise = static()
    fixed: dict[str, Any]
    held: tuple[tuple[str, tuple[bool, ...]], ...] = static()  # which cells these are, in the entries' flat order
    scale: FeatureScale | None
    form: kalman.Form = static(must=FORM)
    length: int = static(must=whole(1))

    def __init__(
        self,
        num_states: int,
        num_outputs: int,
        num_inputs: int = 0,
        *,
        Q: Noise = Full(),  # noqa: B008
        R: Noise = Full(),  # noqa: B008
        P0: Noise = Full(),  # noqa: B008
        fixed: dict[str, Any] | None = None,
        form: kalman.Form = kalman.Automatic(),  # noqa: B008
        length: int = 100,
    ):
        for name, value in {"num_states": num_states, "num_outputs": num_outputs}.items():
            checks.check_positive_int(value, f"LDS: {name}")
        checks.check_positive_int(num_inputs, "LDS: num_inputs", 0)
        set_once(self, num_states=num_states, num_outputs=num_outputs, num_inputs=num_inputs, Q=Q, R=R, P0=P0)
        fixed = {name: np.asarray(cells, float) for name, cells in (fixed or {}).items()}
        held = tuple((name, tuple((~np.isnan(fixed[name])).reshape(-1).tolist())) for name in sorted(fixed))
        set_once(self, fixed=fixed, held=held, scale=None, form=form, length=length)
        lds_params.check_fixed(self)

    @property
    def traits(self) -> frozenset[str]:
        return frozenset({MISSING})

    def params(
        self, *, A: Any = None, B: Any = None, C: Any = None, D: Any = None, Q: Any = None, R: Any = None,
        m0: Any = None, P0: Any = None,
    ) -> LDSParams:  # fmt: skip
        """Parameters from matrices.

        Fixed cells replace what is given. What is left out is: B, D and m0 zero; A, Q, R and P0 the identity.

        Args:
            A: (n, n).
            B: (n, p).
            C: (M, n), needed unless fixed.
            D: (M, p).
            Q: covariance (n, n), or variances (n,) where diagonal; positive semi-definite.
            R: covariance (M, M), or variances (M,); positive definite.
            m0: (n,).
            P0: covariance (n, n), or variances (n,) where diagonal; positive semi-definite.

        Raises:
            ValueError: a wrong shape, a cell left open, or no covariance.
        """
        given = {"A": A, "B": B, "C": C, "D": D, "Q": Q, "R": R, "m0": m0, "P0": P0}
        return LDSParams(**lds_params.make_params(self, given))

    def infer(self, params: LDSParams, x: Data) -> tuple[LDSPosterior, Array]:
        steps = steps_of(x, params.A.dtype)
        parts = self._emission(params, steps)
        r = jnp.where(steps.seen, steps.y - times(params.D, steps.u), 0)
        h, z = emission.observe(parts, r)
        system, drift, go = self._dynamics(params, steps)
        s = kalman.smooth(system, h, z, drift, go, self.form, emission.gather(parts), pattern_of(steps))
        mean = jnp.where(steps.within[:, None], s.mean, 0)
        residual, log_det = emission.residuals(parts, jnp.where(steps.seen, r - times(params.C, mean), 0))
        # The density at the posterior mode over the posterior there: sums of squares, nothing cancels.
        square = jnp.sum(residual**2, (0, 1)) + jnp.sum(s.noise**2, (0, 1)) + jnp.sum(s.first**2, 0)
        count = jnp.sum(steps.seen, (0, 1)).astype(square.dtype)
        log_prob = -0.5 * (square + LOG_2PI * count) - s.log_det - log_det
        return LDSPosterior(mean, s.noise, s.first, residual, s.moments), log_prob

    def expect(self, params: LDSParams, posterior: LDSPosterior, x: Data, weights: Array) -> LDSStats:
        steps = steps_of(x, params.A.dtype)
        cov, p = posterior.moments, self.num_inputs
        one = jnp.ones((1, 1, len(weights)), weights.dtype)
        first = regression.of_means(self.P0, posterior.first[None], one, weights[None, None] * one)
        first = first._replace(ee=first.ee + self.P0.restrict(cov.first @ weights))
        regressors = jnp.concatenate([posterior.mean, steps.u], 1)
        observed = emission.moments(self._emission(params, steps), posterior.residual, regressors, cov.emission, weights)
        before = jnp.concatenate([posterior.mean[:-1], steps.u[1:]], 1)
        go = jnp.where(steps.within[1:], weights[None], 0)[:, None]
        moves = regression.of_means(self.Q, posterior.noise[:-1], before, go)
        moves = moves._replace(
            ee=moves.ee + self.Q.restrict(cov.ee @ weights),
            ex=moves.ex + jnp.pad(cov.ex @ weights, ((0, 0), (0, p))),
            xx=moves.xx + jnp.pad(cov.xx @ weights, ((0, p), (0, p)))[None],
        )
        return LDSStats(first, moves, observed, lds_offsets.gather(self, params, x, weights))

    def maximize(self, params: LDSParams, stats: LDSStats) -> LDSParams:
        none, n = jnp.zeros(self.num_states, params.A.dtype), self.num_states
        # Without data to set a floor: a collapsing deviation shrinks by at most 1/eps a step.
        own = jnp.finfo(params.A.dtype).eps * regression.diagonal_of(self.R, params.chol_R)
        floor = own if self.scale is None else self.scale.resolution
        m0, chol_P0 = regression.maximize(
            self.P0, params.m0[:, None], params.chol_P0, stats.initial, self._free("m0"), self._free("P0"), none
        )
        AB, chol_Q = regression.maximize(
            self.Q, join(params.A, params.B), params.chol_Q, stats.process, self._free("A", "B"), self._free("Q"), none
        )
        CD, chol_R = regression.maximize(
            self.R, join(params.C, params.D), params.chol_R, stats.observation, self._free("C", "D"), self._free("R"), floor
        )
        new = LDSParams(m0[:, 0], chol_P0, AB[:, :n], AB[:, n:], chol_Q, CD[:, :n], CD[:, n:], chol_R)
        if not lds_offsets.movable(self):
            return new
        # Either is a step that never falls, both at once may be none: the one that promises more.
        moved, gain = lds_offsets.move(self, params, stats.offsets)
        rest = self.expected_log_prob(new, stats, params) - self.expected_log_prob(params, stats, params)
        return tree.where(gain > jnp.maximum(rest, 0), moved, new)

    def expected_log_prob(self, params: LDSParams, stats: LDSStats, old: LDSParams) -> Array:
        q = regression.expected_log_prob
        return (
            q(self.P0, params.m0[:, None], params.chol_P0, stats.initial, old.m0[:, None], old.chol_P0)
            + q(self.Q, join(params.A, params.B), params.chol_Q, stats.process, join(old.A, old.B), old.chol_Q)
            + q(self.R, join(params.C, params.D), params.chol_R, stats.observation, join(old.C, old.D), old.chol_R)
        )

    def hold(self, params: LDSParams, stats: LDSStats, fields: tuple[str, ...]) -> LDSStats:
        n = self.num_states
        cells = {"m0": ("initial", slice(None)), "A": ("process", slice(n)), "B": ("process", slice(n, None))}
        cells |= {"C": ("observation", slice(n)), "D": ("observation", slice(n, None))}
        stats = stats._replace(offsets=lds_offsets.hold(self, stats.offsets, fields))
        for part, where in (cells[f] for f in fields if f in cells):
            stats = stats._replace(**{part: regression.hold(getattr(stats, part), where)})
        return stats

    def init(self, key: Array, x: Data, weights: Array) -> LDSParams:
        steps = steps_of(x, weights.dtype)
        return LDSParams(**lds_start.start(self, key, *steps, weights))

    def sample(self, key: Array, params: LDSParams, num: int) -> tuple[Array, Array]:
        if self.num_inputs:
            raise ValueError("LDS: this model has inputs; draw from it with model.simulate(key, params, inputs)")
        return self._draw(key, params, jnp.zeros((self.length, 0, num), params.A.dtype))

    def sample_like(self, key: Array, params: LDSParams, x: Data) -> tuple[Array, Data]:
        states, y = self._draw(key, params, steps_of(x, params.A.dtype).u)
        outputs, inputs = without_inputs(x)
        return states, with_inputs(with_values(outputs, with_gaps(y, series_of(outputs).values)), inputs)

    def hidden(self, key: Array, params: LDSParams, posterior: LDSPosterior, x: Data) -> Array:
        # What states have beside their smoothed means is, of a draw of states and observations, as it would be of any other.
        states, other = self.sample_like(key, params, x)
        beside = states - self.infer(params, other)[0].mean
        within = steps_of(x, params.A.dtype).within[:, None]
        return jnp.where(within, posterior.mean + beside, jnp.nan)

    def complete(self, params: LDSParams, posterior: LDSPosterior, x: Data, key: Array | None = None) -> Data:
        steps = steps_of(x, params.A.dtype)
        new = self._outputs(params, posterior, steps)
        if key is not None:
            drawn = self._draw(key, params, steps.u)[1]
            outputs, inputs = without_inputs(x)
            other = with_inputs(with_values(outputs, with_gaps(drawn, series_of(outputs).values)), inputs)
            new = new + drawn - self._outputs(params, self.infer(params, other)[0], steps)
        outputs, inputs = without_inputs(x)
        old = series_of(outputs).values
        return with_inputs(with_values(outputs, jnp.where(steps.within[:, None], new, old)), inputs)

    def _outputs(self, params: LDSParams, posterior: LDSPosterior, steps: Steps) -> Array:
        """Expected observations (T, M, S) given those that were seen, which these are."""
        noise = times(regression.matrix_of(self.R, params.chol_R), posterior.residual)
        return times(params.C, posterior.mean) + times(params.D, steps.u) + noise

    def enter(self, params: LDSParams) -> LDSParams:
        return lds_offsets.off_the_edge(self, params)

    def num_observations(self, x: Data) -> Array:
        seen = steps_of(x, float_dtype(x)).seen
        return jnp.sum(jnp.any(seen, 1), 0).astype(float_dtype(x))

    def bind(self, x: Data, weights: Array) -> "LDS":
        steps = steps_of(x, weights.dtype)
        return self._with(scale=output_scale(steps.y, steps.seen, weights))

    def degenerate(self, params: LDSParams, stats: LDSStats) -> Array:
        if self.scale is None:
            return flag(HELD, jnp.array(False))
        # Noise at its floor is an answer where the states' part keeps the observations uncertain: then nothing is known of it
        # and E[e e^T] stays at one. Where the data leave less, the floor makes up what is predicted.
        ee, count = stats.observation.ee, stats.observation.count
        left = regression.diagonal_of(self.R, ee) / jnp.where(count > 0, count, 1)
        floored = regression.diagonal_of(self.R, params.chol_R) <= 2 * self.scale.resolution
        return flag(HELD, jnp.sum(jnp.where(floored & (count > 0), 1 - left, 0)) > 0.5)

    def conditioning(self, params: LDSParams) -> Array:
        if self.scale is None:
            return jnp.ones(())
        return jnp.maximum(1, jnp.max(self.scale.deviation / regression.diagonal_of(self.R, params.chol_R)))

    def supports(self, params: LDSParams) -> LDSParams:
        return LDSParams(**{field: lds_params.support_of(self, field) for field in params._fields})

    def features(self, x: Data) -> Array:
        steps = steps_of(x, float_dtype(x))
        return describe(steps.y, steps.seen, self.scale)

    def validate(self, x: Data) -> None:
        check_values(self, x)

    def smooth(self, params: LDSParams, x: Data) -> Smoothed:
        """States given all observations: means (S, T, n), covariances and lag-one covariances; NaN beyond a sequence's end.

        Args:
            params: the parameters.
            x: data, sequences first.
        """
        return self._ask(lds_trajectory.smoothed, params, x)

    def filter(self, params: LDSParams, x: Data) -> Filtered:
        """States given the observations up to each step: means (S, T, n) and covariances; NaN beyond a sequence's end.

        Args:
            params: the parameters.
            x: data, sequences first.
        """
        return self._ask(lds_trajectory.filtered, params, x)

    def forecast(self, params: LDSParams, x: Data, num_steps: int, inputs: Any = None) -> Forecast:
        """The observations of the steps after each sequence's end: means (S, num_steps, M), covariances, intervals.

        Args:
            params: the parameters.
            x: data, sequences first.
            num_steps: how many steps ahead.
            inputs: (S, num_steps, p) inputs of these steps.

        Example:
            >>> import jem, jax.numpy as jnp
            >>> walk = jem.LDS(1, 1, fixed={"A": [[1]], "C": [[1]]})
            >>> ahead = walk.forecast(walk.params(), jnp.zeros((1, 9, 1)), 3)
            >>> low, high = ahead.interval(0.9)
            >>> low.shape
            (1, 3, 1)
        """
        checks.check_positive_int(num_steps, "num_steps")
        x = as_arrays(x)
        num = jax.tree.leaves(x)[0].shape[0]
        u = jnp.zeros((num, num_steps, 0)) if inputs is None else jnp.asarray(inputs)
        if u.shape != (num, num_steps, self.num_inputs):
            raise ValueError(f"LDS: inputs must have shape {(num, num_steps, self.num_inputs)}; got {u.shape}")
        return self._ask(lds_trajectory.forecast, params, x, u)

    def simulate(self, key: Array, params: LDSParams, inputs: Any) -> tuple[Array, Array]:
        """Draws states (S, T, n) and observations (S, T, M) under given inputs (S, T, p).

        Args:
            key: a typed PRNG key.
            params: the parameters.
            inputs: (S, T, p); one sequence is drawn for each.
        """
        checks.check_key(key)
        params, u = self._suited(params), jnp.asarray(inputs, float)
        if u.ndim != 3 or u.shape[-1] != self.num_inputs:
            raise ValueError(f"LDS: inputs must have shape (S, T, {self.num_inputs}); got {u.shape}")
        return to_rows(self._draw(key, params, jnp.moveaxis(u.astype(params.A.dtype), 0, -1)))

    def predict(self, params: LDSParams, x: Data, num_steps: int, inputs: Any = None) -> Forecast:
        """`forecast` for `jem.predict`: units last."""
        num = steps_of(x, params.A.dtype).y.shape[-1]
        series_checks.check_future_inputs(inputs, (self.num_inputs,) if self.num_inputs else None, num_steps, num)
        inputs = jnp.zeros((num_steps, 0, num)) if inputs is None else inputs
        return _answer(self, lds_trajectory.forecast, params, x, (inputs,))

    def _ask(self, question: Any, params: LDSParams, x: Data, *more: Array) -> Any:
        """A question about trajectories; sequences first in and out."""
        x = as_arrays(x)
        checks.check_data(self, x, None)
        return to_rows(_answer(self, question, self._suited(params), to_units(x), to_units(more)))

    def _suited(self, params: LDSParams) -> LDSParams:
        """The parameters, of this model; raises where they have another form or lie where they may not."""
        checks.check_params(params, jax.eval_shape(lambda: self.params(C=np.zeros((self.num_outputs, self.num_states)))))
        coordinates.check_values(self, params)
        return params

    def _draw(self, key: Array, params: LDSParams, u: Array) -> tuple[Array, Array]:
        system, drift, _ = self._dynamics(params, Steps(u, u, u > 0, jnp.ones((u.shape[0], u.shape[-1]), bool)))
        chol_R = regression.matrix_of(self.R, params.chol_R)
        return lds_trajectory.draw(key, system, drift, params.C, times(params.D, u), chol_R)

    def _with(self, **values: Any) -> "LDS":
        leaves = {"fixed": self.fixed, "scale": self.scale} | values
        other = object.__new__(LDS)
        names = ("num_states", "num_outputs", "num_inputs", "Q", "R", "P0", "held", "form", "length")
        set_once(other, **{name: getattr(self, name) for name in names}, **leaves)
        return other

    def _emission(self, params: LDSParams, steps: Steps) -> emission.Emission:
        partial = jnp.any(jnp.any(steps.seen, 1) & ~jnp.all(steps.seen, 1))
        return emission.Emission(self.R, params.C, params.chol_R, steps.seen, partial)

    def _dynamics(self, params: LDSParams, steps: Steps) -> tuple[riccati.System, Array, Array]:
        """The system, what inputs add to the next state (T, n, S), and whether there is one (T, S)."""
        system = riccati.System(
            params.A, regression.matrix_of(self.Q, params.chol_Q), params.m0, regression.matrix_of(self.P0, params.chol_P0)
        )
        go = jnp.concatenate([steps.within[1:], jnp.zeros_like(steps.within[:1])])
        effect = times(params.B, steps.u)
        return system, jnp.concatenate([effect[1:], jnp.zeros_like(effect[:1])]), go

    def _free(self, *names: str) -> np.ndarray | None:
        """Which cells of a block of coefficients, or which deviations, may move; None for all."""
        if not any(name in self.fixed for name in names):
            return None
        cells = [lds_params.free_cells(self, name) for name in names]
        cells = [c[:, None] if name == "m0" else c for name, c in zip(names, cells, strict=True)]
        return np.concatenate(cells, -1)


@functools.partial(jax.jit, static_argnames="question")
@precise
def _answer(model: LDS, question: Any, params: LDSParams, x: Data, more: tuple[Array, ...]) -> Any:
    steps = steps_of(x, params.A.dtype)
    parts = model._emission(params, steps)
    h, z = emission.observe(parts, jnp.where(steps.seen, steps.y - times(params.D, steps.u), 0))
    return question(model, params, model._dynamics(params, steps), h, z, steps.within, *more)

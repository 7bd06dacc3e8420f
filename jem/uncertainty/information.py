"""The information about parameters in free coordinates, by the routes the field knows."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem.coordinates import ravel
from jem.engine.result import FitError
from jem.engine.score import (
    Curvature,
    Target,
    columns,
    complete_information,
    level,
    observed_information,
    params_at,
    start_of,
    take_apart,
    target,
)
from jem.engine.stream import fold
from jem.fit import checked
from jem.latents.mixture import Mixture, split
from jem.node import Data, Node, Params, Wrapper, has_local_q, node


class InformationStatus(enum.IntEnum):
    """Whether an information matrix can be turned into standard errors."""

    REGULAR = 0
    BOUNDARY = 1
    SINGULAR = 2
    NOT_AT_MAXIMUM = 3
    NONFINITE = 4

    @property
    def prose(self) -> str:
        """The cause, and what to do next."""
        return _PROSE[self]


_PROSE = {
    InformationStatus.REGULAR: "the parameters are at a maximum inside of their domain and the data identify all of them",
    InformationStatus.BOUNDARY: (
        "some parameters are at, or on their way to, the edge of their domain (a probability or a variance of zero), where no "
        "standard error exists: theirs is NaN; use jem.profile_interval or jem.bootstrap"
    ),
    InformationStatus.SINGULAR: (
        "there are directions the data say nothing about (equal or empty components, rotations, too many parameters): "
        "standard errors of what moves along them are NaN; use a smaller model, a prior, or functions that do not move"
    ),
    InformationStatus.NOT_AT_MAXIMUM: (
        "the parameters are not at a maximum of the objective, or at a saddle point: fit to a smaller tolerance first, "
        "stop=jem.RelativeGain(1e-12) or solver=jem.Anderson()"
    ),
    InformationStatus.NONFINITE: "the information is not finite; look for parameters on the edge of their domain",
}


class Information(NamedTuple):
    """Information about the parameters, in free coordinates, (n, n).

    Attributes:
        matrix: the information by the method asked for; its inverse is the covariance of the free coordinates.
        complete: what complete data would tell, minus the second derivative of Q + log prior.
        missing: the difference: what the hidden variables hide.
        score: (n,) gradient of the objective; zero at a maximum.
        distance: `sqrt(score^T I^+ score)`: how far the parameters are from the maximum, in standard errors.
        num_flat: number of directions without information.
        status: int code of `jem.InformationStatus`; BOUNDARY is only known to `jem.standard_errors`.
    """

    matrix: Array
    complete: Array
    missing: Array
    score: Array
    distance: Array
    num_flat: Array
    status: Array

    @property
    def rate(self) -> Array:
        """The largest fraction of missing information, the rate of convergence of EM."""
        values, vectors = jnp.linalg.eigh(self.complete)
        root = vectors / jnp.sqrt(jnp.where(values > 0, values, jnp.inf))[None, :]
        return jnp.linalg.eigvalsh(root.T @ self.missing @ root)[-1]

    def check(self) -> "Information":
        """Returns itself where the status is REGULAR, and raises `FitError` otherwise. Not for use inside jit."""
        check_status(self.status)
        return self


def check_status(status: Array) -> None:
    """Raises `FitError` with the prose of a status that is not REGULAR."""
    code = InformationStatus(int(np.asarray(status)))
    if code != InformationStatus.REGULAR:
        raise FitError(f"{code.name}: {code.prose}")


class Parts(NamedTuple):
    """What a method finds: the information, or with `meat` the covariance `information^+ meat information^+`."""

    information: Array
    meat: Array | None = None


class Method:
    """A route to the information at coordinates z of a bound model laid out with its data."""

    def parts(self, t: Target, z: Array) -> Parts:
        """The information (n, n)."""
        raise NotImplementedError


@node
class Oakes(Method):
    """Observed information as minus the derivative of the score, taken through the E-step. The default.

    `I = -[d^2 Q / dz' dz' + d^2 Q / dz' dz]` at z' = z: first derivatives of the E-step only.

    Example:
        >>> import jem
        >>> jem.Oakes()
        Oakes()

    Source: Oakes (1999), JRSS B 61.
    """

    def parts(self, t: Target, z: Array) -> Parts:
        """Minus the Jacobian of the score."""
        return Parts(observed_information(t, z))


@node
class Hessian(Method):
    """Observed information as minus the second derivative of the marginal log-likelihood and the log prior.

    Source: Efron and Hinkley (1978), Biometrika 65.
    """

    def parts(self, t: Target, z: Array) -> Parts:
        """Minus the Hessian, a column at a time."""

        def gradient(z: Array) -> Array:
            chunk = lambda x, w: jax.grad(lambda z: jnp.sum(w * t.model.infer(params_at(t, z), x)[1]))(z)
            return fold(chunk, t.data) + jax.grad(lambda z: t.model.log_prior(params_at(t, z)))(z)

        return Parts(-_columns(lambda d: jax.jvp(gradient, (z,), (d,))[1], z))


@node
class Louis(Method):
    """Observed information as complete less missing: `I = E[-d^2 l_c | x] - cov[d l_c | x]`, unit by unit.

    For a mixture at the top of a model: `l_c` is the log-density of a unit together with its component.

    Raises:
        TypeError: another model; `jem.Oakes()` does the same for all.

    Source: Louis (1982), JRSS B 44.
    """

    def parts(self, t: Target, z: Array) -> Parts:
        """The two sums over units and components."""
        mixture, params_of = _mixture(t.model)

        def joint(z: Array, x: Any) -> Array:
            params = params_of(params_at(t, z))
            values, labels = split(x)
            if labels is not None:
                raise TypeError("Louis: rows with known labels are not summed over; use jem.Oakes()")
            return mixture.components.infer(params.components, values)[1] + jnp.log(params.weights)[:, None]

        def chunk(x: Any, w: Array) -> tuple[Array, Array]:
            r = jax.lax.stop_gradient(jax.nn.softmax(joint(z, x), 0)) * w[None, :]
            scores = jax.jacfwd(lambda z: joint(z, x))(z)  # (K, N, n)
            mean = jnp.sum(jax.nn.softmax(joint(z, x), 0)[:, :, None] * scores, 0)
            missing = jnp.einsum("kn,kni,knj->ij", r, scores, scores) - jnp.einsum("n,ni,nj->ij", w, mean, mean)
            complete = -jax.hessian(lambda z: jnp.sum(r * joint(z, x)))(z)
            return complete, missing

        complete, missing = fold(chunk, t.data)
        prior = jax.hessian(lambda z: t.model.log_prior(params_at(t, z)))(z)
        return Parts(complete - prior - missing)


@node
class SEM(Method):
    """Observed information from the EM map M: `I = I_c (1 - J)`, J its Jacobian; supplemented EM with an exact J.

    Raises:
        TypeError: a model whose M-step is not in closed form.

    Source: Meng and Rubin (1991), JASA 86, eq. 2.3.7.
    """

    def parts(self, t: Target, z: Array) -> Parts:
        """Complete-data information and the Jacobian of one EM step."""
        if has_local_q(t.model) and not _has_map(t.model):
            raise TypeError("SEM: needs an M-step in closed form; use jem.Oakes()")
        push = lambda d: jax.jvp(lambda z: em_map(t, z), (z,), (d,))[1]
        jacobian = columns(push, z.shape[0], z.dtype)
        matrix = complete_information(t, z, level(t, z).stats) @ (jnp.eye(z.shape[0], dtype=z.dtype) - jacobian)
        return Parts(0.5 * (matrix + matrix.T))


@node
class OPG(Method):
    """Empirical Fisher information, the weighted sum over units of outer products of their scores; without the prior.

    Source: Berndt, Hall, Hall and Hausman (1974), Ann. Econ. Soc. Meas. 3.
    """

    def parts(self, t: Target, z: Array) -> Parts:
        """Sum of `w s s^T`."""
        return Parts(outer_products(t, z))


@node
class Sandwich(Method):
    """Information whose inverse is right where the model is not: `cov = A^+ B A^+`, A observed, B by outer products.

    Attributes:
        bread: the method for A.

    Source: Huber (1967), Fifth Berkeley Symposium; White (1982), Econometrica 50.
    """

    bread: Any = Oakes()

    def parts(self, t: Target, z: Array) -> Parts:
        """Bread and meat."""
        return Parts(self.bread.parts(t, z).information, outer_products(t, z))


def outer_products(t: Target, z: Array) -> Array:
    """`sum_n w_n s_n s_n^T` (n, n) of the units' scores."""

    def chunk(x: Any, w: Array) -> Array:
        scores = jax.jacfwd(lambda z: t.model.infer(params_at(t, z), x)[1])(z)
        return (w[:, None] * scores).T @ scores

    return fold(chunk, t.data)


def em_map(t: Target, z: Array) -> Array:
    """One EM step in free coordinates."""
    return ravel(t.model, t.model.maximize(params_at(t, z), level(t, z).stats))


def _columns(push: Callable[[Array], Array], z: Array) -> Array:
    matrix = columns(push, z.shape[0], z.dtype)
    return 0.5 * (matrix + matrix.T)


def _has_map(model: Node) -> bool:
    return getattr(model, "maximizer", None) is not None


def _mixture(model: Node) -> tuple[Mixture, Callable[[Params], Params]]:
    while isinstance(model, Wrapper):
        model = model.child
    if not isinstance(model, Mixture):
        raise TypeError(f"Louis: needs a mixture at the top of the model; got {type(model).__name__}; use jem.Oakes()")
    return model, lambda params: params


class Asked(NamedTuple):
    """A model at parameters, laid out with its data, and its information taken apart."""

    target: Target
    z: Array
    score: Array
    complete: Array
    parts: Parts
    curvature: Curvature


def ask(method: Any, model: Node, params: Params, x: Data, weights: Array | None) -> Asked:
    """The information at parameters by a method."""
    t = target(model, x, weights, params)
    z = start_of(t)
    here = level(t, z)
    parts, complete = method.parts(t, z), complete_information(t, z, here.stats)
    return Asked(t, z, here.score, complete, parts, take_apart(t, z, parts.information, complete))


def distance_of(asked: Asked) -> Array:
    """Distance to the maximum in standard errors."""
    return jnp.sqrt(jnp.maximum(asked.curvature.ascend(asked.score) @ asked.score, 0))


def status_of(asked: Asked) -> Array:
    """The status, as far as it does not depend on what is asked about."""
    c = asked.curvature
    status = jnp.where(c.num_flat > 0, InformationStatus.SINGULAR, InformationStatus.REGULAR)
    away = (distance_of(asked) > 0.1) | (c.num_rising > 0)
    status = jnp.where(away, InformationStatus.NOT_AT_MAXIMUM, status)
    finite = jnp.all(jnp.isfinite(c.values)) & jnp.all(jnp.isfinite(asked.score))
    return jnp.where(finite, status, InformationStatus.NONFINITE).astype(jnp.int32)


def information(
    node: Node, params: Params, x: Data, weights: Array | None = None, *, method: Any = Oakes()  # noqa: B008
) -> Information:
    """The information that data give about a model's parameters, in free coordinates, prior included.

    Args:
        node: the model.
        params: parameters at the maximum of the objective: a fit to a small tolerance.
        x: data with N rows.
        weights: (N,) or None.
        method: the route: `jem.Oakes()`, `jem.Hessian()`, `jem.Louis()`, `jem.SEM()`, `jem.OPG()` or `jem.Sandwich()`. At
            a maximum the first four agree.

    Returns:
        An `Information`; its rows are in the order of the leaves of `jem.unconstrain(node, params)`.

    Raises:
        TypeError: a method that does not know the model.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> rate = jem.PoissonParams(jnp.array([2.5]))
        >>> jem.information(jem.Poisson(), rate, [[1], [4]]).matrix.round(4).tolist()  # of log rate: the sum of the counts
        [[5.0]]
    """
    return _information(method, node, params, *checked(node, x, weights))


@jax.jit
def _information(method: Any, model: Node, params: Params, x: Data, weights: Array | None) -> Information:
    asked = ask(method, model, params, x, weights)
    matrix = asked.parts.information
    if asked.parts.meat is not None:
        values, vectors = jnp.linalg.eigh(asked.parts.meat)
        seen = values > jnp.finfo(values.dtype).eps * values.shape[0] * values[-1]
        half = (vectors * jnp.sqrt(jnp.where(seen, 1 / jnp.where(seen, values, 1), 0))[None, :]).T @ matrix
        matrix = half.T @ half
    return Information(
        matrix=matrix,
        complete=asked.complete,
        missing=asked.complete - matrix,
        score=asked.score,
        distance=distance_of(asked),
        num_flat=asked.curvature.num_flat,
        status=status_of(asked),
    )

"""The information about parameters in free coordinates, by the routes the field knows."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jem.ask.asking import asked as asked_about
from jem.ask.polish import InformationStatus, Parts, ask, status_of
from jem.ask.units import check_units, num_counted
from jem.backend import precise
from jem.combine.frozen import Frozen
from jem.coordinates import ravel
from jem.data import without_labels
from jem.documented import Documented
from jem.engine.score import Target, columns, complete_information, level, observed_information, params_at
from jem.engine.stream import fold
from jem.kernels.spectral import eigh
from jem.node import Data, Node, Params, has_local_q, node


class Information(NamedTuple):
    """Information about the parameters, in n free coordinates; `distance`, `num_flat` and `status` are scalars ().

    Attributes:
        matrix: (n, n) the information by the method asked for; its inverse is the covariance of the free coordinates.
        complete: (n, n) what complete data would tell, minus the second derivative of Q + log prior.
        missing: (n, n) the difference: what the hidden variables hide.
        score: (n,) gradient of the objective; zero at a maximum.
        distance: `sqrt(score^T I^+ score)`: how far the parameters are from the maximum, in standard errors.
        num_flat: number of directions without information.
        status: int code of `jem.uncertainty.InformationStatus`; BOUNDARY is only known to `jem.standard_errors`.
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
        return _rate(self.complete, self.missing)

    def check(self) -> "Information":
        """Returns itself where the status is REGULAR, and raises `FitError` otherwise. Not for use inside jit."""
        InformationStatus.check(self.status, InformationStatus.REGULAR)
        return self


@functools.partial(jnp.vectorize, signature="(n,n),(n,n)->()")
def _rate(complete: Array, missing: Array) -> Array:
    values, vectors = eigh(complete)
    root = vectors / jnp.sqrt(jnp.where(values > 0, values, jnp.inf))[None, :]
    return eigh(root.T @ missing @ root)[0][-1]


class Method(Documented):
    """A route to the information at coordinates z of a bound model laid out with its data."""

    @property
    def by_units(self) -> bool:
        """Whether it rests on units that are independent of each other, and so on more than one."""
        return False

    def parts(self, t: Target, z: Array) -> Parts:
        """The information (n, n)."""
        raise NotImplementedError


@node
class Oakes(Method):
    """Observed information as minus the derivative of the score, taken through the E-step. The default.

    `I = -[d^2 Q / dz' dz' + d^2 Q / dz' dz]` at z' = z: first derivatives of the E-step only.

    Example:
        >>> import jem
        >>> jem.uncertainty.Oakes()
        Oakes()

    Source: Oakes (1999), JRSS B 61.
    """

    def parts(self, t: Target, z: Array) -> Parts:
        """Minus the Jacobian of the score."""
        return Parts(observed_information(t, z))


@node
class Hessian(Method):
    """Observed information as minus the second derivative of the marginal log-likelihood and the log prior.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> rate, method = jem.Poisson.Params(jnp.array([2.5])), jem.uncertainty.Hessian()
        >>> jem.uncertainty.information(jem.Poisson(), rate, [[1], [4]], method=method).matrix.round(2).tolist()
        [[5.0]]

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

    For a mixture at the top of a model: `l_c` is the log-density of a unit together with its component. Of a chain, whose score
    is a sum over steps, the covariance would run over all pairs of them; `jem.uncertainty.Oakes()` needs one E-step a
    coordinate.

    Raises:
        TypeError: another model; `jem.uncertainty.Oakes()` does the same for all.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> model, rate = jem.Mixture(jem.Poisson(), 1), jem.Poisson.Params(jnp.array([[2.5]]))
        >>> params, method = jem.Mixture.Params(jnp.ones(1), rate), jem.uncertainty.Louis()
        >>> jem.uncertainty.information(model, params, [[1], [4]], method=method).matrix.round(2).tolist()
        [[5.0]]

    Source: Louis (1982), JRSS B 44.
    """

    def parts(self, t: Target, z: Array) -> Parts:
        """The two sums over units and components."""
        log_joint = _log_joint(t.model)

        def joint(z: Array, x: Any) -> Array:
            if without_labels(x)[1] is not None:
                raise TypeError("Louis: rows with known labels are not summed over; use jem.uncertainty.Oakes()")
            return log_joint(params_at(t, z), x)[1]

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
class SupplementedEM(Method):
    """Observed information from the EM map M: `I = I_c (1 - J)`, J its Jacobian; supplemented EM with an exact J.

    Raises:
        TypeError: a model whose M-step is not in closed form.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> rate, method = jem.Poisson.Params(jnp.array([2.5])), jem.uncertainty.SupplementedEM()
        >>> jem.uncertainty.information(jem.Poisson(), rate, [[1], [4]], method=method).matrix.round(2).tolist()
        [[5.0]]

    Source: Meng and Rubin (1991), JASA 86, eq. 2.3.7.
    """

    def parts(self, t: Target, z: Array) -> Parts:
        """Complete-data information and the Jacobian of one EM step."""
        if has_local_q(t.model) and not _has_map(t.model):
            raise TypeError("SupplementedEM: needs an M-step in closed form; use jem.uncertainty.Oakes()")
        push = lambda d: jax.jvp(lambda z: em_map(t, z), (z,), (d,))[1]
        jacobian = columns(push, z.shape[0], z.dtype)
        matrix = complete_information(t, z, level(t, z).stats) @ (jnp.eye(z.shape[0], dtype=z.dtype) - jacobian)
        return Parts(0.5 * (matrix + matrix.T))


@node
class OPG(Method):
    """Empirical Fisher information, the weighted sum over units of outer products of their scores; without the prior.

    Raises:
        ValueError: a single unit, as one sequence.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> rate, method = jem.Poisson.Params(jnp.array([2.5])), jem.uncertainty.OPG()
        >>> jem.uncertainty.information(jem.Poisson(), rate, [[1], [4]], method=method).matrix.round(2).tolist()
        [[4.5]]

    Source: Berndt, Hall, Hall and Hausman (1974), Ann. Econ. Soc. Meas. 3.
    """

    def parts(self, t: Target, z: Array) -> Parts:
        """Sum of `w s s^T`."""
        return Parts(outer_products(t, z))

    @property
    def by_units(self) -> bool:
        return True


@node
class Sandwich(Method):
    """Information whose inverse is right where the model is not: `cov = A^+ B A^+`, A observed, B by outer products.

    Attributes:
        bread: the method for A.

    Raises:
        ValueError: a single unit, as one sequence.

    Example:
        >>> import jem
        >>> jem.uncertainty.Sandwich(jem.uncertainty.Hessian()).bread
        Hessian()

    Source: Huber (1967), Fifth Berkeley Symposium; White (1982), Econometrica 50.
    """

    bread: Any = Oakes()

    def parts(self, t: Target, z: Array) -> Parts:
        """Bread and meat."""
        return Parts(self.bread.parts(t, z).information, outer_products(t, z))

    @property
    def by_units(self) -> bool:
        return True


def outer_products(t: Target, z: Array) -> Array:
    """`sum_n w_n s_n s_n^T` (n, n) of the units' scores."""

    def chunk(x: Any, w: Array) -> tuple[Array, Array]:
        scores = jax.jacfwd(lambda z: t.model.infer(params_at(t, z), x)[1])(z)
        return (w[:, None] * scores).T @ scores, num_counted(w)

    total, num = fold(chunk, t.data)
    return jnp.where(num > 1, total, jnp.nan)  # the score of a single unit is zero at any maximum


def em_map(t: Target, z: Array) -> Array:
    """One EM step in free coordinates."""
    return ravel(t.model, t.model.maximize(params_at(t, z), level(t, z).stats))


def _columns(push: Callable[[Array], Array], z: Array) -> Array:
    matrix = columns(push, z.shape[0], z.dtype)
    return 0.5 * (matrix + matrix.T)


def _has_map(model: Node) -> bool:
    return getattr(model, "maximizer", None) is not None


def _log_joint(model: Any) -> Callable[[Params, Data], Any]:
    while isinstance(model, Frozen):
        model = model.child
    if not hasattr(model, "log_joint"):
        name = type(model).__name__
        raise TypeError(f"Louis: needs a mixture at the top of the model; got {name}; use jem.uncertainty.Oakes()")
    return model.log_joint


def check_method(method: Any, x: Data, weights: Array | None) -> None:
    """A route that rests on independent units needs more than one."""
    if method.by_units:
        instead = "jem.uncertainty.Oakes(), or replicates of jem.uncertainty.resample.FromModel()"
        check_units(type(method).__name__, x, weights, instead)


def information(
    node: Node, params: Params, x: Data, weights: Array | None = None, *, method: Any = Oakes()  # noqa: B008
) -> Information:
    """The information that data give about a model's parameters, in free coordinates z, prior included.

    `I = -d^2 (log p(x | z) + log p(z)) / dz dz'` at the parameters, or what stands for it by the method.

    Args:
        node: the model.
        params: parameters at the maximum of the objective: a fit to a small tolerance.
        x: data with N rows.
        weights: (N,) or None.
        method: one of `jem.uncertainty`: `Oakes()`, `Hessian()`, `Louis()`, `SupplementedEM()`, `OPG()` or `Sandwich()`.
            At a maximum the first four agree.

    Returns:
        An `Information`; its rows are in the order of the leaves of `jem.unconstrain(node, params)`.

    Raises:
        TypeError: a method that does not know the model.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> rate = jem.Poisson.Params(jnp.array([2.5]))
        >>> found = jem.uncertainty.information(jem.Poisson(), rate, [[1], [4]])
        >>> found.matrix.round(4).tolist()  # of log rate: the sum of the counts
        [[5.0]]

    Source: Efron and Hinkley (1978), Biometrika 65; Louis (1982), JRSS B 44.
    """
    params, x, weights = asked_about(node, params, x, weights)
    check_method(method, x, weights)
    return _information(method, node, params, x, weights)


@jax.jit
@precise
def _information(method: Any, model: Node, params: Params, x: Data, weights: Array | None) -> Information:
    asked = ask(method, model, params, x, weights)
    matrix = asked.parts.information
    if asked.parts.meat is not None:
        values, vectors = eigh(asked.parts.meat)
        seen = values > jnp.finfo(values.dtype).eps * values.shape[0] * values[-1]
        half = (vectors * jnp.sqrt(jnp.where(seen, 1 / jnp.where(seen, values, 1), 0))[None, :]).T @ matrix
        matrix = half.T @ half
    return Information(
        matrix=matrix,
        complete=asked.complete,
        missing=asked.complete - matrix,
        score=asked.given,
        distance=asked.distance,
        num_flat=asked.curvature.num_flat,
        status=status_of(asked),
    )

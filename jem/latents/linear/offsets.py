"""What EM cannot move in a state-space model: the first state's mean and the inputs' effect where states have no noise.

Without noise, or with next to none, such a state is known, its own regression is an identity, and the M-step leaves it where it
is. Yet all that the likelihood depends on, `log p(y) = -1/2 |u|^2 + ..`, u the noises at the posterior mode, is linear in
`theta = (m0, B)`: its maximum over theta, everything else held, is one least-squares problem.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.kernels import emission, kalman, regression, riccati
from jem.kernels.lanes import recur
from jem.kernels.linalg import solve_psd
from jem.latents.linear.data import steps_of
from jem.latents.linear.params import LDSParams, free_cells

_STILL = 1e-3  # deviations of what is seen: below, a state is as good as known, and a step moves its mean by a millionth


class Offsets(NamedTuple):
    """Score (k,) and information (k, k) of theta = (m0, B) flat, k = n + n p; zero where EM moves them itself."""

    score: Array
    information: Array


def movable(model: Any) -> bool:
    """Whether some cell of m0 or B is free."""
    return bool(free_cells(model, "m0").any() or free_cells(model, "B").any())


def off_the_edge(model: Any, params: LDSParams) -> LDSParams:
    """The start with free process noise of next to nothing raised to where a step moves it: EM multiplies it by almost one.

    A deviation of zero stays zero, and so does that of a state that is not seen.
    """
    noise = jnp.min(regression.diagonal_of(model.R, params.chol_R))
    seen = jnp.sqrt(jnp.sum(params.C**2, 0))
    least = jnp.where(seen > 0, _STILL * noise / jnp.where(seen > 0, seen, 1), 0)
    now = regression.diagonal_of(model.Q, params.chol_Q)
    more = jnp.where(free_cells(model, "Q") & (now > 0), jnp.maximum(least - now, 0), 0)
    return params._replace(chol_Q=params.chol_Q + model.Q.from_diagonal(more))


def gather(model: Any, params: LDSParams, x: Any, weights: Array) -> Offsets:
    """The sums over sequences of weight w; x has units last."""
    n, dtype = model.num_states, weights.dtype
    size = n * (1 + model.num_inputs)
    nothing = Offsets(jnp.zeros(size, dtype), jnp.zeros((size, size), dtype))
    if not movable(model):
        return nothing
    params, x, weights = lax.stop_gradient((params, x, weights))  # not part of Q
    # Next to no noise, beside that of what is seen of the state, EM moves it by next to nothing.
    seen = jnp.sqrt(jnp.sum(params.C**2, 0)) / jnp.min(regression.diagonal_of(model.R, params.chol_R))
    still = lambda noise, chol: regression.diagonal_of(noise, chol) * seen <= _STILL  # noqa: E731
    stuck = jnp.any(still(model.P0, params.chol_P0) & free_cells(model, "m0"))
    stuck = stuck | jnp.any(still(model.Q, params.chol_Q) & free_cells(model, "B").any(1))

    def measure(_: Any) -> tuple[Array, Offsets]:
        steps = steps_of(x, dtype)
        parts = model._emission(params, steps)
        r = jnp.where(steps.seen, steps.y - jnp.einsum("mp,tps->tms", params.D, steps.u), 0)
        h, z = emission.observe(parts, r)
        system, _, go = model._dynamics(params, steps)
        whole = kalman.Segment(0, z.shape[0], riccati.forward(system, h, go)[1], h)

        def noises(theta: Array, on: Array) -> Array:
            """At theta, with the data (on = 1) or all data zero."""
            drift = model._dynamics(params._replace(B=theta[n:].reshape(n, -1)), steps)[1]
            _, mean, noise, first = kalman.smooth_means([whole], on * z, drift, go, theta[:n], recur)
            rest = jnp.where(steps.seen, on * r - jnp.einsum("mn,tns->tms", params.C, mean), 0)
            every = emission.residuals(parts, rest)[0], noise, first
            return jnp.concatenate([a.reshape(-1, weights.shape[0]) for a in every]) * jnp.sqrt(weights)[None]

        here = jnp.concatenate([params.m0, params.B.reshape(-1)])[None]
        thetas = jnp.concatenate([here, jnp.eye(size, dtype=dtype)])
        u = jax.vmap(noises)(thetas, (jnp.arange(size + 1) == 0).astype(dtype)).reshape(size + 1, -1)
        return jnp.array(False), Offsets(-u[1:] @ u[0], u[1:] @ u[1:].T)

    # At most one turn of a loop: unlike a cond it costs nothing under a vmap where no lane needs it.
    return lax.while_loop(lambda state: state[0], measure, (stuck, nothing))[1]


def hold(model: Any, offsets: Offsets, fields: tuple[str, ...]) -> Offsets:
    """Offsets that leave these fields where they are."""
    held = jnp.arange(offsets.score.shape[0]) < model.num_states
    held = (held & ("m0" in fields)) | (~held & ("B" in fields))
    return Offsets(jnp.where(held, 0, offsets.score), jnp.where(held[:, None] | held[None, :], 0, offsets.information))


def move(model: Any, params: LDSParams, offsets: Offsets) -> tuple[LDSParams, Array]:
    """The parameters with the likelihood's maximum over the free cells of m0 and B, and what it gains."""
    n = model.num_states
    free = jnp.concatenate([free_cells(model, "m0"), free_cells(model, "B").reshape(-1)])
    score = jnp.where(free, offsets.score, 0)
    change = solve_psd(jnp.where(free[:, None] & free[None, :], offsets.information, 0), score[:, None])[:, 0]
    moved = params._replace(m0=params.m0 + change[:n], B=params.B + change[n:].reshape(n, -1))
    return moved, 0.5 * score @ change

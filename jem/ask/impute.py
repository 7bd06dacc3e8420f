"""What was not seen, given what was: draws of what is hidden, means or draws of missing cells."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.ask.asking import asked
from jem.backend import precise
from jem.data import to_rows, to_units
from jem.kernels.assign import Drawn
from jem.node import Data, Node, Params, assign
from jem.tables import Table, filled, is_table


def sample_posterior(node: Node, key: Array, params: Params, x: Data) -> Any:
    """A draw of what is hidden given what was seen, `z ~ p(z | x, params)`: of each unit jointly, as a posterior's margins are
    not.

    Of a mixture the components, of a chain a path of states, of a factor analysis the factors, of a `jem.LDS` a trajectory.
    Hidden variables inside others stand beside them, `(labels, factors)` for a mixture of factor analyses.

    Args:
        node: the model.
        key: a typed PRNG key; `jax.vmap` over several makes several draws.
        params: its parameters.
        x: data with N rows.

    Returns:
        Labels (N,) int, states (S, T) int with -1 beyond an end, factors (N, q), trajectories (S, T, n) with NaN beyond an
        end; () where nothing is hidden. Auxiliary scales and groups of single families are not drawn.

    Raises:
        ValueError: data or parameters that do not fit the model; a key that is none.

    Example:
        >>> import jax, jem, jax.numpy as jnp
        >>> p = jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Poisson.Params(jnp.array([[1.0], [50.0]])))
        >>> jem.sample_posterior(jem.Mixture(jem.Poisson(), 2), jax.random.key(0), p, [[1], [48], [0]]).tolist()
        [0, 1, 0]

    Source: Fruehwirth-Schnatter (1994), J. Time Series Analysis 15, for paths; Durbin and Koopman (2002), Biometrika 89, for
    trajectories.
    """
    checks.check_key(key)
    params, x, _ = asked(node, params, x)
    return _sample_posterior(node, key, params, x)


@jax.jit
@precise
def _sample_posterior(node: Node, key: Array, params: Params, x: Data) -> Any:
    units, (label_key, rest) = to_units(x), jax.random.split(key)
    drawn = assign(node, Drawn(label_key)).infer(params, units)[0]
    return to_rows(node.hidden(rest, params, drawn, units))


def impute(node: Node, params: Params, x: Data, *, key: Array | None = None) -> Data:
    """The data with every NaN in the place of its expectation given what was seen, `E[x | seen cells, params]`, or of a draw.

    Of a mixture, `sum_k r_k E[x | seen cells, z = k]`; of a chain, by the smoothed probabilities of the states; of a `jem.LDS`,
    by the smoothed states and the noise of the row's other cells. With a key,
    one draw from `p(x | seen cells, params)`, hidden variables drawn too: an imputation of several, between which what is not
    known shows.

    Args:
        node: the model, in which `jem.Missing` says what may be missing: `jem.Mixture(jem.Missing(jem.Gaussian()), 2)`.
        params: its parameters.
        x: data with N rows.
        key: a typed PRNG key for a draw, or None for expectations.

    Returns:
        x, without NaN, a table of its kind where it is one; what was seen is as it was. Infinity where an expectation does not
        exist.

    Raises:
        ValueError: data or parameters that do not fit the model; a key that is none.
        TypeError: a node that does not say its mean, as categories and directions have none.

    Example:
        >>> import jax.numpy as jnp
        >>> import jem
        >>> pair = jem.Gaussian().params([0.0, 0.0], [[1.0, 0.5], [0.5, 1.0]])
        >>> jem.impute(jem.Missing(jem.Gaussian()), pair, [[2.0, jnp.nan]]).tolist()
        [[2.0, 1.0]]

    Source: Little and Rubin (2019), Statistical Analysis with Missing Data, section 11.2.
    """
    if key is not None:
        checks.check_key(key)
    frame = x
    params, x, _ = asked(node, params, x)
    new = _impute(node, params, x, key)
    return filled(frame, new) if isinstance(frame, Table) or is_table(frame) else new


@jax.jit
@precise
def _impute(node: Node, params: Params, x: Data, key: Array | None) -> Data:
    units, hidden, cells = to_units(x), node, None
    if key is not None:
        label_key, cells = jax.random.split(key)
        hidden = assign(node, Drawn(label_key))
    new = to_rows(node.complete(params, hidden.infer(params, units)[0], units, cells))

    def leaf(old: Array, new: Array) -> Array:
        return jnp.where(jnp.isnan(old), new, old) if jnp.issubdtype(old.dtype, jnp.floating) else old

    return jax.tree.map(leaf, x, new)

"""What was not seen, by its mean given what was."""

import jax
import jax.numpy as jnp
from jax import Array

from jem import checks
from jem.ask.asking import asked
from jem.backend import precise
from jem.data import to_rows, to_units
from jem.kernels.assign import Drawn
from jem.node import Data, Node, Params, assign


def impute(node: Node, params: Params, x: Data, *, key: Array | None = None) -> Data:
    """The data with every NaN in the place of its expectation given what was seen, `E[x | seen cells, params]`, or of a draw.

    Of a mixture, `sum_k r_k E[x | seen cells, z = k]`; of a chain, by the smoothed probabilities of the states. With a key,
    one draw from `p(x | seen cells, params)`, hidden variables drawn too: an imputation of several, between which what is not
    known shows.

    Args:
        node: the model, in which `jem.Missing` says what may be missing: `jem.Mixture(jem.Missing(jem.Gaussian()), 2)`.
        params: its parameters.
        x: data with N rows.
        key: a typed PRNG key for a draw, or None for expectations.

    Returns:
        x, without NaN; what was seen is as it was. Infinity where an expectation does not exist.

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
    params, x, _ = asked(node, params, x)
    return _impute(node, params, x, key)


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

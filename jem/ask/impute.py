"""What was not seen, by its mean given what was."""

import jax
import jax.numpy as jnp

from jem.ask.asking import asked
from jem.data import to_rows, to_units
from jem.node import Data, Node, Params


def impute(node: Node, params: Params, x: Data) -> Data:
    """The data with every NaN in the place of its expectation given what was seen, `E[x | seen cells, params]`.

    Of a mixture, `sum_k r_k E[x | seen cells, z = k]`; of a chain, by the smoothed probabilities of the states.

    Args:
        node: the model, in which `jem.Missing` says what may be missing: `jem.Mixture(jem.Missing(jem.Gaussian()), 2)`.
        params: its parameters.
        x: data with N rows.

    Returns:
        x, without NaN; what was seen is as it was. Infinity where that mean does not exist.

    Raises:
        ValueError: data or parameters that do not fit the model.
        TypeError: a node that does not say its mean, as categories and directions have none.

    Example:
        >>> import jax.numpy as jnp
        >>> import jem
        >>> pair = jem.Gaussian().params([0.0, 0.0], [[1.0, 0.5], [0.5, 1.0]])
        >>> jem.impute(jem.Missing(jem.Gaussian()), pair, [[2.0, jnp.nan]]).tolist()
        [[2.0, 1.0]]

    Source: Little and Rubin (2019), Statistical Analysis with Missing Data, section 11.2.
    """
    params, x, _ = asked(node, params, x)
    return _impute(node, params, x)


@jax.jit
def _impute(node: Node, params: Params, x: Data) -> Data:
    units = to_units(x)
    new = to_rows(node.complete(params, node.infer(params, units)[0], units))

    def leaf(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(jnp.isnan(old), new, old) if jnp.issubdtype(old.dtype, jnp.floating) else old

    return jax.tree.map(leaf, x, new)

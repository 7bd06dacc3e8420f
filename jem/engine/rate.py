"""How fast a climb converges, read off its trace, and how many steps it has left."""

import jax.numpy as jnp
from jax import Array

from jem.engine.stop import rounding

_WINDOW = 10  # steps over which a rate is averaged
_CLEAR = 32  # times the rounding level a gain must be to count


def rate_of_gains(trace: Array, total_weight: Array) -> Array:
    """The rate of convergence `r` of plain steps: by the last gains that rounding does not blur, `r^2` is what they shrink by.

    It is the largest eigenvalue of the EM map's Jacobian at the limit, the fraction of missing information in the direction
    found last. NaN with fewer than two such gains, or where they do not shrink.

    Args:
        trace: (max_steps + 1,) objective after each step, NaN beyond the end.
        total_weight: sum of the weights.

    Source: Dempster, Laird and Rubin (1977), section 3; Meng and Rubin (1991), JASA 86.
    """
    gains = jnp.diff(trace)
    if gains.shape[0] < 2:
        return jnp.full((), jnp.nan, trace.dtype)
    level = rounding(trace[1:], total_weight)
    index = jnp.arange(gains.shape[0])
    # The climb begins after the last fall, where a noisy phase had any, and counts as long as its gains are clear.
    first = jnp.max(jnp.where(gains < -level, index + 1, 0))
    blurred = (gains <= _CLEAR * level) | jnp.isnan(gains)
    last = jnp.argmax(jnp.append(blurred & (index >= first), True)) - 1
    back = jnp.minimum(_WINDOW, jnp.maximum((last - first) // 2, 1))
    ratio = gains[last] / gains[jnp.maximum(last - back, 0)]
    rate = ratio ** (0.5 / back)
    return jnp.where((last > first) & (rate < 1), rate, jnp.nan)


def steps_left(trace: Array, excess: Array, order: int) -> Array:
    """Steps until what is now `excess` times its tolerance has shrunk to it, as the gains of the last steps shrink.

    Args:
        trace: (max_steps + 1,) objective after each step, NaN beyond the end.
        excess: the rule's measure over its tolerance.
        order: 2 where the measure shrinks as the gap of the objective does, 1 where as the distance of the parameters.

    Returns:
        A scalar, 0 where excess <= 1; NaN where the gains do not shrink, or are fewer than four.
    """
    last = jnp.sum(jnp.isfinite(trace)) - 1
    back = jnp.minimum(_WINDOW, last // 2)
    now, before = trace[last], trace[jnp.maximum(last - back, 0)]
    shrink = ((now - before) / (before - trace[jnp.maximum(last - 2 * back, 0)])) ** (1 / jnp.maximum(back, 1))
    steps = jnp.log(excess) / (-0.5 * order * jnp.log(shrink))
    steps = jnp.where((last >= 4) & (shrink > 0) & (shrink < 1), jnp.ceil(steps), jnp.nan)
    return jnp.where(excess <= 1, 0, steps)

"""The derivative of the steps themselves."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import tree
from jem.engine import loop
from jem.engine.adjoint.status import not_taken
from jem.engine.loop import Lane, Problem
from jem.engine.restarts import FinishAll
from jem.engine.result import Fit, Status
from jem.engine.task import Task
from jem.node import Params, node


@node
class Unrolled:
    """The derivative of the steps themselves, through all `max_steps` of them, starts included: for comparison.

    Its memory grows with `max_steps` and it is as far from the fixed point's derivative as the fit is from the fixed point.
    Every turn is differentiated as it was computed: where a lane stops, so does its derivative.

    Example:
        >>> import jax, jax.numpy as jnp, jem
        >>> x = jnp.array([[1.0], [2.0], [6.0]])
        >>> start = jem.Poisson.Params(jnp.array([1.0]))
        >>> rate = lambda x: jem.fit(jem.Poisson(), start, x, max_steps=3, adjoint=jem.adjoints.Unrolled()).params.rate[0]
        >>> [round(float(slope), 3) for slope in jax.grad(rate)(x)[:, 0]]
        [0.333, 0.333, 0.333]

    Source: Griewank and Walther (2008), Evaluating Derivatives, chapter 15.
    """

    def inputs(self, values: Any) -> Any:
        """What the steps see: everything."""
        return values

    def batched(self, program: Any) -> Any:
        """The program as it is: derivatives go through it."""
        return program

    def run(self, problem: Problem, starts: Params, numbers: Array, num_slots: int) -> tuple[Lane, Array]:
        """The loop as a scan over `max_steps + 1` turns of all lanes."""
        if not isinstance(problem.schedule, FinishAll):
            raise ValueError(f"Unrolled: every start is finished; got the schedule {type(problem.schedule).__name__}")
        table = jax.vmap(lambda p, i: loop.start_lane(problem, p, i))(starts, numbers)

        def turn(table: Lane, _: None) -> tuple[Lane, Array]:
            new, objective = jax.vmap(lambda lane: loop.advance(problem, lane))(table)
            going = table.status == Status.RUNNING
            return tree.where(going, new, table), jnp.where(going, objective, jnp.nan)

        table, trace = lax.scan(turn, table, None, length=problem.max_steps + 1)
        return table, trace.T

    def attach(self, fits: Fit, task: Task) -> Fit:
        """The fits as they are."""
        return fits._replace(adjoint=jax.vmap(not_taken)(fits.objective))

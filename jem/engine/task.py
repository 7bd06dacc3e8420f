"""What a fit is asked to do, in one record: made at the door, it travels down to the loop."""

from typing import Any

from jem.node import Data, Node, node, static


@node
class Task:
    """A fit before it is begun, but for where it starts.

    Attributes:
        model: the node; bound to the data on the way.
        x: data, rows first.
        weights: (N,), or None for ones.
        solver: what makes the next parameters.
        stop: the stopping rule.
        schedule: which starts are finished.
        adjoint: what a derivative of the fit is.
        max_steps: largest number of steps of a lane.
        slots: lanes advanced together; None chooses by backend and size.
        mesh: what the data lies on, and its axis over the rows, None where the lanes are split; None for one device.
    """

    model: Node
    x: Data
    weights: Any  # or None
    solver: Any
    stop: Any
    schedule: Any
    adjoint: Any
    max_steps: int = static()
    slots: int | None = static()
    mesh: tuple[Any, str | None] | None = static()

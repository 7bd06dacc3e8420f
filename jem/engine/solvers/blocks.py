"""EM in blocks of fields, each with an E-step of its own."""

from typing import Any

from jax import Array

from jem.engine.step import Evaluated, Proposal, Solver, e_step_chunk
from jem.engine.stream import Total
from jem.node import Node, Params, field_names, get_fields, node, set_fields, set_once, static


@node
class ECM(Solver):
    """Expectation-conditional maximisation: the fields are maximised group by group, with a new E-step before each group.

    `theta_g <- argmax Q(theta_g, the others | theta) + log p(theta)` for each group g in turn.

    A step is a whole cycle, as many passes over the data as there are groups, and never lowers the objective. Fresh
    statistics for every group make it exact whatever the node: it is what to use where the M-step of some fields depends on
    others, and more often than not faster a step than EM. A group that maximises the likelihood itself rather than Q (ECME)
    needs a density of its own and is the node's business.

    Args:
        *groups: names of fields, or tuples of names, which together are all the fields of the model's parameters.

    Raises:
        ValueError: groups that leave a field out, name it twice, or name one there is not.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.StudentT()
        >>> start = jem.init(model, jax.random.key(0), x)
        >>> bool(jem.fit(model, start, x, solver=jem.solvers.Anderson(jem.solvers.ECM(("mean", "whitening"), "df"))).converged)
        True

    Source: Meng and Rubin (1993), Biometrika 80 (multi-cycle ECM, section 4).
    """

    groups: tuple[tuple[str, ...], ...] = static()

    def __init__(self, *groups: Any):
        set_once(self, groups=tuple((g,) if isinstance(g, str) else tuple(g) for g in groups))

    def init(self, model: Node, params: Params, total: Total, lane: Array) -> tuple[Proposal, Any]:
        """The start; the groups are looked over."""
        names = [name for group in self.groups for name in group]
        if sorted(names) != sorted(field_names(params)):
            raise ValueError(
                f"ECM: the groups must hold each field of {type(model).__name__}'s parameters once; the fields are "
                f"{field_names(params)}, the groups {self.groups}"
            )
        return super().init(model, params, total, lane)

    def step(self, model: Node, seen: Evaluated, state: Any) -> tuple[Proposal, Any]:
        """One cycle."""
        params, stats = seen.params, seen.stats
        for i, group in enumerate(self.groups):
            if i > 0:
                stats = seen.total(lambda x, w: e_step_chunk(model, params, x, w))[0]
            others = tuple(name for name in field_names(params) if name not in group)
            new = model.maximize(params, model.hold(params, stats, others) if others else stats)
            params = set_fields(params, get_fields(new, group))
        return seen.propose(params), state

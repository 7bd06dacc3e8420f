"""The contract. A latent-variable model is a tree of nodes; weights go down, additive expected statistics come up.

Inside jem the unit axis is the **last** one: observations `(D, N)`, weights `(N,)`, log-probabilities `(N,)`. The public
functions take the field's rows `(N, D)` and turn them once.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem.data import MISSING as MISSING
from jem.data import Holed, num_units, with_gaps, without_nan
from jem.documented import Documented
from jem.kernels.intervals import Edges, Within
from jem.settings import Must, check_fields

Params = Any
Posterior = Any
Stats = Any
Data = Any
C = TypeVar("C", bound=type)

# What may be degenerate: bits of `Node.degenerate`.
EMPTY = 1  # a component or state that nothing belongs to
HELD = 2  # a direction in which more than half of the variance is the prior's or the resolution's, not the data's
BOUNDARY = 4  # a variance at its boundary where the boundary is not a maximum
ENDLESS = 8  # a parameter along which the objective rises for ever; the engine says so, with the leaf's number above LEAF
SEPARATED = 16  # outputs that leave coefficients of a regression without a maximum
LEAF = 8  # bits of a cause; above them the number of a leaf of the parameters

# What may be said of a node at once, beside MISSING: `Node.traits`.
DISCRETE = "discrete"  # `assign` can set a hidden variable of this node
CELLS = "cells"  # the data are cells (D, N) that may be missing one by one, as `data.Holed`
INPUTS = "inputs"  # a law that is driven by the inputs of `data.Given`
ORDERLESS = "orderless"  # components or states are alike: `permute` takes them in another order
LEVELS = "levels"  # components are combinations of levels, and one that is empty has the parameters of its levels
LOCAL = "local"  # the statistics give Q to first order only, around the parameters at which they were gathered
N = TypeVar("N")


def static(*, must: Must | None = None, **kwargs: Any) -> Any:
    """A dataclass field that is part of the program (a size, a flag, a class), not a value that can be traced.

    Args:
        must: `must(value, name)` raises where the value will not do; `jem.settings` makes such functions.
        **kwargs: as for `dataclasses.field`, a default for example.

    Returns:
        The field, for the body of a class under `node`.

    Example:
        >>> import jax, jem
        >>> @jem.author.node
        ... class Power:
        ...     degree: int = jem.author.static(default=2)
        >>> jax.tree.leaves(Power())
        []
    """
    return dataclasses.field(metadata={"static": True} if must is None else {"static": True, "must": must}, **kwargs)


def setting(*, must: Must, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that holds a hyper-parameter or a node.

    Args:
        must: as for `static`.
        default: its default, if it has one.

    Returns:
        The field, for the body of a class under `node`.

    Example:
        >>> import jax, jem
        >>> @jem.author.node
        ... class Ridge:
        ...     strength: float = jem.author.setting(default=1.0, must=jem.settings.number(least=0.0))
        >>> jax.tree.leaves(Ridge())
        [1.0]
    """
    return dataclasses.field(default=default, metadata={"must": must})


@dataclass_transform(frozen_default=True, field_specifiers=(static, setting, dataclasses.field))
def node(cls: C) -> C:
    """Makes a class a frozen dataclass and a pytree whose leaves are its hyper-parameters.

    Fields declared with `static()` are part of the tree's structure: changing one recompiles. All others are leaves (or
    nodes): changing one does not. A class may write its own `__init__`; rebuilding the tree does not call it. What its
    fields `must` be is looked at whenever one is made.

    Args:
        cls: the class, with annotated fields.

    Returns:
        The same class, frozen and registered with JAX.

    Example:
        >>> import jax
        >>> @node
        ... class Ridge:
        ...     strength: float = 1.0
        ...     degree: int = static(default=2)
        >>> jax.tree.leaves(Ridge(strength=0.5))
        [0.5]
    """
    own_init = "__init__" in cls.__dict__
    cls = dataclasses.dataclass(frozen=True, init=not own_init)(cls)
    fields = dataclasses.fields(cls)
    data = tuple(f.name for f in fields if not f.metadata.get("static"))
    meta = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(self: Any) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        keyed = tuple((jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in data)
        return keyed, tuple(getattr(self, n) for n in meta)

    def flatten(self: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(self, n) for n in data), tuple(getattr(self, n) for n in meta)

    def unflatten(aux: Any, children: Any) -> Any:
        self = object.__new__(cls)
        for name, value in zip(data + meta, tuple(children) + aux, strict=True):
            object.__setattr__(self, name, value)
        return self

    if any("must" in f.metadata for f in fields):
        made = cls.__init__

        @functools.wraps(made)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            made(self, *args, **kwargs)
            check_fields(self)

        cls.__init__ = __init__
    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


_PART = "; a covariance has it apart where its structure is jem.covariance.Eigen() or ScaledDiagonal()"
_HINTS = {"covariance": "; a covariance is its whitening", "volume": _PART, "shape": _PART, "orientation": _PART}


_NO_INTERVALS = (
    "Censored: {} takes no intervals; take a family whose columns are independent, and write jem.Censored inside of "
    "mixtures, chains, products, jem.Stack and jem.Tied; a family of your own says where its cells can be, `edges`"
)


class Node(Documented):
    """A model, or a part of one: E-step, M-step and what they need, as pure functions of its parameters.

    Write a class with `infer`, `expect`, `maximize`, `expected_log_prob`, `init` and `sample`, and decorate it with
    `@jem.author.node`. The rest has defaults. Shapes below have the unit axis N last.
    """

    @property
    def traits(self) -> frozenset[str]:
        """What holds of this node: some of MISSING, CELLS, DISCRETE, INPUTS, ORDERLESS, LEVELS and LOCAL."""
        return frozenset()

    def infer(self, params: Params, x: Data) -> tuple[Posterior, Array]:
        """The E-step's posterior `q(z) = p(z | x, params)` and `log p(x | params)` of shape (N,)."""
        raise TypeError(f"{type(self).__name__} does not define infer")

    def expect(self, params: Params, posterior: Posterior, x: Data, weights: Array) -> Stats:
        """Expected sufficient statistics under the posterior, weighted by `weights` (N,) and summed over units."""
        raise TypeError(f"{type(self).__name__} does not define expect")

    def infer_each(self, params: Params, x: Data, axes: Any, size: int) -> tuple[Posterior, Array]:
        """`infer` of K = `size` copies of this node, with a leading axis K; `axes` are those of vmap over the parameters.

        Write it, and `expect_each`, where all copies at once are less work than each of them.
        """
        return jax.vmap(self.infer, (axes, None), axis_size=size)(params, x)

    def expect_each(self, params: Params, posterior: Posterior, x: Data, weights: Array, axes: Any) -> Stats:
        """`expect` of K copies of this node, for weights (K, N), with a leading axis K.

        What copies share need only be right in the sum over them.
        """
        return jax.vmap(self.expect, (axes, 0, None, 0))(params, posterior, x, weights)

    def maximize(self, params: Params, stats: Stats) -> Params:
        """The M-step: argmax of `expected_log_prob(., stats, params) + log_prior(.)`; valid for any statistics."""
        raise TypeError(f"{type(self).__name__} does not define maximize")

    def expected_log_prob(self, params: Params, stats: Stats, old: Params) -> Array:
        """`Q(params | old)`, the expected complete-data log-likelihood; `stats` were gathered at `old`. A scalar."""
        raise TypeError(f"{type(self).__name__} does not define expected_log_prob")

    def init(self, key: Array, x: Data, weights: Array) -> Params:
        """One data-driven start."""
        raise TypeError(f"{type(self).__name__} does not define init")

    def sample(self, key: Array, params: Params, num: int) -> tuple[Any, Data]:
        """Draws `num` units: the latents and the observations."""
        raise TypeError(f"{type(self).__name__} does not define sample")

    def sample_like(self, key: Array, params: Params, x: Data) -> tuple[Any, Data]:
        """Draws as many units as x has, with the lengths, inputs and gaps of x: what is given there and not drawn.

        A node whose units have none of these need not write it.
        """
        latents, new = self.sample(key, params, num_units(x))
        return latents, with_gaps(new, x)

    def num_observations(self, x: Data) -> Array:
        """(N,) how many observations each unit holds: 1, or the number of steps that were seen of a sequence."""
        return jnp.ones(num_units(x))

    def bind(self, x: Data, weights: Array) -> Self:
        """The same node with every hyper-parameter that is defined relative to the data filled in."""
        return self

    def assign(self, rule: Any) -> "Node":
        """The same node with its discrete hidden variables, and those of its parts, set by a rule of `kernels.assign`.

        Its `infer` gives the rule's posterior and what the rule says a unit is worth in place of `log p(x)`. Only a node that
        is DISCRETE needs to write it; `assign(model, rule)` finds these in a model.
        """
        return self

    def permute(self, params: Params, order: Array) -> Params:
        """The parameters with components or states in another order (K,); only a node that is ORDERLESS has it."""
        raise TypeError(f"{type(self).__name__} does not define permute")

    def enter(self, params: Params) -> Params:
        """A start, moved off where no step could leave it."""
        return params

    def recentre(self, stats: Stats, old: Params, new: Params) -> Stats:
        """The statistics as if gathered about the parameters `new`, from those gathered about `old`, posteriors unchanged.

        What sums over several parameter values need: online and incremental EM. Statistics that do not refer to the
        parameters stay as they are.
        """
        raise TypeError(
            f"{type(self).__name__} does not define recentre(stats, old, new), so its statistics cannot be added across steps: "
            "online, incremental and stochastic-approximation EM need it"
        )

    def keep_units(self) -> Self:
        """The same node with statistics that hold the units of a chunk, where sums give Q only near where they were gathered.

        Q at any parameters is then `expected_log_prob` of such statistics, summed over chunks. Only a node that says
        `local_q` needs to write it; `keep_units(model)` finds these in a model.
        """
        return self

    def compress(self, total: Callable[..., Any], x: Data, weights: Array) -> tuple[Data, Array] | None:
        """Fewer rows with the same log-likelihood and statistics at any parameters; None where there are none.

        A fit asks the node at its top once, after `bind`: weights do not change there from step to step. x has rows
        **first**; `total(fn)` is the sum of `fn(x, weights)` over all data, in chunks with the units last.
        """
        return None

    def complete(self, params: Params, posterior: Posterior, x: Data, key: Array | None = None) -> Data:
        """x with every value that was not seen in the place of its mean given what was, `E[x | what is seen]`; with a key, of
        a draw from what it may be, given the posterior."""
        if MISSING in self.traits or isinstance(x, Holed):
            raise TypeError(f"{type(self).__name__}: values that are missing cannot be imputed, as it does not say their mean")
        return x

    def hidden(self, key: Array, params: Params, posterior: Posterior, x: Data) -> Any:
        """A draw of what is hidden, units last, from the posterior of `infer`, whose discrete variables are drawn already; ()
        where nothing is."""
        return ()

    def of_columns(self, columns: tuple[int, ...]) -> "Node":
        """The node of some columns of the data alone, whose parameters are what `marginal` and `conditional` give."""
        raise TypeError(f"{type(self).__name__}: does not say how some of its columns are distributed")

    def marginal(self, params: Params, columns: tuple[int, ...]) -> Params:
        """The parameters of the distribution of some columns."""
        raise TypeError(f"{type(self).__name__}: does not say how some of its columns are distributed")

    def conditional(self, params: Params, given: tuple[int, ...], rest: tuple[int, ...], values: Array) -> tuple[Params, Array]:
        """The parameters of the distribution of the columns `rest` where those `given` have these values (G,), and the
        log-density of these."""
        raise TypeError(f"{type(self).__name__}: does not say how some of its columns are distributed given others")

    @property
    def edges(self) -> Edges:
        """Where a cell can be: what `jem.Censored` takes an infinite end to be, and whether cells are integers."""
        raise TypeError(_NO_INTERVALS.format(type(self).__name__))

    def within(self, params: Params, x: Data) -> Within:
        """Log-probabilities of intervals, and points that stand for what is hidden; x has `jem.Interval` in place of values."""
        raise TypeError(_NO_INTERVALS.format(type(self).__name__))

    def sorting(self, x: Data) -> Array | None:
        """An order of the units (N,) in which an E-step is less work, where that matters; a fit sorts them by it once."""
        return None

    def log_prior(self, params: Params) -> Array:
        """Log-density of the prior at `params`, up to a constant. A scalar."""
        return jnp.zeros(())

    def degenerate(self, params: Params, stats: Stats) -> Array:
        """What of `params` is not what was asked for: the sum of some of EMPTY, HELD, BOUNDARY and SEPARATED, or 0. A scalar.

        `stats` were gathered at `params`. A prior that the user chose is no degeneracy.
        """
        return jnp.zeros((), jnp.int32)

    def conditioning(self, params: Params) -> Array:
        """By how much rounding in the parameters is magnified in the log-density, at least 1. A scalar.

        About the condition of what the data are multiplied with, such as the whitening of a Gaussian. A fall of the objective
        within that many times its rounding level is none.
        """
        return jnp.ones(())

    def gauge(self, params: Params) -> dict[str, int]:
        """How many free coordinates of each field are a convention, as turning them does not change the density.

        Only shapes are looked at. `jem.num_parameters` is the number of free coordinates less these.
        """
        return {}

    def supports(self, params: Params) -> Any:
        """Where each field may lie: the record of `params` with a `jem.kernels.support` object in place of every leaf.

        It gives the free coordinates in which gradients, accelerated steps and standard errors work. Only the structure of
        `params` is looked at; leading axes batch.
        """
        raise TypeError(
            f"{type(self).__name__} does not define supports(params): say where each of its parameters may lie, for "
            "example MyParams(mean=jem.supports.Real(), rate=jem.supports.Positive())"
        )

    def features(self, x: Data) -> Array:
        """A real description (F, N) of the units in which distance means something: for seeding only."""
        raise TypeError(f"{type(self).__name__} has no features: seed with jem.starts.RandomResponsibilities()")

    def validate(self, x: Data) -> None:
        """Raises ValueError, naming the place, where `x` (rows **first**, as the user gave it) is not in the support."""

    def must_be_finite(self, x: Data) -> Data:
        """What of `x` is checked to be finite: zeros for NaN that stands for a missing value, () for what may be anything."""
        return without_nan(x) if MISSING in self.traits else x

    def hold(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Stats:
        """The statistics from which `maximize` finds the other fields' optimum given `fields` as they are in `params`.

        The default suits nodes whose Q function separates over their fields.
        """
        return stats

    def sharing(self, params: Params, fields: tuple[str, ...]) -> Params:
        """The axes of vmap over the parameters of K copies that share `fields`: None for what is shared, 0 for the rest.

        Fields are those of the record; a node whose fields have parts that may be shared writes it for their names.
        """
        names = field_names(params)
        for f in fields:
            if f not in names:
                hint = _HINTS.get(f, "") if "whitening" in names else ""
                raise ValueError(f"Tied: {type(self).__name__} has no field {f!r}; its fields are {names}{hint}")
        return set_fields(params, {f: None if f in fields else 0 for f in names})

    def tie(self, params: Params, stats: Stats, fields: tuple[str, ...]) -> Params:
        """The M-step of K copies that share `fields`: statistics and the other fields have a leading axis K.

        The default ties whole records, whose statistics simply add.
        """
        if set(field_names(params)) - set(fields):
            raise ValueError(
                f"Tied({type(self).__name__}, {fields}): this node has a closed-form M-step only when all of its fields "
                f"{field_names(params)} are shared"
            )
        return self.maximize(params, jax.tree.map(lambda s: jnp.sum(s, 0), stats))


def flag(cause: int, present: Array) -> Array:
    """One cause of `Node.degenerate` where it is present, else 0. A scalar int32."""
    return jnp.where(present, cause, 0).astype(jnp.int32)


def any_of(causes: Any) -> Array:
    """The causes of all parts: a list of what `Node.degenerate` says of each, or an array of these."""
    causes = jnp.stack(causes) if isinstance(causes, list) else causes
    return lax.reduce(causes, jnp.zeros((), causes.dtype), lax.bitwise_or, (0,))


def _is_local(value: Any) -> bool:
    return isinstance(value, Node) and LOCAL in value.traits


def has_local_q(model: Node) -> bool:
    """Whether some node of a model, at any depth, is LOCAL."""
    return any(_is_local(part) for part in jax.tree.leaves(model, is_leaf=_is_local))


def keep_units(model: Node) -> Node:
    """The model with statistics that give Q at any parameters: `Node.keep_units` of every part that is LOCAL."""
    return jax.tree.map(lambda part: part.keep_units() if _is_local(part) else part, model, is_leaf=_is_local)


def _is_discrete(value: Any) -> bool:
    return isinstance(value, Node) and DISCRETE in value.traits


def has_discrete(model: Node) -> bool:
    """Whether some node of a model, at any depth, has a hidden variable that `assign` can set."""
    return any(_is_discrete(part) for part in jax.tree.leaves(model, is_leaf=_is_discrete))


def assign(model: Node, rule: Any) -> Node:
    """The model with all its discrete hidden variables set by a rule: `Node.assign` of every part that has some."""
    parts, treedef = jax.tree.flatten(model, is_leaf=_is_discrete)
    return treedef.unflatten([p.assign(rule.part(i)) if _is_discrete(p) else p for i, p in enumerate(parts)])


def field_names(params: Params) -> tuple[str, ...]:
    """Names of the fields of a parameter record (a NamedTuple or a dict)."""
    return tuple(params) if isinstance(params, dict) else tuple(getattr(params, "_fields", ()))


def get_fields(params: Params, fields: tuple[str, ...]) -> dict[str, Any]:
    """The named fields of a record."""
    return {f: params[f] if isinstance(params, dict) else getattr(params, f) for f in fields}


def set_fields(params: Params, values: dict[str, Any]) -> Params:
    """The record with the named fields replaced."""
    return {**params, **values} if isinstance(params, dict) else params._replace(**values)


def replaced(self: N, **values: Any) -> N:
    """A copy of a node with the named fields changed; no `__init__` is called."""
    new = copy.copy(self)
    set_once(new, **values)
    return new


def set_once(self: Any, **values: Any) -> None:
    """Sets the fields of a frozen node from an `__init__` of its own."""
    for name, value in values.items():
        object.__setattr__(self, name, value)

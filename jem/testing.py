"""The laws of `jem.author.Node`, for nodes written elsewhere: `jem.testing.check_node(node, params, x)`."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jem import checks, coordinates, tree
from jem.ask.densities import bind
from jem.backend import precise
from jem.coordinates import unconstrain, unravel
from jem.data import row_weights, to_rows, to_units
from jem.engine.step import e_step_chunk, gradient_fields
from jem.engine.stream import fold, lay_out
from jem.kernels.support import Support
from jem.node import Data, Node, Params, has_local_q
from jem.reading import as_array, as_arrays

_STEPS = 8  # of EM, along which the objective must not fall
_DRAWS = 4096  # over which the score must have mean zero
_DEVIATIONS = 6.0  # standard errors by which that mean may be off


class _Case(NamedTuple):
    """A node bound to data, its parameters, and what rounding may do."""

    node: Node
    params: Params
    x: Data  # rows first
    units: Data  # rows last
    weights: Array
    eps: float


def check_node(node: Node, params: Params, x: Data, weights: Array | None = None) -> tuple[str, ...]:
    """Checks that a node keeps the laws on which every fit, restart, chunk and derivative rests.

    With `stats(params)` the expected statistics and l the weighted log-likelihood:

        form        the M-step and `init` keep the parameters' structure, shapes and dtypes
        additive    statistics of parts of the rows, and of chunks, sum to those of all
        weights     an integer weight repeats a row; weight 0 removes it, even where it holds NaN
        fisher      d Q(. | params) = d l at params
        ascent      the M-step maximises Q + log prior, and no EM step lowers l + log prior
        total       the M-step is valid for statistics of one row, of next to nothing and of nothing
        recentre    statistics put about other parameters say the same Q, but for a constant
        sample      draws follow the density: the score has mean zero over them

    `ascent` is left out where a field has no closed-form M-step, `recentre` and `sample` where the node does not define them.

    Args:
        node: the node, `supports` included.
        params: parameters at which it is looked at: of an ordinary model, not at an edge.
        x: some tens of rows that it could have made, none of them missing.
        weights: (N,) or None; by default whole and half ones are tried.

    Returns:
        Names of the laws that were checked.

    Raises:
        AssertionError: a law that is broken, and by what.

    Example:
        >>> import jax, jax.numpy as jnp, jem
        >>> x = jnp.array([[0.0], [3.0], [1.0], [4.0], [2.0], [2.0], [1.0], [7.0]])
        >>> jem.testing.check_node(jem.Poisson(), jem.Poisson.Params(jnp.array([2.0])), x)
        ('form', 'additive', 'weights', 'fisher', 'ascent', 'total', 'recentre', 'sample')
    """
    x = as_arrays(x)
    checks.check_data(node, x, None)
    x = jax.tree.map(jnp.asarray, x)
    every = row_weights(x, None)
    weights = every * (1 - 0.5 * (jnp.arange(every.shape[0]) % 2)) if weights is None else as_array(weights, "weights")
    units = to_units(x)
    bound = bind(node, x, weights)
    if type(bound) is not type(node):
        raise AssertionError(
            f"{type(node).__name__}.bind gives a {type(bound).__name__}: return the same class, "
            "as dataclasses.replace(super().bind(x, weights), ...) does"
        )
    case = _Case(bound, params, x, units, weights, float(jnp.finfo(weights.dtype).eps))
    done = []
    for name, law in _LAWS.items():
        try:
            if law(case) is not False:
                done.append(name)
        except AssertionError as error:
            raise AssertionError(f"{type(node).__name__} breaks the law {name!r}: {error}") from None
    return tuple(done)


def _stats(case: _Case, params: Params, weights: Array) -> Any:
    return _e_step(case.node, params, case.units, weights)


# What a node is asked again and again, one program each.
_e_step = jax.jit(precise(e_step_chunk))
_maximize = jax.jit(precise(lambda node, params, stats: node.maximize(params, stats)))
_recentred = jax.jit(precise(lambda node, stats, old, new: node.recentre(stats, old, new)))
_log_prior = jax.jit(precise(lambda node, params: node.log_prior(params)))
_draws = jax.jit(precise(lambda node, key, params, like: node.sample_like(key, params, like)))
_ravel, _unravel = jax.jit(precise(coordinates.ravel)), jax.jit(precise(unravel))


@jax.jit
@precise
def _in_chunks(node: Node, params: Params, data: Any) -> Any:
    return fold(lambda u, w: e_step_chunk(node, params, u, w), data)


@jax.jit
@precise
def _slopes(node: Node, params: Params, units: Data, weights: Array, z: Array, direction: Array) -> tuple[Array, Array]:
    """Along a direction, of Q and of the log-likelihood, at z."""
    stats = e_step_chunk(node, params, units, weights)[0]

    def both(z: Array) -> tuple[Array, Array]:
        there = unravel(node, z, params)
        return node.expected_log_prob(there, stats, params), e_step_chunk(node, there, units, weights)[1]

    return jax.jvp(both, (z,), (direction,))[1]


@jax.jit
@precise
def _free_energy(node: Node, z: Array, stats: Any, old: Params) -> Array:
    params = unravel(node, z, old)
    return node.expected_log_prob(params, stats, old) + node.log_prior(params)


@jax.jit
@precise
def _slope_of_q(node: Node, z: Array, along: Array, stats: Any, old: Params, like: Params) -> Array:
    q = lambda z: node.expected_log_prob(unravel(node, z, like), stats, old)  # noqa: E731
    return jax.jvp(q, (z,), (along,))[1]


@jax.jit
@precise
def _score(node: Node, params: Params, drawn: Data, z: Array, direction: Array) -> tuple[Array, Array]:
    """Mean over the draws, and its standard error."""
    log_prob = lambda z: node.infer(unravel(node, z, params), drawn)[1]  # noqa: E731
    each = jax.jvp(log_prob, (z,), (direction,))[1]
    return jnp.mean(each), jnp.std(each) / jnp.sqrt(_DRAWS)


def _close(got: Any, want: Any, eps: float, ulps: float = 256) -> None:
    """Leaves agree within `ulps` roundings of the largest entry of the leaf, or of one."""
    assert jax.tree.structure(got) == jax.tree.structure(want), f"{jax.tree.structure(got)} is not {jax.tree.structure(want)}"
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)
        off = np.abs(a - b).max(initial=0.0)
        assert off <= ulps * eps * max(1.0, np.abs(b).max(initial=0.0)), f"{jax.tree_util.keystr(path)} is off by {off:.3g}"


def _valid(case: _Case, params: Params, what: str) -> None:
    supports = jax.tree.leaves(case.node.supports(params))
    for (path, leaf), support in zip(jax.tree_util.tree_leaves_with_path(params), supports, strict=True):
        place = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), f"after statistics of {what}, maximize gives {place} = {leaf}"
        fault = support.fault(np.asarray(leaf))
        assert fault is None, f"after statistics of {what}, maximize gives {place}: {fault}"


def _directions(case: _Case, num: int) -> Array:
    """Directions in free coordinates."""
    size = _ravel(case.node, case.params).shape[0]
    return jnp.asarray(np.random.default_rng(0).standard_normal((num, size)), case.weights.dtype)


def _leaf_of(case: _Case) -> np.ndarray:
    """Of each free coordinate, the leaf it belongs to, by its path."""
    free = jax.eval_shape(lambda params: unconstrain(case.node, params), case.params)
    leaves = jax.tree_util.tree_leaves_with_path(free)
    return np.repeat([jax.tree_util.keystr(path) for path, _ in leaves], [leaf.size for _, leaf in leaves])


def _form(case: _Case) -> None:
    def step(params: Params) -> Params:
        return case.node.maximize(params, e_step_chunk(case.node, params, case.units, case.weights)[0])

    for path, support in jax.tree_util.tree_leaves_with_path(case.node.supports(case.params)):
        found = f"supports gives {type(support).__name__} at {jax.tree_util.keystr(path)}"
        assert isinstance(support, Support), f"{found}: put one of jem.supports there"
    start = jax.eval_shape(case.node.init, jax.random.key(0), case.units, case.weights)
    for who, got in (("maximize", jax.eval_shape(step, case.params)), ("init", start)):
        assert jax.tree.structure(got) == jax.tree.structure(case.params), f"{who} gives {jax.tree.structure(got)}"
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(case.params), strict=True):
            found, want = (a.shape, a.dtype), (jnp.shape(b), jnp.result_type(b))
            assert found == want, f"{who} gives {jax.tree_util.keystr(path)} of {found}, not {want}"


def _additive(case: _Case) -> None:
    whole = _stats(case, case.params, case.weights)
    first = jnp.arange(case.weights.shape[0]) % 3 == 0
    parts = [_stats(case, case.params, jnp.where(mask, case.weights, 0)) for mask in (first, ~first)]
    _close(tree.add(*parts), whole, case.eps)
    _close(_chunked(case, case.x, case.weights), whole, case.eps)


def _chunked(case: _Case, x: Data, weights: Array) -> Any:
    return _in_chunks(case.node, case.params, lay_out(x, weights, max(weights.shape[0] // 3, 1)))


def _weights(case: _Case) -> None:
    num = case.weights.shape[0]
    weights = np.arange(num) % 3  # every third row gone, the others once and twice
    assert weights.any(), "at least two rows are needed"

    def spoil(leaf: Array) -> Array:
        gone = jnp.asarray(weights == 0).reshape((-1,) + (1,) * (leaf.ndim - 1))
        return jnp.where(gone, jnp.nan, leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    spoilt = _chunked(case, jax.tree.map(spoil, case.x), jnp.asarray(weights, case.weights.dtype))
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, weights, axis=0), case.x)
    _close(spoilt, _chunked(case, repeated, row_weights(repeated, None)), case.eps)


def _fisher(case: _Case) -> None:
    z = _ravel(case.node, case.params)
    slopes = functools.partial(_slopes, case.node, case.params, case.units, case.weights, z)

    def off(directions: Array) -> str | None:
        got, want = np.asarray([slopes(direction) for direction in directions], float).T
        size = max(float(jnp.sum(case.weights)), np.abs(want).max())
        wrong = np.abs(got - want).max() > 256 * case.eps * size
        return f"slopes of Q are {got}, those of the log-likelihood {want}" if wrong else None

    directions = _directions(case, 4)
    if message := off(directions):
        of = _leaf_of(case)
        alone = {leaf: off(directions * (of == leaf)[None, :]) for leaf in dict.fromkeys(of)}
        raise AssertionError("; ".join(f"along {leaf}, {found}" for leaf, found in alone.items() if found) or message)


def _ascent(case: _Case) -> bool | None:
    if gradient_fields(case.node, case.params) or has_local_q(case.node):
        return False
    rounding = 64 * case.eps
    stats, params, last = _stats(case, case.params, case.weights)[0], case.params, -np.inf
    best = _ravel(case.node, _maximize(case.node, params, stats))
    top, slack = float(_free_energy(case.node, best, stats, params)), rounding * float(jnp.sum(case.weights))
    for direction in _directions(case, 4):
        for size in (0.3, 0.03):
            near = float(_free_energy(case.node, best + size * direction, stats, params))
            assert near <= top + slack + rounding * abs(top), f"Q + log prior is {top} after maximize, and {near} beside it"
    for step in range(_STEPS):
        stats, log_likelihood = _stats(case, params, case.weights)
        objective = float(log_likelihood) + float(_log_prior(case.node, params))
        assert np.isfinite(objective), f"the objective is {objective} after {step} steps"
        assert objective >= last - slack - rounding * abs(objective), f"step {step} lowers the objective by {last - objective}"
        params, last = _maximize(case.node, params, stats), objective
    return None


def _total(case: _Case) -> None:
    num, tiny = case.weights.shape[0], float(jnp.finfo(case.weights.dtype).tiny)
    one = np.eye(num)[num // 2]
    for what, weights in {"one row": one, "a part of one row": 1e-3 * one, "next to nothing": np.full(num, 4 * tiny)}.items():
        params = case.params
        for _ in range(3):
            stats = _stats(case, params, jnp.asarray(weights, case.weights.dtype))[0]
            params = _maximize(case.node, params, stats)
            _valid(case, params, what)
    nothing = tree.zeros_like(_stats(case, case.params, case.weights)[0])
    _valid(case, _maximize(case.node, case.params, nothing), "nothing")


def _recentre(case: _Case) -> bool | None:
    node, params, z = case.node, case.params, _ravel(case.node, case.params)
    new, other, along = (0.1 * _directions(case, 3)).reshape(3, -1)
    new, stats = _unravel(node, z + new, params), _stats(case, params, case.weights)[0]
    try:
        moved = _recentred(node, stats, params, new)
    except TypeError:
        return False
    before = float(_slope_of_q(node, z + other, along, stats, params, params))
    after = float(_slope_of_q(node, z + other, along, moved, new, params))
    off = abs(before - after) / max(float(jnp.sum(case.weights)), abs(before))
    assert off <= 4096 * case.eps, f"a slope of Q is {before} before, and {after} after"
    return None


def _sample(case: _Case) -> bool | None:
    many = jax.tree.map(lambda leaf: leaf[jnp.arange(_DRAWS) % leaf.shape[0]], case.x)
    try:
        both = _draws(case.node, jax.random.key(0), case.params, to_units(many))
    except TypeError as error:
        if "define sample" in str(error) or "no sampler" in str(error):
            return False
        raise
    assert isinstance(both, tuple) and len(both) == 2, "sample must return (latents, x), with () for no latents"
    drawn = both[1]
    for (path, leaf), like in zip(jax.tree_util.tree_leaves_with_path(to_rows(drawn)), jax.tree.leaves(many), strict=True):
        assert leaf.shape == like.shape, f"draws{jax.tree_util.keystr(path)} have shape {leaf.shape}, the data {like.shape}"
    z = _ravel(case.node, case.params)
    for direction in _directions(case, 4):
        mean, error = map(float, _score(case.node, case.params, drawn, z, direction))
        found = f"the score has mean {mean:.3g} over {_DRAWS} draws, with a standard error of {error:.2g}"
        assert abs(mean) <= _DEVIATIONS * error + 64 * case.eps, f"{found}: they follow another density"
    return None


_LAWS = {
    "form": _form,
    "additive": _additive,
    "weights": _weights,
    "fisher": _fisher,
    "ascent": _ascent,
    "total": _total,
    "recentre": _recentre,
    "sample": _sample,
}

"""Choosing a model: information criteria, and a sweep over models that tabulates them."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import xlogy

from jem.ask.asking import asked
from jem.ask.densities import e_step_of, log_prob, num_parameters
from jem.ask.together import alike, fit_together
from jem.ask.units import check_units
from jem.backend import precise
from jem.checks import check_key, check_positive_int
from jem.data import row_weights, to_units, used_rows
from jem.doors.fit import checked, fit_restarts
from jem.doors.progress import meter_of
from jem.engine.restarts import FinishAll
from jem.engine.result import Fit, Status
from jem.engine.stream import chunk_size, fold, lay_out, unit_bytes
from jem.node import Data, Node, Params
from jem.reading import as_arrays


def aic(node: Node, params: Params, x: Data, weights: Array | None = None) -> Array:
    """Akaike's information criterion, `-2 log p(x | params) + 2 p`; lower is better.

    Args:
        node: the model.
        params: its parameters.
        x: data with N rows.
        weights: (N,) or None.

    Returns:
        A scalar.

    Raises:
        ValueError: data, weights or parameters that do not fit the model.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.aic(jem.Poisson(), jem.Poisson.Params(jnp.array([2.5])), [[1], [4]]).shape
        ()

    Source: Akaike (1974), IEEE Trans. Automatic Control 19.
    """
    params, x, weights = asked(node, params, x, weights)
    return -2 * e_step_of(node, params, x, weights)[1] + 2 * num_parameters(node, params)


def bic(node: Node, params: Params, x: Data, weights: Array | None = None) -> Array:
    """Schwarz's Bayesian information criterion, `-2 log p(x | params) + p log N`; lower is better.

    N is the number of observations: the total weight of the rows, and of sequences the number of steps that were seen.

    Args:
        node: the model.
        params: its parameters.
        x: data with N rows.
        weights: (N,) or None.

    Returns:
        A scalar.

    Raises:
        ValueError: data, weights or parameters that do not fit the model.

    Example:
        >>> import jem, jax.numpy as jnp
        >>> jem.bic(jem.Poisson(), jem.Poisson.Params(jnp.array([2.5])), [[1], [4]]).shape
        ()

    Source: Schwarz (1978), Ann. Statist. 6.
    """
    params, x, weights = asked(node, params, x, weights)
    total = _num_observations(node, x, weights)
    return -2 * e_step_of(node, params, x, weights)[1] + num_parameters(node, params) * jnp.log(total)


@jax.jit
@precise
def _num_observations(node: Node, x: Data, weights: Array | None) -> Array:
    w = row_weights(x, weights)
    return jnp.sum(w * node.num_observations(to_units(used_rows(x, weights))))


def icl(node: Node, params: Params, x: Data, weights: Array | None = None) -> Array:
    """Integrated completed likelihood, `bic + 2 sum_n w_n H[r_n]` with r_n the responsibilities; lower is better.

    Args:
        node: a mixture.
        params: its parameters.
        x: data with N rows.
        weights: (N,) or None.

    Returns:
        A scalar.

    Raises:
        ValueError: no mixture; data, weights or parameters that do not fit the model.

    Example:
        >>> import jem, jax
        >>> m, x = jem.Mixture(jem.Poisson(), 2), [[1], [2], [9]]
        >>> p = jem.init(m, jax.random.key(0), x)
        >>> bool(jem.icl(m, p, x) >= jem.bic(m, p, x))
        True

    Source: Biernacki, Celeux and Govaert (2000), IEEE Trans. PAMI 22.
    """
    params, x, weights = asked(node, params, x, weights)
    if not has_responsibilities(node, params, x):
        raise ValueError(f"icl: expected a mixture; {type(node).__name__} has no responsibilities; use jem.bic")
    return bic(node, params, x, weights) + 2 * _entropy(node, params, x, weights)


def has_responsibilities(node: Node, params: Params, x: Data) -> bool:
    """Whether the units belong to components, so that `icl` is defined."""
    posterior = jax.eval_shape(lambda params, x: node.infer(params, to_units(x))[0], params, x)
    return hasattr(posterior, "responsibilities")


@jax.jit
@precise
def _entropy(node: Node, params: Params, x: Data, weights: Array | None) -> Array:
    def chunk(x: Any, w: Array) -> Array:
        r = node.infer(params, x)[0].responsibilities
        return -jnp.sum(xlogy(r, r) * w[None, :])

    weights = row_weights(x, weights)
    return fold(chunk, lay_out(x, weights, chunk_size(unit_bytes(chunk, x, weights), weights.shape[0])))


class SweepRow(NamedTuple):
    """One model of a sweep; `icl` is NaN where there are no components (a chain, a factor analysis).

    Of its lanes `num_best` found the best optimum, `num_optima` different ones there are, and `num_failed` did not converge.
    """

    name: str
    num_parameters: int
    log_likelihood: float
    aic: float
    bic: float
    icl: float
    status: Status
    num_optima: int
    num_best: int
    num_failed: int


_CRITERIA = ("aic", "bic", "icl")


class Sweep(NamedTuple):
    """The table of a sweep, one row a model, and every fit.

    `str(sweep)` prints the table; `sweep.best("bic")` is the name of the model with the lowest criterion.
    """

    rows: list[SweepRow]
    fits: dict[str, Fit]

    def best(self, criterion: str = "bic") -> str:
        """Name of the model with the lowest `criterion`, among those whose best lane converged where there are any.

        Raises:
            ValueError: an unknown criterion, or one that is defined for none of the models.
        """
        if criterion not in _CRITERIA:
            raise ValueError(f"criterion must be one of {', '.join(_CRITERIA)}; got {criterion!r}")
        defined = [r for r in self.rows if not np.isnan(getattr(r, criterion))]
        if not defined:
            raise ValueError(f"{criterion} is defined for none of the models {[r.name for r in self.rows]}; use bic or aic")
        good = [r for r in defined if r.status == Status.CONVERGED] or defined
        return min(good, key=lambda r: getattr(r, criterion)).name

    def __str__(self) -> str:
        criteria = "".join(f"{name:>14}" for name in ("log-lik", "AIC", "BIC", "ICL"))
        head = f"{'model':<20}{'p':>6}{criteria}  {'status':<12}{'optima':>6}{'best':>6}{'failed':>8}"
        lines = [
            f"{r.name:<20}{r.num_parameters:>6}{r.log_likelihood:>14.3f}{r.aic:>14.3f}{r.bic:>14.3f}{r.icl:>14.3f}"
            f"  {r.status.name:<12}{r.num_optima:>6}{r.num_best:>6}{r.num_failed:>8}"
            for r in self.rows
        ]
        return "\n".join([head, *lines])


def sweep(
    models: Mapping[str, Node], key: Array, x: Data, *, num_restarts: int, weights: Array | None = None, **options: Any
) -> Sweep:
    """Fits several models to the same data and tabulates their information criteria: over K, over covariance kinds.

    Mixtures and chains that differ in the number of their components alone are one program: all lanes of all of them are one
    batch, of as many components as the largest has, those that a lane does not use switched off. Priors on weights or
    transitions, labels, and plates other than K copies have a program for each model, and so has whatever is fitted with a
    schedule that compares lanes.

    Args:
        models: names and models; `icl` is reported of mixtures only.
        key: a typed PRNG key.
        x: data with N rows.
        num_restarts: starts of each model.
        weights: (N,) or None.
        **options: passed on to `fit_restarts`; with `progress`, Ctrl-C ends the sweep, of which those models are left that
            were begun.

    Returns:
        A `Sweep`.

    Raises:
        ValueError: no models, or as `fit_restarts`.

    Example:
        >>> import jem, jax
        >>> models = {f"K={k}": jem.Mixture(jem.Gaussian(), k) for k in (1, 2)}
        >>> jem.sweep(models, jax.random.key(0), jem.datasets.old_faithful(), num_restarts=4).best()
        'K=2'
    """
    if not isinstance(models, Mapping) or not models:
        raise ValueError(f"sweep: models must be a dict of names and models, at least one; got {models!r}")
    every = isinstance(options.get("schedule", FinishAll()), FinishAll)
    groups = alike(models, x) if every else [[name] for name in models]
    meter, fits = meter_of(options.pop("progress", None), "sweep", (x, weights)), {}
    with meter or contextlib.nullcontext():
        for names, k in zip(groups, jax.random.split(key, len(groups)), strict=True):
            some = {name: models[name] for name in names}
            told = {} if meter is None else {"progress": meter.doing(", ".join(names))}
            if len(some) == 1:
                fits[names[0]] = fit_restarts(
                    some[names[0]], k, x, num_restarts=num_restarts, weights=weights, **told, **options
                )
            else:
                fits |= fit_together(some, k, x, num_restarts=num_restarts, weights=weights, **told, **options)
            if meter is not None and meter.interrupted:
                break
    fits = {name: fits[name] for name in models if name in fits}
    return Sweep([sweep_row(name, models[name], fits[name], x, weights) for name in fits], fits)


def sweep_row(name: str, node: Node, fits: Fit, x: Data, weights: Array | None = None) -> SweepRow:
    """The row of one model in a sweep, from its restarts.

    Args:
        name: what to call it.
        node: the model.
        fits: from `fit_restarts`.
        x: data with N rows.
        weights: (N,) or None.
    """
    best, found = fits.best(), fits.optima()
    x = as_arrays(x)
    num, total = num_parameters(node, best.params), float(best.log_likelihood)
    by_size = -2 * total + num * float(np.log(_num_observations(node, x, weights)))
    mixed = has_responsibilities(node, best.params, x)
    return SweepRow(
        name=name,
        num_parameters=num,
        log_likelihood=total,
        aic=-2 * total + 2 * num,
        bic=by_size,
        icl=by_size + 2 * float(_entropy(node, best.params, x, weights)) if mixed else float("nan"),
        status=Status(int(np.asarray(best.status))),
        num_optima=len(found.rows),
        num_best=found.rows[0].num_lanes if found.rows else 0,
        num_failed=int(np.sum(np.asarray(fits.status) != Status.CONVERGED)),
    )


class CrossValidation(NamedTuple):
    """What a model says of rows that it was not fitted to.

    Attributes:
        log_likelihood: (F,) weighted log-densities of each fold's rows under the fit to the other folds, summed.
        total: their sum; the higher the better.
        standard_error: of the total, from the spread of single rows; to compare models look at the folds' differences.
        status: (F,) int codes of `jem.Status` of the fits.
    """

    log_likelihood: np.ndarray
    total: float
    standard_error: float
    status: np.ndarray


def cross_validate(
    node: Node,
    key: Array,
    x: Data,
    *,
    num_folds: int = 5,
    num_restarts: int,
    weights: Array | None = None,
    **options: Any,
) -> CrossValidation:
    """Log-likelihood of rows that were left out, in folds drawn at random: a criterion where parameters cannot be counted.

    `sum_f sum_{n in fold f} w_n log p(x_n | params_f)`, with `params_f` fitted to the rows of the other folds. A fold is left
    out by weights of zero, so that one program fits them all.

    Args:
        node: the model.
        key: a typed PRNG key, of the folds and of the starts.
        x: data with N rows, or sequences; a row is left out whole.
        num_folds: F, 2 .. N.
        num_restarts: starts of each fit.
        weights: (N,) or None.
        **options: passed on to `fit_restarts`.

    Returns:
        A `CrossValidation`.

    Raises:
        ValueError: fewer than two rows, as one sequence; more folds than rows; or as `fit_restarts`.

    Example:
        >>> import jem, jax
        >>> x, model = jem.datasets.old_faithful(), jem.Mixture(jem.Gaussian(), 2)
        >>> jem.cross_validate(model, jax.random.key(0), x, num_folds=3, num_restarts=2).log_likelihood.shape
        (3,)

    Source: Stone (1974), JRSS B 36; Smyth (2000), Statistics and Computing 10, for the number of components.
    """
    check_key(key)
    x, weights = checked(node, x, weights)
    check_positive_int(num_folds, "num_folds", 2)
    check_units("cross_validate", x, weights, "jem.bic")
    w = np.asarray(row_weights(x, weights))
    if num_folds > len(w):
        raise ValueError(f"cross_validate: num_folds must be at most the number of rows, {len(w)}; got {num_folds}")
    meter = meter_of(options.pop("progress", None), "cross_validate", (x, weights))
    fold_key, *keys = jax.random.split(key, num_folds + 1)
    fold = np.asarray(jax.random.permutation(fold_key, len(w))) % num_folds
    rows, status, seen = np.zeros(len(w)), np.zeros(num_folds, int), used_rows(x, weights)
    with meter or contextlib.nullcontext():
        for f, start in enumerate(keys):
            kept = jnp.asarray(np.where(fold == f, 0, w), w.dtype)
            told = {} if meter is None else {"progress": meter.doing(f"fold {f + 1} of {num_folds}")}
            best = fit_restarts(node, start, x, num_restarts=num_restarts, weights=kept, **told, **options).best()
            if meter is not None and meter.interrupted:
                raise KeyboardInterrupt  # of a part of the folds there is no total
            rows = np.where(fold == f, log_prob(node, best.params, seen), rows)
            status[f] = int(best.status)
    counted = np.where(w > 0, w * rows, 0)
    each = np.array([counted[fold == f].sum() for f in range(num_folds)])
    return CrossValidation(each, float(each.sum()), float(np.std(counted, ddof=1) * np.sqrt(len(w))), status)

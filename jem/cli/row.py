"""The best of the restarts of one model, as there is something to say of it on the host."""

import time
from collections import Counter
from typing import Any, NamedTuple

import jax
import numpy as np

import jem
from jem.cli.data import InputError, Read
from jem.engine.result import described

# What records know that people ask for, and the fields that it is made of.
SAID = {
    "noise": ("whitening",), "covariance": ("whitening",), "scale_matrix": ("whitening",), "intercept": ("level", "centre"),
}  # fmt: skip


class Row(NamedTuple):
    """The best fit of one model, on the host.

    Attributes:
        num_components: K.
        status: of the best restart.
        statuses: number of restarts per status.
        num_optima: number of distinct optima the restarts found.
        num_steps: EM steps of the best restart.
        log_likelihood: total, at the best parameters.
        num_parameters: number of free parameters.
        bic: lower is better.
        arrays: of a mixture `weights` (K,) and the components' parameters, each with leading axis K; of others the
            parameters, by their names.
        hidden: what is hidden, for each row: `labels` (N,) the most probable component or state, `factors` or `states`
            (N, q) of a model of such.
        lines: the parameters in words, where it is no mixture.
        seconds: wall time, compilation included.
    """

    num_components: int
    status: jem.Status
    statuses: Counter
    num_optima: int
    num_steps: int
    log_likelihood: float
    num_parameters: int
    bic: float
    arrays: dict[str, np.ndarray]
    hidden: dict[str, np.ndarray]
    lines: list[str]
    seconds: float


def fit_one(model: Any, key: jax.Array, found: Read, num_restarts: int, size: int, **options: Any) -> Row:
    """Fits one model from many starts and brings what there is to say about the best to the host."""
    start = time.perf_counter()
    try:
        fits = jem.fit_restarts(model, key, found.data, num_restarts=num_restarts, weights=found.weights, **options)
    except ValueError as error:
        raise InputError(f"-k {size}: {error}") from None
    best = fits.best()
    jax.block_until_ready(best)
    seconds = time.perf_counter() - start
    weights = getattr(best.params, "weights", None)
    arrays = named_arrays(best.params)
    if weights is not None:
        arrays = {"weights": np.asarray(weights), **component_arrays(best.params.components, len(weights))}
    return Row(
        num_components=size,
        status=jem.Status(int(best.status)),
        statuses=Counter(jem.Status(int(code)) for code in fits.status),
        num_optima=int(fits.num_optima()),
        num_steps=int(best.num_steps),
        log_likelihood=float(best.log_likelihood),
        num_parameters=jem.num_parameters(model, best.params),
        bic=float(jem.bic(model, best.params, found.data, found.weights)),
        arrays=arrays,
        hidden=hidden_of(model, best.params, found),
        lines=described(best.params) if weights is None else [],
        seconds=seconds,
    )


def hidden_of(model: Any, params: Any, found: Read) -> dict[str, np.ndarray]:
    """What is hidden, for each row of the file."""
    if isinstance(model, jem.HMM):
        return {"labels": found.by_rows(jem.decode(model, params, found.data)[0])}
    posterior, _ = jem.infer(model, params, found.data)
    if hasattr(posterior, "responsibilities"):
        return {"labels": np.asarray(posterior.responsibilities).argmax(1)}
    return {"states": found.by_rows(posterior.mean)} if found.num_sequences else {"factors": np.asarray(posterior.mean)}


def component_arrays(components: Any, size: int) -> dict[str, np.ndarray]:
    """The components' parameters under the names people use, each with leading axis K even where it is shared."""
    arrays = named_arrays(components)
    for name in ("covariance", "scale_matrix"):
        if name in arrays and arrays[name].ndim < 3:
            arrays[name] = np.broadcast_to(arrays[name], (size, *arrays[name].shape))
    return arrays


def named_arrays(params: Any, name: str = "") -> dict[str, np.ndarray]:
    """Every array of the parameters by its name; covariances, noises and intercepts in the place of what they are made of."""
    if not isinstance(params, dict) and not hasattr(params, "_asdict"):
        return {name: np.asarray(params)} if np.size(params) else {}
    fields = dict(params if isinstance(params, dict) else params._asdict())
    for made, parts in SAID.items():
        if (value := getattr(params, made, None)) is not None and any(part in fields for part in parts):
            fields = {field: old for field, old in fields.items() if field not in parts} | {made: value}
    found: dict[str, np.ndarray] = {}
    for field, value in fields.items():
        found |= named_arrays(value, f"{name}.{field}" if name else str(field))
    return found

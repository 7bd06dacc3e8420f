"""Parameters of a state-space model, its fixed cells, and what its data must look like."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jem import checks
from jem.backend import precise
from jem.kernels.covariance import Diagonal, Full
from jem.kernels.linalg import cholesky_semidefinite
from jem.kernels.matrix_support import CholeskyFactor
from jem.kernels.support import Deviation, HeldCells, Real


class LDSParams(NamedTuple):
    """The matrices of a state-space model: n states, M outputs, p inputs. Leading axes batch all fields.

    Attributes:
        m0: (n,) mean of the first state.
        chol_P0: Cholesky factor of its covariance, (n, n), or deviations (n, 1) if diagonal.
        A: (n, n) transition.
        B: (n, p) effect of the inputs on the states.
        chol_Q: factor of the process noise, (n, n) or (n, 1); zeros on its diagonal are states without noise.
        C: (M, n) loadings.
        D: (M, p) effect of the inputs on the observations.
        chol_R: factor of the observation noise, (M, M) or (M, 1).
    """

    m0: Array
    chol_P0: Array
    A: Array
    B: Array
    chol_Q: Array
    C: Array
    D: Array
    chol_R: Array

    @property
    def P0(self) -> Array:
        """Covariance of the first state, (..., n, n)."""
        return covariance_of(self.chol_P0, self.A.shape[-1])

    @property
    def Q(self) -> Array:
        """Covariance of the process noise, (..., n, n)."""
        return covariance_of(self.chol_Q, self.A.shape[-1])

    @property
    def R(self) -> Array:
        """Covariance of the observation noise, (..., M, M)."""
        return covariance_of(self.chol_R, self.C.shape[-2])


@precise
def covariance_of(chol: Array, dim: int) -> Array:
    """Covariances (..., dim, dim) from factors (..., dim, dim) or deviations (..., dim, 1)."""
    if chol.shape[-1] != dim:
        return chol**2 * jnp.eye(dim, dtype=chol.dtype).reshape(*(1,) * (chol.ndim - 2), dim, dim)
    return chol @ jnp.swapaxes(chol, -1, -2)


def coefficient_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices that are not covariances."""
    n, m, p = model.num_states, model.num_outputs, model.num_inputs
    return {"A": (n, n), "B": (n, p), "C": (m, n), "D": (m, p), "m0": (n,)}


def noise_dims(model: Any) -> dict[str, int]:
    """Dimensions of the covariances."""
    return {"Q": model.num_states, "R": model.num_outputs, "P0": model.num_states}


def free_cells(model: Any, name: str) -> np.ndarray:
    """Which cells may move: of a matrix, or of the variances (dim,)."""
    shape = coefficient_shapes(model).get(name) or (noise_dims(model)[name],)
    held = dict(model.held).get(name)
    return np.ones(shape, bool) if held is None else ~np.reshape(held, shape)


def overlay(model: Any, name: str, value: Array) -> Array:
    """A matrix, or deviations (dim, 1), with the fixed cells put in."""
    if name not in model.fixed:
        return value
    fixed = jnp.asarray(model.fixed[name], value.dtype)
    if name in noise_dims(model):
        fixed = jnp.sqrt(fixed)[:, None]
    return jnp.where(jnp.isnan(fixed), value, fixed)


def support_of(model: Any, field: str) -> Any:
    """Where a field of `LDSParams` may lie."""
    name = field.removeprefix("chol_")
    noise = name in noise_dims(model)
    if noise and isinstance(getattr(model, name), Full):
        return CholeskyFactor()
    inner, free = (Deviation() if noise else Real()), free_cells(model, name)
    return inner if free.all() else HeldCells(~free[:, None] if noise else ~free, inner)


def check_fixed(model: Any) -> None:
    """Structures and fixed cells: known names, right shapes, variances only where the covariance is diagonal."""
    shapes, dims = coefficient_shapes(model), noise_dims(model)
    for name in dims:
        if not isinstance(getattr(model, name), (Full, Diagonal)):
            raise ValueError(
                f"LDS: {name} must be jem.covariance.Full() or jem.covariance.Diagonal(); got {getattr(model, name)!r}"
            )
    for name, cells in model.fixed.items():
        if name not in shapes and name not in dims:
            raise ValueError(f"LDS: fixed has no entry {name!r}; its entries are {sorted([*shapes, *dims])}")
        if name in dims and not isinstance(getattr(model, name), Diagonal):
            raise ValueError(
                f"LDS: single cells of {name} can be fixed where it is diagonal; pass {name}=jem.covariance.Diagonal(), or "
                f"keep all of it with jem.Frozen(lds, 'chol_{name}')"
            )
        shape = shapes.get(name, (dims.get(name),))
        if cells.shape != shape:
            raise ValueError(f"LDS: fixed[{name!r}] must have shape {shape}, NaN where free; got {cells.shape}")
        least = {"Q": "0", "P0": "0", "R": "above 0"}.get(name)
        bad = np.isinf(cells) | ((cells < 0) if name in ("Q", "P0") else (cells <= 0) if name == "R" else False)
        if bad.any():
            place = tuple(int(i) for i in np.argwhere(bad)[0])
            expected = "finite" if least is None else f"variances, finite and {'at least ' if least == '0' else ''}{least}"
            raise ValueError(f"LDS: fixed[{name!r}] must be {expected}; got {cells[place]} at {place}")


def make_params(model: Any, given: dict[str, Any]) -> dict[str, Array]:
    """The fields of `LDSParams` from matrices, None for the default; see `LDS.params`."""
    fields = {}
    for name, shape in coefficient_shapes(model).items():
        if given[name] is None and name == "C" and ("C" not in model.fixed or np.isnan(model.fixed["C"]).any()):
            raise ValueError(f"LDS: C is missing; give the loadings, shape {shape}")
        default = jnp.eye(shape[0], dtype=float) if name == "A" else jnp.zeros(shape)
        value = default if given[name] is None else jnp.asarray(given[name], float)
        if value.shape != shape:
            raise ValueError(f"LDS: {name} must have shape {shape}; got {value.shape}")
        fields[name] = overlay(model, name, value)
        check_finite(fields[name], name)
    for name, dim in noise_dims(model).items():
        fields[f"chol_{name}"] = overlay(model, name, make_factor(name, getattr(model, name), dim, given[name]))
    return fields


def check_finite(value: Array, name: str) -> None:
    """Every cell must be a number."""
    if checks.is_concrete(value) and not np.isfinite(np.asarray(value)).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(np.asarray(value)))[0])
        raise ValueError(f"LDS: {name} must be finite; got {value[place]} at {place}")


def make_factor(name: str, structure: Full | Diagonal, dim: int, covariance: Any) -> Array:
    """The factor of a covariance (dim, dim), or of variances (dim,) where diagonal; R must be positive definite."""
    shape = structure.covariance_shape(dim)
    if covariance is None:
        covariance = jnp.eye(dim) if len(shape) == 2 else jnp.ones(dim)
    covariance = jnp.asarray(covariance, float)
    if covariance.shape != shape:
        what = "a covariance of" if len(shape) == 2 else "variances of"
        raise ValueError(f"LDS: {name} must be {what} shape {shape}; got {covariance.shape}")
    check_finite(covariance, name)
    if checks.is_concrete(covariance):
        values = np.asarray(covariance, float)
        if len(shape) == 2 and not np.allclose(values, values.T, rtol=1e-5, atol=1e-8 * np.abs(values).max(initial=0)):
            raise ValueError(f"LDS: {name} must be symmetric")
        smallest = np.linalg.eigvalsh(values).min() if len(shape) == 2 else values.min()
        if smallest < (-1e-6 * np.abs(values).max() if name != "R" else np.finfo(float).tiny):
            kind = "definite" if name == "R" else "semi-definite"
            raise ValueError(f"LDS: {name} must be positive {kind}; its smallest eigenvalue is {smallest:.3g}")
    if len(shape) == 1:
        return jnp.sqrt(covariance)[:, None]
    return cholesky_semidefinite(covariance, jnp.zeros(dim))

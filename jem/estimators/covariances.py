"""Covariances as scikit-learn and hmmlearn name and shape them, and as jem's plates hold them."""

from typing import Any

import numpy as np

import jem
from jem.estimators.base import float_of, precision

STRUCTURES = {
    "full": jem.covariance.Full(),
    "tied": jem.covariance.Full(),
    "diag": jem.covariance.Diagonal(),
    "spherical": jem.covariance.Spherical(),
}

_FEW = 1e-6  # pseudo-observations: so few that they add to the scatter and shrink nothing


def scatter_prior(scatter: float) -> Any:
    """The conjugate prior under which the M-step of a covariance of n units is `(S + scatter I) / n`; None without one."""
    return jem.priors.InverseWishart(strength=_FEW, deviation=(scatter / _FEW) ** 0.5) if scatter else None


def plate_of(leaf: Any, covariance_type: str, num: int) -> Any:
    """K components: each with a covariance of its own, or one for all."""
    return jem.Tied(leaf, num, "whitening") if covariance_type == "tied" else jem.Stack(leaf, num)


def covariances_of(components: Any, covariance_type: str) -> np.ndarray:
    """(K, D, D), tied (D, D), diagonal (K, D), spherical (K,), from a record with a whitening."""
    w = components.whitening
    if covariance_type in ("diag", "spherical"):
        return _narrow(1 / w**2, covariance_type)
    with precision(float_of(w)):
        return np.asarray(getattr(components, "covariance" if hasattr(components, "covariance") else "scale_matrix"))


def precisions_cholesky_of(components: Any, covariance_type: str) -> np.ndarray:
    """U with `precision = U U^T` (squared where it is a diagonal), in the shapes of `covariances_of`: whitenings transposed."""
    w = components.whitening
    return _narrow(w, covariance_type) if covariance_type in ("diag", "spherical") else np.swapaxes(w, -1, -2)


def whitenings_of(precisions_cholesky: np.ndarray, covariance_type: str) -> Any:
    """Undoes `precisions_cholesky_of`."""
    if covariance_type in ("full", "tied"):
        return np.swapaxes(precisions_cholesky, -1, -2)
    return precisions_cholesky[..., None] if covariance_type == "diag" else precisions_cholesky[:, None, None]


def precisions_of(precisions_cholesky: np.ndarray, covariance_type: str) -> np.ndarray:
    """Precisions, in the shapes of `covariances_of`."""
    u = precisions_cholesky
    return u @ np.swapaxes(u, -1, -2) if covariance_type in ("full", "tied") else u**2


def whitenings_from(covariances: np.ndarray, covariance_type: str) -> np.ndarray:
    """Whitenings of covariances in the shapes of `covariances_of`; ValueError where these are none."""
    leaf = jem.Gaussian(STRUCTURES[covariance_type])
    dim = covariances.shape[-1] if covariance_type != "spherical" else 1
    batch = () if covariance_type == "tied" else covariances.shape[:1]
    with precision(covariances.dtype):
        return np.asarray(leaf.params(np.zeros((*batch, dim)), covariances).whitening, covariances.dtype)


def covariance_shape(covariance_type: str, num: int, dim: int) -> tuple[int, ...]:
    """Of the covariances of K components of D features."""
    return {"full": (num, dim, dim), "tied": (dim, dim), "diag": (num, dim), "spherical": (num,)}[covariance_type]


def _narrow(w: np.ndarray, covariance_type: str) -> np.ndarray:
    return w[..., 0] if covariance_type == "diag" else w[..., 0, 0]

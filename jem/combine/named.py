"""Mixtures' covariances by the names that mclust has for them."""

from jem.combine.stack import Stack
from jem.combine.tied import Tied
from jem.families.gaussian import Gaussian
from jem.families.student_t import StudentT
from jem.kernels.covariance import Diagonal, Eigen, Full, ScaledDiagonal, Spherical
from jem.node import replaced
from jem.settings import an_instance, whole

MCLUST = {
    "EII": (Spherical(), ("whitening",)),
    "VII": (Spherical(), ()),
    "EEI": (Diagonal(), ("whitening",)),
    "VEI": (ScaledDiagonal(), ("shape",)),
    "EVI": (ScaledDiagonal(), ("volume",)),
    "VVI": (Diagonal(), ()),
    "EEE": (Full(), ("whitening",)),
    "VEE": (Eigen(), ("shape", "orientation")),
    "EVE": (Eigen(), ("volume", "orientation")),
    "VVE": (Eigen(), ("orientation",)),
    "EEV": (Eigen(), ("volume", "shape")),
    "VEV": (Eigen(), ("shape",)),
    "EVV": (Eigen(), ("volume",)),
    "VVV": (Full(), ()),
}

_FAMILY = an_instance(Gaussian | StudentT, "a jem.Gaussian() or a jem.StudentT()")
_SIZE = whole(1)


def mclust(name: str, size: int, family: Gaussian | StudentT = Gaussian()) -> Stack | Tied:  # noqa: B008
    """The components of a mixture whose covariances are those of a model of mclust, by its name.

    `Sigma_k = lambda_k O_k A_k O_k^T`: the letters say whether volume, shape and orientation are Equal, Vary, or are the
    Identity's.

    Args:
        name: one of EII, VII, EEI, VEI, EVI, VVI, EEE, VEE, EVE, VVE, EEV, VEV, EVV, VVV.
        size: K.
        family: a `jem.Gaussian` or a `jem.StudentT`, for its prior; its covariance is set.

    Returns:
        A plate of K components, for `jem.Mixture`.

    Raises:
        ValueError: a name that is none of these; a size that is no integer of at least one.
        TypeError: another family.

    Example:
        >>> import jem, jax
        >>> models = {name: jem.Mixture(jem.covariance.mclust(name, 2)) for name in ("EEE", "VVE")}
        >>> jem.sweep(models, jax.random.key(0), jem.datasets.old_faithful(), num_restarts=2).best("bic")
        'VVE'

    Source: Celeux and Govaert (1995), Pattern Recognition 28; Scrucca et al. (2016), The R Journal 8, table 3.
    """
    if name not in MCLUST:
        raise ValueError(f"mclust: expected one of {', '.join(MCLUST)}; got {name!r}")
    _SIZE(size, "mclust: size")
    _FAMILY(family, "mclust: family")
    structure, shared = MCLUST[name]
    one = replaced(family, covariance=structure)
    return Tied(one, size, *shared) if shared else Stack(one, size)

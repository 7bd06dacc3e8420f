"""Structures of a covariance matrix: `jem.Gaussian(jem.covariance.Diagonal())`."""

from jem.combine.named import mclust as mclust
from jem.kernels.covariance import Diagonal as Diagonal
from jem.kernels.covariance import Eigen as Eigen
from jem.kernels.covariance import EigenFactor as EigenFactor
from jem.kernels.covariance import Full as Full
from jem.kernels.covariance import ScaledDiagonal as ScaledDiagonal
from jem.kernels.covariance import ScaledFactor as ScaledFactor
from jem.kernels.covariance import Spherical as Spherical

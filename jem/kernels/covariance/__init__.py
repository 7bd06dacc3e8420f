"""Structures of a covariance, one file each: what Gaussian, Student-t, factor analysis and state-space noise share."""

from jem.kernels.covariance.diagonal import Diagonal as Diagonal
from jem.kernels.covariance.eigen import Eigen as Eigen
from jem.kernels.covariance.eigen import EigenFactor as EigenFactor
from jem.kernels.covariance.full import Full as Full
from jem.kernels.covariance.scaled import ScaledDiagonal as ScaledDiagonal
from jem.kernels.covariance.scaled import ScaledFactor as ScaledFactor
from jem.kernels.covariance.spherical import Spherical as Spherical
from jem.kernels.covariance.structure import Moments as Moments
from jem.kernels.covariance.structure import Pseudo as Pseudo
from jem.kernels.covariance.structure import Structure as Structure
from jem.kernels.covariance.structure import covariance_of as covariance_of

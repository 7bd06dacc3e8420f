"""Structures of a covariance matrix: `jem.Gaussian(jem.covariance.Diagonal())`."""

from jem.kernels.gaussian import Diagonal as Diagonal
from jem.kernels.gaussian import Full as Full
from jem.kernels.gaussian import Spherical as Spherical

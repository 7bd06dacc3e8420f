"""Structures of a covariance matrix: `jem.Gaussian(jem.covariance.Diagonal())`."""

from jem.kernels.covariance import Diagonal as Diagonal
from jem.kernels.covariance import Full as Full
from jem.kernels.covariance import Spherical as Spherical

"""Rotations of the loadings of a factor model."""

from jem.kernels.factor import promax as promax
from jem.kernels.factor import varimax as varimax

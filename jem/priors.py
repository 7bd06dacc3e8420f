"""Priors of parameters: `jem.Gaussian(prior=jem.priors.InverseWishart(0.1))`."""

from jem.families.scatter import InverseWishart as InverseWishart

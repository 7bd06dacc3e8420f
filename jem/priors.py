"""Priors of parameters: `jem.Gaussian(prior=jem.priors.InverseWishart(0.1))`."""

from jem.families.gaussian import InverseWishart as InverseWishart

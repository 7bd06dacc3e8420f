"""Where a mixture or a chain begins its climb: `jem.Mixture(node, 3, seeding=jem.starts.RandomResponsibilities())`."""

from jem.latents.mixture.mixture import KMeansPlusPlus as KMeansPlusPlus
from jem.latents.mixture.mixture import RandomResponsibilities as RandomResponsibilities

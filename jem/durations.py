"""How long a state lasts: `jem.laws.Durations(jem.durations.Poisson(60))`."""

from jem.latents.chain.durations import Categorical as Categorical
from jem.latents.chain.durations import NegativeBinomial as NegativeBinomial
from jem.latents.chain.durations import Poisson as Poisson

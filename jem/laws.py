"""How hidden variables are distributed and move: `jem.Mixture(weights=...)`, `jem.HMM(initial=..., transition=...)`."""

from jem.latents.chain.durations import Durations as Durations
from jem.latents.chain.initial import Outer as Outer
from jem.latents.chain.initial import Stationary as Stationary
from jem.latents.chain.kronecker import Kronecker as Kronecker
from jem.latents.chain.logistic import LogisticCells as LogisticCells
from jem.latents.chain.transition import Cells as Cells
from jem.latents.chain.transition import Driven as Driven
from jem.latents.mixture.logistic import Logistic as Logistic
from jem.latents.mixture.weights import Free as Free
from jem.latents.mixture.weights import Gate as Gate

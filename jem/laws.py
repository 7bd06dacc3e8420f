"""How hidden variables are distributed and move: `jem.Mixture(weights=...)`, `jem.HMM(initial=..., transition=...)`."""

from jem.latents.durations import Durations as Durations
from jem.latents.factorial import Kronecker as Kronecker
from jem.latents.initial import Outer as Outer
from jem.latents.initial import Stationary as Stationary
from jem.latents.transition import Cells as Cells
from jem.latents.transition import Driven as Driven
from jem.latents.weights import Free as Free
from jem.latents.weights import Gate as Gate

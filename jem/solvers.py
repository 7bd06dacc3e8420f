"""What makes the next parameters: `jem.fit(..., solver=jem.solvers.GEM(optax.adam))`."""

from jem.engine.accelerate import SQUAREM as SQUAREM
from jem.engine.accelerate import Anderson as Anderson
from jem.engine.approximate import SAEM as SAEM
from jem.engine.approximate import MonteCarlo as MonteCarlo
from jem.engine.approximate import Variational as Variational
from jem.engine.assigned import Annealed as Annealed
from jem.engine.assigned import Hard as Hard
from jem.engine.assigned import Stochastic as Stochastic
from jem.engine.blocks import ECM as ECM
from jem.engine.gradient import GEM as GEM
from jem.engine.online import Incremental as Incremental
from jem.engine.online import Online as Online
from jem.engine.step import EM as EM

"""What makes the next parameters: `jem.fit(..., solver=jem.solvers.GEM(optax.adam))`."""

from jem.engine.solvers.accelerate import SQUAREM as SQUAREM
from jem.engine.solvers.accelerate import Anderson as Anderson
from jem.engine.solvers.approximate import SAEM as SAEM
from jem.engine.solvers.approximate import MonteCarlo as MonteCarlo
from jem.engine.solvers.approximate import Variational as Variational
from jem.engine.solvers.assigned import Annealed as Annealed
from jem.engine.solvers.assigned import Hard as Hard
from jem.engine.solvers.assigned import Stochastic as Stochastic
from jem.engine.solvers.blocks import ECM as ECM
from jem.engine.solvers.gradient import GEM as GEM
from jem.engine.solvers.online import Incremental as Incremental
from jem.engine.solvers.online import Online as Online
from jem.engine.step import EM as EM

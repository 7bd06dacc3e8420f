"""What one writes nodes, laws, solvers and rules with."""

from jem.composite import Composite as Composite
from jem.composite import Wrapper as Wrapper
from jem.engine.restarts import Schedule as Schedule
from jem.engine.step import Around as Around
from jem.engine.step import EStep as EStep
from jem.engine.step import Evaluated as Evaluated
from jem.engine.step import Proposal as Proposal
from jem.engine.step import Solver as Solver
from jem.engine.stop import Progress as Progress
from jem.engine.stop import Rule as Rule
from jem.families.factorising import Factorising as Factorising
from jem.kernels.linalg import cholesky as cholesky
from jem.kernels.linalg import solve_lower as solve_lower
from jem.kernels.roots import falling_root as falling_root
from jem.latents.chain.durations import StayLaw as StayLaw
from jem.node import BOUNDARY as BOUNDARY
from jem.node import DISCRETE as DISCRETE
from jem.node import EMPTY as EMPTY
from jem.node import HELD as HELD
from jem.node import MISSING as MISSING
from jem.node import Node as Node
from jem.node import node as node
from jem.node import setting as setting
from jem.node import static as static

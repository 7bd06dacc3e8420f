"""Where a parameter may lie: `jem.Density(log_prob, start, supports=jem.supports.Positive())`."""

from jem.kernels.matrix_support import CholeskyFactor as CholeskyFactor
from jem.kernels.matrix_support import Correlation as Correlation
from jem.kernels.matrix_support import PositiveDefinite as PositiveDefinite
from jem.kernels.rotation_support import Orientation as Orientation
from jem.kernels.rotation_support import UnitProduct as UnitProduct
from jem.kernels.support import Below as Below
from jem.kernels.support import Bounded as Bounded
from jem.kernels.support import ByGradient as ByGradient
from jem.kernels.support import Held as Held
from jem.kernels.support import HeldCells as HeldCells
from jem.kernels.support import Interval as Interval
from jem.kernels.support import Positive as Positive
from jem.kernels.support import Real as Real
from jem.kernels.support import Simplex as Simplex
from jem.kernels.support import Sphere as Sphere

"""What a derivative of a fit is: `jem.fit(..., adjoint=jem.adjoints.Unrolled())`."""

from jem.engine.implicit import Adjoint as Adjoint
from jem.engine.implicit import AdjointStatus as AdjointStatus
from jem.engine.implicit import Implicit as Implicit
from jem.engine.implicit import Unrolled as Unrolled

"""What a derivative of a fit is: `jem.fit(..., adjoint=jem.adjoints.Unrolled())`."""

from jem.engine.adjoint.implicit import Implicit as Implicit
from jem.engine.adjoint.status import Adjoint as Adjoint
from jem.engine.adjoint.status import AdjointStatus as AdjointStatus
from jem.engine.adjoint.unrolled import Unrolled as Unrolled

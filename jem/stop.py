"""When a climb has ended: `jem.fit(..., stop=jem.stop.Remaining(1e-6))`."""

from jem.engine.stop import Aitken as Aitken
from jem.engine.stop import AllOf as AllOf
from jem.engine.stop import AnyOf as AnyOf
from jem.engine.stop import NeverStop as NeverStop
from jem.engine.stop import ParameterChange as ParameterChange
from jem.engine.stop import RelativeGain as RelativeGain
from jem.engine.stop import Remaining as Remaining
from jem.engine.stop import Residual as Residual

"""How the recursion over time is worked out, never what it answers: `jem.HMM(node, 3, form=jem.forms.Blocks())`."""

from jem.kernels.chain import Automatic as Automatic
from jem.kernels.chain import Blocks as Blocks
from jem.kernels.chain import Sequential as Sequential
from jem.kernels.kalman import Associative as Associative
from jem.kernels.kalman import Steady as Steady

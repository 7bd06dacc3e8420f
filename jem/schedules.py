"""Which starts are finished: `jem.fit_restarts(..., schedule=jem.schedules.MergeDuplicates())`."""

from jem.engine.restarts import FinishAll as FinishAll
from jem.engine.restarts import Halving as Halving
from jem.engine.restarts import MergeDuplicates as MergeDuplicates
from jem.engine.restarts import PruneByLimit as PruneByLimit

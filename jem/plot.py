"""Pictures of fits, models and what was asked of them, with matplotlib: `import jem.plot`."""

try:
    import matplotlib as _matplotlib
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    raise ModuleNotFoundError("jem.plot needs matplotlib: pip install 'jem[plot]'", name="matplotlib") from None

from jem.plots.answers import intervals as intervals
from jem.plots.answers import pairs as pairs
from jem.plots.answers import selection as selection
from jem.plots.climbs import bound as bound
from jem.plots.climbs import optima as optima
from jem.plots.climbs import trace as trace
from jem.plots.mixtures import clusters as clusters
from jem.plots.mixtures import density as density
from jem.plots.mixtures import responsibilities as responsibilities
from jem.plots.sequences import signal as signal
from jem.plots.sequences import states as states

del _matplotlib

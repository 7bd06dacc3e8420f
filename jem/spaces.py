"""Where hidden variables lie: `jem.LogJoint(log_joint, jem.spaces.Finite(2), start)`."""

from jem.latents.written.chain_space import ChainOf as ChainOf
from jem.latents.written.spaces import Finite as Finite
from jem.latents.written.spaces import GaussHermite as GaussHermite
from jem.latents.written.spaces import Independent as Independent

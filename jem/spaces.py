"""Where hidden variables lie: `jem.LogJoint(log_joint, jem.spaces.Finite(2), start)`."""

from jem.latents.chain_space import ChainOf as ChainOf
from jem.latents.spaces import Finite as Finite
from jem.latents.spaces import GaussHermite as GaussHermite
from jem.latents.spaces import Independent as Independent

"""Generic starting weights: what every particle has in common need not be learnt anew.

They were trained on random lopsided particles (`pretraining`) and ship with the
package, one set per range of sizes. Training then only has to turn "a particle of about
this size" into "this one".
"""

from __future__ import annotations

from bisect import bisect
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from lodestar_live import resources
from lodestar_live.training.network.equivariant import SymmetricStack
from lodestar_live.training.network.network import Network

FILE = "warm_start.npy"
#: Edges of the ranges. From 7.5 px on they are where `dilations_for` changes, so that
#: weights never meet another spacing of taps than they were trained with.
RADII_PX = (2.2, 3.8, 5.6, 7.5, 9.5, 11.5, 13.5, 16.5, 19.5)


@torch.no_grad()
def start_warm(network: Network, *, radius_px: float) -> None:
    """Give an untrained live network the weights for particles of about this size.

    `radius_px` holds 90 % of the energy, at the network's scale; beyond the sizes
    trained on the nearest ones are taken.
    """
    weights = _load()[range_of(radius_px)]
    free_weights(network).copy_(torch.from_numpy(weights))


def range_of(radius_px: float) -> int:
    """Return the number of the range that a radius falls into, or the nearest."""
    return min(max(bisect(RADII_PX, radius_px) - 1, 0), len(RADII_PX) - 2)


def free_weights(network: Network) -> torch.Tensor:
    """Return all that such a network learns, one vector."""
    (stack,) = (m for m in network.layers if isinstance(m, SymmetricStack))
    return stack.free


@cache
def _load() -> npt.NDArray[np.float32]:
    """Return one vector per range, (8, 1458)."""
    path = resources.folder("models") / FILE
    weights: npt.NDArray[np.float32] = np.load(path)
    return weights

"""Make the generic starting weights of `warm_start`: hundreds of particles at once.

Run once by us, for about seven minutes, and shipped in ``models/``::

    python -m models.make_warm_start.pretrain models/warm_start.npy
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lodestar_live.training.augment.views import ViewMaker
from lodestar_live.training.fit import Progress, Recipe, fit
from lodestar_live.training.network.network import initialise
from lodestar_live.training.network.warm_start import RADII_PX, free_weights
from lodestar_live.training.plan import (
    LIVE_FAST,
    build_network,
    choose_local_contrast,
    choose_views,
)
from models.make_warm_start.blobs import draw_blobs

N_BLOBS = 400
#: Every particle keeps its pivot as the tracked point: nothing is to be found out here.
RECIPE = replace(LIVE_FAST, steps=3000, anchor_rest=1.0, weight_penalty=0.1, stray=0.0)


def pretrain(
    radius_px: tuple[float, float],
    *,
    recipe: Recipe = RECIPE,
    n_blobs: int = N_BLOBS,
    seed: int = 0,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Train the live network on many random particles of a range of sizes.

    Returns its free weights, see `SymmetricStack`.
    """
    blobs = draw_blobs(n_blobs, radius_px=radius_px, seed=seed)
    middle_px = float(np.sqrt(radius_px[0] * radius_px[1]))
    typical = replace(blobs[0], radius_px=middle_px)
    generator = torch.Generator().manual_seed(seed)
    network = build_network(
        "live", choose_local_contrast(typical), particle_radius_px=middle_px
    )
    initialise(network, generator)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    maker = ViewMaker(blobs, choose_views(typical, "live", "warm"), generator=generator)
    middle = (typical.size_px - 1) / 2
    anchor = torch.tensor([[c - middle for c in b.centre_px] for b in blobs])
    fit(network, maker, recipe, anchor=anchor, progress=progress)
    weights: npt.NDArray[np.float32] = free_weights(network).detach().numpy().copy()
    return weights


def main(path: Path) -> None:
    """Make all of them and write the file."""
    torch.set_num_threads(1)
    np.save(path, np.stack([pretrain(span) for span in pairwise(RADII_PX)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

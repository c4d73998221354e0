from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.detection.model.weights import (
    Conv,
    MaxPool,
    NetworkWeights,
    SpaceToDepth,
)
from lodestar_live.errors import ModelError


def conv(n_out: int, n_in: int, side: int = 3, **kwargs: int) -> Conv:
    return Conv(
        np.zeros((n_out, n_in, side, side), np.float32),
        np.zeros(n_out, np.float32),
        **kwargs,
    )


def paper() -> NetworkWeights:
    full = [conv(32, 1), conv(32, 32), conv(32, 32)]
    half = [conv(32, 32) for _ in range(8)]
    return NetworkWeights((*full, MaxPool(2), *half, conv(3, 32, 1)), stride=2)


def test_paper_network_has_the_published_cost_and_reach() -> None:
    weights = paper()
    assert weights.flop_per_px == 74352 and weights.margin_px == 19
    assert weights.n_inputs == 1


def test_stride_that_disagrees_with_the_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="reduce by 1"):
        NetworkWeights((conv(3, 1),), stride=2)


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ModelError, match="odd"):
        NetworkWeights((conv(3, 1, 4),), stride=1)


def test_bytes_are_those_of_the_maps_between_the_layers() -> None:
    pooled = NetworkWeights((conv(2, 1), MaxPool(2), conv(3, 2)), stride=2)
    # float32, per input pixel: 1 channel, 2, 2 on a quarter of the cells, 3 on these
    assert pooled.moved_bytes_per_px == (4 + 8) + (8 + 2) + (2 + 3)
    assert pooled.bytes_per_px == 4 + 8
    folded = NetworkWeights((SpaceToDepth(2), conv(3, 4)), stride=2)
    assert folded.moved_bytes_per_px == (4 + 4) + (4 + 3)

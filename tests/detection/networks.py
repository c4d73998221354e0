"""Small random networks: enough for everything but accuracy."""

from __future__ import annotations

import numpy as np

from lodestar_live.detection.weights import (
    Conv,
    LocalContrast,
    MaxPool,
    NetworkWeights,
    SpaceToDepth,
)


def random_conv(
    rng: np.random.Generator, n_out: int, n_in: int, side: int = 3, **options: int
) -> Conv:
    spread = np.sqrt(2 / (n_in * side**2))
    weight = rng.normal(0, spread, (n_out, n_in, side, side)).astype(np.float32)
    return Conv(weight, rng.normal(0, 0.1, n_out).astype(np.float32), **options)


def thin(
    seed: int = 0, channels: tuple[str, ...] = ("dy", "dx", "rho")
) -> NetworkWeights:
    """Stride 4, a space-to-depth stem and dilated convolutions, like the live net."""
    rng = np.random.default_rng(seed)
    layers = (
        SpaceToDepth(4),
        random_conv(rng, 16, 16),
        random_conv(rng, 16, 16, dilation=2),
        random_conv(rng, len(channels), 16, 1, relu=False),
    )
    return NetworkWeights(layers, stride=4, channels=channels)


def paper_like(seed: int = 0) -> NetworkWeights:
    """The paper's layout with 8 channels."""
    rng = np.random.default_rng(seed)
    full = [random_conv(rng, 8, 1), random_conv(rng, 8, 8)]
    half = [random_conv(rng, 8, 8) for _ in range(3)]
    head = random_conv(rng, 3, 8, 1, relu=False)
    return NetworkWeights((*full, MaxPool(2), *half, head), stride=2)


def with_local_contrast(weights: NetworkWeights) -> NetworkWeights:
    """The same network behind a local normalisation."""
    contrast = LocalContrast(cell_px=4, background_cells=9, contrast_cells=5, floor=0.3)
    return NetworkWeights((contrast, *weights.layers), weights.stride, weights.channels)

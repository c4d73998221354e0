"""Small random networks: enough for everything but accuracy."""

from __future__ import annotations

import json
from functools import cache

import numpy as np

from lodestar_live.detection import Detector
from lodestar_live.detection.model.graph import build_model
from lodestar_live.detection.model.weights import (
    Conv,
    LocalContrast,
    MaxPool,
    NetworkWeights,
    SpaceToDepth,
)
from lodestar_live.detection.model.writer import write_model
from lodestar_live.model_card import CardDraft


def random_conv(
    rng: np.random.Generator, n_out: int, n_in: int, side: int = 3, **options: float
) -> Conv:
    spread = np.sqrt(2 / (n_in * side**2))
    weight = rng.normal(0, spread, (n_out, n_in, side, side)).astype(np.float32)
    return Conv(weight, rng.normal(0, 0.1, n_out).astype(np.float32), **options)


def thin(
    seed: int = 0,
    channels: tuple[str, ...] = ("dy", "dx", "rho"),
    n_inputs: int = 1,
) -> NetworkWeights:
    """Stride 4, a space-to-depth stem and dilated convolutions, like the live net."""
    rng = np.random.default_rng(seed)
    layers = (
        SpaceToDepth(4),
        random_conv(rng, 16, 16 * n_inputs),
        random_conv(rng, 16, 16, dilation=2, leak=0.2),
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


def first_version(weights: NetworkWeights, **card: object) -> bytes:
    """The bytes of a file of version 1: any entries, no checksum, no trial."""
    proto = build_model(weights)
    (entry,) = proto.metadata_props
    known = json.loads(entry.value)
    del known["version"]
    entry.value = json.dumps({**known, **card})
    return proto.SerializeToString()


def model(weights: NetworkWeights, **card: object) -> bytes:
    """The bytes of a model file."""
    return write_model(weights, CardDraft(**card))


def spots(yx: np.ndarray, shape: tuple[int, int], peak: float = 100.0) -> np.ndarray:
    """Gaussian spots of sigma 2.5 px on a background of 20."""
    y, x = np.indices(shape)
    image = np.full(shape, 20.0)
    for cy, cx in yx:
        image += peak * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 2.5**2))
    return image


@cache
def spot_finder(stride: int = 4) -> NetworkWeights:
    """A network that finds `spots`: random layers, the last one fitted by ridge.

    Votes are fitted within 9 px of a spot; rho is 6 within 5 px and -14 beyond 9.
    """
    rng = np.random.default_rng(5)
    n_hidden = 96
    layers = (
        LocalContrast(cell_px=4, background_cells=15, contrast_cells=9, floor=4.0),
        SpaceToDepth(stride),
        random_conv(rng, 48, stride**2),
        random_conv(rng, n_hidden, 48),
    )
    names = ("dy", "dx", "rho", *(f"h{i}" for i in range(n_hidden - 3)))
    identity = Conv(
        np.eye(n_hidden, dtype=np.float32)[:, :, None, None],
        np.zeros(n_hidden, np.float32),
        relu=False,
    )
    hidden = Detector(
        model(NetworkWeights((*layers, identity), stride, names)), n_threads=1
    )
    samples = [_sample(rng, hidden, stride) for _ in range(10 * stride)]
    inputs, targets, is_near = (
        np.concatenate(part) for part in zip(*samples, strict=True)
    )
    votes = ridge(inputs[is_near], targets[is_near, :2])
    weight, bias = np.split(np.hstack([votes, ridge(inputs, targets[:, 2:])]), [-1])
    head = Conv(
        weight.T[:, :, None, None].astype(np.float32),
        bias[0].astype(np.float32),
        relu=False,
    )
    return NetworkWeights((*layers, head), stride)


def _sample(
    rng: np.random.Generator, hidden: Detector, stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden features, targets (dy, dx, rho) and nearness of every cell."""
    yx = rng.uniform(10, 118, (8, 2))
    image = rng.poisson(spots(yx, (128, 128), rng.uniform(40, 200))).astype(np.float32)
    features = np.stack(list(hidden.maps(image).features.values())).reshape(96, -1).T
    cells = (
        np.indices((128 // stride,) * 2).reshape(2, -1).T * stride + (stride - 1) / 2
    )
    offset = yx[None] - cells[:, None]
    nearest = np.linalg.norm(offset, axis=2).argmin(axis=1)
    offset = offset[np.arange(len(cells)), nearest]
    distance = np.linalg.norm(offset, axis=1)
    rho = np.interp(distance, [5, 9], [6, -14])
    return features, np.column_stack([offset, rho]), distance < 9


def ridge(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Coefficients of a linear fit, the constant last."""
    a = np.hstack([inputs, np.ones((len(inputs), 1))])
    return np.linalg.solve(a.T @ a + 1e-2 * np.eye(a.shape[1]), a.T @ targets)

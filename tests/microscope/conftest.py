"""The stand-in for a Java Micro-Manager, and a run on it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import ndimage

from lodestar_live.data import Detections
from lodestar_live.settings import Settings, parse_settings
from tests.microscope.stand_in import Running


def centroids(pixels) -> Detections:
    """Detect blobs by threshold and centroid: a detector without a model."""
    image = pixels.astype(np.float32) - np.median(pixels)
    labels, n = ndimage.label(image > 0.3 * max(image.max(), 1.0))
    if not n:
        return Detections.empty()
    return Detections.from_positions(
        ndimage.center_of_mass(image, labels, np.arange(1, n + 1))
    )


def settings_on(folder, port: int = 0, **sections) -> Settings:
    base = {
        "streams": {"enabled": False},
        "recording": {"folder": str(folder)},
        "microscope": {"port": port} if port else {},
    }
    return parse_settings({**base, **sections})


@pytest.fixture
def micro_manager() -> Iterator[Running]:
    """Give a Micro-Manager of 128x128 beads, 16 bit, 5 ms."""
    with Running() as running:
        yield running

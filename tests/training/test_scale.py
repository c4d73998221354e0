"""Training at a chosen scale: large particles, positions in the image's own pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from lodestar_live.detection import Detector
from lodestar_live.errors import InputError
from lodestar_live.model_card import CropPlace
from lodestar_live.training import train
from lodestar_live.training.particle.crops import choose_crops

RADIUS_PX, SIDE_PX = 24.0, 480
PLACES = np.array([[90.3, 120.8], [130.1, 350.2], [340.6, 100.4], [350.2, 330.7]])


def discs(places: np.ndarray, seed: int) -> np.ndarray:
    """Soft discs of 48 px diameter, contrast / noise 6, as a camera counts."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    image = np.random.default_rng(seed).normal(1000, 50, (SIDE_PX, SIDE_PX))
    for place in places:
        away = np.hypot(y - place[0], x - place[1])
        image += 300 / (1 + np.exp((away - RADIUS_PX) / 1.5))
    return image.astype(np.uint16)


def test_a_large_particle_is_learnt_at_a_smaller_scale() -> None:
    model = train(discs(PLACES, 0), PLACES[0], 96, downsample=4, steps=150)
    assert model.card.downsample == 4
    assert model.card.crop == CropPlace(at_px=(90.3, 120.8), size_px=96)
    assert model.particle.size_px == 24
    moved = PLACES + np.array([3.3, -5.1])
    found = Detector(model.to_bytes())(discs(moved, 1))
    away = cdist(moved, found.positions_px)
    assert len(found) == len(PLACES)
    # 150 steps: about 0.3 px, where a pixel of the smaller image is 4 px wide
    assert away.min(axis=1).max() < 1.5


@pytest.mark.parametrize(
    ("size", "asked", "factor"),
    [(60, None, 1), (127, None, 1), (128, None, 2), (200, None, 3), (200, 1, 1)],
)
def test_the_crop_decides_the_scale_unless_it_is_given(size, asked, factor) -> None:
    image = discs(PLACES, 0)
    crops = choose_crops(image, (240.0, 240.0), size, asked)
    assert (crops.scale.factor, crops.size_px) == (factor, size)
    assert crops.places_px == ((240.0, 240.0),)


def test_the_particle_is_chosen_at_the_scale_that_is_given() -> None:
    crops = choose_crops(discs(PLACES, 0), None, None, 8)
    assert crops.scale.factor == 8
    assert np.hypot(*(PLACES - crops.places_px[0]).T).min() < 4
    assert crops.size_px % 8 == 0
    assert crops.size_px > 2 * RADIUS_PX


@pytest.mark.parametrize("factor", [0, -2, 33])
def test_an_impossible_scale_is_refused(factor) -> None:
    with pytest.raises(InputError, match="downsample"):
        train(discs(PLACES, 0), PLACES[0], 96, downsample=factor)

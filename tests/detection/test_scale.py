"""The scale of tracking: a smaller image inside, camera pixels outside."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.data import Flag
from lodestar_live.detection import Detector, Follower
from lodestar_live.detection.model.scale import Scale
from lodestar_live.errors import InputError
from tests.detection import networks

FACTOR = 3
SHAPE = (96, 128)
PLACES = np.array([[30.0, 40.5], [60.2, 90.7]])


@pytest.fixture(scope="module")
def fine() -> Detector:
    return Detector(networks.model(networks.spot_finder(), threshold=-1.5))


@pytest.fixture(scope="module")
def coarse() -> Detector:
    model = networks.model(networks.spot_finder(), threshold=-1.5, downsample=FACTOR)
    return Detector(model)


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return np.random.default_rng(0).poisson(networks.spots(PLACES, SHAPE))


def enlarged(image: np.ndarray) -> np.ndarray:
    return image.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1)


def test_blocks_are_averaged_and_a_rest_is_left_out() -> None:
    image = np.arange(7 * 8, dtype=np.uint16).reshape(7, 8)
    small = Scale(FACTOR).shrink(image)
    expected = image[:6, :6].reshape(2, 3, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small, expected)
    assert Scale(1).shrink(image) is image


def test_places_go_there_and_back() -> None:
    scale = Scale(4)
    # The middle of the first block of four pixels, 0 to 3, is at 1.5.
    np.testing.assert_allclose(scale.to_camera([0.0, 1.0]), [1.5, 5.5])
    places = np.random.default_rng(1).uniform(-5, 500, (50, 2))
    np.testing.assert_allclose(scale.to_small(scale.to_camera(places)), places)


def test_an_enlarged_image_gives_the_same_detections_in_camera_pixels(
    fine, coarse, frame
) -> None:
    expected, found = fine(frame).rows, coarse(enlarged(frame)).rows
    assert len(found) == len(PLACES)
    for name in ("y_px", "x_px"):
        inside = FACTOR * expected[name] + (FACTOR - 1) / 2
        np.testing.assert_allclose(found[name], inside, atol=1e-3)
    for name in ("sigma_px", "consistency_px"):
        np.testing.assert_allclose(found[name], FACTOR * expected[name], rtol=1e-3)
    np.testing.assert_allclose(found["intensity"], expected["intensity"], rtol=1e-3)
    np.testing.assert_array_equal(found["flags"], expected["flags"])


def test_looking_near_and_locating_use_camera_pixels_too(fine, coarse, frame) -> None:
    image = enlarged(frame)
    full = coarse(image).positions_px
    near = coarse.near(image, full, reach_px=8.0).positions_px
    np.testing.assert_allclose(near, full, atol=2e-3)
    follower = Follower(coarse, full_every=3)
    for _ in range(3):
        np.testing.assert_allclose(follower(image, full).positions_px, full, atol=2e-3)
    one = networks.spots(PLACES[:1], (64, 64))
    expected = FACTOR * fine.locate(one[None]) + 1
    np.testing.assert_allclose(coarse.locate(enlarged(one)[None]), expected, atol=1e-3)


def test_one_saturated_pixel_of_a_block_is_told(coarse, frame) -> None:
    image = enlarged(np.minimum(frame, 250)).astype(np.uint8)
    y, x = np.rint(FACTOR * PLACES[0] + 1).astype(int)
    image[y, x] = 255
    rows = coarse(image).rows
    hit = np.hypot(rows["y_px"] - y, rows["x_px"] - x).argmin()
    assert rows["flags"][hit] & Flag.SATURATED


def test_a_frame_smaller_than_a_block_is_refused(coarse) -> None:
    with pytest.raises(InputError, match="downsample = 3"):
        coarse(np.zeros((2, 50)))

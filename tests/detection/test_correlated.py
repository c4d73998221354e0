"""Correlated noise is told from white noise, haze and crowds, and measured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, uniform_filter

from lodestar_live.detection.frame.prepare import take_in
from lodestar_live.detection.run import correlated
from lodestar_live.detection.run.correlated import deviation, stands_out
from tests.simulation.fields import Scene, simulate_field
from tests.simulation.noises import NOISES, noise_frame

RADIUS_PX = 3.0


def expected_deviation(pixels):
    """Of means over 4 x 4 px less the median of eight 8 px around."""
    means = uniform_filter(pixels.astype(float), 4)
    steps = [(y, x) for y in (-8, 0, 8) for x in (-8, 0, 8) if y or x]
    ring = np.median([np.roll(means, step, (0, 1)) for step in steps], axis=0)
    return (means - ring)[16:-16, 16:-16].std()


@pytest.mark.parametrize("name", [n for n in NOISES if n != "white"])
@pytest.mark.parametrize("counts", [3.0, 10.0])
def test_correlated_noise_is_measured(name, counts):
    pixels = noise_frame(name, seed=1, counts=counts)
    # 64 x 64 blocks; of 5 px noise some 300 are independent, their deviation is known
    # to 4 %, by quartiles to 7 %
    assert deviation(take_in(pixels), RADIUS_PX) == pytest.approx(
        expected_deviation(pixels), rel=0.15
    )


@pytest.mark.parametrize(
    "scene",
    [
        Scene(snr=5),
        Scene(snr=20, texture=1.0),  # haze as strong as the particles
        Scene(snr=10, n_particles=60, ramp=1.0),
    ],
)
def test_white_noise_is_left_alone_whatever_lies_on_it(scene):
    for seed in range(2):
        pixels = simulate_field(scene, seed=seed).pixels
        assert deviation(take_in(pixels), RADIUS_PX) == 0


def test_a_crowd_without_room_between_is_left_alone():
    crowd = Scene(snr=100, n_particles=200, spacing_px=21, size_px=(300, 300))
    pixels = gaussian_filter(simulate_field(crowd, seed=0).pixels, 1.0)
    assert deviation(take_in(pixels), 8.0) == 0


def test_a_frame_without_noise_is_left_alone():
    assert deviation(take_in(np.full((256, 256), 7, np.uint8)), RADIUS_PX) == 0
    assert deviation(take_in(np.zeros((20, 300))), RADIUS_PX) == 0


def test_a_particle_stands_out_and_the_noise_beside_it_does_not():
    pixels = noise_frame("1 px", seed=3).astype(np.float32)
    y, x = np.mgrid[:512, :512]
    pixels += 60 * np.exp(-((y - 200) ** 2 + (x - 300) ** 2) / 2 / 2.0**2)
    intake = take_in(pixels)
    sigma = deviation(intake, RADIUS_PX)
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 180, (300, 2))
    places = np.concatenate([[[200.4, 299.8]], noise])
    seen = stands_out(intake, places, RADIUS_PX, sigma)
    assert seen.tolist() == [True] + 300 * [False]


@pytest.mark.parametrize("shape", [(64, 64), (64, 152), (101, 77)])
@pytest.mark.parametrize("blur_px", [0.0, 1.5])
def test_a_small_frame_is_judged_by_the_same_patches(shape, blur_px: float) -> None:
    rng = np.random.default_rng(3)
    image = gaussian_filter(rng.normal(100, 5, shape), blur_px)
    image = image.astype(np.float32)
    for lag in (1, correlated._LAG_PX):
        expected = [
            np.abs(
                patch[:-lag, :-lag]
                - patch[lag:, :-lag]
                - patch[:-lag, lag:]
                + patch[lag:, lag:]
            ).mean()
            for top in np.linspace(0, shape[0] - 19, 8).astype(int)
            for left in np.linspace(0, shape[1] - 19, 8).astype(int)
            for patch in [image[top : top + 16 + lag, left : left + 16 + lag]]
        ]
        found = correlated._difference_of_all(image, lag)
        np.testing.assert_allclose(found, 1.2533 / 2 * np.array(expected), rtol=1e-5)
    assert correlated._is_correlated(image) is (blur_px > 0)

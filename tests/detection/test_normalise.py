"""The two numbers that make a model independent of gain and offset."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.detection.frame.prepare import estimate


@pytest.fixture
def frame() -> np.ndarray:
    rng = np.random.default_rng(3)
    image = 100 + rng.normal(0, 5, (240, 320))
    image[100:110, 50:60] += 200
    return image


def test_noise_and_background_of_a_known_frame(frame: np.ndarray) -> None:
    background, scale = estimate(frame)
    # 16 000 samples: the median's error is 1.25 * 5 / sqrt(16000) = 0.05 counts,
    # the deviation's about 1 %.
    assert background == pytest.approx(100, abs=0.2)
    assert scale == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize(("gain", "offset"), [(0.1, 7), (2.0, -30), (100.0, 500)])
def test_estimate_follows_gain_and_offset(
    frame: np.ndarray, gain: float, offset: float
) -> None:
    background, scale = estimate(frame)
    moved = estimate(gain * frame + offset)
    # float32 inside: seven digits of the largest value.
    assert moved.background == pytest.approx(gain * background + offset, rel=1e-5)
    assert moved.scale == pytest.approx(gain * scale, rel=1e-3)


def test_illumination_ramp_is_not_noise(frame: np.ndarray) -> None:
    ramp = np.linspace(0, 200, frame.shape[1])[None, :]
    assert estimate(frame + ramp).scale == pytest.approx(estimate(frame).scale, rel=0.1)


def test_noise_free_image_gets_a_scale_from_its_signal() -> None:
    image = np.zeros((64, 64))
    image[20:40, 20:40] = 300.0
    assert estimate(image) == (0.0, 1.5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (3, 500), (1000, 1001)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_size_and_type_gives_finite_numbers(
    shape: tuple[int, int], dtype: type
) -> None:
    image = np.random.default_rng(0).poisson(20, shape).astype(dtype)
    background, scale = estimate(image)
    assert np.isfinite(background)
    assert scale > 0


def test_constant_frame_has_scale_one() -> None:
    assert estimate(np.full((50, 50), 7, np.uint8)) == (7.0, 1.0)


@pytest.mark.parametrize("photons", [0.7, 1.5, 5.0, 40.0])
@pytest.mark.parametrize("counts_per_photon", [1.0, 0.37])
def test_noise_of_a_few_photons_is_measured_between_the_steps(
    photons: float, counts_per_photon: float
) -> None:
    """A median alone takes one of a few values: 30 % off at a photon per pixel."""
    frame = np.random.default_rng(3).poisson(photons, (512, 512)) * counts_per_photon
    _, scale = estimate(frame)
    assert scale == pytest.approx(counts_per_photon * np.sqrt(photons), rel=0.05)


@pytest.mark.parametrize("noise", [0.5, 0.7, 1.0, 3.0])
def test_noise_below_a_count_is_measured(noise: float) -> None:
    exact = np.random.default_rng(4).normal(100.3, noise, (512, 512))
    background, scale = estimate(np.round(exact).astype(np.uint8))
    # Where two or three counts are all there is, even shares of a step are not exact.
    assert scale == pytest.approx(np.sqrt(noise**2 + 1 / 12), rel=0.1)
    assert background == pytest.approx(100.3, abs=0.1)

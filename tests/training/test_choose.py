from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from lodestar_live.errors import InputError
from lodestar_live.training.particle.choose import (
    choose_particle,
    choose_particles,
    estimate_size,
    refine_click,
)


def beads(centres, sigma=3.0, peak=1000.0, shape=(256, 256)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for cy, cx in centres:
        image += peak * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 2 / sigma**2)
    return image


GRID = [(40.3, 50.7), (60.1, 180.4), (170.6, 80.2), (200.9, 200.5), (120.0, 130.0)]


def nearest(at_px, centres):
    return np.hypot(*(np.asarray(centres) - at_px).T).min()


@pytest.mark.parametrize("sigma", [2.0, 3.0, 5.0])
@pytest.mark.parametrize("noise", [0.0, 100.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_bead_is_proposed_at_its_centre(sigma, noise, sign):
    rng = np.random.default_rng(1)
    clean = 2000 + sign * beads(GRID, sigma)
    proposal = choose_particle((clean + rng.normal(0, noise, clean.shape)).astype("u2"))
    # Cramer-Rao at SNR 10 is 0.06 px; a choice need not be better than a pixel
    assert nearest(proposal.at_px, GRID) < 1.0
    assert proposal.contrast == sign
    assert 5 * sigma <= proposal.size_px <= max(16 * sigma, 24)


def test_noise_free_black_frame_of_the_demo_camera():
    proposal = choose_particle(beads(GRID, 4.0).astype("u2"))
    assert nearest(proposal.at_px, GRID) < 0.1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((200, 220), "u1"),
        np.full((128, 64), 7.3),
        np.random.default_rng(0).normal(100, 10, (400, 512)),
        np.random.default_rng(1).poisson(3, (300, 400)).astype("u2"),
        np.random.default_rng(2).normal(500, 5, (300, 300)) + np.linspace(0, 200, 300),
    ],
    ids=["zeros", "constant", "noise", "few counts", "ramp"],
)
def test_frame_without_particles_is_refused(image):
    with pytest.raises(InputError, match="no particle"):
        choose_particle(image)


def test_hot_pixels_are_not_particles():
    rng = np.random.default_rng(3)
    image = rng.normal(100, 5, (300, 300))
    image.ravel()[rng.integers(0, image.size, 40)] = 4000
    image += beads(GRID, 3.0, 60.0, image.shape)
    assert nearest(choose_particle(image).at_px, GRID) < 1.5


def test_isolated_particle_is_preferred_to_a_pair_and_to_the_edge():
    lone = (128.0, 60.0)
    centres = [lone, (60, 200), (60, 212), (200, 190), (200, 178), (3, 100)]
    assert nearest(choose_particle(beads(centres) + 50).at_px, [lone]) < 1.0


def test_two_kinds_give_two_proposals():
    small = [(50, 50), (60, 150), (150, 60), (220, 140)]
    large = [(120, 210), (180, 40), (200, 200)]
    image = beads(small, 2.0) - beads(large, 7.0) + 2000
    first, second, *_ = choose_particles(image, 3)
    found = {first.contrast: first, second.contrast: second}
    assert nearest(found[1].at_px, small) < 1.0
    assert nearest(found[-1].at_px, large) < 1.0
    assert found[-1].size_px > found[1].size_px


def test_click_is_refined_to_the_centre():
    image = beads(GRID, 4.0) + 100
    assert nearest(refine_click(image, (172.0, 77.5)), GRID) < 0.3


def test_click_outside_the_image_is_refused():
    with pytest.raises(InputError, match="outside the image"):
        estimate_size(beads(GRID), (10.0, 300.0))


def test_click_on_nothing_is_refused_for_a_size():
    with pytest.raises(InputError, match="nothing stands out"):
        estimate_size(beads(GRID) + 100, (10.0, 245.0))


def test_complex_field_is_accepted():
    field = np.exp(1j * beads(GRID, 4.0, 0.5)).astype(np.complex64)
    assert nearest(choose_particle(field).at_px, GRID) < 1.0


def reference(path: Path, frame: int = 0) -> np.ndarray:
    table = np.genfromtxt(path, delimiter=",", names=True, comments="#")
    table = table[table["frame"] == frame]
    return np.column_stack([table["y"], table["x"]])


@pytest.mark.parametrize(
    ("movie", "csv", "gate_px", "sizes"),
    [
        ("ring_beads/bf_00-49.tif", "ring_beads/reference.csv", 1.5, (32, 64)),
        ("bacteria/bacteria_000-213.tif", "bacteria/reference.csv", 6.0, (40, 72)),
        (
            "bulk_water/bulk_water_000-149.tif",
            "bulk_water/trackpy_baseline.csv",
            2.0,
            (16, 32),
        ),
    ],
    ids=["ring beads", "bacteria", "bulk water"],
)
def test_recorded_movie_gives_a_known_particle(
    real_data: Path, movie, csv, gate_px, sizes
):
    proposal = choose_particle(tifffile.imread(real_data / movie, key=0))
    assert nearest(proposal.at_px, reference(real_data / csv)) < gate_px
    assert sizes[0] <= proposal.size_px <= sizes[1]


def test_confocal_spheres_touching_each_other_stay_single(real_data: Path):
    image = tifffile.imread(real_data / "stills/JT008_AFM_15.tif")
    proposal = choose_particle(image)
    # the spheres are about 20 px across (autocorrelation: next neighbour at 20 px)
    assert 14 <= proposal.diameter_px <= 28
    assert proposal.contrast == 1


def test_ellipsoid_is_proposed_in_a_chain(real_data: Path):
    image = iio.imread(real_data / "stills/vi_5.5_f.bmp")
    proposal = choose_particle(image if image.ndim == 2 else image[..., 0])
    assert 14 <= proposal.diameter_px <= 36

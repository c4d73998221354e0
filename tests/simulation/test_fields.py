from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from tests.simulation.fields import (
    Scene,
    blank,
    match,
    place_apart,
    simulate_field,
)
from tests.simulation.shapes import SHAPES, draw


def test_places_keep_their_distance_and_fill_the_frame():
    rng = np.random.default_rng(0)
    places = place_apart(2000, (300, 200), spacing_px=20, rng=rng)
    assert pdist(places).min() >= 20
    # random sequential addition jams at 54.7 % of the area; 3000 misses reach 40 %
    assert len(places) * np.pi * 10**2 / (300 * 200) > 0.4


@pytest.mark.parametrize("shape", SHAPES)
def test_particle_lies_where_the_truth_says(shape):
    field = simulate_field(
        Scene(shape=shape, n_particles=1, size_px=(90, 111), snr=1e4), seed=3
    )
    (y, x), (angle,) = field.positions_px[0], field.angles_rad
    exact = draw(shape, y, x, angle_rad=angle, size=(90, 111)) + 0.1
    # Poisson noise at SNR 1e4 is 1.1e-4 of the peak; 6 sigma
    assert np.abs(field.pixels - exact).max() < 8e-4


def test_same_seed_same_frame():
    scene = Scene(distractors=("annulus",), n_distractors=5, texture=0.02)
    one, two = simulate_field(scene, seed=1), simulate_field(scene, seed=1)
    np.testing.assert_array_equal(one.pixels, two.pixels)
    assert (one.shapes == "annulus").sum() == 5
    assert len(one.of("sphere")) == 40


def test_blank_frame_has_the_noise_of_the_scene():
    field = blank(Scene(snr=10), seed=0)
    assert len(field.positions_px) == 0
    # variance 0.1 / k, k = snr^2 / 1.21; 384^2 pixels give it to 0.4 %
    assert np.var(field.pixels) == pytest.approx(0.1 * 1.21 / 100, rel=0.02)


def test_bad_light_shows():
    dim = blank(Scene(light_falloff=0.6, snr=100), seed=0).pixels
    assert dim[:20, :20].mean() < 0.55 * dim[180:200, 180:200].mean()
    ramp = blank(Scene(ramp=0.5, snr=100), seed=0).pixels
    assert ramp[:, -10:].mean() - ramp[:, :10].mean() == pytest.approx(0.5, abs=0.03)


def test_counts_are_clipped_to_the_camera():
    field = simulate_field(Scene(n_hot_pixels=5), seed=0)
    image = field.counts(gain=150, offset=10, dtype="uint8")
    assert image.dtype == np.uint8
    assert image.max() == 255


def test_match_pairs_each_truth_once():
    truth = np.array([[10.0, 10.0], [20.0, 20.0]])
    found = np.array([[20.4, 20.0], [10.0, 11.0], [10.0, 10.2], [50.0, 50.0]])
    i, j = match(found, truth, gate_px=3)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (2, 0)]

"""Diffusion, exponent and drift per track, against simulations with known numbers."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live import Detections, Linker
from lodestar_live.linking.physics import covariances, estimate


def paths(rng, n, n_frames, *, d, noise, drift=(0.0, 0.0)):
    steps = rng.normal(0, np.sqrt(2 * d), (n, n_frames, 2)) + drift
    return steps.cumsum(axis=1) + rng.normal(0, noise, (n, n_frames, 2))


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_diffusion_and_localisation_are_unbiased_with_honest_sigma(noise):
    rng = np.random.default_rng(1)
    many = paths(rng, 400, 100, d=0.5, noise=noise, drift=(0.3, -0.2))
    sums = np.concatenate([covariances(np.diff(p, axis=0)) for p in many])
    found = estimate(sums, 2)
    # 400 tracks: the mean is known to a twentieth of one track's sigma.
    error = (found["d"] - 0.5).mean() / (found["d"].std() / 20)
    assert abs(error) < 4
    pull = (found["d"] - 0.5).std() / np.sqrt(np.mean(found["sigma_d"] ** 2))
    assert 0.85 < pull < 1.15
    np.testing.assert_allclose(found["drift"].mean(axis=0), (0.3, -0.2), atol=0.04)
    pull = (found["drift"] - (0.3, -0.2)).std() / np.sqrt(
        np.mean(found["sigma_drift"] ** 2)
    )
    assert 0.8 < pull < 1.2
    if noise == 2.0:
        assert found["localisation"].mean() == pytest.approx(2.0, rel=0.05)


def test_the_exponent_tells_free_from_confined_and_sigma_is_of_the_right_size():
    rng = np.random.default_rng(2)
    free = paths(rng, 300, 200, d=0.5, noise=0.0)
    confined = np.zeros((300, 200, 2))
    for k in range(1, 200):
        confined[:, k] = 0.7 * confined[:, k - 1] + rng.normal(0, 1, (300, 2))
    alphas = []
    for many in (free, confined):
        sums = np.concatenate([covariances(np.diff(p, axis=0)) for p in many])
        alphas.append(estimate(sums, 2, 0.0))
    assert np.median(alphas[0]["alpha"]) == pytest.approx(1.0, abs=0.05)
    assert np.median(alphas[1]["alpha"]) < 0.7
    pull = alphas[0]["alpha"].std() / np.median(alphas[0]["sigma_alpha"])
    assert 0.6 < pull < 1.5  # an approximation: lags share displacements


def test_the_linker_gives_the_same_numbers_while_it_watches():
    rng = np.random.default_rng(3)
    start = 80.0 * np.indices((4, 4)).reshape(2, -1).T
    many = paths(rng, 16, 60, d=0.8, noise=0.1) + start[:, None]
    linker = Linker()
    for k in range(60):
        linker(Detections.from_positions(many[:, k], sigma_px=0.1), k)
    live = linker.summary()
    assert live["n_seen"].tolist() == [60] * 16
    order = np.lexsort((start[:, 1], start[:, 0]))
    offline = [
        estimate(covariances(np.diff(many[i], axis=0)), 2)["d"][0] for i in order
    ]
    by_start = np.sort(live["d_px2_per_frame"])
    np.testing.assert_allclose(by_start, np.sort(offline), rtol=1e-9)
    assert np.isnan(live["d_um2_per_frame"]).all()


def test_a_gap_is_no_displacement():
    steps = np.array([[1.0, 0.0], [np.nan, np.nan], [1.0, 0.0], [1.0, 0.0]] * 4)
    sums = covariances(steps)
    found = estimate(sums, 2)
    assert found["n_steps"][0] == 12
    np.testing.assert_allclose(found["drift"][0], (1.0, 0.0))
    np.testing.assert_allclose(found["d"][0], 0.0, atol=1e-12)


def test_tracks_of_any_length_are_summarised_without_a_warning() -> None:
    """Of n steps there are n - lag + 1 displacements over a lag: none for the longest.

    Warnings are errors here; in a live run a frame failed by it.
    """
    rng = np.random.default_rng(0)
    linker, place = Linker(), np.array([[20.0, 20.0], [60.0, 60.0]])
    for index in range(40):
        place = place + rng.normal(0, 0.3, place.shape)
        linker(Detections.from_positions(place), frame_index=index)
        rows = linker.summary()
        assert not (rows["sigma_alpha"] == 0).any()
    assert np.isfinite(rows["sigma_alpha"]).all()

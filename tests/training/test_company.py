"""Particles in company: a model that saw a lone one finds each of two that touch."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.detection import Detector
from lodestar_live.training import train
from tests.simulation.fields import match

SIDE, SIGMA_PX, NOISE = 384, 2.0, 0.1


def beads(apart_px: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a frame of pairs of beads (of lone ones, where they are 0 px apart)."""
    rng = np.random.default_rng(seed)
    middle = 60.0 * (np.argwhere(np.ones((5, 5))) + 1) + rng.uniform(-3, 13, (25, 2))
    angle = rng.uniform(0, np.pi, 25)
    step = apart_px / 2 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    places = np.concatenate([middle + step, middle - step]) if apart_px else middle
    axis = np.arange(SIDE)
    rows, columns = (
        np.exp(-((axis - places[:, [k]]) ** 2) / (2 * SIGMA_PX**2)) for k in (0, 1)
    )
    return 1 + rows.T @ columns + rng.normal(0, NOISE, (SIDE, SIDE)), places


@pytest.fixture(scope="module")
def detector() -> Detector:
    pixels, places = beads(0, seed=1)
    model = train(pixels, at=tuple(places[12]), seed=0, steps=500)
    assert model.card.calibration.from_snapshot
    return Detector(model.to_bytes(), n_threads=1)


@pytest.mark.parametrize("apart_px", [6.4, 8.0, 10.0])
def test_each_of_two_near_beads_is_found(detector: Detector, apart_px: float) -> None:
    found, places = 0, 0
    for seed in (2, 3):
        pixels, truth = beads(apart_px, seed=seed)
        rows = detector(pixels).rows
        marks = np.column_stack([rows["y_px"], rows["x_px"]])
        hits, _ = match(marks, truth, gate_px=3)
        assert len(marks) - len(hits) <= 0.02 * len(marks)
        found, places = found + len(hits), places + len(truth)
    assert found >= 0.95 * places


def test_an_empty_frame_stays_empty(detector: Detector) -> None:
    for seed in range(4):
        pixels = np.random.default_rng(seed).normal(1, NOISE, (512, 512))
        assert len(detector(pixels)) == 0

"""Hot and dead pixels are interpolated; what optics can produce is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from lodestar_live.detection.frame.defects import (
    PixelDefects,
    correct_defects,
    find_defects,
)

SHAPE = (512, 512)


def spots(sigma_px, peak, *, noise=1.0, seed=0, pitch=24):
    """Draw spots as pixels integrate them, at places of their own, on even noise."""
    rng = np.random.default_rng(seed)
    frame = rng.normal(100.0, noise, SHAPE)
    axis = np.arange(-8, 9)
    for y in range(12, SHAPE[0] - 12, pitch):
        for x in range(12, SHAPE[1] - 12, pitch):
            lines = []
            for off in rng.uniform(-0.5, 0.5, 2):
                edges = (axis[:, None] - off + np.array([-0.5, 0.5])) / sigma_px
                lines.append(np.diff(ndtr(edges), axis=1)[:, 0] * sigma_px)
            spot = 2 * np.pi * np.outer(*lines)
            frame[y - 8 : y + 9, x - 8 : x + 9] += peak * spot
    return frame


@pytest.mark.parametrize("sigma_px", [1.0, 1.4, 2.0])
@pytest.mark.parametrize("peak", [5, 20, 100, 1000, 50_000])
def test_a_spot_of_light_is_no_defect(sigma_px, peak):
    frame = spots(sigma_px, peak)
    assert len(find_defects(frame)) == 0
    shot = np.random.default_rng(1).poisson(frame)
    # Of 441 spots; a photon count may by chance be eight deviations off.
    assert len(find_defects(np.minimum(shot, 65535).astype(np.uint16))) <= 1
    assert correct_defects(frame) is frame


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("height", [60, -60, 120])
def test_defects_are_replaced_by_what_is_around_them(dtype, height):
    clean = spots(1.5, 20, noise=2.0).round().clip(0, 255).astype(dtype)
    rng = np.random.default_rng(2)
    defects = rng.choice(clean.size, 262, replace=False)  # 0.1 %
    broken = clean.copy()
    broken.flat[defects] = np.clip(broken.flat[defects].astype(int) + height, 0, 255)
    corrected = correct_defects(broken)
    assert corrected.dtype == dtype
    error = np.abs(corrected.astype(float) - clean.astype(float)).ravel()
    # those that lie on a spot, or beside another, may be told from it or not
    assert (error[defects] > 20).sum() <= 0.02 * len(defects)
    error[defects] = 0
    assert not error.any()


def test_what_is_remembered_is_asked_again_in_every_frame():
    rng = np.random.default_rng(3)
    defects = PixelDefects()
    hot = rng.choice(SHAPE[0] * SHAPE[1], 100, replace=False)
    for index in range(6):
        frame = rng.normal(100, 3, SHAPE)
        clean = frame.copy()
        frame.flat[hot] += 90
        corrected = defects.correct(frame)
        assert defects.n_corrected >= 98, index
        assert np.abs(corrected - clean).max() < 30
    elsewhere = rng.normal(100, 3, SHAPE)
    elsewhere.flat[rng.choice(elsewhere.size, 100, replace=False)] += 90
    defects.correct(elsewhere)
    assert defects.n_corrected >= 98  # another camera's are found as well
    other = rng.normal(100, 3, SHAPE)
    wide = defects.correct(other)
    changed = np.flatnonzero(wide != other)
    assert len(changed) <= 80  # of 200 known, a ninth is by chance above all around
    assert np.abs(wide - other).max() < 20
    assert defects.correct(other[:300]) is not None


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((40, 40), np.uint16),
        np.full((64, 64), np.nan),
        np.full((1, 9), 3.0),
        np.random.default_rng(0).normal(size=(2, 2)),
        np.random.default_rng(0).poisson(0.05, (128, 128)).astype(np.uint8),
        1e300 * np.random.default_rng(0).normal(size=(64, 64)),
        np.ones((32, 32), complex),
    ],
)
def test_odd_frames_stay_as_they_are(frame):
    assert correct_defects(frame) is frame


def test_salt_and_pepper_is_no_camera():
    rng = np.random.default_rng(4)
    frame = rng.normal(100, 2, SHAPE)
    frame[rng.random(SHAPE) < 0.05] = 1000
    assert correct_defects(frame) is frame

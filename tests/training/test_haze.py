"""A click on something small that lies on light of another shape: haze, a cell."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.data import Rows
from lodestar_live.training.calibrate.snapshot import learn_threshold
from lodestar_live.training.particle.choose import estimate_size, refine_click
from lodestar_live.training.particle.suspects import CERTAIN, Suspects
from tests.bench import company

N_CLICKS = 4


@pytest.mark.parametrize("seed", [11, 12])
def test_a_click_on_a_bead_in_haze_finds_the_bead_not_the_haze(seed) -> None:
    frame = company.in_haze(np.random.default_rng(seed), haze=company.HAZE)
    lonely = np.random.default_rng(0).permutation(len(frame.places_px))[:N_CLICKS]
    for place in frame.places_px[lonely]:
        at_px = (float(place[0]), float(place[1]))
        assert np.hypot(*np.subtract(refine_click(frame.image, at_px), place)) < 2
        # sigma 2 px: within 4.3 px is 90 % of its light; a crop is twice that wide
        assert 12 <= estimate_size(frame.image, at_px) <= 32


def _rows(scores, places) -> Rows:
    names = ("y_px", "x_px", "score", "intensity")
    rows = np.zeros(len(scores), [(name, "f8") for name in names])
    rows["y_px"], rows["x_px"] = np.transpose(places)
    rows["score"], rows["intensity"] = scores, 10.0
    return rows


def test_noise_said_to_score_high_does_not_hide_what_nothing_else_comes_near() -> None:
    rng = np.random.default_rng(3)
    grid = np.argwhere(np.ones((6, 8))) * 40 + 20.0
    particles, others = grid[:40], grid[40:]
    score = np.concatenate([rng.uniform(-0.6, 0.9, 40), rng.uniform(-4, -2, 8)])
    suspects = Suspects(
        particles, np.ones(40), np.ones(40), np.full(40, CERTAIN, np.int64)
    )
    threshold = learn_threshold(
        _rows(score, np.concatenate([particles, others])),
        suspects,
        radius_px=5.0,
        lowest=0.4,
        shape=(260, 340),
    )
    assert threshold is not None
    assert score[40:].max() < threshold < score[:40].min()

"""Identity through the dark, through lost frames and through changes of interval."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live import Detections, Linker
from tests.bench._link_peers import ours
from tests.simulation.blinking import count_returns, simulate_blinking


@pytest.mark.parametrize(("off_frames", "least"), [(1.5, 0.99), (6.0, 0.9)])
def test_blinking_emitters_come_back_under_their_own_ids(off_frames, least):
    frames = simulate_blinking(off_frames, seed=11, n=20, size_px=300, n_frames=120)
    kept, returns, wrong = count_returns(frames, list(ours(frames)))
    assert returns > 50
    assert kept / returns >= least
    assert wrong <= 0.02 * returns


@pytest.mark.parametrize("gap", [2, 6, 30])
def test_a_gap_given_by_the_user_is_kept_for_a_confirmed_track(gap):
    """Neighbours are seen in every frame, so that a miss seems most unlikely."""
    linker = Linker(max_gap_frames=gap)
    yx = np.array([[100.0, 100.0], [40.0, 160.0], [160.0, 40.0], [40.0, 40.0]])
    rng = np.random.default_rng(gap)
    for k in range(40):
        rows = linker(Detections.from_positions(yx + rng.normal(0, 0.5, yx.shape)), k)
    first = rows.rows["track_id"][rows.rows["detection_index"] == 0]
    for k in range(40, 40 + gap):
        rows = linker(Detections.from_positions(yx[1:]), k)
        assert first in rows.rows["track_id"]
    back = linker(Detections.from_positions(yx), 40 + gap).rows
    assert back["track_id"][back["detection_index"] == 0] == first


@pytest.mark.parametrize("by_time", [False, True])
def test_nearest_searches_as_far_as_the_elapsed_time_allows(by_time):
    """A frame never came: 12 px in two intervals, where 10 px each are allowed."""
    linker = Linker(method="nearest", search_radius_px=10)
    for k in range(12):
        yx = [[50.0, 50.0 + 6 * k], [200.0, 50.0]]
        linker(Detections.from_positions(yx), k, 0.02 * k)
    index, t_s = (12, 0.02 * 13) if by_time else (13, None)
    yx = [[50.0, 50.0 + 6 * 11 + 12], [200.0, 50.0]]
    rows = linker(Detections.from_positions(yx), index, t_s).rows
    assert sorted(rows["track_id"].tolist()) == [0, 1]
    assert (rows["detection_index"] >= 0).all()


def test_a_late_frame_is_told():
    linker = Linker()
    for k in (0, 1, 2, 3, 2):
        linker(Detections.from_positions([[5.0, 5.0]]), k)
    late = [event for event in linker.take_events() if event.kind == "frame.late"]
    assert [(event.frame, event.details["newest"]) for event in late] == [(2, 3)]


@pytest.mark.parametrize(("sd_px", "noise_px"), [(0.3, 0.5), (1.0, 0.2), (3.0, 0.2)])
def test_filtered_positions_have_a_calibrated_sigma(sd_px, noise_px):
    rng = np.random.default_rng(5)
    yx = 80.0 * np.indices((6, 6)).reshape(2, -1).T
    linker, pulls, gain = Linker(), [], []
    for k in range(60):
        yx = yx + rng.normal(0, sd_px, yx.shape)
        seen = yx + rng.normal(0, noise_px, yx.shape)
        rows = linker(Detections.from_positions(seen, sigma_px=noise_px), k).rows
        rows = rows[rows["detection_index"] >= 0]
        true = yx[rows["detection_index"]]
        filtered = np.column_stack([rows["y_filtered_px"], rows["x_filtered_px"]])
        if k >= 20:
            pulls.append((filtered - true) / rows["sigma_filtered_px"][:, None])
            gain.append([(filtered - true), (seen[rows["detection_index"]] - true)])
    assert 0.85 < np.std(np.concatenate(pulls)) < 1.15
    filtered_rms, measured_rms = np.sqrt(np.mean(np.square(gain), axis=(0, 2, 3)))
    assert filtered_rms < 1.01 * measured_rms

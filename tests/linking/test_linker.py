"""What anyone who calls the linker may rely on."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live import Detections, Linker
from lodestar_live.errors import InputError
from tests.simulation.motion import Scenario, simulate_motion

METHODS = ["motion", "nearest"]


def at(*yx, sigma_px=None):
    positions = np.array(yx, dtype=float).reshape(-1, 2)
    return Detections.from_positions(positions, sigma_px=sigma_px)


def link(linker, frames):
    return [linker(d, index).rows for index, d in frames]


def straight(n_frames, start, step):
    return np.array(start) + np.arange(n_frames)[:, None] * np.array(step)


@pytest.mark.parametrize("method", METHODS)
def test_two_particles_keep_their_ids_and_rows_point_at_their_detections(method):
    linker = Linker(search_radius_px=5, method=method)
    first = linker(at((10, 10), (30, 30)), 0).rows
    second = linker(at((31, 30), (11, 10)), 1).rows
    assert first["track_id"].tolist() == [0, 1]
    assert second["track_id"].tolist() == [0, 1]
    assert second["detection_index"].tolist() == [1, 0]
    assert second["y_px"].tolist() == [11, 31]
    assert second["age_frames"].tolist() == [2, 2]


@pytest.mark.parametrize("method", METHODS)
def test_a_duplicate_or_late_frame_changes_nothing_and_is_counted(method):
    linker = Linker(search_radius_px=5, method=method)
    tracks = linker(at((10, 10)), 3)
    assert linker(at((90, 90)), 3) is tracks
    assert linker(at((90, 90)), 2) is tracks
    assert (linker.counts.duplicates, linker.counts.late) == (1, 1)
    assert linker(at((11, 10)), 4).rows["track_id"].tolist() == [0]


def test_a_missed_track_follows_its_prediction_and_is_found_again():
    linker = Linker()
    path = straight(20, (50, 20), (0, 3.0))
    for index, yx in enumerate(path[:15]):
        linker(at(yx), index)
    missed = linker(at(), 15).rows
    assert missed["detection_index"].tolist() == [-1]
    assert missed["missed_frames"].tolist() == [1]
    assert missed["x_px"][0] == pytest.approx(path[15, 1], abs=0.5)
    linker(at(), 16)
    found = linker(at(path[17]), 17).rows
    assert found["track_id"].tolist() == [0]
    kinds = [event.kind for event in linker.take_events()]
    assert kinds == ["track.birth", "track.reacquired"]


def test_a_jump_of_k_frames_predicts_k_steps():
    linker = Linker()
    path = straight(30, (50, 20), (1.0, 3.0))
    for index, yx in enumerate(path[:15]):
        linker(at(yx), index)
    rows = linker(at(path[20]), 20).rows
    assert rows["track_id"].tolist() == [0]
    assert rows["missed_frames"].tolist() == [0]
    assert rows["age_frames"].tolist() == [21]


def test_max_gap_is_a_hard_limit_in_frames():
    for gap, survives in [(2, False), (3, True)]:
        linker = Linker(max_gap_frames=gap)
        for index in range(10):
            linker(at((50, 50 + index)), index)
        rows = linker(at((50, 63)), 13 + 0).rows if survives else None
        if not survives:
            for index in range(10, 13):
                rows = linker(at(), index).rows
        assert (0 in rows["track_id"]) is survives


def test_search_radius_is_a_hard_limit_per_frame():
    linker = Linker(search_radius_px=4.0)
    for index in range(10):
        linker(at((50, 50 + 3 * index)), index)
    assert linker(at((50, 50 + 27 + 4.5)), 10).rows["track_id"].tolist() == [0, 1]


def test_prediction_has_a_covariance_that_grows():
    linker = Linker()
    for index, yx in enumerate(straight(30, (50, 20), (0.5, 2.0))):
        linker(at(yx, sigma_px=0.1), index)
    near, far = linker.predict(0, 1), linker.predict(0, 5)
    assert near.y_px == pytest.approx(50 + 30 * 0.5, abs=0.3)
    assert far.x_px == pytest.approx(20 + 34 * 2.0, abs=1.0)
    assert far.covariance[1, 1] > near.covariance[1, 1] > 0
    assert np.isnan(near.z_um)
    with pytest.raises(InputError, match="track_id = 7"):
        linker.predict(7, 1)


def test_reset_forgets_and_two_linkers_do_not_touch_each_other():
    movie = list(simulate_motion(Scenario("drift", 60, 0.2, 12, seed=5)))
    frames = [(k, f.detections) for k, f in enumerate(movie)]
    alone = link(Linker(), frames)
    one, other = Linker(), Linker()
    for (k, d), expected in zip(frames, alone, strict=True):
        assert (one(d, k).rows["track_id"] == expected["track_id"]).all()
        other(at((5, 5)), k)
    one.reset()
    for again, expected in zip(link(one, frames), alone, strict=True):
        np.testing.assert_array_equal(again["track_id"], expected["track_id"])


def test_detections_without_a_position_are_refused_and_counted():
    linker = Linker()
    rows = linker(at((np.nan, 3), (4, 4), (np.inf, 1)), 0).rows
    assert rows["detection_index"].tolist() == [1]
    assert linker.counts.refused == 2


@pytest.mark.parametrize(
    "bad",
    [{"search_radius_px": 0}, {"max_gap_frames": -1}, {"method": "magic"}],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Linker(**bad)

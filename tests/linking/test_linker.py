"""What anyone who calls the linker may rely on."""

from __future__ import annotations

import numpy as np

from lodestar_live import Detections, Linker


def at(*yx):
    return Detections.from_positions(np.array(yx, dtype=float).reshape(-1, 2))


def test_two_particles_keep_their_ids():
    linker = Linker(search_radius_px=5)
    first = linker(at((10, 10), (30, 30)), 0)
    second = linker(at((31, 30), (11, 10)), 1)
    assert first.rows["track_id"].tolist() == [0, 1]
    assert second.rows["track_id"].tolist() == [0, 1]
    assert second.rows["detection_index"].tolist() == [1, 0]


def test_a_duplicate_frame_is_ignored_and_counted():
    linker = Linker()
    tracks = linker(at((10, 10)), 3)
    assert linker(at((90, 90)), 3) is tracks
    assert linker(at((90, 90)), 2) is tracks
    assert (linker.counts.duplicates, linker.counts.late) == (1, 1)

"""Duplicates, disorder and gaps, known from the source's own numbers."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from lodestar_live.data import Detections
from lodestar_live.live import LiveTracker
from lodestar_live.settings import parse_settings
from tests.live.test_tracker import Remember

START = datetime.datetime(2026, 11, 30, 12, 0, 0)


def sequence(number: int, *, start: int = 0) -> dict[str, object]:
    """Metadata as the Python backend's sequences have them; a stamp per 20 ms."""
    stamp = START + datetime.timedelta(seconds=0.02 * (start + number))
    text = stamp.isoformat(sep=" ", timespec="microseconds")
    return {"Camera": "A", "ImageNumber": str(number), "TimeReceivedByCore": text}


def snap(number: int) -> dict[str, object]:
    return {"Camera": "A", "Axes": {"time": number}, "ElapsedTime-ms": 20.0 * number}


def image(x: int) -> np.ndarray:
    pixels = np.zeros((16, 64), np.uint16)
    pixels[8, x % 64] = 100
    return pixels


def brightest(pixels) -> Detections:
    return Detections.from_positions([np.unravel_index(pixels.argmax(), pixels.shape)])


def track(tmp_path, frames, **linking):
    sink = Remember()
    settings = parse_settings(
        {
            "streams": {"enabled": False},
            "recording": {"folder": str(tmp_path)},
            "live": {"mode": "every", "queue_frames": 1000},
            "linking": linking,
        }
    )
    with LiveTracker(settings, detect=brightest, sinks=[sink]) as tracker:
        for number, metadata in frames:
            tracker(image(number), metadata)
    return tracker.counts, sink


@pytest.mark.parametrize("make", [sequence, snap])
def test_every_frame_twice_is_tracked_once(tmp_path, make) -> None:
    frames = [(k, make(k)) for k in range(1, 21) for _ in range(2)]
    counts, sink = track(tmp_path, frames)
    # Whether the very first repetition is one cannot be told from a time point alone.
    assert counts.duplicated >= 19
    assert counts.processed == 40 - counts.duplicated
    assert counts.dropped == counts.duplicated
    assert counts.is_balanced
    told = [e for e in sink.events if e.kind == "frame.dropped"]
    assert len(told) == counts.duplicated
    assert "duplicated" in told[0].details["why"]


@pytest.mark.parametrize("make", [sequence, snap])
def test_a_late_frame_never_moves_tracks_backwards(tmp_path, make) -> None:
    order = [0, 1, 2, 3, 5, 6, 4, 7, 8]
    counts, sink = track(tmp_path, [(k, make(k)) for k in order])
    assert (counts.disordered, counts.duplicated, counts.lost) == (1, 0, 1)
    x_px = [u.tracks.rows["x_px"][0] for u in sink.updates]
    assert x_px == sorted(x_px)
    assert counts.is_balanced


@pytest.mark.parametrize("make", [sequence, snap])
def test_lost_frames_are_counted_told_and_predicted_over(tmp_path, make) -> None:
    """A particle of 2 px per frame; frames 20 to 23 never come. One track."""
    numbers = [k for k in range(30) if k not in range(20, 24)]
    frames = [(2 * k, make(k)) for k in numbers]
    counts, sink = track(tmp_path, frames, search_radius_px=4.0, max_gap_frames=6)
    assert counts.lost == 4
    assert [u.frame.index for u in sink.updates] == numbers
    ids = {int(i) for u in sink.updates for i in u.tracks.rows["track_id"]}
    assert ids == {0}
    assert [e.kind for e in sink.events].count("frame.lost") == 1


def test_every_sequence_of_the_core_counts_from_zero(tmp_path) -> None:
    frames = [(k, sequence(k, start=20 * part)) for part in range(3) for k in range(20)]
    counts, _ = track(tmp_path, frames)
    assert (counts.processed, counts.lost, counts.dropped) == (60, 0, 0)


def test_a_second_acquisition_counts_from_zero(tmp_path) -> None:
    counts, _ = track(tmp_path, [(k, snap(k)) for _ in range(3) for k in range(10)])
    assert (counts.processed, counts.lost, counts.dropped) == (30, 0, 0)


def test_time_points_in_steps_of_ten_lose_nothing(tmp_path) -> None:
    counts, _ = track(tmp_path, [(k, snap(10 * k)) for k in range(10)])
    assert (counts.processed, counts.lost) == (10, 0)


def test_two_cameras_have_a_count_each(tmp_path) -> None:
    frames = []
    for k in range(10):
        for camera in "AB":
            if (k, camera) != (4, "B"):
                frames.append((k, sequence(k) | {"Camera": camera}))
    counts, _ = track(tmp_path, frames)
    assert (counts.processed, counts.lost, counts.dropped) == (19, 1, 0)

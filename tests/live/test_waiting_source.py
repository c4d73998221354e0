"""A source that waits has its frames processed on its own thread, as the others are."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from lodestar_live.data import Detections, Frame
from lodestar_live.live import LiveTracker
from tests.live.test_tracker import (
    Remember,
    find_brightest,
    frame_with_spot,
    settings_for,
)


def _frame(index: int, t_s: float) -> Frame:
    pixels = frame_with_spot(5 + index % 7, 10 + index % 5)
    return Frame(-1, pixels, t_s, t_s, source_number=index, camera="simulated")


def _run(folder, detect, *, waits: bool, n_frames: int = 20):
    sink = Remember()
    settings = settings_for(folder, live={"mode": "every"})
    tracker = LiveTracker(settings, detect=detect, sinks=[sink])
    with tracker:
        reception = tracker.reception(threading.Event(), waits=waits)
        for index in range(n_frames):
            reception.take(_frame(index, 0.01 * index))
    reception.take(_frame(n_frames, 1.0))  # too late: the run is over
    return tracker, sink


def test_tracks_are_those_of_frames_that_were_queued(tmp_path) -> None:
    runs = [
        _run(tmp_path / str(waits), find_brightest, waits=waits)
        for waits in (True, False)
    ]
    for tracker, sink in runs:
        assert [update.frame.index for update in sink.updates] == list(range(20))
        assert tracker.counts.processed == 20
        assert tracker.counts.is_balanced
        assert tracker.counts.in_flight == 0
    inline, queued = (sink.updates for _, sink in runs)
    for one, other in zip(inline, queued, strict=True):
        for name in ("track_id", "y_px", "x_px", "y_filtered_px", "age_frames"):
            np.testing.assert_array_equal(
                one.tracks.rows[name], other.tracks.rows[name]
            )


@pytest.mark.parametrize("waits", [True, False])
def test_the_thread_that_detects_is_the_sources_or_the_workers(
    tmp_path, waits: bool
) -> None:
    threads = set()

    def detect(pixels) -> Detections:
        threads.add(threading.current_thread())
        return find_brightest(pixels)

    _run(tmp_path, detect, waits=waits)
    assert (threads == {threading.current_thread()}) is waits


def test_a_frame_that_fails_is_counted_and_the_source_goes_on(tmp_path) -> None:
    def detect(pixels) -> Detections:
        if pixels[5, 10]:
            raise ValueError("on purpose")
        return find_brightest(pixels)

    tracker, _ = _run(tmp_path, detect, waits=True)
    counts = tracker.counts
    assert (counts.failed, counts.processed) == (1, 19)
    assert "on purpose" in (tracker.first_error or "")

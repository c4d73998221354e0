"""A sink that fails is that sink's affair: the frame stays processed."""

from __future__ import annotations

import logging

import pytest

from lodestar_live import LiveTracker
from lodestar_live.sinks import Guard
from tests.live.test_tracker import (
    METADATA,
    find_brightest,
    frame_with_spot,
    settings_for,
)


class Failing:
    """A user's sink; every verb named in `fails` raises."""

    def __init__(self, *fails: str) -> None:
        self.fails = fails
        self.calls: dict[str, int] = {}

    def open(self, run) -> None:
        self._note("open")

    def write(self, update) -> None:
        self._note("write")

    def tell(self, event) -> None:
        self._note("tell")

    def close(self) -> None:
        self._note("close")

    def _note(self, verb: str) -> None:
        self.calls[verb] = self.calls.get(verb, 0) + 1
        if verb in self.fails:
            raise RuntimeError(f"{verb} failed on purpose")


def test_a_sink_that_raises_leaves_all_frames_processed_and_one_log_line(
    tmp_path, caplog
) -> None:
    failing, healthy = Failing("write"), Failing()
    tracker = LiveTracker(
        settings_for(tmp_path), detect=find_brightest, sinks=(failing, healthy)
    )
    with caplog.at_level(logging.ERROR), tracker:
        for index in range(10):
            tracker(frame_with_spot(5, 6 + index), METADATA)
            tracker.wait_for_room(1)
    assert (tracker.counts.processed, tracker.counts.failed) == (10, 0)
    assert failing.calls["write"] == healthy.calls["write"] == 10
    lines = [record for record in caplog.records if "on purpose" in record.message]
    assert len(lines) == 1
    assert "sink Failing.write" in lines[0].message
    assert "on purpose" in tracker.summary().first_error


@pytest.mark.parametrize("verb", ["write", "tell", "close"])
def test_the_guard_counts_what_its_sink_fails_to_take(verb, caplog) -> None:
    sink = Failing(verb)
    guard = Guard(sink)
    for _ in range(3):
        getattr(guard, verb)(*(() if verb == "close" else (None,)))
    assert (guard.n_errors, sink.calls[verb]) == (3, 3)
    assert len(caplog.records) == 1


def test_a_sink_that_cannot_open_ends_the_start_before_any_frame(tmp_path) -> None:
    tracker = LiveTracker(
        settings_for(tmp_path), detect=find_brightest, sinks=(Failing("open"),)
    )
    with pytest.raises(RuntimeError, match="open failed"):
        tracker.start()

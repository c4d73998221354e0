"""Cores that come and go in one process."""

from __future__ import annotations

import pytest
from pycromanager import Acquisition

from lodestar_live import LiveTracker
from lodestar_live.data import Detections
from lodestar_live.microscope import open_demo
from lodestar_live.settings import parse_settings

pytestmark = pytest.mark.system


def settings_for(folder):
    return parse_settings(
        {"streams": {"enabled": False}, "recording": {"folder": str(folder)}}
    )


def nothing(pixels) -> Detections:
    return Detections.empty()


def acquire_five(tracker) -> None:
    with tracker, Acquisition(image_process_fn=tracker) as acquisition:
        for k in range(5):
            acquisition.acquire({"axes": {"time": k}})


def test_a_new_core_in_the_same_process_serves_a_new_run(tmp_path) -> None:
    for size_px in (256, 128):
        with open_demo(size_px, exposure_ms=5.0) as core:
            tracker = LiveTracker(
                settings_for(tmp_path), microscope=core, detect=nothing
            )
            acquire_five(tracker)
            assert tracker.counts.received == 5


def test_large_frames_pass(tmp_path) -> None:
    with open_demo(2048, exposure_ms=5.0) as core:
        tracker = LiveTracker(settings_for(tmp_path), microscope=core, detect=nothing)
        acquire_five(tracker)
    assert tracker.counts.processed + tracker.counts.dropped == 5

"""Runs that train on their first frame: those who ask for frames get tracked ones."""

from __future__ import annotations

import threading

import pytest
from pycromanager import Acquisition

from lodestar_live.live import LiveTracker, first_model
from lodestar_live.microscope import Microscope, acquire
from lodestar_live.settings import AcquisitionSettings, Settings

pytestmark = pytest.mark.system


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    """Settings of a run without a model; its training is fast and not starved."""
    monkeypatch.setattr(first_model, "BESIDE", 0)  # priority is tested elsewhere
    return Settings(
        acquisition={"exposure_ms": 5.0},
        training={"start": "warm", "steps": 120},
        recording={"folder": str(tmp_path)},
        streams={"enabled": False},
        live={"mode": "every"},
    )


def test_events_come_once_the_model_is_there(microscope, settings) -> None:
    said: list[str] = []
    tracker = LiveTracker(settings)
    with tracker, Acquisition(image_process_fn=tracker) as acquisition:
        for event in tracker.events(5, say=said.append):
            acquisition.acquire(event)
    counts = tracker.counts
    assert (counts.received, counts.waiting, counts.processed) == (6, 1, 5)
    assert said[0].startswith("training on the first frame")
    assert said[1].startswith("trained in")


def test_frames_before_the_model_do_not_count(microscope: Microscope) -> None:
    frames: list[object] = []

    def keep(image, metadata) -> None:
        frames.append(metadata)

    acquire(
        microscope,
        keep,
        AcquisitionSettings(n_frames=5, exposure_ms=5.0),
        stop=threading.Event(),
        is_ready=lambda: len(frames) >= 7,
    )
    in_flight = AcquisitionSettings().events_in_flight
    assert 7 + 5 <= len(frames) <= 7 + 5 + in_flight

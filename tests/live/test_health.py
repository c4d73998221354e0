"""What goes wrong is told: on the stream, in the summary and in the run file."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lodestar_live.data import Detections, Event
from lodestar_live.health import Health
from lodestar_live.live import LiveTracker
from lodestar_live.recording import Recording
from lodestar_live.settings import parse_settings
from lodestar_live.streams import Message, Subscriber
from tests.streams.samples import wait_for

IMAGE = np.zeros((32, 40), np.uint16)
FREE = "tcp://127.0.0.1:0"


def one_particle(_pixels: np.ndarray) -> Detections:
    return Detections.from_positions([[10.0, 12.0]], sigma_px=0.1)


@contextmanager
def running(folder: Path, detect=one_particle) -> Iterator[tuple[LiveTracker, list]]:
    """Yield a tracker fed a hundred frames a second, and what a subscriber hears."""
    streams = {"stream": FREE, "latest": FREE}
    settings = parse_settings(
        {
            "recording": {"folder": str(folder)},
            "streams": streams,
            "live": {"mode": "every"},
        }
    )
    heard: list[Message] = []
    stop = threading.Event()
    with LiveTracker(settings, detect=detect) as tracker:
        reader = Subscriber(
            tracker.endpoints["stream"], ("tracks", "status", "event", "end")
        )
        reader.call(heard.append)

        def feed() -> None:
            while not stop.wait(0.01):
                tracker(IMAGE, {"Exposure": 1.0})

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            wait_for(lambda: any(m.topic == "tracks" for m in heard))
            yield tracker, heard
        finally:
            stop.set()
            feeder.join()
    wait_for(lambda: any(m.topic == "end" for m in heard))
    reader.close()


def hold_the_lock(path: Path) -> Callable[[], object]:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    return other.close


def remove(path: Path) -> Callable[[], object]:
    shutil.rmtree(path.parent)
    return lambda: None


def flags(heard: list[Message], topic: str) -> list[bool]:
    return [m.header["degraded"] for m in heard if m.topic == topic]


@pytest.mark.parametrize("spoil", [hold_the_lock, remove])
def test_recorder_that_cannot_write_is_told_everywhere(
    tmp_path: Path, spoil: Callable[[Path], Callable[[], object]]
) -> None:
    with running(tmp_path) as (tracker, heard):
        mend = spoil(tracker.run_folder / "run.sqlite")
        wait_for(lambda: True in flags(heard, "tracks"))
        wait_for(lambda: True in flags(heard, "status"))
        assert tracker.summary().degraded
        assert tracker.summary().health["disk"]["state"] == "degraded"
        beats = [
            m.header for m in heard if m.topic == "status" and m.header["degraded"]
        ]
        assert beats[0]["health"]["disk"]["why"]
        mend()
        wait_for(lambda: not flags(heard, "status")[-1])
        wait_for(lambda: not flags(heard, "tracks")[-1])
    kinds = [m.event.kind for m in heard if m.event is not None]
    assert kinds.count("recording.degraded") == kinds.count("recording.resumed") == 1
    assert kinds.count("health.changed") == 2
    assert not tracker.summary().degraded
    with Recording(tracker.run_folder) as recording:
        frames, end = recording.frames(), recording.end
        recorded = [event.kind for event in recording.events()]
    assert set(frames["degraded"]) == {0, 1}
    assert frames["degraded"][-1] == 0
    assert "recording.resumed" in recorded
    assert end.status == "completed"
    counts = tracker.counts
    assert len(frames) + end.frames_lost == counts.received


def test_every_run_ends_with_a_status_and_a_reason(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), running(tmp_path) as (tracker, heard):
        raise RuntimeError("camera timeout")
    with Recording(tracker.run_folder) as recording:
        end = recording.end
    said = next(m.header for m in heard if m.topic == "end")
    for status, reason in (
        (end.status, end.reason),
        (said["status"], said["reason"]),
        (tracker.summary().status, tracker.summary().reason),
    ):
        assert (status, reason) == ("failed", "RuntimeError: camera timeout")
    # The recorder closes first: at the end every published frame is on disk.
    published = max(m.frame for m in heard if m.topic == "tracks")
    assert said["durable_frame"] >= published


def test_what_is_told_as_durable_is_in_the_file_at_that_moment(tmp_path: Path) -> None:
    with running(tmp_path) as (tracker, heard):
        wait_for(lambda: _durable(heard) > 20)
        path = tracker.run_folder / "run.sqlite"
        for _ in range(20):
            durable = _durable(heard)
            with Recording(path) as recording:
                frames = recording.frames()
            processed = frames["frame"][frames["state"] == "processed"]
            assert np.isin(np.arange(durable + 1), processed).all()


def _durable(heard: list[Message]) -> int:
    return max(
        (m.header["durable_frame"] for m in heard if m.topic == "tracks"), default=-1
    )


def test_detector_that_fails_and_recovers_is_told(tmp_path: Path) -> None:
    is_broken = threading.Event()

    def detect(pixels: np.ndarray) -> Detections:
        if is_broken.is_set():
            raise RuntimeError("no memory")
        return one_particle(pixels)

    with running(tmp_path, detect) as (tracker, heard):
        is_broken.set()
        wait_for(lambda: "detector" in tracker.summary().health)
        is_broken.clear()
        wait_for(lambda: not tracker.summary().health)
    kinds = [m.event.kind for m in heard if m.event is not None]
    assert kinds.count("run.degraded") == kinds.count("run.resumed") == 1


def test_health_changes_only_by_events_and_says_each_change_once() -> None:
    health = Health()
    trouble = Event("stage.failed", 2.0, details={"axis": "z", "reason": "busy"})
    changed = health.take(trouble)
    assert changed is not None
    assert changed.details == {
        "part": "focus", "state": "degraded", "was": "ok", "why": "busy",
    }  # fmt: skip
    assert health.take(trouble) is None
    assert health.is_degraded
    assert health.as_json() == {
        "focus": {"state": "degraded", "why": "busy", "since_s": 2.0}
    }
    assert health.take(Event("stage.move", 3.0, details={"axis": "z"})) is not None
    assert not health.is_degraded
    assert health.take(Event("track.birth", 4.0)) is None


def test_first_training_without_room_starts_again_when_there_is(tmp_path: Path) -> None:
    settings = parse_settings(
        {"recording": {"folder": str(tmp_path)}, "streams": {"enabled": False}}
    )
    with LiveTracker(settings) as tracker:
        blocked = tracker.run_folder / "snapshot.tif"
        blocked.mkdir()  # so that the snapshot cannot be written, as on a full disk
        tracker(IMAGE, {})
        wait_for(lambda: "detector" in tracker.summary().health)
        assert not (tracker.run_folder / "training.log").exists()
        blocked.rmdir()

        def has_started() -> bool:
            tracker(IMAGE, {})
            return (tracker.run_folder / "training.log").exists()

        wait_for(has_started)

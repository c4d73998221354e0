"""The image processor on its own: no microscope, real mailbox, worker and sinks."""

from __future__ import annotations

import inspect
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lodestar_live.data import Detections, Event
from lodestar_live.errors import (
    InputError,
    RecordingError,
    SettingsError,
    StreamError,
)
from lodestar_live.live import LiveTracker
from lodestar_live.recording import Recording
from lodestar_live.settings import parse_settings
from lodestar_live.streams import Subscriber, request
from tests.detection import networks

IMAGE = np.zeros((32, 40), np.uint16)
METADATA = {"Axes": {"time": 0}, "Exposure": 10.0, "PixelSize_um": 0.5}


def find_brightest(pixels) -> Detections:
    """Detect one bright pixel, or nothing."""
    if not pixels.max():
        return Detections.empty()
    return Detections.from_positions([np.unravel_index(pixels.argmax(), pixels.shape)])


class Remember:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.updates, self.events = [], []

    def open(self, run) -> None:
        self.run = run

    def write(self, update) -> None:
        self.updates.append(update)

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


def settings_for(folder, **sections):
    base = {"streams": {"enabled": False}, "recording": {"folder": str(folder)}}
    return parse_settings({**base, **sections})


def frame_with_spot(y, x):
    image = IMAGE.copy()
    image[y, x] = 100
    return image


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness there")
def test_the_detector_gives_way_to_the_cameras_thread(tmp_path) -> None:
    niceness = {}

    def detect(pixels) -> Detections:
        niceness["detector"] = os.getpriority(os.PRIO_PROCESS, 0)
        with ThreadPoolExecutor(1) as pool:  # as engines have one
            helper = pool.submit(os.getpriority, os.PRIO_PROCESS, 0)
        niceness["helper"] = helper.result()
        return Detections.empty()

    settings = settings_for(tmp_path, live={"mode": "every"})
    with LiveTracker(settings, detect=detect) as tracker:
        tracker(IMAGE, METADATA)
    camera = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness == {"detector": camera + 10, "helper": camera + 10}


def test_the_hook_has_exactly_the_two_parameters_pycromanager_counts() -> None:
    assert list(inspect.signature(LiveTracker()).parameters) == ["image", "metadata"]


def test_following_survives_another_frame_size(tmp_path) -> None:
    """The tracks end with the old size; what follows is looked for afresh."""
    (tmp_path / "model.onnx").write_bytes(
        networks.model(networks.spot_finder(), threshold=-1.5)
    )
    detection = {"model": str(tmp_path / "model.onnx"), "full_every": 5}
    settings = settings_for(tmp_path, live={"mode": "every"}, detection=detection)
    sink = Remember()
    places = np.array([[20.0, 30.0], [60.25, 44.5]])
    with LiveTracker(settings, sinks=[sink]) as tracker:
        for shape in [(128, 136)] * 4 + [(96, 100)] * 4:
            spots = networks.spots(places, shape, 100.0)
            image = np.random.default_rng(0).poisson(spots).astype(np.uint16)
            tracker(image, METADATA)
    assert tracker.counts.processed == 8
    assert [len(update.detections) for update in sink.updates] == [2] * 8
    last = sink.updates[-1].tracks.rows
    np.testing.assert_array_equal(last["age_frames"], 4)


def test_frames_become_tracks_and_every_frame_is_accounted_for(tmp_path) -> None:
    sink = Remember()
    settings = settings_for(tmp_path, live={"mode": "every"})
    with LiveTracker(settings, detect=find_brightest, sinks=[sink]) as tracker:
        for k in range(20):
            image = frame_with_spot(10, 5 + k)
            returned = tracker(image, METADATA)
            assert returned[0] is image
            assert returned[1] is METADATA
    assert tracker.counts.processed == 20
    assert tracker.counts.is_balanced
    assert [u.frame.index for u in sink.updates] == list(range(20))
    last = sink.updates[-1].tracks.rows
    assert len(last) == 1
    assert last["track_id"][0] == 0
    assert (last["y_px"][0], last["x_px"][0]) == (10, 24)
    assert sink.updates[0].frame.pixel_size_um == 0.5


def test_the_run_file_holds_every_frame_received(tmp_path) -> None:
    settings = settings_for(tmp_path, live={"mode": "every"})
    with LiveTracker(settings, detect=find_brightest) as tracker:
        for k in range(10):
            tracker(frame_with_spot(3, k) if k != 4 else np.zeros((4, 4, 3)), METADATA)
    frames = Recording(tracker.run_folder).frames()
    assert list(frames["frame"]) == list(range(10))
    assert [f["frame"] for f in frames if f["state"] == "failed"] == [4]


def test_a_slow_detector_drops_old_frames_and_counts_them(tmp_path) -> None:
    may_go_on = threading.Event()

    def slow(pixels) -> Detections:
        may_go_on.wait(5.0)
        return find_brightest(pixels)

    sink = Remember()
    with LiveTracker(settings_for(tmp_path), detect=slow, sinks=[sink]) as tracker:
        for k in range(50):
            tracker(frame_with_spot(1, k % 40), METADATA)
        assert tracker.counts.received == 50
        assert tracker.counts.dropped >= 48
        assert tracker.counts.is_balanced
        may_go_on.set()
    assert tracker.counts.is_balanced
    assert sink.updates[-1].frame.index == 49
    dropped = [e.frame for e in sink.events if e.kind == "frame.dropped"]
    assert len(dropped) == tracker.counts.dropped


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3)])
def test_an_exception_in_a_frame_is_counted_and_the_run_goes_on(
    tmp_path, error, caplog
) -> None:
    def fragile(pixels) -> Detections:
        if pixels[0, 0] == 7:
            raise error
        return find_brightest(pixels)

    bad = np.full((32, 40), 7, np.uint16)
    settings = settings_for(tmp_path, live={"mode": "every"})
    with LiveTracker(settings, detect=fragile) as tracker:
        for k in range(10):
            image = bad if k == 5 else frame_with_spot(1, k)
            assert tracker(image, METADATA)[0] is image
    assert (tracker.counts.processed, tracker.counts.failed) == (9, 1)
    assert "in fragile" in tracker.first_error
    assert type(error).__name__ in tracker.first_error
    assert "first error of this run" in caplog.text


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 5), np.uint16),
        None,
        "no image",
    ],
)
def test_unusable_frames_fail_alone_and_pass_through(tmp_path, image) -> None:
    settings = settings_for(tmp_path, live={"mode": "every"})
    with LiveTracker(settings, detect=find_brightest) as tracker:
        assert tracker(image, METADATA) == (image, METADATA)
        tracker(IMAGE, METADATA)
        tracker(IMAGE, None)
    assert tracker.counts.processed >= 1
    assert tracker.counts.failed >= 1
    assert tracker.counts.is_balanced


def test_twenty_failures_in_a_row_are_called_degraded(tmp_path) -> None:
    def broken(pixels) -> Detections:
        raise RuntimeError("always")

    sink = Remember()
    settings = settings_for(tmp_path, live={"mode": "every"})
    with LiveTracker(settings, detect=broken, sinks=[sink]) as tracker:
        for _ in range(25):
            tracker(IMAGE, METADATA)
    assert tracker.summary().degraded
    assert [e.kind for e in sink.events].count("run.degraded") == 1


def test_a_callback_that_raises_is_logged_and_nothing_else(tmp_path, caplog) -> None:
    def callback(update) -> None:
        raise KeyError("mine")

    settings = settings_for(tmp_path, live={"mode": "every"})
    with LiveTracker(settings, detect=find_brightest, on_update=callback) as tracker:
        for _ in range(5):
            tracker(IMAGE, METADATA)
    assert tracker.counts.processed == 5
    assert "KeyError" in caplog.text


def test_one_tracker_serves_two_runs_with_separate_accounts(tmp_path) -> None:
    tracker = LiveTracker(settings_for(tmp_path), detect=find_brightest)
    folders = []
    for _ in range(2):
        with tracker:
            tracker(frame_with_spot(1, 1), METADATA)
            folders.append(tracker.run_folder)
        assert tracker.counts.received == 1
    assert folders[0] != folders[1]


def test_frames_after_closing_pass_through(tmp_path) -> None:
    with LiveTracker(settings_for(tmp_path), detect=find_brightest) as tracker:
        pass
    assert tracker(IMAGE, METADATA) == (IMAGE, METADATA)
    tracker.close()
    assert tracker.counts.received == 0


def test_a_wedged_detector_cannot_hold_the_program(tmp_path) -> None:
    wedged, release = threading.Event(), threading.Event()

    def wedge(pixels) -> Detections:
        wedged.set()
        release.wait(60.0)
        return Detections.empty()

    with LiveTracker(settings_for(tmp_path), detect=wedge) as tracker:
        tracker(IMAGE, METADATA)
        assert wedged.wait(5.0)
    release.set()
    assert tracker._run._worker.daemon


def test_a_change_of_shape_ends_the_tracks_but_not_the_run(tmp_path) -> None:
    sink = Remember()
    settings = settings_for(tmp_path, live={"mode": "every"})
    with LiveTracker(settings, detect=find_brightest, sinks=[sink]) as tracker:
        for _ in range(3):
            tracker(frame_with_spot(4, 4), METADATA)
        for _ in range(3):
            tracker(np.pad(frame_with_spot(4, 4), 3), METADATA)
    assert tracker.counts.processed == 6
    ids = [u.tracks.rows["track_id"].tolist() for u in sink.updates]
    assert ids == [[0], [0], [0], [1], [1], [1]]


def test_a_missing_model_is_refused_before_the_first_frame(tmp_path) -> None:
    settings = settings_for(tmp_path, detection={"model": str(tmp_path / "no.onnx")})
    with pytest.raises(Exception, match=r"no\.onnx"), LiveTracker(settings):
        pass


def test_following_without_a_microscope_is_refused(tmp_path) -> None:
    settings = settings_for(tmp_path, control={"follow": True})
    with (
        pytest.raises(SettingsError, match="no microscope is reachable"),
        LiveTracker(settings, detect=find_brightest),
    ):
        pass


def test_an_unwritable_folder_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    settings = settings_for(tmp_path / "file")
    with (
        pytest.raises(RecordingError, match="a run folder cannot be made"),
        LiveTracker(settings, detect=find_brightest),
    ):
        pass


def test_holograms_without_a_model_are_refused(tmp_path) -> None:
    settings = settings_for(tmp_path, holography={"wavelength_um": 0.633})
    with pytest.raises(SettingsError, match="need a model"), LiveTracker(settings):
        pass


def test_retraining_needs_frames_to_judge_by(tmp_path) -> None:
    with LiveTracker(settings_for(tmp_path), detect=find_brightest) as tracker:
        with pytest.raises(InputError, match="expected at least 2"):
            tracker.retrain((5.0, 5.0))
        with pytest.raises(InputError, match="nothing to undo"):
            tracker.rollback()


def test_other_programs_reach_the_model_through_the_control_channel(tmp_path) -> None:
    free = dict.fromkeys(("stream", "latest", "control"), "tcp://127.0.0.1:0")
    settings = settings_for(tmp_path, streams=free)
    with LiveTracker(settings, detect=find_brightest) as tracker:
        address = tracker.endpoints["control"]
        for index in range(3):
            tracker(frame_with_spot(5, 6 + index), METADATA)
            tracker.wait_for_room(1)
        assert tracker.counts.processed == 3
        run = tracker._run
        first, run.parts.link.model_version = run.parts.detector, 1
        run.models._retrainer._models.append(
            (1, first)
        )  # as if one had been swapped in
        assert request(address, "rollback") == {"version": 0}
        assert run.parts.link.model_version == 0
        with pytest.raises(StreamError, match="nothing to undo"):
            request(address, "rollback")
        with pytest.raises(StreamError, match="track 99 is gone"):
            request(address, "retrain", {"track_id": 99})
        with pytest.raises(StreamError, match="frame 77 is gone"):
            request(address, "retrain", {"y_px": 5.0, "x_px": 6.0, "frame": 77})
        with Subscriber(tracker.endpoints["stream"], ("run",)) as reader:
            header = reader.receive(5.0).header
    assert header["endpoints"]["control"] == address
    assert {"retrain", "rollback", "ping", "status"} <= set(header["verbs"])

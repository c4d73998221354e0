"""A live run with engine "auto" tries the engines on an early frame, beside the run."""

from __future__ import annotations

import threading

import numpy as np

from lodestar_live.detection import Detector
from lodestar_live.detection.engines.choice import EngineChoice
from lodestar_live.detection.engines.open import available
from lodestar_live.live import LiveTracker
from lodestar_live.settings import parse_settings
from tests.detection import networks
from tests.live.test_tracker import METADATA, Remember

SPOTS = np.array([[20.0, 30.0], [60.25, 44.5], [90.5, 100.75]])
FRAME = np.random.default_rng(0).poisson(networks.spots(SPOTS, (128, 136)))
FRAME = FRAME.astype(np.uint16)
EMPTY = np.full_like(FRAME, 20)


def model() -> bytes:
    return networks.model(networks.spot_finder(), threshold=-1.5)


def test_a_run_chooses_on_a_frame_with_particles_and_records_it(tmp_path) -> None:
    path, sink = tmp_path / "spots.onnx", Remember()
    path.write_bytes(model())
    settings = parse_settings(
        {
            "streams": {"enabled": False},
            "recording": {"folder": str(tmp_path)},
            "live": {"mode": "every"},
            "detection": {"model": str(path), "engine": "auto"},
        }
    )
    with LiveTracker(settings, sinks=[sink]) as tracker:
        for frame in (EMPTY, FRAME, FRAME, FRAME):
            tracker(frame, METADATA)
        tracker.wait_for_room(1)
        choice = tracker._run.parts.engines
        choice.join(20.0)
        tracker(FRAME, METADATA)
    assert tracker.counts.processed == 5
    assert [len(update.detections) for update in sink.updates] == [0, 3, 3, 3, 3]
    (event,) = (e for e in sink.events if e.kind == "engine.chosen")
    assert event.details["engine"] in available()
    assert list(event.details["best_ms"]) == available()
    assert set(event.details["refused"]) <= set(available()[1:])


def test_frames_are_detected_while_engines_are_tried() -> None:
    detector = Detector(model(), engine="auto", n_threads=2)
    expected = detector(FRAME).positions_px
    chooser = threading.Thread(target=detector.choose_engine, args=(FRAME,))
    chooser.start()
    while chooser.is_alive():
        np.testing.assert_allclose(detector(FRAME).positions_px, expected, atol=0.02)
    chooser.join()
    np.testing.assert_allclose(detector(FRAME).positions_px, expected, atol=0.02)


def test_an_engine_named_in_the_settings_is_not_chosen_again() -> None:
    told = []
    choice = EngineChoice(told.append, lambda: 0.0)
    detector = Detector(model(), engine="cpu")
    choice.offer(detector, FRAME, detector(FRAME))
    choice.join()
    assert not told and detector.engine.name == "cpu"

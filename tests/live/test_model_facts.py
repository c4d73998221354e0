"""The run file says which model was used: its card, its file, its SHA-256."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest

from lodestar_live import LiveTracker, Recording
from lodestar_live.data import Detections
from lodestar_live.detection import Detector
from tests.detection import networks
from tests.live.test_tracker import METADATA, settings_for
from tests.simulation import shapes

IMAGE = np.full((64, 64), 10, np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "spots.onnx"
    path.write_bytes(networks.model(networks.spot_finder(), threshold=-1.5))
    return path


def recorded(tracker: LiveTracker) -> tuple[dict, str | None]:
    folder = tracker.run_folder
    with Recording(folder) as recording:
        (row,) = recording._database.execute("SELECT model_sha256 FROM run").fetchall()
        return dict(recording.info.model), row[0]


def test_a_models_file_is_named_by_its_checksum(tmp_path: Path, model: Path) -> None:
    settings = settings_for(tmp_path, detection={"model": str(model)})
    with LiveTracker(settings) as tracker:
        tracker(IMAGE, METADATA)
    facts, sha256 = recorded(tracker)
    assert sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert facts["sha256"] == sha256
    assert facts["file"] == str(model)
    assert facts["stride"] == 4


def test_a_detector_given_by_the_script_is_named_too(tmp_path, model: Path) -> None:
    with LiveTracker(settings_for(tmp_path), detect=Detector(model)) as tracker:
        tracker(IMAGE, METADATA)
    facts, sha256 = recorded(tracker)
    assert sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert facts["stride"] == 4


def my_own_detector(pixels: np.ndarray) -> Detections:
    return Detections.empty()


def test_a_callable_of_the_users_own_is_named(tmp_path: Path) -> None:
    with LiveTracker(settings_for(tmp_path), detect=my_own_detector) as tracker:
        tracker(IMAGE, METADATA)
    facts, sha256 = recorded(tracker)
    assert facts["callable"].endswith("test_model_facts.my_own_detector")
    assert sha256 is None


def test_a_model_trained_in_the_run_is_kept_and_named(tmp_path: Path) -> None:
    image = 100 + 1000 * shapes.sample("sphere", 1, snr=10, seed=50).images[0]
    training = {"steps": 60, "start": "warm"}
    with LiveTracker(settings_for(tmp_path, training=training)) as tracker:
        deadline_s = time.monotonic() + 180
        while not tracker.counts.processed and time.monotonic() < deadline_s:
            tracker(image.astype(np.uint16), METADATA)
            time.sleep(0.2)
    assert tracker.counts.processed, "the training did not end in time"
    facts, sha256 = recorded(tracker)
    kept = tracker.run_folder / "model.onnx"
    assert sha256 == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert facts["sha256"] == sha256
    assert facts["training"]["steps"] == 60

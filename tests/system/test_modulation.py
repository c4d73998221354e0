"""The demo core's own stage swings, and a background 30 times the particle is gone."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from lodestar_live.control import Calibration
from lodestar_live.detection import Detector
from lodestar_live.live.session import run_session
from lodestar_live.microscope import Microscope, substitute_pixels
from lodestar_live.recording import Recording
from lodestar_live.settings import parse_settings
from tests.detection import networks
from tests.pipeline.swinging import MAP, SwingingScene, match, recall_and_rms

SWING_S, N_FRAMES = 2.4, 330
pytestmark = [pytest.mark.system, pytest.mark.real_time]


def test_particles_are_found_where_they_are_before_a_strong_background(
    microscope: Microscope, tmp_path: Path
) -> None:
    model = tmp_path / "spots.onnx"
    model.write_bytes(networks.model(networks.spot_finder(), threshold=-1.5))
    settings = parse_settings(
        {
            "acquisition": {"exposure_ms": 20.0, "n_frames": N_FRAMES},
            "microscope": {"pixel_size_um": 0.1},
            "live": {"mode": "every", "queue_frames": 400},
            "detection": {"model": str(model), "engine": "cpu"},
            "control": {
                "follow": True, "armed": True, "mode": "oscillate",
                "swing_um": 1.1, "swing_s": SWING_S,
                "limits": {"y_um": [-5, 5], "x_um": [-5, 5]},
            },
            "modulation": {"period_s": SWING_S},
            "streams": {"enabled": False},
            "recording": {"folder": str(tmp_path / "run")},
        }
    )  # fmt: skip
    scene = SwingingScene()
    restore = substitute_pixels(microscope, scene.render)
    try:
        tracker = run_session(
            settings,
            microscope,
            calibration=Calibration(MAP, residual_px=0.0, measured=datetime.now(UTC)),
            stop=threading.Event(),
        )
    finally:
        restore()
    with Recording(tracker.run_folder) as kept:
        frames = kept.frames()
        rows = kept.tracks(measured_only=True)
    x_um = frames["stage_x_um"]
    assert np.ptp(x_um) == pytest.approx(1.1, abs=0.1)
    ends = [np.mean(np.abs(x_um - end) < 0.1) for end in (-0.55, 0.55)]
    assert min(ends) > 0.3
    # frames come in the order in which they were drawn
    n_skipped = len(scene.truth_px) - len(frames)
    assert 0 <= n_skipped <= 2  # drawn before the run to learn the shape
    after_s = frames["t_exposure_s"][0] + 1.5 * SWING_S
    detector = Detector(model, engine="cpu")
    errors, plain, error_um = [], [], []
    for frame in frames[frames["t_exposure_s"] > after_s]:
        index = int(frame["frame"])
        mine = rows[rows["frame"] == index]
        found = np.column_stack([mine["y_px"], mine["x_px"]])
        truth = scene.truth_px[index + n_skipped]
        errors.append(match(found, truth))
        seen = detector(scene.plain[index + n_skipped].astype(np.float32))
        plain.append(match(seen.positions_px, truth))
        at_um = np.column_stack([mine["y_um"], mine["x_um"]])
        error_um.append(match(at_um, scene.truth_um[index + n_skipped], gate=0.3))
    assert len(errors) > 60
    recall, rms = recall_and_rms(errors)
    _, plain_rms = recall_and_rms(plain)
    assert recall >= 0.98
    assert rms <= 1.2 * plain_rms
    in_sample = recall_and_rms(error_um)
    assert in_sample[0] >= 0.98
    assert in_sample[1] <= 1.2 * plain_rms * 0.1

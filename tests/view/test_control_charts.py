"""The panels on control: the numbers they draw, from a run with known ones."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.data import Event, RunInfo, blank_rows
from lodestar_live.view import RUN_TRACK_DTYPE, RunArrays, write_control
from lodestar_live.view.figures import control_charts

UM_PER_PX, SNAPSHOT = 0.5, np.zeros((101, 101))
FRAME_DTYPE = np.dtype(
    [
        ("frame", "i8"),
        ("t_exposure_s", "f8"),
        ("stage_y_um", "f8"),
        ("stage_x_um", "f8"),
    ]
)


def made_run(n: int = 20) -> RunArrays:
    """Track 1 is the target until 0.1 s, then track 2; the stage drifts along x."""
    tracks = blank_rows(RUN_TRACK_DTYPE, 2 * n)
    frames = blank_rows(FRAME_DTYPE, n)
    frames["frame"], frames["t_exposure_s"] = np.arange(n), np.arange(n) * 0.01
    frames["stage_y_um"], frames["stage_x_um"] = 0.0, np.arange(n) * 1.0
    for k, track_id in enumerate((1, 2)):
        rows = tracks[k * n : (k + 1) * n]
        rows["frame"], rows["t_exposure_s"] = np.arange(n), np.arange(n) * 0.01
        rows["track_id"], rows["missed_frames"] = track_id, 0
        rows["y_px"], rows["x_px"] = 50.0 + 4 * track_id, 50.0
    told = {"y_um": 0.0, "x_um": 3.0, "predicted_y_um": 0.1, "predicted_x_um": 2.9}
    events = [
        Event("control.target", 0.0, details={"track_id": 1}),
        Event("stage.move", 0.03, details=told),
        Event("control.target", 0.1, details={"track_id": 2, "was": 1}),
        Event("stage.held", 0.15, details={"reason": "doubt"}),
    ]
    calibration = {"matrix_um_per_px": [[UM_PER_PX, 0.0], [0.0, UM_PER_PX]]}
    return RunArrays(
        tracks, frames, events, RunInfo("r", "now", calibration=calibration)
    )


def test_the_error_is_that_of_whoever_was_the_target() -> None:
    t_s, offset_um, stage_um = control_charts.followed_um(made_run(), SNAPSHOT)
    assert len(t_s) == 20
    assert offset_um[:, 1] == pytest.approx(0.0)
    assert offset_um[:10, 0] == pytest.approx(4 * UM_PER_PX)
    assert offset_um[10:, 0] == pytest.approx(8 * UM_PER_PX)
    assert stage_um[:, 1] == pytest.approx(np.arange(20))


def test_the_control_picture_is_drawn_with_and_without_control(tmp_path) -> None:
    run = made_run()
    assert control_charts.was_controlled(run)
    path = write_control(run, tmp_path / "control.png", snapshot=SNAPSHOT)
    assert path.stat().st_size > 20_000
    nobody = RunArrays(run.tracks(), run.frames(), (), run.info)
    assert not control_charts.was_controlled(nobody)
    assert write_control(nobody, tmp_path / "nothing.png").is_file()

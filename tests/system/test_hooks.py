"""The scripts in hooks/ run as they are, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lodestar_live.calibration import measure_calibration
from lodestar_live.microscope import CoreStage, open_demo
from lodestar_live.recording import Recording
from lodestar_live.resources import folder

pytestmark = pytest.mark.system
SCRIPTS = sorted(folder("hooks").glob("*.py"))


def run(script: str, out, *arguments: str) -> str:
    command = [sys.executable, str(folder("hooks") / script), "--demo"]
    command += ["--out", str(out), *arguments]
    root = str(folder("hooks").parent)
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=out,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"}, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def recording(out) -> Recording:
    return Recording(next(p for p in out.iterdir() if p.is_dir()))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_hook_fits_on_a_page(script) -> None:
    assert len(script.read_text().splitlines()) <= 60


def test_track_live_prints_tracks_and_loses_no_frame(tmp_path, bead_model) -> None:
    printed = run(
        "track_live.py", tmp_path, "--model", str(bead_model), "--frames", "30"
    )
    assert "particles" in printed
    assert "received=30" in printed
    assert "failed=0" in printed


def test_log_traces_records_every_frame(tmp_path, bead_model) -> None:
    printed = run(
        "log_traces.py", tmp_path, "--model", str(bead_model), "--frames", "20"
    )
    frames = recording(tmp_path).frames()
    assert list(frames["frame"]) == list(range(20))
    assert "tracks" in printed
    # 100 beads lie in the frame; the frame's tracks are the beads, not noise
    assert 80 <= frames["n_detections"][-1] <= 110


@pytest.fixture(scope="module")
def calibration(tmp_path_factory) -> Path:
    """Measure the demo stage once, for every hook that moves it."""
    path = tmp_path_factory.mktemp("stage") / "calibration.toml"
    with open_demo() as microscope:
        measure_calibration(
            CoreStage(microscope), microscope.snap, objective=microscope.objective
        ).save(path)
    return path


@pytest.mark.parametrize("move_by", ["stage", "events"])
def test_follow_with_stage_centres_the_nearest_bead(
    tmp_path, bead_model, calibration, move_by
) -> None:
    run(
        "follow_with_stage.py", tmp_path, "--model", str(bead_model), "--armed",
        "--calibration", str(calibration), "--frames", "60", "--move-by", move_by,
    )  # fmt: skip
    run_file = recording(tmp_path)
    assert next(tmp_path.glob("*/control.png")).stat().st_size > 20_000
    tracks = run_file.tracks()
    target = next(e for e in run_file.events() if e.kind == "control.target")
    followed = tracks[tracks["track_id"] == target.details["track_id"]]
    last = followed[followed["frame"] >= 40]
    assert len(last)
    assert abs(last["y_px"] - 255.5).max() < 1.5  # 0.4 um deadband, 1 um per px
    assert abs(last["x_px"] - 255.5).max() < 1.5


def test_unarmed_follow_moves_nothing(tmp_path, bead_model) -> None:
    printed = run(
        "follow_with_stage.py", tmp_path, "--model", str(bead_model), "--frames", "20"
    )
    assert "0 moves" in printed
    kinds = {event.kind for event in recording(tmp_path).events()}
    assert "stage.dry_run" in kinds

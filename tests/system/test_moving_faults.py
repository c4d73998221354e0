"""Faults of what moves on the real MMCore: rules, planned positions, signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from lodestar_live import Detections, LiveTracker
from lodestar_live.control import Calibration
from lodestar_live.geometry import PixelToStage
from lodestar_live.microscope import CoreStage
from lodestar_live.recording import Recording
from lodestar_live.settings import parse_settings

pytestmark = pytest.mark.system
ALIGNED = Calibration(PixelToStage(np.eye(2)), 0.01, datetime.now(UTC))


def tracker_of(microscope, folder, **control) -> LiveTracker:
    limits = {"y_um": [-300, 300], "x_um": [-300, 300]}
    settings = parse_settings(
        {
            "control": {"armed": True, "follow": True, "limits": limits} | control,
            "streams": {"enabled": False},
            "recording": {"folder": str(folder)},
        }
    )
    return LiveTracker(
        settings,
        microscope=microscope,
        calibration=ALIGNED,
        detect=lambda pixels: Detections.from_positions([[60.0, 60.0]], sigma_px=0.1),
    )


def feed(tracker: LiveTracker, metadata=None, *, n_frames: int = 20) -> None:
    for _ in range(n_frames):
        tracker(np.zeros((128, 128), np.uint16), metadata or {})
        time.sleep(0.02)


def test_a_rule_cannot_go_round_the_limits_of_the_focus(microscope, tmp_path) -> None:
    tracker = tracker_of(
        microscope,
        tmp_path,
        follow=False,
        rules=[
            "when n_tracks > 0: set Z Position 200",
            "when n_tracks > 0: set Core Focus Z",
        ],
        properties={"Z Position": [0, 5000], "Core Focus": ["Z"]},
    )
    with tracker:
        feed(tracker)
        time.sleep(0.3)
    assert microscope.core.get_position() == 0.0
    events = Recording(tracker.run_folder).events()
    refused = [e.details["reason"] for e in events if e.kind == "property.refused"]
    assert len(refused) == 2 and all("drives the stage" in why for why in refused)


def test_planned_positions_stop_again_after_each_arm(microscope, tmp_path) -> None:
    planned = {"XPosition_um_Intended": 0.0, "YPosition_um_Intended": 0.0}
    tracker = tracker_of(microscope, tmp_path)
    with tracker:
        feed(tracker, planned)
        controller = tracker.controller
        assert "carry stage positions" in controller.gate.halted
        controller.follow("nearest")
        feed(tracker, planned)
        assert "carry stage positions" in controller.gate.halted
        controller.arm()
        feed(tracker, planned)
        assert "carry stage positions" in controller.gate.halted
    kinds = [event.kind for event in Recording(tracker.run_folder).events()]
    assert "stage.move" not in kinds


def test_ours_are_named_drives_and_what_decides_the_image_is_told(microscope) -> None:
    stage, core = CoreStage(microscope), microscope.core
    assert stage.is_drive("Z") and stage.is_drive("XY") and stage.is_drive("Core")
    assert not stage.is_drive("Camera")
    before = stage.optics()
    assert before["camera"] == "Camera" and before["Binning"] == "1"
    core.set_property("Camera", "TransposeXY", "1")
    try:
        assert stage.optics() == before | {"TransposeXY": "1"}
    finally:
        core.set_property("Camera", "TransposeXY", "0")
    core.set_focus_device("")
    try:
        stage.move_z_to_um(3.0)
        assert stage.position_um().z_um == pytest.approx(3.0)
    finally:
        core.set_focus_device("Z")
        core.set_position(0.0)


@pytest.mark.parametrize("order", ["first opened", "last opened"])
def test_two_trackers_leave_the_process_as_it_was(microscope, tmp_path, order) -> None:
    def process() -> list[object]:
        blas = [(i["filepath"], i["num_threads"]) for i in threadpool_info()]
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        return [sys.getswitchinterval(), sorted(blas), handlers]

    before = process()
    one = tracker_of(microscope, tmp_path / "1")
    two = tracker_of(microscope, tmp_path / "2")
    one.start()
    two.start()
    assert process() != before
    for tracker in (one, two) if order == "first opened" else (two, one):
        tracker.close()
    assert process() == before


SCRIPT = """
import sys, time
import numpy as np
from lodestar_live.microscope import CoreStage, open_demo
from tests.system.test_moving_faults import tracker_of

stop = CoreStage.stop
CoreStage.stop = lambda self: (print("STOPPED", flush=True), stop(self))
with open_demo(128, 10.0) as microscope, tracker_of(microscope, sys.argv[1]) as tracker:
    for k in range(3000):
        tracker(np.zeros((128, 128), np.uint16), {})
        time.sleep(0.02)
        if k == 20:
            print("READY", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_f10_a_signal_that_ends_a_script_stops_its_stage_first(
    number, tmp_path
) -> None:
    """It died within 0.03 s before, with no stop and without an end of the run."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=root,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"},
    )
    watchdog = threading.Timer(120, child.kill)
    watchdog.start()
    assert child.stdout is not None
    lines: list[str] = []
    for line in child.stdout:
        lines.append(line.strip())
        if lines[-1] == "READY":
            child.send_signal(number)
            break
    after = child.stdout.read().split()
    child.stdout.close()
    watchdog.cancel()
    assert child.wait(30) == -number  # it ends as it would have
    assert "STOPPED" in after
    (run,) = (tmp_path / "runs").iterdir()
    with Recording(run) as recording:
        kinds = [event.kind for event in recording.events()]
        assert "stage.stopped" in kinds
        assert recording.end.status == "completed"

"""Faults of what moves: stage, focus drive, and a microscope changed under us.

The real controller and supervisor, on the simulated stage in virtual time unless a case
says "real core".
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np

from lodestar_live import Detections, LiveTracker
from lodestar_live.control.sharpness import FocusCurve, sharpness
from lodestar_live.data import RunInfo
from lodestar_live.microscope import open_demo
from lodestar_live.settings import parse_settings
from tests.bench._fault import Case, Seen
from tests.control.rig import FAST, Rig, circle
from tests.simulation.stage import SimulatedStage, StagePhysics, VirtualClock

ANY_PORT = "tcp://127.0.0.1:0"


class FaultyStage(SimulatedStage):
    """A stage whose fault is switched on; notes every step of the motor."""

    fault = ""

    def __init__(self, physics: StagePhysics = FAST) -> None:
        super().__init__(VirtualClock(), physics)
        self.steps_um: list[float] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def is_busy(self) -> bool:
        """Say so for ever, if that is the fault."""
        return self.fault == "busy" or super().is_busy()

    def move_to_um(self, y_um: float, x_um: float) -> None:
        """Move, hang, or do nothing."""
        self.may_answer.wait(10.0)
        here = self.position_um()
        self.steps_um.append(float(np.hypot(y_um - here[1], x_um - here[2])))
        if self.fault == "stuck":
            self.n_moves += 1
        else:
            super().move_to_um(y_um, x_um)

    def stop(self) -> None:
        """Stop, or hang."""
        self.may_answer.wait(10.0)
        super().stop()


def _goes_nowhere(fault: str) -> Callable[[int], Seen]:
    def make(seed: int) -> Seen:
        stage = FaultyStage()
        rig = Rig(stage=stage)
        for _ in range(50):
            rig.frame({1: (0, 0)})
        stage.fault, began_s, n_moves = fault, rig.clock.now_s, stage.n_moves
        for k in range(1500):
            rig.frame({1: circle(k)})
        halts = rig.kinds("stage.stopped")
        after_s = halts[0].t_s - began_s if halts else float("inf")
        n = stage.n_moves - n_moves
        return Seen(f"halted after {after_s:.1f} s, {n} moves", after_s < 5)

    return make


def _play(seed: int) -> Seen:
    stage = FaultyStage(StagePhysics(0, 0, 1e9, 0, 0, backlash_um=5.0))
    rig = Rig(stage=stage, backlash_um=5.0, max_step_um=2.0)
    for k in range(400):
        rig.frame({1: circle(k)})
    longest_um = max(stage.steps_um)
    return Seen(f"longest {longest_um:.2f} um", longest_um <= 2.0 + 1e-9)


def _stop_time(seed: int) -> Seen:
    """Median and slowest of 20 stops while a move hangs, and stop itself too."""
    stage, times_s = FaultyStage(), []
    rig = Rig(stage=stage)
    for _ in range(50):
        rig.frame({1: (0, 0)})
    rig.controller.open(RunInfo("r", "now"))
    stage.may_answer.clear()
    threading.Thread(target=rig.frame, args=({1: (5, 5)},), daemon=True).start()
    time.sleep(0.1)
    for _ in range(20):
        began_s = time.perf_counter()
        rig.controller.follow(1)
        rig.controller.stop("hand")
        times_s.append(time.perf_counter() - began_s)
    began_s = time.perf_counter()
    rig.controller.close()
    close_s = time.perf_counter() - began_s
    stage.may_answer.set()
    middle_ms, worst_ms = 1e3 * np.median(times_s), 1e3 * max(times_s)
    text = f"stop p50 {middle_ms:.1f}, worst {worst_ms:.1f} ms; close {close_s:.2f} s"
    return Seen(text, bool(middle_ms <= 50 and close_s <= 5))


def _latch(seed: int) -> Seen:
    rig = Rig()
    for _ in range(50):
        rig.frame({1: (0, 0)})
    rig.controller.stop("Ctrl-C")
    n_moves = rig.stage.n_moves
    for k in range(100):
        rig.controller.follow("nearest")
        rig.frame({1: circle(k)})
    n_after = rig.stage.n_moves - n_moves
    rig.controller.arm()
    for k in range(100):
        rig.frame({1: circle(k)})
    n_armed = rig.stage.n_moves - n_moves
    text = f"{n_after} moves after 100 follows, {n_armed} after arm"
    return Seen(text, n_after == 0 and n_armed > 0)


def _reversed_focus(seed: int) -> Seen:
    rng, rig, far_um = np.random.default_rng(seed), Rig(focus="z"), 0.0
    for _ in range(350):
        rig.frame({1: (0, 0)}, z_um=1.0 - rig.z_um + rng.normal(0, 0.1))
        far_um = max(far_um, abs(rig.z_um))
    return Seen(f"held after {far_um:.1f} um", rig.halted is not None and far_um < 3)


def _bead_image(z_um: float, rng: np.random.Generator, peak: float) -> np.ndarray:
    y, x = np.mgrid[:128, :128]
    width = 2.0 * np.sqrt(1 + (z_um / 3.0) ** 2)
    image = rng.normal(100, 2.0, (128, 128))
    for by, bx in ((30, 40), (80, 90), (100, 30), (50, 100), (64, 64)):
        spot = np.exp(-((y - by) ** 2 + (x - bx) ** 2) / (2 * width**2))
        image += peak * (4 / width**2) * spot
    return image


def _sharpness(bump_um: float, peak: float) -> Callable[[int], Seen]:
    def make(seed: int) -> Seen:
        rng, heights = np.random.default_rng(seed), np.linspace(-5, 5, 21)
        scan = [sharpness(_bead_image(z, rng, 200.0)) for z in heights]
        curve = FocusCurve.fit(heights, np.array(scan))
        rig = Rig(focus="sharpness", curve=curve)
        rig.stage.push(np.array([bump_um, 0.0, 0.0]))
        for _ in range(200):
            image = _bead_image(rig.z_um, rng, peak)
            rig.frame({}, pixels=image, shape=(128, 128))
        state = rig.halted or f"focus {rig.controller.status()['focus']}"
        moved_um = abs(rig.z_um - bump_um)
        text = f"{state[:40]}; moved {moved_um:.1f} um"
        is_told = "focus lost" in state or "no signal" in state
        return Seen(text, is_told and moved_um <= 2)

    return make


def _changed(**change: object) -> Callable[[int], Seen]:
    def make(seed: int) -> Seen:
        rig, usual = Rig(), {"pixel_size_um": 1.0}
        for k in range(100):
            rig.frame({1: circle(k)}, **usual)
        n_moves = rig.stage.n_moves
        for k in range(100, 300):
            rig.frame({1: circle(k)}, **(usual | change))
        n_after = rig.stage.n_moves - n_moves
        told = rig.halted is not None
        return Seen(f"{n_after} moves after it, told: {told}", told and n_after == 0)

    return make


def _someone_else(seed: int) -> Seen:
    rig = Rig(follow=False)
    for k in range(20):
        if k == 10:
            rig.stage.push(np.array([0.0, 5.0, 0.0]))
        rig.frame({})
    n_told = len(rig.kinds("stage.moved_by_other"))
    return Seen(f"{n_told} event", n_told == 1)


def _rule_on_a_drive(seed: int) -> Seen:
    settings = parse_settings(
        {
            "control": {
                "armed": True,
                "limits": {"y_um": [-300, 300], "x_um": [-300, 300]},
                "rules": ["when n_tracks > 0: set Z Position 200"],
                "properties": {"Z Position": [0, 5000]},
            },
            "streams": {"enabled": False},
        }
    )
    with tempfile.TemporaryDirectory() as folder, open_demo(128, 10.0) as microscope:
        recording = settings.recording.model_copy(update={"folder": folder})
        tracker = LiveTracker(
            settings.model_copy(update={"recording": recording}),
            microscope=microscope,
            calibration=Rig().calibration,
            detect=lambda pixels: Detections.from_positions([[60.0, 60.0]]),
        )
        with tracker:
            for _ in range(20):
                tracker(np.zeros((128, 128), np.uint16), {})
                time.sleep(0.02)
            time.sleep(0.3)
        z_um = float(microscope.core.get_position())
    return Seen(f"focus drive at {z_um:g} um", z_um == 0)


CASES = (
    Case("F22 stage stuck", "halt with event", _goes_nowhere("stuck"), True),
    Case("F22 stage busy for ever", "halt with event", _goes_nowhere("busy"), True),
    Case("5 um of play, step limit 2 um", "motor steps <= 2 um", _play),
    Case("driver hangs 10 s, stop too", "stop <= 50 ms, close <= 5 s", _stop_time),
    Case("follow after a stop", "no move until arm", _latch),
    Case("F23 focus drive reversed", "held within 3 um", _reversed_focus),
    Case("lock bumped by 6 um", "says so, rests", _sharpness(6.0, 200.0)),
    Case("lock bumped by 15 um", "says so, rests", _sharpness(15.0, 200.0)),
    Case("lamp off", "no focus signal, rests", _sharpness(0.0, 0.0)),
    Case("F15 binning, ROI", "halt before a move", _changed(shape=(50, 50))),
    Case("ROI moved", "halt before a move", _changed(origin_px=(20, 0))),
    Case("objective 10x to 40x", "halt before a move", _changed(pixel_size_um=0.25)),
    Case("another program moves", "event", _someone_else),
    Case("rule on Z (real core)", "drive stays", _rule_on_a_drive, True),
)

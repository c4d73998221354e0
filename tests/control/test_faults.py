"""What can go wrong around a stage, one test per row of the fault table."""

from __future__ import annotations

import threading
import tracemalloc
from datetime import UTC, datetime

import numpy as np
import pytest

from lodestar_live.control import Calibration, Controller, StageResponse
from lodestar_live.control.focus import FocusCurve, sharpness
from lodestar_live.data import (
    TRACK_DTYPE,
    Detections,
    Frame,
    RunInfo,
    Tracks,
    Update,
    blank_rows,
)
from lodestar_live.errors import CalibrationError, SettingsError
from lodestar_live.geometry import PixelToStage
from lodestar_live.settings import ControlSettings, TravelLimits
from tests.simulation.stage import (
    Camera,
    ClosedLoop,
    SimulatedStage,
    StagePhysics,
    VirtualClock,
    brownian,
)

SHAPE = (100, 100)
LIMITS = TravelLimits(y_um=(-200, 200), x_um=(-200, 200), z_um=(-10, 10))
FAST = StagePhysics(tau_s=0.0, quantum_um=0.0, busy_s=0.0, speed_um_per_s=1e9)


class Rig:
    """A controller on a simulated stage; frames are given by hand, 20 ms apart."""

    def __init__(self, *, curve=None, **settings) -> None:
        self.clock, self.events = VirtualClock(), []
        self.stage = SimulatedStage(self.clock, FAST)
        calibration = Calibration(
            PixelToStage(np.eye(2)),
            residual_px=0.01,
            measured=datetime.now(UTC),
            response=StageResponse(),
            z_sign=1,
            focus=curve,
        )
        defaults = {"follow": True, "armed": True, "limits": LIMITS, "deadband_um": 0.2}
        self.controller = Controller(
            ControlSettings(**(defaults | settings)),
            self.stage,
            clock=self.clock,
            tell=self.events.append,
            calibration=calibration,
        )
        self.index = 0

    def frame(
        self, targets, *, age=1000, delay_s=0.005, pixels=None, z_um=0.0, speeds=None
    ):
        """Show tracks {id: (y_um, x_um) in the sample}; then the controller acts."""
        self.clock.now_s = 0.02 * (self.index + 1)
        t_exposure_s, place = self.clock.now_s, self.stage.true_position_um()[1:]
        rows = blank_rows(TRACK_DTYPE, len(targets))
        for row, (track_id, sample_um) in zip(rows, targets.items(), strict=True):
            offset = np.array(sample_um, dtype=float) - place
            row["y_px"], row["x_px"] = offset + (np.array(SHAPE) - 1) / 2
            row["track_id"], row["sigma_px"] = track_id, 0.05
            row["age_frames"], row["intensity"] = age, float(track_id)
            row["z_um"] = z_um
            row["vx_px_per_frame"] = (speeds or {}).get(track_id, 0.0)
            row["vy_px_per_frame"] = 0.0
        image = np.zeros(SHAPE) if pixels is None else pixels
        frame = Frame(self.index, image, t_exposure_s, t_exposure_s)
        self.clock.now_s += delay_s
        self.controller.process(Update(frame, Detections.empty(), Tracks(rows)))
        self.controller.idle()
        self.index += 1

    @property
    def place(self):
        return self.stage.position_um()[1:]

    def kinds(self, kind):
        return [event for event in self.events if event.kind == kind]


def test_f22_a_failing_stage_is_left_alone_after_three_errors() -> None:
    rig = Rig()

    def broken(y_um: float, x_um: float) -> None:
        raise OSError("no answer")

    rig.stage.move_to_um = broken
    for _ in range(20):
        rig.frame({1: (5, 5)})
    assert len(rig.kinds("stage.failed")) == 3
    assert "failed 3 times" in rig.controller.gate.halted


def test_f22_at_the_edge_of_the_box_the_stage_rests_instead_of_insisting() -> None:
    rig = Rig(limits=TravelLimits(y_um=(-3, 3), x_um=(-3, 3)))
    for _ in range(40):
        rig.frame({1: (6, 0)})
    assert rig.stage.n_moves == 0
    assert len(rig.kinds("stage.refused")) == 3  # then a pause of one second
    assert (
        "outside the travel limits" in rig.kinds("stage.refused")[0].details["reason"]
    )


def test_f23_a_reversed_calibration_is_held_while_the_target_is_in_view() -> None:
    path = brownian(60, 0.02, np.random.default_rng(1), diffusion_um2_per_s=1.0) + 15.0

    def reversed_controller(stage, clock, tell):
        return Controller(
            ControlSettings(follow=True, armed=True, limits=LIMITS),
            stage,
            clock=clock,
            tell=tell,
            calibration=Calibration(
                PixelToStage(-0.2 * np.eye(2)), 0.01, datetime.now(UTC)
            ),
        )

    loop = ClosedLoop(path, reversed_controller, Camera(delay_frames=2))
    assert loop.run().lost_at is None
    assert any("sign/calibration?" in str(e.details) for e in loop.events)


def test_f24_a_lost_target_is_not_replaced_by_another() -> None:
    rig = Rig()
    for _ in range(20):
        rig.frame({1: (0, 0), 2: (10, 0)})
    for _ in range(30):
        rig.frame({2: (10, 0)})
    assert rig.controller.target_id == 1
    assert rig.controller.status()["state"] == "searching"
    assert np.linalg.norm(rig.place) < 1.0
    assert rig.kinds("control.lost")[0].details["track_id"] == 1


def test_f24_a_new_track_at_the_predicted_place_is_taken_after_three_frames() -> None:
    rig = Rig()
    for _ in range(20):
        rig.frame({1: (0, 0)})
    for _ in range(8):
        rig.frame({})
    for n in range(1, 4):
        assert rig.controller.target_id == 1
        rig.frame({7: (0.05, 0)}, age=n)
    assert rig.controller.target_id == 7
    assert rig.kinds("control.target")[-1].details["was"] == 1


def test_f24_ids_that_swap_when_two_targets_cross_are_swapped_back() -> None:
    rig = Rig()
    for k in range(60):
        x_um = (k - 30) * 0.5
        mine, other = (0.05, x_um), (-0.05, -x_um)
        swapped = k > 30
        rig.frame({1: other, 2: mine} if swapped else {1: mine, 2: other})
        if k == 0:
            rig.controller.follow(1)
    assert rig.controller.target_id == 2
    assert abs(rig.place[1] - 14.5) < 2.0
    crossing = rig.kinds("control.target")[-1].details
    assert crossing == {"track_id": 2, "was": 1, "why": "crossing"}


@pytest.mark.parametrize(("lost", "state"), [("hold", "waiting"), ("stop", "ended")])
def test_f24_what_follows_a_loss_is_a_setting(lost, state) -> None:
    rig = Rig(lost=lost)
    for _ in range(10):
        rig.frame({1: (0, 0)})
    for _ in range(10):
        rig.frame({})
    assert rig.controller.status()["state"] == state


def test_f25_silence_of_the_camera_is_noticed_and_nothing_is_sent() -> None:
    rig = Rig()
    for _ in range(10):
        rig.frame({1: (5, 5)})
    n_moves = rig.stage.n_moves
    for _ in range(20):
        rig.clock.now_s += 0.01
        rig.controller.idle()
    assert len(rig.kinds("control.no_frames")) == 1
    assert rig.controller.status()["no_frames"]
    assert rig.stage.n_moves == n_moves and rig.stage.n_stops == 1
    rig.index += 20
    rig.frame({1: (5, 5)})
    assert rig.controller.gate.halted is None  # frames are back, so is control


def test_f26_a_hundred_runs_leave_no_thread_behind() -> None:
    rig = Rig()
    for _ in range(100):
        rig.controller.open(RunInfo("r", "now"))
        rig.controller.close()
    names = [thread.name for thread in threading.enumerate()]
    assert "lodestar-control" not in names


def test_f27_a_long_run_needs_no_more_memory_than_a_short_one() -> None:
    """Frames hold 80 kB each; the move log may still fill, with 1 kB per frame."""
    rig = Rig()
    rng = np.random.default_rng(0)
    for k in range(1500):
        if k == 500:
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
        near = {k // 3 + 10: rng.normal(0, 0.2, 2)}
        rig.frame({1: rng.normal(0, 0.2, 2)} | near, pixels=np.zeros(SHAPE))
        rig.events.clear()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    log = rig.controller.moves
    assert after - before < 1000 * 1000
    assert len(log._entries) <= 4096


def test_f28_a_stale_result_never_reaches_the_stage() -> None:
    rig = Rig(max_age_s=0.1)
    for _ in range(5):
        rig.frame({1: (0, 0)})
    rig.frame({1: (8, 8)}, delay_s=0.3)
    rig.index += 20
    for _ in range(3):
        rig.frame({1: (8, 8)}, delay_s=0.3)
        rig.index += 20
    assert rig.stage.n_moves == 0
    assert "s old" in rig.kinds("stage.refused")[0].details["reason"]


def test_f29_while_the_stage_is_busy_nothing_queues_up() -> None:
    rig = Rig()
    rig.stage.is_busy = lambda: True
    for k in range(20):
        rig.frame({1: (0, k * 0.5)})
    assert rig.stage.n_moves == 0 and not rig.kinds("stage.refused")
    rig.stage.is_busy = lambda: False
    for k in range(20, 23):
        rig.frame({1: (0, k * 0.5)})
    assert abs(rig.place[1] - 11.0) < 1.5  # the newest place, not the first


def test_an_unexpected_error_stops_the_stage_and_not_the_run() -> None:
    rig = Rig()
    failed = threading.Event()

    def tell(event) -> None:
        if event.kind == "stage.stopped":
            failed.set()

    rig.controller.gate._tell = tell
    rig.controller.open(RunInfo("r", "now"))
    rig.controller.write(None)  # whatever is wrong inside, it must not spread
    rig.controller.write("not an update")
    assert failed.wait(5.0)
    rig.controller.close()


def test_commands_come_as_verbs() -> None:
    rig = Rig(follow=False)
    for _ in range(3):
        rig.frame({1: (0, 0), 2: (0, 9)})
    verbs = rig.controller.verbs()
    assert verbs["status"]({})["state"] == "idle"
    verbs["follow"]({"y_px": 49.5, "x_px": 58.0})
    rig.frame({1: (0, 0), 2: (0, 9)})
    assert rig.controller.target_id == 2
    verbs["follow"]({"target": "brightest"})
    rig.frame({1: (0, 0), 2: (0, 9)})
    assert rig.controller.target_id == 2
    verbs["set"]({"values": {"deadband_um": 0.5}})
    assert rig.controller.settings.deadband_um == 0.5
    verbs["stop"]({})
    assert verbs["status"]({})["halted"] == "stop: asked"
    verbs["release"]({})
    assert verbs["status"]({})["track_id"] is None


@pytest.mark.parametrize(
    ("target", "expected"), [("nearest", 1), ("brightest", 3), ("fastest", 2)]
)
def test_the_target_is_chosen_as_the_settings_say(target, expected) -> None:
    """Track 1 rests near the centre, 2 moves, 3 is the brightest (its intensity: 3)."""
    rig = Rig(target=target, armed=False)
    rig.frame({1: (1, 0), 2: (9, 0), 3: (-9, 0)}, speeds={2: 5.0})
    rig.frame({1: (1, 0), 2: (9, 5), 3: (-9, 0)}, speeds={2: 5.0})
    assert rig.controller.target_id == expected


@pytest.mark.parametrize("name", ["armed", "limits", "max_step_um", "rubbish"])
def test_what_keeps_the_stage_safe_cannot_be_set_by_command(name) -> None:
    with pytest.raises(SettingsError, match="cannot be changed"):
        Rig().controller.verbs()["set"]({"values": {name: True}})


def test_recenter_brings_a_place_to_the_centre_and_rests() -> None:
    rig = Rig(follow=False)
    for _ in range(3):
        rig.frame({})
    rig.controller.verbs()["recenter"]({"y_px": 49.5 + 4, "x_px": 49.5 - 3})
    for _ in range(10):
        rig.frame({})
    assert rig.place == pytest.approx((4, -3), abs=0.5)
    assert rig.controller.status()["state"] == "idle"


def test_the_middle_of_a_group_is_kept_in_view() -> None:
    rig = Rig(mode="centroid")
    rig.controller.follow_many([1, 2])
    for k in range(30):
        rig.frame({1: (4, k * 0.1), 2: (8, k * 0.1), 3: (-9, 0)})
    assert rig.place == pytest.approx((6, 2.9), abs=0.6)


def test_the_members_of_a_group_are_visited_in_turn() -> None:
    rig = Rig(mode="visit", dwell_s=0.3)
    rig.controller.follow_many([1, 2])
    visited = []
    for _ in range(40):
        rig.frame({1: (4, 0), 2: (-4, 0)})
        visited.append(round(rig.place[0]))
    assert 4 in visited and visited.index(-4) > visited.index(4)


def test_events_carry_the_position_instead_of_the_stage() -> None:
    rig = Rig(move_by="events")
    for _ in range(5):
        rig.frame({1: (3, -2)})
    hook = rig.controller.place_event
    event = hook({"axes": {"time": 0}, "x": 99.0, "y": 99.0})
    assert (event["y"], event["x"]) == pytest.approx((3, -2), abs=0.3)
    assert rig.controller.stage_at(rig.clock() + 0.001)[1:] == (event["y"], event["x"])
    assert hook([{"axes": {"time": 1}}]) == [{"axes": {"time": 1}}]
    assert rig.stage.n_moves == 0


@pytest.mark.parametrize("halt", ["stop", "hold", "wait"])
def test_no_event_is_placed_after_a_halt_or_by_an_old_goal(halt) -> None:
    rig = Rig(move_by="events")
    for _ in range(5):
        rig.frame({1: (3, -2)})
    if halt == "stop":
        rig.controller.stop("hand")
    elif halt == "hold":
        rig.controller.gate.hold("doubt")
    rig.clock.now_s += 1.0 if halt == "wait" else 0.0
    assert rig.controller.place_event({}) == {}


def test_moves_by_events_without_the_hook_are_called_a_mistake() -> None:
    rig = Rig(move_by="events")
    for _ in range(40):
        rig.frame({1: (3, -2)})
    assert "event_hook" in rig.controller.gate.halted


def test_measured_z_is_followed_inside_its_limits() -> None:
    rig = Rig(focus="z")
    for _ in range(60):
        height_um = rig.stage.position_um().z_um
        rig.frame({1: (0, 0)}, z_um=3.0 + height_um)  # z_sign +1: focus at -3 µm
    assert rig.stage.position_um().z_um == pytest.approx(-3.0, abs=0.3)


@pytest.mark.parametrize("kick_um", [5.0, -5.0])
def test_the_focus_lock_finds_the_side_by_trying(kick_um) -> None:
    heights = np.linspace(-8, 8, 17)
    measures = np.array([sharpness(blurred(z)) for z in heights])
    rig = Rig(focus="sharpness", curve=FocusCurve.fit(heights, measures))
    rig.stage.push(np.array([kick_um, 0.0, 0.0]))
    for _ in range(120):
        rig.frame({}, pixels=blurred(rig.stage.position_um().z_um))
    assert abs(rig.stage.position_um().z_um) <= 0.6


def blurred(z_um: float):
    y, x = np.mgrid[:100, :100] - 50.0
    width = np.hypot(2.0, 0.5 * z_um)
    return 1000 * np.exp(-(y**2 + x**2) / (2 * width**2))


def test_a_focus_lock_without_its_measurement_is_refused() -> None:
    with pytest.raises(CalibrationError, match="no focus response"):
        Controller(
            ControlSettings(focus="sharpness"),
            SimulatedStage(VirtualClock()),
            clock=VirtualClock(),
            tell=print,
        )

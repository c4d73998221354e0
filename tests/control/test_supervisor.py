"""The supervisor: stages that lie still, stay busy, hang, or are moved by others."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodestar_live.control.supervisor import RefusedError, Supervisor
from lodestar_live.data import RunInfo
from lodestar_live.errors import StageError
from lodestar_live.settings import ControlSettings, TravelLimits
from tests.control.rig import FAST, LIMITS, Rig, circle
from tests.simulation.stage import SimulatedStage, StagePhysics, VirtualClock

ARMED = ControlSettings(armed=True, limits=LIMITS, max_step_um=20)


class Faulty(SimulatedStage):
    """A stage with a fault that can be switched on."""

    fault = ""

    def __init__(self, physics: StagePhysics = FAST) -> None:
        super().__init__(VirtualClock(), physics)
        self.motor_steps_um: list[float] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def is_busy(self) -> bool:
        return self.fault == "busy" or super().is_busy()

    def move_to_um(self, y_um: float, x_um: float) -> None:
        self.may_answer.wait(20.0)
        here = self.position_um()
        self.motor_steps_um.append(float(np.hypot(y_um - here[1], x_um - here[2])))
        if self.fault == "stuck":
            self.n_moves += 1
        else:
            super().move_to_um(y_um, x_um)

    def stop(self) -> None:
        if self.fault == "deaf to stop":
            self.may_answer.wait(20.0)
        super().stop()


@pytest.mark.parametrize(
    ("fault", "reason", "within_s"),
    [("stuck", "does not obey", 1.5), ("busy", "called itself busy", 3.5)],
)
def test_f22_a_stage_that_goes_nowhere_is_halted_with_an_event(
    fault, reason, within_s
) -> None:
    stage = Faulty()
    rig = Rig(stage=stage)
    for _ in range(50):
        rig.frame({1: (0, 0)})
    stage.fault = fault
    for k in range(250):
        rig.frame({1: circle(k)})
    assert reason in rig.halted
    stopped = rig.kinds("stage.stopped")
    assert len(stopped) == 1 and reason in stopped[0].details["reason"]
    assert stopped[0].t_s < 1.0 + 1.0 + within_s  # the target leaves after some 0.5 s
    assert stage.n_stops == 1


def test_a_stage_that_is_slow_but_comes_is_not_halted() -> None:
    """20 µm at 5 µm/s takes 4 s, four times `confirm_s`."""
    stage, supervisor, _ = supervised(max_step_um=20.0)
    stage.physics = StagePhysics(speed_um_per_s=5.0, busy_s=0.0)
    supervisor.move_to_um(0.0, 20.0)
    for _ in range(250):
        stage._clock.now_s += 0.02
        supervisor.look()
    assert supervisor.halted is None and supervisor.is_settled
    assert stage.true_position_um()[2] == pytest.approx(20, abs=0.1)


def test_every_move_is_confirmed_by_reading_back() -> None:
    rig = Rig()
    for k in range(200):
        rig.frame({1: circle(k)})
    assert rig.controller.supervisor.is_settled
    assert rig.controller.supervisor.n_confirmed == len(rig.kinds("stage.move")) > 20


def test_another_program_that_moves_the_stage_is_noticed() -> None:
    rig = Rig(follow=False)
    for k in range(20):
        if k == 10:
            rig.stage.push(np.array([0.0, 5.0, 0.0]))
        rig.frame({})
    (news,) = rig.kinds("stage.moved_by_other")
    assert news.details["to_um"] == pytest.approx([5.0, 0.0])
    assert rig.halted is None


@pytest.mark.parametrize("play_um", [0.0, 5.0, 20.0])
def test_no_step_of_the_motor_is_longer_than_allowed_whatever_the_play(play_um) -> None:
    stage = Faulty(StagePhysics(0, 0, 1e9, 0, 0, backlash_um=play_um))
    rig = Rig(stage=stage, backlash_um=play_um, max_step_um=2.0)
    for k in range(400):
        rig.frame({1: circle(k)})
    assert max(stage.motor_steps_um) <= 2.0 + 1e-9
    assert rig.halted is None
    error_um = circle(399) - rig.stage.true_position_um()[1:]
    assert np.abs(error_um).max() < 1.0  # the play is made up for all the same


def supervised(**changes) -> tuple[Faulty, Supervisor, list]:
    stage, events = Faulty(), []
    chosen = ARMED.model_copy(update=changes)
    supervisor = Supervisor(stage, chosen, clock=stage._clock, tell=events.append)
    return stage, supervisor, events


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        ((201, 0), "outside the travel limits"),
        ((float("nan"), 0), "outside the travel limits"),
        ((15, 15), "motor step of 21.2132 um; at most 20.0"),
    ],
)
def test_the_last_word_is_the_limits(goal, reason) -> None:
    stage, supervisor, _ = supervised()
    with pytest.raises(RefusedError, match=reason):
        supervisor.move_to_um(*goal)
    assert stage.n_moves == 0


def test_without_limits_for_z_the_focus_drive_never_moves() -> None:
    stage, supervisor, _ = supervised(limits=TravelLimits(y_um=(-1, 1), x_um=(-1, 1)))
    with pytest.raises(RefusedError, match="no travel limits for z"):
        supervisor.move_z_to_um(0.1)
    assert stage.n_moves == 0


def test_the_way_of_the_focus_drive_since_arming_is_bounded() -> None:
    stage, supervisor, events = supervised(max_z_travel_um=10.0)
    for k in range(20):
        stage._clock.now_s += 0.1
        try:
            supervisor.move_z_to_um(float(k % 2))
        except RefusedError:
            break
    assert stage.n_moves == 11  # 0 to 0 first, then ten of 1 µm
    assert "travelled 10 um" in supervisor.halted
    assert events[-1].kind == "stage.held"
    supervisor.arm()
    supervisor.move_z_to_um(0.5)


def test_a_driver_that_hangs_is_a_halt_and_its_late_move_is_stopped() -> None:
    stage, supervisor, events = supervised()
    stage.may_answer.clear()
    supervisor.reply_within_s = 0.3
    with pytest.raises(StageError, match="no reply from the stage"):
        supervisor.move_to_um(1.0, 1.0)
    assert "no reply from the stage" in supervisor.halted
    assert [event.kind for event in events] == ["stage.stopped"]
    with pytest.raises(StageError, match="still hangs"):
        supervisor.arm()
    n_stops = stage.n_stops
    stage.may_answer.set()
    until_s = time.monotonic() + 10
    while stage.n_stops == n_stops and time.monotonic() < until_s:
        time.sleep(0.01)
    assert stage.n_stops == n_stops + 1  # the move came through after all


def test_a_reading_that_was_given_up_early_is_no_hang() -> None:
    """After a stop there are 5 ms for a reading; the next one has all its time."""
    stage, supervisor, events = supervised()
    answers = stage.position_um

    def slow():
        time.sleep(0.2)
        return answers()

    stage.position_um = slow
    assert not supervisor.look_quickly()
    supervisor.look()
    assert supervisor.halted is None and events == []


@pytest.mark.parametrize("fault", ["", "deaf to stop"])
def test_stop_answers_and_close_ends_whatever_the_driver_does(fault) -> None:
    """It hung as long as the driver did before: 5.6 s for stop, 16 s for close.

    Without load `stop` answers within 50 ms (`python -m tests.bench faults`); a busy
    machine is given 2 s here, a tenth of what the driver hangs.
    """
    stage = Faulty()
    rig = Rig(stage=stage)
    for _ in range(50):
        rig.frame({1: (0, 0)})
    rig.controller.open(RunInfo("r", "now"))
    stage.fault = fault
    stage.may_answer.clear()
    follow = threading.Thread(target=rig.frame, args=({1: (5, 5)},), daemon=True)
    follow.start()
    time.sleep(0.05)
    began_s = time.monotonic()
    rig.controller.follow(1)
    rig.controller.stop("hand")
    answered_s = time.monotonic() - began_s
    rig.controller.close()
    closed_s = time.monotonic() - began_s
    stage.may_answer.set()
    follow.join(20)
    assert answered_s < 2.0 and closed_s < 5.0
    assert rig.halted == "stop: the run has ended"


def driver_threads() -> int:
    names = [thread.name for thread in threading.enumerate()]
    return names.count("lodestar-driver") + names.count("lodestar-stop")


def test_no_thread_of_a_driver_is_left_behind() -> None:
    before = driver_threads()
    for _ in range(20):
        rig = Rig()
        rig.frame({1: (0, 0)})
        rig.controller.close()
    until_s = time.monotonic() + 10
    while driver_threads() > before and time.monotonic() < until_s:
        time.sleep(0.01)
    assert driver_threads() <= before


near = st.floats(-250, 250)
step = st.one_of(
    st.tuples(st.just("target"), near, near),
    st.tuples(st.just("fault"), st.sampled_from(["", "stuck", "busy"]), st.just(0)),
    st.tuples(st.just("push"), st.floats(-30, 30), st.floats(-30, 30)),
    st.tuples(
        st.just("do"),
        st.sampled_from(["stop", "arm", "follow", "release", "hold", "recenter"]),
        near,
    ),
    st.tuples(st.just("wait"), st.floats(0, 3), st.just(0)),
    st.tuples(st.just("view"), st.sampled_from([(100, 100), (50, 50)]), st.just(0)),
    st.tuples(st.just("z"), st.floats(-150, 150), st.just(0)),
)


@settings(max_examples=60)
@given(
    st.lists(step, max_size=25),
    st.sampled_from([0.0, 3.0, 30.0]),
    st.sampled_from(["off", "z"]),
)
def test_whatever_happens_nothing_moves_outside_limits_or_while_halted(
    steps, play_um, focus
) -> None:
    """Any sequence of frames, commands and faults, over controller and supervisor."""
    box = TravelLimits(y_um=(-100, 100), x_um=(-50, 50), z_um=(-5, 5))
    stage = Faulty(StagePhysics(quantum_um=0.0, backlash_um=play_um))
    rig = Rig(
        stage=stage, backlash_um=play_um, limits=box, max_step_um=20.0, focus=focus
    )
    gate, goals = rig.controller.gate, []
    move_xy, move_z = stage.move_to_um, stage.move_z_to_um
    stage.move_to_um = lambda y, x: (
        goals.append((gate.halted, 0, y, x)),
        move_xy(y, x),
    )
    stage.move_z_to_um = lambda z: (goals.append((gate.halted, z, 0, 0)), move_z(z))
    place, shape, z_um = (0.0, 0.0), (100, 100), 0.0
    for kind, first, second in steps:
        if kind == "target":
            place = (first, second)
        elif kind == "fault":
            stage.fault = first
        elif kind == "push":
            stage.push(np.array([0.0, first, second]))
        elif kind == "wait":
            rig.index += int(first / 0.02)
        elif kind == "view":
            shape = first
        elif kind == "z":
            z_um = first
        elif first == "hold":
            gate.hold("doubt")
        elif first == "recenter":
            rig.controller.recenter(second, second)
        elif first == "follow":
            rig.controller.follow("nearest")
        else:
            getattr(rig.controller, first)()
        for _ in range(5):
            rig.frame({1: place}, shape=shape, z_um=z_um)
        told = [e.details["reason"] for e in rig.events if "reason" in e.details]
        assert gate.halted is None or gate.halted in told
    for halted, z, y, x in goals:
        assert halted is None
        assert -100 <= y <= 100 and -50 <= x <= 50 and -5 <= z <= 5
    assert max(stage.motor_steps_um, default=0.0) <= 20 * (1 + 1e-6)

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodestar_live.control import MoveLog, SafetyGate
from lodestar_live.data import StagePosition
from lodestar_live.errors import SettingsError, StageError
from lodestar_live.settings import ControlSettings, TravelLimits
from tests.simulation.stage import VirtualClock

LIMITS = TravelLimits(y_um=(-100, 100), x_um=(-50, 50), z_um=(-5, 5))


class Recorded:
    """A stage that arrives at once and remembers what reached it."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, ...]] = []
        self.properties: list[tuple[str, str, str]] = []
        self.here = StagePosition(0.0, 0.0, 0.0)
        self.busy = False
        self.n_stops = 0
        self.fault: Exception | None = None

    def position_um(self) -> StagePosition:
        return self.here

    def move_to_um(self, y_um: float, x_um: float) -> None:
        if self.fault:
            raise self.fault
        self.sent.append((y_um, x_um))
        self.here = StagePosition(self.here.z_um, y_um, x_um)

    def move_z_to_um(self, z_um: float) -> None:
        if self.fault:
            raise self.fault
        self.sent.append((z_um,))
        self.here = StagePosition(z_um, self.here.y_um, self.here.x_um)

    def is_busy(self) -> bool:
        return self.busy

    def stop(self) -> None:
        self.n_stops += 1

    def set_property(self, device: str, name: str, value: str) -> None:
        self.properties.append((device, name, value))


class Bench:
    def __init__(self, **settings) -> None:
        defaults = {"armed": True, "limits": LIMITS, "max_step_um": 60}
        self.clock, self.driver, self.events = VirtualClock(), Recorded(), []
        self.clock.now_s = 10.0
        self.settings = ControlSettings(**(defaults | settings))
        self.gate = SafetyGate(
            self.driver,
            self.settings,
            clock=self.clock,
            tell=self.events.append,
            moves=MoveLog(),
            properties=self.driver,
        )

    def move(self, y_um, x_um, *, age_s=0.01, **details):
        t_data_s = self.clock.now_s - age_s
        return self.gate.move_xy(y_um, x_um, t_data_s=t_data_s, **details)


anything = st.one_of(
    st.floats(), st.integers(), st.text(), st.none(), st.booleans(),
    st.complex_numbers(), st.lists(st.floats(), max_size=2),
    st.sampled_from([10**400, math.inf, -math.inf]),
)  # fmt: skip
near = st.floats(-150, 150)
command = st.one_of(
    st.tuples(st.just("xy"), anything, anything, anything),
    st.tuples(st.just("xy"), near, near, st.floats(-0.1, 1.0)),
    st.tuples(st.just("z"), st.one_of(near, anything), st.just(0), st.floats(-0.1, 1)),
    st.tuples(st.just("set"), anything, st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.floats(0, 0.2), st.just(0), st.just(0)),
)


@given(st.lists(command, max_size=30))
def test_nothing_outside_the_limits_ever_reaches_the_driver(commands) -> None:
    bench = Bench(properties={"Camera Exposure": (1, 50)})
    before = bench.driver.here
    for kind, first, second, age_s in commands:
        n_sent = len(bench.driver.sent)
        try:
            t_data_s = bench.clock.now_s - age_s
        except (TypeError, OverflowError):
            t_data_s = age_s
        if kind == "xy":
            bench.gate.move_xy(first, second, t_data_s=t_data_s)
        elif kind == "z":
            bench.gate.move_z(first, t_data_s=t_data_s)
        elif kind == "set":
            bench.gate.set_property("Camera", "Exposure", first)
        else:
            bench.clock.now_s += first
        here = bench.driver.here
        assert -100 <= here.y_um <= 100 and -50 <= here.x_um <= 50
        assert -5 <= here.z_um <= 5
        assert math.dist(here[1:], before[1:]) <= 60 * (1 + 1e-6)
        assert abs(here.z_um - before.z_um) <= 2 * (1 + 1e-6)
        assert len(bench.driver.sent) - n_sent <= 1
        before = here
    assert all(1 <= float(value) <= 50 for _, _, value in bench.driver.properties)


@given(st.lists(st.tuples(near, near), min_size=1, max_size=20))
def test_dry_run_sends_nothing(places) -> None:
    bench = Bench(armed=False)
    for y_um, x_um in places:
        bench.clock.now_s += 0.1
        bench.move(y_um, x_um)
    bench.gate.stop("end")
    assert bench.driver.sent == [] and bench.driver.n_stops == 0


def test_every_command_and_refusal_is_recorded_with_its_reason() -> None:
    bench = Bench()
    assert bench.move(1, 2)
    assert not bench.move(1, 2)
    kinds = [event.kind for event in bench.events]
    assert kinds == ["stage.move", "stage.refused"]
    assert "moves per second" in bench.events[1].details["reason"]


@pytest.mark.parametrize(
    ("y_um", "x_um", "age_s", "reason"),
    [
        (101, 0, 0.01, "outside the travel limits"),
        (math.nan, 0, 0.01, "not a finite position"),
        ("here", 0, 0.01, "not a finite position"),
        (59, 49, 0.01, "a step of"),
        (1, 1, 0.6, "made from a frame 0.6 s old"),
        (1, 1, -0.1, "made from a frame -0.1 s old"),
        (1, 1, math.nan, "made from a frame nan s old"),
    ],
)
def test_refusals_name_the_reason(y_um, x_um, age_s, reason) -> None:
    bench = Bench()
    verdict = bench.move(y_um, x_um, age_s=age_s)
    assert not verdict and reason in verdict.reason
    assert bench.driver.sent == []


def test_a_frame_exposed_before_the_last_own_move_is_too_old() -> None:
    bench = Bench()
    assert bench.move(1, 1)
    bench.clock.now_s += 0.1
    assert "older than the last own move" in bench.move(2, 2, age_s=0.2).reason
    assert bench.move(2, 2, age_s=0.2 - 0.1 - 0.001, stage_known=False)


def test_with_the_stage_known_at_exposure_only_older_data_are_refused() -> None:
    bench = Bench()
    assert bench.move(1, 1, age_s=0.01, stage_known=True)
    bench.clock.now_s += 0.1
    assert bench.move(2, 2, age_s=0.105, stage_known=True)
    bench.clock.now_s += 0.1
    assert not bench.move(3, 3, age_s=0.21, stage_known=True)


def test_a_busy_stage_gets_no_second_command() -> None:
    bench = Bench()
    bench.driver.busy = True
    assert bench.move(1, 1).reason == "the last move still runs"


def test_stop_reaches_the_driver_at_once_and_lasts() -> None:
    bench = Bench()
    bench.gate.stop("Ctrl-C")
    assert bench.driver.n_stops == 1
    assert bench.move(1, 1).reason == "halted: Ctrl-C"
    bench.gate.allow()
    assert bench.move(1, 1)


def test_a_stop_during_a_call_is_repeated_after_it() -> None:
    bench = Bench()
    original = bench.driver.move_to_um

    def stopped_meanwhile(y_um: float, x_um: float) -> None:
        bench.gate.stop("socket")
        original(y_um, x_um)

    bench.driver.move_to_um = stopped_meanwhile
    bench.move(1, 1)
    assert bench.driver.n_stops == 2


def test_three_failures_in_a_row_hold_everything() -> None:
    bench = Bench()
    bench.driver.fault = OSError("cable")
    for _ in range(3):
        bench.clock.now_s += 0.1
        assert not bench.move(1, 1)
    bench.driver.fault = None
    bench.clock.now_s += 0.1
    assert "failed 3 times in a row: OSError: cable" in bench.move(1, 1).reason


def test_focus_needs_its_own_limits() -> None:
    bench = Bench(limits=TravelLimits(y_um=(-1, 1), x_um=(-1, 1)))
    verdict = bench.gate.move_z(0.5, t_data_s=bench.clock.now_s)
    assert verdict.reason == "no travel limits for z"


def test_arming_needs_limits() -> None:
    with pytest.raises(SettingsError, match=r"control\.limits is missing"):
        Bench(limits=None)


def test_limits_that_exclude_the_present_position_are_refused() -> None:
    with pytest.raises(StageError, match=r"y_um = 0, outside"):
        Bench(limits=TravelLimits(y_um=(1, 2), x_um=(-1, 1)))


def test_a_stage_that_answers_slowly_leaves_its_moves_in_the_log() -> None:
    """Every question takes as long as an exposure, as beside a camera's snap."""
    bench = Bench()

    def slow_position() -> StagePosition:
        bench.clock.now_s += 0.02
        return bench.driver.here

    bench.driver.position_um = slow_position
    assert bench.move(3.0, 4.0, stage_known=True).passed
    assert bench.gate.moves.goal[1:] == (3.0, 4.0)


def test_what_is_read_on_the_way_is_no_place_of_rest() -> None:
    bench = Bench()
    bench.gate.read_position()
    bench.driver.here, bench.driver.busy = StagePosition(0.0, 9.0, 9.0), True
    bench.clock.now_s += 0.1
    assert bench.gate.read_position()[1:] == (9.0, 9.0)
    assert bench.gate.moves.goal[1:] == (0.0, 0.0)

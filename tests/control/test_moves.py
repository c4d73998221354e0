from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.control import MoveLog, StageResponse
from lodestar_live.data import StagePosition
from tests.simulation.stage import SimulatedStage, StagePhysics, VirtualClock


def test_nothing_is_known_before_the_first_entry() -> None:
    log = MoveLog()
    log.read(1.0, StagePosition(0, 0, 0))
    assert np.isnan(log.position_at(0.5)).all()
    assert log.position_at(1.5) == (0, 0, 0)


def test_between_two_readings_the_position_is_interpolated() -> None:
    log = MoveLog()
    log.read(0.0, StagePosition(0, 0, 0))
    log.read(1.0, StagePosition(0, 10, -4))
    assert log.position_at(0.25) == pytest.approx((0, 2.5, -1))


@pytest.mark.parametrize("speed", [float("inf"), 1000.0])
@pytest.mark.parametrize("tau_s", [0.0, 0.01])
def test_the_log_foretells_what_a_simulated_stage_does(speed, tau_s) -> None:
    """Overlapping short moves: superposition is exact for a linear stage."""
    clock = VirtualClock()
    physics = StagePhysics(0.0, tau_s, min(speed, 1e6), quantum_um=0.0)
    stage, log = (
        SimulatedStage(clock, physics),
        MoveLog(StageResponse(0.0, tau_s, speed)),
    )
    log.read(0.0, stage.position_um())
    rng = np.random.default_rng(1)
    for k in range(1, 40):
        clock.now_s = 0.02 * k
        y_um, x_um = rng.uniform(-3, 3, 2)
        stage.move_to_um(y_um, x_um)
        log.moved(clock.now_s, StagePosition(float("nan"), y_um, x_um))
        clock.now_s += 0.013
        # A step of 6 µm is under speed * tau or done in 6 ms; the simulator's 1e6
        # µm/s stands for infinity: 6 µm in 6 µs.
        assert log.position_at(clock.now_s) == pytest.approx(
            stage.position_um(), abs=1e-3
        )


def test_readings_of_a_stage_under_way_are_not_believed() -> None:
    log = MoveLog(StageResponse(tau_s=0.01))
    log.read(0.0, StagePosition(0, 0, 0))
    log.moved(1.0, StagePosition(float("nan"), 10, 0))
    log.read(1.01, StagePosition(0, 10, 0))  # reports the goal, as many stages do
    assert log.position_at(1.01).y_um == pytest.approx(10 * (1 - np.exp(-1)))


def test_a_push_from_outside_shows_in_the_next_reading() -> None:
    log = MoveLog()
    log.read(0.0, StagePosition(0, 0, 0))
    log.moved(1.0, StagePosition(float("nan"), 1, 1))
    log.read(2.0, StagePosition(0, 6, 1))
    assert log.position_at(2.1) == (0, 6, 1)


def test_memory_is_bounded_and_equal_readings_take_two_places() -> None:
    log = MoveLog(n_entries=10)
    for k in range(1000):
        log.read(float(k), StagePosition(0, 1, 2))
    assert log.position_at(3.0) == (0, 1, 2)
    for k in range(1000, 2000):
        log.moved(float(k), StagePosition(float("nan"), k % 7, 0))
    assert np.isnan(log.position_at(3.0)).all()
    assert log.position_at(1999.5).y_um == 1999 % 7

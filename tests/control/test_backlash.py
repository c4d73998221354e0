"""Play of the drives: what the motor is told, and what the loop makes of it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodestar_live.control import Calibration, Controller, StageResponse
from lodestar_live.control.backlash import BacklashStage
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

LIMITS = TravelLimits(y_um=(-50, 50), x_um=(-50, 50))


def simulated(backlash_um: float) -> tuple[SimulatedStage, VirtualClock]:
    clock = VirtualClock()
    physics = StagePhysics(quantum_um=0.0, backlash_um=backlash_um)
    return SimulatedStage(clock, physics), clock


def test_the_sample_arrives_whatever_the_direction() -> None:
    """The first move of an axis may start anywhere in the play; all later are right."""
    stage, clock = simulated(2.0)
    driver = BacklashStage(stage, (2.0, 2.0), LIMITS)
    for y_um, x_um in [(5, -5), (3, -5), (4, -9), (4, 8), (-7, 7)]:
        driver.move_to_um(y_um, x_um)
        clock.now_s += 1.0
        assert stage.true_position_um()[1:] == pytest.approx((y_um, x_um), abs=1e-6)
        assert driver.position_um()[1:] == pytest.approx((y_um, x_um), abs=1e-6)


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), max_size=20))
def test_the_motor_never_leaves_the_limits(goals) -> None:
    stage, _ = simulated(3.0)
    driver = BacklashStage(stage, (3.0, 3.0), LIMITS)
    for y_um, x_um in goals:
        assert np.abs(driver.motor_um(y_um, x_um)).max() <= 50


def rms_um(*, play_um: float, measured_um: float) -> float:
    """Brownian target, 2 frames of delay; 280 frames after the first second."""
    path = brownian(330, 0.02, np.random.default_rng(5), diffusion_um2_per_s=1.0)
    calibration = Calibration(
        PixelToStage.from_pixel_size(0.2),
        residual_px=0.01,
        measured=datetime.now(UTC),
        response=StageResponse(0.0, 0.010, 1000.0),
        backlash_um=(measured_um, measured_um),
    )
    settings = ControlSettings(follow=True, armed=True, limits=LIMITS, deadband_um=0)
    loop = ClosedLoop(
        path,
        lambda stage, clock, tell: Controller(
            settings, stage, clock=clock, tell=tell, calibration=calibration
        ),
        Camera(delay_frames=2),
        StagePhysics(backlash_um=play_um),
    )
    return loop.run().rms_um(50)


def test_compensated_play_costs_almost_nothing() -> None:
    """1 µm of play, five times a typical move; the bound for no play is 0.35 µm."""
    ideal = rms_um(play_um=0.0, measured_um=0.0)
    ignored = rms_um(play_um=1.0, measured_um=0.0)
    compensated = rms_um(play_um=1.0, measured_um=1.0)
    assert ignored > 1.15 * ideal
    assert compensated < 1.05 * ideal

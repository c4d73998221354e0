"""Play of the drives, taken up by every move that changes direction."""

from __future__ import annotations

import threading

import numpy as np

from lodestar_live.control.driver import StageDriver
from lodestar_live.data import FloatArray, StagePosition
from lodestar_live.settings import TravelLimits


class BacklashStage:
    """A stage in coordinates of the sample, before one whose drives have play.

    With play b the sample stands within b/2 of the motor: a motor that goes to m drags
    it along to ``clip(sample, m - b/2, m + b/2)`` (the play operator of hysteresis). So
    a move that ends at `y_um` sends the motor b/2 farther, as far as the longest step
    and the limits allow; what is missing then is left to the next move.

    Parameters
    ----------
    stage
        The real one.
    backlash_um
        Play of the axes (y, x), as `calibrate` measured it.
    limits
        The motor is not sent outside them either.
    max_step_um
        Longest step of the motor.
    """

    def __init__(
        self,
        stage: StageDriver,
        backlash_um: tuple[float, float],
        limits: TravelLimits | None,
        *,
        max_step_um: float = float("inf"),
    ) -> None:
        self._stage = stage
        self._half_um = np.maximum(np.array(backlash_um), 0.0) / 2
        self._limits, self._max_step_um = limits, max_step_um
        self._sample: FloatArray | None = None  # None: somewhere within the play
        self._lock = threading.Lock()

    def motor_um(self, y_um: float, x_um: float) -> tuple[float, float]:
        """Return where the motor must go for the sample to arrive, or get nearer."""
        motor, here = self._motors()
        with self._lock:
            goal = self._goal_of_motor(np.array([y_um, x_um]), motor, here)
        return float(goal[0]), float(goal[1])

    def arrives_um(self, y_um: float, x_um: float) -> tuple[float, float]:
        """Return where the sample will stand after ``move_to_um(y_um, x_um)``."""
        motor, here = self._motors()
        with self._lock:
            goal = self._goal_of_motor(np.array([y_um, x_um]), motor, here)
            there = np.clip(here, goal - self._half_um, goal + self._half_um)
        return float(there[0]), float(there[1])

    def position_um(self) -> StagePosition:
        """Return where the sample stands now."""
        position = self._stage.position_um()
        with self._lock:
            y_um, x_um = self._dragged(np.array(position[1:]))
        return StagePosition(position.z_um, float(y_um), float(x_um))

    def move_to_um(self, y_um: float, x_um: float) -> None:
        """Start a move in the plane."""
        self._stage.move_to_um(*self.motor_um(y_um, x_um))

    def move_z_to_um(self, z_um: float) -> None:
        """Start a focus move; the focus drive is approached as it is."""
        self._stage.move_z_to_um(z_um)

    def is_busy(self) -> bool:
        """Return whether the stage still moves."""
        return self._stage.is_busy()

    def stop(self) -> None:
        """Stand still."""
        self._stage.stop()

    def _motors(self) -> tuple[FloatArray, FloatArray]:
        """Where the motor stands, and the sample, (2,) each."""
        motor = np.array(self._stage.position_um()[1:])
        with self._lock:
            return motor, self._dragged(motor)

    def _dragged(self, motor: FloatArray) -> FloatArray:
        """Where a motor that stands there has dragged the sample."""
        if not np.isfinite(motor).all():
            return motor
        if self._sample is None:
            self._sample = motor
        low, high = motor - self._half_um, motor + self._half_um
        self._sample = np.clip(self._sample, low, high)
        return self._sample

    def _goal_of_motor(
        self, goal: FloatArray, motor: FloatArray, here: FloatArray
    ) -> FloatArray:
        """Where to send the motor: past the goal by the play, as far as allowed."""
        past = goal + self._half_um * np.sign(goal - here)
        there = np.where(goal == here, motor, past)  # already right: leave the motor
        if self._limits is not None:
            low, high = np.transpose([self._limits.y_um, self._limits.x_um])
            there = np.clip(there, low, high)
        step_um = float(np.linalg.norm(there - motor))
        if step_um > self._max_step_um:
            there = motor + (there - motor) * (self._max_step_um / step_um)
        return np.asarray(there)

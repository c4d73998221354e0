"""Play of the drives, taken up by every move that changes direction."""

from __future__ import annotations

import threading

import numpy as np

from lodestar_live.control.driver import StageDriver
from lodestar_live.data import FloatArray, StagePosition
from lodestar_live.settings import TravelLimits


class BacklashStage:
    """A stage in coordinates of the sample, before one whose drives have play.

    With play b the sample stands b/2 behind the motor, so a move that ends at `y_um`
    commands the motor b/2 farther in the direction of the move.

    Parameters
    ----------
    stage
        The real one.
    backlash_um
        Play of the axes (y, x), as `calibrate` measured it.
    limits
        The motor is not sent outside them either.
    """

    def __init__(
        self,
        stage: StageDriver,
        backlash_um: tuple[float, float],
        limits: TravelLimits | None,
    ) -> None:
        self._stage = stage
        self._half_um = np.maximum(np.array(backlash_um), 0.0) / 2
        self._limits = limits
        self._direction: FloatArray = np.zeros(2)  # of the last move; 0: not moved yet
        self._goal: FloatArray | None = None
        self._lock = threading.Lock()

    def motor_um(self, y_um: float, x_um: float) -> tuple[float, float]:
        """Return where the motor must go for the sample to arrive; it is sent there."""
        goal = np.array([y_um, x_um])
        here = np.array(self.position_um()[1:])
        with self._lock:
            before = here if self._goal is None else self._goal
            moved = np.sign(np.nan_to_num(goal - before))
            self._direction = np.where(moved == 0, self._direction, moved)
            self._goal = goal
            motor = goal + self._half_um * self._direction
        if self._limits is not None:
            low, high = np.transpose([self._limits.y_um, self._limits.x_um])
            motor = np.clip(motor, low, high)
        return float(motor[0]), float(motor[1])

    def position_um(self) -> StagePosition:
        """Return where the sample stands now."""
        z_um, y_um, x_um = self._stage.position_um()
        with self._lock:
            play = self._half_um * self._direction
        return StagePosition(z_um, y_um - float(play[0]), x_um - float(play[1]))

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
        """Stand still; the next direction counts from where that is."""
        self._stage.stop()
        with self._lock:
            self._goal = None

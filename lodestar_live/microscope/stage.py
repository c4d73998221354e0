"""The microscope's stage and properties as the control room wants to drive them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

import numpy as np

from lodestar_live.data import UNKNOWN_POSITION, StagePosition
from lodestar_live.errors import StageError
from lodestar_live.microscope.core import Microscope, read_objective
from lodestar_live.microscope.substitute import read_stage

logger = logging.getLogger(__name__)
_RESTING_S = 0.05  # between readings of a stage that stands still
_MOVING_S = 0.01
_READINGS_KEPT = 256
_STOP_WITHIN_S = 1.0


class CoreStage:
    """Stage, focus, properties and objective of one MMCore; nothing here waits.

    Calls go through a core handle of their own, so a slow camera call never delays a
    command (the Java bridge serialises every call on one socket).
    """

    def __init__(self, microscope: Microscope) -> None:
        self._core = microscope.second_handle()
        self._xy = str(self._core.get_xy_stage_device())
        self._z = str(self._core.get_focus_device())

    def position_um(self) -> StagePosition:
        """Return where the stage stands now; NaN where there is no drive."""
        return read_stage(self._core)

    def move_to_um(self, y_um: float, x_um: float) -> None:
        """Command an absolute XY position; returns before it is reached."""
        if not self._xy:
            raise StageError("the Micro-Manager configuration has no XY stage.")
        self._core.set_xy_position(x_um, y_um)

    def move_z_to_um(self, z_um: float) -> None:
        """Command an absolute focus position; returns before it is reached."""
        if not self._z:
            raise StageError("the Micro-Manager configuration has no focus drive.")
        self._core.set_position(z_um)

    def is_busy(self) -> bool:
        """Tell whether XY stage or focus drive still moves."""
        return any(self._core.device_busy(d) for d in (self._xy, self._z) if d)

    def stop(self) -> None:
        """Stop both drives where they are."""
        for device in (self._xy, self._z):
            if device:
                self._core.stop(device)

    def set_property(self, device: str, name: str, value: str) -> None:
        """Set a Micro-Manager device property."""
        self._core.set_property(device, name, value)

    def objective(self) -> str:
        """Return the name of the objective in place; "" where none is known."""
        return read_objective(self._core)


class StageWatch:
    """Where a stage that others move stood at any instant; read beside the run.

    MMCore answers for a device only when no other device of the same adapter is busy:
    a reading can wait for a whole exposure. So a thread of its own waits for it, not
    the frame, and the engine's next call is not held up by one of every frame.

    Parameters
    ----------
    read
        Returns where the stage stands now.
    clock
        Seconds since the run's start.
    """

    def __init__(
        self, read: Callable[[], StagePosition], clock: Callable[[], float]
    ) -> None:
        self._read, self._clock = read, clock
        self._readings: deque[tuple[float, StagePosition]] = deque(
            maxlen=_READINGS_KEPT
        )
        self._stop = threading.Event()
        self._has_failed = False
        self._thread = threading.Thread(
            target=self._watch, name="lodestar-stage", daemon=True
        )

    def start(self) -> None:
        """Read once, then go on in the background."""
        self._note()
        self._thread.start()

    def close(self) -> None:
        """End the readings; may be called twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_WITHIN_S)

    def at(self, t_s: float) -> StagePosition:
        """Return the position at `t_s`, between readings by interpolation.

        Outside what was read: the nearest reading, at most 0.05 s old unless MMCore
        made it wait; NaN before any.
        """
        later_s, later = np.inf, UNKNOWN_POSITION
        for read_s, position in reversed(tuple(self._readings)):
            if read_s <= t_s:
                if later_s == np.inf or later == position:
                    return position
                share = (t_s - read_s) / (later_s - read_s)
                both = zip(position, later, strict=True)
                return StagePosition(*(a + share * (b - a) for a, b in both))
            later_s, later = read_s, position
        return later

    def _watch(self) -> None:
        pause_s = _RESTING_S
        while not self._stop.wait(pause_s):
            pause_s = _MOVING_S if self._note() else _RESTING_S

    def _note(self) -> bool:
        """Read the stage; say whether it has moved since the last reading."""
        try:
            position = self._read()
        except Exception:  # of any adapter; the frames go on
            if not self._has_failed:
                logger.exception("the stage position cannot be read")
            self._has_failed, position = True, UNKNOWN_POSITION
        before = self._readings[-1][1] if self._readings else position
        self._readings.append((self._clock(), position))
        return not np.array_equal(position, before, equal_nan=True)

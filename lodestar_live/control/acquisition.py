"""Feedback through pycro-manager's own events, and software ROI."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lodestar_live.control.backlash import BacklashStage
from lodestar_live.control.moves import MoveLog
from lodestar_live.data import StagePosition
from lodestar_live.errors import StageError

AcquisitionEvent = dict[str, Any] | list[dict[str, Any]]
PATIENCE_GOALS = 20  # goals that no event took before it is called a mistake


class EventStage:
    """A stage whose moves in the plane are made by the next acquisition event.

    The engine moves the stage there, waits for it and only then exposes. Focus moves,
    readings and stops go to the stage directly.

    Parameters
    ----------
    stage
        The real one.
    moves
        Log in which a move is noted when its event is executed.
    clock, max_age_s
        A goal that waited for its event longer than this is forgotten.
    """

    def __init__(
        self,
        stage: BacklashStage,
        moves: MoveLog,
        *,
        clock: Callable[[], float],
        max_age_s: float,
    ) -> None:
        self._stage, self._moves = stage, moves
        self._clock, self._max_age_s = clock, max_age_s
        self._goal: tuple[float, float, float] | None = None  # t_s, y_um, x_um
        self._n_untaken = 0
        self._lock = threading.Lock()

    def place(self, event: AcquisitionEvent) -> AcquisitionEvent:
        """Put the newest goal into an event; without one it carries no position."""
        goal = self._take()
        for one in event if isinstance(event, list) else [event]:
            one.pop("y", None)
            one.pop("x", None)
            if goal is not None:
                one["y"], one["x"] = goal
        return event

    def position_um(self) -> StagePosition:
        """Return where the stage is now."""
        return self._stage.position_um()

    def move_to_um(self, y_um: float, x_um: float) -> None:
        """Keep the goal for the next event; an older one is forgotten.

        Raises
        ------
        StageError
            Events do not come here: the acquisition was not given the hook.
        """
        with self._lock:
            self._n_untaken += 1
            if self._n_untaken > PATIENCE_GOALS:
                raise StageError(
                    'control.move_by = "events", but no event asked for a position; '
                    "expected Acquisition(pre_hardware_hook_fn=tracker.event_hook)."
                )
            self._goal = (self._clock(), y_um, x_um)

    def move_z_to_um(self, z_um: float) -> None:
        """Start a focus move."""
        self._stage.move_z_to_um(z_um)

    def is_busy(self) -> bool:
        """Return whether the stage still moves."""
        return self._stage.is_busy()

    def stop(self) -> None:
        """Forget the goal and stand still."""
        self.forget()
        self._stage.stop()

    def forget(self) -> None:
        """Forget the goal."""
        with self._lock:
            self._goal = None

    def _take(self) -> tuple[float, float] | None:
        with self._lock:
            goal, self._goal, self._n_untaken = self._goal, None, 0
        now_s = self._clock()
        if goal is None or now_s - goal[0] > self._max_age_s:
            return None
        _, y_um, x_um = goal
        self._moves.moved(now_s, StagePosition(float("nan"), y_um, x_um))
        return self._stage.motor_um(y_um, x_um)

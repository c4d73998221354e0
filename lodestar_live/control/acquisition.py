"""Feedback through pycro-manager's own events, and software ROI."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lodestar_live.control.controller import Controller
from lodestar_live.control.driver import StageDriver
from lodestar_live.data import Pixels, StagePosition

AcquisitionEvent = dict[str, Any] | list[dict[str, Any]]


class EventStage:
    """A stage whose moves in the plane are made by the next acquisition event.

    Parameters
    ----------
    stage
        The real one; focus moves, readings and stops go to it directly.
    """

    def __init__(self, stage: StageDriver) -> None:
        self._stage = stage
        self._goal: tuple[float, float] | None = None
        self._lock = threading.Lock()

    def take_goal(self) -> tuple[float, float] | None:
        """Return the newest goal (y_um, x_um) once; None: stay."""
        with self._lock:
            goal, self._goal = self._goal, None
        return goal

    def position_um(self) -> StagePosition:
        """Return where the stage is now."""
        return self._stage.position_um()

    def move_to_um(self, y_um: float, x_um: float) -> None:
        """Keep the goal for the next event; an older one is forgotten."""
        with self._lock:
            self._goal = (y_um, x_um)

    def move_z_to_um(self, z_um: float) -> None:
        """Start a focus move."""
        self._stage.move_z_to_um(z_um)

    def is_busy(self) -> bool:
        """Return whether the stage still moves."""
        return self._stage.is_busy()

    def stop(self) -> None:
        """Forget the goal and stand still."""
        self.take_goal()
        self._stage.stop()


def follow_hook(
    controller: Controller,
) -> Callable[[AcquisitionEvent], AcquisitionEvent]:
    """Return a ``pre_hardware_hook`` that puts events at the predicted position.

    From now on the controller moves the plane through events only. What it asks for
    has passed the safety gate; without a new goal the event carries no position, so
    the stage stays. The hook takes one argument, the only form that works in both
    backends (with two, the Python backend takes no images and says nothing).
    """
    stage = controller.move_by_events(EventStage)

    def hook(event: AcquisitionEvent) -> AcquisitionEvent:
        goal = stage.take_goal()
        for one in event if isinstance(event, list) else [event]:
            one.pop("y", None)
            one.pop("x", None)
            if goal is not None:
                one["y"], one["x"] = goal
        return event

    return hook


def roi_around(
    pixels: Pixels, centre_px: tuple[float, float], size_px: int
) -> tuple[Pixels, tuple[int, int]]:
    """Cut a square window around a position, moved inwards at the frame's edge.

    Parameters
    ----------
    pixels
        Shape (y, x).
    centre_px
        Where the target will be (y, x).
    size_px
        Side of the window; smaller if the frame is.

    Returns
    -------
    The window (a view) and the (y, x) of its first pixel in the frame, to be added to
    what is found in it.
    """
    starts, ends = [], []
    for centre, length in zip(centre_px, pixels.shape, strict=True):
        side = min(size_px, length)
        start = min(max(round(centre - (side - 1) / 2), 0), length - side)
        starts.append(start)
        ends.append(start + side)
    window = pixels[starts[0] : ends[0], starts[1] : ends[1]]
    return window, (starts[0], starts[1])

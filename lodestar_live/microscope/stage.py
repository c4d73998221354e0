"""The microscope's stage and properties as the control room wants to drive them."""

from __future__ import annotations

from lodestar_live.data import StagePosition
from lodestar_live.errors import StageError
from lodestar_live.microscope.core import Microscope, read_objective
from lodestar_live.microscope.substitute import read_stage


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

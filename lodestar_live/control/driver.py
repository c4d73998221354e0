"""What the safety gate needs from an actuator; the only seam to real hardware."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lodestar_live.data import StagePosition


class StageDriver(Protocol):
    """A motorised XY stage with a focus drive.

    Positions are absolute, in the stage's own µm. No call waits for the device; all
    may be called from any thread. A call that fails raises.
    """

    def position_um(self) -> StagePosition:
        """Return where stage and focus drive are now; NaN for an absent axis."""

    def move_to_um(self, y_um: float, x_um: float) -> None:
        """Start a move in the plane."""

    def move_z_to_um(self, z_um: float) -> None:
        """Start a move of the focus drive."""

    def is_busy(self) -> bool:
        """Return whether the last move still runs."""

    def stop(self) -> None:
        """Stand still at once."""


class PropertyDriver(Protocol):
    """Sets device properties (exposure, shutter, laser, ...)."""

    def set_property(self, device: str, name: str, value: str) -> None:
        """Set one property, as Micro-Manager names it."""


class DeviceDriver(PropertyDriver, Protocol):
    """The microscope beside its stage: device properties and the objective."""

    def objective(self) -> str:
        """Return the name of the objective in place; "" where none is known."""


@runtime_checkable
class KnowsDrives(Protocol):
    """Tells drives from other devices; a drive's properties are never set by a rule."""

    def is_drive(self, device: str) -> bool:
        """Return whether a device moves, or decides what moves."""


@runtime_checkable
class KnowsOptics(Protocol):
    """Tells what decides how the sample appears in the image."""

    def optics(self) -> dict[str, str]:
        """Return name to value: objective, camera, binning, mirrors; waits for nothing.

        What is not known is left out.
        """

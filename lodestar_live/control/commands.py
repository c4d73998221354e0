"""Commands as values: verdicts, numbers out of anything, axes, rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lodestar_live.data import StagePosition
from lodestar_live.errors import StageError
from lodestar_live.settings import ControlSettings, TravelLimits

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a command. `reason` says why it was refused, or how it passed."""

    passed: bool
    reason: str

    def __bool__(self) -> bool:
        return self.passed


def require_inside(position: StagePosition, limits: TravelLimits) -> None:
    """Raise a StageError when the stage stands outside the limits."""
    for name in ("y_um", "x_um", "z_um"):
        box, here = getattr(limits, name), getattr(position, name)
        if box is not None and not box[0] <= here <= box[1]:
            raise StageError(
                f"stage {name} = {here:.6g}, outside control.limits.{name} = "
                f"[{box[0]}, {box[1]}]. Move the stage inside or widen the limits."
            )


def rate_hz(settings: ControlSettings, axis: str) -> float:
    """Return the most commands per second for "xy" or "z"."""
    return settings.max_z_rate_hz if axis == "z" else settings.max_rate_hz


def shortest_s(settings: ControlSettings, axis: str) -> float:
    """Shortest time between commands: a frame clock jitters, so a tenth less."""
    return 0.9 / rate_hz(settings, axis)


def to_number(value: Any) -> float:
    """Return `value` as a number; NaN for whatever cannot be one."""
    try:
        return float(value)
    except Exception:  # hostile commands: whatever cannot be a number is not one
        return NAN


def finite_or_none(value: float) -> float | None:
    """Return `value` fit for JSON."""
    return value if math.isfinite(value) else None


def axis_values(position: StagePosition, axis: str) -> tuple[float, ...]:
    """Return (y, x) for "xy", (z,) for "z"."""
    return (position.z_um,) if axis == "z" else (position.y_um, position.x_um)


def named(goal: StagePosition, axis: str) -> dict[str, Any]:
    """Return the goal of an axis by name, fit for JSON."""
    names = ("z_um",) if axis == "z" else ("y_um", "x_um")
    return dict(zip(names, map(finite_or_none, axis_values(goal, axis)), strict=True))

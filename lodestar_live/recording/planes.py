"""One image of a recording: where and when it was taken, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lodestar_live.data import UNKNOWN_POSITION, Pixels, StagePosition

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Plane:
    """What a recording says of one image; NaN, None and "" where it says nothing.

    Parameters
    ----------
    time_index, z_index
        Place on these axes.
    t_s
        Middle of the exposure, seconds since the recording's first image.
    channel, position
        Names; "" where there is one only.
    """

    time_index: int = 0
    z_index: int = 0
    channel: str = ""
    position: str = ""
    t_s: float = NAN
    exposure_ms: float = NAN
    pixel_size_um: float = NAN
    stage_um: StagePosition = UNKNOWN_POSITION


def _nothing() -> None:
    """Let go of nothing: no file is held."""


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """A recording as its reader found it.

    Parameters
    ----------
    planes
        In the order in which they were taken.
    read
        Number of a plane -> its pixels, shape (y, x).
    kind
        Of the file, for people.
    affine_um_per_px
        (y, x) matrix from pixels to the stage, as the microscope knew it.
    close
        Lets go of the files.
    """

    planes: Sequence[Plane]
    read: Callable[[int], Pixels]
    kind: str
    affine_um_per_px: Sequence[Sequence[float]] | None = None
    close: Callable[[], None] = _nothing

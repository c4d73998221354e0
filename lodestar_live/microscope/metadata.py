"""pycro-manager's image metadata, of either backend, as one record.

The backends disagree about almost every key: the Python one writes numbers as text
in sequences and leaves out bit depth and ROI in snaps, the Java one uses other names
(measured table in pycro-manager 1.0.2). Everything unknown becomes NaN, None or empty;
nothing in here raises.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lodestar_live.data import UNKNOWN_POSITION, StagePosition

NAN = float("nan")
_BITS = {"GRAY8": 8, "GRAY16": 16, "GRAY32": 32, "RGB32": 8, "RGB64": 16}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the metadata of one image says, in our names and units.

    `received_wall_s` is the wall clock (POSIX seconds) at which MMCore received the
    image, None in snaps; `elapsed_s` the end of a snap's exposure since the start of
    its acquisition, None in sequences, where hosts write the start's. `planned_um` is
    where the event sent the stage, NaN in an axis it left alone; `planned_axes` are
    those it sent: the engine does so before every frame and would overwrite any
    feedback. `image_number` is MMCore's, from 0 in every sequence; `time_number` the
    event's time point where that alone numbers the images.
    """

    pixel_size_um: float = NAN
    exposure_ms: float = NAN
    bit_depth: int | None = None
    origin_px: tuple[int, int] = (0, 0)
    binning: int = 1
    camera: str = ""
    channel: str = ""
    axes: Mapping[str, Any] = field(default_factory=dict)
    received_wall_s: float | None = None
    elapsed_s: float | None = None
    planned_axes: str = ""
    planned_um: StagePosition = UNKNOWN_POSITION
    position: str = ""
    time_index: int | None = None
    z_index: int | None = None
    image_number: int | None = None
    time_number: int | None = None


def read_facts(metadata: Mapping[str, Any]) -> ImageFacts:
    """Normalise one metadata dictionary."""
    axes = _axes(metadata)
    pixel_size_um = _number(metadata, "PixelSize_um", "PixelSizeUm")
    received_wall_s = read_wall_s(metadata.get("TimeReceivedByCore"))
    planned_um = StagePosition(
        *(_number(metadata, f"{axis}Position_um_Intended") for axis in "ZYX")
    )
    return ImageFacts(
        pixel_size_um=pixel_size_um if pixel_size_um > 0 else NAN,
        exposure_ms=_number(metadata, "Exposure"),
        bit_depth=_bit_depth(metadata),
        origin_px=_origin(metadata),
        binning=_binning(metadata),
        camera=_text(metadata, "Camera", "Core-Camera"),
        channel=_text(metadata, "Channel") or str(axes.get("channel", "")),
        axes=axes,
        received_wall_s=received_wall_s,
        elapsed_s=None if received_wall_s is not None else _elapsed_s(metadata),
        planned_axes="".join(
            axis for axis in "XYZ" if f"{axis}Position_um_Intended" in metadata
        ),
        planned_um=planned_um,
        position=_text(metadata, "PositionName") or str(axes.get("position", "")),
        time_index=_index(axes.get("time")),
        z_index=_index(axes.get("z")),
        image_number=_index(metadata.get("ImageNumber")),
        time_number=_index(axes.get("time")) if set(axes) == {"time"} else None,
    )


def _axes(metadata: Mapping[str, Any]) -> dict[str, Any]:
    axes = metadata.get("Axes")
    return dict(axes) if isinstance(axes, Mapping) else {}


def _text(metadata: Mapping[str, Any], *names: str) -> str:
    """Return the first of some entries that says anything."""
    for name in names:
        value = metadata.get(name)
        if value:
            return str(value)
    return ""


def _index(value: Any) -> int | None:
    """Read a count, which may come as text; None for anything else."""
    if isinstance(value, int):
        return value
    if isinstance(value, str) and len(value) < 19 and value.isdecimal():
        return int(value)
    return None


def _elapsed_s(metadata: Mapping[str, Any]) -> float | None:
    elapsed_ms = _number(metadata, "ElapsedTime-ms")
    return elapsed_ms / 1e3 if math.isfinite(elapsed_ms) else None


def _number(metadata: Mapping[str, Any], *names: str) -> float:
    for name in names:
        try:
            value = float(metadata[name])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(value):
            return value
    return NAN


def _bit_depth(metadata: Mapping[str, Any]) -> int | None:
    bits = _number(metadata, "BitDepth")
    if bits > 0:
        return int(bits)
    return _BITS.get(str(metadata.get("PixelType")))


def _binning(metadata: Mapping[str, Any]) -> int:
    text = str(metadata.get("Binning", "1"))[:8].split("x")[0]
    return int(text) if text.isdecimal() and int(text) > 0 else 1


def _origin(metadata: Mapping[str, Any]) -> tuple[int, int]:
    x, y = _number(metadata, "ROI-X-start"), _number(metadata, "ROI-Y-start")
    if math.isfinite(x) and math.isfinite(y):
        return int(y), int(x)
    parts = str(metadata.get("ROI", ""))[:60].split("-")  # Java: "x-y-width-height"
    if len(parts) == 4 and all(p.isdecimal() for p in parts):
        return int(parts[1]), int(parts[0])
    return 0, 0


def read_wall_s(text: Any) -> float | None:
    """Read MMCore's local time, which has microseconds and no zone; POSIX seconds."""
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return None

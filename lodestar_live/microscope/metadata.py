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

NAN = float("nan")
_BITS = {"GRAY8": 8, "GRAY16": 16, "GRAY32": 32, "RGB32": 8, "RGB64": 16}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the metadata of one image says, in our names and units.

    `received_wall_s` is the wall clock (POSIX seconds) at which MMCore received the
    image, None in snaps. `planned_axes` are those of "XYZ" that the event carried:
    the engine re-sends the stage there before every frame and would overwrite any
    feedback.
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
    planned_axes: str = ""


def read_facts(metadata: Mapping[str, Any]) -> ImageFacts:
    """Normalise one metadata dictionary."""
    axes = metadata.get("Axes")
    pixel_size_um = _number(metadata, "PixelSize_um", "PixelSizeUm")
    return ImageFacts(
        pixel_size_um=pixel_size_um if pixel_size_um > 0 else NAN,
        exposure_ms=_number(metadata, "Exposure"),
        bit_depth=_bit_depth(metadata),
        origin_px=_origin(metadata),
        binning=_binning(metadata),
        camera=str(metadata.get("Camera") or ""),
        channel=str(metadata.get("Channel") or ""),
        axes=dict(axes) if isinstance(axes, Mapping) else {},
        received_wall_s=_wall_s(metadata.get("TimeReceivedByCore")),
        planned_axes="".join(
            axis for axis in "XYZ" if f"{axis}Position_um_Intended" in metadata
        ),
    )


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
    text = str(metadata.get("Binning", "1")).split("x")[0]
    return int(text) if text.isdigit() and int(text) > 0 else 1


def _origin(metadata: Mapping[str, Any]) -> tuple[int, int]:
    x, y = _number(metadata, "ROI-X-start"), _number(metadata, "ROI-Y-start")
    if math.isfinite(x) and math.isfinite(y):
        return int(y), int(x)
    parts = str(metadata.get("ROI", "")).split("-")  # Java: "x-y-width-height"
    if len(parts) == 4 and all(p.isdigit() for p in parts):
        return int(parts[1]), int(parts[0])
    return 0, 0


def _wall_s(text: Any) -> float | None:
    """Read MMCore's local time, which has microseconds and no zone."""
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return None

"""Micro-Manager's metadata of recorded images: 1.4, 2.0, and pycro-manager's NDTiff."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lodestar_live.data import StagePosition
from lodestar_live.recording.planes import NAN, Plane

Metadata = Mapping[str, Any]


def plane_of(
    metadata: Metadata, summary: Metadata, axes: Mapping[str, Any] | None = None
) -> Plane:
    """Return what Micro-Manager says of one image.

    Parameters
    ----------
    axes
        The dataset's own axes of this image (NDTiff); None: as the metadata say.
    """
    exposure_ms = _number(metadata, "Exposure-ms", "Exposure")
    size_um = _number(metadata, "PixelSizeUm", "PixelSize_um", "PixelSize")
    if not size_um > 0:
        size_um = _number(summary, "PixelSizeUm", "PixelSize_um")
    delivered_s = _delivered_s(metadata)
    half_s = exposure_ms / 2e3 if exposure_ms > 0 else 0.0
    return Plane(
        time_index=_index(metadata, axes, "time", "FrameIndex", "Frame"),
        z_index=_index(metadata, axes, "z", "SliceIndex", "Slice"),
        channel=_channel(metadata, summary, axes),
        position=_position(metadata, summary, axes),
        t_s=delivered_s - half_s,
        exposure_ms=exposure_ms,
        pixel_size_um=size_um if size_um > 0 else NAN,
        stage_um=StagePosition(
            *(_number(metadata, f"{a}PositionUm", f"{a}Position_um") for a in "ZYX")
        ),
    )


def affine_of(metadata: Metadata) -> list[list[float]] | None:
    """Return Micro-Manager's pixel-size affine as our (y, x) matrix, None if absent."""
    text = metadata.get("PixelSizeAffine", metadata.get("AffineTransform"))
    try:
        a, b, _, d, e, _ = (float(v) for v in str(text).replace(";", "_").split("_"))
    except ValueError:
        return None
    matrix = np.array([[e, d], [b, a]])
    is_sound = np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 0
    return matrix.tolist() if is_sound else None


def since_first(planes: Sequence[Plane]) -> list[Plane]:
    """Return planes whose times count from the earliest one."""
    known = [plane.t_s for plane in planes if math.isfinite(plane.t_s)]
    zero_s = min(known, default=0.0)
    return [replace(plane, t_s=plane.t_s - zero_s) for plane in planes]


def _delivered_s(metadata: Metadata) -> float:
    """Return when the image was delivered; the camera's clock before the computer's."""
    elapsed_ms = _number(metadata, "ElapsedTime-ms")
    if math.isfinite(elapsed_ms):
        return elapsed_ms / 1e3
    for name in ("TimeReceivedByCore", "ReceivedTime", "Time"):
        try:
            text = str(metadata[name]).rsplit(" +", 1)[0].rsplit(" -", 1)[0]
            return datetime.datetime.fromisoformat(text).timestamp()
        except (KeyError, ValueError):
            continue
    return NAN


def _index(
    metadata: Metadata, axes: Mapping[str, Any] | None, axis: str, *names: str
) -> int:
    value = _number(metadata, *names) if axes is None else _number(axes, axis)
    return int(value) if math.isfinite(value) else 0


def _channel(
    metadata: Metadata, summary: Metadata, axes: Mapping[str, Any] | None
) -> str:
    if axes is not None:
        return str(axes.get("channel", ""))
    names = summary.get("ChNames") or []
    if isinstance(names, Sequence) and not isinstance(names, str) and len(names) > 1:
        index = _index(metadata, None, "channel", "ChannelIndex")
        return str(names[index]) if index < len(names) else str(index)
    name = str(metadata.get("Channel") or "")
    return "" if name == "Default" else name


def _position(
    metadata: Metadata, summary: Metadata, axes: Mapping[str, Any] | None
) -> str:
    if axes is not None:
        return str(axes.get("position", ""))
    n_positions = _number(summary, "Positions")
    name = metadata.get("PositionName")
    if name not in (None, "", "null", "Default"):
        return str(name)
    index = _number(metadata, "PositionIndex")
    return str(int(index)) if index >= 0 and n_positions > 1 else ""


def _number(metadata: Mapping[str, Any], *names: str) -> float:
    for name in names:
        value = metadata.get(name)
        if isinstance(value, bool) or value is None:
            continue
        try:
            return float(value)
        except (TypeError, ValueError):
            continue
    return NAN

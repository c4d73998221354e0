"""Zeiss CZI, read by Zeiss's own package."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.data import Pixels
from lodestar_live.errors import InputError
from lodestar_live.recording.planes import NAN, Plane, Planes

_AXES = set("TCZXY")
_UM_PER_M = 1e6


def read_czi(path: Path) -> Planes:
    """Return the planes of a CZI file; several scenes are positions.

    Raises
    ------
    InputError
        pylibCZIrw is not installed, or the file has colour pixels or an axis beside
        time, channel, z and scene.
    """
    try:
        czi = import_module("pylibCZIrw.czi")
    except ImportError as error:
        raise InputError(
            "pylibCZIrw is not installed; run `pip install 'lodestar-live[czi]'`."
        ) from error
    with ExitStack() as stack:
        document = stack.enter_context(czi.open_czi(str(path)))
        planes, places, scenes = _planes(document, path)
        close = stack.pop_all().close

    def read(number: int) -> Pixels:
        place, scene = places[number]
        roi = tuple(scenes[scene]) if scene in scenes else None
        only = {"scene": scene} if scene in scenes else {}
        return np.asarray(document.read(plane=place, roi=roi, **only)[..., 0])

    return Planes(planes, read, "CZI", close=close)


def _planes(
    document: Any, path: Path
) -> tuple[list[Plane], list[tuple[dict[str, int], int]], Mapping[int, Any]]:
    sizes = {axis: end - start for axis, (start, end) in _box(document).items()}
    unknown = sorted(a for a in sizes if a not in _AXES and sizes[a] > 1)
    if unknown:
        raise InputError(
            f"{path}: CZI axes {', '.join(unknown)} are not understood; expected time, "
            "channel, z and scenes."
        )
    kinds = set(document.pixel_types.values())
    if any(not str(kind).startswith("Gray") for kind in kinds):
        raise InputError(
            f"{path}: pixels of type {', '.join(sorted(map(str, kinds)))}; expected "
            "grey ones."
        )
    scenes = dict(document.scenes_bounding_rectangle)
    image, pixel_um = _facts(document.metadata, path)
    names, interval_s = channel_names(image), interval_of(image)
    planes, places = [], []
    axes = [range(sizes.get(axis, 1)) for axis in "TCZ"]
    for t, scene, c, z in itertools.product(axes[0], scenes or [0], *axes[1:]):
        several_channels = sizes.get("C", 1) > 1
        name = names[c] if c < len(names) else str(c)
        planes.append(
            Plane(
                time_index=t,
                z_index=z,
                channel=name if several_channels else "",
                position=str(scene) if len(scenes) > 1 else "",
                t_s=t * interval_s,
                pixel_size_um=pixel_um,
            )
        )
        places.append(({"T": t, "C": c, "Z": z}, scene))
    return planes, places, scenes


def _box(document: Any) -> Mapping[str, tuple[int, int]]:
    found: Mapping[str, tuple[int, int]] = document.total_bounding_box
    return found


def _facts(metadata: Any, path: Path) -> tuple[Mapping[str, Any], float]:
    """Return what the file says of the image, and its pixel size."""
    inside = metadata.get("ImageDocument", {}).get("Metadata", {})
    image = inside.get("Information", {}).get("Image", {})
    items = (inside.get("Scaling") or {}).get("Items") or {}
    distances = _list((items or {}).get("Distance"))
    sizes = {d.get("@Id"): float(d.get("Value") or 0) * _UM_PER_M for d in distances}
    x_um, y_um = sizes.get("X", 0.0), sizes.get("Y", 0.0)
    if abs(x_um - y_um) > 1e-3 * max(x_um, y_um):
        raise InputError(f"{path}: pixels of {x_um} x {y_um} µm; expected square ones.")
    return image, x_um if x_um > 0 else NAN


def channel_names(image: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the channels, as the metadata have them."""
    channels = (image.get("Dimensions") or {}).get("Channels") or {}
    found = _list(channels.get("Channel"))
    return [str(c.get("@Name") or number) for number, c in enumerate(found)]


def interval_of(image: Mapping[str, Any]) -> float:
    """Return the time between time points, s; NaN where the file does not say it."""
    times = (image.get("Dimensions") or {}).get("T") or {}
    interval = (times.get("Positions") or {}).get("Interval") or {}
    seconds = float(interval.get("Increment") or 0)
    return seconds if seconds > 0 else NAN


def _list(value: Any) -> list[Mapping[str, Any]]:
    """Return one or several elements of XML as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]

"""TIFF stacks: Micro-Manager's, OME, ImageJ hyperstacks, and plain ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from lodestar_live.data import Pixels, StagePosition
from lodestar_live.errors import InputError
from lodestar_live.recording.mm_metadata import affine_of, plane_of, since_first
from lodestar_live.recording.planes import NAN, Plane, Planes
from lodestar_live.recording.read_arrays import planes_of, require_time_first

_MM_TAG = 51123  # MicroManagerMetadata: JSON of one image
_UM = {
    "nm": 1e-3, "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "\\u00b5m": 1.0, "mm": 1e3, "cm": 1e4, "inch": 25_400.0, "m": 1e6, "å": 1e-4,
}  # fmt: skip
_S = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9, "min": 60.0}


def read_tiff(paths: Sequence[Path], *, axes: str | None = None) -> Planes:
    """Return the planes of a TIFF recording, one file or the files of one acquisition.

    Raises
    ------
    InputError
        An axis is not understood, or the image is a colour one.
    """
    if axes is not None:
        return planes_of(_memory(paths[0]), paths[0], axes=axes, kind="TIFF")
    files: list[Any] = []

    def close() -> None:
        for file in files:
            file.close()

    try:
        files += [tifffile.TiffFile(path) for path in paths]
        found = _planes(files, paths[0])
    except BaseException:
        close()
        raise
    return replace(found, close=close)


def _planes(files: Sequence[Any], path: Path) -> Planes:
    first = files[0]
    if _MM_TAG in first.pages[0].tags:
        return _micro_manager(files)
    if len(files) > 1:
        raise InputError(
            f"{path.parent}: {len(files)} TIFF stacks without Micro-Manager's "
            "metadata; open one of them."
        )
    series = [s for s in first.series if s.kind != "Thumbnail"]
    if len(series) > 1 and len({(s.shape, s.dtype, s.axes) for s in series}) > 1:
        shapes = [s.shape for s in series]
        raise InputError(f"{path}: holds images of several shapes {shapes}.")
    if "S" in series[0].axes:
        return planes_of(_samples(series[0], path), path, kind="TIFF")
    if len(series) > 1 and series[0].ndim == 2:
        return _pages(first, [s.pages[0] for s in series], "TIFF")
    return _series(first, series, path)


def _memory(path: Path) -> Pixels:
    try:  # large stacks stay on disk
        return np.asarray(tifffile.memmap(path, mode="r"))
    except ValueError:  # compressed or tiled: read whole
        return np.asarray(tifffile.imread(path))


def _samples(series: Any, path: Path) -> Pixels:
    """Return samples last, as colour images have them."""
    if series.axes.endswith("S"):
        return np.asarray(series.asarray())
    raise InputError(
        f"{path}: axes {series.axes} of shape {series.shape}: colour planes, or frames "
        "that were written without photometric='minisblack'? Say --axes tyx."
    )


def _pages(file: Any, pages: Sequence[Any], kind: str) -> Planes:
    planes = [Plane(time_index=index) for index in range(len(pages))]
    return Planes(planes, lambda n: np.asarray(pages[n].asarray()), kind)


def _micro_manager(files: Sequence[Any]) -> Planes:
    pages = [page for file in files for page in file.pages]
    found = [_mm_json(page) for page in pages]
    first = files[0].micromanager_metadata or {}
    summary = first.get("Summary") or {}
    planes = [plane_of(metadata, summary) for metadata in found]
    order = sorted(range(len(planes)), key=lambda n: _when(planes[n]))
    ordered = since_first([planes[n] for n in order])
    return Planes(
        ordered,
        lambda n: np.asarray(pages[order[n]].asarray()),
        "Micro-Manager TIFF stack",
        affine_of(found[0]) or affine_of(summary),
    )


def _mm_json(page: Any) -> dict[str, Any]:
    tag = page.tags.get(_MM_TAG)
    value = {} if tag is None else tag.value
    value = json.loads(value) if isinstance(value, (str, bytes)) else value
    return dict(value) if isinstance(value, Mapping) else {}


def _when(plane: Plane) -> tuple[int, str, str, int]:
    return plane.time_index, plane.position, plane.channel, plane.z_index


def _series(file: Any, series: Sequence[Any], path: Path) -> Planes:
    """Return planes of series whose axes tifffile names; several are positions."""
    axes, shape = series[0].axes, series[0].shape
    kind = "OME-TIFF" if file.is_ome else "ImageJ" if file.is_imagej else "TIFF"
    known = set("TCZYXR")
    if kind == "TIFF":
        known |= set("IQ")  # pages that nobody named: frames
    unknown = set(axes) - known
    if unknown or axes[-2:] != "YX" or ({"I", "Q"} <= set(axes)):
        raise InputError(
            f"{path}: axes {axes} of shape {shape}: "
            f"{', '.join(sorted(unknown)) or axes} is not understood; expected time, "
            "channel, z and position before (y, x). Name them with --axes."
        )
    if axes in ("QYX", "IYX"):
        require_time_first(shape, path)
    facts = _Facts(file, kind)
    planes, keys = [], []
    for number, one in enumerate(series):
        for index in np.ndindex(*one.shape[:-2]):
            place = dict(zip(one.axes, index, strict=False))
            keys.append((number, index))
            planes.append(facts.plane(place, number, len(series)))
    order = sorted(range(len(planes)), key=lambda n: _when(planes[n]))
    readers = [_reader(one) for one in series]

    def read(n: int) -> Pixels:
        number, index = keys[order[n]]
        return np.asarray(readers[number](index))

    return Planes(since_first([planes[n] for n in order]), read, kind)


def _reader(series: Any) -> Any:
    """Return (index of a plane) -> pixels; a page at a time where a page is a plane."""
    shape = series.shape[:-2]
    if len(series.pages) == math.prod(shape):
        return lambda index: np.asarray(
            series.pages[
                int(np.ravel_multi_index(index, shape)) if shape else 0
            ].asarray()
        )
    whole = None

    def read(index: tuple[int, ...]) -> Pixels:
        nonlocal whole
        if whole is None:
            try:
                whole = tifffile.memmap(series.parent.filehandle.path, mode="r")
                whole = whole.reshape(series.shape)
            except ValueError:
                whole = series.asarray()
        return np.asarray(whole[index])

    return read


class _Facts:
    """Time, size and names of an OME or ImageJ file, by index."""

    def __init__(self, file: Any, kind: str) -> None:
        self._images: list[dict[str, Any]] = []
        if kind == "OME-TIFF":
            self._images = [_ome_image(e) for e in _ome_images(file.ome_metadata)]
        elif kind == "ImageJ":
            self._images = [_imagej(file)]

    def plane(self, place: Mapping[str, int], number: int, n_series: int) -> Plane:
        image = self._images[min(number, len(self._images) - 1)] if self._images else {}
        t, c, z = (place.get(axis, 0) for axis in "TCZ")
        t += place.get("I", place.get("Q", 0))
        names = image.get("channels", ())
        own = image.get("planes", {}).get((t, c, z), {})
        interval_s = image.get("interval_s", NAN)
        position = place.get("R", number) if "R" in place or n_series > 1 else ""
        return Plane(
            time_index=t,
            z_index=z,
            channel=(names[c] if c < len(names) else str(c)) if "C" in place else "",
            position=str(image.get("name") or position)
            if n_series > 1
            else str(position),
            t_s=own.get("t_s", t * interval_s),
            exposure_ms=own.get("exposure_ms", NAN),
            pixel_size_um=image.get("pixel_size_um", NAN),
            stage_um=own.get("stage_um", StagePosition()),
        )


def _ome_images(text: str | None) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(text or "<OME/>")  # noqa: S314 - no entities in OME
    return [e for e in root.iter() if e.tag.endswith("}Image") or e.tag == "Image"]


def _ome_image(element: ElementTree.Element) -> dict[str, Any]:
    pixels = next((e for e in element.iter() if e.tag.endswith("Pixels")), None)
    if pixels is None:
        return {}
    channels = [e for e in pixels if e.tag.endswith("Channel")]
    planes = {}
    for e in pixels:
        if e.tag.endswith("}Plane"):
            key = tuple(int(e.get(f"The{axis}", 0)) for axis in "TCZ")
            planes[key] = _ome_plane(e)
    size = _length(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm"))
    other = _length(pixels.get("PhysicalSizeY"), pixels.get("PhysicalSizeYUnit", "µm"))
    _require_square(size, other)
    return {
        "name": element.get("Name"),
        "pixel_size_um": size,
        "interval_s": _duration(
            pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s")
        ),
        "channels": [c.get("Name") or str(n) for n, c in enumerate(channels)],
        "planes": planes,
    }


def _ome_plane(e: ElementTree.Element) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if e.get("DeltaT") is not None:
        found["t_s"] = _duration(e.get("DeltaT"), e.get("DeltaTUnit", "s"))
    if e.get("ExposureTime") is not None:
        unit = e.get("ExposureTimeUnit", "s")
        found["exposure_ms"] = 1e3 * _duration(e.get("ExposureTime"), unit)
    if e.get("PositionX") is not None:
        found["stage_um"] = StagePosition(
            *(
                _length(e.get(f"Position{axis}"), e.get(f"Position{axis}Unit", "µm"))
                for axis in "ZYX"
            )
        )
    return found


def _imagej(file: Any) -> dict[str, Any]:
    metadata = file.imagej_metadata or {}
    unit = str(metadata.get("unit", "")).lower()
    tags = file.pages[0].tags
    sizes = []
    for name in ("XResolution", "YResolution"):
        tag = tags.get(name)
        numerator, denominator = (1, 0) if tag is None else tag.value
        scale = _UM.get(unit, NAN)
        sizes.append(denominator / numerator * scale if numerator else NAN)
    _require_square(*sizes)
    interval_s = float(metadata.get("finterval") or 0.0)
    fps = float(metadata.get("fps") or 0.0)
    return {
        "pixel_size_um": sizes[0] if sizes[0] > 0 else NAN,
        "interval_s": interval_s or (1 / fps if fps else NAN),
    }


def _require_square(x_um: float, y_um: float) -> None:
    if abs(x_um - y_um) > 1e-3 * max(x_um, y_um):
        raise InputError(
            f"pixels of {x_um:g} x {y_um:g} µm; expected square ones. Say --pixel-size "
            "after resampling the images."
        )


def _length(text: str | None, unit: str) -> float:
    """Return µm; NaN where value or unit are not known (OME's "reference frame")."""
    return NAN if text is None else float(text) * _UM.get(unit.lower(), NAN)


def _duration(text: str | None, unit: str) -> float:
    return NAN if text is None else float(text) * _S.get(unit, NAN)

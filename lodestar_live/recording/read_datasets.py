"""Recordings that are folders or films: NDTiff, OME-Zarr, video files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.data import Pixels
from lodestar_live.errors import InputError
from lodestar_live.recording.mm_metadata import affine_of, plane_of, since_first
from lodestar_live.recording.planes import NAN, Plane, Planes
from lodestar_live.recording.read_arrays import grey

_CHROMA_COUNTS = 8  # by which compression makes grey videos coloured
_UM = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "angstrom": 1e-4}
_S = {"second": 1.0, "millisecond": 1e-3, "microsecond": 1e-6, "minute": 60.0}
_NDTIFF_AXES = {"time", "channel", "z", "position"}


def read_ndtiff(path: Path) -> Planes:
    """Return the planes of an NDTiff dataset, as pycro-manager and Micro-Manager write.

    Raises
    ------
    InputError
        It has an axis beside time, channel, z and position.
    """
    from ndstorage import Dataset  # comes with pycro-manager

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        dataset = Dataset(str(path))
    try:
        return _ndtiff_planes(dataset, path)
    except BaseException:
        dataset.close()
        raise


def _ndtiff_planes(dataset: Any, path: Path) -> Planes:
    places = [dict(axes) for axes in dataset.get_image_coordinates_list()]
    if not places:
        raise InputError(f"{path}: an NDTiff dataset without images.")
    unknown = sorted(set().union(*places) - _NDTIFF_AXES)
    if unknown:
        raise InputError(
            f"{path}: NDTiff axes {', '.join(unknown)} are not understood; expected "
            f"{', '.join(sorted(_NDTIFF_AXES))}."
        )
    summary = dataset.summary_metadata or {}
    found = [dataset.read_metadata(**axes) or {} for axes in places]
    planes = [
        plane_of(metadata, summary, axes)
        for metadata, axes in zip(found, places, strict=True)
    ]
    order = sorted(range(len(places)), key=lambda n: _when(planes[n], n))
    return Planes(
        since_first([planes[n] for n in order]),
        lambda n: np.asarray(dataset.read_image(**places[order[n]])),
        "NDTiff",
        affine_of(found[0]) or affine_of(summary),
        dataset.close,
    )


def _when(plane: Plane, number: int) -> tuple[float, int]:
    """Order by exposure; what has no time keeps the order in which it was written."""
    return (plane.t_s if plane.t_s == plane.t_s else float(plane.time_index), number)


def read_ome_zarr(path: Path) -> Planes:
    """Return the planes of OME-Zarr (versions 0.4 and 0.5) at full resolution.

    A single image; a plate, whose fields are positions "row/column/field"; or the
    numbered images of one folder, as bioformats2raw and Micro-Manager write them.

    Raises
    ------
    InputError
        It holds no image, or an axis is not understood.
    """
    zarr = _load("zarr", "zarr")
    group = zarr.open_group(str(path), mode="r")
    planes: list[Plane] = []
    reads: list[tuple[Any, tuple[int, ...]]] = []
    for position, image in _zarr_images(group, path):
        found, array, indices = _zarr_image(image, path)
        planes += [replace(plane, position=position) for plane in found]
        reads += [(array, index) for index in indices]
    order = sorted(range(len(planes)), key=lambda n: _when(planes[n], n))

    def read(number: int) -> Pixels:
        array, index = reads[order[number]]
        return np.asarray(array[index])

    return Planes([planes[n] for n in order], read, "OME-Zarr")


def _ome(group: Any) -> Mapping[str, Any]:
    attributes = dict(group.attrs)
    found: Mapping[str, Any] = attributes.get("ome", attributes)
    return found


def _zarr_images(group: Any, path: Path) -> list[tuple[str, Any]]:
    """Return the images of a hierarchy with the names of their positions."""
    ome = _ome(group)
    if ome.get("multiscales"):
        return [("", group)]
    if "plate" in ome:
        found = []
        for well in (str(well["path"]) for well in ome["plate"]["wells"]):
            fields = _ome(group[well]).get("well", {}).get("images", ())
            names = [f"{well}/{field['path']}" for field in fields]
            found += [(name, group[name]) for name in names]
        return found
    if "well" in ome:
        names = [str(field["path"]) for field in ome["well"]["images"]]
        return [(name, group[name]) for name in names]
    members = dict(group.groups())
    names = ome.get("series") or sorted(
        (name for name in members if name != "OME"), key=lambda n: (len(n), n)
    )
    found = [(n, members[n]) for n in names if _ome(members[n]).get("multiscales")]
    if not found:
        raise InputError(
            f"{path}: a zarr folder without 'multiscales' or 'plate'; expected an "
            "OME-Zarr image, a plate, or a folder of images."
        )
    return found if len(found) > 1 else [("", found[0][1])]


def _zarr_image(
    group: Any, path: Path
) -> tuple[list[Plane], Any, list[tuple[int, ...]]]:
    ome = _ome(group)
    image = ome["multiscales"][0]
    axes = [_axis(axis, path) for axis in image["axes"]]
    names = "".join(name for name, _ in axes)
    dataset = image["datasets"][0]
    array = group[dataset["path"]]
    if names[-2:] != "yx" or len(names) != array.ndim:
        raise InputError(
            f"{path}: axes {names} of shape {array.shape}; expected y, x last."
        )
    sizes = dict(zip(names, _scales(image, dataset, len(names)), strict=True))
    units = dict(axes)
    pixel_um = [sizes[a] * _UM.get(units[a], NAN) for a in "yx"]
    if abs(pixel_um[0] - pixel_um[1]) > 1e-3 * max(pixel_um):
        raise InputError(f"{path}: pixels of {pixel_um} µm; expected square ones.")
    interval_s = sizes.get("t", NAN) * _S.get(units.get("t", ""), NAN)
    channels = [c.get("label") for c in (ome.get("omero") or {}).get("channels", [])]
    indices = list(np.ndindex(*array.shape[:-2]))
    planes = [
        _zarr_plane(
            dict(zip(names, index, strict=False)), channels, interval_s, pixel_um[1]
        )
        for index in indices
    ]
    return planes, array, indices


def _axis(axis: Any, path: Path) -> tuple[str, str]:
    name = axis if isinstance(axis, str) else str(axis.get("name"))
    if name not in tuple("tczyx"):
        raise InputError(
            f"{path}: OME-Zarr axis {name!r} is not understood; expected t, c, z, y, x."
        )
    return name, "" if isinstance(axis, str) else str(axis.get("unit", ""))


def _scales(image: Any, dataset: Any, n_axes: int) -> Sequence[float]:
    scale = np.ones(n_axes)
    for owner in (dataset, image):
        for change in owner.get("coordinateTransformations") or ():
            if change.get("type") == "scale":
                scale = scale * np.asarray(change["scale"], dtype=float)
    return [float(value) for value in scale]


def _zarr_plane(
    place: Mapping[str, int],
    channels: Sequence[str | None],
    interval_s: float,
    pixel_size_um: float,
) -> Plane:
    c = place.get("c", 0)
    name = channels[c] if c < len(channels) and channels[c] else str(c)
    return Plane(
        time_index=place.get("t", 0),
        z_index=place.get("z", 0),
        channel=str(name) if "c" in place else "",
        t_s=place.get("t", 0) * interval_s,
        pixel_size_um=pixel_size_um,
    )


class _Video:
    """Frames of a film by number, read on and on where they are asked for in order."""

    def __init__(self, path: Path) -> None:
        imageio = import_module("imageio.v2")
        try:
            self._reader: Any = imageio.get_reader(str(path), format="FFMPEG")
        except ImportError as error:
            raise _not_installed("imageio-ffmpeg", "movie") from error
        self._path = path
        facts = self._reader.get_meta_data()
        self.fps = float(facts.get("fps") or NAN)
        self.n_frames = int(self._reader.count_frames())

    def close(self) -> None:
        """Let ffmpeg end."""
        self._reader.close()

    def __call__(self, number: int) -> Pixels:
        picture = np.asarray(self._reader.get_data(number))
        return grey(picture, self._path, tolerance=_CHROMA_COUNTS)


def read_video(path: Path) -> Planes:
    """Return the frames of an AVI, MP4 or other film that ffmpeg reads.

    Their times are those at which they are shown: a camera's own rate only if whoever
    made the film kept it.
    """
    video = _Video(path)
    planes = [
        Plane(time_index=number, t_s=number / video.fps)
        for number in range(video.n_frames)
    ]
    return Planes(planes, video, "video", close=video.close)


def _load(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise _not_installed(module, extra) from error


def _not_installed(package: str, extra: str) -> InputError:
    return InputError(
        f"{package} is not installed; run `pip install 'lodestar-live[{extra}]'`."
    )

"""Recorded images and movies as sequences of 2-D arrays with their time and place."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from lodestar_live.data import Pixels
from lodestar_live.errors import InputError, LodestarError
from lodestar_live.recording.planes import NAN, Plane, Planes
from lodestar_live.recording.read_arrays import planes_of, read_array
from lodestar_live.recording.read_czi import read_czi
from lodestar_live.recording.read_datasets import (
    read_ndtiff,
    read_ome_zarr,
    read_video,
)
from lodestar_live.recording.read_tiff import read_tiff

_TIFF = {".tif", ".tiff"}
_NOT_READ = {
    ".nd2": "save it as OME-TIFF in NIS-Elements, or convert it with bioformats2raw",
    ".lif": "export it as OME-TIFF in LAS X, or convert it with bioformats2raw",
}
_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".pgm"}
_ARRAYS = {".npy", ".npz"}
_VIDEOS = {".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v"}
_READ = "TIFF, NDTiff, OME-Zarr, CZI, AVI, MP4, PNG, JPEG, BMP or a numpy array"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which images of a recording, and what the user knows better than its metadata.

    Parameters
    ----------
    channel, position
        Names, or numbers from 0. None: all there are.
    z
        Slice; needed where there are several.
    frames
        Time points as ``first:last`` (last left out), like a slice; None: all.
    fps
        Frames per second: replaces the recording's time axis.
    pixel_size_um
        Replaces the recording's own.
    axes
        Order of axes of an array or TIFF that does not name them, e.g. ``tyx``.
    """

    channel: str | None = None
    position: str | None = None
    z: int | None = None
    frames: str | None = None
    fps: float | None = None
    pixel_size_um: float | None = None
    axes: str | None = None

    def __post_init__(self) -> None:
        for name in ("fps", "pixel_size_um"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} = {value}: expected a positive number.")


class Movie:
    """Frames of a recording in the order of their exposure, read one at a time.

    Parameters
    ----------
    path
        TIFF (Micro-Manager, OME, ImageJ, plain), NDTiff or OME-Zarr folder, CZI, AVI or
        MP4, an image, a .npy or .npz array, or a folder of images (sorted by name).
    choice
        See `Choice`; None: everything, by the recording's own metadata.

    Attributes
    ----------
    planes
        Time and place of each frame.
    time_axis
        Where times come from: ``metadata``, ``fps`` (the user's), or ``none``.
    kind
        Of the file.
    affine_um_per_px
        (y, x) matrix from pixels to the stage, as the recording knows it, or None.

    Raises
    ------
    InputError
        The path is missing, unreadable, empty, holds colour images or axes that are not
        understood, or nothing is left of it by the choice.
    """

    def __init__(self, path: str | Path, choice: Choice | None = None) -> None:
        self.path, choice = Path(path), choice or Choice()
        if not self.path.exists():
            raise InputError(f"{path}: no such file or folder.")
        found = _read(self.path, choice.axes)
        self.kind, self._read = found.kind, found.read
        self.close = weakref.finalize(self, found.close)
        self.affine_um_per_px = found.affine_um_per_px
        self._numbers = _chosen(found.planes, choice, self.path)
        planes = [found.planes[number] for number in self._numbers]
        self.time_axis = _time_axis(planes, choice)
        self.planes: Sequence[Plane] = [_corrected(plane, choice) for plane in planes]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Pixels:
        pixels = self._read(self._numbers[index])
        if pixels.dtype.kind not in "uifcb":
            raise InputError(
                f"{self.path}: pixels of type {pixels.dtype}; expected numbers."
            )
        return pixels

    def __iter__(self) -> Iterator[Pixels]:
        for index in range(len(self)):
            yield self[index]

    @property
    def channels(self) -> list[str]:
        """Names of the channels, in the order in which they come."""
        return list(dict.fromkeys(plane.channel for plane in self.planes))

    @property
    def positions(self) -> list[str]:
        """Names of the stage positions, in the order in which they come."""
        return list(dict.fromkeys(plane.position for plane in self.planes))

    @property
    def pixel_size_um(self) -> float:
        """Of the first frame; NaN if unknown."""
        return self.planes[0].pixel_size_um

    @property
    def interval_s(self) -> float:
        """Median time between frames of one channel and position; NaN if unknown."""
        first = self.planes[0]
        times = {
            plane.time_index: plane.t_s
            for plane in self.planes
            if (plane.channel, plane.position) == (first.channel, first.position)
        }
        steps = np.diff(list(times.values())) / np.diff(list(times))
        steps = steps[np.isfinite(steps) & (steps > 0)]
        return float(np.median(steps)) if len(steps) else NAN

    @property
    def knows_stage(self) -> bool:
        """Whether frames say where the stage stood."""
        return any(math.isfinite(plane.stage_um.y_um) for plane in self.planes)

    def require_one(self) -> None:
        """Refuse a recording of several channels or positions.

        Raises
        ------
        InputError
            It names them.
        """
        for option, names in (("channel", self.channels), ("position", self.positions)):
            if len(names) > 1:
                raise InputError(
                    f"{self.path}: holds {len(names)} {option}s ({', '.join(names)}); "
                    f"choose one with --{option}."
                )


def open_movie(path: str | Path, choice: Choice | None = None) -> Movie:
    """Open a recording; see `Movie`."""
    return Movie(path, choice)


def read_image(
    path: str | Path, frame: int = 0, choice: Choice | None = None
) -> Pixels:
    """Read one image, or frame `frame` of a movie: shape (y, x).

    Raises
    ------
    InputError
        As `Movie`; or the recording has several channels or positions and none is
        chosen, or no such frame.
    """
    movie = Movie(path, choice)
    movie.require_one()
    if not 0 <= frame < len(movie):
        raise InputError(f"{path}: frame {frame} asked for; it has {len(movie)}.")
    return movie[frame]


def _read(path: Path, axes: str | None) -> Planes:
    try:
        return _reader(path)(path, axes)
    except LodestarError:
        raise
    except Exception as error:  # each reader has exceptions of its own
        raise InputError(
            f"{path}: cannot be read as an image ({type(error).__name__}: {error}); "
            f"expected {_READ}."
        ) from error


def _reader(path: Path) -> Callable[[Path, str | None], Planes]:
    if path.is_dir():
        return _folder_reader(path)
    suffix = path.suffix.lower()
    if suffix in _TIFF:
        return lambda p, axes: read_tiff([p], axes=axes)
    if suffix in _ARRAYS:
        return lambda p, axes: planes_of(read_array(p), p, axes=axes)
    if suffix == ".czi":
        return lambda p, _axes: read_czi(p)
    if suffix in _NOT_READ:
        raise InputError(f"{path}: {suffix} is not read; {_NOT_READ[suffix]}.")
    if suffix in _VIDEOS:
        return lambda p, _axes: read_video(p)
    return lambda p, axes: planes_of(np.asarray(imageio.imread(p)), p, axes=axes)


def _folder_reader(path: Path) -> Callable[[Path, str | None], Planes]:
    if (path / "NDTiff.index").exists():
        return lambda p, _axes: read_ndtiff(p)
    inside = [p for p in path.iterdir() if (p / "NDTiff.index").exists()]
    if len(inside) == 1:  # the folder that pycro-manager was given
        return lambda _p, _axes: read_ndtiff(inside[0])
    if len(inside) > 1:
        names = ", ".join(sorted(p.name for p in inside))
        raise InputError(f"{path}: holds several NDTiff datasets ({names}); open one.")
    if any((path / name).exists() for name in (".zgroup", ".zattrs", "zarr.json")):
        return lambda p, _axes: read_ome_zarr(p)
    stacks = sorted(path.glob("*_MMStack*.tif"))
    if stacks:
        return lambda _p, axes: read_tiff(stacks, axes=axes)
    return lambda p, _axes: _image_folder(p)


def _image_folder(path: Path) -> Planes:
    known = _TIFF | _IMAGES | _ARRAYS
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in known)
    if not files:
        raise InputError(
            f"{path}: no images in this folder; expected files ending in "
            f"{', '.join(sorted(known))}, an NDTiff dataset or an OME-Zarr image."
        )

    def read(number: int) -> Pixels:
        found = _read(files[number], None)
        try:
            if len(found.planes) != 1:
                raise InputError(
                    f"{files[number]}: {len(found.planes)} images; expected one per "
                    "file."
                )
            return found.read(0)
        finally:
            found.close()

    planes = [Plane(time_index=number) for number in range(len(files))]
    read(0)  # an unreadable folder is refused now
    return Planes(planes, read, "folder of images")


def _chosen(planes: Sequence[Plane], choice: Choice, path: Path) -> list[int]:
    """Return the numbers of the chosen planes."""
    numbers = list(range(len(planes)))
    for option in ("channel", "position"):
        names = list(dict.fromkeys(getattr(plane, option) for plane in planes))
        wanted = _name(getattr(choice, option), names, option, path)
        if wanted is not None:
            numbers = [n for n in numbers if getattr(planes[n], option) == wanted]
    slices = sorted({planes[n].z_index for n in numbers})
    if choice.z is None and len(slices) > 1:
        raise InputError(
            f"{path}: {len(slices)} slices along z (0 to {slices[-1]}); particles are "
            "found in one plane: choose it with --z."
        )
    if choice.z is not None:
        numbers = [n for n in numbers if planes[n].z_index == choice.z]
    if choice.frames is not None:
        times = sorted({planes[n].time_index for n in numbers})
        wanted_times = set(times[_slice(choice.frames)])
        numbers = [n for n in numbers if planes[n].time_index in wanted_times]
    if not numbers:
        raise InputError(
            f"{path}: nothing is left of its {len(planes)} images by {choice}."
        )
    return numbers


def _name(wanted: str | None, names: list[str], option: str, path: Path) -> str | None:
    if wanted is None or wanted in names:
        return wanted
    if wanted.isdigit() and int(wanted) < len(names):
        return names[int(wanted)]
    shown = ", ".join(repr(name) for name in names)
    raise InputError(f"{path}: no {option} {wanted!r}; it has {shown}.")


def _slice(text: str) -> slice:
    try:
        parts = [int(part) if part else None for part in text.split(":")]
        if not 2 <= len(parts) <= 3:
            raise ValueError
        return slice(*parts)
    except ValueError:
        raise InputError(
            f"frames = {text!r}: expected first:last, like 100:200 or :50."
        ) from None


def _time_axis(planes: Sequence[Plane], choice: Choice) -> str:
    if choice.fps is not None:
        return "fps"
    known = {plane.t_s for plane in planes if math.isfinite(plane.t_s)}
    is_known = all(math.isfinite(plane.t_s) for plane in planes)
    return "metadata" if is_known and (len(known) > 1 or len(planes) == 1) else "none"


def _corrected(plane: Plane, choice: Choice) -> Plane:
    if choice.fps is not None:
        plane = replace(plane, t_s=plane.time_index / choice.fps)
    if choice.pixel_size_um is not None:
        plane = replace(plane, pixel_size_um=choice.pixel_size_um)
    return plane

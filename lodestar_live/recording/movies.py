"""Recorded images and movies as sequences of 2-D arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import tifffile

from lodestar_live.data import Pixels
from lodestar_live.errors import InputError

_TIFF = {".tif", ".tiff"}
_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".pgm"}
_ARRAYS = {".npy", ".npz"}


class Movie:
    """Frames of a recording, read one at a time.

    Parameters
    ----------
    path
        A TIFF file or stack, an image, a .npy array of shape (y, x) or (t, y, x), a
        .npz holding one such array, or a folder of images (sorted by name).

    Raises
    ------
    InputError
        The path is missing, unreadable, empty, or holds colour images.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise InputError(f"{path}: no such file or folder.")
        self._files: list[Path] = []
        self._frames: Pixels | None = None
        if self.path.is_dir():
            self._files = self._list_folder()
        else:
            self._frames = _as_stack(_read(self.path), self.path)

    def __len__(self) -> int:
        return len(self._files) if self._frames is None else len(self._frames)

    def __getitem__(self, index: int) -> Pixels:
        if self._frames is not None:
            return np.asarray(self._frames[index])
        path = self._files[index]
        stack = _as_stack(_read(path), path)
        if len(stack) != 1:
            raise InputError(f"{path}: {len(stack)} images; expected one per file.")
        return np.asarray(stack[0])

    def __iter__(self) -> Iterator[Pixels]:
        for index in range(len(self)):
            yield self[index]

    def _list_folder(self) -> list[Path]:
        known = _TIFF | _IMAGES | _ARRAYS
        files = sorted(p for p in self.path.iterdir() if p.suffix.lower() in known)
        if not files:
            raise InputError(
                f"{self.path}: no images in this folder; expected files ending in "
                f"{', '.join(sorted(known))}."
            )
        return files


def open_movie(path: str | Path) -> Movie:
    """Open a recording; see `Movie`."""
    return Movie(path)


def read_image(path: str | Path, frame: int = 0) -> Pixels:
    """Read one image, or frame `frame` of a movie: shape (y, x)."""
    movie = Movie(path)
    if not 0 <= frame < len(movie):
        raise InputError(f"{path}: frame {frame} asked for; it has {len(movie)}.")
    return movie[frame]


def _read(path: Path) -> Pixels:
    suffix = path.suffix.lower()
    try:
        if suffix in _TIFF:
            return _read_tiff(path)
        if suffix in _ARRAYS:
            return _read_array(path)
        return np.asarray(imageio.imread(path))
    except InputError:
        raise
    except Exception as error:  # each reader has exceptions of its own
        raise InputError(
            f"{path}: cannot be read as an image ({type(error).__name__}: {error}); "
            "expected TIFF, PNG, JPEG, BMP or a numpy array."
        ) from error


def _read_tiff(path: Path) -> Pixels:
    try:  # large stacks stay on disk
        return np.asarray(tifffile.memmap(path, mode="r"))
    except ValueError:  # compressed or tiled: read whole
        return np.asarray(tifffile.imread(path))


def _read_array(path: Path) -> Pixels:
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    names = loaded.files
    if len(names) == 1 or "data" in names:
        return np.asarray(loaded["data" if "data" in names else names[0]])
    raise InputError(f"{path}: holds {names}; expected one array or one named 'data'.")


def _as_stack(pixels: Pixels, path: Path) -> Pixels:
    if pixels.ndim == 4 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    is_colour = pixels.ndim >= 3 and pixels.shape[-1] in (3, 4) and pixels.shape[-2] > 4
    if is_colour and pixels.dtype == np.uint8:
        return _grey(pixels, path)
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise InputError(
            f"{path}: array of shape {pixels.shape}; expected (y, x) or (t, y, x)."
        )
    if pixels.dtype.kind not in "uifcb":
        raise InputError(f"{path}: pixels of type {pixels.dtype}; expected numbers.")
    return pixels


def _grey(pixels: Pixels, path: Path) -> Pixels:
    """Accept colour files whose channels are all alike; refuse real colour."""
    first = pixels[..., 0]
    if not all(np.array_equal(first, pixels[..., k]) for k in (1, 2)):
        raise InputError(
            f"{path}: a colour image of shape {pixels.shape}; expected one channel. "
            "Convert it to grey first (e.g. the channel that shows the particle)."
        )
    return first[None] if first.ndim == 2 else first

"""Arrays without a word about their axes: .npy, .npz, images, plain TIFF pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lodestar_live.data import Pixels
from lodestar_live.errors import InputError
from lodestar_live.recording.planes import Plane, Planes

_WIDEST = 4.0  # ratio of a frame's sides beyond which its axes are doubted
AXES = "tczyx"


def read_array(path: Path) -> Pixels:
    """Return the array in a .npy or .npz, without loading a .npy whole."""
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    names = loaded.files
    if len(names) == 1 or "data" in names:
        return np.asarray(loaded["data" if "data" in names else names[0]])
    raise InputError(f"{path}: holds {names}; expected one array or one named 'data'.")


def planes_of(
    pixels: Pixels, path: Path, *, axes: str | None = None, kind: str = "array"
) -> Planes:
    """Return an array as planes.

    Parameters
    ----------
    axes
        The user's word on the order of axes, out of `AXES`, e.g. ``yxt``. None: (y, x)
        or (t, y, x), refused where that is doubtful.

    Raises
    ------
    InputError
        The axes are not understood, the image is a colour one, or pixels are not
        numbers.
    """
    if pixels.dtype.kind not in "uifcb":
        raise InputError(f"{path}: pixels of type {pixels.dtype}; expected numbers.")
    if axes is not None:
        pixels, axes = _ordered(pixels, axes.lower(), path)
    else:
        pixels, axes = _guessed(pixels, path)
    sizes = dict(zip(axes[:-2], pixels.shape[:-2], strict=True))
    indices = list(np.ndindex(*pixels.shape[:-2]))
    planes = [_plane(dict(zip(sizes, index, strict=True)), sizes) for index in indices]
    return Planes(planes, lambda n: np.asarray(pixels[indices[n]]), kind)


def _plane(index: dict[str, int], sizes: dict[str, int]) -> Plane:
    return Plane(
        time_index=index.get("t", 0),
        z_index=index.get("z", 0),
        channel=str(index["c"]) if sizes.get("c", 1) > 1 else "",
    )


def _ordered(pixels: Pixels, axes: str, path: Path) -> tuple[Pixels, str]:
    is_right = (
        len(axes) == pixels.ndim
        and len(set(axes)) == len(axes)
        and set("yx") <= set(axes) <= set(AXES)
    )
    if not is_right:
        raise InputError(
            f"{path}: axes {axes!r} for an array of shape {pixels.shape}; expected one "
            f"letter each out of {AXES!r}, y and x among them."
        )
    wanted = "".join(axis for axis in AXES if axis in axes)
    return np.transpose(pixels, [axes.index(axis) for axis in wanted]), wanted


def _guessed(pixels: Pixels, path: Path) -> tuple[Pixels, str]:
    if pixels.ndim == 4 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim >= 3 and pixels.shape[-1] in (3, 4) and pixels.shape[-2] > 4:
        pixels = grey(pixels, path)
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise InputError(
            f"{path}: array of shape {pixels.shape}; expected (y, x) or (t, y, x), or "
            "name the axes with --axes, e.g. --axes tcyx."
        )
    if pixels.ndim == 2:
        return pixels, "yx"
    require_time_first(pixels.shape, path)
    return pixels, "tyx"


def require_time_first(shape: tuple[int, ...], path: Path) -> None:
    """Refuse a stack whose last axis looks like time.

    Raises
    ------
    InputError
        Frames would be long strips, while the first two axes make a plausible image.
    """
    first, second, last = shape
    strip = max(second, last) / min(second, last)
    other = max(first, second) / min(first, second)
    if last < min(first, second) and strip > _WIDEST and other < strip / 2:
        raise InputError(
            f"{path}: array of shape {shape}: are these {first} frames of {second} x "
            f"{last} pixels, or {last} frames of {first} x {second}? Say --axes tyx or "
            "--axes yxt."
        )


def grey(pixels: Pixels, path: Path, *, tolerance: float = 0) -> Pixels:
    """Accept colour images whose channels are all alike; refuse real colour.

    Parameters
    ----------
    pixels
        Shape (..., 3) or (..., 4).
    tolerance
        Difference between channels that compression may have made, counts.
    """
    first = pixels[..., 0]
    for k in (1, 2):
        difference = np.abs(first.astype(float) - pixels[..., k])
        if difference.max(initial=0) > tolerance:
            raise InputError(
                f"{path}: a colour image of shape {pixels.shape}; expected one "
                "channel. Convert it to grey first (e.g. the channel that shows the "
                "particle), or name the axes with --axes if the last one is another."
            )
    return first

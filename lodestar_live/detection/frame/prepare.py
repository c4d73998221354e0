"""Check a frame and find its two levels before it enters the graph."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lodestar_live.data import Pixels
from lodestar_live.errors import InputError

_IN_GRAPH = (np.uint8, np.uint16, np.float32)
_FULL_SCALES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))
_LARGEST = 1e18  # squares of larger numbers leave float32
_SMALLEST = float(np.finfo(np.float32).tiny)
_MAX_SAMPLES = 16384
_SIGNAL_FLOOR = 0.005
_MAD_TO_SIGMA = 1.4826
_ROUNDING = np.float32(1e-6)
_MOST = 0.75
Mask = npt.NDArray[np.bool_]


class Levels(NamedTuple):
    """Background and noise of a frame, camera counts."""

    background: float
    noise: float


_NORMALISED = Levels(0, 1)


class Intake(NamedTuple):
    """A frame as the graph takes it.

    Parameters
    ----------
    image
        (channels, y, x), uint8, uint16 or float32.
    levels
        The frame's own; its noise is also what a unit of normalised contrast is in
        camera counts.
    is_normalised
        Whether `image` is: then the graph has nothing to subtract and divide by.
    bad
        True where a pixel was not a number, shape (y, x); None if all are.
    """

    image: Pixels
    levels: Levels
    is_normalised: bool
    bad: Mask | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(y, x)."""
        return self.image.shape[-2:]

    @property
    def graph_levels(self) -> Levels:
        """What the graph subtracts from `image` and divides it by."""
        return _NORMALISED if self.is_normalised else self.levels


def take_in(pixels: Pixels, levels: Levels | None = None) -> Intake:
    """Check a frame and convert it if the graph cannot.

    Parameters
    ----------
    pixels
        Shape (y, x), any real type, or a complex field with background 1.
    levels
        Known levels; None: estimated from this frame.

    Raises
    ------
    InputError
        Not a two-dimensional image.
    """
    if pixels.ndim != 2 or 0 in pixels.shape or pixels.dtype.kind not in "buifc":
        raise InputError(
            f"frame of shape {pixels.shape} and type {pixels.dtype}: expected numbers, "
            "(y, x), at least one pixel. Take one channel of a colour image."
        )
    if pixels.dtype.kind == "c":
        return _take_field(pixels)
    bad = None
    if pixels.dtype.kind == "f":
        pixels, bad = _fill(pixels)
    levels = levels or Levels(*estimate(pixels))
    if pixels.dtype.kind == "f":
        levels = _within_float32(levels, pixels)
    if pixels.dtype in _IN_GRAPH:
        return Intake(pixels[None], levels, False, bad)
    image = np.subtract(pixels, levels.background, dtype=np.float64)
    image /= levels.noise
    return Intake(image.astype(np.float32)[None], levels, True, bad)


def _within_float32(levels: Levels, pixels: Pixels) -> Levels:
    """Raise the noise where the frame in units of it would leave float32."""
    peak = max(float(pixels.max()), -float(pixels.min()), abs(levels.background))
    return levels._replace(noise=max(levels.noise, peak / _LARGEST, _SMALLEST))


def saturated(pixels: Pixels) -> Mask | None:
    """Return where an integer frame is clipped; None if nowhere.

    Clipped means at the largest value of an 8, 10, 12, 14 or 16 bit camera, if that
    is also the largest in the frame.
    """
    if pixels.dtype.kind not in "ui":
        return None
    top = int(pixels.max())
    return np.asarray(pixels == top) if top in _FULL_SCALES else None


def may_be_saturated(parts: Iterable[Pixels]) -> bool:
    """Whether `saturated` may be set somewhere in parts of a frame.

    It is not if none of them has the largest value of a camera for its maximum.
    """
    return any(
        part.dtype.kind in "ui" and int(part.max()) in _FULL_SCALES for part in parts
    )


def _take_field(field: npt.NDArray[np.complexfloating[Any, Any]]) -> Intake:
    is_bad = ~np.isfinite(field)
    bad = is_bad if is_bad.any() else None
    image = np.stack([field.real - 1, field.imag]).astype(np.float32)
    if bad is not None:
        image[:, bad] = 0
    return Intake(image, _NORMALISED, True, bad)


def _fill(pixels: Pixels) -> tuple[Pixels, Mask | None]:
    """Replace what is not a usable number by the median of the rest."""
    flat = pixels.ravel()
    with np.errstate(all="ignore"):
        # Not `dot`: BLAS' threads would spin on the cores that the graph needs next.
        if np.einsum("i,i", flat, flat) < _LARGEST**2:  # False for NaN, too
            return pixels, None
    bad = ~(np.abs(pixels) < _LARGEST)  # also true for NaN
    filled = pixels.copy()
    filled[bad] = 0 if bad.all() else np.median(pixels[~bad])
    return filled, bad if bad.any() else None


class Normalisation(NamedTuple):
    """The network sees ``(pixels - background) / scale``; both in camera counts."""

    background: float
    scale: float


def estimate(pixels: Pixels) -> Normalisation:
    """Estimate the median and the noise of one frame.

    The noise is the median absolute value of the mixed second difference
    ``p[i,j] - p[i+1,j] - p[i,j+1] + p[i+1,j+1]`` (blind to ramps), over a regular
    subsample. It is at least 0.5 % of the frame's brightness range, so that
    noise-free images stay finite, and both numbers follow gain and offset.

    Parameters
    ----------
    pixels
        Shape (y, x), any real dtype.

    Returns
    -------
    background, scale
        Camera counts; scale > 0 (1 for a frame that is constant).
    """
    step = max(1, math.isqrt(pixels.size // _MAX_SAMPLES))
    # Edge-pad images thinner than two pixels; then four shifted views, no copies.
    thin = [(0, max(0, 2 - side)) for side in pixels.shape]
    image = np.pad(pixels, thin, mode="edge") if min(pixels.shape) < 2 else pixels
    height, width = image.shape
    if step == 1:
        image = image.astype(np.float32)
        here, down = image[:-1, :-1], image[:-1] - image[1:]
        mixed = down[:, :-1] - down[:, 1:]
    else:
        here, below, aside, across = (
            image[y : height - 1 + y : step, x : width - 1 + x : step].astype(
                np.float32
            )
            for y, x in ((0, 0), (1, 0), (0, 1), (1, 1))
        )
        mixed = (here - below) - (aside - across)
    # Sorting takes a fifth of the time of np.median or of partitioning by four ranks.
    difference = np.abs(mixed, out=mixed).ravel()
    difference.sort()
    noise = _MAD_TO_SIGMA * _middle(difference) / 2
    ordered = here.flatten()
    ordered.sort()
    n_outside = len(ordered) // 1000  # 0.1 % at either end are left out
    low, high = float(ordered[n_outside]), float(ordered[-1 - n_outside])
    background = _middle(ordered)
    floor = _SIGNAL_FLOOR * max(high - background, background - low)
    scale = max(noise, floor)
    return Normalisation(background, scale if scale > 0 else 1.0)


def _middle(ordered: npt.NDArray[np.float32]) -> float:
    """Return the median of sorted numbers, of grouped ones if they are counts.

    Few distinct values (a dim camera, 8 bit) stand for ranges: each reaches half way to
    its neighbours, and the median lies in the middle one's range, not on a step. A
    value that most have is no range: that image has no noise.
    """
    n = len(ordered)
    value = ordered[n // 2]
    same = _ROUNDING * max(abs(ordered[0]), abs(ordered[-1]))  # differences of floats
    first = int(ordered.searchsorted(value - same, "left"))
    end = int(ordered.searchsorted(value + same, "right"))
    if end - first > _MOST * n:
        return float(value)
    below, above = ordered[max(first - 1, 0)], ordered[min(end, n - 1)]
    low, high = (float(below) + float(value)) / 2, (float(value) + float(above)) / 2
    return low + (high - low) * (n / 2 - first) / (end - first)

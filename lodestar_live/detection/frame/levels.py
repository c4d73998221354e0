"""Background and noise of a frame: the two numbers that make a model gain-proof."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lodestar_live.data import Pixels

_MAX_SAMPLES = 16384
_SIGNAL_FLOOR = 0.005
_MAD_TO_SIGMA = 1.4826
_ROUNDING = np.float32(1e-6)
_MOST = 0.75


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
    here, down, aside, across = (
        image[y : height - 1 + y : step, x : width - 1 + x : step].astype(np.float32)
        for y, x in ((0, 0), (1, 0), (0, 1), (1, 1))
    )
    # Sorting takes a fifth of the time of np.median or of partitioning by four ranks.
    difference = np.sort(np.abs((here - down) - (aside - across)), axis=None)
    noise = _MAD_TO_SIGMA * _middle(difference) / 2
    ordered = np.sort(here, axis=None)
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
    first = int(np.searchsorted(ordered, value - same, "left"))
    end = int(np.searchsorted(ordered, value + same, "right"))
    if end - first > _MOST * n:
        return float(value)
    below, above = ordered[max(first - 1, 0)], ordered[min(end, n - 1)]
    low, high = (float(below) + float(value)) / 2, (float(value) + float(above)) / 2
    return low + (high - low) * (n / 2 - first) / (end - first)

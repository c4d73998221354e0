"""How far an image moved: by phase correlation, and by its particles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lodestar_live.data import FloatArray, Pixels


def image_shift(
    first: Pixels, image: Pixels, guess_px: FloatArray | None = None
) -> FloatArray:
    """Return by how much the content moved (y, x) px, by phase correlation.

    The common part of both images is cut out along the estimate and correlated again:
    edges that entered or left the view would pull a long shift towards zero.
    """
    shift: FloatArray = np.zeros(2) if guess_px is None else guess_px
    for _ in range(4):
        whole = np.round(shift).astype(int)
        rest = _correlate(_overlap(first, -whole), _overlap(image, whole))
        shift = whole + rest
        if np.abs(rest).max() < 1.0:
            break
    return shift


def _overlap(image: Pixels, shift: npt.NDArray[np.intp]) -> Pixels:
    """Part of an image that was in view before it moved by `shift` whole pixels."""
    height, width = image.shape
    y, x = (
        int(np.clip(s, -n // 2, n // 2))
        for s, n in zip(shift, image.shape, strict=True)
    )
    return image[max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]


def _correlate(first: Pixels, image: Pixels) -> FloatArray:
    from skimage.registration import phase_cross_correlation

    window = np.outer(np.hanning(first.shape[0]), np.hanning(first.shape[1]))
    flat = [(i - np.median(i)) * window for i in (first, image)]
    shift: Any = phase_cross_correlation(*flat, upsample_factor=50, normalization=None)[
        0
    ]
    return -np.asarray(shift, dtype=float)


def particle_shift(first: Pixels, image: Pixels, guess_px: FloatArray) -> FloatArray:
    """Return the median shift of matched particle centroids (y, x) px; NaN if none."""
    before, after = find_spots(first), find_spots(image)
    if not len(before) or not len(after):
        return np.full(2, np.nan)
    away = after[None] - (before + guess_px)[:, None]
    distance = np.linalg.norm(away, axis=2)
    nearest = distance.argmin(axis=1)
    is_match = distance.min(axis=1) < 2.0
    if not is_match.any():
        return np.full(2, np.nan)
    shifts = after[nearest[is_match]] - before[is_match]
    return np.asarray(np.median(shifts, axis=0))


def find_spots(image: Pixels, *, sigma_px: float = 2.0) -> FloatArray:
    """Return centroids (n, 2) of the brightest separated spots of an image."""
    smooth = ndimage.gaussian_filter(image.astype(float), sigma_px)
    smooth -= np.median(smooth)
    spread = 1.4826 * np.median(np.abs(smooth))
    half = round(3 * sigma_px)
    peaks = smooth == ndimage.maximum_filter(smooth, 4 * half + 1)
    peaks &= smooth > max(10 * spread, 0.2 * smooth.max())
    spots = []
    for y, x in np.argwhere(peaks):
        box = smooth[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
        if box.shape == (2 * half + 1, 2 * half + 1):
            spots.append(np.array([y, x]) - half + ndimage.center_of_mass(box.clip(0)))
    return np.array(spots).reshape(-1, 2)

"""Noise whose pixels hang together: how strong it is where particles are looked for.

Smoothed, resampled or median-filtered frames have little noise from one pixel to the
next, and blobs that look like particles. There a mark must stand out from the frame's
own noise at the scale of a particle. Frames with the white noise of a camera, and
crowds without room between the particles, are left alone.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lodestar_live.data import FloatArray
from lodestar_live.detection.frame.prepare import Intake

Plane = npt.NDArray[np.float32]

STANDS_OUT = 6.0  # deviations: a million pixels of any Gaussian noise reach 5 to 5.7
_LEAST_SIDE_PX = 64
_CELL_PX = 4
_PATCHES, _PATCH_PX, _LAG_PX = (8, 8), 16, 3
_ALL_OF_IT_PX = _PATCHES[0] * (_PATCH_PX + _LAG_PX)  # up to here patches overlap
_QUIETEST = 8  # one in so many patches holds hardly more than noise
_MEAN_TO_SIGMA = 1.2533
_CORRELATED = 1.15  # ratio of differences; white noise, its quietest patches: 0.95
_ROUNDED = 1e-6
_INNER, _OUTER = 1.349, 3.09  # deviations of a Gaussian's quartiles, and of 0.1 %
_FULL = 0.82  # of the tail of noise: a frame full of particles has less on one side
_USUAL_SHARE = 0.35  # of what particles that stand out themselves show


def deviation(intake: Intake, radius_px: float) -> float:
    """Return the deviation of a frame's correlated noise, in units of `intake.image`.

    0 if the noise is white, or if particles fill the frame: then nobody can tell.
    """
    image = intake.image[0]
    if min(image.shape) < _LEAST_SIDE_PX or not _is_correlated(image):
        return 0.0
    found = _standing_out(image, radius_px)
    tail = np.quantile(found, [0.001, 0.25, 0.5, 0.75, 0.999])
    sigma = float(tail[3] - tail[1]) / _INNER
    shorter = float(min(tail[2] - tail[0], tail[4] - tail[2]))
    return sigma if shorter >= _FULL * _OUTER * sigma else 0.0


def stands_out(
    intake: Intake, places_px: FloatArray, radius_px: float, sigma: float
) -> npt.NDArray[np.bool_]:
    """Say which places, (n, 2), stand out from correlated noise of a deviation.

    Where a quarter of them certainly do, a third of what these show is enough.
    """
    if not len(places_px):
        return np.zeros(0, bool)
    reach = max(1, int(np.ceil(radius_px / _CELL_PX)))
    margin = (_ring_cells(radius_px) + reach + 1) * _CELL_PX
    shape = intake.image.shape[1:]
    start = np.maximum(places_px.min(axis=0) - margin, 0) // _CELL_PX * _CELL_PX
    end = np.minimum(places_px.max(axis=0) + margin, shape)
    (top, left), (bottom, right) = start.astype(int), np.ceil(end).astype(int)
    found = np.abs(_standing_out(intake.image[0, top:bottom, left:right], radius_px))
    around = ndimage.maximum_filter(found, 2 * reach + 1)
    cell = ((places_px - start) / _CELL_PX).astype(int)
    row, column = np.clip(cell, 0, np.subtract(found.shape, 1)).T
    height = around[row, column]
    least = STANDS_OUT * sigma
    usual = float(np.quantile(height, 0.75))
    if usual > least:
        least = min(least, _USUAL_SHARE * usual)
    return np.asarray(height >= least)


def _is_correlated(image: npt.NDArray[np.generic]) -> bool:
    """Say whether pixels three apart differ by more than neighbours do, all over.

    White noise differs by as much at any distance, and a particle, a wall or haze is
    not everywhere: the quietest patches tell.
    """
    if max(image.shape) <= _ALL_OF_IT_PX:
        sample = image.astype(np.float32)
        beside, apart = (_difference_of_all(sample, lag) for lag in (1, _LAG_PX))
    else:
        span = _PATCH_PX + _LAG_PX
        rows, columns = (
            (starts[:, None] + np.arange(span)).ravel()
            for starts in map(_starts, image.shape, _PATCHES)
        )
        n_down, n_aside = _PATCHES
        sample = image[rows][:, columns].astype(np.float32)
        patches = sample.reshape(n_down, span, n_aside, span)
        beside, apart = (_difference(patches, lag) for lag in (1, _LAG_PX))
    quiet = apart.argsort()[: len(apart) // _QUIETEST]
    least = _ROUNDED * float(max(sample.max(), -sample.min()))
    return bool(apart[quiet].sum() > _CORRELATED * beside[quiet].sum() + least)


@lru_cache(maxsize=32)
def _starts(side: int, n: int) -> npt.NDArray[np.int64]:
    """Return where `n` patches begin along a side."""
    return np.linspace(0, side - _PATCH_PX - _LAG_PX, n).astype(np.int64)


@lru_cache(maxsize=64)
def _patch_sums(side: int, n: int, lag: int) -> Plane:
    """Return the matrix, (n, side - lag), that sums over each patch along a side."""
    at = np.arange(side - lag) - _starts(side, n)[:, None]
    return ((at >= 0) & (at < _PATCH_PX)).astype(np.float32)


def _difference_of_all(image: Plane, lag: int) -> Plane:
    """Return what `_difference` does, where patches overlap: each pixel once."""
    mixed = image[:-lag] - image[lag:]
    mixed = mixed[:, :-lag] - mixed[:, lag:]
    np.abs(mixed, out=mixed)
    (height, width), (n_down, n_aside) = image.shape, _PATCHES
    down = _patch_sums(height, n_down, lag)
    aside = _patch_sums(width, n_aside, lag)
    total: Plane = (down @ mixed @ aside.T).ravel()
    return total * np.float32(_MEAN_TO_SIGMA / 2 / _PATCH_PX**2)


def _difference(patches: Plane, lag: int) -> Plane:
    """Return the deviation of mixed second differences in each patch."""
    side, far = slice(None, _PATCH_PX), slice(lag, lag + _PATCH_PX)
    mixed = patches[:, side, :, side] - patches[:, far, :, side]
    mixed -= patches[:, side, :, far]
    mixed += patches[:, far, :, far]
    mean: Plane = np.abs(mixed, out=mixed).mean(axis=(1, 3)).ravel()
    return mean * np.float32(_MEAN_TO_SIGMA / 2)


def _ring_cells(radius_px: float) -> int:
    return max(2, int(np.ceil(2 * radius_px / _CELL_PX)))


def _standing_out(image: npt.NDArray[np.generic], radius_px: float) -> Plane:
    """Return by how much each cell differs from those a diameter around it."""
    height, width = (max(side // _CELL_PX, 1) for side in image.shape)
    pixels = image[: height * _CELL_PX, : width * _CELL_PX]
    lines = np.add.reduceat(
        pixels, np.arange(0, len(pixels), _CELL_PX), axis=0, dtype=np.float32
    )
    cells = np.add.reduceat(lines, np.arange(0, lines.shape[1], _CELL_PX), axis=1)
    cells /= _CELL_PX**2
    step = _ring_cells(radius_px)
    padded = np.pad(cells, step, mode="reflect" if min(cells.shape) > step else "edge")
    steps = [(y, x) for y in (0, step, 2 * step) for x in (0, step, 2 * step)]
    ring = np.stack([padded[y : y + height, x : x + width] for y, x in steps])
    # The median: a particle that one of them meets would make a hole here.
    return np.asarray(cells - np.median(np.delete(ring, 4, axis=0), axis=0))

"""Hot and dead pixels: found as no optics can produce them, and interpolated.

A lens spreads a point over several pixels; a pixel that differs from all around it by
much more than these differ among themselves is the camera's. Where such pixels were
seen is remembered, so that later frames are only asked about those.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from lodestar_live.data import Pixels

logger = logging.getLogger(__name__)

Indices = npt.NDArray[np.intp]
_NOISES = 8.0  # a defect differs from its neighbours' median by so many deviations
_SPREADS = 6.0  # and by so many spreads of theirs; a spot of sigma 0.8 px by 5
_CHANCE = 1.5  # deviations, the spread that noise alone gives eight neighbours
_CANDIDATE = 6.0  # deviations beyond two neighbours on opposite sides
_KNOWN = 4.0  # spreads, of a pixel that was seen before
_LEAST_COUNTS, _LEAST_SHARE = 0.5, 0.002  # noise counts as that much, of the range
_MOST = 0.01  # of the pixels; more are no defects but another kind of image
_SAMPLES = 16384
_DIFFERENCE_TO_SIGMA = 1.4826 / 2**0.5  # of its median absolute value
_EVERY = 16  # rows, of frames after the first: one is asked
_LEAST_SIDE_PX = 3
_STEPS = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x])


class PixelDefects:
    """The defects of one camera, learnt from the frames it is shown.

    All pixels of the first frame are asked, of later ones every sixteenth row in turn;
    if that finds a new defect, all. What is known is interpolated in a frame only where
    that frame shows it: what is remembered never harms another image.

    Attributes
    ----------
    n_seen
        Frames shown so far; says which rows are asked next.
    n_corrected
        Pixels interpolated in the last frame.
    """

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._known: Indices = np.empty(0, np.intp)
        self._noise = 0.0
        self.n_seen = 0
        self.n_corrected = 0

    def correct(self, pixels: Pixels) -> Pixels:
        """Return a frame, (y, x), with its defects interpolated; itself if none."""
        if pixels.ndim != 2 or pixels.dtype.kind not in "uif":
            return pixels
        if min(pixels.shape) < _LEAST_SIDE_PX:
            return pixels
        if pixels.dtype.kind != "f":
            return self._correct(pixels)
        with np.errstate(all="ignore"):  # not a number, or too large for float32
            return self._correct(pixels)

    def _correct(self, pixels: Pixels) -> Pixels:
        known = self._learn(pixels)
        corrected, self.n_corrected = _interpolated(pixels, known)
        return corrected

    def fingerprint(self) -> bytes:
        """Return what the correction of later frames depends on."""
        facts = f"{self.n_seen} {self._shape} {self._noise!r} ".encode()
        return facts + self._known.tobytes()

    def _learn(self, pixels: Pixels) -> Indices:
        """Return the defects known in frames of this shape, with new ones of it."""
        is_new = pixels.shape != self._shape
        known = np.empty(0, np.intp) if is_new else self._known
        self.n_seen += 1
        if not is_new:
            some = _find(pixels, self._noise, slice(self.n_seen % _EVERY, None, _EVERY))
            if not len(some) or np.isin(some, known).all():
                return known
        before = len(known)
        self._noise = _noise(pixels)
        known = np.union1d(known, _find(pixels, self._noise))
        if len(known) > _MOST * pixels.size:  # they wander: no camera's
            known = known[:0]
        if len(known) > before:
            logger.info("%d hot or dead pixels are interpolated", len(known))
        self._shape, self._known = pixels.shape, known
        return known


def correct_defects(pixels: Pixels) -> Pixels:
    """Return one frame, (y, x), with its hot and dead pixels interpolated."""
    return PixelDefects().correct(pixels)


def find_defects(pixels: Pixels) -> Indices:
    """Return the flat indices of pixels that no optics can produce.

    They differ from the median of their eight neighbours by eight deviations of the
    noise and by six times what these, but for one, differ from it themselves. A
    Gaussian spot of sigma 0.8 px or more never does.
    """
    return _find(pixels, _noise(pixels))


def _find(pixels: Pixels, noise: float, rows: slice | None = None) -> Indices:
    """Find the defects of all rows; of some only those beyond both sides' pixels."""
    candidates = _candidates(pixels, _CANDIDATE * noise, rows)
    if not len(candidates) or len(candidates) > 10 * _MOST * pixels.size:
        return candidates[:0]
    around = np.sort(_neighbours(pixels, candidates), axis=1)
    middle = (around[:, 3] + around[:, 4]) / 2
    apart = np.sort(np.abs(around - middle[:, None]), axis=1)
    # Noise need not be even: neighbours tell what it is here, roughly.
    least = np.maximum(noise, (apart[:, 3] + apart[:, 4]) / 2)
    beyond = np.maximum(apart[:, 6] - _CHANCE * noise, 0)
    height = np.abs(pixels.ravel()[candidates].astype(np.float32) - middle)
    found: Indices = candidates[height >= _NOISES * least + _SPREADS * beyond]
    return found if len(found) <= _MOST * pixels.size else found[:0]


def _interpolated(pixels: Pixels, known: Indices) -> tuple[Pixels, int]:
    """Replace those of the known defects that still stand out; also count them."""
    if not len(known):
        return pixels, 0
    around = np.sort(_neighbours(pixels, known), axis=1)
    value = pixels.ravel()[known].astype(np.float32)
    middle = (around[:, 3] + around[:, 4]) / 2
    spread = np.maximum(around[:, 6] - middle, middle - around[:, 1])
    is_bad = np.abs(value - middle) > _KNOWN * spread
    is_bad |= (value > around[:, 7]) | (value < around[:, 0])
    if not is_bad.any():
        return pixels, 0
    corrected = pixels.copy()
    bad = known[is_bad]
    is_real = pixels.dtype.kind == "f"
    corrected.flat[bad] = middle[is_bad] if is_real else np.rint(middle[is_bad])
    return corrected, len(bad)


def _noise(pixels: Pixels) -> float:
    """Return the deviation of a pixel, from neighbours' differences, at least a bit."""
    step = max(1, int(np.sqrt(pixels.size / _SAMPLES)))
    left = pixels[::step, :-1:step].astype(np.float32)
    right = pixels[::step, 1::step].astype(np.float32)[:, : left.shape[1]]
    difference = np.abs(left - right)
    usable = difference[np.isfinite(difference)]
    sigma = float(_DIFFERENCE_TO_SIGMA * np.median(usable)) if len(usable) else np.inf
    if pixels.dtype.kind != "f" or not len(usable):
        return max(sigma, _LEAST_COUNTS)
    low, high = np.quantile(left[np.isfinite(left)], [0.01, 0.99])
    least = max(_LEAST_SHARE * float(high - low), float(np.finfo(np.float32).tiny))
    return max(sigma, least)


def _candidates(pixels: Pixels, least: float, rows: slice | None) -> Indices:
    """Return pixels beyond both neighbours to the sides, or above and below."""
    if rows is not None:
        row, column = np.nonzero(_beyond_both_sides(pixels[rows], least))
        found: Indices = (rows.start + row * rows.step) * pixels.shape[1] + column
        return found
    across = _beyond_both_sides(pixels, least)
    across |= _beyond_both_sides(pixels.T, least).T
    return np.flatnonzero(across)


def _beyond_both_sides(plane: Pixels, least: float) -> npt.NDArray[np.bool_]:
    image = plane.astype(np.float32)
    step = image[:, 1:] - image[:, :-1]
    up, down = step > least, step < -least
    beyond = np.zeros(plane.shape, np.bool_)
    inner = np.logical_and(up[:, :-1], down[:, 1:], out=beyond[:, 1:-1])
    inner |= down[:, :-1] & up[:, 1:]
    return beyond


def _neighbours(pixels: Pixels, indices: Indices) -> npt.NDArray[np.float32]:
    """Return the eight pixels around each, (n, 8), mirrored at the frame's edge."""
    rows, columns = np.divmod(indices, pixels.shape[1])
    y, x = rows[:, None] + _STEPS[:, 0], columns[:, None] + _STEPS[:, 1]
    last_y, last_x = np.subtract(pixels.shape, 1)
    y, x = last_y - np.abs(last_y - np.abs(y)), last_x - np.abs(last_x - np.abs(x))
    return np.asarray(pixels[y, x], np.float32)

"""Position-modulated background: what does not move with the stage is taken out.

The stage goes to and fro; a particle moves with it, dirt, fringes and reflections do
not. Each frame is compared with frames taken at offset positions: their median, pixel
by pixel, is the still background (a moving particle covers a pixel in few of them). It
is subtracted from intensities; fields are divided by it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from functools import lru_cache

import numpy as np

from lodestar_live.data import FloatArray, Frame, Pixels
from lodestar_live.errors import InputError
from lodestar_live.settings import ModulationSettings

FEWEST = 5  # offset frames before anything is looked for
_ROWS = 16
_Cell = tuple[int, int]
_Kept = tuple[int, float, FloatArray, Pixels]  # number, when, where (2,) µm, pixels


class ModulatedBackground:
    """Take the still background out of each frame by frames of offset positions.

    Parameters
    ----------
    settings
        How far offset, how many, how often.

    Notes
    -----
    Positions and times stay those of the frame itself. Until `FEWEST` offset frames
    were seen, frames come back empty: nothing is found in them.
    """

    def __init__(self, settings: ModulationSettings) -> None:
        self.settings = settings
        self._cells: dict[_Cell, deque[_Kept]] = {}
        self._shape: tuple[int, ...] = ()
        self._used: tuple[int, ...] = ()
        self._n_kept = 0
        self._background: Pixels | None = None

    def __call__(self, frame: Frame) -> Frame:
        """Return the frame without its background.

        Raises
        ------
        InputError
            The frame does not say where the stage stood.
        """
        where = np.array(frame.stage_um[1:], dtype=float)
        if not np.isfinite(where).all():
            raise InputError(
                f"frame {frame.index}: the stage's position is not known; expected one "
                "with every frame, for [modulation] pairs frames of offset positions."
            )
        pixels = frame.pixels
        if pixels.shape != self._shape:
            self._cells, self._shape = {}, pixels.shape
        background = self._of_offset(where)
        self._keep(where, frame.t_exposure_s, pixels)
        return replace(frame, pixels=_without(pixels, background))

    def _of_offset(self, where: FloatArray) -> Pixels | None:
        """Return the median of the newest frames that are far enough from here."""
        least_um = self.settings.least_offset_um
        far = [
            kept
            for cell in self._cells.values()
            for kept in cell
            if math.dist(kept[2], where) >= least_um
        ]
        if len(far) < FEWEST:
            return None
        newest = sorted(far, key=lambda kept: kept[0])[-self.settings.n_frames :]
        used = tuple(kept[0] for kept in newest)
        if used != self._used or self._background is None:
            # The same for all frames of one half of the period: worked out once.
            self._background = _median([kept[3] for kept in newest])
            self._used = used
        return self._background

    def _keep(self, where: FloatArray, t_s: float, pixels: Pixels) -> None:
        """Keep frames: at first every one, then so few that they span a period."""
        y, x = np.floor(2 * where / self.settings.least_offset_um).astype(int).tolist()
        cell = self._cells.setdefault((y, x), deque(maxlen=self.settings.n_frames))
        apart_s = self.settings.period_s / self.settings.n_frames
        is_full = len(cell) == cell.maxlen
        if not is_full or not t_s - cell[-1][1] < apart_s:
            kept = np.array(pixels)  # the camera's own buffer is used again
            cell.append((self._n_kept, t_s, where, kept))
            self._n_kept += 1
        self._forget(t_s)

    def _forget(self, t_s: float) -> None:
        """Let go of places that the stage has left for good."""
        oldest_s = t_s - 3 * self.settings.period_s
        left = [cell for cell, kept in self._cells.items() if kept[-1][1] < oldest_s]
        for cell in left:
            del self._cells[cell]


def _median(stack: list[Pixels]) -> Pixels:
    """Return the median pixel by pixel; of real and imaginary part on their own."""
    if stack[0].dtype.kind != "c":
        return median_of(stack)
    real = median_of([pixels.real for pixels in stack])
    imaginary = median_of([pixels.imag for pixels in stack])
    return np.asarray(real + 1j * imaginary, dtype=np.complex64)


def median_of(stack: list[Pixels]) -> Pixels:
    """Return the median of images, float32: 7 times as fast as numpy's.

    Batcher's merge exchange (Knuth, The Art of Computer Programming 3, 5.2.2 M) sorts
    all pixels at once; a few rows at a time stay in the processor's cache.
    """
    n, shape = len(stack), stack[0].shape
    exchanges = _exchanges(n)
    out = np.empty(shape, np.float32)
    for first in range(0, shape[0], _ROWS):
        rows = slice(first, first + _ROWS)
        part = [np.array(pixels[rows]) for pixels in stack]
        for i, j in exchanges:
            low = np.minimum(part[i], part[j])
            np.maximum(part[i], part[j], out=part[j])
            part[i] = low
        out[rows] = (part[(n - 1) // 2].astype(np.float32) + part[n // 2]) / 2
    return out


@lru_cache(maxsize=8)
def _exchanges(n: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs to be compared, in order, that sort n values."""
    found = []
    largest = 1 << max((n - 1).bit_length() - 1, 0)
    p = largest
    while p > 0:
        q, r, d = largest, 0, p
        while d > 0:
            found += [(i, i + d) for i in range(n - d) if i & p == r]
            d, q, r = q - p, q // 2, p
        p //= 2
    return tuple(found)


def _without(pixels: Pixels, background: Pixels | None) -> Pixels:
    if pixels.dtype.kind != "c":
        if background is None:
            return np.zeros(pixels.shape, np.float32)
        return np.subtract(pixels, background, dtype=np.float32)
    if background is None:
        return np.ones_like(pixels)
    dark = np.abs(background) < 1e-3
    safe = np.where(dark, np.complex64(1), background)
    return np.where(dark, np.complex64(1), pixels / safe).astype(np.complex64)

"""Measure whether an engine is faster here, and finds the same positions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from lodestar_live.data import FloatArray, Pixels

MAX_SHIFT_PX = 0.02  # 95 of 100 detections must lie closer to the reference's
_REPEATS = 5
_PART_PX = 512  # beside a run, whole frames of a large sensor would take seconds


@dataclass(frozen=True, slots=True)
class Trial:
    """What one engine did on one frame.

    Parameters
    ----------
    engine
        Its name.
    median_ms
        Frame in, detections out.
    p95_shift_px
        95th percentile of the distance to the reference's positions; NaN if the
        frame has none.
    n_found, n_expected
        Its detections and the reference's.
    """

    engine: str
    median_ms: float
    p95_shift_px: float
    n_found: int
    n_expected: int

    @property
    def is_accepted(self) -> bool:
        """Same number of detections, close enough; the reference always is."""
        if self.engine == "cpu":
            return True
        return self.n_found == self.n_expected and self.p95_shift_px <= MAX_SHIFT_PX


def try_engine(
    name: str, detect: Callable[[], FloatArray], expected_px: FloatArray
) -> Trial:
    """Time an engine and compare its positions with the reference's.

    Parameters
    ----------
    name
        The engine's.
    detect
        Returns positions (n, 2) of always the same frame.
    expected_px
        The float32 reference's positions, (m, 2).
    """
    found = detect()  # also warms up
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        detect()
        times.append(time.perf_counter() - start)
    shift = float("nan")
    if len(found) and len(expected_px):
        distances, _ = cKDTree(found).query(expected_px)
        shift = float(np.quantile(distances, 0.95))
    median_ms = float(np.median(times)) * 1e3
    return Trial(name, median_ms, shift, len(found), len(expected_px))


def typical_part(pixels: Pixels, positions_px: FloatArray) -> Pixels:
    """Return a frame, or a part of a large one amid the detections in it.

    Parameters
    ----------
    pixels
        Shape (y, x).
    positions_px
        The detections' positions, (n, 2).
    """
    shape = np.array(pixels.shape)
    centre = shape / 2
    if len(positions_px):
        middle = np.median(positions_px, axis=0)
        nearest = np.argmin(((positions_px - middle) ** 2).sum(axis=1))
        centre = positions_px[nearest]
    start = np.clip(
        centre.astype(int) - _PART_PX // 2, 0, np.maximum(shape - _PART_PX, 0)
    )
    rows, columns = (slice(first, first + _PART_PX) for first in start.tolist())
    return np.ascontiguousarray(pixels[rows, columns])

"""Measure whether an engine is faster here, and finds the same positions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from lodestar_live.data import FloatArray, Pixels

MAX_SHIFT_PX = 0.02  # 95 of 100 detections must lie closer to the reference's
_REPEATS = 5
_WORTHWHILE = 0.9  # of the reference's time: what gains less is not worth a change
_PART_PX = 512  # beside a run, whole frames of a large sensor would take seconds


@dataclass(frozen=True, slots=True)
class Trial:
    """What one engine did on one frame.

    Parameters
    ----------
    engine
        Its name.
    best_ms
        Frame in, detections out: the best of a few runs, as others want the cores too.
    p95_shift_px
        95th percentile of the distance to the reference's positions; NaN if the
        frame has none.
    n_found, n_expected
        Its detections and the reference's.
    """

    engine: str
    best_ms: float
    p95_shift_px: float
    n_found: int
    n_expected: int

    @property
    def is_accepted(self) -> bool:
        """Same number of detections, close enough; the reference always is."""
        if self.engine == "cpu":
            return True
        return self.n_found == self.n_expected and self.p95_shift_px <= MAX_SHIFT_PX


def try_engines(
    detect: Mapping[str, Callable[[], FloatArray]], expected_px: FloatArray
) -> list[Trial]:
    """Time engines in turns, and compare their positions with the reference's.

    Parameters
    ----------
    detect
        By engine: returns positions (n, 2) of always the same frame.
    expected_px
        The float32 reference's positions, (m, 2).
    """
    found = {name: call() for name, call in detect.items()}  # also warms up
    times_s: dict[str, list[float]] = {name: [] for name in detect}
    for _ in range(_REPEATS):
        for name, call in detect.items():
            start = time.perf_counter()
            call()
            times_s[name].append(time.perf_counter() - start)
    return [
        Trial(
            name,
            min(times_s[name]) * 1e3,
            _p95_shift_px(positions, expected_px),
            len(positions),
            len(expected_px),
        )
        for name, positions in found.items()
    ]


def choose(trials: Iterable[Trial]) -> Trial:
    """Return the fastest engine that is accepted; "cpu" unless it gains enough."""
    accepted = [trial for trial in trials if trial.is_accepted]
    best = min(accepted, key=lambda trial: trial.best_ms)
    (reference,) = (trial for trial in accepted if trial.engine == "cpu")
    return best if best.best_ms < _WORTHWHILE * reference.best_ms else reference


def _p95_shift_px(found_px: FloatArray, expected_px: FloatArray) -> float:
    if not len(found_px) or not len(expected_px):
        return float("nan")
    distances, _ = cKDTree(found_px).query(expected_px)
    return float(np.quantile(distances, 0.95))


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

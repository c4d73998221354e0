"""Elapsed time in frame intervals, from time stamps where there are any."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

ENOUGH = 8  # intervals after which the usual one is known
SHORTEST, LONGEST = 0.05, 1e6  # frame intervals between two frames


class FrameTime:
    """Say how many frame intervals passed between frames.

    The interval is the median of the first `ENOUGH`, each divided by how far the frame
    number went; until then, and where a frame has no finite time stamp later than the
    last, the frame numbers count.
    """

    def __init__(self) -> None:
        self.now = 0.0  # in frame intervals
        self._index: int | None = None
        self._t_s: float | None = None
        self._seconds: deque[float] = deque(maxlen=ENOUGH)
        self._interval_s: float | None = None

    @property
    def interval_s(self) -> float:
        """Usual time between two frames, NaN while it is not known."""
        return float("nan") if self._interval_s is None else self._interval_s

    def elapsed(self, index: int, t_s: float | None) -> float:
        """Return the intervals since the last frame, and remember this one."""
        if t_s is not None and not math.isfinite(t_s):
            t_s = None
        frames = 1.0 if self._index is None else float(index - self._index)
        passed = frames
        if t_s is not None and self._t_s is not None and t_s > self._t_s:
            passed = self._in_intervals(t_s - self._t_s, frames)
        self._index = index
        self._t_s = t_s
        self.now += passed
        return passed

    def _in_intervals(self, seconds: float, frames: float) -> float:
        if self._interval_s is not None:
            return min(max(seconds / self._interval_s, SHORTEST), LONGEST)
        self._seconds.append(seconds / frames)
        if len(self._seconds) == ENOUGH:
            self._interval_s = float(np.median(self._seconds))
        return frames

"""The run's clock: monotonic, from 0; the wall clock is looked at once."""

from __future__ import annotations

import time


class RunClock:
    """Seconds since it was made; immune to wall-clock jumps.

    `wall_start_s` is the wall clock (POSIX seconds) at 0.
    """

    def __init__(self) -> None:
        self.wall_start_s = time.time()
        self._start_s = time.perf_counter()

    def __call__(self) -> float:
        """Return the time now."""
        return time.perf_counter() - self._start_s

"""What the heartbeat says: counts, rates and latencies of the last frames."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from lodestar_live.data import Counts, Update
from lodestar_live.health import Health

_WINDOW = 512


class _Last(NamedTuple):
    """What is kept of the last update; not its pixels."""

    frame: int
    t_exposure_s: float
    counts: Counts
    degraded: bool
    n_tracks: int
    n_detections: int


class Status:
    """Rolling statistics; `note` on one thread, `header` on any.

    Parameters
    ----------
    clock
        Seconds since the run's start.
    counts
        Where frames went, asked at every heartbeat; None: as in the last update.
    health
        What is not as it should be, likewise.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        counts: Callable[[], Counts] | None = None,
        health: Health | None = None,
    ) -> None:
        self._clock, self._ask_counts, self._health = clock, counts, health
        self._lock = threading.Lock()
        self.restart()

    def restart(self) -> None:
        """Forget everything: a new run begins."""
        with self._lock:
            self._timings_ms: deque[dict[str, float]] = deque(maxlen=_WINDOW)
            self._times_s: deque[float] = deque(maxlen=_WINDOW)
            self._last: _Last | None = None

    def note(self, update: Update, *, publish_ms: float) -> None:
        """Take one published update and the time it took to publish."""
        now_s = self._clock()
        timings_ms = {"publish": publish_ms, **update.timings_ms}
        timings_ms.setdefault("latency", (now_s - update.frame.t_exposure_s) * 1e3)
        last = _Last(
            update.frame.index,
            update.frame.t_exposure_s,
            update.counts,
            update.degraded,
            len(update.tracks),
            len(update.detections),
        )
        with self._lock:
            self._timings_ms.append(timings_ms)
            self._times_s.append(now_s)
            self._last = last

    def _is_degraded(self) -> bool:
        if self._health is not None:
            return self._health.is_degraded
        return self._last.degraded if self._last else False

    def header(self) -> dict[str, Any]:
        """Return the state as JSON-safe values."""
        with self._lock:
            timings_ms, times_s = list(self._timings_ms), list(self._times_s)
            last = self._last
        counts = last.counts if last else Counts()
        if self._ask_counts is not None:
            counts = self._ask_counts()
        return {
            "frame": last.frame if last else -1,
            "t_s": self._clock(),
            "t_last_exposure_s": last.t_exposure_s if last else None,
            "counts": asdict(counts),
            "dropped": counts.dropped,
            "degraded": self._is_degraded(),
            "health": {} if self._health is None else self._health.as_json(),
            "fps": _rate_hz(times_s, self._clock()),
            "n_tracks": last.n_tracks if last else 0,
            "n_detections": last.n_detections if last else 0,
            "latency_ms": _percentiles(timings_ms),
        }


def _rate_hz(times_s: list[float], now_s: float) -> float:
    recent = [t for t in times_s if now_s - t < 5.0]
    if len(recent) < 2:
        return 0.0
    span_s = max(recent[-1], now_s - 1.0) - recent[0]
    return (len(recent) - 1) / span_s if span_s > 0 else 0.0


def _percentiles(timings_ms: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    stages = timings_ms[-1] if timings_ms else {}
    found = {}
    for stage in stages:
        values = [t[stage] for t in timings_ms if stage in t]
        p50, p99 = np.percentile(values, (50, 99))
        found[stage] = {"p50": round(float(p50), 4), "p99": round(float(p99), 4)}
    return found

"""Where every frame went, and how long each step took."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from lodestar_live.data import Counts

_SAMPLES = 20_000  # timings kept per step: the newest ones


@dataclass(frozen=True, slots=True)
class Latency:
    """Median and tail of one step, ms."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to.

    `health` names the parts that were not as they should be at the end; `status` is
    ``running``, ``completed``, ``stopped`` or ``failed``, for the `reason`;
    `frames_lost` counts frames that were tracked but could not be recorded.
    """

    counts: Counts
    duration_s: float
    fps: float
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    n_tracks: int = 0
    first_error: str | None = None
    degraded: bool = False
    health: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    frames_lost: int = 0
    status: str = "running"
    reason: str = ""


class Accounts:
    """Counters that always balance; every change is one step under one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Plain numbers, made into `Counts` when asked: the hook counts every frame.
        self._n = dict.fromkeys((f.name for f in fields(Counts)), 0)
        self._timings: defaultdict[str, deque[float]] = defaultdict(
            lambda: deque(maxlen=_SAMPLES)
        )

    def counts(self) -> Counts:
        """Return a consistent snapshot of the counters."""
        with self._lock:
            return Counts(**self._n)

    def receive(self, n_lost: int = 0) -> int:
        """Count one arrival, in flight from now on, and those lost before it.

        Returns its index: lost frames keep their numbers, so that a particle's motion
        is predicted over them.
        """
        with self._lock:
            n = self._n
            n["lost"] += n_lost
            index = n["received"] + n["lost"]
            n["received"] += 1
            n["in_flight"] += 1
            return index

    def note(self, fault: str) -> None:
        """Count a duplicated or disordered frame, which is also a dropped one."""
        with self._lock:
            self._n[fault] += 1

    def settle(self, outcome: str) -> None:
        """End the flight of one frame: processed, dropped, failed or waiting."""
        with self._lock:
            self._n[outcome] += 1
            self._n["in_flight"] -= 1

    def time(self, timings_ms: Mapping[str, float]) -> None:
        """Keep the timings of one frame."""
        for name, value in timings_ms.items():
            self._timings[name].append(value)

    def latencies(self) -> dict[str, Latency]:
        """Return median and 99th percentile of every step timed so far."""
        return {
            name: Latency(*(float(q) for q in np.percentile(list(values), (50, 99))))
            for name, values in list(self._timings.items())
            if values
        }

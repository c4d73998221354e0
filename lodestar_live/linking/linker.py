"""The online linker: detections of one frame in, live tracks out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lodestar_live.data import (
    DETECTION_DTYPE,
    TRACK_DTYPE,
    Detections,
    Event,
    FloatArray,
    Rows,
    Tracks,
    blank_rows,
)
from lodestar_live.errors import InputError
from lodestar_live.linking.assignment import Pairs, assign
from lodestar_live.linking.gate import IntArray, pairs_within

STATE_DTYPE = np.dtype(
    [
        ("track_id", "i8"),
        ("born", "i8"),
        ("seen", "i8"),
        ("detection_index", "i8"),
        ("position", "f8", 3),
        ("velocity", "f8", 3),
        ("measured", DETECTION_DTYPE),
    ]
)


@dataclass(frozen=True, slots=True)
class LinkCounts:
    """What happened to the frames and detections so far."""

    frames: int = 0
    duplicates: int = 0
    late: int = 0
    fallbacks: int = 0
    unusable: int = 0


class Linker:
    """Join detections into tracks, frame by frame.

    Parameters
    ----------
    search_radius_px
        Largest step between two frames, a hard limit.
    max_gap_frames
        Frames a track may be missed before it ends, a hard limit.
    method
        "motion" or "nearest" (plain linear sum assignment).
    clock
        Seconds since the run's start, for the events.
    """

    def __init__(
        self,
        search_radius_px: float | None = None,
        max_gap_frames: int | None = None,
        method: Literal["motion", "nearest"] = "motion",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if method not in ("motion", "nearest"):
            raise InputError(
                f"method = {method!r}: unknown; expected 'motion' or 'nearest'."
            )
        self.search_radius_px = search_radius_px
        self.max_gap_frames = max_gap_frames
        self.method = method
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget every track; ids start again from 0."""
        self._states = np.zeros(0, STATE_DTYPE)
        self._next_id = 0
        self._frame: int | None = None
        self._tracks = Tracks.empty()
        self._events: list[Event] = []
        self.counts = LinkCounts()

    def end_all(self) -> None:
        """End every track; ids go on (another shape or place on the sensor)."""
        self._states = self._states[:0]

    def __call__(self, detections: Detections, frame_index: int) -> Tracks:
        """Link the detections of one frame and return every live track."""
        if self._frame is not None and frame_index <= self._frame:
            self._count_ignored(frame_index)
            return self._tracks
        order, rows = _usable(detections)
        self._link(rows, order, frame_index)
        self._frame = frame_index
        self.counts = replace(
            self.counts,
            frames=self.counts.frames + 1,
            unusable=self.counts.unusable + len(detections) - len(rows),
        )
        self._tracks = Tracks(_track_rows(self._states, frame_index))
        return self._tracks

    def take_events(self) -> tuple[Event, ...]:
        """Return what happened since the last call."""
        events, self._events = tuple(self._events), []
        return events

    def _count_ignored(self, frame_index: int) -> None:
        duplicate = frame_index == self._frame
        self.counts = replace(
            self.counts,
            duplicates=self.counts.duplicates + duplicate,
            late=self.counts.late + (not duplicate),
        )

    def _link(self, rows: Rows, order: IntArray, frame_index: int) -> None:
        points = np.column_stack([rows["y_px"], rows["x_px"]])
        states = self._states
        radius = self._radius_px(points)
        track, detection = pairs_within(
            states["position"][:, :2], np.full(len(states), radius), points
        )
        step = states["position"][track, :2] - points[detection]
        gain = radius**2 - (step**2).sum(axis=1) + 1e-12
        chosen = assign(
            Pairs(track, detection, gain), len(states), len(points)
        ).detection
        states["detection_index"] = -1
        hit = np.flatnonzero(chosen >= 0)
        _observe(states, hit, rows[chosen[hit]], order[chosen[hit]], frame_index)
        new = np.setdiff1d(np.arange(len(points)), chosen[hit])
        births = np.zeros(len(new), STATE_DTYPE)
        births["track_id"] = self._next_id + np.arange(len(new))
        births["born"] = births["seen"] = frame_index
        births["position"][:, :2] = points[new]
        _observe(births, np.arange(len(new)), rows[new], order[new], frame_index)
        self._next_id += len(new)
        gap = 3 if self.max_gap_frames is None else self.max_gap_frames
        alive = frame_index - states["seen"] <= gap
        self._states = np.concatenate([states[alive], births])

    def _radius_px(self, points: FloatArray) -> float:
        if self.search_radius_px is not None:
            return self.search_radius_px
        if len(points) < 2:
            return 30.0
        extent = np.ptp(points, axis=0) + 1.0
        return float(0.5 * np.sqrt(extent.prod() / len(points)))


def _usable(detections: Detections) -> tuple[IntArray, Rows]:
    """Return finite detections in an order of their own, and their original indices."""
    rows = detections.rows
    finite = np.flatnonzero(np.isfinite(rows["y_px"]) & np.isfinite(rows["x_px"]))
    keys = [rows[name][finite] for name in reversed(DETECTION_DTYPE.names or ())]
    order = finite[np.lexsort(keys)] if len(finite) else finite
    return order, rows[order]


def _observe(
    states: Rows, hit: IntArray, rows: Rows, index: IntArray, frame_index: int
) -> None:
    position = np.column_stack([rows["y_px"], rows["x_px"], rows["z_um"]])
    elapsed = np.maximum(frame_index - states["seen"][hit], 1)
    step = position - states["position"][hit]
    states["velocity"][hit] = step / elapsed[:, None]
    states["position"][hit] = position
    states["seen"][hit] = frame_index
    states["measured"][hit] = rows
    states["detection_index"][hit] = index


def _track_rows(states: Rows, frame_index: int) -> Rows:
    out = blank_rows(TRACK_DTYPE, len(states))
    for name in DETECTION_DTYPE.names or ():
        out[name] = states["measured"][name]
    out["track_id"] = states["track_id"]
    out["vz_um_per_frame"] = states["velocity"][:, 2]
    out["vy_px_per_frame"] = states["velocity"][:, 0]
    out["vx_px_per_frame"] = states["velocity"][:, 1]
    out["age_frames"] = frame_index - states["born"] + 1
    out["missed_frames"] = frame_index - states["seen"]
    out["detection_index"] = states["detection_index"]
    out["existence"] = 1.0
    return out

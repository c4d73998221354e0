"""The link step of many series: one linker per stage position and channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lodestar_live.data import (
    SUMMARY_DTYPE,
    Detections,
    Event,
    FloatArray,
    Frame,
    Rows,
    Tracks,
    blank_rows,
)
from lodestar_live.linking import Linker
from lodestar_live.pipeline.link import LinkStep

_Key = tuple[str, str]


class SeriesLink(LinkStep):
    """Link each (position, channel) by itself; ids stay unique in the run.

    A particle of one field of view is not one of another, and two channels of one field
    are two pictures of it: frames of different series are never linked to each other.

    Parameters
    ----------
    make_linker
        Returns a new linker for a series that was not seen before.
    """

    def __init__(self, make_linker: Callable[[], Linker]) -> None:
        super().__init__(make_linker())
        self._make_linker = make_linker
        self._series: dict[_Key, _Series] = {}
        self._n_ids = 0
        self._current: _Series | None = None

    def __call__(self, detections: Detections, frame: Frame) -> Tracks:
        """Link the detections of `frame` with those of its own series."""
        series = self._series_of(frame)
        tracks = series.step(detections, series.timed(frame, is_alone=self._is_alone))
        self._current = series
        own = tracks.rows["track_id"]
        ids = self._run_ids(series, own)
        if (ids == own).all():  # as in a run of one series
            return tracks
        rows = tracks.rows.copy()
        rows["track_id"] = ids
        return Tracks(rows)

    def expect(self, frame: Frame) -> tuple[FloatArray, FloatArray]:
        """Return where tracks of the frame's own series are expected in it."""
        series = self._series_of(frame)
        return series.step.expect(series.timed(frame, is_alone=self._is_alone))

    def take_events(self) -> tuple[Event, ...]:
        """Return what the linker of the last frame noticed in it."""
        if self._current is None:
            return ()
        return tuple(self._renamed(event) for event in self._current.step.take_events())

    def summary(self) -> Rows:
        """Return what is known of the motion of the live tracks of all series."""
        parts = [blank_rows(SUMMARY_DTYPE, 0)]
        for series in self._series.values():
            rows = series.step.summary()
            rows["track_id"] = self._run_ids(series, rows["track_id"])
            parts.append(rows)
        return np.concatenate(parts)

    @property
    def n_ids(self) -> int:
        """Tracks begun so far."""
        return self._n_ids

    def state(self) -> dict[str, Any]:
        """Return all that the next frame depends on, as `pickle` takes it."""
        return {"series": self._series, "n_ids": self._n_ids}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where another object's `state` was taken."""
        self._series, self._n_ids = state["series"], state["n_ids"]
        self._current = None

    @property
    def _is_alone(self) -> bool:
        return len(self._series) < 2

    def _series_of(self, frame: Frame) -> _Series:
        key = frame.position, frame.channel
        found = self._series.get(key)
        if found is None:
            linker = self._make_linker() if self._series else self.linker
            found = self._series[key] = _Series(self._copy(linker))
        found.step.model_version = self.model_version
        return found

    def _copy(self, linker: Linker) -> LinkStep:
        step = LinkStep(
            linker, stage_map=self.stage_map, pixel_factor=self.pixel_factor
        )
        step.pixel_size_um, step.knows_stage = self.pixel_size_um, self.knows_stage
        return step

    def _run_ids(self, series: _Series, own: np.ndarray) -> np.ndarray:
        """Return ids of the run for a linker's own, which count up from 0."""
        n_new = int(own.max(initial=-1)) + 1 - len(series.run_ids)
        if n_new > 0:
            new = np.arange(self._n_ids, self._n_ids + n_new)
            series.run_ids = np.concatenate([series.run_ids, new])
            self._n_ids += n_new
        return np.asarray(series.run_ids[own])

    def _renamed(self, event: Event) -> Event:
        own = event.details.get("track_ids")
        if own is None or self._current is None:
            return event
        known = self._run_ids(self._current, np.asarray(own, dtype=np.int64))
        return replace(event, details={**event.details, "track_ids": known.tolist()})


class _Series:
    """One linker, the run's ids of its tracks, and its count of frames."""

    def __init__(self, step: LinkStep) -> None:
        self.step = step
        self.run_ids = np.zeros(0, np.int64)
        self._frame, self._count = -1, -1

    def timed(self, frame: Frame, *, is_alone: bool) -> Frame:
        """Return the frame with the index that the linker shall count by.

        Of a recording its time point. Of a live run the number of the frame; where
        series take turns, the number of visits.
        """
        if frame.index != self._frame:
            self._frame = frame.index
            if frame.is_recorded and frame.time_index is not None:
                self._count = max(frame.time_index, self._count + 1)
            elif is_alone:
                self._count = max(frame.index, self._count + 1)
            else:
                self._count += 1
        if self._count == frame.index:
            return frame
        return replace(frame, index=self._count)

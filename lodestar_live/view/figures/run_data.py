"""A finished run as arrays: what the pictures need to know about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lodestar_live.data import (
    TRACK_DTYPE,
    Event,
    FloatArray,
    Rows,
    RunInfo,
    blank_rows,
)
from lodestar_live.geometry import PixelToStage

RUN_TRACK_DTYPE = np.dtype(
    [("frame", "i8"), ("t_exposure_s", "f8"), *TRACK_DTYPE.descr]
)
"""Rows of a whole run: `TRACK_DTYPE` and where in time they belong."""

SHORT_FRAMES = 10
"""Tracks seen less often are drawn pale and not counted in the report."""

_NOTHING = RunInfo(run="", started="")


class RunSource(Protocol):
    """What a picture is drawn from: a `Recording`, or `RunArrays`."""

    @property
    def info(self) -> RunInfo:
        """Facts of the run."""

    def frames(self) -> Rows:
        """One row per frame received."""

    def tracks(self) -> Rows:
        """One row per track per frame."""

    def events(self) -> Sequence[Event]:
        """Everything that is not a position."""


@dataclass(frozen=True, slots=True, eq=False)
class RunArrays:
    """A run that was never recorded, as plain arrays.

    Parameters
    ----------
    track_rows
        Columns of `TRACK_DTYPE` (any subset with `track_id`, `y_px`, `x_px`) and
        `frame`; `t_exposure_s` if known.
    frame_rows
        `frame`, `t_exposure_s`, stage and latency columns; may be left out.
    """

    track_rows: Rows
    frame_rows: Rows = field(
        default_factory=lambda: blank_rows(np.dtype([("frame", "i8")]), 0)
    )
    event_list: Sequence[Event] = ()
    info: RunInfo = _NOTHING

    def frames(self) -> Rows:
        """One row per frame received."""
        return self.frame_rows

    def tracks(self) -> Rows:
        """One row per track per frame."""
        return self.track_rows

    def events(self) -> Sequence[Event]:
        """Everything that is not a position."""
        return self.event_list


def loaded(source: RunSource) -> RunArrays:
    """Return a run with everything read once, free of its file and thread."""
    return RunArrays(source.tracks(), source.frames(), source.events(), source.info)


def column(rows: Rows, name: str) -> FloatArray:
    """Return a column as float64, NaN where the rows do not have it."""
    if name in (rows.dtype.names or ()):
        return np.asarray(rows[name], dtype=float)
    return np.full(len(rows), np.nan)


def trajectories(tracks: Rows, min_frames: int = 2) -> dict[int, Rows]:
    """Return the rows of each track that was seen often enough, by frame.

    Rows in which the particle was missed (predicted positions) are left out.
    """
    missed = column(tracks, "missed_frames")
    seen = tracks[~(missed > 0)]
    seen = seen[np.lexsort((seen["frame"], seen["track_id"]))]
    ids, starts = np.unique(seen["track_id"], return_index=True)
    ends = [*starts[1:], len(seen)][: len(ids)]
    return {
        int(i): seen[a:b]
        for i, a, b in zip(ids, starts, ends, strict=True)
        if b - a >= min_frames
    }


def frame_times_s(source: RunSource) -> tuple[FloatArray, FloatArray]:
    """Return frame numbers and their times since the run's start.

    Without a time axis the times are the frame numbers, see `time_unit`. When frames
    of a recording arrived says nothing of when they were taken.
    """
    for rows, name in _time_columns(source):
        t_s = column(rows, name)
        if np.isfinite(t_s).any():
            frame, first = np.unique(rows["frame"], return_index=True)
            return frame.astype(float), t_s[first]
    frame = np.unique(source.tracks()["frame"]).astype(float)
    return frame, frame


def _time_columns(source: RunSource) -> list[tuple[Rows, str]]:
    frames, tracks = source.frames(), source.tracks()
    columns = [(frames, "t_exposure_s"), (tracks, "t_exposure_s")]
    if "path" not in source.info.source:  # live: arrivals are the next best
        columns.insert(1, (frames, "t_arrival_s"))
    return columns


def time_unit(source: RunSource) -> str:
    """Return ``s``, or ``frames`` where the run has no time axis."""
    is_known = any(
        np.isfinite(column(rows, name)).any() for rows, name in _time_columns(source)
    )
    return "s" if is_known else "frames"


def frame_numbers(source: RunSource, rows: Rows) -> FloatArray:
    """Return numbers of the frames of rows that count in equal steps of time."""
    time_index = column(rows, "time_index")
    if "path" in source.info.source and np.isfinite(time_index).all():
        return time_index
    return column(rows, "frame")


def seconds_at(source: RunSource, frame: FloatArray) -> FloatArray:
    """Return the time of each frame number, seconds since the run's start."""
    known, t_s = frame_times_s(source)
    good = np.isfinite(t_s)
    if not good.any():
        return np.asarray(frame, dtype=float)
    return np.interp(frame, known[good], t_s[good])


def frame_interval_s(source: RunSource) -> float:
    """Return the median time between frames, in `time_unit` (1 frame if unknown)."""
    frame, t_s = frame_times_s(source)
    frames = source.frames()
    if len(frames) == len(frame):
        frame = frame_numbers(source, frames)
    steps = np.diff(t_s) / np.maximum(np.diff(frame), 1)
    steps = steps[np.isfinite(steps) & (steps > 0)]
    return float(np.median(steps)) if len(steps) else 1.0


def calibration(info: RunInfo) -> PixelToStage | None:
    """Return the map from pixels to the stage, None when the run has none."""
    matrix = info.calibration.get("matrix_um_per_px")
    if matrix is not None and np.isfinite(matrix).all():
        return PixelToStage(np.asarray(matrix, dtype=float))
    if np.isfinite(info.pixel_size_um):
        return PixelToStage.from_pixel_size(info.pixel_size_um)
    return None


def pixel_size_um(info: RunInfo) -> float:
    """Return µm per pixel in the sample plane, NaN when unknown."""
    known = calibration(info)
    if known is None:
        return float("nan")
    return float(np.sqrt(abs(np.linalg.det(known.matrix_um_per_px))))


def stage_shift_px(source: RunSource, frame: FloatArray) -> FloatArray:
    """Return how far the view had moved at each frame, (n, 2) px, (y, x).

    Added to a position in the frame it gives the position in the first frame's
    view: the path over the sample. Zero where stage or calibration are unknown.
    """
    frames, map_um = source.frames(), calibration(source.info)
    stage_um = np.column_stack([column(frames, f"stage_{a}_um") for a in "yx"])
    good = np.isfinite(stage_um).all(axis=1)
    if map_um is None or not good.any():
        return np.zeros((len(frame), 2))
    known, moved_um = frames["frame"][good], stage_um[good] - stage_um[good][0]
    order = np.argsort(known)
    moved_px = moved_um @ np.linalg.inv(map_um.matrix_um_per_px).T
    return np.column_stack(
        [np.interp(frame, known[order], moved_px[order, i]) for i in (0, 1)]
    )


def positions_px(
    source: RunSource, rows: Rows, *, in_sample: bool = True
) -> FloatArray:
    """Return positions of track rows, (n, 2) px, (y, x).

    With `in_sample` the stage's own motion is added, see `stage_shift_px`.
    """
    seen = np.column_stack([column(rows, "y_px"), column(rows, "x_px")])
    if not in_sample:
        return seen
    return seen + stage_shift_px(source, column(rows, "frame"))


def target_ids(source: RunSource) -> set[int]:
    """Return the tracks that the controller followed, or would have in a dry run."""
    told = [e for e in source.events() if e.kind.startswith(("control.", "stage."))]
    ids = {event.details.get("track_id") for event in told}
    return {int(track_id) for track_id in ids if track_id is not None}


def followed_id(source: RunSource) -> int | None:
    """Return the track seen longest among those followed; if none was, among all."""
    known = trajectories(source.tracks())
    targets = {i: rows for i, rows in known.items() if i in target_ids(source)}
    among = targets or known
    return max(among, key=lambda i: len(among[i])) if among else None


def timings_ms(source: RunSource) -> dict[str, FloatArray]:
    """Return the finite latencies of every stage that was timed, by name."""
    frames = source.frames()
    found = {}
    for name in frames.dtype.names or ():
        values = column(frames, name) if name.endswith("_ms") else np.empty(0)
        values = values[np.isfinite(values)]
        if len(values) and name != "exposure_ms":
            found[name.removesuffix("_ms")] = values
    return found


def frame_counts(source: RunSource) -> dict[str, int]:
    """Return how many frames were received, processed, dropped, failed, waiting."""
    frames = source.frames()
    counts = dict.fromkeys(("received", "processed", "dropped", "failed", "waiting"), 0)
    if "state" not in (frames.dtype.names or ()):
        n_frames = len(frames) or len(np.unique(source.tracks()["frame"]))
        return counts | {"received": n_frames, "processed": n_frames}
    names, n = np.unique(frames["state"].astype(str), return_counts=True)
    return counts | dict(zip(names.tolist(), n.tolist(), strict=True)) | {
        "received": len(frames)
    }  # fmt: skip


def frame_rate_hz(source: RunSource) -> float:
    """Return processed frames per second over the whole run."""
    _, t_s = frame_times_s(source)
    span_s = float(np.ptp(t_s[np.isfinite(t_s)])) if len(t_s) else 0.0
    n = frame_counts(source)["processed"]
    return (n - 1) / span_s if span_s > 0 and n > 1 else float("nan")


def length_unit(source: RunSource) -> tuple[float, str]:
    """Return what px are multiplied by for display, and the unit's name."""
    size_um = pixel_size_um(source.info)
    return (size_um, "µm") if np.isfinite(size_um) else (1.0, "px")

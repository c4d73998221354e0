"""The trajectories of a run as every export takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.data import FloatArray, Rows, RunInfo
from lodestar_live.geometry import PixelToStage, run_map
from lodestar_live.recording.recording import Recording

Columns = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Trajectories:
    """Rows of a run, and what is needed to place them in space and time.

    Parameters
    ----------
    rows
        Structured array of dtype `TRACE_DTYPE`, by track, then frame.
    info
        Facts of the run.
    length_unit
        ``um``, or ``px`` where the pixel size is unknown.
    time_unit
        ``s``, or ``frames`` where there is no time axis.
    interval_s
        Median time between frames; NaN without a time axis.
    pixel_size_um
        NaN if unknown.
    origin_um
        (y, x) of the first frame's pixel [0, 0] in the sample.
    map_um
        From pixels to the sample; None if the pixel size is unknown.
    shape_px
        (height, width) of the frames; (0, 0) if unknown.
    n_frames
        Frames from the first to the last.
    movie
        Where the images lie; None if unknown.
    """

    rows: Rows
    info: RunInfo
    length_unit: str
    time_unit: str
    interval_s: float
    pixel_size_um: float
    origin_um: FloatArray
    map_um: PixelToStage | None
    shape_px: tuple[int, int]
    n_frames: int
    movie: Path | None = None

    @property
    def positions(self) -> FloatArray:
        """Positions in the sample, (n, 2), (y, x), in `length_unit`."""
        names = ("y_um", "x_um") if self.length_unit == "um" else ("y_px", "x_px")
        return np.column_stack([self.rows[name] for name in names]).astype(float)

    @property
    def frame_numbers(self) -> np.ndarray[Any, Any]:
        """Numbers that count in equal steps of time: gaps are images that lack.

        Of a recording its time points; of a live run the frames received.
        """
        if counts_time_points(self.info) and np.isfinite(self.rows["time_index"]).all():
            return np.asarray(self.rows["time_index"], dtype=np.int64)
        return np.asarray(self.rows["frame"])

    @property
    def times(self) -> FloatArray:
        """Times of the rows, in `time_unit`."""
        if self.time_unit == "s":
            return np.asarray(self.rows["t_exposure_s"], dtype=float)
        return self.frame_numbers.astype(float)


def read_trajectories(
    recording: Recording,
    *,
    min_frames: int = 0,
    predictions: bool = False,
    movie: Path | None = None,
) -> Trajectories:
    """Read the trajectories of a run.

    Parameters
    ----------
    min_frames
        Leave out trajectories with fewer measured rows.
    predictions
        Keep rows in which the particle was missed; `is_measured` tells them apart.
    movie
        Where the images lie; None: as the run says.
    """
    rows = recording.tracks(min_frames, measured_only=True)
    if predictions:
        every = recording.tracks()
        chosen = np.unique(rows["track_id"])
        rows = every[np.isin(every["track_id"], chosen)] if min_frames else every
    frames, info = recording.frames(), recording.info
    map_um, interval = _map_um(frames, info), interval_s(frames, info)
    path = info.source.get("path")
    return Trajectories(
        rows,
        info,
        length_unit=_length_unit(map_um),
        time_unit=_time_unit(interval),
        interval_s=interval,
        pixel_size_um=float("nan") if map_um is None else map_um.pixel_size_um,
        origin_um=_origin_um(frames, map_um),
        map_um=map_um,
        shape_px=_shape_px(frames),
        n_frames=int(frames["frame"].max()) + 1 if len(frames) else 0,
        movie=movie or (Path(str(path)) if path else None),
    )


def units_of(recording: Recording) -> tuple[str, str]:
    """Return the units of length and time in which a run can be told."""
    frames = recording.frames()
    length = _length_unit(_map_um(frames, recording.info))
    return length, _time_unit(interval_s(frames, recording.info))


def _length_unit(map_um: PixelToStage | None) -> str:
    return "px" if map_um is None else "um"


def _time_unit(interval_s: float) -> str:
    return "s" if np.isfinite(interval_s) else "frames"


def _map_um(frames: Rows, info: RunInfo) -> PixelToStage | None:
    size_um = _typical(frames["pixel_size_um"], info.pixel_size_um)
    return run_map(info.calibration, size_um)


def _typical(values: FloatArray, fallback: float) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else fallback


def counts_time_points(info: RunInfo) -> bool:
    """Tell whether a run was made from a recording, which knows its time points."""
    return "path" in info.source


def interval_s(frames: Rows, info: RunInfo) -> float:
    """Return the median time between frames of a run; NaN without a time axis."""
    known = frames[np.isfinite(frames["t_exposure_s"])]
    numbers = known["frame"].astype(float)
    if counts_time_points(info) and np.isfinite(known["time_index"]).all():
        numbers, first = np.unique(known["time_index"], return_index=True)
        known = known[first]
    steps = np.diff(known["t_exposure_s"]) / np.maximum(np.diff(numbers), 1)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else float("nan")


def _shape_px(frames: Rows) -> tuple[int, int]:
    known = frames[frames["height_px"] > 0]
    if not len(known):
        return (0, 0)
    return int(known["height_px"][0]), int(known["width_px"][0])


def _origin_um(frames: Rows, map_um: PixelToStage | None) -> FloatArray:
    stage_um = np.column_stack([frames["stage_y_um"], frames["stage_x_um"]])
    known = np.isfinite(stage_um).all(axis=1) & (frames["height_px"] > 0)
    if map_um is None or not known.any():
        return np.zeros(2)
    shape_px = _shape_px(frames[known])
    return map_um.sample_um(np.zeros(2), stage_um[known][0], shape_px)

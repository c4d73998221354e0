"""What every column of a trajectory means: one table for all exports.

A row of a trajectory is one particle in one frame. Positions in the sample have the
motion of the stage and the camera's calibration taken out: displacements between rows
are displacements of the particle. See `lodestar_live.geometry` for the coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lodestar_live.channels import CHANNELS
from lodestar_live.data import UNITS
from lodestar_live.recording.tables import TRACE_DTYPE


class ColumnInfo(NamedTuple):
    """Unit and meaning of a column; the unit "1" is a plain number."""

    unit: str
    meaning: str


TRACKPY_COLUMNS: Mapping[str, ColumnInfo] = {
    "frame": ColumnInfo(
        "frames", "number of the frame (recordings: time point); gaps are images lost"
    ),
    "particle": ColumnInfo("1", "the same as track_id"),
    "y": ColumnInfo("um", "y_um; y_px where the pixel size is unknown"),
    "x": ColumnInfo("um", "x_um; x_px where the pixel size is unknown"),
    "t": ColumnInfo("s", "t_exposure_s; empty where there is no time axis"),
    "mass": ColumnInfo("counts", "peak contrast (intensity), not an integral"),
    "ep": ColumnInfo("um", "1-sigma uncertainty of y and of x, in their unit"),
}
"""trackpy's names, ahead of ours in CSV and Parquet."""

_FRAME_COLUMNS = {
    "frame": ("frames", "number of the frame, from 0; gaps are frames lost"),
    "t_exposure_s": ("s", "middle of the exposure; NaN without a time axis"),
    "exposure_ms": ("ms", "length of the exposure"),
    "position": ("", "where the stage had been sent: name or number of the position"),
    "channel": ("", "name of the channel"),
    "time_index": ("1", "time point of a multi-dimensional acquisition"),
    "z_index": ("1", "slice of a multi-dimensional acquisition"),
    "stage_z_um": ("um", "focus drive at exposure"),
    "stage_y_um": ("um", "stage at exposure"),
    "stage_x_um": ("um", "stage at exposure"),
    "pixel_size_um": ("um", "side of a pixel in the sample plane"),
    "is_measured": ("1", "1 seen in this frame, 0 predicted"),
}
_TRACK_COLUMNS = {
    "track_id": "identity, never used twice in a run",
    "y_um": "position in the sample",
    "x_um": "position in the sample",
    "vz_um_per_frame": "filtered velocity along the light",
    "vy_px_per_frame": "filtered velocity",
    "vx_px_per_frame": "filtered velocity",
    "age_frames": "frames since the track began",
    "missed_frames": "frames since the particle was last seen",
    "detection_index": "row among this frame's detections, -1 when missed",
    "existence": "probability that the particle is real and still there",
    "model_version": "models swapped in before, 0 the first",
}


def _meanings() -> dict[str, str]:
    meanings = {channel.column: channel.label for channel in CHANNELS}
    meanings |= {
        channel.sigma_column: f"1-sigma uncertainty of {channel.label}"
        for channel in CHANNELS
        if channel.sigma_column is not None
    }
    meanings |= {
        "y_px": "position in the camera image, [0, 0] is a pixel's centre",
        "x_px": "position in the camera image, [0, 0] is a pixel's centre",
        "z_um": "distance along the light from the focal plane",
        "sigma_px": "1-sigma uncertainty of y and of x",
    }
    return meanings | _TRACK_COLUMNS


def describe_columns() -> dict[str, ColumnInfo]:
    """Return unit and meaning of every column of `TRACE_DTYPE`, in its order."""
    meanings = _meanings()
    known = {name: ColumnInfo(*info) for name, info in _FRAME_COLUMNS.items()}
    return {
        name: known.get(name)
        or ColumnInfo(UNITS.get(name, "1"), meanings.get(name, name.replace("_", " ")))
        for name in TRACE_DTYPE.names or ()
    }

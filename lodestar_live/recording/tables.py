"""The tables of a run file and the array layouts they are read into."""

from __future__ import annotations

from typing import Any

import numpy as np

from lodestar_live.data import SUMMARY_DTYPE, TRACK_DTYPE

SCHEMA_VERSION = 2
"""2: position, channel, indices and exposure of a frame; status and reason of a run."""
APPLICATION_ID = 0x4C4F4453  # "LODS", in the file's header: whose database this is
FILE_NAME = "run.sqlite"
STATES = ("processed", "dropped", "failed", "waiting")
TIMINGS = ("wait", "prepare", "detect", "link", "publish", "latency")

_FRAME_FIELDS: list[tuple[str, str]] = [
    ("frame", "i8"),
    ("state", "U9"),
    ("t_exposure_s", "f8"),
    ("t_arrival_s", "f8"),
    ("exposure_ms", "f8"),
    ("position", "U64"),
    ("channel", "U64"),
    ("time_index", "f8"),
    ("z_index", "f8"),
    ("stage_z_um", "f8"),
    ("stage_y_um", "f8"),
    ("stage_x_um", "f8"),
    ("n_detections", "i8"),
    ("n_tracks", "i8"),
    ("received", "i8"),
    ("processed", "i8"),
    ("dropped", "i8"),
    ("failed", "i8"),
    ("waiting", "i8"),
    *((f"{stage}_ms", "f8") for stage in TIMINGS),
    ("degraded", "i8"),
    ("height_px", "i8"),
    ("width_px", "i8"),
    ("origin_y_px", "i8"),
    ("origin_x_px", "i8"),
    ("pixel_size_um", "f8"),
]
FRAME_DTYPE = np.dtype(_FRAME_FIELDS)
OF_THE_FRAME = (
    "t_exposure_s", "exposure_ms", "position", "channel", "time_index", "z_index",
    "stage_z_um", "stage_y_um", "stage_x_um", "pixel_size_um",
)  # fmt: skip
"""What a row of a trajectory says of its frame."""
_trace_fields: list[Any] = [
    ("frame", "i8"),
    *((name, FRAME_DTYPE[name]) for name in OF_THE_FRAME),
    ("is_measured", "?"),
]
TRACE_DTYPE = np.dtype(_trace_fields + TRACK_DTYPE.descr)

NEEDED = {
    "run": {"run", "started", "settings"},
    "frames": {"frame", "state"},
    "tracks": {"frame", "track_id", "y_px", "x_px", "missed_frames"},
    "events": {"kind", "t_s", "frame", "details"},
}
"""Columns without which a table is not ours; the others came over time."""

_SQL_TYPES = {"i": "INTEGER", "f": "REAL", "U": "TEXT"}


def _columns(dtype: np.dtype[Any], names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {_SQL_TYPES[dtype[name].kind]}" for name in names)


ROW_DTYPE = np.dtype([("frame", "i8"), *TRACK_DTYPE.descr])
FRAME_NAMES = FRAME_DTYPE.names or ()
TRACK_NAMES = ROW_DTYPE.names or ()
SUMMARY_NAMES = SUMMARY_DTYPE.names or ()

CREATE = f"""
CREATE TABLE run (
    run TEXT, started TEXT, schema_version INTEGER, settings TEXT, versions TEXT,
    model TEXT, model_sha256 TEXT, calibration TEXT, pixel_size_um REAL, ended_s REAL,
    frames_lost INTEGER DEFAULT 0, status TEXT, reason TEXT, source TEXT
);
CREATE TABLE frames ({_columns(FRAME_DTYPE, FRAME_NAMES)}, PRIMARY KEY (frame));
CREATE TABLE tracks ({_columns(ROW_DTYPE, TRACK_NAMES)},
    PRIMARY KEY (frame, track_id)) WITHOUT ROWID;
CREATE TABLE track_summary ({_columns(SUMMARY_DTYPE, SUMMARY_NAMES)},
    PRIMARY KEY (track_id)) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, t_s REAL, frame INTEGER, kind TEXT, details TEXT
);
"""

CREATE_VIEW = (
    "CREATE VIEW trajectories AS SELECT tracks.*, "  # noqa: S608 - our own names
    f"{', '.join(OF_THE_FRAME)}, missed_frames = 0 AS is_measured "
    "FROM tracks JOIN frames ON frames.frame = tracks.frame"
)
"""Tracks with what is known of their frames, for readers of SQL."""


def _insert(table: str, names: tuple[str, ...]) -> str:
    marks = ", ".join("?" * len(names))
    return f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608


INSERT_FRAME = _insert("frames", FRAME_NAMES)
INSERT_TRACK = _insert("tracks", TRACK_NAMES)
INSERT_SUMMARY = _insert("track_summary", SUMMARY_NAMES)
INSERT_EVENT = _insert("events", ("t_s", "frame", "kind", "details"))
INSERT_RUN = _insert(
    "run",
    (
        "run", "started", "schema_version", "settings", "versions", "model",
        "model_sha256", "calibration", "pixel_size_um",
        "status", "reason", "source",
    ),
)  # fmt: skip

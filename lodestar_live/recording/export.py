"""Trajectories of a recording in the formats of other tools."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.data import Rows
from lodestar_live.errors import InputError
from lodestar_live.recording.recording import Recording

Columns = dict[str, np.ndarray[Any, Any]]

# trackpy's name -> ours; written first, ours follow
TRACKPY_NAMES = {
    "frame": "frame",
    "particle": "track_id",
    "y": "y_px",
    "x": "x_px",
    "mass": "intensity",
    "ep": "sigma_px",
}


def export(
    recording: Recording, path: str | Path, *, to: str = "csv", min_frames: int = 0
) -> int:
    """Write the trajectories of a recording and return how many there are.

    Parameters
    ----------
    path
        File to write; replaced if it exists.
    to
        One of `FORMATS`.
    min_frames
        Leave out trajectories with fewer rows, e.g. the paper's 40.

    Raises
    ------
    InputError
        Unknown format, or the package it needs is not installed.
    """
    if to not in FORMATS:
        raise InputError(f"export to {to!r}: unknown; expected one of {list(FORMATS)}.")
    rows = recording.tracks(min_frames)
    FORMATS[to](recording, rows, Path(path))
    return len(np.unique(rows["track_id"]))


def default_name(to: str) -> str:
    """Return the usual file name of a format."""
    return {"csv": "tracks.csv"}.get(to, f"tracks.{to}")


def trackpy_columns(rows: Rows) -> Columns:
    """Return trackpy's columns beside ours."""
    columns = {theirs: rows[ours] for theirs, ours in TRACKPY_NAMES.items()}
    ours = {name: rows[name] for name in rows.dtype.names or () if name != "frame"}
    return {**columns, **ours}


def _write_csv_table(path: Path, columns: Columns) -> None:
    """Write a table; NaN is an empty cell."""
    values = [
        ["" if value != value else value for value in column.tolist()]
        for column in columns.values()
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*values, strict=True))


def _to_csv(_recording: Recording, rows: Rows, path: Path) -> None:
    _write_csv_table(path, trackpy_columns(rows))


FORMATS: dict[str, Callable[[Recording, Rows, Path], None]] = {"csv": _to_csv}

"""Trajectories of a recording in the formats of other tools."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.data import UNITS, Rows, RunInfo
from lodestar_live.errors import InputError
from lodestar_live.recording.recording import Recording

Columns = Mapping[str, np.ndarray[Any, Any]]

# trackpy's name -> ours; written first, ours follow
_TRACKPY_NAMES = {
    "frame": "frame",
    "particle": "track_id",
    "y": "y_px",
    "x": "x_px",
    "mass": "intensity",
    "ep": "sigma_px",
}


@dataclass(frozen=True, slots=True)
class Format:
    """How one tool wants its trajectories: who writes, and the usual file name."""

    write: Callable[[Rows, RunInfo, Path], None]
    file_name: str


def export(
    recording: Recording, path: str | Path, *, to: str = "csv", min_frames: int = 0
) -> int:
    """Write the trajectories of a recording and return how many there are.

    Parameters
    ----------
    path
        File to write (geff: folder); replaced if it exists.
    to
        One of `FORMATS`.
    min_frames
        Leave out trajectories with fewer rows, e.g. the paper's 40.

    Raises
    ------
    InputError
        Unknown format, the package it needs is not installed, or the file cannot be
        written.
    """
    chosen = _format(to)
    rows = recording.tracks(min_frames)
    try:
        chosen.write(rows, recording.info, Path(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from error
    return len(np.unique(rows["track_id"]))


def default_name(to: str) -> str:
    """Return the usual file name of a format."""
    return _format(to).file_name


def trackpy_columns(rows: Rows) -> Columns:
    """Return trackpy's columns beside ours."""
    columns = {theirs: rows[ours] for theirs, ours in _TRACKPY_NAMES.items()}
    return {**columns, **{n: rows[n] for n in rows.dtype.names or () if n != "frame"}}


def trackmate_columns(rows: Rows, info: RunInfo) -> Columns:
    """Return the columns TrackMate names, in µm where the pixel size is known."""
    scale = info.pixel_size_um if np.isfinite(info.pixel_size_um) else 1.0
    return {
        "ID": np.arange(len(rows)),
        "TRACK_ID": rows["track_id"],
        "QUALITY": rows["score"],
        "POSITION_X": rows["x_px"] * scale,
        "POSITION_Y": rows["y_px"] * scale,
        "POSITION_Z": np.nan_to_num(rows["z_um"]),
        "POSITION_T": rows["t_exposure_s"],
        "FRAME": rows["frame"],
    }


def napari_columns(rows: Rows) -> Columns:
    """Return napari's Tracks array as columns: id, frame, (z), y, x."""
    names = {"track_id": "track_id", "t": "frame"}
    if np.isfinite(rows["z_um"]).any():
        names["z"] = "z_um"
    names |= {"y": "y_px", "x": "x_px"}
    return {theirs: rows[ours] for theirs, ours in names.items()}


def links(rows: Rows) -> np.ndarray[Any, Any]:
    """Return pairs (row, row) that follow each other in one track, shape (n, 2)."""
    same = rows["track_id"][1:] == rows["track_id"][:-1]
    first = np.flatnonzero(same)
    return np.stack([first, first + 1], axis=1)


def _format(to: str) -> Format:
    if to not in FORMATS:
        raise InputError(f"export to {to!r}: unknown; expected one of {list(FORMATS)}.")
    return FORMATS[to]


def _write_csv(columns: Columns, path: Path) -> None:
    """Write a table; NaN is an empty cell."""
    values = [
        ["" if value != value else value for value in column.tolist()]
        for column in columns.values()
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*values, strict=True))


def _write_parquet(rows: Rows, info: RunInfo, path: Path) -> None:
    pyarrow = _load("pyarrow", extra="parquet")
    parquet = _load("pyarrow.parquet", extra="parquet")
    table = pyarrow.table(dict(trackpy_columns(rows)))
    facts = {"run": info.run, "started": info.started, "units": str(dict(UNITS))}
    parquet.write_table(table.replace_schema_metadata(facts), path)


def _write_geff(rows: Rows, info: RunInfo, path: Path) -> None:
    core_io, spec = _load("geff.core_io", extra="geff"), _load("geff", extra="geff")
    is_measured = {name: np.isfinite(rows[name]) for name in rows.dtype.names or ()}
    axes = [
        {"name": "frame", "type": "time", "unit": "frame"},
        {"name": "y_px", "type": "space", "unit": "pixel"},
        {"name": "x_px", "type": "space", "unit": "pixel"},
    ]
    properties = {
        name: {
            "values": np.nan_to_num(rows[name]),
            "missing": None if known.all() else ~known,
        }
        for name, known in is_measured.items()
    }
    core_io.write_arrays(
        path,
        node_ids=np.arange(len(rows), dtype=np.uint64),
        node_props=properties,
        edge_ids=links(rows).astype(np.uint64),
        edge_props=None,
        metadata=spec.GeffMetadata(
            directed=True,
            axes=axes,
            node_props_metadata={},
            edge_props_metadata={},
            track_node_props={"tracklet": "track_id"},
        ),
        overwrite=True,
    )


def _load(module: str, *, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{module.split('.')[0]} is not installed; run "
            f"`pip install 'lodestar-live[{extra}]'`."
        ) from error


FORMATS: Mapping[str, Format] = {
    "csv": Format(lambda r, _i, p: _write_csv(trackpy_columns(r), p), "tracks.csv"),
    "parquet": Format(_write_parquet, "tracks.parquet"),
    "trackmate": Format(
        lambda r, i, p: _write_csv(trackmate_columns(r, i), p), "tracks_trackmate.csv"
    ),
    "geff": Format(_write_geff, "tracks.geff"),
    "napari": Format(
        lambda r, _i, p: _write_csv(napari_columns(r), p), "tracks_napari.csv"
    ),
}

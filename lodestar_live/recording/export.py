"""Trajectories of a recording in the formats of other tools.

Every format holds measured rows only, in the sample's frame, in µm and s; where a run
knows no pixel size or no time axis, in px and frames. `columns.py` says what each
column means.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.errors import InputError
from lodestar_live.recording.columns import TRACKPY_COLUMNS, describe_columns
from lodestar_live.recording.recording import Recording
from lodestar_live.recording.summary import summarise
from lodestar_live.recording.trackmate import write_trackmate
from lodestar_live.recording.trajectories import (
    Columns,
    Trajectories,
    read_trajectories,
)


@dataclass(frozen=True, slots=True)
class Format:
    """How one tool wants its trajectories: who writes, and the usual file name."""

    write: Callable[[Trajectories, Path], None]
    file_name: str


def export(
    recording: Recording,
    path: str | Path,
    *,
    to: str = "csv",
    min_frames: int = 0,
    movie: str | Path | None = None,
    predictions: bool = False,
) -> int:
    """Write the trajectories of a recording and return how many there are.

    Parameters
    ----------
    path
        File to write (geff: folder); replaced if it exists.
    to
        One of `FORMATS`.
    min_frames
        Leave out trajectories measured in fewer frames, e.g. the paper's 40.
    movie
        Where the images lie, for formats that name them; None: as the run says.
    predictions
        Write the rows in which a particle was missed as well; `is_measured` tells them
        apart. Only csv and parquet have that column.

    Raises
    ------
    InputError
        Unknown format, the package it needs is not installed, or the file cannot be
        written.
    """
    chosen = _format(to)
    if predictions and to not in ("csv", "parquet"):
        raise InputError(
            f"export to {to!r} with predictions: the format cannot tell them from "
            "measurements; expected csv or parquet."
        )
    runs = read_trajectories(
        recording,
        min_frames=min_frames,
        predictions=predictions,
        movie=None if movie is None else Path(movie),
    )
    try:
        chosen.write(runs, Path(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from error
    return len(np.unique(runs.rows["track_id"]))


def default_name(to: str) -> str:
    """Return the usual file name of a format."""
    return _format(to).file_name


def trackpy_columns(runs: Trajectories) -> Columns:
    """Return trackpy's columns, in µm and s, beside ours."""
    rows, place = runs.rows, runs.positions
    scale = runs.pixel_size_um if runs.length_unit == "um" else 1.0
    theirs = {
        "frame": runs.frame_numbers,
        "particle": rows["track_id"],
        "y": place[:, 0],
        "x": place[:, 1],
        "t": rows["t_exposure_s"],
        "mass": rows["intensity"],
        "ep": rows["sigma_px"] * scale,
    }
    ours = {n: rows[n] for n in rows.dtype.names or () if n != "frame"}
    return {**theirs, **ours, "is_measured": rows["is_measured"].astype(int)}


def trackmate_columns(runs: Trajectories) -> Columns:
    """Return the columns TrackMate's CSV importer names."""
    rows, place = runs.rows, runs.positions
    return {
        "ID": np.arange(len(rows)),
        "TRACK_ID": rows["track_id"],
        "QUALITY": rows["score"],
        "POSITION_X": place[:, 1],
        "POSITION_Y": place[:, 0],
        "POSITION_Z": np.nan_to_num(rows["z_um"]),
        "POSITION_T": runs.times,
        "FRAME": runs.frame_numbers,
    }


def napari_columns(runs: Trajectories) -> Columns:
    """Return napari's Tracks array as columns: id, frame, (z), y, x."""
    rows, place = runs.rows, runs.positions
    columns = {"track_id": rows["track_id"], "t": runs.frame_numbers}
    if np.isfinite(rows["z_um"]).any():
        columns["z"] = rows["z_um"]
    return columns | {"y": place[:, 0], "x": place[:, 1]}


def links(runs: Trajectories) -> np.ndarray[Any, Any]:
    """Return pairs (row, row) that follow each other in one track, shape (n, 2)."""
    track_id = runs.rows["track_id"]
    first = np.flatnonzero(track_id[1:] == track_id[:-1])
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


def write_parquet(runs: Trajectories, path: Path) -> None:
    """Write trajectories as one Parquet file with units as JSON."""
    pyarrow = _load("pyarrow", extra="parquet")
    parquet = _load("pyarrow.parquet", extra="parquet")
    columns, described = trackpy_columns(runs), _described(runs)
    fields = [
        pyarrow.array(values)
        if values.dtype.kind != "U"
        else pyarrow.array(values.tolist(), type=pyarrow.string())
        for values in columns.values()
    ]
    table = pyarrow.Table.from_arrays(
        fields,
        schema=pyarrow.schema(
            [
                pyarrow.field(name, values.type, metadata=_field_facts(described[name]))
                for name, values in zip(columns, fields, strict=True)
            ]
        ),
    )
    facts = {"run": runs.info.run, "started": runs.info.started}
    facts["units"] = json.dumps({n: unit for n, (unit, _) in described.items()})
    facts["length_unit"], facts["time_unit"] = runs.length_unit, runs.time_unit
    parquet.write_table(table.replace_schema_metadata(facts), path)


def _described(runs: Trajectories) -> dict[str, tuple[str, str]]:
    """Return unit and meaning of each column as they are in this run."""
    described = {**describe_columns(), **TRACKPY_COLUMNS}
    in_px = {n: ("px", described[n].meaning) for n in ("y", "x", "ep")}
    return dict(described) if runs.length_unit == "um" else {**described, **in_px}


def _field_facts(info: tuple[str, str]) -> dict[str, str]:
    return dict(zip(("unit", "meaning"), info, strict=True))


def _write_geff(runs: Trajectories, path: Path) -> None:
    core_io, spec = _load("geff.core_io", extra="geff"), _load("geff", extra="geff")
    rows = runs.rows
    properties = {
        name: _geff_property(rows[name])
        for name in rows.dtype.names or ()
        if rows.dtype[name].kind != "U"
    }
    properties["frame"] = _geff_property(runs.frame_numbers)
    described = describe_columns()
    core_io.write_arrays(
        path,
        node_ids=np.arange(len(rows), dtype=np.uint64),
        node_props=properties,
        edge_ids=links(runs).astype(np.uint64),
        edge_props=None,
        metadata=spec.GeffMetadata(
            directed=True,
            axes=_geff_axes(runs),
            node_props_metadata={},
            edge_props_metadata={},
            # A track neither splits nor merges: tracklet and lineage are the same.
            track_node_props={"tracklet": "track_id", "lineage": "track_id"},
            extra={
                "lodestar_live": {
                    "run": runs.info.run,
                    "units": {n: described[n].unit for n in properties},
                    "meanings": {n: described[n].meaning for n in properties},
                }
            },
        ),
        overwrite=True,
    )


def _geff_property(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    is_known = np.isfinite(values)
    missing = None if is_known.all() else ~is_known
    return {"values": np.nan_to_num(values), "missing": missing}


def _geff_axes(runs: Trajectories) -> list[dict[str, Any]]:
    """Return time in frames, scaled to seconds, and space in µm or pixels."""
    time: dict[str, Any] = {"name": "frame", "type": "time", "unit": "frame"}
    if runs.time_unit == "s":
        time |= {"scale": runs.interval_s, "scaled_unit": "second"}
    unit = {"um": "micrometer", "px": "pixel"}[runs.length_unit]
    names = [f"{axis}_{runs.length_unit}" for axis in "yx"]
    if len(runs.rows) and np.isfinite(runs.rows["z_um"]).all():
        names.insert(0, "z_um")
    units = ["micrometer" if name.endswith("_um") else unit for name in names]
    return [time] + [
        {"name": name, "type": "space", "unit": unit}
        for name, unit in zip(names, units, strict=True)
    ]


def _load(module: str, *, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{module.split('.')[0]} is not installed; run "
            f"`pip install 'lodestar-live[{extra}]'`."
        ) from error


def _write_summary(runs: Trajectories, path: Path) -> None:
    table = summarise(runs)
    _write_csv({name: table[name] for name in table.dtype.names or ()}, path)


FORMATS: Mapping[str, Format] = {
    "csv": Format(lambda r, p: _write_csv(trackpy_columns(r), p), "tracks.csv"),
    "parquet": Format(write_parquet, "tracks.parquet"),
    "trackmate": Format(write_trackmate, "tracks_trackmate.xml"),
    "trackmate-csv": Format(
        lambda r, p: _write_csv(trackmate_columns(r), p), "tracks_trackmate.csv"
    ),
    "geff": Format(_write_geff, "tracks.geff"),
    "summary": Format(_write_summary, "track_summary.csv"),
    "napari": Format(
        lambda r, p: _write_csv(napari_columns(r), p), "tracks_napari.csv"
    ),
}

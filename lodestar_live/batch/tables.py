"""The tables of a batch: rows of a recording, its tracks, and one of all recordings."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.batch.files import write_atomically
from lodestar_live.data import FloatArray, Rows, blank_rows
from lodestar_live.errors import InputError
from lodestar_live.recording.export import write_parquet
from lodestar_live.recording.summary import SUMMARY_COLUMNS, summarise
from lodestar_live.recording.tables import TRACE_DTYPE
from lodestar_live.recording.trajectories import Trajectories

MOST_ROWS = 2_000_000  # of one recording held in memory at a time
PART = "part-{:06d}.parquet"
TRACKS = "track_summary.csv"

RECORDING_COLUMNS: Mapping[str, str] = {
    "recording": "name of the results' folder",
    "path": "where the recording lies",
    "status": "completed or failed",
    "reason": "why it failed",
    "position": "stage position",
    "channel": "channel",
    "n_frames": "frames of the recording",
    "n_failed": "frames that could not be processed",
    "n_detections": "particles found in all frames",
    "n_tracks": "tracks of this position and channel",
    "n_long_tracks": "those measured in linking.min_track_frames or more",
    "length_unit": "um, or px where the pixel size is unknown",
    "time_unit": "s, or frames where there is no time axis",
    "diffusion_median": "of the long tracks (covariance estimator), length^2/time",
    "diffusion_quartile_1": "lower quartile",
    "diffusion_quartile_3": "upper quartile",
    "alpha_median": "of the long tracks: 1 diffusion, 2 straight",
    "velocity_y_mean": "of the long tracks, length/time",
    "velocity_x_mean": "of the long tracks, length/time",
    "polarizability_median_um3": "of the long tracks",
    "worker_seconds": "time spent on detection",
}
"""Columns of the table over all recordings, and what they mean."""


def write_rows(folder: Path, number: int, rows: Rows, facts: Trajectories) -> None:
    """Write the measured rows of one chunk as a part of the recording's dataset."""
    with write_atomically(folder / PART.format(number)) as part:
        write_parquet(replace(facts, rows=rows), part)


def summarise_recording(
    folder: Path, facts: Trajectories, rows_folder: str, least_frames: int
) -> list[dict[str, object]]:
    """Write one row per track and return one per position and channel.

    A recording of more rows than `MOST_ROWS` is read in groups of tracks; the drift
    that `diffusion_msd` leaves out is then each group's own.
    """
    dataset = folder / rows_folder
    pieces = []
    for low, high in _groups(dataset):
        rows = _read(dataset, low, high)
        pieces.append(summarise(replace(facts, rows=rows)))
    tracks = np.concatenate(pieces) if pieces else _no_tracks()
    with write_atomically(folder / TRACKS) as part:
        part.write_text(_csv(SUMMARY_COLUMNS, _dicts(tracks)), encoding="utf-8")
    keys = sorted({(str(t["position"]), str(t["channel"])) for t in tracks})
    return [_series(tracks, key, facts, least_frames) for key in keys or [("", "")]]


def write_summary(out: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the table over all recordings as CSV and Parquet."""
    rows = [{name: row.get(name) for name in RECORDING_COLUMNS} for row in rows]
    with write_atomically(out / "summary.csv") as part:
        part.write_text(_csv(RECORDING_COLUMNS, rows), encoding="utf-8")
    pyarrow, parquet = _pyarrow()
    with write_atomically(out / "summary.parquet") as part:
        table = pyarrow.Table.from_pylist(list(rows))
        parquet.write_table(table, part)


def require_pyarrow() -> None:
    """Refuse to begin where tables could not be written.

    Raises
    ------
    InputError
        pyarrow is not installed.
    """
    _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputError(
            "pyarrow is not installed; run `pip install 'lodestar-live[batch]'`."
        ) from error


def _groups(dataset: Path) -> Iterator[tuple[int, int]]:
    """Return ranges of track ids [low, high) of at most `MOST_ROWS` rows together."""
    _, parquet = _pyarrow()
    counts = np.zeros(0, np.int64)
    for path in sorted(dataset.glob("part-*.parquet")):
        ids = parquet.read_table(path, columns=["track_id"])["track_id"].to_numpy()
        more = np.bincount(ids, minlength=len(counts))
        more[: len(counts)] += counts
        counts = more
    low, total = 0, 0
    for track, n in enumerate(counts.tolist()):
        if total and total + n > MOST_ROWS:
            yield low, track
            low, total = track, 0
        total += n
    if len(counts):
        yield low, len(counts)


def _read(dataset: Path, low: int, high: int) -> Rows:
    """Return the rows of tracks [low, high), by track, then frame."""
    _, parquet = _pyarrow()
    chosen = [("track_id", ">=", low), ("track_id", "<", high)]
    names = [name for name in TRACE_DTYPE.names or () if name != "frame"]
    table = parquet.read_table(dataset, columns=["frame", *names], filters=chosen)
    rows = blank_rows(TRACE_DTYPE, table.num_rows)
    for name in ("frame", *names):
        rows[name] = table[name].to_numpy(zero_copy_only=False)
    return rows[np.lexsort((rows["frame"], rows["track_id"]))]


def _no_tracks() -> Rows:
    return blank_rows(np.dtype([(n, "f8") for n in SUMMARY_COLUMNS]), 0)


def _series(
    tracks: Rows, key: tuple[str, str], facts: Trajectories, least_frames: int
) -> dict[str, object]:
    """Return what the tracks of one position and channel come to."""
    own = tracks[[(str(t["position"]), str(t["channel"])) == key for t in tracks]]
    long = own[own["n_frames"] >= least_frames]
    return {
        "position": key[0],
        "channel": key[1],
        "n_tracks": len(own),
        "n_long_tracks": len(long),
        "length_unit": facts.length_unit,
        "time_unit": facts.time_unit,
        "diffusion_median": _quantile(long["diffusion"], 0.5),
        "diffusion_quartile_1": _quantile(long["diffusion"], 0.25),
        "diffusion_quartile_3": _quantile(long["diffusion"], 0.75),
        "alpha_median": _quantile(long["alpha"], 0.5),
        "velocity_y_mean": _mean(long["velocity_y"]),
        "velocity_x_mean": _mean(long["velocity_x"]),
        "polarizability_median_um3": _quantile(long["polarizability_um3"], 0.5),
    }


def _quantile(values: Rows, share: float) -> float | None:
    known = _known(values)
    return float(np.quantile(known, share)) if len(known) else None


def _known(values: Rows) -> FloatArray:
    numbers: FloatArray = np.asarray(values, dtype=float)
    known: FloatArray = numbers[np.isfinite(numbers)]
    return known


def _mean(values: Rows) -> float | None:
    known = _known(values)
    return float(np.mean(known)) if len(known) else None


def _dicts(rows: Rows) -> Iterator[dict[str, object]]:
    names = rows.dtype.names or ()
    return (dict(zip(names, row, strict=True)) for row in rows.tolist())


def _csv(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Return a table as text; what is not known is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: object) -> object:
    is_unknown = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if is_unknown else value

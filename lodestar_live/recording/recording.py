"""Recording: read a run file, also while it is being written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lodestar_live.data import Event, FloatArray, Rows, RunInfo, blank_rows
from lodestar_live.errors import RecordingError
from lodestar_live.geometry import run_map, sample_positions_um
from lodestar_live.health import RunEnd
from lodestar_live.recording import tables

_PIECE_ROWS = 20_000
_RUN_TEXTS = ("settings", "versions", "model", "calibration", "source")


class Recording:
    """A recorded run.

    Files of older versions are read as well: columns they lack are NaN, and sample
    positions are worked out from stage and calibration.

    Parameters
    ----------
    path
        The run's folder or its run.sqlite.

    Attributes
    ----------
    info
        Facts of the run.
    end
        How it ended.
    schema_version
        Of the file; see `tables.SCHEMA_VERSION`.

    Raises
    ------
    RecordingError
        There is no run file, it is not one of ours, it is damaged, or it was written
        by a newer version of this program.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / tables.FILE_NAME if path.is_dir() else path
        if not self.path.is_file():
            raise RecordingError(
                f"{path}: no run file; expected a run's folder or its run.sqlite."
            )
        try:
            uri = f"{self.path.resolve().as_uri()}?mode=ro"
            self._database = sqlite3.connect(uri, uri=True, timeout=5.0)
        except sqlite3.Error as error:
            raise RecordingError(f"{self.path}: cannot be opened ({error}).") from error
        try:
            self._known = self._check_schema()
            self._read_run()
        except BaseException:
            self._database.close()
            raise

    def frames(self) -> Rows:
        """Return one row per frame received, in order; dtype `FRAME_DTYPE`.

        Texts are as wide as the longest of them.
        """
        frames = self._select_array("frames", tables.FRAME_DTYPE, "ORDER BY frame")
        frames.flags.writeable = False
        return frames

    def tracks(self, min_frames: int = 0, *, measured_only: bool = False) -> Rows:
        """Return the trajectories, ordered by track, then frame.

        Parameters
        ----------
        min_frames
            Leave out tracks with fewer rows.
        measured_only
            Leave out rows in which the particle was not seen: their positions are
            predictions (`is_measured` is False).

        Returns
        -------
        Structured array of dtype `TRACE_DTYPE`: what the row says of its frame, and the
        columns of `Tracks`.
        """
        rows = self._select_array("tracks", tables.ROW_DTYPE)
        if measured_only:
            rows = rows[rows["missed_frames"] == 0]
        _, which, n_frames = np.unique(
            rows["track_id"], return_inverse=True, return_counts=True
        )
        rows = rows[n_frames[which] >= min_frames]
        # sorting here is ten times as fast as in the database
        rows = rows[np.lexsort((rows["frame"], rows["track_id"]))]
        traces = self._join(rows, self.frames())  # read later: holds all their frames
        traces.flags.writeable = False
        return traces

    def events(self) -> list[Event]:
        """Return the events in the order they were told."""
        rows = self._select("SELECT kind, t_s, frame, details FROM events ORDER BY id")
        with self._damage_is_named("events"):
            return [Event(k, t_s, frame, json.loads(d)) for k, t_s, frame, d in rows]

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- reading -----------------------------------------------------------------

    @contextmanager
    def _damage_is_named(self, what: str) -> Iterator[None]:
        """Turn whatever a damaged file provokes into one clear error."""
        try:
            yield
        except (
            sqlite3.Error, ValueError, TypeError, AttributeError, OverflowError,
            RecursionError,
        ) as error:  # fmt: skip
            raise RecordingError(
                f"{self.path}: not a readable run file: {what} "
                f"({type(error).__name__}: {error}). Restore it from a backup, or try "
                "the `.recover` command of sqlite3 on a copy."
            ) from error

    def _select(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        with self._damage_is_named("cannot be read"):
            return self._database.execute(sql, values).fetchall()

    def _check_schema(self) -> dict[str, set[str]]:
        """Return the columns of each table; refuse what is not a run file."""
        known = {}
        for table in ("run", "frames", "tracks", "events"):
            found = self._select("SELECT name FROM pragma_table_info(?)", table)
            if not found:
                raise RecordingError(
                    f"{self.path}: not a readable run file: it has no table {table!r}."
                )
            known[table] = {str(name) for (name,) in found}
        for table, needed in tables.NEEDED.items():
            if missing := sorted(needed - known[table]):
                raise RecordingError(
                    f"{self.path}: not a readable run file: table {table!r} has no "
                    f"column {', '.join(missing)}."
                )
        return known

    def _read_run(self) -> None:
        names = [
            *("run", "started", "schema_version", "pixel_size_um", *_RUN_TEXTS),
            *("status", "reason", "frames_lost"),
        ]
        chosen = [n if n in self._known["run"] else "NULL" for n in names]
        rows = self._select(f"SELECT {', '.join(chosen)} FROM run")  # noqa: S608
        if not rows:
            raise RecordingError(f"{self.path}: holds no run.")
        row = dict(zip(names, rows[0], strict=True))
        with self._damage_is_named("the table 'run' is damaged"):
            self.schema_version = int(row["schema_version"] or 1)
            self._refuse_newer()
            texts = {name: _json_object(row[name]) for name in _RUN_TEXTS}
            size_um = row["pixel_size_um"]
            self.info = RunInfo(
                run=str(row["run"]),
                started=str(row["started"]),
                pixel_size_um=float("nan") if size_um is None else float(size_um),
                **texts,
            )
            self._map = run_map(self.info.calibration, self.info.pixel_size_um)
            self.end = RunEnd(
                str(row["status"] or "unknown"),
                str(row["reason"] or ""),
                int(row["frames_lost"] or 0),
            )

    def _refuse_newer(self) -> None:
        if self.schema_version > tables.SCHEMA_VERSION:
            raise RecordingError(
                f"{self.path}: schema version {self.schema_version}; this program "
                f"reads up to {tables.SCHEMA_VERSION}. Update lodestar-live."
            )

    def _select_array(self, table: str, dtype: np.dtype[Any], order: str = "") -> Rows:
        """Return a table as a structured array, in pieces to spare memory."""
        columns = _columns(dtype, self._known[table])
        dtype = self._with_text_widths(table, dtype)
        pieces = [blank_rows(dtype, 0)]
        with self._damage_is_named(f"table {table!r}"):
            cursor = self._database.execute(
                f"SELECT {columns} FROM {table} {order}"  # noqa: S608 - our names
            )
            while rows := cursor.fetchmany(_PIECE_ROWS):
                pieces.append(_to_array(rows, dtype))
        return np.concatenate(pieces)

    def _with_text_widths(self, table: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype with texts as wide as needed: rows stay small."""
        fields: list[Any] = []
        for name in dtype.names or ():
            kind: Any = dtype[name]
            if kind.kind == "U" and name in self._known[table]:
                sql = f"SELECT max(length({name})) FROM {table}"  # noqa: S608
                kind = f"U{max(1, int(self._select(sql)[0][0] or 0))}"
            fields.append((name, "U1" if kind == "U64" else kind))
        return np.dtype(fields)

    def _join(self, rows: Rows, frames: Rows) -> Rows:
        """Return track rows with what is known of their frames."""
        fields: list[Any] = [
            (name, frames.dtype[name] if name in tables.OF_THE_FRAME else kind)
            for name, (kind, *_) in (tables.TRACE_DTYPE.fields or {}).items()
        ]
        traces = blank_rows(np.dtype(fields), len(rows))
        for name in rows.dtype.names or ():
            traces[name] = rows[name]
        traces["is_measured"] = rows["missed_frames"] == 0
        if not len(frames):
            return traces
        place = np.searchsorted(frames["frame"], rows["frame"]).clip(0, len(frames) - 1)
        is_there = frames["frame"][place] == rows["frame"]
        for name in tables.OF_THE_FRAME:
            traces[name][is_there] = frames[name][place[is_there]]
        self._complete(traces, frames, place)
        return traces

    def _complete(self, traces: Rows, frames: Rows, place: Any) -> None:
        """Fill in what older files lack: pixel size and sample positions."""
        without = np.isnan(traces["pixel_size_um"])
        traces["pixel_size_um"][without] = self.info.pixel_size_um
        if np.isfinite(traces["y_um"]).any():
            return
        stage_um = _pairs(frames, "stage_y_um", "stage_x_um")
        knows_stage = bool(np.isfinite(stage_um).all(axis=1).any())
        sample_um = sample_positions_um(
            _pairs(traces, "y_px", "x_px"),
            map_um=self._map,
            pixel_size_um=traces["pixel_size_um"],
            stage_um=stage_um[place] if knows_stage else None,
            shape_px=_pairs(frames, "height_px", "width_px")[place],
        )
        traces["y_um"], traces["x_um"] = sample_um[:, 0], sample_um[:, 1]


def _json_object(text: Any) -> dict[str, Any]:
    value = json.loads(text) if text else {}
    if not isinstance(value, dict):
        raise ValueError(f"{str(text)[:40]!r} is not a JSON object")
    return value


def _pairs(rows: Rows, y_name: str, x_name: str) -> FloatArray:
    return np.column_stack([rows[y_name], rows[x_name]]).astype(float)


def _columns(dtype: np.dtype[Any], known: set[str]) -> str:
    """Return the SQL list of columns; absent ones NULL, integers that are NULL 0."""
    names = []
    for name in dtype.names or ():
        column = name if name in known else "NULL"
        kind = dtype[name].kind
        fallback = {"i": "0", "U": "''"}.get(kind)
        names.append(column if fallback is None else f"coalesce({column}, {fallback})")
    return ", ".join(names)


def _to_array(rows: list[tuple[Any, ...]], dtype: np.dtype[Any]) -> Rows:
    """Return rows of the database as a structured array; NULL is NaN."""
    array: Rows = np.empty(len(rows), dtype)
    for name, values in zip(dtype.names or (), zip(*rows, strict=True), strict=True):
        array[name] = values
    return array

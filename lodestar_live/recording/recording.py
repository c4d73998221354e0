"""Recording: read a run file, also while it is being written."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lodestar_live.data import Event, Rows, RunInfo, blank_rows
from lodestar_live.errors import RecordingError
from lodestar_live.recording import tables

_PIECE_ROWS = 20_000
_TIME_DTYPE = np.dtype([("frame", "i8"), ("t_exposure_s", "f8")])


class Recording:
    """A recorded run.

    Parameters
    ----------
    path
        The run's folder or its run.sqlite.

    Raises
    ------
    RecordingError
        There is no run file, or it is not one of ours.
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
            self.info = self._read_info()
        except BaseException:
            self._database.close()
            raise

    def frames(self) -> Rows:
        """Return one row per frame received, in order; dtype `FRAME_DTYPE`."""
        names = _columns(tables.FRAME_DTYPE, tables.FRAME_NAMES)
        frames = self._select_array(
            f"SELECT {names} FROM frames ORDER BY frame",  # noqa: S608 - our names
            tables.FRAME_DTYPE,
        )
        frames.flags.writeable = False
        return frames

    def tracks(self, min_frames: int = 0) -> Rows:
        """Return the trajectories, ordered by track, then frame.

        Parameters
        ----------
        min_frames
            Leave out tracks with fewer rows.

        Returns
        -------
        Structured array of dtype `TRACE_DTYPE`: frame, t_exposure_s and the columns of
        `Tracks`.
        """
        names = _columns(tables.TRACE_DTYPE, tables.TRACK_NAMES[1:])
        traces = self._select_array(
            f"SELECT frame, NULL, {names} FROM tracks",  # noqa: S608 - our names
            tables.TRACE_DTYPE,
        )
        times = self._select_array(  # read after the tracks: holds all their frames
            "SELECT frame, t_exposure_s FROM frames ORDER BY frame", _TIME_DTYPE
        )
        place = np.searchsorted(times["frame"], traces["frame"])
        traces["t_exposure_s"] = times["t_exposure_s"][place]
        _, which, n_frames = np.unique(
            traces["track_id"], return_inverse=True, return_counts=True
        )
        traces = traces[n_frames[which] >= min_frames]
        # sorting here is ten times as fast as in the database
        traces = traces[np.lexsort((traces["frame"], traces["track_id"]))]
        traces.flags.writeable = False
        return traces

    def events(self) -> list[Event]:
        """Return the events in the order they were told."""
        rows = self._select("SELECT kind, t_s, frame, details FROM events ORDER BY id")
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

    def _select(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(sql).fetchall()
        except sqlite3.Error as error:
            raise RecordingError(
                f"{self.path}: not a readable run file ({error})."
            ) from error

    def _select_array(self, sql: str, dtype: np.dtype[Any]) -> Rows:
        """Return a query as a structured array, in pieces to spare memory."""
        pieces = [blank_rows(dtype, 0)]
        try:
            cursor = self._database.execute(sql)
            while rows := cursor.fetchmany(_PIECE_ROWS):
                pieces.append(_to_array(rows, dtype))
        except sqlite3.Error as error:
            raise RecordingError(
                f"{self.path}: not a readable run file ({error})."
            ) from error
        return np.concatenate(pieces)

    def _read_info(self) -> RunInfo:
        rows = self._select(
            "SELECT run, started, settings, versions, model, calibration, "
            "pixel_size_um FROM run"
        )
        if not rows:
            raise RecordingError(f"{self.path}: holds no run.")
        run, started, *texts, pixel_size_um = rows[0]
        settings, versions, model, calibration = (json.loads(text) for text in texts)
        size = float("nan") if pixel_size_um is None else pixel_size_um
        return RunInfo(run, started, settings, versions, model, calibration, size)


def _columns(dtype: np.dtype[Any], names: tuple[str, ...]) -> str:
    """Return the SQL list of columns; integers that are NULL read as 0."""
    return ", ".join(
        f"coalesce({name}, 0)" if dtype[name].kind == "i" else name for name in names
    )


def _to_array(rows: list[tuple[Any, ...]], dtype: np.dtype[Any]) -> Rows:
    """Return rows of the database as a structured array; NULL is NaN."""
    array: Rows = np.empty(len(rows), dtype)
    for name, values in zip(dtype.names or (), zip(*rows, strict=True), strict=True):
        array[name] = values
    return array

"""The run file as the recorder's thread sees it: made, filled, checked, ended.

SQLite in WAL mode: a committed transaction survives a killed program at once, and a
power failure after the next checkpoint, at most a second later.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lodestar_live.data import Event, RunInfo
from lodestar_live.events import ModelUsed
from lodestar_live.recording import tables
from lodestar_live.recording.backlog import Item

_log = logging.getLogger(__name__)
_BUSY_S = 0.5  # how long another program may hold the file before we call it trouble
_HEADER = b"SQLite format 3\0"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class RunFile:
    """One run's database; used by one thread at a time.

    Parameters
    ----------
    path
        Where the file lies.
    run
        Facts of the run, written into every file made here.
    """

    def __init__(self, path: Path, run: RunInfo) -> None:
        self.path, self._run = path, run
        self._database: sqlite3.Connection
        self._identity = (-1, -1)
        self._n_bytes = 0
        self._damage: str | None = None
        self._peek_fd = -1

    def create(self) -> None:
        """Make the file and its folder.

        Raises
        ------
        OSError, sqlite3.Error
            It cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = _create(self.path, self._run)
        except BaseException:  # a half-made file would be taken for somebody else's
            self.path.unlink(missing_ok=True)
            raise
        # Held until the database is closed: closing it drops SQLite's own locks.
        self._peek_fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        found = self.path.stat()
        self._identity, self._n_bytes = (found.st_dev, found.st_ino), found.st_size

    def trouble(self) -> str | None:
        """Return what somebody else did to the file, None while it is whole.

        The file of a run only grows, so one that became shorter was cut.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return "was removed"
        if self._damage is not None:
            return self._damage
        if (found.st_dev, found.st_ino) != self._identity:
            return "was replaced by another file"
        if found.st_size < self._n_bytes:
            return f"was cut from {self._n_bytes} to {found.st_size} bytes"
        self._n_bytes = found.st_size
        os.lseek(self._peek_fd, 0, os.SEEK_SET)
        if os.read(self._peek_fd, len(_HEADER)) != _HEADER:
            return "was overwritten"
        return None

    def replace(self) -> None:
        """Begin a new file; what is left of a damaged one is put aside."""
        self.close()
        if self.path.exists():
            _put_aside(self.path)
        self.create()
        self._damage = None

    def is_damaged_by(self, error: BaseException) -> bool:
        """Tell whether SQLite says that the file itself is broken; remember it."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _DAMAGED:
            self._damage = f"is damaged ({error})"
        return self._damage is not None

    def commit(self, items: Sequence[Item], *, n_lost: int) -> None:
        """Write items in one transaction.

        Raises
        ------
        OSError, sqlite3.Error
            Nothing of it was written.
        """
        frames = [item.frame for item in items if item.frame is not None]
        tracks = [row for item in items for row in _track_rows(item)]
        events = [event for item in items for event in item.events]
        with self._database as database:
            database.executemany(tables.INSERT_FRAME, frames)
            database.executemany(tables.INSERT_TRACK, tracks)
            database.executemany(tables.INSERT_EVENT, map(_event_row, events))
            for item in items:
                if item.summary is not None:
                    database.executemany(tables.INSERT_SUMMARY, item.summary.tolist())
            for event in events:
                if event.kind == ModelUsed.kind:
                    self._note_model(event)
            if n_lost:
                database.execute("UPDATE run SET frames_lost = ?", (n_lost,))

    def _note_model(self, event: Event) -> None:
        """Write the run's first model where it was not known at the start."""
        details = event.details
        model = {
            **json.loads(details["card"]),
            "file": details["file"],
            "sha256": details["sha256"] or None,
        }
        if not self._run.model:  # for a file that replaces this one
            self._run = replace(self._run, model=model)
        self._database.execute(
            "UPDATE run SET model = ?, model_sha256 = ? WHERE model = '{}'",
            (json.dumps(model), model["sha256"]),
        )

    def checkpoint(self) -> None:
        """Bring what is committed to the disk itself."""
        try:
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:  # full; the next commit reports it
            _log.debug("%s: checkpoint: %s", self.path, error)

    def end(self, *, n_lost: int, status: str, reason: str) -> None:
        """Write how the run ended."""
        with self._database as database:
            database.execute(
                "UPDATE run SET frames_lost = ?, status = ?, reason = ?, ended_s = "
                "(SELECT max(t_arrival_s) FROM frames)",
                (n_lost, status, reason),
            )

    def close(self) -> None:
        """Let go of the file."""
        try:
            self._database.close()
        except sqlite3.Error as error:  # its last checkpoint found no room
            _log.debug("%s: closing: %s", self.path, error)
        if self._peek_fd >= 0:
            os.close(self._peek_fd)
            self._peek_fd = -1


def _create(path: Path, run: RunInfo) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, timeout=_BUSY_S)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA application_id = {tables.APPLICATION_ID}")
        database.executescript(tables.CREATE)
        database.execute(tables.CREATE_VIEW)
        with database:
            database.execute(tables.INSERT_RUN, _run_row(run))
        # Into the file itself: one that is cut later is then known to be too short.
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except BaseException:
        database.close()
        raise
    return database


def _put_aside(path: Path) -> None:
    for number in range(1, 1000):
        aside = path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")
        if not aside.exists():
            path.rename(aside)
            _log.error("%s: what is left of it was moved to %s", path, aside.name)
            break
    for suffix in ("-wal", "-shm"):  # of the old file; a new one must not read them
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _run_row(run: RunInfo) -> tuple[Any, ...]:
    return (
        run.run,
        run.started,
        tables.SCHEMA_VERSION,
        json.dumps(run.settings),
        json.dumps(run.versions),
        json.dumps(run.model),
        run.model.get("sha256"),
        json.dumps(run.calibration),
        run.pixel_size_um,
        "running",
        "",
        json.dumps(run.source, default=str),
    )


def _track_rows(item: Item) -> Iterator[tuple[Any, ...]]:
    rows = [] if item.tracks is None else item.tracks.tolist()
    return ((item.frame_index, *row) for row in rows)


def _event_row(event: Event) -> tuple[Any, ...]:
    return (
        event.t_s,
        event.frame,
        event.kind,
        json.dumps(dict(event.details), default=str),
    )

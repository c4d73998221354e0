"""Recorder: the sink that keeps every frame, track and event of a run in SQLite.

The worker only queues; a thread of its own writes. A full disk makes the recording
`degraded`: what waits is tried again, what no longer fits is counted, the run goes on.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodestar_live.data import Event, Rows, RunInfo, Update
from lodestar_live.errors import RecordingError
from lodestar_live.recording import tables

_log = logging.getLogger(__name__)

_QUEUE_ITEMS = 2000
_BATCH_ITEMS = 200
_RETRY_S = 0.5
_CHECKPOINT_S = 1.0
_CLOSE_S = 2.0

_COUNT_NAMES = ("received", "processed", "dropped", "failed", "waiting")


@dataclass(frozen=True, slots=True)
class _Item:
    """What one `write` or `tell` adds to the file; holds no pixels."""

    frame: tuple[Any, ...] | None = None
    frame_index: int = -1
    tracks: Rows | None = None
    events: tuple[Event, ...] = ()


class Recorder:
    """Record a run into ``folder/run.sqlite``.

    Parameters
    ----------
    folder
        Folder of this run; made if absent.

    Attributes
    ----------
    degraded
        True while rows cannot be written.
    n_lost
        Frames whose rows were given up.
    n_frames
        Frames safely in the file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / tables.FILE_NAME
        self.degraded = False
        self.n_lost = 0
        self.n_frames = 0
        self._queue: queue.Queue[_Item] = queue.Queue(_QUEUE_ITEMS)
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, run: RunInfo) -> None:
        """Create the run file.

        Raises
        ------
        RecordingError
            The folder cannot be written, or already holds a run.
        """
        if self.path.exists():
            raise RecordingError(
                f"{self.path}: exists already; choose another folder for this run."
            )
        self._run = run
        try:
            self._create()
        except (OSError, sqlite3.Error) as error:
            raise RecordingError(
                f"{self.path}: cannot be written ({error}); expected a folder with "
                "free space that you may write to."
            ) from error
        self._thread = threading.Thread(
            target=self._serve, name="lodestar-recorder", daemon=True
        )
        self._thread.start()

    def write(self, update: Update) -> None:
        """Queue one processed frame; returns at once."""
        frame = _processed_row(update)
        item = _Item(frame, update.frame.index, update.tracks.rows, update.events)
        self._put(item)

    def tell(self, event: Event) -> None:
        """Queue an event; ``frame.*`` events also give that frame its row."""
        state = event.kind.removeprefix("frame.")
        if event.kind.startswith("frame.") and state in tables.STATES:
            events = (event,) if state == "failed" else ()
            self._put(_Item(_unprocessed_row(state, event), event.frame, None, events))
        else:
            self._put(_Item(events=(event,)))

    def close(self) -> None:
        """Write what is queued and let go; at most about 2 s."""
        if self._thread is None or self._is_closing.is_set():
            return
        self._is_closing.set()
        self._thread.join(timeout=_CLOSE_S + 1.0)
        if self._thread.is_alive():
            _log.error("%s: its thread did not stop in time", self.path)

    def _put(self, item: _Item) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._lose(1 if item.frame is not None else 0)

    def _lose(self, n_frames: int) -> None:
        with self._lock:  # called from the worker and from the recorder's thread
            self.n_lost += n_frames
        self.degraded = True

    # -- the thread that owns the database -----------------------------------

    def _serve(self) -> None:
        batch: list[_Item] = []
        next_checkpoint_s = time.monotonic() + _CHECKPOINT_S
        give_up_s = math.inf
        while True:
            is_closing = self._is_closing.is_set()
            if is_closing:
                give_up_s = min(give_up_s, time.monotonic() + _CLOSE_S)
            batch = batch or self._take_batch()
            if batch and self._commit(batch):
                batch = []
            elif batch:
                if time.monotonic() > give_up_s:
                    break
                self._is_closing.wait(_RETRY_S)
            elif is_closing and self._queue.empty():
                break
            if time.monotonic() >= next_checkpoint_s:
                next_checkpoint_s = time.monotonic() + _CHECKPOINT_S
                self._checkpoint()
        self._finish(batch)

    def _take_batch(self) -> list[_Item]:
        items: list[_Item] = []
        try:
            items.append(self._queue.get(timeout=0.05))
            while len(items) < _BATCH_ITEMS:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return items

    def _commit(self, batch: list[_Item]) -> bool:
        """Write a batch in one transaction; False when the disk refuses."""
        frames = [item.frame for item in batch if item.frame is not None]
        try:
            self._ensure_in_place()
            with self._database as database:
                database.executemany(tables.INSERT_FRAME, frames)
                for item in batch:
                    if item.tracks is not None and len(item.tracks):
                        database.executemany(
                            tables.INSERT_TRACK,
                            [(item.frame_index, *row) for row in item.tracks.tolist()],
                        )
                    database.executemany(
                        tables.INSERT_EVENT, [_event_row(e) for e in item.events]
                    )
                if self.degraded:
                    database.execute("UPDATE run SET frames_lost = ?", (self.n_lost,))
        except (sqlite3.OperationalError, OSError) as error:  # full, absent: retry
            if not self.degraded:
                _log.error("%s: not recording: %s", self.path, error)
            self.degraded = True
            return False
        except Exception:  # values SQLite cannot hold: trying again would not help
            _log.exception("%s: %d frames not recorded", self.path, len(frames))
            self._lose(len(frames))
            return True
        if self.degraded:
            _log.warning("%s: recording again; %d lost", self.path, self.n_lost)
        self.degraded = False
        self.n_frames += len(frames)
        return True

    def _create(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._database = _create(self.path, self._run)
        self._inode = self.path.stat().st_ino

    def _ensure_in_place(self) -> None:
        """Start a new file if somebody removed the one we write, and count its rows."""
        try:
            is_ours = self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            is_ours = False
        if is_ours:
            return
        if not self.degraded:
            _log.error("%s: was removed; %d frames lost", self.path, self.n_frames)
        self._lose(self.n_frames)
        self.n_frames = 0
        self._database.close()
        self._create()

    def _checkpoint(self) -> None:
        """Bring the rows of the last second to the disk itself."""
        try:
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:  # full; `_commit` reports it
            _log.debug("%s: checkpoint: %s", self.path, error)

    def _finish(self, unwritten: list[_Item]) -> None:
        while not self._queue.empty():
            unwritten.append(self._queue.get_nowait())
        n_frames = sum(item.frame is not None for item in unwritten)
        if n_frames:
            self._lose(n_frames)
        try:
            with self._database as database:
                database.execute(
                    "UPDATE run SET frames_lost = ?, ended_s = "
                    "(SELECT max(t_arrival_s) FROM frames)",
                    (self.n_lost,),
                )
        except sqlite3.Error as error:
            _log.error("%s: end not recorded: %s", self.path, error)
        self._database.close()


def _create(path: Path, run: RunInfo) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, timeout=1.0)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(tables.CREATE)
        with database:
            database.execute(tables.INSERT_RUN, _run_row(run))
    except BaseException:
        database.close()
        raise
    return database


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
    )


def _processed_row(update: Update) -> tuple[Any, ...]:
    frame, counts = update.frame, update.counts
    return (
        frame.index,
        "processed",
        frame.t_exposure_s,
        frame.t_arrival_s,
        *frame.stage_um,
        len(update.detections),
        len(update.tracks),
        *(getattr(counts, name) for name in _COUNT_NAMES),
        *(update.timings_ms.get(stage) for stage in tables.TIMINGS),
        int(update.degraded),
        *frame.pixels.shape[:2],
        *frame.origin_px,
        frame.pixel_size_um,
    )


def _unprocessed_row(state: str, event: Event) -> tuple[Any, ...]:
    details: Mapping[str, Any] = event.details
    stage: Mapping[str, Any] = details.get("stage_um") or {}
    known = {
        "frame": event.frame,
        "state": state,
        "t_exposure_s": details.get("t_exposure_s"),
        "t_arrival_s": details.get("t_arrival_s", event.t_s),
        **{f"stage_{axis}_um": stage.get(axis) for axis in "zyx"},
    }
    return tuple(known.get(name) for name in tables.FRAME_NAMES)


def _event_row(event: Event) -> tuple[Any, ...]:
    return (
        event.t_s,
        event.frame,
        event.kind,
        json.dumps(dict(event.details), default=str),
    )

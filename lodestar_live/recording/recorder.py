"""Recorder: the sink that keeps every frame, track and event of a run in SQLite.

The worker only queues; a thread of its own writes, twenty times a second, all that came
in one transaction: a commit per frame would take the interpreter from a run of a
thousand frames per second. Rows are announced as durable once they are committed.
While it cannot write, the recording is `degraded` and says so: what waits is tried
again, what no longer fits is counted, the run goes on.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lodestar_live.data import Event, RunInfo, Update
from lodestar_live.errors import RecordingError
from lodestar_live.events import Details, RecordingDegraded, RecordingResumed
from lodestar_live.recording import tables
from lodestar_live.recording.backlog import Backlog, Item
from lodestar_live.recording.run_file import RunFile

_log = logging.getLogger(__name__)

QUEUE_BYTES = 256 * 2**20
_BATCH_BYTES = 4 * 2**20
_RETRY_S = 0.25
_CHECK_S = 0.5  # a file that was cut or removed is noticed within a second
_CHECKPOINT_S = 1.0
_LINGER_S = 0.05  # rows that come meanwhile share a transaction
_CLOSE_S = 2.0
_TOLD_S = (
    1.2  # trouble is told at least this long: every heartbeat, once a second, has it
)


class Recorder:
    """Record a run into ``folder/run.sqlite``.

    Parameters
    ----------
    folder
        Folder of this run; made if absent.
    tell
        Takes the events ``recording.degraded`` and ``recording.resumed``, on the
        recorder's thread. None: they are only logged.
    clock
        Seconds since the run's start, for those events.
    queue_bytes
        Memory for what waits to be written.

    Attributes
    ----------
    degraded
        True while rows cannot be written, and for 1.2 s after.
    n_lost
        Frames whose rows were given up.
    n_frames
        Frames safely in the file.
    durable_frame
        Rows of all processed frames up to this one are in the file, or counted in
        `n_lost`: they survive a killed program. -1: none yet.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        tell: Callable[[Event], None] | None = None,
        clock: Callable[[], float] | None = None,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.path = Path(folder) / tables.FILE_NAME
        self.degraded = False
        self.n_lost = 0
        self.n_frames = 0
        self.durable_frame = -1
        self._tell, self._clock = tell or _log_event, clock or time.perf_counter
        self._backlog = Backlog(queue_bytes)
        self._newest_frame = -1  # of those the backlog gave out
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble_s = -math.inf
        self._end = ("completed", "")
        self._file: RunFile

    @property
    def n_waiting_bytes(self) -> int:
        """Memory held by what waits to be written."""
        return self._backlog.n_bytes

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
        self._file = RunFile(self.path, run)
        try:
            self._file.create()
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
        frame = _processed_row(update, degraded=update.degraded or self.degraded)
        index, rows = update.frame.index, update.tracks.rows
        self._put(Item(frame, index, rows, update.events, update.summary))

    def tell(self, event: Event) -> None:
        """Queue an event; ``frame.*`` events also give that frame its row.

        ``run.end`` says how the run ended: `status` and `reason` of the file.
        """
        state = event.kind.removeprefix("frame.")
        if event.kind == "run.end":
            details = event.details
            self._end = str(details.get("status", "")), str(details.get("reason", ""))
        if event.kind.startswith("frame.") and state in tables.STATES:
            events = (event,) if state == "failed" else ()
            row = _unprocessed_row(state, event, degraded=self.degraded)
            self._put(Item(row, event.frame, None, events))
        else:
            self._put(Item(events=(event,)))

    def close(self) -> None:
        """Write what is queued and let go; at most about 3 s."""
        if self._thread is None or self._is_closing.is_set():
            return
        self._is_closing.set()
        self._thread.join(timeout=_CLOSE_S + 1.0)
        if self._thread.is_alive():
            _log.error("%s: its thread did not stop in time", self.path)

    def _put(self, item: Item) -> None:
        if not self._backlog.put(item):
            self._lose([item], "what waits to be written fills the memory for it")

    # -- what is told ----------------------------------------------------------

    def _lose(self, items: list[Item], why: str) -> None:
        n_frames = sum(item.frame is not None for item in items)
        with self._lock:  # called from the worker and from the recorder's thread
            self.n_lost += n_frames
        self._degrade(why)

    def _degrade(self, why: str) -> None:
        with self._lock:
            is_news, self.degraded = not self.degraded, True
            self._trouble_s = time.monotonic()
        if is_news:
            _log.error("%s: not recording: %s", self.path, why)
            self._say(RecordingDegraded(why=why, **self._state()))

    def _resume(self) -> None:
        """Call the trouble over, once what waits has gone down and it was told."""
        is_full = 2 * self._backlog.n_bytes > self._backlog.most_bytes
        with self._lock:
            is_recent = time.monotonic() - self._trouble_s < _TOLD_S
            is_news = self.degraded and not is_full and not is_recent
            self.degraded &= not is_news
        if is_news:
            _log.warning("%s: recording again; %d lost", self.path, self.n_lost)
            self._say(RecordingResumed(**self._state()))

    def _state(self) -> dict[str, int]:
        return {"n_lost": self.n_lost, "n_waiting": len(self._backlog)}

    def _say(self, news: Details) -> None:
        try:
            self._tell(news.at(self._clock()))
        except Exception:
            _log.exception("%s: %s was not told", self.path, news.kind)

    # -- the thread that owns the file -----------------------------------------

    def _serve(self) -> None:
        batch: list[Item] = []
        next_check_s = next_checkpoint_s = 0.0
        give_up_s = math.inf
        while True:
            is_closing = self._is_closing.is_set()
            if is_closing:
                give_up_s = min(give_up_s, time.monotonic() + _CLOSE_S)
            if time.monotonic() >= next_checkpoint_s:
                # Not right after a commit: who spoils the file then is noticed at the
                # next one, before a checkpoint has covered it up.
                next_checkpoint_s = time.monotonic() + _CHECKPOINT_S
                self._file.checkpoint()
            if not batch and not is_closing:
                self._backlog.gather(_BATCH_BYTES, _LINGER_S)
            batch = batch or self._take_batch()
            if batch or is_closing or time.monotonic() >= next_check_s:
                next_check_s = time.monotonic() + _CHECK_S
                if self._commit(batch):
                    batch = []
                elif time.monotonic() > give_up_s:
                    break
                else:
                    time.sleep(_RETRY_S)
            if is_closing and not batch and not len(self._backlog):
                break
        self._finish(batch)

    def _take_batch(self) -> list[Item]:
        items = self._backlog.take(most_bytes=_BATCH_BYTES)
        frames = [item.frame_index for item in items if item.frame is not None]
        self._newest_frame = max(self._newest_frame, *frames, -1)
        return items

    def _commit(self, batch: list[Item]) -> bool:
        """Look after the file, then write a batch; False when it must be tried again.

        While degraded an empty batch is written too: whether there is room again is
        only known by writing.
        """
        n_frames = sum(item.frame is not None for item in batch)
        try:
            self._look_after()
            if batch or self.degraded:
                self._file.commit(batch, n_lost=self.n_lost)
        except (sqlite3.OperationalError, OSError) as error:  # full, locked, absent
            self._degrade(str(error))
            return False
        except Exception as error:
            if self._file.is_damaged_by(error):  # replaced at the next try
                return False
            # Values SQLite cannot hold: trying again would not help.
            _log.error(
                "%s: %d items not recorded", self.path, len(batch), exc_info=error
            )
            self._lose(batch, f"{type(error).__name__}: {error}")
            return True
        self.n_frames += n_frames
        self.durable_frame = self._newest_frame
        self._resume()
        return True

    def _look_after(self) -> None:
        """Start a new file if the one we write was spoilt, and count its rows."""
        if (trouble := self._file.trouble()) is None:
            return
        if self.n_frames:
            _log.error("%s %s; %d frames lost", self.path, trouble, self.n_frames)
        with self._lock:
            self.n_lost += self.n_frames
        self.n_frames = 0
        self._degrade(f"the run file {trouble}")
        self._file.replace()

    def _finish(self, unwritten: list[Item]) -> None:
        left = unwritten + self._backlog.take(most_bytes=math.inf)
        if any(item.frame is not None for item in left):
            self._lose(left, "the run ended before it could be written")
        status, reason = self._end
        try:
            self._file.end(n_lost=self.n_lost, status=status, reason=reason)
        except sqlite3.Error as error:
            _log.error("%s: end not recorded: %s", self.path, error)
        self._file.close()


def _log_event(event: Event) -> None:
    _log.info("%s: %s", event.kind, dict(event.details))


def _processed_row(update: Update, *, degraded: bool) -> tuple[Any, ...]:
    """Return a row of `tables.FRAME_NAMES`, in their order."""
    frame, counts, timings_ms = update.frame, update.counts, update.timings_ms
    return (
        frame.index,
        "processed",
        frame.t_exposure_s,
        frame.t_arrival_s,
        frame.exposure_ms,
        frame.position,
        frame.channel,
        frame.time_index,
        frame.z_index,
        *frame.stage_um,
        len(update.detections),
        len(update.tracks),
        counts.received,
        counts.processed,
        counts.dropped,
        counts.failed,
        counts.waiting,
        *(timings_ms.get(step) for step in tables.TIMINGS),
        int(degraded),
        *frame.pixels.shape[:2],
        *frame.origin_px,
        frame.pixel_size_um,
    )


def _unprocessed_row(state: str, event: Event, *, degraded: bool) -> tuple[Any, ...]:
    details: Mapping[str, Any] = event.details
    stage: Mapping[str, Any] = details.get("stage_um") or {}
    known = {
        "frame": event.frame,
        "state": state,
        "t_exposure_s": details.get("t_exposure_s"),
        "t_arrival_s": details.get("t_arrival_s", event.t_s),
        "degraded": int(degraded),
        **{f"stage_{axis}_um": stage.get(axis) for axis in "zyx"},
    }
    return tuple(known.get(name) for name in tables.FRAME_NAMES)

"""Hand the work of a batch to Dask, recording by recording, chunk by chunk.

A few recordings are open at a time, and of each a few chunks are ahead of the one that
is linked: neither the scheduler's memory nor the disk grows with the size of a batch.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

from lodestar_live.batch import work
from lodestar_live.batch.cluster import Cluster, open_cluster
from lodestar_live.batch.plan import BatchPlan, Job, make_jobs
from lodestar_live.batch.tables import require_pyarrow, write_summary
from lodestar_live.errors import LodestarError, RecordingError

logger = logging.getLogger(__name__)
_LOST = (
    "the Dask scheduler was lost; what is finished is kept. Give the same command "
    "again to go on from there."
)


@dataclass(slots=True)
class BatchResult:
    """What a batch came to.

    Parameters
    ----------
    rows
        Of the summary: one per recording, position and channel.
    n_chunks, n_chunks_before
        Chunks settled now, and those that an earlier run had settled.
    failed
        Recordings that could not be analysed, and why.
    """

    rows: list[dict[str, object]] = field(default_factory=list)
    n_recordings: int = 0
    n_chunks: int = 0
    n_chunks_before: int = 0
    failed: dict[str, str] = field(default_factory=dict)


Watch = Callable[[int, int, int], None]


def run_batch(
    plan: BatchPlan,
    *,
    scheduler: str | None = None,
    n_workers: int | None = None,
    memory: str | None = None,
    on_start: Callable[[str], None] = lambda dashboard: None,
    progress: Watch = lambda recordings, done, known: None,
) -> BatchResult:
    """Analyse every recording of a plan; go on where an earlier run was ended.

    Parameters
    ----------
    scheduler, n_workers, memory
        See `cluster.open_cluster`.
    on_start
        Told the address of Dask's dashboard.
    progress
        Told recordings done, frames done, and frames of the recordings opened so far.

    Raises
    ------
    InputError
        Of the plan, or Dask is not there.
    RecordingError
        The scheduler was lost; the same call goes on from there.
    """
    require_pyarrow()
    jobs = make_jobs(plan)
    result = BatchResult(n_recordings=len(jobs))
    todo = deque(job for job in jobs if not _is_done(job, result))
    if todo:
        with open_cluster(scheduler, n_workers=n_workers, memory=memory) as cluster:
            on_start(cluster.dashboard)
            _Coordinator(cluster, todo, result, progress).run()
    order = {job.name: number for number, job in enumerate(jobs)}
    result.rows.sort(key=lambda row: order[str(row["recording"])])
    write_summary(plan.out.resolve(), result.rows)
    return result


def _is_done(job: Job, result: BatchResult) -> bool:
    done = work.read_done(job)
    if done is not None:
        _note(job, done, result)
    return done is not None


def _note(job: Job, done: dict[str, Any], result: BatchResult) -> None:
    counts = done["counts"]
    shared = {
        "recording": job.name,
        "path": os.fspath(job.path),
        "status": "completed",
        "reason": "",
        "n_frames": int(counts["frames"]),
        "n_failed": int(counts["failed"]),
        "n_detections": int(counts["detections"]),
        "worker_seconds": counts["seconds"],
    }
    result.rows += [{**shared, **series} for series in done["series"]]


@dataclass(slots=True, eq=False)
class _Active:
    """A recording that is being worked on."""

    job: Job
    rank: int
    opened: work.Opened | None = None
    next_detect: int = 0
    next_settle: int = 0
    n_settled: int = 0
    last: Any = None  # future of the newest settle task
    detected: dict[int, Any] = field(default_factory=dict)


class _Coordinator:
    """One batch on one cluster."""

    def __init__(
        self, cluster: Cluster, todo: deque[Job], result: BatchResult, progress: Watch
    ) -> None:
        self._client, self._todo = cluster.client, todo
        self._result, self._progress = result, progress
        self._n_ahead = 2 * cluster.n_workers + 2
        self._most_active = cluster.n_workers + 1
        self._active: dict[str, _Active] = {}
        self._of: dict[Any, tuple[str, _Active]] = {}
        self._n_begun = 0
        self._done_frames = self._known_frames = 0

    def run(self) -> None:
        """Work until nothing is left.

        Raises
        ------
        RecordingError
            The scheduler was lost.
        """
        try:
            self._work()
        except LodestarError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            lost = isinstance(error, OSError | CancelledError | asyncio.CancelledError)
            if lost or self._client.status != "running":
                raise RecordingError(_LOST) from error
            raise

    def _work(self) -> None:
        from distributed import as_completed

        self._done = as_completed()
        self._begin()
        while self._of:
            future = next(self._done)
            kind, active = self._of.pop(future)
            if future.status in ("cancelled", "lost"):
                raise RecordingError(_LOST)
            if active.job.name not in self._active:
                continue  # failed before
            error = future.exception()
            if error is not None:
                self._fail(active, error)
            else:
                self._take(kind, active, future.result())
            self._begin()
            done = self._result.n_recordings - len(self._todo) - len(self._active)
            self._progress(done, self._done_frames, self._known_frames)

    def _begin(self) -> None:
        while self._todo and len(self._active) < self._most_active:
            active = _Active(self._todo.popleft(), self._n_begun)
            self._n_begun += 1
            self._active[active.job.name] = active
            self._submit("open", active, work.open_recording)

    def _take(self, kind: str, active: _Active, found: Any) -> None:
        if kind == "open":
            active.opened = found
            active.n_settled = active.next_detect = active.next_settle = found.n_settled
            self._result.n_chunks_before += found.n_settled
            self._known_frames += found.n_frames
            before = found.n_settled * active.job.chunk_frames
            self._done_frames += min(before, found.n_frames)
        elif kind == "settle":
            active.n_settled = found.number + 1
            active.detected.pop(found.number, None)
            self._result.n_chunks += 1
            self._done_frames += found.n_frames
        elif kind == "finish":
            _note(active.job, found, self._result)
            del self._active[active.job.name]
            return
        else:
            return
        self._go_on(active)

    def _go_on(self, active: _Active) -> None:
        """Submit what may be done next: chunks ahead, and the linking of the next."""
        opened = active.opened
        assert opened is not None  # noqa: S101 - told when it was opened
        if active.n_settled == opened.n_chunks:
            self._submit("finish", active, work.finish_recording)
            return
        # What the first chunk teaches (defects, background) is taken for the others.
        end = 1 if active.n_settled == 0 else active.n_settled + self._n_ahead
        while active.next_detect < min(end, opened.n_chunks):
            number = active.next_detect
            active.next_detect += 1
            if not opened.is_chained:
                active.detected[number] = self._submit(
                    "detect", active, work.detect_chunk, number
                )
            waits = [active.detected.get(number), active.last]
            active.last = self._submit(
                "settle", active, work.settle_chunk, number,
                *(wait for wait in waits if wait is not None),
            )  # fmt: skip

    def _submit(self, kind: str, active: _Active, call: Any, *arguments: Any) -> Any:
        number = arguments[0] if arguments else ""
        future = self._client.submit(
            call,
            active.job,
            *arguments,
            key=f"{kind}-{active.job.key[:16]}-{number}",
            # The oldest recording first, and linking before more detection.
            priority=-2 * active.rank + (kind != "detect"),
            pure=False,
        )
        self._of[future] = kind, active
        self._done.add(future)
        return future

    def _fail(self, active: _Active, error: BaseException) -> None:
        """Note that a recording cannot be analysed; the others go on."""
        why = str(error) or type(error).__name__
        if type(error).__name__ == "KilledWorker":
            why = f"its workers died again and again (memory? see --memory): {why}"
        elif not isinstance(error, LodestarError):
            why = f"{type(error).__name__}: {why}"
        logger.error("%s: %s", active.job.path, why)
        self._result.failed[str(active.job.path)] = why
        self._result.rows.append(
            {
                "recording": active.job.name,
                "path": os.fspath(active.job.path),
                "status": "failed",
                "reason": why,
            }
        )
        del self._active[active.job.name]

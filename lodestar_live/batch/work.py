"""What workers do with one recording: open, detect a chunk, settle it, finish.

``open`` writes down what the recording is. ``detect`` may run for any chunk at any
time and keeps detections in a file. ``settle`` runs in order: it links a chunk from
where the chunk before it ended, writes its rows and moves the state on. The state's
number says which chunks are done: a task that finds its work done returns at once.
"""

from __future__ import annotations

import json
import logging
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path

from lodestar_live.batch.files import write_atomically
from lodestar_live.batch.plan import Job
from lodestar_live.batch.steps import Chunk, Memory, Steps, steps_of
from lodestar_live.batch.tables import summarise_recording, write_rows
from lodestar_live.errors import LodestarError
from lodestar_live.recording.trajectories import Trajectories

logger = logging.getLogger(__name__)
DONE = "done.json"
ROWS = "tracks.parquet"


@dataclass(frozen=True, slots=True)
class Opened:
    """What a recording came to when it was opened.

    Parameters
    ----------
    n_frames, n_chunks
        How much there is to do.
    n_settled
        Chunks that an earlier run has settled.
    is_chained
        Frames depend on those before them: chunks are detected where they are settled.
    """

    n_frames: int
    n_chunks: int
    n_settled: int
    is_chained: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a task came to; `was_done`: it had been done before, and was kept."""

    number: int
    n_frames: int
    was_done: bool = False


@dataclass(slots=True)
class State:
    """All that the next chunk needs of those before it.

    `number`: the last chunk settled. `memory`: of the steps before linking; `link`: of
    the linkers. `facts`: of the recording, as exports take them. `counts`: over all
    settled chunks.
    """

    number: int
    memory: Memory
    link: bytes
    facts: Trajectories
    counts: dict[str, float]


def open_recording(job: Job) -> Opened:
    """Read what the recording says of itself and write it into the results' folder."""
    steps = steps_of(job)
    (job.folder / ROWS).mkdir(parents=True, exist_ok=True)
    path = job.folder / "recording.json"
    if not path.exists():
        choice = {k: v for k, v in asdict(job.choice).items() if v is not None}
        facts = {
            "key": job.key,
            "n_frames": steps.n_frames,
            "choice": choice,
            **steps.source,
            "settings": json.loads(job.settings),
        }
        _write_json(path, facts)
    state = newest_state(job)
    return Opened(
        steps.n_frames,
        -(-steps.n_frames // job.chunk_frames),
        0 if state is None else state.number + 1,
        steps.is_chained,
    )


def detect_chunk(job: Job, number: int) -> Receipt:
    """Detect the frames of one chunk and keep what was found in a file."""
    path = _chunk_path(job, number)
    state = newest_state(job)
    if path.exists() or (state is not None and state.number >= number):
        return _receipt(job, number, was_done=True)
    steps = steps_of(job)
    memory = steps.new_memory() if state is None else state.memory
    chunk = steps.detect(number, memory)
    with write_atomically(path) as part:
        part.write_bytes(pickle.dumps(chunk))
    return _receipt(job, number)


def settle_chunk(job: Job, number: int, *_after: object) -> Receipt:
    """Link one chunk from where the one before ended, and write its rows."""
    state = newest_state(job)
    if state is not None and state.number >= number:
        return _receipt(job, number, was_done=True)
    before = -1 if state is None else state.number
    if before != number - 1:
        raise LodestarError(
            f"{job.folder}: chunk {number} follows chunk {before}; a state file was "
            "removed. Remove the folder to begin this recording again."
        )
    steps = steps_of(job)
    memory = steps.new_memory() if state is None else state.memory
    chunk = _detected(job, number, steps, memory)
    rows, link = steps.link(chunk, None if state is None else state.link)
    facts = steps.facts(chunk) if state is None else state.facts
    write_rows(job.folder / ROWS, number, rows, facts)
    counts = _added({} if state is None else state.counts, chunk, steps.n_tracks)
    new = State(number, chunk.memory, link, facts, counts)
    with write_atomically(_state_path(job, number)) as part:
        part.write_bytes(pickle.dumps(new))
    _chunk_path(job, number).unlink(missing_ok=True)
    _state_path(job, number - 1).unlink(missing_ok=True)
    return _receipt(job, number)


def finish_recording(job: Job, *_after: object) -> dict[str, object]:
    """Write the recording's tables and return its rows of the summary."""
    if (done := read_done(job)) is not None:
        return done
    state = newest_state(job)
    if state is None:
        raise LodestarError(f"{job.folder}: nothing was settled.")
    if state.counts["frames"] <= state.counts["failed"]:
        raise LodestarError(
            f"{job.path}: no frame could be processed; see failures.txt in {job.folder}"
        )
    least_frames = json.loads(job.settings)["linking"]["min_track_frames"]
    series = summarise_recording(job.folder, state.facts, ROWS, least_frames)
    result: dict[str, object] = {"counts": state.counts, "series": series}
    _write_json(job.folder / DONE, result)
    _state_path(job, state.number).unlink(missing_ok=True)
    return result


def read_done(job: Job) -> dict[str, object] | None:
    """Return what an earlier run came to, None if it did not end."""
    try:
        found: dict[str, object] = json.loads(
            (job.folder / DONE).read_text(encoding="utf-8")
        )
    except FileNotFoundError:
        return None
    return found


def newest_state(job: Job) -> State | None:
    """Return the state after the last settled chunk, None before the first."""
    for _ in range(10):  # the newest may be replaced by a newer one meanwhile
        paths = sorted(job.folder.glob("state-*.pickle"))
        if not paths:
            return None
        try:
            state = pickle.loads(paths[-1].read_bytes())  # noqa: S301 - written by us
        except FileNotFoundError:
            continue
        if isinstance(state, State):
            return state
    raise LodestarError(f"{job.folder}: its state cannot be read; remove the folder.")


def _detected(job: Job, number: int, steps: Steps, memory: Memory) -> Chunk:
    """Return a chunk as detected with the right memory, again if it was a wrong one."""
    path = _chunk_path(job, number)
    expected = memory.at(steps.first_of(number)).fingerprint()
    if path.exists():
        chunk = pickle.loads(path.read_bytes())  # noqa: S301 - written by us
        if isinstance(chunk, Chunk) and chunk.assumed == expected:
            return chunk
        logger.info("%s: chunk %d is detected again: new defects", job.name, number)
    return steps.detect(number, memory)


def _receipt(job: Job, number: int, *, was_done: bool = False) -> Receipt:
    n_frames = steps_of(job).n_frames - number * job.chunk_frames
    return Receipt(number, min(n_frames, job.chunk_frames), was_done)


def _added(counts: dict[str, float], chunk: Chunk, n_tracks: int) -> dict[str, float]:
    new = {
        "frames": len(chunk.frames),
        "failed": sum(frame.error is not None for frame in chunk.frames),
        "detections": sum(len(frame.rows) for frame in chunk.frames),
        "cut": sum(frame.n_cut for frame in chunk.frames),
        "seconds": chunk.seconds,
    }
    total = {name: counts.get(name, 0) + value for name, value in new.items()}
    return {**total, "tracks": n_tracks}


def _write_json(path: Path, value: object) -> None:
    with write_atomically(path) as part:
        part.write_text(json.dumps(value, indent=1, default=str), encoding="utf-8")


def _chunk_path(job: Job, number: int) -> Path:
    return job.folder / f"detections-{number:06d}.pickle"


def _state_path(job: Job, number: int) -> Path:
    return job.folder / f"state-{number:06d}.pickle"

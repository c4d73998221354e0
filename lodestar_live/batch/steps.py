"""The steps of a replay over one recording, a chunk of frames at a time.

They are put together by `live.assemble`, as for a replay: the same frames give the same
rows. What the steps remember from frame to frame is handed over at the borders.
"""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.batch.plan import Job
from lodestar_live.control import load_calibration
from lodestar_live.data import (
    DETECTION_DTYPE,
    Counts,
    Detections,
    Frame,
    Rows,
    RunInfo,
    blank_rows,
)
from lodestar_live.detection import Detector
from lodestar_live.detection.frame.defects import PixelDefects
from lodestar_live.geometry import run_map
from lodestar_live.health import Health
from lodestar_live.holography import HologramPreparer, ParticleRefiner
from lodestar_live.live.assemble import Parts, assemble, open_detector
from lodestar_live.live.clock import RunClock
from lodestar_live.live.replay import completed, facts_of, frame_of
from lodestar_live.pipeline.modulation import ModulatedBackground
from lodestar_live.pipeline.series import SeriesLink
from lodestar_live.recording.movies import Movie, open_movie
from lodestar_live.recording.tables import OF_THE_FRAME, TRACE_DTYPE
from lodestar_live.recording.trajectories import Trajectories, interval_s
from lodestar_live.settings import Settings

_MOST_ERRORS = 10  # kept of one chunk
_MOST_OPEN = 2


@dataclass(slots=True)
class Memory:
    """What the steps before linking remember from frame to frame."""

    defects: PixelDefects | None
    prepare: HologramPreparer | None
    modulation: ModulatedBackground | None

    def at(self, index: int) -> Memory:
        """Return a copy as it would be before frame `index`, had nothing new come."""
        new = copy.deepcopy(self)
        if new.defects is not None:
            new.defects.n_seen = index
        return new

    def fingerprint(self) -> str:
        """Return a digest of what later frames depend on."""
        digest = hashlib.sha256()
        if self.defects is not None:
            digest.update(self.defects.fingerprint())
        if self.prepare is not None:
            digest.update(self.prepare.fingerprint())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class FrameFound:
    """What was found in one frame; `error`: why nothing could be."""

    index: int
    rows: Rows
    shape: tuple[int, int] = (0, 0)
    pixel_size_um: float = math.nan
    n_cut: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The detections of some frames.

    `assumed`: fingerprint of the memory it was detected with; `memory`: after it.
    """

    number: int
    frames: list[FrameFound]
    assumed: str
    memory: Memory
    seconds: float


class Steps:
    """One recording opened on one worker."""

    def __init__(self, job: Job) -> None:
        settings = Settings.model_validate_json(job.settings)
        self.job = job
        self.movie: Movie = open_movie(job.path, completed(job.choice, settings))
        self.source = facts_of(self.movie)
        self.n_frames = len(self.movie)
        self._settings = settings
        self._detector = _detector_of(job.settings)
        holography = settings.holography
        # A background that follows the frames depends on all of them.
        self.is_chained = settings.modulation is not None or (
            holography is not None and holography.background_rate > 0
        )
        self._parts = self._assembled()
        self.n_tracks = 0

    def first_of(self, number: int) -> int:
        """Return the first frame of a chunk."""
        return number * self.job.chunk_frames

    def new_memory(self) -> Memory:
        """Return what is remembered before the first frame: nothing."""
        fresh = self._assembled()
        return Memory(
            PixelDefects() if self._detector.defects is not None else None,
            fresh.prepare,
            fresh.modulation,
        )

    def detect(self, number: int, memory: Memory) -> Chunk:
        """Detect the frames of one chunk, one at a time in memory."""
        first = self.first_of(number)
        last = min(first + self.job.chunk_frames, self.n_frames)
        memory = memory.at(first)
        assumed = memory.fingerprint()
        started_s = time.perf_counter()
        self._detector.defects = memory.defects
        step = self._parts.detect_step(self._detector)
        frames = []
        for index in range(first, last):
            try:
                frame = frame_of(self.movie, index, 0.0)
                frame = replace(frame, index=index)
                if memory.prepare is not None:
                    frame = memory.prepare(frame)
                if memory.modulation is not None:
                    frame = memory.modulation(frame)
                found = step(frame)
            except Exception:  # one bad frame never ends a run
                nothing = blank_rows(DETECTION_DTYPE, 0)
                error = traceback.format_exc()
                frames.append(FrameFound(index, nothing, error=error))
                continue
            shape = (int(frame.pixels.shape[0]), int(frame.pixels.shape[1]))
            n_cut = self._detector.n_cut
            size_um = frame.pixel_size_um
            frames.append(FrameFound(index, found.rows, shape, size_um, n_cut))
        seconds = time.perf_counter() - started_s
        self._note_errors(frames)
        return Chunk(number, frames, assumed, memory, seconds)

    def link(self, chunk: Chunk, state: bytes | None) -> tuple[Rows, bytes]:
        """Link the frames of a chunk from where the chunk before it ended.

        Returns
        -------
        Measured rows of dtype `TRACE_DTYPE`, by track, then frame; and the state.
        """
        link = self._assembled().link
        assert isinstance(link, SeriesLink)  # noqa: S101 - as assembled
        if state is not None:
            link.resume(pickle.loads(state))  # noqa: S301 - written by us
        frames, tracks = [], []
        for found in chunk.frames:
            if found.error is not None:
                continue
            frame = self._without_pixels(found)
            frames.append(frame)
            tracks.append(link(Detections(found.rows), frame).rows)
            link.take_events()
        self.n_tracks = link.n_ids
        return _trace_rows(frames, tracks), pickle.dumps(link.state())

    def facts(self, chunk: Chunk) -> Trajectories:
        """Return what places rows in space and time; its own rows are empty."""
        parts = self._parts
        sizes_um = [f.pixel_size_um for f in chunk.frames if f.error is None]
        sizes_um = [size for size in sizes_um if math.isfinite(size)]
        size_um = float(np.median(sizes_um)) if sizes_um else parts.pixel_size_um
        map_um = run_map(parts.calibration, size_um)
        info = RunInfo(
            run=self.job.key,
            started="",
            settings=self._settings.model_dump(mode="json"),
            model=parts.model,
            calibration=parts.calibration,
            pixel_size_um=parts.pixel_size_um,
            source=self.source,
        )
        interval = interval_s(self._times(), info)
        return Trajectories(
            blank_rows(TRACE_DTYPE, 0),
            info,
            length_unit="px" if map_um is None else "um",
            time_unit="s" if math.isfinite(interval) else "frames",
            interval_s=interval,
            pixel_size_um=math.nan if map_um is None else map_um.pixel_size_um,
            origin_um=np.zeros(2),
            map_um=map_um,
            shape_px=chunk.frames[0].shape,
            n_frames=self.n_frames,
            movie=self.job.path,
        )

    def close(self) -> None:
        """Let go of the recording's files."""
        self.movie.close()

    def _assembled(self) -> Parts:
        """Put the steps together as a replay does, with nothing remembered."""
        calibration = self._settings.control.calibration
        parts = assemble(
            self._settings.model_copy(
                update={
                    "streams": self._settings.streams.model_copy(
                        update={"enabled": False}
                    ),
                    "recording": self._settings.recording.model_copy(
                        update={"enabled": False}
                    ),
                }
            ),
            self.job.folder,
            microscope=None,
            calibration=None if calibration is None else load_calibration(calibration),
            detect=self._detector,
            clock=RunClock(),
            counts=Counts,
            tell=lambda event: None,
            commands={},
            health=Health(),
            source=self.source,
        )
        parts.model = self._detector.facts()
        holography = self._settings.holography
        if holography is not None:
            parts.refine = ParticleRefiner.from_card(holography, self._detector.card)
        return parts

    def _without_pixels(self, found: FrameFound) -> Frame:
        pixels = np.broadcast_to(np.float32(0), found.shape)
        frame = frame_of(self.movie, found.index, 0.0, pixels=pixels)
        return replace(frame, index=found.index, pixel_size_um=found.pixel_size_um)

    def _times(self) -> Rows:
        planes = self.movie.planes
        is_timed = self.movie.time_axis != "none"
        fields = [("frame", "i8"), ("t_exposure_s", "f8"), ("time_index", "f8")]
        times = np.zeros(len(planes), np.dtype(fields))
        times["frame"] = np.arange(len(planes))
        times["t_exposure_s"] = [p.t_s if is_timed else math.nan for p in planes]
        times["time_index"] = [p.time_index for p in planes]
        return times

    def _note_errors(self, frames: list[FrameFound]) -> None:
        failed = [frame for frame in frames if frame.error is not None]
        if failed:
            with (self.job.folder / "failures.txt").open("a", encoding="utf-8") as file:
                for frame in failed[:_MOST_ERRORS]:
                    file.write(f"frame {frame.index}: {frame.error}\n")


class _Kept(threading.local):
    """What one thread of a worker keeps open: the newest recordings, the detector."""

    def __init__(self) -> None:
        self.steps: deque[Steps] = deque()
        self.detector: tuple[str, Detector] | None = None


_kept = _Kept()


def steps_of(job: Job) -> Steps:
    """Return the recording's steps, opened once per thread and recording."""
    for steps in _kept.steps:
        if steps.job == job:
            return steps
    if len(_kept.steps) == _MOST_OPEN:
        _kept.steps.popleft().close()
    _kept.steps.append(Steps(job))
    return _kept.steps[-1]


def _detector_of(settings: str) -> Detector:
    """Return the detector of a batch, opened once per thread."""
    if _kept.detector is None or _kept.detector[0] != settings:
        detection = Settings.model_validate_json(settings).detection
        found = open_detector(Path(str(detection.model)), detection)
        _kept.detector = settings, found
    return _kept.detector[1]


def _trace_rows(frames: list[Frame], tracks: list[Rows]) -> Rows:
    """Return the measured rows of some frames, with what is known of their frames."""
    if not frames:
        return blank_rows(TRACE_DTYPE, 0)
    linked = np.concatenate(tracks)
    which = np.repeat(np.arange(len(frames)), [len(rows) for rows in tracks])
    rows = blank_rows(TRACE_DTYPE, len(linked))
    for name in linked.dtype.names or ():
        rows[name] = linked[name]
    rows["frame"] = np.array([frame.index for frame in frames])[which]
    for name in OF_THE_FRAME:
        rows[name] = np.array([_of_frame(frame, name) for frame in frames])[which]
    rows["is_measured"] = rows["missed_frames"] == 0
    rows = rows[rows["is_measured"]]
    ordered: Rows = rows[np.lexsort((rows["frame"], rows["track_id"]))]
    return ordered


def _of_frame(frame: Frame, name: str) -> Any:
    if name.startswith("stage_"):
        return getattr(frame.stage_um, name.removeprefix("stage_"))
    value = getattr(frame, name)
    return math.nan if value is None else value

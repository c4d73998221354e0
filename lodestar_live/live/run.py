"""One run: the worker thread, the model it waits for, and where every frame went."""

from __future__ import annotations

import json
import logging
import math
import threading
import traceback
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from lodestar_live import events
from lodestar_live.commands import Handler, NoArgs, RetrainArgs, serve
from lodestar_live.data import (
    UNKNOWN_POSITION,
    Event,
    Frame,
    RunInfo,
    StagePosition,
    Update,
)
from lodestar_live.detection import Detector
from lodestar_live.errors import InputError
from lodestar_live.health import Health, RunEnd
from lodestar_live.live.accounts import Accounts, Summary
from lodestar_live.live.assemble import Parts
from lodestar_live.live.clock import RunClock
from lodestar_live.live.frame_pool import FramePool
from lodestar_live.live.mailbox import Mailbox
from lodestar_live.live.models import Models
from lodestar_live.live.run_folder import package_versions
from lodestar_live.live.upstream import Upstream
from lodestar_live.pipeline import Pipeline
from lodestar_live.pipeline.detect import PixelDetector
from lodestar_live.priority import TRACKING, live_process, lower_this_thread
from lodestar_live.settings import Settings
from lodestar_live.sinks import Sink, guarded

logger = logging.getLogger(__name__)
_CLOSE_WITHIN_S = 5.0
_DRAIN_WITHIN_S = 2.0
_CHOICE_WITHIN_S = 1.0
_IDLE_S = 0.05
_LOSSES_KEPT = 10_000
_LOSSES = {
    "dropped": events.FrameDropped,
    "failed": events.FrameFailed,
    "waiting": events.FrameWaiting,
    "lost": events.FrameLost,
}


class Loss(NamedTuple):
    """A frame that will never be processed; its pixels are already gone."""

    outcome: str
    frame_index: int
    t_arrival_s: float
    why: str = "a newer frame took its place"


class Run:
    """Everything that lives from one ``with`` of a `LiveTracker` to its end."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: RunClock,
        accounts: Accounts,
        on_update: Callable[[Update], None] | None,
    ) -> None:
        self.settings, self.clock, self.accounts = settings, clock, accounts
        self._on_update = on_update
        self.first_error: str | None = None
        self.health = Health()
        self.end = RunEnd("running")
        self.pipeline: Pipeline | None = None
        self.tracking = threading.Event()
        self.parts: Parts
        self.sinks: list[Sink] = []
        self.n_tracks = 0
        self.failures_in_a_row = 0
        self._has_kept_field = False
        live = settings.live
        self._mailbox: Mailbox[Frame] = Mailbox(live.mode, live.queue_frames)
        self._pool = FramePool(is_last_reader=not live.hand_on_frames)
        self._upstream = Upstream()
        self._turn = threading.Lock()  # of the thread that processes a frame
        self._losses: deque[Loss] = deque(maxlen=_LOSSES_KEPT)
        self._kinds_logged: set[str] = set()
        self._models: Models | None = None
        self._leave_live_process: Callable[[], None] = lambda: None
        self._drain_until_s = float("inf")
        self._first_s, self._last_s = float("inf"), 0.0
        self._duration_s: float | None = None
        self._worker = threading.Thread(
            target=self._work, name="lodestar-worker", daemon=True
        )

    # --- life ---------------------------------------------------------------

    def open(self, parts: Parts, sinks: list[Sink]) -> None:
        """Tell every sink what this run is, then start the worker."""
        self.parts, self.sinks = parts, guarded(sinks, self.note_error)
        self._models = Models(
            self.settings,
            parts.run_folder,
            load=parts.load_detector,
            use=self._use,
            tell=self.tell,
            note_error=self.note_error,
            clock=self.clock,
        )
        self._leave_live_process = live_process()
        run = self._describe()
        for sink in self.sinks:
            sink.open(run)
        if parts.stage_watch is not None:
            parts.stage_watch.start()
        if parts.detector is not None:
            self._models.begin(parts.detector)
        self._worker.start()

    def close(self, end: RunEnd | None = None) -> None:
        """Stop the stage, finish the frames in hand, close every sink; bounded.

        Parameters
        ----------
        end
            How the run ended and why, for every sink. None: completed.
        """
        if self.parts.controller is not None:
            self.parts.controller.stop("end of run")
        if self._models is not None:
            self._models.close()
        self._drain_until_s = self.clock() + _DRAIN_WITHIN_S
        self._mailbox.close()
        if self._worker.ident is not None:
            self._worker.join(_CLOSE_WITHIN_S)
        # Nobody is in a frame any more, whichever thread it was.
        if self._worker.is_alive() or not self._turn.acquire(timeout=_CLOSE_WITHIN_S):
            logger.error("the worker is stuck in a frame; it is left behind")
        else:
            self._turn.release()
        if self.parts.engines is not None:
            self.parts.engines.join(_CHOICE_WITHIN_S)
        self._leave_live_process()
        if self.parts.stage_watch is not None:
            self.parts.stage_watch.close()
        self._report_losses()
        self._duration_s = self.clock()
        self.end = end or RunEnd("completed")
        ended = events.RunEnded(status=self.end.status, reason=self.end.reason)
        self.tell(ended.at(self._duration_s))
        # Recorders first: what the stream says at its end is then final.
        for sink in reversed(self.sinks):
            sink.close()
        if self.parts.access is not None:  # who reads the stage has ended
            self.parts.access.close()

    def verbs(self) -> dict[str, Handler]:
        """Return what other programs may ask about the model."""
        return {
            "retrain": serve("retrain", RetrainArgs, lambda a: self.models.retrain(a)),
            "rollback": serve("rollback", NoArgs, lambda _: self.models.rollback()),
        }

    @property
    def models(self) -> Models:
        """Where the detector comes from; there once the run is open."""
        if self._models is None:
            raise InputError("the run has not begun yet; try again in a moment.")
        return self._models

    def _use(self, detect: PixelDetector, version: int) -> None:
        """Put a pipeline around a detector: one assignment, so atomic."""
        link = self.parts.link
        self.parts.detector, link.model_version = detect, version
        self.pipeline = Pipeline(
            self.parts.detect_step(detect),
            link,
            prepare=self.parts.prepare_step(),
            sinks=self.sinks,
            take_events=link.take_events,
            summarise=link.summary,
            counts=self.accounts.counts,
            degraded=lambda: self.health.is_degraded,
            clock=self.clock,
        )
        self.tracking.set()
        self.tell(_model_used(detect, version).at(self.clock()))

    def summary(self) -> Summary:
        """Return what the run came to so far."""
        counts = self.accounts.counts()
        span_s = self._last_s - self._first_s
        n = counts.processed
        return Summary(
            counts=counts,
            duration_s=self.clock() if self._duration_s is None else self._duration_s,
            fps=(n - 1) / span_s if n > 1 and span_s > 0 else 0.0,
            latencies=self.accounts.latencies(),
            n_tracks=self.n_tracks,
            first_error=self.first_error,
            degraded=self.health.is_degraded,
            health=self.health.as_json(),
            frames_lost=0
            if self.parts.recorder is None
            else self.parts.recorder.n_lost,
            status=self.end.status,
            reason=self.end.reason,
        )

    # --- frames -------------------------------------------------------------

    def take(self, frame: Frame) -> None:
        """Take one frame from its source: number, keep, queue, count. Microseconds."""
        arrival = self._receive(frame)
        if arrival is None:
            return
        try:
            pixels = self._pool.keep(arrival.pixels)
        except Exception as error:  # of an odd array, out of memory
            self._fail(arrival.index, frame.t_arrival_s, error)
            return
        lost = self._mailbox.put(replace(arrival, pixels=pixels))
        if lost is not None:
            outcome = "waiting" if self.pipeline is None else "dropped"
            self.accounts.settle(outcome)
            self._losses.append(Loss(outcome, lost.index, lost.t_arrival_s))

    def process(self, frame: Frame) -> None:
        """Take one frame from a source that waits, and process it on its thread.

        Nothing is copied, queued or handed to another thread: that takes longer than to
        detect one particle in a small frame. Frames are processed one by one.
        """
        arrival = self._receive(frame)
        if arrival is None:
            return
        with self._turn:
            if self._drain_until_s < float("inf"):
                self._lose(arrival, "dropped", "the run was closed")
            else:
                self._handle(arrival)

    def _receive(self, frame: Frame) -> Frame | None:
        """Return a frame, numbered and counted; None if it came before or too late."""
        verdict = self._upstream.judge(frame)
        index = self.accounts.receive(verdict.n_lost)
        if verdict.n_lost:
            why = f"{verdict.n_lost} of {frame.camera or 'the camera'} never came"
            self._losses.append(Loss("lost", index - 1, frame.t_arrival_s, why))
        if verdict.fault:
            self.accounts.note(verdict.fault)
            self.accounts.settle("dropped")
            why = f"{verdict.fault}: number {frame.source_number} of its camera"
            self._losses.append(Loss("dropped", index, frame.t_arrival_s, why))
            return None
        return replace(frame, index=index)

    def refuse(self, error: BaseException, t_arrival_s: float) -> None:
        """Count an image that cannot become a frame."""
        self._fail(self.accounts.receive(), t_arrival_s, error)

    def _work(self) -> None:
        # A busy detector must not hold up the camera; a stage needs its places on time.
        if self.parts.controller is None:
            lower_this_thread(TRACKING)
        while True:
            frame = self._mailbox.get(_IDLE_S)
            self._report_losses()
            if frame is not None:
                if self.clock() > self._drain_until_s:
                    self._lose(frame, "dropped", "the run was closed")
                else:
                    with self._turn:
                        self._handle(frame)
            elif self._drain_until_s < float("inf"):
                return

    def _handle(self, arrival: Frame) -> None:
        pipeline = self.pipeline
        try:
            frame = self._complete(arrival)
            if pipeline is None:
                if self.parts.publisher is not None:
                    self.parts.publisher.show(frame)
                self.models.wait_with(frame)
                self._lose(arrival, "waiting", "the model is still in training")
                return
            update = pipeline.process(frame)
        except BaseException as error:  # one bad frame never ends a run
            self._fail(arrival.index, arrival.t_arrival_s, error)
            return
        self.accounts.settle("processed")
        self.accounts.time(update.timings_ms)
        if self.failures_in_a_row >= self.settings.live.max_failures:
            self.tell(events.RunResumed().at(self.clock(), update.frame.index))
        self.failures_in_a_row = 0
        self.models.remember(update)
        self._remember(update)
        self._keep_field(update.frame)

    def _keep_field(self, frame: Frame) -> None:
        """Write the first field with its background beside the run, for pictures."""
        prepare = self.parts.prepare
        if prepare is None or self._has_kept_field or not prepare.has_background:
            return
        self._has_kept_field = True
        try:
            np.savez(
                self.parts.run_folder / "field.npz",
                field=frame.pixels,
                frame=frame.index,
                pixel_size_um=frame.pixel_size_um,
            )
        except OSError:
            self.note_error("keeping the field")

    def _complete(self, frame: Frame) -> Frame:
        """Add what only the run knows: the stage, the user's own pixel size."""
        if frame.is_recorded:
            return frame
        if frame.planned_axes:
            self._refuse_planned_positions(frame.planned_axes)
        stage_um = frame.stage_um
        if any(math.isnan(axis) for axis in stage_um):
            read_um = self.parts.stage_at(frame.t_exposure_s)
            if read_um is not UNKNOWN_POSITION:
                both = zip(stage_um, read_um, strict=True)
                stage_um = StagePosition(*(b if math.isnan(a) else a for a, b in both))
        size_um = self.settings.microscope.pixel_size_um or frame.pixel_size_um
        if stage_um is frame.stage_um and size_um is frame.pixel_size_um:
            return frame
        return replace(frame, stage_um=stage_um, pixel_size_um=size_um)

    def _refuse_planned_positions(self, axes: str) -> None:
        controller = self.parts.controller
        if controller is None or controller.gate.halted is not None:
            return
        axes = "".join(axis for axis in axes if axis in controller.own_axes)
        if not axes:
            return
        why = (
            f"the acquisition events carry stage positions ({axes.lower()}), which the "
            "engine re-sends before every frame against the feedback; use events "
            'without them, or control.move_by = "events" for the plane'
        )
        if "planned" not in self._kinds_logged:
            self._kinds_logged.add("planned")
            logger.error("control stopped: %s", why)
        controller.stop(why)  # again after each `arm`, while events still do so

    # --- accounting and news --------------------------------------------------

    def tell(self, event: Event) -> None:
        """Hand news to every sink; a sink that fails is that sink's affair."""
        change = self.health.take(event)
        for sink in self.sinks:
            sink.tell(event)
        if change is not None:
            self.tell(change)

    def note_error(self, kind: str, text: str | None = None) -> None:
        """Keep the first error whole; log each kind once."""
        text = text or traceback.format_exc()
        if self.first_error is None:
            self.first_error = text
        if kind not in self._kinds_logged:
            self._kinds_logged.add(kind)
            logger.error("%s: %s", kind, text)

    def _fail(self, index: int, t_arrival_s: float, error: BaseException) -> None:
        self.failures_in_a_row += 1
        kind = f"{type(error).__name__} in frame processing"
        self.note_error(kind, "".join(traceback.format_exception(error)))
        self.accounts.settle("failed")
        why = f"{type(error).__name__}: {error}"
        self._losses.append(Loss("failed", index, t_arrival_s, why))
        if self.failures_in_a_row == self.settings.live.max_failures:
            why = f"{self.failures_in_a_row} frames in a row failed"
            logger.error("degraded: %s", why)
            self.tell(events.RunDegraded(why=why).at(self.clock()))

    def _lose(self, frame: Frame, outcome: str, why: str) -> None:
        self.accounts.settle(outcome)
        self._tell_loss(Loss(outcome, frame.index, frame.t_arrival_s, why))

    def _report_losses(self) -> None:
        while self._losses:
            self._tell_loss(self._losses.popleft())

    def _tell_loss(self, loss: Loss) -> None:
        details = _LOSSES[loss.outcome](t_arrival_s=loss.t_arrival_s, why=loss.why)
        self.tell(details.at(self.clock(), loss.frame_index))

    def _remember(self, update: Update) -> None:
        t_s = update.frame.t_arrival_s
        self._first_s, self._last_s = min(self._first_s, t_s), t_s
        if len(update.tracks):
            newest = int(update.tracks.rows["track_id"].max())
            self.n_tracks = max(self.n_tracks, newest + 1)
        if self._on_update is not None:
            try:
                self._on_update(update)
            except Exception:
                self.note_error("on_update")

    def _describe(self) -> RunInfo:
        return RunInfo(
            run=uuid.uuid4().hex,
            started=datetime.now(UTC).isoformat(),
            settings=self.settings.model_dump(mode="json"),
            versions=package_versions(),
            model=self.parts.model,
            calibration=self.parts.calibration,
            pixel_size_um=self.parts.pixel_size_um,
            source=self.parts.source,
        )


def _model_used(detect: PixelDetector, version: int) -> events.ModelUsed:
    """Say which model is used; of a callable of the user's own only its name."""
    if not isinstance(detect, Detector):
        name = getattr(detect, "__qualname__", type(detect).__qualname__)
        card = {"callable": f"{detect.__module__}.{name}"}
        return events.ModelUsed(
            version=version, file="", sha256="", card=json.dumps(card)
        )
    told = detect.card.model_copy(update={"reference_field": None})  # 44 kB
    return events.ModelUsed(
        version=version,
        file=detect.name,
        sha256=detect.sha256,
        card=json.dumps(told.to_json()),
    )

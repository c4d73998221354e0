"""One run: the worker thread, the model it waits for, and where every frame went."""

from __future__ import annotations

import contextlib
import logging
import threading
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from lodestar_live.data import Event, Frame, RunInfo, Update
from lodestar_live.errors import InputError
from lodestar_live.live.accounts import Accounts, Summary
from lodestar_live.live.assemble import Detect, Parts
from lodestar_live.live.clock import RunClock
from lodestar_live.live.frame_pool import FramePool
from lodestar_live.live.mailbox import Mailbox
from lodestar_live.live.models import Models
from lodestar_live.microscope import read_facts
from lodestar_live.microscope.frames import Arrival, make_frame
from lodestar_live.pipeline.pipeline import Pipeline, Sink
from lodestar_live.priority import TRACKING, lower_this_thread, shorten_turns
from lodestar_live.settings import Settings

logger = logging.getLogger(__name__)
_CLOSE_WITHIN_S = 5.0
_DRAIN_WITHIN_S = 2.0
_CHOICE_WITHIN_S = 1.0
_IDLE_S = 0.05
_LOSSES_KEPT = 10_000


class Loss(NamedTuple):
    """A frame that will never be processed; its pixels are already gone."""

    outcome: str
    frame_index: int
    t_arrival_s: float


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
        self.pipeline: Pipeline | None = None
        self.tracking = threading.Event()
        self.parts: Parts
        self.sinks: list[Sink] = []
        self.n_tracks = 0
        self.failures_in_a_row = 0
        self._has_kept_field = False
        live = settings.live
        self._mailbox: Mailbox[Arrival] = Mailbox(live.mode, live.queue_frames)
        self._pool = FramePool(is_last_reader=not live.hand_on_frames)
        self._losses: deque[Loss] = deque(maxlen=_LOSSES_KEPT)
        self._kinds_logged: set[str] = set()
        self._models: Models | None = None
        self._blas_limits: threadpool_limits | None = None
        self._restore_turns: Callable[[], None] = lambda: None
        self._drain_until_s = float("inf")
        self._first_s, self._last_s = float("inf"), 0.0
        self._duration_s: float | None = None
        self._worker = threading.Thread(
            target=self._work, name="lodestar-worker", daemon=True
        )

    # --- life ---------------------------------------------------------------

    def open(self, parts: Parts, sinks: list[Sink]) -> None:
        """Tell every sink what this run is, then start the worker."""
        self.parts, self.sinks = parts, sinks
        # BLAS threads spin: beside one busy process refocusing took six times as long.
        self._blas_limits = threadpool_limits(limits=1, user_api="blas")
        self._models = Models(
            self.settings,
            parts.run_folder,
            load=parts.load_detector,
            use=self._use,
            tell=self.tell,
            note_error=self.note_error,
            clock=self.clock,
        )
        self._restore_turns = shorten_turns()
        run = self._describe()
        for sink in sinks:
            sink.open(run)
        if parts.stage_watch is not None:
            parts.stage_watch.start()
        if parts.detect is not None:
            self._models.begin(parts.detect)
        self._worker.start()

    def close(self) -> None:
        """Stop the stage, finish the frames in hand, close every sink; bounded."""
        if self.parts.controller is not None:
            self.parts.controller.stop("end of run")
        if self._models is not None:
            self._models.close()
        self._drain_until_s = self.clock() + _DRAIN_WITHIN_S
        self._mailbox.close()
        if self._worker.ident is not None:
            self._worker.join(_CLOSE_WITHIN_S)
        if self._worker.is_alive():
            logger.error("the worker is stuck in a frame; it is left behind")
        if self.parts.engines is not None:
            self.parts.engines.join(_CHOICE_WITHIN_S)
        if self._blas_limits is not None:
            self._blas_limits.restore_original_limits()
        self._restore_turns()
        if self.parts.stage_watch is not None:
            self.parts.stage_watch.close()
        self._report_losses()
        self._duration_s = self.clock()
        for sink in self.sinks:
            try:
                sink.close()
            except Exception:
                self.note_error("closing a sink")

    def verbs(self) -> Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
        """Return what other programs may ask about the model."""
        return {
            "retrain": lambda args: self.models.retrain(args),
            "rollback": lambda _args: self.models.rollback(),
        }

    @property
    def models(self) -> Models:
        """Where the detector comes from; there once the run is open."""
        if self._models is None:
            raise InputError("the run has not begun yet; try again in a moment.")
        return self._models

    def _use(self, detect: Detect, version: int) -> None:
        """Put a pipeline around a detector: one assignment, so atomic."""
        self.parts.detect, self.parts.model_version = detect, version
        self.pipeline = Pipeline(
            self.parts.detect_frame,
            self.parts.link_frame,
            prepare=self.parts.prepare,
            sinks=self.sinks,
            take_events=self.parts.take_events,
            counts=self.accounts.counts,
            clock=self.clock,
        )
        self.tracking.set()

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
            degraded=self.failures_in_a_row >= self.settings.live.max_failures,
        )

    # --- frames -------------------------------------------------------------

    def take(self, image: Any, metadata: Any, t_arrival_s: float) -> None:
        """Take one image from the hook: keep, queue, count. Microseconds."""
        index = self.accounts.receive()
        arrival = Arrival(index, self._pool.keep(image), metadata, t_arrival_s)
        lost = self._mailbox.put(arrival)
        if lost is not None:
            outcome = "waiting" if self.pipeline is None else "dropped"
            self.accounts.settle(outcome)
            self._losses.append(Loss(outcome, lost.frame_index, lost.t_arrival_s))

    def _work(self) -> None:
        # A busy detector must not hold up the camera; a stage needs its places on time.
        if self.parts.controller is None:
            lower_this_thread(TRACKING)
        while True:
            arrival = self._mailbox.get(_IDLE_S)
            self._report_losses()
            if arrival is not None:
                if self.clock() > self._drain_until_s:
                    self._lose(arrival, "dropped", "the run was closed")
                else:
                    self._handle(arrival)
            elif self._drain_until_s < float("inf"):
                return

    def _handle(self, arrival: Arrival) -> None:
        pipeline = self.pipeline
        try:
            frame = self._frame(arrival)
            if pipeline is None:
                if self.parts.publisher is not None:
                    self.parts.publisher.show(frame)
                self.models.wait_with(frame)
                self._lose(arrival, "waiting", "the model is still in training")
                return
            update = pipeline.process(frame)
        except BaseException as error:  # one bad frame never ends a run
            self._fail(arrival, error)
            return
        self.accounts.settle("processed")
        self.accounts.time(update.timings_ms)
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

    def _frame(self, arrival: Arrival) -> Frame:
        facts = read_facts(arrival.metadata)
        if facts.planned_axes:
            self._refuse_planned_positions(facts.planned_axes)
        return make_frame(
            arrival,
            facts,
            wall_start_s=self.clock.wall_start_s,
            stage_at=self.parts.stage_at,
            pixel_size_um=self.settings.microscope.pixel_size_um,
        )

    def _refuse_planned_positions(self, axes: str) -> None:
        controller = self.parts.controller
        if controller is None or "planned" in self._kinds_logged:
            return
        axes = "".join(axis for axis in axes if axis in controller.own_axes)
        if not axes:
            return
        self._kinds_logged.add("planned")
        why = (
            f"the acquisition events carry stage positions ({axes.lower()}), which the "
            "engine re-sends before every frame against the feedback; use events "
            'without them, or control.move_by = "events" for the plane'
        )
        logger.error("control stopped: %s", why)
        controller.stop(why)

    # --- accounting and news --------------------------------------------------

    def tell(self, event: Event) -> None:
        """Hand news to every sink; a sink that fails is that sink's affair."""
        for sink in self.sinks:
            with contextlib.suppress(Exception):
                sink.tell(event)

    def note_error(self, kind: str, text: str | None = None) -> None:
        """Keep the first error whole; log each kind once."""
        text = text or traceback.format_exc()
        if self.first_error is None:
            self.first_error = text
        if kind not in self._kinds_logged:
            self._kinds_logged.add(kind)
            logger.error("%s: %s", kind, text)

    def _fail(self, arrival: Arrival, error: BaseException) -> None:
        self.failures_in_a_row += 1
        kind = f"{type(error).__name__} in frame processing"
        self.note_error(kind, "".join(traceback.format_exception(error)))
        self._lose(arrival, "failed", f"{type(error).__name__}: {error}")
        if self.failures_in_a_row == self.settings.live.max_failures:
            why = f"{self.failures_in_a_row} frames in a row failed"
            logger.error("degraded: %s", why)
            self.tell(Event("run.degraded", self.clock(), details={"why": why}))

    def _lose(self, arrival: Arrival, outcome: str, why: str) -> None:
        self.accounts.settle(outcome)
        loss = Loss(outcome, arrival.frame_index, arrival.t_arrival_s)
        self._tell_loss(loss, why)

    def _report_losses(self) -> None:
        while self._losses:
            self._tell_loss(self._losses.popleft(), "a newer frame took its place")

    def _tell_loss(self, loss: Loss, why: str) -> None:
        details = {"t_arrival_s": loss.t_arrival_s, "why": why}
        self.tell(
            Event(f"frame.{loss.outcome}", self.clock(), loss.frame_index, details)
        )

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
            versions=self.parts.versions(),
            model=self.parts.model,
            calibration=self.parts.calibration,
            pixel_size_um=self.parts.pixel_size_um,
        )

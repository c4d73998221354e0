"""LiveTracker: the image processor handed to pycro-manager.

The hook takes (image, metadata), copies the pixels into a mailbox and returns the same
two objects; everything else happens on the worker thread. It never raises into the
acquisition, never changes an image and never waits.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from lodestar_live.data import (
    UNKNOWN_POSITION,
    Counts,
    Event,
    Frame,
    Pixels,
    RunInfo,
    StagePosition,
    Update,
)
from lodestar_live.errors import InputError, ModelError
from lodestar_live.live.accounts import Accounts, Summary
from lodestar_live.live.assemble import Parts, assemble
from lodestar_live.live.first_model import TrainingProcess
from lodestar_live.live.mailbox import Mailbox
from lodestar_live.microscope import Microscope, read_facts
from lodestar_live.pipeline import Pipeline, Sink
from lodestar_live.settings import Settings

logger = logging.getLogger(__name__)
_CLOSE_WITHIN_S = 5.0
_DRAIN_WITHIN_S = 2.0
_IDLE_S = 0.05
_LOSSES_KEPT = 10_000
_OLDEST_S = 60.0  # a camera time stamp older than this is not believed


class Arrival(NamedTuple):
    """One image as the hook left it."""

    index: int
    pixels: Pixels
    metadata: Mapping[str, Any]
    t_arrival_s: float
    stage_um: StagePosition


class LiveTracker:
    """Track particles in every image of a pycro-manager acquisition.

    Use it as a context manager around the acquisition and hand it over as
    ``image_process_fn``. Without a model in the settings it trains on the first frame
    while the acquisition goes on, then tracks. One tracker can serve several
    acquisitions, each in its own ``with`` block.

    Parameters
    ----------
    settings
        Everything about the run; None: all defaults.
    microscope
        Needed to read and drive the stage. None: the core running in this process,
        if there is one.
    detect
        A detector of your own: pixels -> Detections. None: from the settings.
    sinks
        Further sinks of your own; see `lodestar_live.pipeline.Sink`.
    on_update
        Called with every `Update` on the worker thread; its exceptions are logged.

    Raises
    ------
    LodestarError
        On entering: a model, port, calibration or limit is not usable.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        microscope: Microscope | None = None,
        detect: Callable[[Pixels], Any] | None = None,
        sinks: Sequence[Sink] = (),
        on_update: Callable[[Update], None] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._microscope, self._detect = microscope, detect
        self._extra_sinks, self._on_update = tuple(sinks), on_update
        self._life = threading.Lock()
        self._running = False
        self._reset()

    # --- the hook -----------------------------------------------------------

    def __call__(self, image: Any, metadata: Any) -> Any:
        """Take one image from pycro-manager; return it unchanged."""
        try:
            self._take(image, metadata)
        except BaseException:  # the acquisition must go on whatever happens here
            self._note_error("the hook")
        return (image, metadata) if self._hands_on else None

    def _take(self, image: Any, metadata: Any) -> None:
        if not self._running:
            return
        t_arrival_s = self.clock()
        index = self._accounts.receive()
        stage_um = self._read_stage()
        arrival = Arrival(index, np.array(image), metadata, t_arrival_s, stage_um)
        lost = self._mailbox.put(arrival)
        if lost is not None:
            outcome = "dropped" if self._pipeline is not None else "waiting"
            self._accounts.settle(outcome)
            self._losses.append((outcome, lost.index, lost.t_arrival_s, lost.stage_um))

    # --- the run ------------------------------------------------------------

    def __enter__(self) -> LiveTracker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Open everything a run needs; called by ``with``."""
        with self._life:
            if self._running:
                return
            self._reset()
            self._parts = assemble(
                self.settings,
                microscope=self._microscope,
                detect=self._detect,
                clock=self.clock,
                counts=self._accounts.counts,
                tell=self._tell,
                commands={"retrain": self._retrain},
            )
            try:
                self._open()
            except BaseException:
                self._close_sinks()
                raise

    def _open(self) -> None:
        parts = self._parts
        self._read_stage = parts.read_stage
        self._sinks = [*parts.sinks, *self._extra_sinks]
        run = self._describe()
        for sink in self._sinks:
            sink.open(run)
        if parts.detect is not None:
            self._use(parts)
        self._running = True
        self._worker = threading.Thread(
            target=self._work, name="lodestar-worker", daemon=True
        )
        self._worker.start()

    def close(self) -> None:
        """Stop the stage, finish the frames in hand, close everything; within 5 s."""
        with self._life:
            if not self._running:
                return
            if self._parts.controller is not None:
                self._parts.controller.stop("end of run")
            if self._training is not None:
                self._training.cancel()
            self._drain_until = time.perf_counter() + _DRAIN_WITHIN_S
            self._mailbox.close()
            self._worker.join(_CLOSE_WITHIN_S)
            if self._worker.is_alive():
                logger.error("the worker is stuck in a frame; it is left behind")
            self._running = False
            self._duration_s = self.clock()
            self._close_sinks()
        if self.first_error is not None:
            logger.error("the first error of this run was:\n%s", self.first_error)

    def swap_detector(self, detect: Callable[[Pixels], Any]) -> None:
        """Use another detector from the next frame on; tracks go on, version + 1."""
        self._parts.model_version += 1
        self._parts.detect = detect
        self._use(self._parts)

    @property
    def counts(self) -> Counts:
        """Where every frame of this run went so far."""
        return self._accounts.counts()

    @property
    def n_received(self) -> int:
        """Frames the hook was given so far."""
        return self.counts.received

    @property
    def is_tracking(self) -> bool:
        """False while the model is still being trained."""
        return self._pipeline is not None

    def wait_until_tracking(self, timeout_s: float) -> bool:
        """Wait for the model; False when it did not come in time."""
        return self._tracking.wait(timeout_s)

    @property
    def run_folder(self) -> Path:
        """Folder of this run's files."""
        return self._parts.run_folder

    @property
    def controller(self) -> Any:
        """The stage controller, or None."""
        return self._parts.controller

    @property
    def endpoints(self) -> Mapping[str, str]:
        """Addresses of the publisher's sockets; empty when streaming is off."""
        return {} if self._parts.publisher is None else self._parts.publisher.endpoints

    def summary(self) -> Summary:
        """Return what the run came to so far."""
        duration_s = self._duration_s if not self._running else self.clock()
        span_s = self._last_s - self._first_s
        n = self.counts.processed
        return Summary(
            counts=self.counts,
            duration_s=duration_s,
            fps=(n - 1) / span_s if n > 1 and span_s > 0 else 0.0,
            latencies=self._accounts.latencies(),
            n_tracks=self._n_tracks,
            first_error=self.first_error,
            degraded=self._failures_in_a_row >= self.settings.live.max_failures,
        )

    # --- the worker ---------------------------------------------------------

    def _work(self) -> None:
        while True:
            arrival = self._mailbox.get(_IDLE_S)
            self._report_losses()
            if arrival is not None:
                if time.perf_counter() > self._drain_until:
                    self._lose(arrival, "dropped", "the run was closed")
                else:
                    self._handle(arrival)
            elif self._drain_until < float("inf"):
                return

    def _handle(self, arrival: Arrival) -> None:
        pipeline = self._pipeline
        try:
            frame = self._frame(arrival)
            if pipeline is None:
                self._wait_for_model(arrival, frame)
                return
            update = pipeline.process(frame)
        except BaseException as error:  # one bad frame never ends a run
            self._fail(arrival, error)
            return
        self._accounts.settle("processed")
        self._accounts.time(update.timings_ms)
        self._failures_in_a_row = 0
        self._remember(update)

    def _wait_for_model(self, arrival: Arrival, frame: Frame) -> None:
        if self._training is None:
            try:
                self._train_on(frame.pixels)
            except Exception as error:
                self._fail(arrival, error)
                return
        self._lose(arrival, "waiting", "the model is still in training")

    def _frame(self, arrival: Arrival) -> Frame:
        pixels = arrival.pixels
        if pixels.ndim != 2 or 0 in pixels.shape:
            raise InputError(
                f"frame {arrival.index} has shape {pixels.shape}; expected one grey "
                "image (y, x). Colour cameras: select a single channel."
            )
        facts = read_facts(arrival.metadata)
        if facts.has_planned_position and self._parts.controller is not None:
            self._refuse_planned_positions()
        t_exposure_s = self._exposure_time(arrival, facts.received_wall_s)
        t_exposure_s -= np.nan_to_num(facts.exposure_ms) / 2e3
        stage_at = self._parts.stage_at
        return Frame(
            index=arrival.index,
            pixels=pixels,
            t_exposure_s=t_exposure_s,
            t_arrival_s=arrival.t_arrival_s,
            stage_um=arrival.stage_um if stage_at is None else stage_at(t_exposure_s),
            pixel_size_um=self.settings.microscope.pixel_size_um or facts.pixel_size_um,
            origin_px=facts.origin_px,
            exposure_ms=facts.exposure_ms,
            bit_depth=facts.bit_depth,
            camera=facts.camera,
            channel=facts.channel,
            axes=facts.axes,
        )

    def _exposure_time(self, arrival: Arrival, received_wall_s: float | None) -> float:
        """Return when the camera delivered the image: its own stamp, if believable."""
        if received_wall_s is not None:
            t_s = received_wall_s - self._wall_start_s
            if arrival.t_arrival_s - _OLDEST_S < t_s <= arrival.t_arrival_s:
                return t_s
        return arrival.t_arrival_s

    def _refuse_planned_positions(self) -> None:
        if not self._parts.controller_refused:
            self._parts.controller_refused = True
            self._parts.controller.stop(
                "the acquisition events carry stage positions (x, y or z), which the "
                "engine re-sends before every frame; use events without them"
            )

    def _use(self, parts: Parts) -> None:
        """Put a pipeline around the current detector; one assignment, so atomic."""
        self._pipeline = Pipeline(
            parts.detect_frame,
            parts.link_frame,
            prepare=parts.prepare,
            sinks=self._sinks,
            take_events=parts.take_events,
            counts=self._accounts.counts,
            clock=self.clock,
        )
        self._tracking.set()

    # --- training while acquiring --------------------------------------------

    def _train_on(self, pixels: Pixels) -> None:
        logger.info("training on a frame of shape %s", pixels.shape)
        self._tell(Event("training.started", self.clock()))
        self._training = TrainingProcess(
            pixels,
            self.settings.training,
            self.run_folder,
            on_ready=self._on_model,
            on_failure=self._on_training_failure,
        )

    def _on_model(self, path: Path) -> None:
        try:
            self._parts.load_detector(path)
            self._use(self._parts)
        except Exception as error:
            self._on_training_failure(ModelError(str(error)))
            return
        self._tell(
            Event("training.finished", self.clock(), details={"model": path.name})
        )

    def _on_training_failure(self, error: ModelError) -> None:
        self._note_error("training", str(error))
        self._tell(Event("training.failed", self.clock(), details={"why": str(error)}))

    def _retrain(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        raise ModelError("retraining is not available in this run.")

    # --- accounting and news --------------------------------------------------

    def _fail(self, arrival: Arrival, error: BaseException) -> None:
        self._failures_in_a_row += 1
        kind = f"{type(error).__name__} in frame processing"
        self._note_error(kind, "".join(traceback.format_exception(error)))
        self._lose(arrival, "failed", f"{type(error).__name__}: {error}")
        if self._failures_in_a_row == self.settings.live.max_failures:
            self._degrade()

    def _degrade(self) -> None:
        why = f"{self._failures_in_a_row} frames in a row failed"
        logger.error("degraded: %s", why)
        self._tell(Event("run.degraded", self.clock(), details={"why": why}))
        if self._parts.controller is not None:
            self._parts.controller.stop(why)

    def _lose(self, arrival: Arrival, outcome: str, why: str) -> None:
        self._accounts.settle(outcome)
        self._tell_loss(
            (outcome, arrival.index, arrival.t_arrival_s, arrival.stage_um), why
        )

    def _report_losses(self) -> None:
        while self._losses:
            self._tell_loss(self._losses.popleft(), "a newer frame took its place")

    def _tell_loss(self, loss: tuple[str, int, float, StagePosition], why: str) -> None:
        outcome, index, t_arrival_s, stage_um = loss
        details = {
            "t_arrival_s": t_arrival_s,
            "stage_um": {
                name[0]: value if np.isfinite(value) else None
                for name, value in zip("zyx", stage_um, strict=True)
            },
            "why": why,
        }
        self._tell(Event(f"frame.{outcome}", self.clock(), index, details))

    def _tell(self, event: Event) -> None:
        for sink in self._sinks:
            with contextlib.suppress(Exception):
                sink.tell(event)

    def _remember(self, update: Update) -> None:
        t_s = update.frame.t_arrival_s
        self._first_s = min(self._first_s, t_s)
        self._last_s = t_s
        if len(update.tracks):
            newest = int(update.tracks.rows["track_id"].max())
            self._n_tracks = max(self._n_tracks, newest + 1)
        if self._on_update is not None:
            try:
                self._on_update(update)
            except Exception:
                self._note_error("on_update")

    def _note_error(self, kind: str, text: str | None = None) -> None:
        """Keep the first error whole; log each kind once."""
        text = text or traceback.format_exc()
        if self.first_error is None:
            self.first_error = text
        if kind not in self._kinds_logged:
            self._kinds_logged.add(kind)
            logger.error("%s: %s", kind, text)

    def _describe(self) -> RunInfo:
        return RunInfo(
            run=uuid.uuid4().hex,
            started=datetime.now(UTC).isoformat(),
            settings=self.settings.model_dump(mode="json"),
            versions=self._parts.versions(),
            model=self._parts.card,
            calibration=self._parts.calibration,
            pixel_size_um=self._parts.pixel_size_um,
        )

    def _close_sinks(self) -> None:
        for sink in self._sinks or self._parts.sinks:
            try:
                sink.close()
            except Exception:
                self._note_error("closing a sink")

    def _reset(self) -> None:
        """Forget the last run."""
        start = time.perf_counter()
        self._wall_start_s = time.time()
        self.clock: Callable[[], float] = lambda: time.perf_counter() - start
        self.first_error: str | None = None
        self._kinds_logged: set[str] = set()
        self._accounts = Accounts()
        live = self.settings.live
        self._hands_on = live.hand_on_frames
        self._mailbox: Mailbox[Arrival] = Mailbox(live.mode, live.queue_frames)
        self._losses: deque[tuple[str, int, float, StagePosition]] = deque(
            maxlen=_LOSSES_KEPT
        )
        self._sinks: list[Sink] = []
        self._pipeline: Pipeline | None = None
        self._tracking = threading.Event()
        self._training: TrainingProcess | None = None
        self._drain_until = float("inf")
        self._failures_in_a_row = 0
        self._duration_s = 0.0
        self._first_s, self._last_s = float("inf"), 0.0
        self._n_tracks = 0
        self._read_stage: Callable[[], StagePosition] = lambda: UNKNOWN_POSITION

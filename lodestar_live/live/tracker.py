"""LiveTracker: the image processor handed to pycro-manager.

The hook takes (image, metadata), copies the pixels into a mailbox and returns the same
two objects; everything else happens on the worker thread. It never raises into the
acquisition, never changes an image and never waits.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lodestar_live.commands import RetrainArgs, checked
from lodestar_live.control import Calibration, Controller
from lodestar_live.data import Counts, Detections, Pixels, Update
from lodestar_live.errors import ModelError
from lodestar_live.health import RunEnd
from lodestar_live.live.accounts import Accounts, Summary
from lodestar_live.live.assemble import Parts, assemble, is_controlling
from lodestar_live.live.clock import RunClock
from lodestar_live.live.interrupt import StopOnInterrupt
from lodestar_live.live.run import Run
from lodestar_live.live.run_folder import discard_if_empty, new_run_folder
from lodestar_live.microscope import FrameReader, Microscope, make_patient
from lodestar_live.settings import Settings
from lodestar_live.sinks import Sink
from lodestar_live.sources import Reception

logger = logging.getLogger(__name__)
_LOOK_S = 0.1  # how often a wait for the model looks whether it is in vain


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
    calibration
        Pixel-to-stage calibration measured in this session. None: from the file that
        the settings name.
    detect
        A detector of your own: pixels -> Detections. None: from the settings.
    sinks
        Further sinks of your own; see `lodestar_live.sinks.Sink`.
    on_update
        Called with every `Update` on the worker thread; its exceptions are logged.
    source
        Facts of a recording that frames come from: `path`, `time_axis`, `knows_stage`,
        `pixel_size_um`, `affine_um_per_px`; kept in the run file. None: a camera.

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
        calibration: Calibration | None = None,
        detect: Callable[[Pixels], Detections] | None = None,
        sinks: Sequence[Sink] = (),
        on_update: Callable[[Update], None] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._source = source
        self._microscope, self._calibration = microscope, calibration
        self._detect, self._extra_sinks = detect, tuple(sinks)
        self._on_update = on_update
        self._life = threading.Lock()
        self._reader: FrameReader
        self._is_running = False
        self._run: Run | None = None
        self._interrupt: StopOnInterrupt | None = None

    def __call__(self, image: Any, metadata: Any) -> Any:
        """Take one image from pycro-manager; return it unchanged."""
        run = self._run
        if run is not None and self._is_running:
            try:
                self._take(run, image, metadata)
            except BaseException:  # the acquisition must go on whatever happens here
                run.note_error("the hook")
        return (image, metadata) if self.settings.live.hand_on_frames else None

    def _take(self, run: Run, image: Any, metadata: Any) -> None:
        t_arrival_s = run.clock()
        try:
            frame = self._reader.read(image, metadata, t_arrival_s)
        except BaseException as error:  # counted; the acquisition goes on
            run.refuse(error, t_arrival_s)
        else:
            run.take(frame)

    def reception(self, stop: threading.Event, *, waits: bool = False) -> Reception:
        """Return where a `FrameSource` delivers to; valid until `close`.

        Parameters
        ----------
        stop
            Ends the delivery.
        waits
            The source can wait (`Offer.WAITS`) and no frame is to be left out: each is
            processed on the source's own thread before the next is asked for. That
            saves a copy and two changes of thread per frame.
        """
        run = self._current()
        return Reception(
            take=run.process if waits else run.take,
            refuse=run.refuse,
            clock=run.clock,
            stop=stop,
            tell=run.tell,
            abandon=self._abandon,
            is_ready=lambda: self.is_settled,
            event_hook=self.event_hook if self.places_events else None,
        )

    def _abandon(self, why: str) -> None:
        """Stop the stage at once: its frames have ended, the source has not yet."""
        if self.controller is not None:
            self.controller.stop(why)

    @property
    def places_events(self) -> bool:
        """Whether `event_hook` does anything, so that it is worth its time."""
        control = self.settings.control
        return is_controlling(control) and control.move_by == "events"

    def event_hook(self, event: Any) -> Any:
        """Put the next event at the predicted position; a ``pre_hardware_hook_fn``.

        Does something only where ``control.move_by = "events"``. It takes one argument,
        the only form of a hook that works in both backends of pycro-manager.
        """
        run = self._run
        if run is not None and self._is_running and run.parts.controller is not None:
            try:
                return run.parts.controller.place_event(event)
            except BaseException:  # a hook that raises ends the acquisition
                run.note_error("the event hook")
        return event

    def __enter__(self) -> LiveTracker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(_end_of(error))

    def start(self) -> None:
        """Open everything a run needs; called by ``with``."""
        with self._life:
            if self._is_running:
                return
            if "pyjavaz" in sys.modules:  # the user's own script talks to one already
                make_patient()
            clock, accounts = RunClock(), Accounts()
            run = Run(
                self.settings,
                clock=clock,
                accounts=accounts,
                on_update=self._on_update,
            )
            run_folder = new_run_folder(self.settings)
            try:
                parts = self._open(run, run_folder)
            except BaseException:
                discard_if_empty(run_folder)
                raise
            self._reader = FrameReader(clock)
            self._run, self._is_running = run, True
            if parts.controller is not None:
                self._interrupt = StopOnInterrupt(parts.controller, self.close)
                self._interrupt.install()

    def _open(self, run: Run, run_folder: Path) -> Parts:
        parts = assemble(
            self.settings,
            run_folder,
            microscope=self._microscope,
            calibration=self._calibration,
            detect=self._detect,
            clock=run.clock,
            counts=run.accounts.counts,
            tell=run.tell,
            commands=run.verbs(),
            health=run.health,
            source=self._source,
        )
        try:
            run.open(parts, [*parts.sinks, *self._extra_sinks])
        except BaseException:
            run.close(RunEnd("failed", "could not be started"))
            raise
        return parts

    def close(self, end: RunEnd | None = None) -> None:
        """Stop the stage, finish the frames in hand, close everything; within 5 s.

        Parameters
        ----------
        end
            How the run ended and why, for the run file and the stream. None: completed.
        """
        with self._life:
            if not self._is_running:
                return
            run = self._current()
            run.close(end)
            self._is_running = False
            if self._interrupt is not None:
                self._interrupt.remove()
                self._interrupt = None
        # Said again where it cost frames: the line of then may be hours back.
        if run.first_error is not None and run.accounts.counts().failed:
            logger.error("the first error of this run was:\n%s", run.first_error)

    @property
    def counts(self) -> Counts:
        """Where every frame of this run went so far."""
        return Counts() if self._run is None else self._run.accounts.counts()

    @property
    def n_received(self) -> int:
        """Frames the hook was given so far."""
        return self.counts.received

    @property
    def first_error(self) -> str | None:
        """The first error of the run with its traceback, or None."""
        return None if self._run is None else self._run.first_error

    def wait_until_tracking(self, timeout_s: float | None = None) -> bool:
        """Wait for the model; call it after the first frame, which is trained on.

        Returns
        -------
        False when the training failed (see `first_error`), the run was closed, or the
        model did not come in time.
        """
        run = self._current()
        until_s = math.inf if timeout_s is None else run.clock() + timeout_s
        while not run.tracking.wait(min(_LOOK_S, max(0.0, until_s - run.clock()))):
            if run.models.has_failed or not self._is_running or run.clock() >= until_s:
                return run.tracking.is_set()
        return True

    @property
    def is_settled(self) -> bool:
        """Whether frames are tracked from now on, or the training has failed."""
        run = self._current()
        return run.tracking.is_set() or run.models.has_failed

    def events(
        self, n_frames: int, *, say: Callable[[str], object] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield acquisition events for `n_frames` tracked frames.

        They carry no x, y or z, so that the engine never moves the stage. Without a
        model one frame more comes first, which is trained on; the next event is yielded
        when the model is there.

        Parameters
        ----------
        n_frames
            Frames to track.
        say
            Told that training began and when it was done, e.g. ``print``.

        Raises
        ------
        ModelError
            The training failed.
        """
        first = 0
        if not self.is_settled:
            yield {"axes": {"time": 0}}
            self._train_on_first_frame(say or logger.info)
            first = 1
        for index in range(first, first + n_frames):
            yield {"axes": {"time": index}}

    def _train_on_first_frame(self, say: Callable[[str], object]) -> None:
        log = self.run_folder / "training.log"
        say(f"training on the first frame; progress: {log}")
        start_s = self.clock()
        if not self.wait_until_tracking():
            raise ModelError(f"nothing can be tracked: {self.first_error}")
        say(f"trained in {self.clock() - start_s:.0f} s; tracking")

    def retrain(self, at_px: tuple[float, float], size_px: int | None = None) -> None:
        """Train on the newest frame in the background; a better model is swapped in.

        Parameters
        ----------
        at_px
            (y, x) of the particle in the newest frame.
        size_px
            Side of the crop; None: estimated.
        """
        y_px, x_px = at_px
        where = {"y_px": y_px, "x_px": x_px, "size_px": size_px}
        self._current().models.retrain(checked("retrain", RetrainArgs, where))

    def rollback(self) -> None:
        """Use the model before the last swap again.

        Raises
        ------
        InputError
            No model was swapped in.
        """
        self._current().models.rollback()

    def wait_for_room(self, n_frames: int) -> None:
        """Wait until fewer than `n_frames` are in flight: for sources that can wait."""
        while self.counts.in_flight >= n_frames and self._is_running:
            time.sleep(0.0005)

    def summary(self) -> Summary:
        """Return what the run came to so far."""
        return self._current().summary()

    @property
    def clock(self) -> RunClock:
        """Seconds since the run's start."""
        return self._current().clock

    @property
    def run_folder(self) -> Path:
        """Folder of this run's files."""
        return self._current().parts.run_folder

    @property
    def controller(self) -> Controller | None:
        """The stage controller, if this run follows."""
        return self._current().parts.controller

    @property
    def endpoints(self) -> Mapping[str, str]:
        """Addresses of the publisher's sockets; empty when streaming is off."""
        publisher = self._current().parts.publisher
        return {} if publisher is None else publisher.endpoints

    def _current(self) -> Run:
        if self._run is None:
            raise RuntimeError("this LiveTracker has not been started; use `with`.")
        return self._run


def _end_of(error: BaseException | None) -> RunEnd:
    """Return how a run ended by what left its ``with`` block."""
    if error is None:
        return RunEnd("completed")
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return RunEnd("stopped", type(error).__name__)
    return RunEnd("failed", f"{type(error).__name__}: {error}")

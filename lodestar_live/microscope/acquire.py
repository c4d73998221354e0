"""Acquire with pycro-manager, on either back end: always to be stopped, always ending.

Events are handed over a few at a time, against the frames that came back: neither the
engine's unbounded event queue nor its 30 hidden image slots ever fill, and a stop takes
effect within the events in flight. Events carry no x, y or z, so the engine never moves
the stage against the feedback. What fails is tried again a few times, then it ends with
its first cause.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from lodestar_live.events import CameraError
from lodestar_live.microscope.core import Microscope, MicroscopeError
from lodestar_live.microscope.engine import (
    Engine,
    Events,
    ImageProcessor,
    open_engine,
)
from lodestar_live.microscope.frames import FrameReader
from lodestar_live.microscope.snaps import note_snaps
from lodestar_live.microscope.trouble import (
    Patience,
    UncurableError,
    find_cause,
    first_line,
    require_ready,
)
from lodestar_live.settings import AcquisitionSettings
from lodestar_live.sources import Offer, Reception, SourceFacts

logger = logging.getLogger(__name__)
_SEQUENCE_S = 10.0  # length of one hardware sequence; between two there is a gap
_SEQUENCE_FRAMES = 20, 2000
_AHEAD_FRAMES = 20  # of a sequence's end, when the next is handed over
_CHECK_S = 0.02  # how often a silent engine is asked whether it still lives
_SILENT_S = 1.5  # beside three exposures: no frame for so long is looked into
_END_WITHIN_S = 1.0  # of an engine that has failed already


class AcquisitionSource:
    """Frames of an acquisition of our own; see `lodestar_live.sources.FrameSource`.

    Parameters
    ----------
    microscope
        Open already; it is not closed by this source.
    stores
        The frames go on to pycro-manager's storage.
    """

    offers = frozenset({Offer.STAGE, Offer.FOCUS, Offer.EVENT_HOOK, Offer.EXACT_TIME})

    def __init__(
        self,
        microscope: Microscope,
        settings: AcquisitionSettings,
        *,
        stores: bool | None = None,
    ) -> None:
        self._microscope, self._settings = microscope, settings
        self._stores = settings.save_folder is not None if stores is None else stores

    def open(self) -> SourceFacts:
        """Refuse what could only fail; say what the microscope is."""
        require_ready(self._microscope)
        return self._microscope.facts(self._settings.n_frames)

    def deliver(self, reception: Reception) -> None:
        """Acquire until the settings' number of frames or `reception.stop`."""
        reader = FrameReader(reception.clock)
        handed_on = self._stores

        def process(image: Any, metadata: dict[str, Any]) -> Any:
            t_arrival_s = reception.clock()
            try:
                frame = reader.read(image, metadata, t_arrival_s)
            except BaseException as error:  # counted; the acquisition goes on
                reception.refuse(error, t_arrival_s)
            else:
                reception.take(frame)
            return (image, metadata) if handed_on else None

        acquire(
            self._microscope,
            process,
            self._settings,
            stop=reception.stop,
            event_hook=reception.event_hook,
            on_error=reception.abandon,
            tell=lambda why: reception.tell(CameraError(why=why).at(reception.clock())),
            is_ready=reception.is_ready,
        )

    def close(self) -> None:
        """Nothing is held between two deliveries."""


def acquire(
    microscope: Microscope,
    processor: ImageProcessor,
    settings: AcquisitionSettings,
    *,
    stop: threading.Event,
    event_hook: Callable[[Any], Any] | None = None,
    on_error: Callable[[str], None] | None = None,
    tell: Callable[[str], None] | None = None,
    is_ready: Callable[[], bool] = lambda: True,
    finish_within_s: float = 10.0,
) -> None:
    """Acquire frames until `settings.n_frames` or `stop`.

    Parameters
    ----------
    processor
        Called by pycro-manager with exactly (image, metadata), once per frame.
    stop
        Set from anywhere to end the acquisition.
    event_hook
        Called with each event, or list of a sequence's events, before the hardware is
        set; returns it, perhaps with a position. Costs a round trip per event on the
        Java side.
    on_error
        Told at once what ended the acquisition early, before the engine's end.
    tell
        Told each failure that was survived.
    is_ready
        Frames asked for before it is first true do not count towards
        `settings.n_frames`.
    finish_within_s
        How long the engine may take to shut down before it is reported as stuck.

    Raises
    ------
    MicroscopeError
        The acquisition cannot go on, or does not come to an end: with the first cause.
    """
    require_ready(microscope)
    if settings.exposure_ms is not None:
        microscope.core.set_exposure(settings.exposure_ms)
    feeder = _Feeder(
        microscope, processor, settings, stop, tell or logger.warning, is_ready
    )
    forget = note_snaps(microscope.core) if microscope.is_python else lambda: None
    try:
        feeder.run(event_hook, on_error or _say_nothing, finish_within_s)
    finally:
        forget()


def acquire_sequence(n_frames: int, processor: ImageProcessor | None) -> None:
    """Acquire one hardware sequence with pycro-manager as it is, for comparisons."""
    from pycromanager import Acquisition

    acquisition = Acquisition(image_process_fn=processor)
    acquisition.acquire([{"axes": {"time": k}} for k in range(n_frames)])
    acquisition.mark_finished()
    acquisition.await_completion()


def _say_nothing(why: str) -> None:
    """Stand in for an `on_error` that nobody gave."""


class _Counted:
    """A processor whose frames are counted, for who waits for them to come back."""

    def __init__(self, processor: ImageProcessor) -> None:
        self._processor = processor
        self._arrived = threading.Condition()
        self.n = 0
        self.shape: tuple[int, int] | None = None

    def __call__(self, image: Any, metadata: dict[str, Any]) -> Any:
        """Process one image."""
        try:
            return self._processor(image, metadata)
        finally:
            with self._arrived:
                self.n += 1
                self.shape = getattr(image, "shape", None)
                self._arrived.notify()

    def has_seen(self, n_frames: int, timeout_s: float) -> bool:
        """Wait for so many frames since the start; False if they do not come in time.

        Nobody polls: that would take the interpreter from the engine a thousand times
        a second.
        """
        with self._arrived:
            return self._arrived.wait_for(lambda: self.n >= n_frames, timeout_s)


class _Feeder:
    """Hands over events, and starts again where that helps."""

    def __init__(
        self,
        microscope: Microscope,
        processor: ImageProcessor,
        settings: AcquisitionSettings,
        stop: threading.Event,
        tell: Callable[[str], None],
        is_ready: Callable[[], bool],
    ) -> None:
        self._microscope, self._settings = microscope, settings
        self._stop, self._tell, self._is_ready = stop, tell, is_ready
        self._was_ready, self._last = False, settings.n_frames
        self._counted = _Counted(processor)
        exposure_s = float(microscope.core.get_exposure()) / 1e3
        self._patience = Patience(_SILENT_S + 3 * exposure_s)
        least, most = _SEQUENCE_FRAMES
        n = round(_SEQUENCE_S / max(exposure_s, 1e-3))
        self._chunk = min(max(n, least), most) if settings.sequence else 1
        self._ahead = _AHEAD_FRAMES if settings.sequence else settings.events_in_flight

    def run(
        self,
        event_hook: Callable[[Any], Any] | None,
        on_error: Callable[[str], None],
        finish_within_s: float,
    ) -> None:
        """Acquire, with a new engine after each failure that may be survived."""
        while True:
            engine = open_engine(
                self._microscope,
                self._counted,
                save_folder=self._settings.save_folder,
                event_hook=event_hook,
            )
            try:
                self._feed(engine)
            except MicroscopeError as error:
                self._end(engine, _END_WITHIN_S)
                if self._is_survived(error, on_error):
                    continue
                raise
            except BaseException as error:  # Ctrl-C: what is running comes to its end
                on_error(f"{type(error).__name__}: {error}")
                self._end(engine, finish_within_s)
                raise
            try:
                engine.finish(finish_within_s)
            except MicroscopeError as error:
                # A stop that meets a stall fails with what the stall led to.
                cause = self._find_cause()
                if not cause:
                    on_error(str(error))
                    raise
                on_error(cause)
                raise MicroscopeError(f"{self._microscope.name}: {cause}") from error
            return

    def _is_survived(
        self, error: MicroscopeError, on_error: Callable[[str], None]
    ) -> bool:
        try:
            if isinstance(error, UncurableError):
                raise error
            self._patience.spend(error)
        except MicroscopeError as last:
            on_error(str(last))
            raise MicroscopeError(f"{self._microscope.name}: {last}") from error
        self._tell(f"{first_line(error)}; acquiring again")
        return True

    def _end(self, engine: Engine, within_s: float) -> None:
        engine.abort()
        with contextlib.suppress(MicroscopeError):  # its cause is known already
            engine.finish(within_s)

    def _feed(self, engine: Engine) -> None:
        """Hand over events until all frames came or a stop."""
        asked = self._counted.n
        while (last := self._end_after(asked)) is None or asked < last:
            if not self._wait(engine, asked - self._ahead + 1):
                return
            end = (
                asked + self._chunk if last is None else min(asked + self._chunk, last)
            )
            engine.submit([{"axes": {"time": k}} for k in range(asked, end)])
            asked = end
        self._wait(engine, asked)

    def _end_after(self, asked: int) -> int | None:
        """Return how many frames there will be in all, `asked` being on their way."""
        n_frames = self._settings.n_frames
        if n_frames is not None and not self._was_ready:
            self._was_ready, self._last = self._is_ready(), asked + n_frames
        return self._last

    def _wait(self, engine: Engine, n_frames: int) -> bool:
        """Wait until so many frames came in all; False when told to stop."""
        while not self._counted.has_seen(n_frames, _CHECK_S):
            self._patience.saw(self._counted.n)
            if self._stop.is_set():
                if self._settings.sequence:
                    engine.abort()  # the rest of a long sequence is not wanted
                return False
            self._look_at(engine)
        self._patience.saw(self._counted.n)
        return not self._stop.is_set()

    def _look_at(self, engine: Engine) -> None:
        """Raise what the engine died of; ask for failed events again."""
        error = engine.error()
        if error is not None:
            raise self._explained(error)
        if engine.is_over:
            raise UncurableError("the acquisition was aborted in Micro-Manager.")
        for events, failure in engine.take_failed():
            self._patience.spend(self._explained(failure))
            self._tell(f"{first_line(failure)}; asked again")
            engine.submit(_fresh(events))
        if self._patience.is_silent():
            cause = self._find_cause()
            if cause:
                raise UncurableError(cause)
            if self._patience.is_spent():
                raise MicroscopeError("no frame came, and no error was told")

    def _explained(self, error: BaseException) -> MicroscopeError:
        """Return an engine's error, with the cause behind it if that can be seen."""
        cause = self._find_cause()
        if cause:
            return UncurableError(f"{cause} ({first_line(error)})")
        found = MicroscopeError(first_line(error))
        found.__cause__ = error
        return found

    def _find_cause(self) -> str:
        return find_cause(
            self._microscope,
            in_sequence=self._settings.sequence,
            shape=self._counted.shape,
        )


def _fresh(events: Events) -> Events:
    """Copy events, which the engine may have changed."""
    return [{"axes": dict(event["axes"])} for event in events]

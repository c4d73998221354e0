"""Run a pycro-manager acquisition that can always be stopped, and always ends.

Events are handed over a few at a time, against the frames that came back: neither the
engine's unbounded event queue nor its 30 hidden image slots ever fill, and a stop takes
effect within the events in flight. Events carry no x, y or z, so the engine never moves
the stage against the feedback.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any

from lodestar_live.microscope.core import Microscope, MicroscopeError
from lodestar_live.settings import AcquisitionSettings

ImageProcessor = Callable[[Any, dict[str, Any]], Any]
logger = logging.getLogger(__name__)
_CHUNK = 20  # frames per hardware sequence: a stop waits for the rest of one
_CHECK_S = 0.02  # how often a silent engine is asked whether it still lives


def acquire(
    microscope: Microscope,
    processor: ImageProcessor,
    settings: AcquisitionSettings,
    *,
    stop: threading.Event,
    event_hook: Callable[[Any], Any] | None = None,
    on_error: Callable[[str], None] | None = None,
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
        set; returns it, perhaps with a position.
    on_error
        Told at once what ended the acquisition early, before the engine's end.
    finish_within_s
        How long the engine may take to shut down before it is reported as stuck.

    Raises
    ------
    MicroscopeError
        The engine died or does not come to an end.
    """
    from pycromanager import Acquisition

    if settings.exposure_ms is not None:
        microscope.core.set_exposure(settings.exposure_ms)
    extra = {} if microscope.is_python else {"show_display": False}
    counted = _Counted(processor)
    acquisition = Acquisition(
        directory=settings.save_folder,
        name="lodestar",
        image_process_fn=counted,
        pre_hardware_hook_fn=event_hook,
        **extra,
    )
    try:
        _feed(acquisition, settings, counted, stop)
    except BaseException as error:
        if on_error is not None:
            on_error(f"{type(error).__name__}: {error}")
        raise
    finally:
        _finish(acquisition, finish_within_s)


def acquire_sequence(n_frames: int, processor: ImageProcessor | None) -> None:
    """Acquire one hardware sequence with pycro-manager as it is, for comparisons."""
    from pycromanager import Acquisition

    acquisition = Acquisition(image_process_fn=processor)
    acquisition.acquire([{"axes": {"time": k}} for k in range(n_frames)])
    _finish(acquisition, 60.0)


class _Counted:
    """A processor whose frames are counted, for who waits for them to come back."""

    def __init__(self, processor: ImageProcessor) -> None:
        self._processor = processor
        self._arrived = threading.Condition()
        self._n = 0

    def __call__(self, image: Any, metadata: dict[str, Any]) -> Any:
        """Process one image."""
        try:
            return self._processor(image, metadata)
        finally:
            with self._arrived:
                self._n += 1
                self._arrived.notify()

    def has_seen(self, n_frames: int, timeout_s: float) -> bool:
        """Wait for so many frames since the start; False if they do not come in time.

        Nobody polls: that would take the interpreter from the engine a thousand times
        a second.
        """
        with self._arrived:
            return self._arrived.wait_for(lambda: self._n >= n_frames, timeout_s)


def _feed(
    acquisition: Any,
    settings: AcquisitionSettings,
    counted: _Counted,
    stop: threading.Event,
) -> None:
    chunk = _CHUNK if settings.sequence else 1
    ahead = chunk if settings.sequence else settings.events_in_flight
    last = settings.n_frames
    for first in itertools.count(step=chunk):
        if last is not None and first >= last:
            break
        needed = first - ahead + 1
        while not (stop.is_set() or counted.has_seen(needed, _CHECK_S)):
            _raise_if_dead(acquisition)
        if stop.is_set():
            break
        end = first + chunk if last is None else min(first + chunk, last)
        events = [{"axes": {"time": index}} for index in range(first, end)]
        acquisition.acquire(events if len(events) > 1 else events[0])


def _raise_if_dead(acquisition: Any) -> None:
    """Raise what stopped the engine, which would otherwise be waited for in vain."""
    acquisition._check_for_exceptions()  # noqa: SLF001 - no public way in 1.0.2


def _finish(acquisition: Any, within_s: float) -> None:
    """End the acquisition; its own waiting can hang for ever, ours cannot."""
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            acquisition.mark_finished()
            acquisition.await_completion()
        except BaseException as error:  # handed to the caller below
            errors.append(error)

    waiter = threading.Thread(target=wait, name="lodestar-finish", daemon=True)
    waiter.start()
    waiter.join(within_s)
    if waiter.is_alive():
        stuck = [t.name for t in threading.enumerate() if not t.daemon]
        raise MicroscopeError(
            f"the acquisition did not end within {within_s:g} s; these threads are "
            f"still alive: {', '.join(stuck)}. Restart the program."
        )
    if errors:
        raise MicroscopeError(f"the acquisition failed: {errors[0]}") from errors[0]

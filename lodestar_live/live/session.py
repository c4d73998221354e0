"""A whole session on a microscope: acquire, track, end well."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lodestar_live.control import Calibration
from lodestar_live.data import Detections, Pixels, Update
from lodestar_live.errors import SettingsError
from lodestar_live.health import RunEnd
from lodestar_live.live.tracker import LiveTracker
from lodestar_live.microscope import (
    AcquisitionSource,
    BufferSource,
    Microscope,
    WatchSource,
)
from lodestar_live.settings import Settings
from lodestar_live.sources import FrameSource, Offer, lacks


def run_session(
    settings: Settings,
    microscope: Microscope,
    *,
    calibration: Calibration | None = None,
    detect: Callable[[Pixels], Detections] | None = None,
    on_start: Callable[[LiveTracker], None] | None = None,
    on_update: Callable[[Update], None] | None = None,
    stop: threading.Event | None = None,
    source: FrameSource | None = None,
) -> LiveTracker:
    """Acquire as the settings say with a `LiveTracker` in the loop.

    Without a model it trains on the first frame; ``acquisition.n_frames`` counts the
    frames from when the model is there. Frames are stored only if
    ``acquisition.save_folder`` is set. Ctrl-C or `stop` ends the acquisition;
    everything recorded so far is kept.

    Parameters
    ----------
    calibration, detect
        As `LiveTracker` takes them.
    source
        Where frames come from. None: acquired as the settings say.
    on_start
        Called with the running tracker before the first frame.
    on_update
        Called with every update on the worker thread.

    Returns
    -------
    The closed tracker, for its summary and its run folder.
    """
    stop = stop or threading.Event()
    stores = settings.acquisition.save_folder is not None
    live = settings.live.model_copy(update={"hand_on_frames": stores})
    source = source or _source_of(settings, microscope)
    source.open()
    tracker = LiveTracker(
        settings.model_copy(update={"live": live}),
        microscope=microscope,
        calibration=calibration,
        detect=detect,
        on_update=on_update,
    )
    with tracker:
        if on_start is not None:
            on_start(tracker)
        try:
            waits = settings.live.mode == "every" and Offer.WAITS in source.offers
            source.deliver(tracker.reception(stop, waits=waits))
        except KeyboardInterrupt:
            stop.set()
            tracker.close(RunEnd("stopped", "Ctrl-C"))
        finally:
            source.close()
    return tracker


def _source_of(settings: Settings, microscope: Microscope) -> FrameSource:
    """Return the source that the settings name; refuse what it does not offer."""
    acquisition = settings.acquisition
    if acquisition.source == "acquire":
        return AcquisitionSource(microscope, acquisition)
    source: FrameSource
    if acquisition.source == "watch":
        source = WatchSource(microscope)
    else:
        source = BufferSource(microscope, acquisition)
        if acquisition.save_folder is not None:
            raise SettingsError(
                f"acquisition.save_folder = {acquisition.save_folder!r}: source = "
                '"buffer" stores no frames. Leave it out, or use source = "acquire".'
            )
    if settings.control.move_by == "events":
        raise SettingsError(
            f'acquisition.source = "{acquisition.source}": '
            f"{lacks(source, Offer.EVENT_HOOK)}. "
            'Expected control.move_by = "stage".'
        )
    return source

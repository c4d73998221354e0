"""Where frames come from: the one seam between a host and the pipeline.

A pycro-manager acquisition, a running Micro-Manager that is watched, pymmcore-plus, a
recording and a simulator are each a `FrameSource`. What crosses the seam is a `Frame`;
no host's own metadata is known above it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from lodestar_live.data import Event, Frame

EventHook = Callable[[Any], Any]


class Offer(Enum):
    """What a source may offer beside frames; the value says what lacks without it."""

    STAGE = "the stage cannot be moved through this source"
    FOCUS = "the focus drive cannot be moved through this source"
    EVENT_HOOK = 'its events cannot carry positions (control.move_by = "events")'
    EXACT_TIME = "its frames carry no time stamp: exposure is dated by arrival"
    WAITS = "it does not wait for the tracker: frames may be dropped"


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What a source knows of itself before its first frame.

    Parameters
    ----------
    name
        For people: "pycro-manager, Micro-Manager on port 4827".
    pixel_size_um, exposure_ms, camera
        As the host reports them now; NaN and "" where it does not.
    n_frames
        How many frames will come; None: not known.
    versions
        Of the host's own parts: device interface, core, bridge.
    """

    name: str
    pixel_size_um: float = float("nan")
    exposure_ms: float = float("nan")
    camera: str = ""
    n_frames: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def _ignore(news: Event | str) -> None:
    """Take news that nobody wants."""


@dataclass(frozen=True, slots=True)
class Reception:
    """What a source is given to deliver to.

    Parameters
    ----------
    take
        Takes one frame and never raises. Returns within microseconds; to a source that
        offers `Offer.WAITS`, in mode ``every``, when the frame has been processed. Its
        pixels stay as they are for good. `Frame.index` is given by the run, whatever
        the source put there. `Frame.source_number`, if
        the source has numbers, counts up by one per image that the camera took: the
        same number again is a duplicate, a lower one came late, a jump was lost.
    refuse
        Takes the error, and the arrival (run's clock, s), of an image that cannot
        become a frame.
    clock
        Seconds since the run's start; the clock of every instant in a frame.
    stop
        Ends the delivery when set.
    abandon
        Told at once, in one sentence, what ended the delivery early, before the source
        has come to its own end.
    tell
        Takes events: an error of the camera that was survived, say.
    is_ready
        Frames delivered before it is first true do not count towards the number of
        frames a source was asked for: the model is still in training.
    event_hook
        Called with each event before it is executed, by sources that offer it.
    """

    take: Callable[[Frame], None]
    refuse: Callable[[BaseException, float], None]
    clock: Callable[[], float]
    stop: threading.Event
    tell: Callable[[Event], None] = _ignore
    abandon: Callable[[str], None] = _ignore
    is_ready: Callable[[], bool] = lambda: True
    event_hook: EventHook | None = None


class FrameSource(Protocol):
    """One origin of frames; used by one run at a time, from one thread."""

    @property
    def offers(self) -> frozenset[Offer]:
        """What can be had beside frames."""

    def open(self) -> SourceFacts:
        """Get ready to deliver; raise `LodestarError` if that is impossible."""

    def deliver(self, reception: Reception) -> None:
        """Hand over frames until the source ends or `reception.stop` is set.

        Raises
        ------
        LodestarError
            The source broke down: one sentence with the first cause, within 3 s.
        """

    def close(self) -> None:
        """Let go of everything; may be called twice."""


def lacks(source: FrameSource, *wanted: Offer) -> str:
    """Return what of `wanted` a source does not offer, in words; "" if nothing."""
    missing = [offer.value for offer in wanted if offer not in source.offers]
    return "; ".join(missing)

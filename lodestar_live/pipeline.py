"""The story of one frame, written once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from lodestar_live.data import Detections, Event, Frame, RunInfo, Tracks, Update


class Sink(Protocol):
    """Anything that takes updates: publisher, recorder, controller, user code.

    `write` and `tell` are called on the worker thread and must return at once.
    """

    def open(self, run: RunInfo) -> None:
        """Take the facts of the run, before the first frame."""

    def write(self, update: Update) -> None:
        """Take one processed frame."""

    def tell(self, event: Event) -> None:
        """Take news without positions: a dropped frame, a status, an error."""

    def close(self) -> None:
        """Flush and let go; may be called twice."""


class Pipeline:
    """prepare -> detect -> link -> Update -> sinks.

    Parameters
    ----------
    detect
        Frame to detections.
    link
        Detections and frame index to tracks.
    prepare
        Frame to frame: normalise, retrieve the field, refocus. None: unchanged.
    sinks
        Told every update, in this order.
    take_events
        Called after linking; returns what the linker noticed (births, losses).
    """

    def __init__(
        self,
        detect: Callable[[Frame], Detections],
        link: Callable[[Detections, int], Tracks],
        *,
        prepare: Callable[[Frame], Frame] | None = None,
        sinks: Sequence[Sink] = (),
        take_events: Callable[[], tuple[Event, ...]] = tuple,
    ) -> None:
        self.detect, self.link, self.prepare = detect, link, prepare
        self.sinks = list(sinks)
        self.take_events = take_events

    def process(self, frame: Frame) -> Update:
        """Turn one frame into an update and hand it to every sink."""
        clock = time.perf_counter
        start = clock()
        if self.prepare is not None:
            frame = self.prepare(frame)
        prepared = clock()
        detections = self.detect(frame)
        detected = clock()
        tracks = self.link(detections, frame.index)
        linked = clock()
        timings_ms = {
            "prepare": (prepared - start) * 1e3,
            "detect": (detected - prepared) * 1e3,
            "link": (linked - detected) * 1e3,
        }
        update = Update(frame, detections, tracks, self.take_events(), timings_ms)
        for sink in self.sinks:
            sink.write(update)
        return update

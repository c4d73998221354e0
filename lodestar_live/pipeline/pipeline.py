"""The story of one frame, written once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from lodestar_live.data import Counts, Detections, Event, Frame, RunInfo, Tracks, Update


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
        Detections and their frame to tracks.
    prepare
        Frame to frame: normalise, retrieve the field, refocus. None: unchanged.
    sinks
        Told every update, in this order: who publishes comes before who records, so
        that the record holds the latency of publication.
    take_events
        Called after linking; returns what the linker noticed (births, losses).
    counts
        Where the frames went so far.
    clock
        Monotonic seconds since the run's start, the clock of `Frame.t_arrival_s`.
    """

    def __init__(
        self,
        detect: Callable[[Frame], Detections],
        link: Callable[[Detections, Frame], Tracks],
        *,
        prepare: Callable[[Frame], Frame] | None = None,
        sinks: Sequence[Sink] = (),
        take_events: Callable[[], tuple[Event, ...]] = tuple,
        counts: Callable[[], Counts] = Counts,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.detect, self.link, self.prepare = detect, link, prepare
        self.sinks = list(sinks)
        self.take_events, self.counts, self.clock = take_events, counts, clock

    def process(self, frame: Frame) -> Update:
        """Turn one frame into an update and hand it to every sink."""
        marks = [self.clock()]
        if self.prepare is not None:
            frame = self.prepare(frame)
        marks.append(self.clock())
        detections = self.detect(frame)
        marks.append(self.clock())
        tracks = self.link(detections, frame)
        marks.append(self.clock())
        timings_ms = _timings(frame, marks)
        update = Update(
            frame, detections, tracks, self.take_events(), timings_ms, self.counts()
        )
        for sink in self.sinks:
            sink.write(update)
            done = self.clock()
            # Later sinks see what publication cost; filled in place for that reason.
            timings_ms["publish"] = (done - marks[-1]) * 1e3
            timings_ms["latency"] = (done - frame.t_exposure_s) * 1e3
        return update


def _timings(frame: Frame, marks: list[float]) -> dict[str, float]:
    names = ("prepare", "detect", "link")
    steps = {
        name: (end - start) * 1e3
        for name, start, end in zip(names, marks[:-1], marks[1:], strict=True)
    }
    return {"wait": (marks[0] - frame.t_arrival_s) * 1e3, **steps}

"""The way of one frame, written once: prepare, detect, link, sinks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from lodestar_live.data import (
    Counts,
    Detections,
    Event,
    Frame,
    Rows,
    Tracks,
    Update,
)
from lodestar_live.sinks import Sink, guarded

Prepare = Callable[[Frame], Frame]  # normalise, retrieve the field, refocus
Detect = Callable[[Frame], Detections]
SUMMARY_EVERY_S = 0.5
Link = Callable[[Detections, Frame], Tracks]


class Pipeline:
    """prepare -> detect -> link -> Update -> sinks.

    Parameters
    ----------
    detect, link
        The two steps every frame takes.
    prepare
        What comes before them. None: frames stay as they are.
    sinks
        Told every update, in this order: who publishes comes before who records, so
        that the record holds the latency of publication. Each is called through a
        `lodestar_live.sinks.Guard`.
    take_events
        Called after linking; returns what happened to tracks: births, losses.
    summarise
        Called after linking, at most every `SUMMARY_EVERY_S`; returns what is known of
        each track's motion.
    counts
        Where the frames went so far.
    degraded
        Whether something of the run is not as it should be; see `health`.
    clock
        Monotonic seconds since the run's start, the clock of `Frame.t_arrival_s`.
    """

    def __init__(
        self,
        detect: Detect,
        link: Link,
        *,
        prepare: Prepare | None = None,
        sinks: Sequence[Sink] = (),
        take_events: Callable[[], tuple[Event, ...]] = tuple,
        summarise: Callable[[], Rows | None] = lambda: None,
        counts: Callable[[], Counts] = Counts,
        degraded: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.detect, self.link, self.prepare = detect, link, prepare
        self.sinks = guarded(sinks)
        self.take_events, self.counts, self.clock = take_events, counts, clock
        self.degraded, self.summarise = degraded, summarise
        self._next_summary_s = clock() + SUMMARY_EVERY_S

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
            frame,
            detections,
            tracks,
            self.take_events(),
            timings_ms,
            self.counts(),
            self.degraded(),
            self._summary(marks[-1]),
        )
        for sink in self.sinks:
            sink.write(update)
            done = self.clock()
            # Later sinks see what publication cost; filled in place for that reason.
            timings_ms["publish"] = (done - marks[-1]) * 1e3
            # A recording was exposed at another time: its frames begin on arrival.
            begun_s = frame.t_arrival_s if frame.is_recorded else frame.t_exposure_s
            timings_ms["latency"] = (done - begun_s) * 1e3
        return update

    def _summary(self, now_s: float) -> Rows | None:
        if now_s < self._next_summary_s:
            return None
        self._next_summary_s = now_s + SUMMARY_EVERY_S
        return self.summarise()


def _timings(frame: Frame, marks: list[float]) -> dict[str, float]:
    names = ("prepare", "detect", "link")
    steps = {
        name: (end - start) * 1e3
        for name, start, end in zip(names, marks[:-1], marks[1:], strict=True)
    }
    return {"wait": (marks[0] - frame.t_arrival_s) * 1e3, **steps}

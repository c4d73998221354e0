"""The way of one frame, written once: prepare, detect, link, sinks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from lodestar_live.data import Counts, Detections, Event, Frame, Tracks, Update
from lodestar_live.sinks import Sink, guarded

Prepare = Callable[[Frame], Frame]  # normalise, retrieve the field, refocus
Detect = Callable[[Frame], Detections]
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
        counts: Callable[[], Counts] = Counts,
        degraded: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.detect, self.link, self.prepare = detect, link, prepare
        self.sinks = guarded(sinks)
        self.take_events, self.counts, self.clock = take_events, counts, clock
        self.degraded = degraded

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


def _timings(frame: Frame, marks: list[float]) -> dict[str, float]:
    names = ("prepare", "detect", "link")
    steps = {
        name: (end - start) * 1e3
        for name, start, end in zip(names, marks[:-1], marks[1:], strict=True)
    }
    return {"wait": (marks[0] - frame.t_arrival_s) * 1e3, **steps}

"""When a camera delivered an image, on the run's monotonic clock.

Stamps come on clocks of their own: MMCore's is the wall clock, which is set back and
forth by people and NTP; an elapsed time starts anywhere. Both are fitted to the
monotonic clock: the wall clock by looking at the two together at every arrival, which
follows its drift and knows its steps; an elapsed time by the shortest way an image ever
took. A step that only the stamps show, such as that of another machine's clock, is
known by images that seem to come before they were taken, or closer together than the
camera can.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_STEP_S = 0.002  # a wall clock that moves more than this between two looks was set
_PAUSE_S = 2e-4  # two readings farther apart than this were interrupted
_SLACK_S = 0.005  # of a stamp at the border of two segments
_LATE_S = 60.0  # no image is believed to have been on its way for longer
_SEGMENTS = 16
_WINDOW_S = 10.0  # of arrivals among which the shortest way is looked for
_PERIODS = 31


@dataclass(slots=True)
class _Segment:
    """From `start_s` to `end_s` of the run the wall clock was `offset_s` ahead."""

    start_s: float
    end_s: float
    offset_s: float


class WallClock:
    """Translate wall-clock stamps of this machine into seconds of the run.

    Parameters
    ----------
    clock
        Seconds since the run's start, monotonic.
    wall
        POSIX seconds.
    """

    def __init__(
        self, clock: Callable[[], float], wall: Callable[[], float] = time.time
    ) -> None:
        self._clock, self._wall = clock, wall
        self._segments: deque[_Segment] = deque(maxlen=_SEGMENTS)
        self.look()

    def look(self) -> None:
        """Compare both clocks; to be called at every arrival."""
        for _ in range(3):
            before_s, wall_s, after_s = self._clock(), self._wall(), self._clock()
            if after_s - before_s < _PAUSE_S:
                break
        now_s = (before_s + after_s) / 2
        offset_s = wall_s - now_s
        last = self._segments[-1] if self._segments else None
        if last is not None and abs(offset_s - last.offset_s) < _STEP_S:
            last.end_s, last.offset_s = now_s, offset_s
        else:
            start_s = -_LATE_S if last is None else last.end_s
            self._segments.append(_Segment(start_s, now_s, offset_s))

    def run_s(self, wall_s: float) -> float:
        """Return the instant of the run at which the wall clock showed `wall_s`."""
        for segment in reversed(self._segments):
            t_s = wall_s - segment.offset_s
            if segment.start_s - _SLACK_S <= t_s <= segment.end_s + _SLACK_S:
                return t_s
        return wall_s - self._segments[-1].offset_s


@dataclass(slots=True)
class StampClock:
    """Fit one camera's stamps to the run's clock.

    Parameters
    ----------
    is_anchored
        The stamps are on the run's clock but for steps; else their zero is unknown and
        found from the shortest way.
    """

    is_anchored: bool
    _correction_s: float = 0.0
    _least_delay_s: float = 0.0
    _last: tuple[float, float] | None = None  # stamp, arrival
    _ways: deque[tuple[float, float]] = field(default_factory=deque)
    _periods: deque[float] = field(default_factory=lambda: deque(maxlen=_PERIODS))

    def delivered_s(self, stamp_s: float, arrival_s: float) -> float:
        """Return when the image stamped `stamp_s` was delivered; not after arrival.

        Images must come in their order; see `peek_s` for one that does not.
        """
        if not self.is_anchored and self._last and stamp_s == self._last[0]:
            return arrival_s  # a host that writes the same time into every image
        last, self._last = self._last, (stamp_s, arrival_s)
        if last is None:
            if not self.is_anchored or not 0 <= arrival_s - stamp_s + _STEP_S < _LATE_S:
                self._correction_s = arrival_s - stamp_s
            self._least_delay_s = max(arrival_s - stamp_s - self._correction_s, 0.0)
        else:
            self._follow(stamp_s - last[0], arrival_s - last[1], stamp_s, arrival_s)
        if not self.is_anchored:
            self._find_shortest_way(stamp_s, arrival_s)
        return self.peek_s(stamp_s, arrival_s)

    def peek_s(self, stamp_s: float, arrival_s: float) -> float:
        """Return when an image was delivered, and learn nothing from it."""
        return min(stamp_s + self._correction_s, arrival_s)

    def _follow(
        self, step_s: float, wait_s: float, stamp_s: float, arrival_s: float
    ) -> None:
        """Keep pace with stamps that were set back or forth."""
        if self._is_set_back(step_s, wait_s):
            self._correction_s += wait_s - step_s
            self._ways.clear()
        elif step_s > 0:
            self._periods.append(step_s)
        delay_s = arrival_s - stamp_s - self._correction_s
        if delay_s > _LATE_S:  # nonsense: a clock that was never set, say
            self._correction_s += delay_s
        elif delay_s < -_STEP_S:  # seen before it was taken: set forth
            self._correction_s += delay_s - self._least_delay_s
            self._ways.clear()
        else:
            self._least_delay_s = min(self._least_delay_s, max(delay_s, 0.0))

    def _is_set_back(self, step_s: float, wait_s: float) -> bool:
        """Tell a clock set back from an image that waited: that keeps its stamp."""
        if step_s <= -_STEP_S:
            return True
        if len(self._periods) < 5 or wait_s - step_s < _STEP_S:
            return False
        period_s = statistics.median(self._periods)
        is_too_close = step_s < 0.7 * period_s
        return is_too_close and 0.7 * period_s < wait_s < 1.5 * period_s

    def _find_shortest_way(self, stamp_s: float, arrival_s: float) -> None:
        """Date the zero of the stamps by the image that was least on its way."""
        way_s = arrival_s - stamp_s
        while self._ways and self._ways[-1][1] >= way_s:
            self._ways.pop()
        self._ways.append((arrival_s, way_s))
        while self._ways[0][0] < arrival_s - _WINDOW_S:
            self._ways.popleft()
        self._correction_s = self._ways[0][1]

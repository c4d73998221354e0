"""The online linker: detections of one frame in, live tracks out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from lodestar_live import events
from lodestar_live.data import (
    SUMMARY_DTYPE,
    Detections,
    Event,
    FloatArray,
    Rows,
    Tracks,
    blank_rows,
)
from lodestar_live.errors import InputError
from lodestar_live.linking.assignment import Pairs, assign
from lodestar_live.linking.events import changes_of_motion, news, suspected_swaps
from lodestar_live.linking.frame_time import FrameTime
from lodestar_live.linking.gate import BoolArray, IntArray
from lodestar_live.linking.learning import LAGS
from lodestar_live.linking.model import REACH_SD, MotionModel
from lodestar_live.linking.nearest import NearestModel
from lodestar_live.linking.physics import estimate, fill
from lodestar_live.linking.states import (
    AXES,
    Found,
    States,
    measured_variance,
    track_rows,
    usable,
)
from lodestar_live.linking.steady import Steady

KEPT_EVENTS = 1000  # if nobody takes them


@dataclass(frozen=True, slots=True)
class LinkCounts:
    """What happened to the frames and detections so far.

    `duplicates` and `late` frames were ignored; `fallbacks` are frames with a component
    too big for the time budget; `refused` detections had no finite position, or were
    the least certain of far too many.
    """

    frames: int = 0
    duplicates: int = 0
    late: int = 0
    fallbacks: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Where a track will be, with 1-sigma knowledge; z is NaN in 2-D.

    `covariance`: shape (3, 3), order (z, y, x), µm and px; NaN where nothing is known.
    """

    z_um: float
    y_px: float
    x_px: float
    covariance: FloatArray


class Linker:
    """Join detections into tracks, online and causally.

    Parameters
    ----------
    search_radius_px
        Largest step per frame interval, a hard limit. None: the motion model's own.
    max_gap_frames
        Frames a track may be missed before it ends; a confirmed track is kept as long
        and no longer. None: until its existence has become improbable ("motion"), or 0
        ("nearest").
    method
        "motion": a Kalman filter per track whose law of motion is learnt, and
        likelihood ratios. "nearest": linear sum assignment with a distance threshold.
    first_gate_px
        About the largest step, where the learning starts; the first two frames
        correct it. None: guessed from them alone.
    budget_s
        Time for one frame's assignment, as estimated from its size; what does not fit
        is matched greedily. An estimate, so that a replay gives the same tracks.
    clock
        Seconds since the run's start, for the events.
    """

    def __init__(
        self,
        search_radius_px: float | None = None,
        max_gap_frames: int | None = None,
        method: Literal["motion", "nearest"] = "motion",
        *,
        first_gate_px: float | None = None,
        budget_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check(search_radius_px, max_gap_frames, method)
        self.search_radius_px = search_radius_px
        self.max_gap_frames = max_gap_frames
        self.method = method
        self._first_gate_px = first_gate_px
        self._budget_s, self._clock = budget_s, clock
        self.reset()

    def reset(self) -> None:
        """Forget everything; ids start again from 0."""
        self._model: MotionModel | NearestModel
        if self.method == "motion":
            self._model = MotionModel(self._first_gate_px)
        else:
            self._model = NearestModel(self.search_radius_px)
            if self.max_gap_frames is None:
                self.max_gap_frames = 0
        self._states = self._nobody = States.begin(
            usable(Detections.empty()),
            frame=0,
            now=0.0,
            next_id=0,
        )
        self._steady: Steady | None = None
        self._time = FrameTime()
        self._next_id = 0
        self._frame: int | None = None
        self._tracks = Tracks.empty()
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._counts = asdict(LinkCounts())

    def end_all(self) -> None:
        """End every track; ids go on (another shape or place on the sensor)."""
        self._states = self._settle().keep(np.zeros(0, np.int64))

    def __call__(
        self, detections: Detections, frame_index: int, t_s: float | None = None
    ) -> Tracks:
        """Link the detections of one frame and return every live track.

        Parameters
        ----------
        detections
            What was found in the frame.
        frame_index
            The source's own number of the frame. A number seen before is counted and
            changes nothing; an older one is refused with the event `frame.late`; both
            return the last tracks. A jump of k frames predicts k steps.
        t_s
            Middle of the exposure, seconds. Where it is given, elapsed time counts
            rather than frame numbers, so that lost frames and exposures that vary widen
            the search as they should.
        """
        if self._frame is not None and frame_index <= self._frame:
            self._refuse(frame_index)
            return self._tracks
        dt = self._time.elapsed(frame_index, t_s)
        rows = self._link_steadily(detections, frame_index, dt)
        if rows is None:
            found = usable(detections)
            self._link(found, frame_index, dt)
            self._count(refused=len(detections) - len(found))
            rows = track_rows(self._states, frame_index)
        self._frame = frame_index
        self._count(frames=1)
        self._tracks = Tracks(rows)
        return self._tracks

    def _link_steadily(
        self, detections: Detections, frame_index: int, dt: float
    ) -> Rows | None:
        """Link a frame in which nothing has to be decided; None if it is no such one.

        Called with the states of the frame before, and leaves them so if it fails.
        """
        if self._steady is None:
            model = self._model
            if not isinstance(model, MotionModel):
                return None
            if not Steady.begins(self._states, model, len(detections)):
                return None
            self._steady = Steady(self._states, model, self.search_radius_px)
        rows = self._steady.link(detections, frame_index, dt, self._time.now)
        if rows is None:
            self._settle()
        elif self._steady.has_new_law():
            self._notice_laws(self._settle(), frame_index, self._clock())
        return rows

    def _settle(self) -> States:
        """Return the states as of the last frame, whoever has them."""
        if self._steady is not None:
            self._states, self._steady = self._steady.hand_back(), None
        return self._states

    def _refuse(self, frame_index: int) -> None:
        is_late = frame_index != self._frame
        self._count(late=is_late, duplicates=not is_late)
        if is_late and self._frame is not None:
            late = events.FrameLate(newest=self._frame)
            self._events.append(late.at(self._clock(), frame_index))

    def summary(self) -> Rows:
        """Return what each live track's motion is known to be, with 1-sigma.

        Rows of `SUMMARY_DTYPE`: diffusion, exponent, drift, localisation and
        state; lengths in px (z in µm), times in frames.
        """
        states = self._settle()
        rows = blank_rows(SUMMARY_DTYPE, len(states))
        rows["track_id"], rows["first_frame"] = states.track_id, states.born
        rows["last_frame"], rows["n_seen"] = states.seen, states.n_seen
        rows["interval_s"] = self._time.interval_s
        weight = self._model.laws(states)
        rows["state"] = states.law
        known = np.flatnonzero(states.law >= 0)
        rows["p_state"][known] = weight[states.law[known], known]
        px, um = (self._estimate(unit) for unit in AXES)
        fill(rows, px, um)
        return rows

    def _estimate(self, unit: str) -> dict[str, FloatArray]:
        states, n_axes = self._states, len(AXES[unit])
        noise = measured_variance(states.measured, unit)
        if unit in states.filtered:
            sums = states.filtered[unit].sums.T
        else:
            sums = np.zeros((len(states), 2 * LAGS + n_axes))
        return estimate(sums, n_axes, np.nan if noise is None else noise)

    def take_events(self) -> tuple[Event, ...]:
        """Return what was noticed since the last call."""
        taken = tuple(self._events)
        self._events.clear()
        return taken

    def predict(self, track_id: int, ahead_frames: float) -> Prediction:
        """Return where a live track will be, `ahead_frames` after the last frame.

        Raises
        ------
        InputError
            No live track has this id.
        """
        live = self._states if self._steady is None else self._steady
        where = np.flatnonzero(live.track_id == track_id)
        if not len(where):
            raise InputError(
                f"track_id = {track_id}: no live track; expected one of the last "
                "frame's tracks."
            )
        position, variance = [np.nan] * 3, [np.nan] * 3
        if self._steady is not None:
            y_px, x_px, each = self._steady.ahead(ahead_frames)[int(where[0])]
            return Prediction(np.nan, y_px, x_px, np.diag([np.nan, each, each]))
        for unit, axes in (("px", (1, 2)), ("um", (0,))):
            if unit not in self._states.filtered:
                continue
            part = self._states.filtered[unit].take(where)
            ahead = self._model.ahead(part, unit, ahead_frames)
            for k, axis in enumerate(axes):
                position[axis] = float(ahead.position[k, 0])
                variance[axis] = float(ahead.variance[0])
        z_um, y_px, x_px = position
        return Prediction(z_um, y_px, x_px, np.diag(variance))

    def expect(self, frame_index: int) -> tuple[FloatArray, FloatArray]:
        """Return where to look for the live tracks in a later frame.

        Returns
        -------
        Positions (n, 2), (y, x), and how far from them each may be, (n,), px; NaN while
        nothing is known of how they move. Where the user limits the step
        (`search_radius_px`), no farther than that.
        """
        elapsed = max(frame_index - (self._frame or 0), 0)
        seen_at: FloatArray | float = self._time.now
        if self._steady is not None:
            ahead = np.array(self._steady.ahead(elapsed))
            positions, reach = ahead[:, :2], REACH_SD * np.sqrt(ahead[:, 2])
        else:
            seen_at = self._states.seen_at
            positions, reach = self._model.expect(self._states, elapsed)
        if self.search_radius_px is not None:
            limit = self.search_radius_px * (self._time.now + elapsed - seen_at)
            reach = np.fmin(reach, limit)
        return positions, reach

    def _link(self, found: Found, frame_index: int, dt: float) -> None:
        states, is_first, now = self._states, self._frame is None, self._time.now
        if "um" in found.position:
            states.know_depth()
        was_missed = states.detection_index < 0
        self._model.predict(states, dt)
        pairs = self._reachable(self._model.candidates(states, found), found)
        result = assign(pairs, len(states), len(found), budget_s=self._budget_s)
        chosen = pairs.take(pairs.detection == result.detection[pairs.track])
        hit, taken = chosen.track, chosen.detection
        seen = found if _is_everything(taken, len(found)) else found.take(taken)
        self._model.update(states, hit, seen, chosen.number, now)
        states.see(hit, seen, frame=frame_index, now=now)
        births = self._nobody  # in most frames: making an empty table costs as much
        if len(taken) < len(found):
            births = self._births(found, taken, frame_index)
            self._model.birth(births, is_first=is_first)
        over = self._model.is_over(states)
        if self.max_gap_frames is not None:
            # The user's gap is kept: a confirmed track does not end before it.
            over &= ~states.is_confirmed
            over |= frame_index - states.seen > self.max_gap_frames
        self._model.learn(states, over, births, frame_index)
        self._notice(states, over, was_missed, frame_index)
        self._notice_swaps(states, pairs, result.detection, len(found), frame_index)
        if result.n_fallbacks:
            self._count(fallbacks=1)
        self._next_id += len(births)
        alive = states.keep((~over).nonzero()[0]) if over.any() else states
        self._states = alive.join(births)

    def _births(self, found: Found, taken: IntArray, frame_index: int) -> States:
        """Return the tracks that begin at detections that no track has taken."""
        is_new = np.ones(len(found), np.bool_)
        is_new[taken] = False
        return States.begin(
            found.take(is_new.nonzero()[0]),
            self._states.filtered,
            frame=frame_index,
            now=self._time.now,
            next_id=self._next_id,
        )

    def _reachable(self, pairs: Pairs, found: Found) -> Pairs:
        """Drop pairs that would step farther than the user's limit."""
        if self.search_radius_px is None or self.method == "nearest":
            return pairs
        states = self._states
        step = found.position["px"].take(pairs.detection, axis=1)
        step -= states.filtered["px"].last.take(pairs.track, axis=1)
        limit = self.search_radius_px * (self._time.now - states.seen_at)
        return pairs.take(np.hypot(*step) <= limit[pairs.track])

    def _notice(
        self, states: States, over: BoolArray, was_missed: BoolArray, frame_index: int
    ) -> None:
        known = states.is_confirmed
        states.is_confirmed = known | self._model.is_confirmed(states)
        t_s = self._clock()
        about = (
            (events.TrackBirth, states.is_confirmed > known),
            (events.TrackLost, known & over),
            (
                events.TrackReacquired,
                known & was_missed & (states.detection_index >= 0),
            ),
        )
        for kind, mask in about:
            if mask.any():
                told = news(kind, states, mask, frame=frame_index, t_s=t_s)
                self._events.extend(told)
        self._notice_laws(states, frame_index, t_s)

    def _notice_laws(self, states: States, frame_index: int, t_s: float) -> None:
        weight = self._model.laws(states)
        changes = changes_of_motion(states, weight, frame=frame_index, t_s=t_s)
        self._events.extend(changes)

    def _notice_swaps(
        self,
        states: States,
        pairs: Pairs,
        chosen: IntArray,
        n_detections: int,
        frame_index: int,
    ) -> None:
        confirmed = states.is_confirmed
        both, odds = suspected_swaps(pairs, chosen, confirmed, n_detections)
        for two, factor in zip(states.track_id[both].tolist(), odds, strict=True):
            swap = events.TrackSuspectedSwap(track_ids=two, odds=float(factor))
            self._events.append(swap.at(self._clock(), frame_index))

    @property
    def counts(self) -> LinkCounts:
        """What happened so far."""
        return LinkCounts(**self._counts)

    def _count(self, **more: int) -> None:
        for name, n in more.items():
            self._counts[name] += n


def _is_everything(taken: IntArray, n: int) -> bool:
    """Return whether detections 0 ... n - 1 are taken in this order."""
    return len(taken) == n and bool((taken[1:] > taken[:-1]).all())


def _check(
    search_radius_px: float | None, max_gap_frames: int | None, method: str
) -> None:
    if search_radius_px is not None and not search_radius_px > 0:
        raise InputError(
            f"search_radius_px = {search_radius_px}: expected a positive length, or "
            "None to learn it."
        )
    if max_gap_frames is not None and max_gap_frames < 0:
        raise InputError(
            f"max_gap_frames = {max_gap_frames}: expected 0 or more, or None to learn."
        )
    if method not in ("motion", "nearest"):
        raise InputError(
            f"method = {method!r}: unknown; expected 'motion' or 'nearest'."
        )

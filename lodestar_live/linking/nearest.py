"""Plain linear sum assignment with a distance threshold, as in the LodeSTAR paper."""

from __future__ import annotations

import numpy as np

from lodestar_live.data import FloatArray
from lodestar_live.linking.assignment import Pairs
from lodestar_live.linking.gate import BoolArray, IntArray, pairs_within
from lodestar_live.linking.learning import Opening
from lodestar_live.linking.states import Filtered, Found, Overall, States, overall
from lodestar_live.motion import Motion

GATE_SD = 3.0  # of the guessed displacement, where no radius is given


class NearestModel:
    """Minimise the summed squared distance; no motion, no probabilities.

    A track that stays alone costs the squared threshold, as in trackpy, so the two
    find the same optimum where no frame is missing. Distances are per frame interval
    since the track was last seen, as the threshold is; what a pair gains is divided by
    the intervals, since a track may be anywhere in a region that grows with them.
    """

    def __init__(self, search_radius_px: float | None) -> None:
        self.radius_px = search_radius_px
        self._now = 0.0  # in frame intervals, as `States.seen_at`

    def laws(self, states: States) -> FloatArray:
        """Return the probability of each law: nothing is known."""
        return states.filtered["px"].weight

    def law(self, unit: str) -> Motion | None:
        """Return the law of motion: none."""
        return None

    def predict(self, states: States, dt: float) -> None:
        """Leave every track where it was last seen."""
        self._now += dt

    def ahead(self, part: Filtered, unit: str, dt: float) -> Overall:
        """Return where the tracks were last seen."""
        return overall(part.belief, part.n_axes)

    def expect(self, states: States, dt: float) -> tuple[FloatArray, FloatArray]:
        """Return the last places, and how far away each may be linked; NaN: unknown."""
        radius_px = np.nan if self.radius_px is None else self.radius_px
        reach = radius_px * (self._now + dt - states.seen_at)
        return states.filtered["px"].last.T, reach

    def candidates(self, states: States, found: Found) -> Pairs:
        """Return every pair closer than the threshold."""
        if not len(states) or not len(found):
            return Pairs.none()
        points, last = found.position["px"], states.filtered["px"].last
        if self.radius_px is None:
            opening = Opening()
            opening.add(last, points)
            self.radius_px = GATE_SD * float(np.sqrt(opening.variances()[1]))
        elapsed = self._now - states.seen_at
        track, detection = pairs_within(last, self.radius_px * elapsed, points)
        off = last.take(track, axis=1) - points.take(detection, axis=1)
        waited = elapsed[track]
        step = np.add.reduce(off * off, 0) / waited**2
        # Its region is wide: a track missed for long must not win over one just seen.
        gain = (self.radius_px**2 - step) / waited
        # A pair exactly at the threshold is worth as much as none: it is left out.
        return Pairs(track, detection, gain).take((gain > 0).nonzero()[0])

    def update(
        self,
        states: States,
        hit: IntArray,
        found: Found,
        picked: IntArray | None,
        now: float,
    ) -> None:
        """Move the tracks `hit` to their detections."""
        elapsed = now - states.seen_at[hit]
        for unit, part in states.filtered.items():
            points = found.position.get(unit)
            if points is None:
                points = np.full((part.n_axes, len(hit)), np.nan)
            part.velocity[:, :, hit] = (points - part.last[:, hit]) / elapsed
            part.position[:, :, hit] = points
            part.last[:, hit] = points

    def birth(self, births: States, *, is_first: bool) -> None:
        """Say of tracks that have just begun that their existence is not known."""
        births.visibility[:] = np.nan

    def is_confirmed(self, states: States) -> BoolArray:
        """Return which tracks are more than a chance detection."""
        return np.asarray(states.n_seen > 1)

    def is_over(self, states: States) -> BoolArray:
        """Return which tracks have ended for a reason of their own: none."""
        return np.zeros(len(states), np.bool_)

    def learn(
        self, states: States, over: BoolArray, births: States, frame: int
    ) -> None:
        """Learn nothing."""

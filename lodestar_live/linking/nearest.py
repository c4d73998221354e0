"""Plain linear sum assignment with a distance threshold, as in the LodeSTAR paper."""

from __future__ import annotations

import numpy as np

from lodestar_live.data import FloatArray, Rows
from lodestar_live.linking.assignment import Pairs
from lodestar_live.linking.gate import BoolArray, IntArray, pairs_within
from lodestar_live.linking.learning import first_step_variance
from lodestar_live.linking.states import AXES, States, measured_position
from lodestar_live.motion import Motion

GATE_SD = 3.0  # of the guessed displacement, where no radius is given


class NearestModel:
    """Minimise the summed squared distance; no motion, no probabilities.

    A track that stays alone costs the squared threshold, as in trackpy, so the two
    find the same optimum.
    """

    def __init__(self, search_radius_px: float | None) -> None:
        self.radius_px = search_radius_px

    def law(self, unit: str) -> Motion | None:
        """Return the law of motion: none."""
        return None

    def predict(self, states: States, dt: int) -> None:
        """Leave every track where it was last seen."""

    def expect(self, states: States, dt: int) -> tuple[FloatArray, FloatArray]:
        """Return the last places, and how far away each may be linked; NaN: unknown."""
        radius_px = np.nan if self.radius_px is None else self.radius_px
        return states.filtered["px"].belief.position, np.full(len(states), radius_px)

    def candidates(self, states: States, rows: Rows) -> Pairs:
        """Return every pair closer than the threshold."""
        if not len(states) or not len(rows):
            return Pairs.none()
        points = measured_position(rows, "px")
        last = states.filtered["px"].belief.position
        if self.radius_px is None:
            self.radius_px = GATE_SD * float(np.sqrt(first_step_variance(last, points)))
        reach = np.full(len(states), self.radius_px)
        track, found = pairs_within(last, reach, points)
        gain = self.radius_px**2 - ((last[track] - points[found]) ** 2).sum(axis=1)
        # A pair exactly at the threshold is worth as much as none: it is left out.
        keep = np.flatnonzero(gain > 0)
        return Pairs(track[keep], found[keep], gain[keep])

    def update(
        self, states: States, hit: IntArray, rows: Rows, elapsed: IntArray
    ) -> None:
        """Move the tracks `hit` to their detections."""
        for unit in AXES:
            now, points = states.filtered[unit].belief, measured_position(rows, unit)
            now.velocity[hit] = (points - now.position[hit]) / elapsed[hit, None]
            now.position[hit] = points

    def birth(self, births: States, *, is_first: bool) -> None:
        """Place tracks that have just begun; their velocity is not known."""
        for unit in AXES:
            position = measured_position(births.measured, unit)
            births.filtered[unit].belief.position[:] = position

    def is_confirmed(self, states: States) -> BoolArray:
        """Return which tracks are more than a chance detection."""
        return np.asarray(states.n_seen > 1)

    def is_over(self, states: States) -> BoolArray:
        """Return which tracks have ended for a reason of their own: none."""
        return np.zeros(len(states), np.bool_)

    def learn(self, states: States, over: BoolArray, births: States) -> None:
        """Learn nothing."""
